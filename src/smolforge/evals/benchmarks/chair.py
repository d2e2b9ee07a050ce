"""CHAIR: how many of the objects that a caption names are not in the photo, beside how many that are there it names.

Rohrbach et al. 2018, "Object Hallucination in Image Captioning" (arXiv 1809.02156). The prompt is that of lmms-eval's
coco_cap_chair, with up to 2048 tokens, greedy; VLMEvalKit has no CHAIR, so that its protocol asks the same. Row of the Hub:

    {"image": <picture>, "gt_object": ["person", "dog", "frisbee"], "question_id": "391895"}

A folder brings its photos' annotations, in *.json (a list) or *.jsonl:

    {"file": "images/1.jpg", "image_id": 1, "captions": ["A man throws a frisbee."], "objects": [{"category": "dog"}]}

There the truth is the annotated objects and those that the captions name, as in the paper. `objects: null` means not annotated:
the truth is then what the captions name, too little for a fair count, and "truth from captions only" says of how many photos.

    CHAIRi = mentions of objects that are not there / mentions of objects
    CHAIRs = captions with such a mention / captions
    recall = objects of the photos that are named / objects of the photos, each once a photo

How words become objects, and where this differs from lmms-eval, stands in `metrics/objects.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from smolforge.data.sources.shapes import CAPTION_COLUMNS, IMAGE_COLUMNS
from smolforge.data.sources.tables import local_table
from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark, Given, Origin, Protocol, Question, Row, Scored, asked_about
from smolforge.evals.measures import Measure, length, ratio
from smolforge.evals.metrics.objects import chair_sums, mentions, objects

SPLIT = "test"
PROMPT = "Please describe this image in detail."
WORDS = (*CAPTION_COLUMNS, "answer")
OBJECT_COLUMNS = ("objects", "instances")


def photos(folder: Path) -> list[Row]:
    """Annotated photos of a folder's files, or of one file, in a common shape: image, captions, objects, annotated, id.

    None where there are no rows with captions.

    Raises:
        DataError: a file is damaged, or a row lacks its picture or its captions.
    """
    files = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    found = []
    for file in files:
        listed = _listed(file) if file.suffix in (".json", ".jsonl") else []
        if listed and any(listed[0].get(name) for name in WORDS):
            found += [_photo(row, file, number) for number, row in enumerate(listed)]
    return found


def stored(folder: Path, split: str) -> Sequence[Row]:
    """Rows of a folder that has the Hub's columns.

    Raises:
        DataError: it has neither these nor a benchmark's own layout.
    """
    try:
        return cast(
            Sequence[Row], local_table(folder, split)
        )  # a table: has a length and rows by number, which is all that is asked
    except DataError as error:
        mend = "give the benchmark's own files, or the Hub's as Parquet, JSON Lines or a saved dataset"
        raise DataError(f"no rows of this benchmark ({error.what})", where=folder, mend=mend) from error


def _listed(file: Path) -> list[Row]:
    """Rows of a file; none, if it is JSON of another kind."""
    text = file.read_text(encoding="utf-8")
    try:
        content = (
            [json.loads(line) for line in text.splitlines() if line.strip()] if file.suffix == ".jsonl" else json.loads(text)
        )
    except json.JSONDecodeError as error:
        raise DataError("not valid JSON", where=f"{file}, line {error.lineno}", mend="mend the file") from error
    return content if isinstance(content, list) and all(isinstance(row, dict) for row in content) else []


def _photo(row: Row, file: Path, number: int) -> Row:
    picture = next((row[name] for name in IMAGE_COLUMNS if row.get(name)), None)
    captions = next((row[name] for name in WORDS if row.get(name)), None)
    if picture is None or captions is None:
        raise DataError(
            "a photo without a file or without captions", where=f"{file}[{number}]", mend='give "file" and "captions"'
        )
    boxes = next((row[name] for name in OBJECT_COLUMNS if row.get(name) is not None), None)
    return {
        "image": picture,
        "captions": [captions] if isinstance(captions, str) else list(captions),
        "objects": sorted({box["category"] if isinstance(box, dict) else str(box) for box in boxes or ()}),
        "annotated": boxes is not None,
        "id": str(row.get("image_id", picture)),
    }


def rows(folder: Path) -> Sequence[Row]:
    """Photos of a folder, in the Hub's columns."""
    found = photos(folder)
    if not found:
        return stored(folder, SPLIT)
    return [
        {"image": one["image"], "gt_object": truth(one), "annotated": one["annotated"], "question_id": one["id"]} for one in found
    ]


def truth(photo: Row) -> list[str]:
    """Objects of a photo: annotated, or named by one of its captions."""
    named = {mention.object for caption in photo["captions"] for mention in mentions(caption)}
    return sorted(named | objects(set(photo["objects"])))


def question(row: Row, protocol: Protocol, origin: Origin) -> Question:
    id = str(row["question_id"]) if row.get("question_id") is not None else str(origin.number)
    return Question(
        id=id,
        record=asked_about(row["image"], PROMPT, id=id, origin=origin),
        max_new_tokens=2048,
        facts={"objects": sorted(objects(set(row["gt_object"]))), "annotated": bool(row.get("annotated", True))},
    )


def score(questions: Sequence[Question], givens: Sequence[Given]) -> list[Scored]:
    found = []
    for asked, given in zip(questions, givens, strict=True):
        sums, marks = chair_sums(given.text, set(asked.facts["objects"]))
        more = {"tokens": given.tokens, "unannotated": int(not asked.facts["annotated"])}
        found.append(Scored(sums=sums | more, marks=marks))
    return found


BENCHMARK = Benchmark(
    about="objects that captions of COCO photos invent (CHAIR)",
    source="Rohrbach et al. 2018, arXiv 1809.02156; prompt and truth of lmms-eval, coco_cap_chair",
    hub="tsunghanwu/mscoco_chair",
    split=SPLIT,
    columns=("image", "gt_object"),
    question=question,
    score=score,
    rows=rows,
    measures={
        "CHAIRi": Measure(about="mentions of objects that are not there", of=ratio("hallucinated", "mentions"), better="lower"),
        "CHAIRs": Measure(about="captions that name such an object", of=ratio("hallucinating", "captions"), better="lower"),
        "recall": Measure(about="objects of the photos that are named", of=ratio("covered", "objects")),
        "objects a caption": Measure(
            about="mentions of objects in a caption", of=ratio("mentions", "captions"), better="", percent=False
        ),
        "length": length("captions", "a caption"),
        "truth from captions only": Measure(
            about="photos without annotated objects", of=ratio("unannotated", "captions"), better=""
        ),
    },
)
