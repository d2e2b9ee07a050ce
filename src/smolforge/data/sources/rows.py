"""What a source is made of before it is a record: rows, tables of rows, and tables one behind the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Protocol

from smolforge.records import Record

Row = dict[str, Any]
ToRecord = Callable[..., Record]  # (row, *, id, source, base=None, prompt=None) -> Record


class Table(Protocol):
    """Rows by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


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
