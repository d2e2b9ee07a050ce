"""Every row of some sources with its pictures' marks, so that what compares rows never opens a file.

Decoding is what takes time (3 to 4 ms a photo of 640 x 480), so it runs in threads, each mark is kept in the user's cache by the
encoded file's content, and a second run, or one that was stopped, only reads the files' bytes. A row that cannot be read is
counted and named, never fatal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from smolforge.curating.hashing import VERSION, mark
from smolforge.data.exclusion import check_lists, home_words, place, place_of, several_homes
from smolforge.data.features import cache_folder
from smolforge.data.film import frame_pictures, timeline
from smolforge.data.media import Picture, open_picture
from smolforge.data.shares import config_words
from smolforge.data.sources.source import Source
from smolforge.data.sources.tables import open_source
from smolforge.errors import DataError
from smolforge.recipe import DataSection
from smolforge.records import Media, Record, Video
from smolforge.store import Store

TOGETHER = 64  # rows whose encoded pictures are in memory at once
NAMED = 5  # rows that a count names
UNOPENED = Video(ref=b"<unopened>")  # stands for a video that is not looked at, and says that the row has one


class Readable(Protocol):
    """Rows as records: an opened source, a benchmark, a folder of pictures."""

    @property
    def name(self) -> str: ...

    @property
    def rows(self) -> Sequence[int]:
        """Numbers of the rows in the whole table."""

    def record(self, index: int) -> Record:
        """Raises DataError."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A recipe's entry and its rows."""

    section: DataSection
    source: Source
    apart: bool = False  # another entry reads the same source in another folder or at another revision
    home: str = ""  # that folder or revision in words, where rows of several are compared

    @property
    def title(self) -> str:
        """What the entry asks for, in words."""
        return " ".join(filter(None, (_at(self.section.source, self.home), config_words(self.section), self.section.split)))


@dataclass(frozen=True, kw_only=True)
class Read:
    """A row as it was read."""

    source: int  # which of the sources, counted from 0
    index: int  # of the row in it
    record: Record
    marks: tuple[bytes, ...]  # of its pictures, in order; of each video its first, middle and last frame


@dataclass(kw_only=True)
class Skips:
    """Rows that were not compared: how many, why, and some of their names."""

    counts: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, why: str, name: str) -> None:
        self.counts[why] = self.counts.get(why, 0) + 1
        if len(named := self.names.setdefault(why, [])) < NAMED:
            named.append(name)


def open_tables(sections: Sequence[DataSection]) -> list[Table]:
    """Every entry of a recipe's data, told from each other.

    Raises:
        DataError: as `open_entries`.
    """
    return told_apart(open_entries(sections))


def open_entries(sections: Sequence[DataSection]) -> list[Table]:
    """Every entry of a recipe's data; `told_apart` then gives them their titles.

    Raises:
        DataError: one cannot be opened, is streamed and has no row numbers, or leaves out rows by a list that means others.
    """
    check_lists(sections)
    apart = several_homes(sections)
    tables = []
    for section in sections:
        if section.streaming:
            raise DataError("a stream has no row numbers to list", where=section.source, mend="set streaming to false")
        tables.append(Table(section=section, source=open_source(section), apart=place(section).source in apart))
    return tables


def told_apart(tables: Sequence[Table]) -> list[Table]:
    """With titles by which rows of one source at several homes, or of several of its tables, are told from each other."""
    several = several_homes(table.section for table in tables)
    homes = [
        home_words(section.dir, section.revision) if place(section).source in several and not section.fixture else ""
        for section in (table.section for table in tables)
    ]
    titles = [_at(table.source.name, home) for table, home in zip(tables, homes, strict=True)]
    read: dict[str, set[str]] = {}
    for title, table in zip(titles, tables, strict=True):
        read.setdefault(title, set()).update(piece.called for piece in table.source.pieces)
    told = []
    for title, home, table in zip(titles, homes, tables, strict=True):
        pieces = table.source.pieces
        if len(pieces) == 1 and len(read[title]) > 1:  # of several its own say it, row by row
            title = f"{title} {pieces[0].called}"
        told.append(replace(table, home=home, source=replace(table.source, title=title)))
    return told


def _at(name: str, home: str) -> str:
    return f"{name} ({home})" if home else name


def picture_store(cache: Path | None) -> Store:
    """Marks by the pictures' content, in the user's cache or the recipe's `cache.dir`."""
    file = cache_folder(cache) / "curating" / f"marks-{VERSION}.sqlite"
    return Store(file, about={"mark": str(VERSION)}, what="picture marks", mend="delete it: it is computed anew")


