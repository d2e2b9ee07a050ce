"""Rows that lie as JSON Lines, JSON or CSV files somewhere below a folder, as many repositories of the Hub are laid out.

    README.md  .smolforge/download.json  images.zip.unpacked  dataset_infos.json      no rows
    images/1.jpg                                       what rows name, beside their own file or below the folder
    data/train.jsonl  data/test.jsonl                  a split each: by a word in the file's name, else in its folders'
    annotations/vqa.json  annotations/captions.json    two tables, as they have other columns: `name: vqa` says which

Where the card has `configs`, its names and files count. Files of one kind with the same columns are one table, as for
`datasets`; where that is not so, nobody is asked to guess.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from smolforge.data.sources.cards import refuse_strays
from smolforge.data.sources.configs import each_once, names_in, of_config, places_in
from smolforge.data.sources.files import BLANK, LARGE, configuration, is_lone
from smolforge.data.sources.json_lists import object_places, row_of
from smolforge.errors import DataError
from smolforge.wording import some

KINDS = (".jsonl", ".json", ".csv")
ASIDE = ("config.json", "dataset_dict.json", "dataset_info.json", "dataset_infos.json", "smolforge.json", "state.json")
SPLITS = {  # and the words that files and folders have for them, which are those of `datasets`
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
NAMED = 4  # files, or tables, that an error names


def asked_files(folder: Path, splits: Sequence[str], names: Sequence[str | None]) -> list[Path]:
    """Files with the rows of several configurations, each with its splits, as `loose_files` finds them.

    Raises:
        DataError: as `loose_files`, or two of them have a file in common.
    """
    asked = [(split, name) for name in names for split in splits]
    return each_once(((" of ".join(filter(None, one)), loose_files(folder, *one)) for one in asked), folder)


def loose_files(folder: Path, split: str, name: str | None) -> list[Path]:
    """Files with the rows of a split, sorted; none where the folder's rows lie otherwise (a list beside pictures, a saved
    dataset, Parquet files), or nowhere.

    Args:
        name: a folder or file below, by its name or path, where there are several tables; or a configuration of the card.

    Raises:
        DataError: no such name or split, or it is not clear which files are meant.
    """
    if not _is_plain(folder) or any(folder.rglob("*.parquet")):
        return []
    if _has_configs(folder):
        return _by_card(folder, split, name)
    every = sorted(path for kind in KINDS for path in _below(folder, kind))
    if not every:
        return []
    if not (paths := every if name is None else of_config(every, name, None, where=folder)):
        mend = f"it has {some(every, NAMED)}; download it, or leave name out"
        raise DataError(f"no configuration {name}", where=folder, mend=mend)
    tables = _tables(_of_split(paths, split, folder), folder)
    if len(tables) > 1:
        told = "; ".join(map(str, tables[:NAMED])) + (f"; {len(tables) - NAMED} more" if len(tables) > NAMED else "")
        mend = f"give a folder or file of one as name, such as name: {_telling(tables, every, split, folder)}"
        raise DataError(f"{len(tables)} tables that do not fit together: {told}", where=folder, mend=mend)
    return [folder / path for path in tables[0].paths]


def mixed_files(folder: Path, splits: Sequence[str], names: Sequence[str | None]) -> list[Path]:
    """Files with the rows of a folder that has Parquet files too, where `datasets`, which decides by their number, takes others.

    Raises:
        DataError: no such name or split, or a card that cannot be read.
    """
    if not _is_plain(folder) or not any(folder.rglob("*.parquet")) or not any(_below(folder, kind) for kind in KINDS):
        return []
    asked = [(*configuration(folder, name), split) for name in names for split in splits]
    found = {file for where, name, split in asked for file in _by_datasets(where, split, name)}
    return sorted(found) if any(file.suffix != ".parquet" for file in found) else []


def holds_rows(folder: Path) -> bool:
    """Whether a JSON Lines, JSON or CSV file below a folder holds rows, of whichever split or table. Settings, what tells of one
    picture, and blank files hold none."""
    files = (folder / path for kind in KINDS for path in _below(folder, kind))
    return any(_columns(file) is not None for file in files if file.stat().st_size > BLANK or file.read_bytes().strip())


def _is_plain(folder: Path) -> bool:
    """Whether it is a folder, and neither a saved dataset nor pictures with a list."""
    saved = any((folder / one).is_file() for one in ("dataset_info.json", "dataset_dict.json"))
    return folder.is_dir() and not is_lone(folder) and not saved


def _below(folder: Path, kind: str) -> list[str]:
    """Paths of a kind that may hold rows: none that is hidden, or is known to tell something else."""
    paths = (file.relative_to(folder) for file in folder.rglob(f"*{kind}") if file.is_file() and file.name not in ASIDE)
    return [path.as_posix() for path in paths if not any(part.startswith((".", "__")) for part in path.parts)]


# --- which configuration, which split ------------------------------------------------------------------------------


def _has_configs(folder: Path) -> bool:
    card = folder / "README.md"
    return card.is_file() and re.search(r"^configs:", card.read_text("utf-8", "replace"), re.MULTILINE) is not None


def _by_card(folder: Path, split: str, name: str | None) -> list[Path]:
    """As `datasets` reads the card; none where its files are of other kinds."""
    found = _by_datasets(folder, split, name)
    return found if all(file.suffix in KINDS for file in found) else []


def _by_datasets(folder: Path, split: str, name: str | None) -> list[Path]:
    """Files that `datasets` takes for a split's."""
    import datasets

    refuse_strays(folder)
    whole = folder.resolve()  # what files are found by; and `csv` alone would be a builder of `datasets`
    try:
        files = datasets.load_dataset_builder(str(whole), name).config.data_files or {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, datasets.exceptions.DatasetsError) as error:
        what = f"not a readable dataset ({' '.join(str(error).split())})"
        raise DataError(what, where=folder, mend="give one of its configurations as name, or mend README.md") from error
    if split not in files:
        raise DataError(f"no split {split}", where=folder, mend=f"it has {', '.join(files)}")
    found = [Path(file) for file in files[split]]
    if strays := [file for file in found if not file.is_relative_to(whole) or ".." in file.parts]:
        raise DataError(f"its card names files that are not below it: {strays[0]}", where=folder, mend="mend README.md")
    return [folder / file.relative_to(whole) for file in found]


