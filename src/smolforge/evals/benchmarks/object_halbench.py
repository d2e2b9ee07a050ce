"""Object HalBench: 300 instructions about COCO photos, and the objects that the answers invent.

Rohrbach et al.'s CHAIR as RLHF-V measures it (Yu et al. 2023, arXiv 2312.00849, eval/eval_gpt_obj_halbench.py): eight wordings
of "describe this image", each word of an answer counted once, and answers that name no object left out of

    CHAIRs = answers that name an object that is not there / answers that name an object
    CHAIRi = words for objects that are not there / words for objects, each once an answer

A folder has `obj_halbench_300_with_image.jsonl`, one row an instruction, whose picture is a file or base64:

    {"image_id": 391895, "image": "/9j/4AAQ...", "question": "Describe this image in detail."}

and COCO's annotations, `captions_val2014.json` and `instances_val2014.json` (train2014 too, if a photo is of it), in the folder
or in its `annotations/`. Rows may bring their truth themselves instead: "objects": ["dog"] or [{"category": "dog"}], and
"captions": ["..."].

The original asks GPT-3.5 for the visible objects of an answer, and calls answers of up to three words answers without any. So
are they here, but the objects are CHAIR's words in the answer, of CHAIR's list: scores differ from those published. Neither
lmms-eval nor VLMEvalKit has this benchmark; both protocols ask the question as it stands.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smolforge.data.sources.shapes import media
from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark, Given, Origin, Protocol, Question, Row, Scored
from smolforge.evals.benchmarks.chair import truth
from smolforge.evals.measures import Measure, length, ratio
from smolforge.evals.metrics.objects import chair_sums
from smolforge.records import Message, Record

FILE = "obj_halbench_300_with_image.jsonl"
SPLITS = ("val2014", "train2014")
PICTURES = {"/9j/": "jpeg", "iVBOR": "png"}  # how base64 of a picture begins
SHORT = 3  # words; as short an answer names no object
COCO = "give captions_val2014.json and instances_val2014.json of COCO, here or in annotations/"


def rows(folder: Path) -> list[Row]:
    """Instructions of a folder, each with "truth", the objects of its photo.

    Raises:
        DataError: no file of instructions, or a photo of which neither the row nor COCO's annotations say what is on it.
    """
    files = [folder] if folder.is_file() else sorted(folder.glob("*.jsonl"))
    folder = folder.parent if folder.is_file() else folder
    file = next((path for path in files if path.name == FILE), files[0] if len(files) == 1 else None)
    if file is None:
        raise DataError("no instructions", where=folder, mend=f"give {FILE} of RLHF-V")
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError("not valid JSON", where=f"{file}, line {number + 1}", mend="mend the line") from error
    places = [f"{file}, line {number + 1}" for number in range(len(found))]
    bare = {
        number: _photo(row, place)
        for number, (row, place) in enumerate(zip(found, places))
        if "objects" not in row and "captions" not in row
    }
    known = coco_annotations(folder, set(bare.values())) if bare else {}
    for number, row in enumerate(found):
        if number not in bare:
            row["truth"] = truth({"objects": _names(row.get("objects")), "captions": row.get("captions") or []})
        elif bare[number] in known:
            row["truth"] = truth(known[bare[number]])
        else:
            raise DataError(f"photo {bare[number]} is not annotated", where=places[number], mend=COCO)
    return found


def coco_annotations(folder: Path, photos: set[int]) -> dict[int, Row]:
    """Objects and captions of photos from COCO's own files."""
    found: dict[int, Row] = {}
    for split in SPLITS:
        for place in (folder, folder / "annotations"):
            boxes, words = place / f"instances_{split}.json", place / f"captions_{split}.json"
            if not (boxes.is_file() and words.is_file()):
                continue
            content = json.loads(boxes.read_text(encoding="utf-8"))
            names = {category["id"]: category["name"] for category in content["categories"]}
            captions = json.loads(words.read_text(encoding="utf-8"))
            for image in captions["images"]:
                if image["id"] in photos:
                    found.setdefault(image["id"], {"objects": [], "captions": []})
            for box in content["annotations"]:
                if box["image_id"] in found:
                    found[box["image_id"]]["objects"].append(names[box["category_id"]])
            for caption in captions["annotations"]:
                if caption["image_id"] in found:
                    found[caption["image_id"]]["captions"].append(caption["caption"])
    return found


def _photo(row: Row, place: str) -> int:
    """The photo's number, of `image_id`: 391895, "391895" or "COCO_val2014_000000391895.jpg"."""
    text = Path(str(row.get("image_id", ""))).stem.split("_")[-1]
    if not text.isdecimal():
        raise DataError("no image_id", where=place, mend="give the number of COCO's photo in every row")
    return int(text)


def _names(boxes: Any) -> list[str]:
    return [box["category"] if isinstance(box, dict) else str(box) for box in boxes or ()]


def question(row: Row, protocol: Protocol, origin: Origin) -> Question:
    value = row["image"]
    kind = next((kind for begin, kind in PICTURES.items() if isinstance(value, str) and value.startswith(begin)), None)
    picture = media(f"data:image/{kind};base64,{value}" if kind else value, origin.base)
    id = str(origin.number)  # a photo may be asked about more than once
    prompt = Message(role="user", content=(picture, str(row["question"]).strip()))
    return Question(
        id=id,
        record=Record(id=id, source=origin.name, messages=(prompt,), responses=()),
        max_new_tokens=1024,
        facts={"objects": list(row["truth"])},
    )


def score(questions: Sequence[Question], givens: Sequence[Given]) -> list[Scored]:
    found = []
    for asked, given in zip(questions, givens, strict=True):
        text = given.text if len(given.text.split()) > SHORT else ""
        sums, marks = chair_sums(text, set(asked.facts["objects"]), once=True)
        found.append(Scored(sums=sums | {"tokens": given.tokens}, marks=marks))
    return found


BENCHMARK = Benchmark(
    about="objects that answers about COCO photos invent",
    source="Yu et al. 2023, arXiv 2312.00849 (RLHF-V), objects matched by CHAIR's words, not extracted by GPT",
    hub="",
    split="test",
    columns=("image", "question", "truth"),
    question=question,
    score=score,
    rows=rows,
    notes=lambda: ("objects are found by CHAIR's words; the published numbers have GPT-3.5 extract them",),
    measures={
        "CHAIRs": Measure(
            about="answers that invent an object, of those that name one", of=ratio("hallucinating", "naming"), better="lower"
        ),
        "CHAIRi": Measure(about="words for objects that are not there", of=ratio("hallucinated", "mentions"), better="lower"),
        "recall": Measure(about="objects of the photos that are named", of=ratio("covered", "objects")),
        "naming": Measure(about="answers that name an object", of=ratio("naming", "captions"), better=""),
        "objects an answer": Measure(
            about="words for objects in an answer", of=ratio("mentions", "captions"), better="", percent=False
        ),
        "length": length("captions"),
    },
)
