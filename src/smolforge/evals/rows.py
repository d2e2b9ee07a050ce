"""A benchmark's rows: from the Hub by its name, or from a local folder with the same columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from smolforge.data.sources.tables import Table, hub_table, local_table
from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark, Origin, Row
from smolforge.hub import dataset_folder

VIDEO_FILES = ("*.mp4", "*.mkv", "*.avi", "*.webm", "*.zip", "*.tar", "*.tar.gz")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """An opened benchmark."""

    name: str
    where: str  # for people: the folder, or the name on the Hub
    base: Path | None  # folder that pictures and videos start from
    tables: Sequence[tuple[str, Table | Sequence[Row]]]  # configuration and its rows

    def __len__(self) -> int:
        return sum(len(table) for _, table in self.tables)

    def __getitem__(self, number: int) -> tuple[Row, Origin]:
        place = number
        for config, table in self.tables:
            if place < len(table):
                row = {name: _later(value, table, place, name) for name, value in table[place].items()}
                return ({"config": config} | row if config else row), Origin(name=self.name, base=self.base, number=number)
            place -= len(table)
        raise IndexError(f"row {number} of {len(self)}")


@dataclass(frozen=True)
class Cell:
    """A picture's bytes, read from the table when they are needed: a whole benchmark's would fill the memory."""

    table: Table | Sequence[Row]
    place: int
    column: str

    def __call__(self) -> bytes:
        return self.table[self.place][self.column]["bytes"]


def _later(value: Any, table: Table | Sequence[Row], place: int, column: str) -> Any:
    return Cell(table, place, column) if isinstance(value, dict) and value.get("bytes") is not None else value


def sample(rows: int, limit: int | None) -> list[int]:
    """At most `limit` numbers below `rows`, in order: a fixed random sample, since tables are sorted, or alternate yes and no.

    >>> sample(10, 3), sample(2, 3)
    ([5, 6, 9], [0, 1])
    """
    if limit is None or limit >= rows:
        return list(range(rows))
    return sorted(np.random.default_rng(0).choice(rows, limit, replace=False).tolist())


def open_rows(name: str, benchmark: Benchmark, data: Path | None) -> Rows:
    """The rows of a benchmark.

    Args:
        data: folder or file with the same columns as on the Hub, or in the benchmark's own layout; None asks the Hub. A benchmark
            of several configurations has a folder each, or a column `config`.

    Raises:
        DataError: nothing there, or other columns than it needs.
    """
    findable(name, benchmark, data)
    if data is None and benchmark.files:
        folder = dataset_folder(benchmark.hub, benchmark.files, revision=benchmark.revision)
        rows = replace(_local(name, benchmark, folder), where=benchmark.hub)
    elif data is None and benchmark.hub:
        hub, revision = benchmark.hub, benchmark.revision
        base = dataset_folder(hub, VIDEO_FILES, revision=revision) if benchmark.videos else None
        configs = benchmark.configs or ("",)
        tables = [(config, hub_table(hub, config or None, benchmark.split, revision=revision)) for config in configs]
        rows = Rows(name=name, where=benchmark.hub, base=base, tables=tables)
    elif data is None:
        assert benchmark.rows is not None, f"{name} is drawn by nothing"
        rows = Rows(name=name, where="its own drawings", base=None, tables=[("", benchmark.rows(Path()))])
    else:
        rows = _local(name, benchmark, data)
    _check(rows, benchmark)
    return rows


def findable(name: str, benchmark: Benchmark, data: Path | None) -> None:
    """What can be said of `open_rows`' arguments before anything is read. Raises DataError."""
    if data is None and not benchmark.hub and not benchmark.drawn:
        raise DataError("is not on the Hub", where=name, mend=f"give its folder with --data; {benchmark.source}")
    if data is not None and not data.exists():
        raise DataError("no such file or folder", where=data, mend=f"give a folder with the columns of {benchmark.hub or name}")


def _local(name: str, benchmark: Benchmark, data: Path) -> Rows:
    base = data if data.is_dir() else data.parent
    mend = f"give rows with {', '.join(benchmark.columns)} as metadata.jsonl, Parquet or a saved dataset"
    folders = [config for config in benchmark.configs if (data / config).is_dir()]
    tables: list[tuple[str, Table | Sequence[Row]]] = []
    if benchmark.rows is not None:
        tables = [("", benchmark.rows(data))]
    elif folders:
        tables = [(config, local_table(data / config, benchmark.split)) for config in folders]
    else:
        try:
            tables = [("", local_table(data, benchmark.split))]
        except DataError as error:
            raise DataError(error.what, where=error.where, mend=mend) from error
    return Rows(name=name, where=str(data), base=base, tables=tables)


def _check(rows: Rows, benchmark: Benchmark) -> None:
    """The first row has every column. Raises DataError."""
    if not len(rows):
        raise DataError("no rows", where=rows.where, mend="look at the file")
    first, _ = rows[0]
    if missing := [column for column in benchmark.columns if column not in first]:
        has = ", ".join(column for column in first if column != "config")
        raise DataError(
            f"no column {', '.join(missing)}",
            where=rows.where,
            mend=f"{rows.name} needs {', '.join(benchmark.columns)} as {benchmark.hub or 'its source'} has them; there are {has}",
        )
