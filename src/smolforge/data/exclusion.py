"""Rows that a recipe leaves out without anything being deleted: lists that `smolforge data dedupe` and `decontaminate` write.

A list is JSON Lines, one object a row left out; `excluded` reads what says which row it is, and people read the rest:

    {"source": "my_pictures", "name": null, "split": "train", "row": 17, "rows": 2000,
     "content": "5d41402abc4b2a76", "reason": "near-duplicate picture and text", "of": "my_pictures[3]", "distance": 2,
     "similarity": 0.93}

`source`, `name` and `split` say which table, another spelling of the same (a name on the Hub, a relative path) being the same.
`row` is the row's number in that table. Of several tables one behind the other (`name: all`, `split: train+test`) each counts
from 0, as if it had been asked for alone, so that one list serves every slice and every way to ask for the rows; where rows come
from files of annotations, `file` says which. Where the recipe gives a `dir` or a `revision`, so does the list, as other rows may
lie there; where its entries read one source at several of them, null says that an entry has none. A list that does not say serves
any one, and is refused for entries that read several. `rows` and `content` (of the row, see `rows.row_content`) say which version
of the table was meant: numbers in another version would name other rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from smolforge.data.sources.catalog import SOURCES, name_of
from smolforge.data.sources.rows import Table, row_content
from smolforge.errors import DataError
from smolforge.recipe import DataSection

AGAIN = "write the list again"
UNSAID = ""  # the folder or revision of a list that names none
LOOKED = 1000  # rows of a list whose content is looked at; of a longer one so many, first and last among them


class Place(NamedTuple):
    """A table in one spelling, so that equal ones are the same."""

    source: str
    name: Any = None
    split: str = ""  # without its slice; of annotations "file FILE", and no name
    fixture: bool = False  # drawn rows instead of the source
    dir: str | None = None  # the whole path
    revision: str | None = None  # of the Hub's


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One of the tables that a source has one behind the other, called as if it were asked for alone."""

    rows: int
    name: str | None = None  # configuration
    split: str = ""
    file: str | None = None  # of annotations, below the source's folder; it says more than name and split do

    @property
    def called(self) -> str:
        """What tells it from the others of its source.

        >>> Piece(name="ai2d", split="train", rows=9).called
        'ai2d train'
        """
        return self.file or " ".join(filter(None, (self.name, self.split)))


def place_of(section: DataSection, piece: Piece) -> Place:
    """Which table a piece is, in one spelling.

    >>> cauldron = DataSection(source="HuggingFaceM4/the_cauldron", name="all")
    >>> place_of(cauldron, Piece(name="ai2d", split="train", rows=9)) == place(DataSection(source="the_cauldron", name="ai2d"))
    True
    """
    if section.fixture:  # the same drawn rows stand for every table, each for its own
        return place(section)
    if piece.file is not None:
        return place(section)._replace(name=None, split=f"file {piece.file}")
    return place(section)._replace(name=piece.name, split=piece.split)


def place(section: DataSection) -> Place:
    """What a recipe's entry asks for, in one spelling: its table, or all of its tables together.

    >>> place(DataSection(source="HuggingFaceM4/the_cauldron", name=("ai2d",), split="train[:5%]"))
    Place(source='the_cauldron', name='ai2d', split='train', fixture=False, dir=None, revision=None)
    """
    folder = None if section.fixture else _folder(section.dir)
    table = Place(_source(section.source), _name(section.name), section.split.partition("[")[0], section.fixture, folder)
    return table if _is_here(table) else table._replace(revision=section.revision)


def several_homes(sections: Iterable[DataSection]) -> set[str]:
    """Sources, in one spelling, that a recipe's entries read in several folders or at several revisions."""
    homes: dict[str, set[tuple[str | None, str | None]]] = {}
    for table in map(place, sections):
        if not table.fixture:
            homes.setdefault(table.source, set()).add((table.dir, table.revision))
    return {source for source, found in homes.items() if len(found) > 1}


