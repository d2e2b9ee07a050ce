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

from smolforge.data.sources.configs import names_in, of_config
from smolforge.data.sources.files import LARGE, is_lone
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


def loose_files(folder: Path, split: str, name: str | None) -> list[Path]:
    """Files with the rows of a split, sorted; none where the folder's rows lie otherwise (a list beside pictures, a saved
    dataset, Parquet files), or nowhere.

    Args:
        name: a folder or file below, where there are several tables; or a configuration of the card.

    Raises:
        DataError: no such name or split, or it is not clear which files are meant.
    """
    saved = any((folder / one).is_file() for one in ("dataset_info.json", "dataset_dict.json"))
    if not folder.is_dir() or is_lone(folder) or saved or any(folder.rglob("*.parquet")):
        return []
    if _has_configs(folder):
        return _by_card(folder, split, name)
    paths = sorted(path for kind in KINDS for path in _below(folder, kind))
    if not paths:
        return []
    if name is not None and not (paths := of_config(every := paths, name, None, where=folder)):
        mend = f"it has {some(every, NAMED)}; download it, or leave name out"
        raise DataError(f"no configuration {name}", where=folder, mend=mend)
    return [folder / path for path in _one_table(_of_split(paths, split, folder), folder)]


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
    import datasets

    try:
        files = datasets.load_dataset_builder(str(folder), name).config.data_files or {}
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        what = f"not a readable dataset ({' '.join(str(error).split())})"
        raise DataError(what, where=folder, mend="give one of its configurations as name, or mend README.md") from error
    if split not in files:
        raise DataError(f"no split {split}", where=folder, mend=f"it has {', '.join(files)}")
    found = [Path(file) for file in files[split]]
    return found if all(file.suffix in KINDS for file in found) else []


def _of_split(paths: Sequence[str], split: str, folder: Path) -> list[str]:
    told = {path: split_in(path) for path in paths}
    asked = next((one for one, words in SPLITS.items() if split in words), split)
    found = [path for path in paths if told[path] == asked or (asked not in SPLITS and asked in names_in(path))]
    if not found and asked == "train":
        found = [path for path in paths if told[path] is None]
    if not found:
        there = ", ".join(sorted({one or "train" for one in told.values()}))
        raise DataError(f"no split {split}", where=folder, mend=f"it has {there}")
    return found


def split_in(path: str) -> str | None:
    """The split that a file's name tells, else the nearest folder's that tells one.

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


def _one_table(paths: Sequence[str], folder: Path) -> list[str]:
    """Those that hold rows.

    Raises:
        DataError: none does, or they are several tables.
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
    if len(groups) > 1:
        told = "; ".join(map(str, groups[:NAMED])) + (f"; {len(groups) - NAMED} more" if len(groups) > NAMED else "")
        mend = f"give a folder or file of one as name, such as name: {_telling(groups[0].paths, paths)}"
        raise DataError(f"{len(groups)} tables that do not fit together: {told}", where=folder, mend=mend)
    return list(groups[0].paths)


def _telling(wanted: Sequence[str], paths: Sequence[str]) -> str:
    """A name that the wanted files have in common and no other has, best one that tells no split; else the first one's file."""
    common = set.intersection(*map(names_in, wanted)).difference(*(names_in(path) for path in paths if path not in wanted))
    return min(common, key=lambda one: (split_in(one) is not None, len(one), one), default=PurePosixPath(wanted[0]).name)


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
    """Whether a .json file without a list of objects is none at all, and not settings or something else that is no rows."""
    if file.stat().st_size > LARGE:
        return False
    try:
        json.loads(file.read_bytes())
    except ValueError:
        return True
    return False
