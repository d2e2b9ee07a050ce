"""A few rows of any source, as they stand there and as the records made of them. Asks for no more than those rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from smolforge.data.film import timeline
from smolforge.data.media import open_picture
from smolforge.data.sources.stream import StreamTable
from smolforge.data.sources.tables import named, open_source
from smolforge.errors import DataError
from smolforge.recipe import DataSection, Modality
from smolforge.records import Media, Record, Video
from smolforge.sourcing.disk import size
from smolforge.sourcing.hub_files import one_line

LONG = 1200  # characters of a text that the terminal shows
SHORT = 60  # of a value in the table of columns
STYLES = {"system": "magenta", "user": "cyan", "assistant": "green"}
KINDS = {"target": "green", "chosen": "green", "rejected": "red", "other": "yellow", "option": "yellow"}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A row: its record, or why there is none."""

    number: int
    record: Record | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a preview found."""

    section: DataSection  # as it was opened
    columns: tuple[tuple[str, str, str], ...]  # name, type, value in the first row
    rows: tuple[Seen, ...]
    total: int | None  # rows of the split; None for a stream that goes on behind those seen
    modality: Modality | None


def look(section: DataSection, rows: int = 3) -> Look:
    """Read a source's first rows. From the Hub they come as a stream: nothing else is downloaded.

    Args:
        section: as a recipe says it; for what is on the Hub `streaming` is set here, and of several configurations the first is
            taken where none is named.

    Raises:
        DataError: it cannot be opened.
    """
    section = _light(section)
    try:
        with one_line(section.source) if section.streaming else nullcontext():
            source = open_source(section)
            first = source.table[source.rows[0]]
    except DataError as error:
        if section.fixture or not named(section.source):
            raise
        mend = f"{error.mend}; --fixture shows its columns without a network" if error.mend else "try --fixture"
        raise DataError(error.what, where=error.where, mend=mend) from error
    seen: list[Seen] = []
    total = None if source.endless else len(source)
    for index in range(rows if total is None else min(rows, total)):
        try:
            one = Seen(number=source.rows[index], record=source.record(index))
        except DataError as error:
            one = Seen(number=source.rows[index], error=str(error))
        if isinstance(source.table, StreamTable) and source.table.epoch:  # it is over, and began anew with this row
            total = len(seen)
            break
        seen.append(one)
    columns = tuple((name, kind_of(value), value_of(value)) for name, value in first.items())
    return Look(section=section, columns=columns, rows=tuple(seen), total=total, modality=source.modality)


def _light(section: DataSection) -> DataSection:
    """The section such that opening it reads little."""
    known = named(section.source)
    if section.fixture:
        return section
    if known and known.needs_name and section.name is None and known.configs:
        section = section.model_copy(update={"name": known.configs[0]})
    on_hub = known.hub is not None if known else not Path(section.source).expanduser().exists()
    if on_hub and section.dir is None and not (known and known.annotations):
        section = section.model_copy(update={"streaming": True})
    return section


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


def printable(text: str) -> str:
    """A text that cannot command the terminal.

    >>> printable("a\\x1b[2Jb")
    'a�[2Jb'
    """
    return "".join(letter if letter.isprintable() or letter == "\n" else "\t" if letter == "\t" else "�" for letter in text)


# --- for the terminal --------------------------------------------------------------------------------------------


def shown(found: Look) -> RenderableType:
    """The columns, and each row's record in colour."""
    section = found.section
    what = section.source + (f", {section.name}" if section.name else "") + f", {section.split}"
    rows = "a stream" if found.total is None else f"{found.total:,} rows"
    parts: list[RenderableType] = [Text.assemble((what, "bold"), f": {rows}", f", {found.modality}" if found.modality else "")]
    if section.fixture:
        parts.append(Text("drawn rows in the real columns (--fixture): what they say is made up", style="yellow"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("column", "type", "first row"):
        table.add_column(title, overflow="fold")
    for cells in found.columns:
        table.add_row(*map(Text, cells))
    parts += [table, *(_row(seen) for seen in found.rows)]
    return Group(*parts)


def _row(seen: Seen) -> RenderableType:
    text = Text(f"\nrow {seen.number}", style="bold")
    if seen.record is None:
        return text.append(f"  left out: {seen.error}", style="red")
    if seen.record.id != str(seen.number):
        text.append(f"  id {printable(seen.record.id)}", style="dim")
    for speaker, kind, parts in turns(seen.record):
        text.append(f"\n{speaker:>10} ", style=f"bold {STYLES.get(speaker) or KINDS[kind]}")
        for part in parts:
            if isinstance(part, str):
                text.append(_cut(part, LONG).replace("\n", "\n" + " " * 11), style=KINDS[kind] if kind else "")
            else:
                text.append(f"[{media_words(part)}] ", style="blue")
    return text


def turns(record: Record) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """(who or what, kind of a response or "", parts), turn by turn and then the responses."""
    for message in record.messages:
        yield message.role, "target" if message.train else "", message.content
    for response in record.responses:
        yield response.kind, response.kind, (response.text,)


def media_words(part: Media | Video) -> str:
    """What a picture or video is, or why it cannot be seen."""
    try:
        if isinstance(part, Media):
            picture = open_picture(part)
            size_ = f" of {size(len(part.ref))}" if isinstance(part.ref, bytes) else ""
            return f"picture, {picture.width} x {picture.height}{size_}"
        film = timeline(part.ref, folder_fps=part.folder_fps)
        clip = film.clip(part.start, part.end)
        words = f"video, {float(film.seconds):.1f} s, {len(film.stamps)} frames"
        if part.start is None and part.end is None:
            return words
        return f"{words}, of it {float(clip.seconds):.1f} s from {part.start or 0:.1f} s on" if clip else f"{words}, of it none"
    except DataError as error:
        return f"cannot be seen: {printable(str(error))}"
