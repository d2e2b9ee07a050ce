"""CHAIR: how many of the objects that a caption names are not in the photo, beside how many that are there it names.

Rohrbach et al. 2018, "Object Hallucination in Image Captioning" (arXiv 1809.02156). The prompt is that of lmms-eval's
coco_cap_chair, with up to 2048 tokens, greedy; VLMEvalKit has no CHAIR, so that its protocol asks the same. Row of the Hub:

    {"image": <picture>, "gt_object": ["person", "dog", "frisbee"], "question_id": "391895"}

A folder brings its photos' annotations in *.json (a list) or *.jsonl, as `photos.py` has them:

    {"file": "images/1.jpg", "image_id": 1, "captions": ["A man throws a frisbee."], "objects": [{"category": "dog"}]}

There the truth is the annotated objects and those that the captions name, as in the paper. `objects: null` means not annotated:
the truth is then what the captions name, too little for a fair count, and "truth from captions only" says of how many photos.

    CHAIRi = mentions of objects that are not there / mentions of objects
    CHAIRs = captions with such a mention / captions
    recall = objects of the photos that are named / objects of the photos, each once a photo

How words become objects, and where this differs from lmms-eval, stands in `metrics/objects.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smolforge.evals.benchmark import Benchmark, Given, Origin, Protocol, Question, Row, Scored, asked_about
from smolforge.evals.measures import Measure, length, ratio
from smolforge.evals.metrics.objects import chair_measures, chair_sums, objects
from smolforge.evals.photos import photos, truth
from smolforge.evals.reading import identifier, stored, texts

SPLIT = "test"
PROMPT = "Please describe this image in detail."


def rows(folder: Path) -> Sequence[Row]:
    """Photos of a folder, in the Hub's columns."""
    found = photos(folder)
    if not found:
        return stored(folder, SPLIT)
    return [
        {
            "image": one.image, "gt_object": truth(one.captions, one.objects, one.where), "annotated": one.annotated,
            "question_id": one.id,
        }
        for one in found
    ]  # fmt: skip


def question(row: Row, protocol: Protocol, origin: Origin) -> Question:
    """A row as it is asked.

    Raises:
        DataError: an object that is none of MSCOCO's, or no picture.
    """
    where = f"{origin.name}[{origin.number}]"
    id = identifier(row, "question_id", where) if row.get("question_id") is not None else str(origin.number)
    there = objects(set(texts(row, "gt_object", where)), where)
    return Question(
        id=id,
        record=asked_about(row["image"], PROMPT, id=id, origin=origin),
        max_new_tokens=2048,
        facts={"objects": sorted(there), "annotated": bool(row.get("annotated", True))},
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
        **chair_measures("captions"),
        "objects a caption": Measure(
            about="mentions of objects in a caption", of=ratio("mentions", "captions"), better="", percent=False
        ),
        "length": length("captions", "a caption"),
        "truth from captions only": Measure(
            about="photos without annotated objects", of=ratio("unannotated", "captions"), better=""
        ),
    },
)
