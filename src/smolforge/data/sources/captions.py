"""Pictures that several people described -> one record with every description as a target, and VizWiz's answers.

Rows:

    {"image": <picture>, "caption_0": "A black dog runs .", ..., "caption_4": "..."}                  jxie/flickr8k
    {"image": <picture>, "caption": ["Two young men ...", ...], "sentids": ["0", ...], "split": "train", "img_id": "0",
     "filename": "1000092795.jpg"}                                                                   nlphuji/flickr30k
    {"question_id": "0", "question": "Please carefully observe the image and come up with a caption for the image.",
     "image": <picture>, "image_id": "...", "caption_str": ["A sign that says ..."], "reference_strs": ["..."]}  lmms-lab/TextCaps
    {"image": <picture>, "caption": ["A can of ...", ...], "image_id": ..., ...}                     lmms-lab/VizWiz-Caps
    {"question_id": "VizWiz_val_0.jpg", "image": <picture>, "question": "Ok. What is it?", "answers": ["basil", ...],
     "category": "..."}                                                                              lmms-lab/VizWiz-VQA

Of VizWiz-VQA's ten answers the most frequent one is the target, `unanswerable` too, since knowing that is part of the task.
Sources: the data sets' cards; TextCaps' columns from a survey of them. VizWiz-Caps' `caption` column could not be looked at.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from smolforge.data.sources import shapes
from smolforge.errors import DataError
from smolforge.records import Record

NUMBERED = tuple(f"caption_{number}" for number in range(5))
REFERENCES = ("reference_strs", "caption_str", "caption")  # in this order: TextCaps has the first two


def record(row: dict[str, Any], *, id: str, source: str, **options: Any) -> Record:
    """Row with captions -> Record."""
    captions = [row[name] for name in NUMBERED if row.get(name)]
    if not captions:
        name = next((name for name in REFERENCES if row.get(name)), None)
        if name is None:
            raise DataError("no captions", mend="take a split that has them")
        captions = row[name]
    return shapes.record({"image": row["image"], "captions": captions}, id=_id(row, id), source=source, **options)


def vizwiz(row: dict[str, Any], *, id: str, source: str, **options: Any) -> Record:
    """Row of VizWiz, captions or questions -> Record."""
    if row.get("answers") is None:
        return record(row, id=id, source=source, **options)
    answers = [one["answer"] if isinstance(one, dict) else one for one in row["answers"]]
    if not answers:
        raise DataError("no answer", mend="take a split that has them")
    asked = {"image": row["image"], "question": row["question"], "answer": most_given(answers)}
    return shapes.record(asked, id=_id(row, id), source=source, **options)


def most_given(answers: list[str]) -> str:
    """The most frequent answer; of equally frequent ones the first.

    >>> most_given(["dog", "a cat", "cat", "cat"])
    'cat'
    """
    return Counter(answers).most_common(1)[0][0]


def _id(row: dict[str, Any], id: str) -> str:
    return next((str(row[name]) for name in ("question_id", "image_id", "img_id") if row.get(name) is not None), id)
