"""A few rows of any source, as they stand there and as the records made of them. Asks for no more than those rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from smolforge.data.clean import EMPTY, IDENTICAL
from smolforge.data.film import timeline
from smolforge.data.media import open_picture
from smolforge.data.sources.rows import Row
from smolforge.data.sources.stream import StreamTable
from smolforge.data.sources.tables import named, open_source
from smolforge.errors import DataError
from smolforge.recipe import DataSection, Modality
from smolforge.records import Media, Record, Video
from smolforge.sourcing.disk import size
from smolforge.sourcing.heads import open_heads
from smolforge.sourcing.hub_files import one_line
from smolforge.terminal import printable
from smolforge.wording import how_many

LONG = 1200  # characters of a text that the terminal shows
SHORT = 60  # of a value in the table of columns
STYLES = {"system": "magenta", "user": "cyan", "assistant": "green"}
KINDS = {"target": "green", "chosen": "green", "rejected": "red", "other": "yellow", "option": "yellow"}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A row: its record, where there is one, and why a run would leave it out, where it would."""

    number: int
    record: Record | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a preview found."""

    section: DataSection  # as it was opened
    columns: tuple[tuple[str, str, str], ...]  # name, type, the first value, over the rows seen
    rows: tuple[Seen, ...]
    total: int | None  # rows of the split; None for a stream that goes on behind those seen
    modality: Modality | None
    heads: tuple[str, ...] = ()  # files on the Hub whose first rows these are; what rows name by path is then not here


def look(section: DataSection, rows: int = 3) -> Look:
    """Read a source's first rows. From the Hub they come as a stream, or from the heads of files: nothing else is downloaded.

    Args:
        section: as a recipe says it; for tables on the Hub `streaming` is set here, and of several configurations the first is
            taken where none is named.

    Raises:
        DataError: it cannot be opened.
    """
    section = _light(section)
    known, remote = named(section.source), _is_remote(section)
    heads: tuple[str, ...] = ()
    try:
        with one_line(section.source) if remote else nullcontext():
            if known and known.annotations and remote:
                source, heads = open_heads(section, known, rows)
            else:
                source = open_source(section)
            if section.streaming:
                source.table[source.rows[0]]  # here what is wrong with the network is said in one line
    except DataError as error:
        if section.fixture or not known:
            raise
        mend = f"{error.mend}; --fixture shows its columns without a network" if error.mend else "try --fixture"
        raise DataError(error.what, where=error.where, mend=mend) from error
    seen: list[Seen] = []
    raw: list[Row] = []
    total = None if source.endless or heads else len(source)
    for index in range(rows if source.endless else min(rows, len(source))):
        try:
            record = source.record(index)
            one = Seen(number=source.rows[index], record=record, error=fault_of(record, here=not heads))
        except DataError as error:
            one = Seen(number=source.rows[index], error=str(error))
        if isinstance(source.table, StreamTable) and source.table.epoch:  # it is over, and began anew with this row
            total = len(seen)
            break
        seen.append(one)
        with suppress(DataError):  # its reason is shown in the row's own place
            raw.append(source.table[source.rows[index]])
    return Look(
        section=section, columns=columns_of(raw), rows=tuple(seen), total=total, modality=source.modality, heads=heads
    )  # fmt: skip


def fault_of(record: Record, *, here: bool = True) -> str:
    """Why a run would leave a row out that has a record; empty where nothing speaks against it but what depends on the model.

    Args:
        here: whether what rows name by path is here, and is looked at.
    """
    parts: tuple[Media | Video, ...] = (*record.media, *record.videos)
    for part in parts:
        try:
            if here or not is_named(part):
                _look_at(part)
        except DataError:  # its reason is shown in the part's own place
            return f"its {'picture' if isinstance(part, Media) else 'video'} cannot be seen"
    turns = [[part for part in message.content if isinstance(part, str)] for message in record.messages if message.train]
    answers = [response.text.strip() for response in record.responses]
    if not all((*answers, *("".join(turn).strip() for turn in turns))):
        return EMPTY
    if [response.kind for response in record.responses] == ["chosen", "rejected"] and len(set(answers)) == 1:
        return IDENTICAL
    return ""


def columns_of(rows: Sequence[Row]) -> tuple[tuple[str, str, str], ...]:
    """(name, types, first value) of every column that any of the rows has, and in how many where not all have it.

    >>> columns_of([{"a": None, "b": "x"}, {"a": 1, "b": "y"}, {"b": 2.5, "c": []}])
    (('a', 'null or int, in 2 of 3 rows', '1'), ('b', 'str or float', 'x'), ('c', 'list, in 1 of 3 rows', '0'))
    """
    found = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if name in row]
        kinds = list(dict.fromkeys(map(kind_of, values)))
        if any(kind.startswith("list of") for kind in kinds):  # an empty list is of the others' kind
            kinds = [kind for kind in kinds if kind != "list"]
        there = "" if len(values) == len(rows) else f", in {len(values)} of {len(rows)} rows"
        value = next((value for value in values if value not in (None, "", [])), values[0])
        found.append((name, " or ".join(kinds) + there, value_of(value)))
    return tuple(found)


def _light(section: DataSection) -> DataSection:
    """The section such that opening it reads little."""
    known = named(section.source)
    if section.fixture:
        return section
    if known and known.needs_name and section.name is None and known.configs:
        section = section.model_copy(update={"name": known.configs[0]})
    if _is_remote(section) and not (known and known.annotations):
        section = section.model_copy(update={"streaming": True})
    return section


def _is_remote(section: DataSection) -> bool:
    """Whether the Hub is asked for the rows."""
    if section.fixture or section.dir is not None:
        return False
    known = named(section.source)
    return known.hub is not None if known else not Path(section.source).expanduser().exists()


def kind_of(value: Any) -> str:
    """A column's type, as its value tells it.

    >>> kind_of([{"from": "human", "value": "Hi"}]), kind_of({"bytes": b"..", "path": None}), kind_of(None), kind_of([])
    ('list of {from: str, value: str}', 'picture', 'null', 'list')
    """
    if isinstance(value, dict):
        if set(value) == {"bytes", "path"}:
            return "picture"
        return "{" + ", ".join(f"{key}: {kind_of(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"list of {kind_of(value[0])}" if value else "list"
    if isinstance(value, Image) or callable(value):
        return "picture"
    return "null" if value is None else type(value).__name__


def value_of(value: Any) -> str:
    """A value in a few words.

    >>> value_of("A dog."), value_of(b"1234"), value_of([1, 2])
    ('A dog.', '4 B', '2: 1')
    """
    if isinstance(value, bytes):
        return size(len(value))
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        return size(len(value["bytes"])) if value["bytes"] else str(value["path"])
    if isinstance(value, list | tuple):
        return _cut(f"{len(value)}: {value_of(value[0])}" if value else "0", SHORT)
    if isinstance(value, Image) or callable(value):
        return f"{value.width} x {value.height}" if isinstance(value, Image) else "drawn when asked for"
    return _cut(str(value), SHORT)


def _cut(text: str, most: int) -> str:
    text = printable(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


# --- for the terminal --------------------------------------------------------------------------------------------


def shown(found: Look) -> RenderableType:
    """The columns, and each row's record in colour."""
    section = found.section
    what = section.source + (f", {section.name}" if section.name else "") + f", {section.split}"
    rows = rows_in_words(found)
    parts: list[RenderableType] = [Text.assemble((what, "bold"), f": {rows}", f", {found.modality}" if found.modality else "")]
    if section.fixture:
        parts.append(Text("drawn rows in the real columns (--fixture): what they say is made up", style="yellow"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("column", "type", "first value"):
        table.add_column(title, overflow="fold")
    for cells in found.columns:
        table.add_row(*map(Text, cells))
    parts += [table, *(_row(seen, here=not found.heads) for seen in found.rows)]
    return Group(*parts)


def rows_in_words(found: Look) -> str:
    """How many rows there are, as far as a preview knows."""
    if found.heads:
        more = f" and {how_many(len(found.heads) - 1, 'more file')}" if len(found.heads) > 1 else ""
        return f"the first rows of {found.heads[0]}{more}; what they name by path was not fetched"
    return "a stream" if found.total is None else how_many(found.total, "row")


def _row(seen: Seen, *, here: bool) -> RenderableType:
    text = Text(f"\nrow {seen.number}", style="bold")
    if seen.record and seen.record.id != str(seen.number):
        text.append(f"  id {printable(seen.record.id)}", style="dim")
    if seen.error:
        text.append(f"  left out: {printable(seen.error)}", style="red")
    for speaker, kind, parts in turns(seen.record) if seen.record else ():
        # nothing of a row that is left out looks as if it were learnt
        style = "dim" if seen.error else KINDS.get(kind, "")
        text.append(f"\n{speaker:>10} ", style=style if seen.error else f"bold {STYLES.get(speaker) or style}")
        for part in parts:
            if isinstance(part, str):
                text.append(_cut(part, LONG).replace("\n", "\n" + " " * 11), style=style)
            else:
                text.append(f"[{media_words(part, here=here)}] ", style="blue")
    return text


def turns(record: Record) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """(who or what, kind of a response or "", parts), turn by turn and then the responses."""
    for message in record.messages:
        yield message.role, "target" if message.train else "", message.content
    for response in record.responses:
        yield response.kind, response.kind, (response.text,)


def media_words(part: Media | Video, *, here: bool = True) -> str:
    """What a picture or video is, or why it cannot be seen.

    Args:
        here: whether what rows name by path is here, and is looked at.
    """
    if not here and is_named(part):
        return f"{'picture' if isinstance(part, Media) else 'video'}, not here: {printable(str(part.ref))}"
    try:
        return _look_at(part)
    except DataError as error:
        return f"cannot be seen: {printable(str(error))}"


def is_named(part: Media | Video) -> bool:
    """Whether a row has a picture or video by its name alone."""
    return isinstance(part.ref, Path | str)


def _look_at(part: Media | Video) -> str:
    """What a picture, which is decoded for it, or a video is.

    Raises:
        DataError: it cannot be seen.
    """
    if isinstance(part, Media):
        picture = open_picture(part)
        picture.pixels()
        size_ = f" of {size(len(part.ref))}" if isinstance(part.ref, bytes) else ""
        return f"picture, {picture.width} x {picture.height}{size_}"
    film = timeline(part.ref, folder_fps=part.folder_fps)
    words = f"video, {float(film.seconds):.1f} s, {how_many(len(film.stamps), 'frame')}"
    if part.start is None and part.end is None:
        return words
    clip = film.clip(part.start, part.end)
    if clip is None:
        raise DataError(f"{words}, none of them between its start and end", where=part, mend="mend the row's times")
    return f"{words}, of it {float(clip.seconds):.1f} s from {part.start or 0:.1f} s on"