def _of_split(paths: Sequence[str], split: str, folder: Path) -> list[str]:
    told = {path: split_in(path) for path in paths}
    asked = _meant(split)
    found = [path for path in paths if _meant(told[path]) == asked or (asked not in SPLITS and asked in names_in(path))]
    if asked in SPLITS and any(told[path] == split for path in found):
        # In data/ shards of `val` and of `validation` are two splits to `datasets`; elsewhere `validation` has both.
        found = [path for path in found if told[path] == split or (split == asked and not path.startswith("data/"))]
    if not found and asked == "train":
        found = [path for path in paths if told[path] is None]
    if not found:
        there = ", ".join(sorted({one or "train" for one in told.values()}))
        raise DataError(f"no split {split}", where=folder, mend=f"it has {there}")
    return found


def _meant(word: str | None) -> str | None:
    """The split that a word stands for, if it does for one."""
    return next((split for split, words in SPLITS.items() if word in words), word)


def split_in(path: str) -> str | None:
    """The split that a file's name tells, else the nearest folder's that tells one; a shard's in its own word.

    >>> [split_in(path) for path in ("data/train.jsonl", "a_dev-2.json", "test/contest.csv", "b-00000-of-00002.json", "a.csv")]
    ['train', 'validation', 'test', 'b', None]
    """
    place = PurePosixPath(path)
    if shard := re.fullmatch(r"(.+)-\d{5}-of-\d{5}.*", place.name):
        return shard[1]
    for part in (place.stem, *reversed(place.parts[:-1])):
        words = re.split(r"[-._ 0-9]+", part.lower())
        if found := next((split for split, known in SPLITS.items() if not set(known).isdisjoint(words)), None):
            return found
    return None


# --- one table, or several -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Files of one kind whose columns fit together."""

    kind: str
    columns: frozenset[str]
    paths: tuple[str, ...]

    def fits(self, other: _Group) -> bool:
        """A row may lack what is empty."""
        return self.kind == other.kind and (self.columns <= other.columns or other.columns <= self.columns)

    def joined(self, other: _Group) -> _Group:
        return replace(self, columns=self.columns | other.columns, paths=self.paths + other.paths)

    def __str__(self) -> str:
        return f"{some(self.paths, 1)} ({', '.join(sorted(self.columns)[:NAMED]) or 'no readable row'})"


def _tables(paths: Sequence[str], folder: Path) -> list[_Group]:
    """Files that hold rows, put together as far as they fit.

    Raises:
        DataError: none does.
    """
    groups: list[_Group] = []
    for path in paths:
        if (columns := _columns(folder / path)) is None:
            continue
        new = _Group(kind=PurePosixPath(path).suffix, columns=columns, paths=(path,))
        fitting = next((number for number, one in enumerate(groups) if one.fits(new)), None)
        if fitting is None:
            groups.append(new)
        else:
            groups[fitting] = groups[fitting].joined(new)
    if not groups:
        raise DataError(
            f"no rows in {some(paths, NAMED)}", where=folder, mend="a .json file of rows is a list of objects, or has it as data"
        )
    return groups


def _telling(tables: Sequence[_Group], every: Sequence[str], split: str, folder: Path) -> str:
    """A name that gives one of the tables and nothing else, best one that tells no split; where none does, the paths of one."""
    for table in tables:
        common = set.intersection(*({*names_in(path), *places_in(path)} for path in table.paths))
        for name in sorted(common, key=lambda one: (split_in(one) is not None, len(one), one)):
            if tuple(_of_split(of_config(every, name, None, where=folder), split, folder)) == table.paths:
                return name
    fewest = min((table.paths for table in tables), key=len)
    return f"[{some(fewest, NAMED)}]"


def _columns(file: Path) -> frozenset[str] | None:
    """Of a file's first row; no columns of a row that cannot be read, which is met, and told, when it is needed. None: it holds
    no rows."""
    if file.suffix == ".csv":
        return _header(file)
    try:
        with file.open("rb") as lines:
            if file.suffix == ".jsonl":
                first = next((line for line in lines if line.strip()), None)
            else:
                place = next(object_places(lines, file), None)
                lines.seek(place[0] if place else 0)
                first = lines.read(place[1] - place[0]) if place else None
        return None if first is None else frozenset(row_of(first, file.name))
    except DataError:
        return frozenset() if file.suffix == ".jsonl" or _is_broken(file) else None


def _header(file: Path) -> frozenset[str] | None:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            names = next(csv.reader(lines), None)
    except (UnicodeDecodeError, csv.Error):
        return frozenset()
    return None if names is None else frozenset(filter(None, names))


def _is_broken(file: Path) -> bool:
    """Whether a .json file without a list of objects is none at all, and not settings or something else that is no rows. Of a
    long one that would take all of it in memory to tell, so it is not passed over."""
    if file.stat().st_size > LARGE:
        return True
    try:
        json.loads(file.read_bytes())
    except ValueError:
        return True
    return False
