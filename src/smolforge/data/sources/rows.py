"""What a source is made of before it is a record: rows, tables of rows, and tables one behind the other."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Protocol

from smolforge.records import Record, fingerprint

Row = dict[str, Any]
ToRecord = Callable[..., Record]  # (row, *, id, source, base=None, prompt=None) -> Record


class Table(Protocol):
    """Rows by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


def placeless(value: Any) -> Any:
    """A row without the folders that its files lie in, which differ from machine to machine.

    >>> placeless({"image": {"bytes": b"...", "path": "/mine/a.png"}, "video": "/mine/b.mp4", "other": "near/c.mp4"})
    {'image': {'bytes': b'...'}, 'video': 'b.mp4', 'other': 'near/c.mp4'}
    """
    if isinstance(value, dict):
        known = {"path"} if value.get("bytes") is not None else set()
        return {name: placeless(one) for name, one in value.items() if name not in known}
    if isinstance(value, list):
        return [placeless(one) for one in value]
    return os.path.basename(value) if isinstance(value, str) and os.path.isabs(value) else value


def row_content(row: Row) -> str:
    """A short name of what a row holds, whatever the order of its columns; of pictures in it by their bytes, not by their names.

    >>> row_content({"a": 1, "b": "x"}) == row_content({"b": "x", "a": 1}), row_content({"a": 1}) == row_content({"a": 2})
    (True, False)
    """
    return fingerprint(sorted(_named(placeless(row)).items()))[:16]


def _named(value: Any) -> Any:
    """Bytes by their fingerprint: their `repr` would be four times as long."""
    if isinstance(value, dict):
        return {name: _named(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_named(one) for one in value]
    return fingerprint(value) if isinstance(value, bytes) else value


class Chain:
    """Tables one behind the other.

    >>> chain = Chain([[{"a": 1}, {"a": 2}], [], [{"b": 3}]])
    >>> [len(chain), chain[1], chain[2]]
    [3, {'a': 2}, {'b': 3}]
    """

    def __init__(self, tables: Sequence[Table]) -> None:
        self.tables = tuple(tables)
        self.ends = list(accumulate(map(len, self.tables)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self.ends, index)
        return self.tables[number][index - (self.ends[number - 1] if number else 0)]
