"""Annotated photos of a folder, which several benchmarks are made of: what people wrote about them, and what was found on them.

In *.json (a list) or *.jsonl, a photo a row:

    {"file": "images/1.jpg", "image_id": 1, "captions": ["A man throws a frisbee."], "objects": [{"category": "dog"}]}

The columns may be called as elsewhere (`image`, `file_name`, `caption`, `answer`, `instances`, ...), and objects may be names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolforge.data.sources.shapes import CAPTION_COLUMNS, IMAGE_COLUMNS
from smolforge.errors import DataError
from smolforge.evals.benchmark import Row
from smolforge.evals.metrics.objects import mentions, objects
from smolforge.evals.reading import as_rows, identifier, read_json, read_rows, text, texts

WORDS = (*CAPTION_COLUMNS, "answer")
OBJECT_COLUMNS = ("objects", "instances")
IDS = ("image_id", "question_id")


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A photo with what is known of it."""

    id: str
    image: str  # as its row has it: a file, from the folder on
    captions: tuple[str, ...]
    objects: tuple[str, ...]  # names of an annotation
    annotated: bool  # whether somebody looked for objects
    where: str  # file and row, for messages


def photos(folder: Path) -> list[Photo]:
    """Annotated photos of a folder's files, or of one file; none where no row has captions. JSON of another kind is left alone.

    Raises:
        DataError: a file is damaged, or a row lacks its picture or its captions.
    """
    files = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    found = []
    for file in files:
        listed = _listed(file)
        if any(row.get(name) for row in listed for name in WORDS):
            found += [_photo(row, f"{file}, row {number}") for number, row in enumerate(listed, start=1)]
    return found


def truth(captions: Sequence[str], annotated: Sequence[str], where: object) -> list[str]:
    """Objects of a photo, of MSCOCO's 80: annotated, or named by one of its captions.

    Raises:
        DataError: an annotated one is none of the 80.

    >>> truth(["A man and his dog."], ["tv"], "photos.jsonl, row 1")
    ['dog', 'person', 'tv']
    """
    named = {mention.object for caption in captions for mention in mentions(caption)}
    return sorted(named | objects(set(annotated), where))


def object_names(row: Row, column: str, where: object) -> list[str]:
    """Names in a column of objects: ["dog"] or [{"category": "dog"}].

    Raises:
        DataError: it is no list of these.
    """
    value = row[column]
    if not isinstance(value, list):
        raise DataError(f"`{column}` is {type(value).__name__}, not a list", where=where, mend="name the objects in a list")
    found: list[Any] = [one.get("category") if isinstance(one, dict) else one for one in value]
    if not all(isinstance(name, str) for name in found):
        raise DataError("an object without a category", where=where, mend='give objects as "dog" or {"category": "dog"}')
    return found


def _listed(file: Path) -> list[Row]:
    """Rows of a file; none, if it is something else."""
    if file.suffix == ".jsonl":
        return read_rows(file)
    content = read_json(file) if file.suffix == ".json" else None
    rows = isinstance(content, list) and any(isinstance(row, dict) for row in content)
    return as_rows(content, file) if rows else []


def _photo(row: Row, where: str) -> Photo:
    picture = next((name for name in IMAGE_COLUMNS if row.get(name)), None)
    words = next((name for name in WORDS if row.get(name)), None)
    if picture is None or words is None:
        raise DataError("a photo without a file or without captions", where=where, mend='give "file" and "captions"')
    boxes = next((name for name in OBJECT_COLUMNS if row.get(name) is not None), None)
    called = next((name for name in IDS if row.get(name) is not None), picture)
    return Photo(
        id=identifier(row, called, where),
        image=text(row, picture, where),
        captions=(row[words],) if isinstance(row[words], str) else tuple(texts(row, words, where)),
        objects=tuple(sorted(set(object_names(row, boxes, where)))) if boxes else (),
        annotated=boxes is not None,
        where=where,
    )
