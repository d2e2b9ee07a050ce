"""Files and folders as tables of rows: JSON Lines, JSON, CSV, Parquet, pictures with a list, saved `datasets` folders."""

from __future__ import annotations

import copy
import csv
import json
import re
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from smolforge.data.features import cache_folder
from smolforge.data.sources.cards import refuse_stray_tables, refuse_strays
from smolforge.data.sources.json_lists import NOT_UTF8, SAVE_AS_UTF8, JsonList, row_of
from smolforge.data.sources.rows import Row, Table
from smolforge.errors import DataError
from smolforge.records import fingerprint

LISTS = ("captions.jsonl", "metadata.jsonl", "metadata.csv")  # a folder of pictures has one of these
REST = "\0fields behind the last column"  # no column is called so
BLANK = 4096  # bytes; a longer file holds more than blank lines
LARGE = 64 * 2**20  # bytes; a longer JSON list is read row by row, as its objects take ten times their text in memory


def local_table(path: Path, split: str) -> Table:
    """A file or folder as a table. A file is one split, whatever it is called.

    Raises:
        DataError: it cannot be read.
    """
    return table_of(path, "train" if is_lone(path) else split)


def is_lone(path: Path) -> bool:
    """Whether a path is one file of rows, or a folder of pictures with one: no splits."""
    return path.is_file() or any((path / name).is_file() for name in LISTS)


def table_of(path: Path, split: str, name: str | None = None) -> Table:
    """A file, or a folder's split, as a table.

    Args:
        name: configuration of a folder that has several, as on the Hub.

    Raises:
        DataError: it cannot be read, or has no such split.
    """
    if path.is_dir():
        return _from_folder(path, split, name)
    if path.suffix not in READERS:
        raise DataError(f"a {path.suffix or 'nameless'} file", where=path, mend=f"give one of {', '.join(READERS)}")
    if split != "train":
        raise DataError(
            f"no split {split}: a file is one split, train", where=path, mend="write train[90%:], or give another file"
        )
    if path.stat().st_size <= BLANK and not path.read_bytes().strip():
        raise DataError("the file is empty", where=path, mend="give one with rows")
    return READERS[path.suffix](path)


def called(table: Table, name: str) -> Table:
    """A file's table whose broken rows are told by this name of it: several files below a folder may be called alike."""
    if isinstance(table, (JsonLines, JsonList, CsvRows)):
        table.called = name
    return table


def _from_folder(folder: Path, split: str, name: str | None) -> Table:
    for listed in LISTS:
        if (folder / listed).is_file():
            return table_of(folder / listed, split)
    import datasets

    if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
        refuse_stray_tables(folder)
        try:
            saved = datasets.load_from_disk(str(folder))
        except (OSError, ValueError) as error:
            raise DataError(f"not a readable dataset ({error})", where=folder, mend="save it again") from error
        if isinstance(saved, datasets.DatasetDict):
            if split not in saved:
                raise DataError(f"no split {split}", where=folder, mend=f"it has {', '.join(saved)}")
            saved = saved[split]
        return undecoded(saved)
    if any(folder.rglob("*.parquet")):
        folder, name = configuration(folder, name)
        refuse_strays(folder)
        try:  # `csv` alone would be a builder of `datasets`
            return undecoded(datasets.load_dataset(str(folder.resolve()), name, split=split))
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise DataError(f"not a readable dataset ({error})", where=folder, mend="check its files and split") from error
    raise DataError(
        "a folder without captions.jsonl, metadata.jsonl, metadata.csv, Parquet, JSON or CSV files",
        where=folder,
        mend='add captions.jsonl with lines like {"image": "a.jpg", "captions": ["..."]}',
    )


def configuration(folder: Path, name: str | None) -> tuple[Path, str | None]:
    """Where a configuration lies in a downloaded folder, and the name to ask `datasets` for.

    The names in its card count, where it has one; else a configuration is the subfolder of that name.

    Raises:
        DataError: neither is there.
    """
    card = folder / "README.md"
    if name is None or (card.is_file() and re.search(r"^ *- +config_name:", card.read_text("utf-8", "replace"), re.MULTILINE)):
        return folder, name
    if not (folder / name).is_dir():
        raise DataError(f"no configuration {name}", where=folder, mend="download it, or leave name out")
    return folder / name, None


