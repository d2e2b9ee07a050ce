"""Rows that a recipe leaves out without anything being deleted: lists that `smolforge data dedupe` and `decontaminate` write.

A list is JSON Lines, one object a row left out; `excluded` reads what says which row it is, and people read the rest:

    {"source": "my_pictures", "name": null, "split": "train", "row": 17, "rows": 2000,
     "reason": "near-duplicate picture and text", "of": "my_pictures[3]", "distance": 2, "similarity": 0.93}

`source`, `name` and `split` are those of the recipe's entry, the split without its slice; another spelling of the same (a name on
the Hub, a relative path, a list of one name) is the same. `row` is the row's number in the whole table, so that one list serves
every slice. `rows` and `revision` (where the recipe gives one) say which version of the table was meant: numbers in another
version would name other rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from smolforge.data.sources.catalog import name_of
from smolforge.errors import DataError
from smolforge.recipe import DataSection

Place = tuple[str, Any, str, bool]  # source, name, split without its slice, drawn fixture instead of the source
AGAIN = "write the list again"


def place(section: DataSection) -> Place:
    """Which table a recipe's entry reads, in one spelling: what the rows of two entries must share to be the same rows.

    >>> place(DataSection(source="HuggingFaceM4/the_cauldron", name=("ai2d",), split="train[:5%]"))
    ('the_cauldron', 'ai2d', 'train', False)
    """
    return _source(section.source), _name(section.name), section.split.partition("[")[0], section.fixture


def excluded(paths: Iterable[Path], section: DataSection, *, rows: int | None = None) -> set[int]:
    """Numbers of the rows that lists leave out of one source. A list may name rows of other sources only; `check_lists` sees
    to it that one of the recipe's entries is meant.

    Args:
        rows: of the source's whole table, if known; a list that was written for a longer or shorter table is refused.

    Raises:
        DataError: no such list, a malformed line, or a list for another version, or other configurations or splits only, of the
            source.
    """
    here = place(section)
    found: set[int] = set()
    for path in paths:
        others: set[Place] = set()
        count = 0
        for where, entry, told in _lines(path):
            if told != here:
                others.add(told)
                continue
            _same_version(entry, section, rows, where)
            count += 1
            found.add(entry["row"])
        same = {other for other in others if other[0] == here[0] and other[3] == here[3]}
        if same and not count:
            theirs = ", ".join(sorted(map(_words, same)))
            mend = "write the list again for this entry, or take it out of its exclude"
            raise DataError(f"names rows of {section.source} ({theirs}), none of {_words(here)}", where=path, mend=mend)
    return found


def check_lists(sections: Iterable[DataSection]) -> None:
    """Refuse lists that leave nothing out of any of a recipe's entries that name them. An empty list leaves nothing out by right,
    and a drawn fixture stands for a source whose rows the list means.

    Raises:
        DataError: such a list, or one that cannot be read.
    """
    users: dict[Path, list[DataSection]] = {}
    for section in sections:
        for path in section.exclude:
            users.setdefault(path, []).append(section)
    for path, entries in users.items():
        told = {told for _, _, told in _lines(path)}
        if told and not any(section.fixture for section in entries) and told.isdisjoint(map(place, entries)):
            theirs = ", ".join(sorted({other[0] for other in told}))
            what = f"names no row of {', '.join(dict.fromkeys(section.source for section in entries))}, only of {theirs}"
            raise DataError(what, where=path, mend="write it again for this recipe, or take it out of exclude")


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any], Place]]:
    """(where, line, the table it means) of a list."""
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataError("no such list", where=path, mend="check exclude, or write it with `smolforge data dedupe`") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"not a readable list ({error})", where=path, mend=AGAIN) from error
    sources: dict[str, str] = {}  # as it is spelt -> in one spelling; a look at the disk a source, not a line
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            entry = _entry(line, where)
            if (spelt := entry["source"]) not in sources:
                sources[spelt] = _source(spelt)
            yield where, entry, (sources[spelt], _name(entry.get("name")), entry["split"], bool(entry.get("fixture")))


def _source(source: str) -> str:
    """A source in one spelling: its name here, the whole path of what exists, else as it is."""
    if name := name_of(source):
        return name
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def _name(name: Any) -> Any:
    """Configurations in one spelling: one of them alone is no list."""
    if isinstance(name, list | tuple):
        return name[0] if len(name) == 1 else tuple(name)
    return name


def _words(table: Place) -> str:
    """
    >>> _words(("the_cauldron", ("ai2d", "vqav2"), "train", False))
    'name ai2d,vqav2, split train'
    """
    _, name, split, _ = table
    return (f"name {name if isinstance(name, str) else ','.join(name)}, " if name else "") + f"split {split}"


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
