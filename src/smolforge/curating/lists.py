"""The list that a recipe's `exclude` takes (`data.exclusion` says what a line holds)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolforge.curating.reading import Readable, Table, row_name
from smolforge.errors import UserError
from smolforge.files import write_whole
from smolforge.records import Record


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
    version: dict[str, Any] = {"revision": section.revision} if section.revision is not None else {}
    return {
        "source": section.source,
        "name": section.name,
        "split": section.split.partition("[")[0],
        **({"fixture": True} if section.fixture else {}),
        "row": table.source.rows[removal.index],
        "rows": table.total,
        **version,
        "reason": removal.reason,
        "of": removal.of,
        "distance": removal.distance,
        "similarity": None if removal.similarity is None else round(removal.similarity, 4),
    }


def write_list(out: Path, removals: Sequence[Removal], tables: Sequence[Table]) -> Path:
    """Write the list, whole or not at all; with nothing to leave out it is empty, and a recipe may name it all the same.

    Raises:
        UserError: the place is a folder, or cannot be written.
    """
    if out.is_dir():
        raise UserError("is a folder", where=out, mend="give the name of a file, such as duplicates.jsonl")
    lines = (json.dumps(entry(one, tables[one.source]), ensure_ascii=False) for one in removals)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise UserError(f"cannot be written ({error})", where=out, mend="give another --out") from error
    return out
