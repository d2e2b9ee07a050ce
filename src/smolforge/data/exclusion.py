"""Rows that a recipe leaves out without anything being deleted: lists that `smolforge data dedupe` and `decontaminate` write.

A list is JSON Lines, one object a row left out; `excluded` reads what says which row it is, and people read the rest:

    {"source": "my_pictures", "name": null, "split": "train", "row": 17, "rows": 2000,
     "reason": "near-duplicate picture and text", "of": "my_pictures[3]", "distance": 2, "similarity": 0.93}

`source`, `name` and `split` are those of the recipe's entry, the split without its slice; `row` is the row's number in the whole
table, so that one list serves every slice. `rows` and `revision` (where the recipe gives one) say which version of the table was
meant: numbers in another version would name other rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from smolforge.errors import DataError
from smolforge.recipe import DataSection

Place = tuple[str, Any, str, bool]  # source, name, split without its slice, drawn fixture instead of the source
AGAIN = "write the list again"


def place(section: DataSection) -> Place:
    """Which table a recipe's entry reads: what the rows of two entries must share to be the same rows."""
    return section.source, section.name, section.split.partition("[")[0], section.fixture


def excluded(paths: Iterable[Path], section: DataSection, *, rows: int | None = None) -> set[int]:
    """Numbers of the rows that lists leave out of one source. A list may name rows of other sources only.

    Args:
        rows: of the source's whole table, if known; a list that was written for a longer or shorter table is refused.

    Raises:
        DataError: no such list, a malformed line, or a list for another version of the table.
    """
    here = place(section)
    found: set[int] = set()
    for path in paths:
        try:
            lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
        except FileNotFoundError as error:
            raise DataError("no such list", where=path, mend="check exclude, or write it with `smolforge data dedupe`") from error
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"not a readable list ({error})", where=path, mend=AGAIN) from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            entry = _entry(line, where)
            if _place(entry) != here:
                continue
            _same_version(entry, section, rows, where)
            found.add(entry["row"])
    return found


def _entry(line: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise DataError("not valid JSON", where=where, mend=AGAIN) from error
    if not isinstance(entry, dict):
        raise DataError("not a JSON object", where=where, mend="one object a line")
    for key in ("source", "split"):
        if not isinstance(entry.get(key), str):
            raise DataError(f"{key} is {entry.get(key)!r}", where=where, mend="a row is named by source, name, split and row")
    name = entry.get("name")
    if not (name is None or isinstance(name, str) or (isinstance(name, list) and all(isinstance(one, str) for one in name))):
        raise DataError(f"name is {name!r}", where=where, mend="give the recipe's configuration, or null")
    if type(entry.get("row")) is not int or entry["row"] < 0:
        raise DataError(f"row is {entry.get('row')!r}", where=where, mend="give its number in the table, counted from 0")
    return entry


def _place(entry: dict[str, Any]) -> Place:
    name = entry.get("name")
    return entry["source"], tuple(name) if isinstance(name, list) else name, entry["split"], bool(entry.get("fixture"))


def _same_version(entry: dict[str, Any], section: DataSection, rows: int | None, where: str) -> None:
    if "revision" in entry and entry["revision"] != section.revision:
        raise DataError(
            f"for revision {entry['revision']} of {section.source}, the recipe reads {section.revision}", where=where, mend=AGAIN
        )
    told = entry.get("rows")
    if rows is not None and told is not None and told != rows:
        raise DataError(f"for {told} rows of {section.source}, it has {rows}", where=where, mend=AGAIN)
    if rows is not None and entry["row"] >= rows:
        raise DataError(f"row {entry['row']} of {section.source}, which has {rows}", where=where, mend=AGAIN)
