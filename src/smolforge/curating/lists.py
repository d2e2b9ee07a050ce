"""The list that a recipe's `exclude` takes (`data.exclusion` says what a line holds)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolforge.curating.reading import Readable, Table, row_name
from smolforge.data.exclusion import Place, place_of
from smolforge.data.sources.rows import row_content
from smolforge.data.sources.tables import is_drawn, row_files
from smolforge.errors import UserError
from smolforge.files import write_whole
from smolforge.folders import claim_file
from smolforge.recipe import DataSection
from smolforge.records import Record
from smolforge.report.page import claim_page

KEYS = {"source", "split", "row", "rows", "reason", "of"}  # of every line that is written here
LONGEST = 2**20  # bytes of a line


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A row to leave out, and the row because of which."""

    source: int  # which of the recipe's entries, counted from 0
    index: int  # of the row in it
    reason: str
    other: Readable  # where the other row is
    other_index: int
    distance: int | None = None  # bits of the pictures
    similarity: float | None = None  # of the texts

    @property
    def of(self) -> str:
        return row_name(self.other, self.other_index)

    def other_record(self) -> Record:
        return self.other.record(self.other_index)


def entry(removal: Removal, table: Table) -> dict[str, Any]:
    """A line of the list."""
    section = table.section
    piece, row = table.source.piece(removal.index)
    home = {} if section.fixture else {"dir": str(section.dir) if section.dir else None, "revision": section.revision}
    return {
        "source": section.source,
        "name": section.name if section.fixture or piece.file else piece.name,
        "split": piece.split or section.split.partition("[")[0],
        **({"file": piece.file} if piece.file else {}),
        **({"fixture": True} if section.fixture else {}),
        **{key: told for key, told in home.items() if told is not None or table.apart},
        "row": row,
        "rows": piece.rows,
        **({} if is_drawn(section) else {"content": row_content(table.source.table[table.source.rows[removal.index]])}),
        "reason": removal.reason,
        "of": removal.of,
        "distance": removal.distance,
        "similarity": None if removal.similarity is None else round(removal.similarity, 4),
    }


def readers(removals: Sequence[Removal], tables: Sequence[Table]) -> list[int]:
    """Numbers of the entries that read a listed row, those among them for which an entry before had read it already."""
    listed: dict[Place, set[int]] = {}
    for one in removals:
        table = tables[one.source]
        piece, row = table.source.piece(one.index)
        listed.setdefault(place_of(table.section, piece), set()).add(row)
    return [number for number, table in enumerate(tables) if _reads(table, listed)]


def _reads(table: Table, listed: Mapping[Place, set[int]]) -> bool:
    source, first = table.source, 0
    rows = source.rows if isinstance(source.rows, range) else set(source.rows)
    for piece in source.pieces:
        if any(first + row in rows for row in listed.get(place_of(table.section, piece), ())):
            return True
        first += piece.rows
    return False


def claim_list(out: Path, sections: Sequence[DataSection]) -> None:
    """See before rows are read that a list and its page can be written: over no other file but an older list and page.

    Raises:
        UserError: they cannot.
    """
    read = {file.resolve() for section in sections for file in row_files(section)}
    for file in (out, out.with_suffix(".html")):
        if file.resolve() in read:
            raise UserError("is read as data", where=file, mend="give another --out")
    if out.resolve() in {file.expanduser().resolve() for section in sections for file in section.exclude}:
        raise UserError("is in exclude, and its rows would come back", where=out, mend="give another --out")
    claim_file(out, "list", _is_list)
    claim_page(out.with_suffix(".html"))


def _is_list(file: Path) -> bool:
    """Empty lists are written too; of the others the first line tells."""
    with file.open("rb") as lines:
        first = lines.readline(LONGEST)
    try:
        line = json.loads(first or b"{}")
    except ValueError:  # no JSON, or no text
        return False
    return not first or (isinstance(line, dict) and line.keys() >= KEYS)


def write_list(out: Path, removals: Sequence[Removal], tables: Sequence[Table]) -> Path:
    """Write the list, whole or not at all; with nothing to leave out it is empty, and a recipe may name it all the same.

    Raises:
        UserError: the place is a folder, cannot be written, or holds something else.
    """
    claim_file(out, "list", _is_list)
    lines = (json.dumps(entry(one, tables[one.source]), ensure_ascii=False) for one in removals)
    try:
        write_whole(out, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise UserError(f"cannot be written ({error})", where=out, mend="give another --out") from error
    return out