def read_tables(
    tables: Sequence[Table], store: Store | None, skips: Skips, *, max_pixels: int, tick: Callable[[], object]
) -> Iterator[Read]:
    """Every row of a recipe's entries once, in their order: a row that a second entry reads again is passed over."""
    seen: set[tuple[object, int]] = set()

    def fresh(number: int, index: int) -> bool:
        piece, row = tables[number].source.piece(index)
        key = (place_of(tables[number].section, piece), row)
        if key in seen:
            skips.add("read by an entry before", row_name(tables[number].source, index))
            return False
        seen.add(key)
        return True

    sources = [table.source for table in tables]
    return read_rows(sources, store, skips, max_pixels=max_pixels, tick=tick, wanted=fresh if len(tables) > 1 else None)


def read_rows(
    sources: Sequence[Readable],
    store: Store | None,
    skips: Skips,
    *,
    max_pixels: int,
    tick: Callable[[], object],
    wanted: Callable[[int, int], bool] | None = None,
) -> Iterator[Read]:
    """Every row that can be read, in order.

    Args:
        store: of marks; None opens no picture.
        skips: takes what cannot be read.
        tick: called after each row, read or not.
        wanted: (source, index) -> whether to read the row; None reads all.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for number, source in enumerate(sources):
            for start in range(0, len(source.rows), TOGETHER):
                records: dict[int, Record] = {}
                for index in range(start, min(start + TOGETHER, len(source.rows))):
                    tick()
                    if wanted is not None and not wanted(number, index):
                        continue
                    try:
                        records[index] = source.record(index)
                    except DataError as error:
                        skips.add("not readable", f"{row_name(source, index)} ({error.what})")
                marks = (
                    _marks(records, source, store, skips, max_pixels, pool) if store is not None else dict.fromkeys(records, ())
                )
                for index, found in marks.items():
                    yield Read(source=number, index=index, record=records[index], marks=found)


def row_name(source: Readable, index: int) -> str:
    """How people and lists name a row: source[number in the table], and which table where there are several."""
    if isinstance(source, Source) and len(source.pieces) > 1:
        piece, row = source.piece(index)
        return f"{source.called} {piece.called}[{row}]"
    return f"{called(source)}[{source.rows[index]}]"


def called(source: Readable) -> str:
    """How people name a source beside the others that are compared."""
    return source.called if isinstance(source, Source) else source.name


def pictures(record: Record) -> list[Media]:
    """Every picture of a row in order, of each video its first, middle and last frame.

    Raises:
        MediaError: a video that cannot be read.
    """
    found: list[Media] = []
    for message in record.messages:
        for part in message.content:
            if isinstance(part, Media):
                found.append(part)
            elif isinstance(part, Video) and part is not UNOPENED:
                found.extend(_frames(part))
    return found


def _frames(video: Video) -> list[Media]:
    """One frame alone would make all films that begin black the same."""
    ref = video.ref
    whole = timeline(ref, folder_fps=video.folder_fps)
    shown = whole.clip(video.start, video.end)
    if shown is None:
        raise DataError("no frame between its start and end", where=video, mend="mend the row's times")
    stamps = shown.stamps
    return frame_pictures(ref, tuple(sorted({stamps[0], stamps[len(stamps) // 2], stamps[-1]})))


def _marks(
    records: dict[int, Record], source: Readable, store: Store, skips: Skips, max_pixels: int, pool: Executor
) -> dict[int, tuple[bytes, ...]]:
    """Marks of the rows whose pictures can all be read."""
    opened: dict[int, list[Picture]] = {}
    for index, result in zip(records, pool.map(partial(_open, max_pixels=max_pixels), records.values()), strict=True):
        if isinstance(result, DataError):
            skips.add("a picture not readable", f"{row_name(source, index)} ({result.what})")
        else:
            opened[index] = result
    by_key = {picture.key: picture for found in opened.values() for picture in found}
    known = store.get(list(by_key))
    missing = [key for key in by_key if key not in known]
    failed: dict[str, DataError] = {}
    computed: dict[str, bytes] = {}
    for key, outcome in zip(missing, pool.map(_mark, (by_key[key] for key in missing)), strict=True):
        if isinstance(outcome, DataError):
            failed[key] = outcome
        else:
            computed[key] = outcome
    if computed:
        store.put(computed)
    marks = {}
    for index, found in opened.items():
        if broken := next((failed[picture.key] for picture in found if picture.key in failed), None):
            skips.add("a picture not readable", f"{row_name(source, index)} ({broken.what})")
        else:
            marks[index] = tuple(known.get(picture.key) or computed[picture.key] for picture in found)
    return marks


def _open(record: Record, *, max_pixels: int) -> list[Picture] | DataError:
    try:
        return [open_picture(media, max_pixels=max_pixels) for media in pictures(record)]
    except DataError as error:
        return error


def _mark(picture: Picture) -> bytes | DataError:
    try:
        return mark(picture.pixels())
    except DataError as error:
        return error
