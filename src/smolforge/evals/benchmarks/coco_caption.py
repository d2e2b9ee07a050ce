"""Captions of COCO photos against five of people's: BLEU, ROUGE-L, CIDEr and, where Java is, METEOR.

Row:

    {"image": <picture>, "answer": ["A kitchen with a stove.", ...], "question_id": "COCO_val2014_000000000042.jpg", "id": 0}

Here it is lmms-eval's coco2014_cap_val: 40,504 photos, "Provide a one-sentence caption for the provided image.", 64 tokens,
greedy, scored as pycocoevalcap does (Chen et al. 2015, arXiv 1504.00325). Numbers in papers are mostly of Karpathy's test split
of 5,000 photos (lmms-eval's coco_karpathy_test asks "Describe the image briefly."); they are comparable only if those photos
are evaluated: give a folder with them, in CHAIR's layout. VLMEvalKit's COCO_VAL asks for a description in general, without
METEOR.

CIDEr is pycocoevalcap's, from 0 to 10: 1.17 here is what tables call 117. A word is worth the more the fewer of the evaluated
photos' references have it, so a score over the first 100 photos is another than over all; over one photo it is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark, Given, Origin, Protocol, Question, Row, Scored, asked_about
from smolforge.evals.measures import length
from smolforge.evals.metrics.captions import CAPTION_MEASURES, caption_sums, missing
from smolforge.evals.photos import photos
from smolforge.evals.reading import identifier, stored, texts

SPLIT = "val"
PROMPTS: dict[Protocol, str] = {
    "lmms-eval": "Provide a one-sentence caption for the provided image.",
    "vlmevalkit": (
        "Please describe this image in general. Directly provide the description, "
        'do not include prefix like "This image depicts".'
    ),
}
METRICS = ("bleu", "rouge", "cider", "meteor")
LONGEST: dict[Protocol, int] = {"lmms-eval": 64, "vlmevalkit": 2048}  # tokens


def rows(folder: Path) -> Sequence[Row]:
    """Photos of a folder (`photos.py` says its layout), in the Hub's columns."""
    found = [{"image": one.image, "answer": list(one.captions), "question_id": one.id} for one in photos(folder)]
    return found or stored(folder, SPLIT)


def question(row: Row, protocol: Protocol, origin: Origin) -> Question:
    """A row as it is asked.

    Raises:
        DataError: no captions, or no picture.
    """
    where = f"{origin.name}[{origin.number}]"
    references = texts(row, "answer", where)
    if not references:
        raise DataError("no reference captions", where=where, mend="remove the photo, or add captions")
    id = identifier(row, "question_id", where) if row.get("question_id") is not None else str(origin.number)
    return Question(
        id=id,
        record=asked_about(row["image"], PROMPTS[protocol], id=id, origin=origin),
        max_new_tokens=LONGEST[protocol],
        facts={"references": references},
    )


def score(questions: Sequence[Question], givens: Sequence[Given]) -> list[Scored]:
    """CIDEr's frequencies are those of these questions' references."""
    able = [metric for metric in METRICS if not missing([metric])]
    counts = caption_sums([given.text for given in givens], [asked.facts["references"] for asked in questions], able)
    return [Scored(sums=sums | {"tokens": given.tokens}) for sums, given in zip(counts, givens, strict=True)]


BENCHMARK = Benchmark(
    about="captions of COCO photos against people's",
    source="Chen et al. 2015, arXiv 1504.00325; prompt of lmms-eval, coco2014_cap_val, and of VLMEvalKit, COCO_VAL",
    hub="lmms-lab-encoder/COCO-Caption",
    split=SPLIT,
    columns=("image", "answer"),
    question=question,
    score=score,
    rows=rows,
    notes=lambda: missing(METRICS),
    measures=CAPTION_MEASURES | {"length": length("captions", "a caption")},
)