def excluded(paths: Iterable[Path], section: DataSection, pieces: Sequence[Piece], table: Table) -> set[int]:
    """Numbers of the rows that lists leave out of one source, counted through all of its pieces. A list may name rows of other
    tables only; `check_lists` sees to it that one of the recipe's entries is meant.

    Args:
        table: the pieces' rows, one behind the other.

    Raises:
        DataError: no such list, a malformed line, or a list for another version of the source.
    """
    total = sum(piece.rows for piece in pieces)
    starts: dict[Place, list[tuple[int, int]]] = {}  # (number of the first row, rows) of each table; one may come twice
    first = 0
    for piece in pieces:
        starts.setdefault(place_of(section, piece), []).append((first, piece.rows))
        first += piece.rows
    starts.setdefault(place(section), [(0, total)])  # a list that counts through all of them
    starts = {spelt: found for told, found in starts.items() for spelt in _spellings(told, section)}
    found: set[int] = set()
    for path in paths:
        listed: list[tuple[str, int, dict[str, Any]]] = []  # where, number through all pieces, line
        for where, entry, told in _lines(path):
            for start, rows in starts.get(told, ()):
                _same_version(entry, section, rows, where)
                found.add(start + entry["row"])
                if entry.get("content") is not None:
                    listed.append((where, start + entry["row"], entry))
        _same_rows(listed, section, table)
    return found


def check_lists(sections: Iterable[DataSection]) -> None:
    """Refuse lists that leave nothing out of any of a recipe's entries that name them, or out of those of one source although
    they name rows of it, or that may mean one of two tables. An empty list leaves nothing out by right, and a drawn fixture
    stands for a source whose rows the list means.

    Raises:
        DataError: such a list, or one that cannot be read.
    """
    users: dict[Path, list[DataSection]] = {}
    for section in sections:
        for path in section.exclude:
            users.setdefault(path, []).append(section)
    for path, entries in users.items():
        told = {told for _, _, told in _lines(path)}
        mend = "write it again for this recipe, or take it out of exclude"
        for section in entries:
            same = {one for one in told if one.source == _source(section.source) and one.fixture == section.fixture}
            if same and not any(_may_mean(one, other) for one in same for other in entries):
                theirs = ", ".join(sorted(map(_words, same)))
                what = f"names rows of {section.source} ({theirs}), none of {_words(place(section))}"
                raise DataError(what, where=path, mend=mend)
        for one in told:
            homes = {home_words(*place(section)[-2:]) for section in entries if not one.fixture and _may_mean(one, section)}
            if len(homes) > 1:
                theirs = " and with ".join(sorted(homes))
                what = f"names rows of {one.source}, which is read with {theirs}, and does not say which of them it means"
                raise DataError(what, where=path, mend=mend)
        drawn = any(section.fixture for section in entries)
        if told and not drawn and not any(_may_mean(one, section) for one in told for section in entries):
            theirs = ", ".join(sorted({other.source for other in told}))
            what = f"names no row of {', '.join(dict.fromkeys(section.source for section in entries))}, only of {theirs}"
            raise DataError(what, where=path, mend=mend)


def _may_mean(told: Place, section: DataSection) -> bool:
    """Whether a table may be one of those that an entry asks for; which they are, the opened source knows."""
    here = place(section)
    if told in _spellings(here, section):
        return True
    lies = {(spelt.source, spelt.dir, spelt.revision) for spelt in _spellings(here, section)}
    if here.fixture or told.fixture or (told.source, told.dir, told.revision) not in lies:
        return False
    known = SOURCES.get(here.source)
    if told.split.startswith("file "):
        return section.dir is not None or Path(here.source).is_dir()
    splits = (*here.split.split("+"), known.whole_split if known else None)
    names = here.name if isinstance(here.name, tuple) else (here.name,)
    return (here.name == "all" or told.name in names) and told.split in splits


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any], Place]]:
    """(where, line, the table it means) of a list."""
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataError("no such list", where=path, mend="check exclude, or write it with `smolforge data dedupe`") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"not a readable list ({error})", where=path, mend=AGAIN) from error
    sources: dict[str, str] = {}  # as it is spelt -> in one spelling; a look at the disk a source, not a line
    folders: dict[str | None, str | None] = {None: None, UNSAID: UNSAID}
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            entry = _entry(line, where)
            if (spelt := entry["source"]) not in sources:
                sources[spelt] = _source(spelt)
            if (there := entry.get("dir", UNSAID)) not in folders:
                folders[there] = _folder(Path(there))
            table = Place(sources[spelt], _name(entry.get("name")), entry["split"], bool(entry.get("fixture")), folders[there])
            if (file := entry.get("file")) is not None:
                table = table._replace(name=None, split=f"file {file}", fixture=False)
            revision = UNSAID if _is_here(table) else entry.get("revision", UNSAID)
            yield where, entry, table._replace(revision=revision)