class JsonLines:
    """A JSON Lines file, read line by line when asked; only line offsets are kept in memory."""

    def __init__(self, path: Path) -> None:
        self.path, self.called = path, path.name
        self.offsets = array("q")
        with path.open("rb") as file:
            at = 0
            for line in file:
                if line.strip():
                    self.offsets.append(at)
                at += len(line)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Row:
        with self.path.open("rb") as file:
            file.seek(self.offsets[index])
            return row_of(file.readline(), f"{self.called}, row {index}")


def _json(path: Path) -> Table:
    if path.stat().st_size > LARGE:
        about = path.stat()
        key = fingerprint(str(path.resolve()), about.st_size, about.st_mtime_ns)
        return JsonList(path, cache_folder(None) / "places" / f"{key}.npy")
    content = _json_content(path)
    rows = content.get("data") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError("not a list of objects", where=path, mend="a .json file holds a list of rows")
    return rows


def _json_content(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise DataError(NOT_UTF8, where=path, mend=SAVE_AS_UTF8) from error
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON ({error})", where=path, mend="mend the file") from error


def annotation_table(path: Path) -> Table:
    """A file of annotations: rows as in any other, or a JSON object that is one row itself.

    Raises:
        DataError: it cannot be read.
    """
    if path.suffix == ".json" and path.stat().st_size <= LARGE:
        content = _json_content(path)
        rows = content.get("data") if isinstance(content, dict) else None
        if isinstance(rows, dict) and all(isinstance(row, dict) for row in rows.values()):
            return list(rows.values())  # Vript: a video's clips by their names
        if isinstance(content, dict) and not isinstance(rows, list):
            return [content]
    return table_of(path, "train")


class CsvRows:
    """A CSV file's rows. One with more fields than columns, as a comma without quotes makes it, is met, and counted, when needed.

    Raises:
        DataError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.called = path, path.name
        self.rows: list[Row] = []
        self.long: dict[int, tuple[int, str]] = {}  # of a row with too many fields its line, and what is wrong
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, restkey=REST)
                for row in reader:
                    if REST in row:
                        columns = len(reader.fieldnames or ())
                        what = f"{columns + len(row.pop(REST))} fields for {columns} columns"
                        self.long[len(self.rows)] = reader.line_num, what
                    self.rows.append({key: value or None for key, value in row.items() if key})
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"not a readable table ({error})", where=path, mend="save it as UTF-8 CSV") from error

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        if index in self.long:
            line, what = self.long[index]
            mend = 'put a text with commas in quotes: a.png,"A dog, brown and wet"'
            raise DataError(what, where=f"{self.called}, line {line}", mend=mend)
        return self.rows[index]


def _parquet(path: Path) -> Table:
    import datasets
    from pyarrow import ArrowException

    try:
        return undecoded(datasets.Dataset.from_parquet(str(path)))
    except (OSError, ValueError, ArrowException, datasets.exceptions.DatasetGenerationError) as error:
        raise DataError(f"not a readable Parquet file ({error})", where=path, mend="write it again") from error


def undecoded(dataset: Any) -> Table:
    """The same rows with pictures, videos and sounds as bytes: a damaged one is met, and counted, when it is needed."""
    import datasets

    plain = copy.deepcopy(dataset)  # what is known of the table, not its rows, which `dataset.cast` would write to the disk anew
    plain.info.features = datasets.Features({column: _plain(feature) for column, feature in dataset.features.items()})
    return plain


def _plain(feature: Any) -> Any:
    """A column's type with everything in it left as bytes that is left so."""
    import datasets

    if isinstance(feature, dict):
        return {name: _plain(inner) for name, inner in feature.items()}
    if isinstance(feature, datasets.List | datasets.LargeList):
        return replace(feature, feature=_plain(feature.feature))
    return replace(feature, decode=False) if isinstance(feature, datasets.Image | datasets.Video | datasets.Audio) else feature


READERS: dict[str, Callable[[Path], Table]] = {
    ".jsonl": JsonLines, ".json": _json, ".parquet": _parquet, ".csv": CsvRows
}  # fmt: skip
