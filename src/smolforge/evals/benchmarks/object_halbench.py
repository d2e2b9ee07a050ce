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

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from smolforge.data.sources.shapes import media
from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark, Given, Origin, Protocol, Question, Row, Scored
from smolforge.evals.measures import Measure, length, ratio
from smolforge.evals.metrics.objects import chair_measures, chair_sums
from smolforge.evals.photos import object_names, truth
from smolforge.evals.reading import read_json, read_rows, text, texts
from smolforge.records import Message, Record

FILE = "obj_halbench_300_with_image.jsonl"
OWN = ("objects", "captions")  # columns of rows that bring their truth themselves
SPLITS = ("val2014", "train2014")
PICTURES = {"/9j/": "jpeg", "iVBOR": "png"}  # how base64 of a picture begins
SHORT = 3  # words; as short an answer names no object
COCO = "give captions_val2014.json and instances_val2014.json of COCO, here or in annotations/"


def rows(folder: Path) -> list[Row]:
    """Instructions of a folder, each with "truth", the objects of its photo.

    Raises:
        DataError: no file of instructions, a damaged one, or a photo of which neither the row nor COCO's annotations say what is
            on it.
    """
    files = [folder] if folder.is_file() else sorted(folder.glob("*.jsonl"))
    folder = folder.parent if folder.is_file() else folder
    file = next((path for path in files if path.name == FILE), files[0] if len(files) == 1 else None)
    if file is None:
        raise DataError("no instructions", where=folder, mend=f"give {FILE} of RLHF-V")
    found = read_rows(file)
    places = [f"{file}, row {number}" for number in range(1, len(found) + 1)]
    bare = {
        number: _photo(row, place)
        for number, (row, place) in enumerate(zip(found, places))
        if all(row.get(column) is None for column in OWN)
    }
    known = coco_annotations(folder, set(bare.values())) if bare else {}
    for number, (row, place) in enumerate(zip(found, places)):
        if number not in bare:
            boxes, captions = OWN
            named = object_names(row, boxes, place) if row.get(boxes) is not None else []
            row["truth"] = truth(texts(row, captions, place) if row.get(captions) is not None else [], named, place)
        elif bare[number] in known:
            row["truth"] = truth(known[bare[number]].captions, known[bare[number]].objects, place)
        else:
            raise DataError(f"photo {bare[number]} is not annotated", where=place, mend=COCO)
    return found


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """What COCO says of a photo."""

    objects: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)


def coco_annotations(folder: Path, photos: Set[int]) -> dict[int, Annotated]:
    """Objects and captions of photos from COCO's own files, in a folder or in its `annotations/`.

    Raises:
        DataError: a file is damaged, or no file of COCO's.
    """
    found: dict[int, Annotated] = {}
    for split in SPLITS:
        for place in (folder, folder / "annotations"):
            boxes, words = place / f"instances_{split}.json", place / f"captions_{split}.json"
            if not (boxes.is_file() and words.is_file()):
                continue
            content = read_json(words)
            for image in _entries(content, "images", {"id": int}, words):
                if image["id"] in photos:
                    found.setdefault(image["id"], Annotated())
            for caption in _entries(content, "annotations", {"image_id": int, "caption": str}, words):
                if caption["image_id"] in found:
                    found[caption["image_id"]].captions.append(caption["caption"])
            content = read_json(boxes)
            names = {one["id"]: one["name"] for one in _entries(content, "categories", {"id": int, "name": str}, boxes)}
            for box in _entries(content, "annotations", {"image_id": int, "category_id": int}, boxes):
                if box["category_id"] not in names:
                    raise DataError(f"no COCO annotations, category {box['category_id']} has no name", where=boxes, mend=COCO)
                if box["image_id"] in found:
                    found[box["image_id"]].objects.append(names[box["category_id"]])
    return found


def _entries(content: Any, part: str, columns: Mapping[str, type], file: Path) -> list[Row]:
    """A list of one of COCO's files, whose objects have these columns. Raises DataError."""
    found = content.get(part) if isinstance(content, dict) else None
    right = isinstance(found, list) and all(
        isinstance(one, dict) and all(isinstance(one.get(column), kind) for column, kind in columns.items()) for one in found
    )
    if not right:
        raise DataError(f"no COCO annotations, `{part}` is not as there", where=file, mend=COCO)
    return cast(list[Row], found)


def _photo(row: Row, place: str) -> int:
    """The photo's number, of `image_id`: 391895, "391895" or "COCO_val2014_000000391895.jpg"."""
    digits = Path(str(row.get("image_id", ""))).stem.split("_")[-1]
    if not digits.isdecimal():
        raise DataError("no image_id", where=place, mend="give the number of COCO's photo in every row")
    return int(digits)


def question(row: Row, protocol: Protocol, origin: Origin) -> Question:
    """A row as it is asked; its number is its id.

    Raises:
        DataError: no question, or no picture.
    """
    where = f"{origin.name}[{origin.number}]"
    value = row["image"]
    kind = next((kind for begin, kind in PICTURES.items() if isinstance(value, str) and value.startswith(begin)), None)
    picture = media(f"data:image/{kind};base64,{value}" if kind else value, origin.base)
    id = str(origin.number)  # a photo may be asked about more than once
    prompt = Message(role="user", content=(picture, text(row, "question", where).strip()))
    return Question(
        id=id,
        record=Record(id=id, source=origin.name, messages=(prompt,), responses=()),
        max_new_tokens=1024,
        facts={"objects": texts(row, "truth", where)},
    )


def score(questions: Sequence[Question], givens: Sequence[Given]) -> list[Scored]:
    found = []
    for asked, given in zip(questions, givens, strict=True):
        said = given.text if len(given.text.split()) > SHORT else ""
        sums, marks = chair_sums(said, set(asked.facts["objects"]), once=True)
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
        **chair_measures("answers that name an object", count="naming"),
        "naming": Measure(about="answers that name an object", of=ratio("naming", "captions"), better=""),
        "objects an answer": Measure(
            about="words for objects in an answer", of=ratio("mentions", "captions"), better="", percent=False
        ),
        "length": length("captions"),
    },
)