def _is_here(table: Place) -> bool:
    """Whether rows are this machine's own files, or drawn, which have no revision."""
    return table.fixture or bool(table.dir) or Path(table.source).is_absolute()


def _source(source: str) -> str:
    """A source in one spelling: its name here, the whole path of what exists, else as it is."""
    if name := name_of(source):
        return name
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def _folder(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().resolve())


def _spellings(table: Place, section: DataSection) -> set[Place]:
    """As lists may name one of an entry's tables: with its folder and revision, or without. A folder is taken for the revision
    that the entry gives beside it, so that a list for the Hub's serves what was downloaded of it."""
    revisions = {table.revision, section.revision, UNSAID}
    return {table._replace(dir=folder, revision=revision) for folder in {table.dir, UNSAID} for revision in revisions}


def _name(name: Any) -> Any:
    """Configurations in one spelling: one of them alone is no list."""
    if isinstance(name, list | tuple):
        return name[0] if len(name) == 1 else tuple(name)
    return name


def _words(table: Place) -> str:
    """
    >>> _words(Place("the_cauldron", ("ai2d", "vqav2"), "train", dir="/data"))
    'name ai2d,vqav2, split train, dir /data'
    """
    _, name, split, _, folder, revision = table
    words = [f"name {name if isinstance(name, str) else ','.join(name)}"] if name else []
    words.append(split if split.startswith("file ") else f"split {split}")
    return ", ".join([*words, home_words(folder, revision)] if folder or revision else words)


def home_words(folder: Path | str | None, revision: str | None) -> str:
    """Where one of several copies of a source lies.

    >>> home_words("pets", None), home_words(None, "v2"), home_words(None, None)
    ('dir pets', 'revision v2', 'no dir or revision')
    """
    told = (("dir", folder), ("revision", revision))
    return ", ".join(f"{key} {value}" for key, value in told if value) or "no dir or revision"


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
    if not isinstance(entry.get("file"), str | None):
        raise DataError(
            f"file is {entry.get('file')!r}", where=where, mend="give the annotations' path below dir, or leave it out"
        )
    for key in ("dir", "revision", "content"):
        if not isinstance(entry.get(key), str | None):
            raise DataError(f"{key} is {entry.get(key)!r}", where=where, mend="give it as text, or leave it out")
    if type(entry.get("row")) is not int or entry["row"] < 0:
        raise DataError(f"row is {entry.get('row')!r}", where=where, mend="give its number in the table, counted from 0")
    return entry


def _same_version(entry: dict[str, Any], section: DataSection, rows: int, where: str) -> None:
    told = entry.get("rows")
    if told is not None and told != rows:
        raise DataError(f"for {told} rows of {section.source}, it has {rows}", where=where, mend=AGAIN)
    if entry["row"] >= rows:
        raise DataError(f"row {entry['row']} of {section.source}, which has {rows}", where=where, mend=AGAIN)


def _same_rows(listed: Sequence[tuple[str, int, dict[str, Any]]], section: DataSection, table: Table) -> None:
    """A table that was written anew with as many rows has others under the same numbers."""
    if len(listed) > LOOKED:
        listed = [listed[round(place * (len(listed) - 1) / (LOOKED - 1))] for place in range(LOOKED)]
    for where, number, entry in listed:
        try:
            same = row_content(table[number]) == entry["content"]
        except DataError:  # a row that cannot be read was in no list
            same = False
        if not same:
            raise DataError(f"row {entry['row']} of {section.source} is another than the list means", where=where, mend=AGAIN)
