"""Files and folders as tables of rows: JSON Lines, JSON, CSV, Parquet, pictures with a list, saved `datasets` folders."""

from __future__ import annotations

import csv
import json
import os
import re
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from smolforge.data.features import cache_folder
from smolforge.data.sources.rows import Row, Table
from smolforge.errors import DataError
from smolforge.records import fingerprint

LISTS = ("captions.jsonl", "metadata.jsonl", "metadata.csv")  # a folder of pictures has one of these
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
    return READERS[path.suffix](path)


def _from_folder(folder: Path, split: str, name: str | None) -> Table:
    for listed in LISTS:
        if (folder / listed).is_file():
            return table_of(folder / listed, split)
    import datasets

    if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
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
        try:
            return undecoded(datasets.load_dataset(str(folder), name, split=split))
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise DataError(f"not a readable dataset ({error})", where=folder, mend="check its files and split") from error
    raise DataError(
        "a folder without captions.jsonl, metadata.jsonl, metadata.csv or Parquet files",
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
    if name is None or (card.is_file() and re.search(r"^- config_name:", card.read_text("utf-8", "replace"), re.MULTILINE)):
        return folder, name
    if not (folder / name).is_dir():
        raise DataError(f"no configuration {name}", where=folder, mend="download it, or leave name out")
    return folder / name, None


class JsonLines:
    """A JSON Lines file, read line by line when asked; only line offsets are kept in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
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
            return _row(file.readline(), f"{self.path.name}, row {index}")


class JsonList:
    """A JSON file that is a long list of objects, read object by object when asked; only their places are kept in memory.

    Args:
        places: file in which they are kept for the next time; None keeps none.

    Raises:
        DataError: it is no list of objects, or is cut off.
    """

    def __init__(self, path: Path, places: Path | None = None) -> None:
        self.path = path
        if places and places.is_file():
            self.places = np.load(places)
            return
        self.places = np.array(list(_objects(path)), np.int64).reshape(-1, 2)  # start and end in bytes of each object
        if places:
            places.parent.mkdir(parents=True, exist_ok=True)
            begun = places.with_name(f"{places.name}.{os.getpid()}.npy")
            np.save(begun, self.places)
            begun.replace(places)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Row:
        start, end = map(int, self.places[index])
        with self.path.open("rb") as file:
            file.seek(start)
            return _row(file.read(end - start), f"{self.path.name}, row {index}")


CHUNK = 2**20  # bytes read at once
LONGEST = 64 * CHUNK  # of one object; more is taken for a mistake in it
_BETWEEN = re.compile(r"[\s,]*")


def _objects(path: Path) -> Iterator[tuple[int, int]]:
    """Start and end in bytes of each object in a list."""
    decode = json.JSONDecoder(strict=False).raw_decode
    with path.open("rb") as file:
        text, before, at = "", 0, 0  # what was read of the file and not yet passed by; bytes before it; place in it
        begun = False
        while True:
            at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
            if not begun and text[at : at + 1] == "[":
                begun, at = True, at + 1
            elif begun and text[at : at + 1] == "]":
                return
            elif begun and text[at : at + 1] == "{" and (end := _end(decode, text, at)):
                yield before + at, before + end
                at = end
            else:
                more = (
                    file.read(max(CHUNK, len(text) - at)) if text[at : at + 1] in ("", "{") and len(text) - at < LONGEST else b""
                )
                if not more:
                    what = f"not a whole list of objects (after byte {before + at})"
                    raise DataError(what, where=path, mend="download it again; a .json file holds a list of rows")
                # Latin-1 has one character a byte, so that places in the text are places in the file.
                text, before, at = text[at:] + more.decode("latin-1"), before + at, 0


def _end(decode: Callable[[str, int], tuple[Any, int]], text: str, at: int) -> int | None:
    """Where an object ends; None where it is not whole."""
    try:
        return decode(text, at)[1]
    except json.JSONDecodeError:
        return None


def _row(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError("not valid JSON", where=where, mend="mend the line") from error
    if not isinstance(row, dict):
        raise DataError("not a JSON object", where=where, mend="one object a line")
    return row


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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
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


def _csv_rows(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [{key: value or None for key, value in row.items() if key} for row in csv.DictReader(file)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"not a readable table ({error})", where=path, mend="save it as UTF-8 CSV") from error
    return rows


def _parquet(path: Path) -> Table:
    import datasets
    from pyarrow import ArrowException

    try:
        return undecoded(datasets.Dataset.from_parquet(str(path)))
    except (OSError, ValueError, ArrowException, datasets.exceptions.DatasetGenerationError) as error:
        raise DataError(f"not a readable Parquet file ({error})", where=path, mend="write it again") from error


def undecoded(dataset: Any) -> Table:
    """The same rows with pictures and videos as bytes: a damaged one is met, and counted, when it is needed."""
    import datasets

    plain = {datasets.Image: datasets.Image(decode=False), datasets.Video: datasets.Video(decode=False)}
    for column, feature in dataset.features.items():
        if type(feature) in plain:
            dataset = dataset.cast_column(column, plain[type(feature)])
        elif isinstance(feature, datasets.List) and type(feature.feature) in plain:
            dataset = dataset.cast_column(column, datasets.List(plain[type(feature.feature)]))
    return dataset


READERS: dict[str, Callable[[Path], Table]] = {
    ".jsonl": JsonLines, ".json": _json, ".parquet": _parquet, ".csv": _csv_rows
}  # fmt: skip
