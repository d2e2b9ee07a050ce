"""A preview as a page: rows with their pictures, and four frames of each video."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from smolforge.data.media import open_picture
from smolforge.data.video import video_parts
from smolforge.errors import DataError
from smolforge.records import Media, Record, Video
from smolforge.report.page import Html, facts, join, page, save, section, table, tag
from smolforge.sourcing.preview import Look, Seen, is_named, media_words, rows_in_words, turns

EDGE = 480  # longest edge of a picture on the page, in pixels
FRAMES = 4  # of a video


def write_page(found: Look, out: Path) -> Path:
    """Write a preview's page.

    Raises:
        UserError: the place is a folder.
    """
    name = found.section.source
    about = [
        ("configuration", str(found.section.name or "")), ("split", found.section.split), ("holds", found.modality or ""),
        ("rows", rows_in_words(found) if found.heads or found.total is None else f"{found.total:,}"),
    ]  # fmt: skip
    words = "Drawn rows in the real columns: what they say is made up." if found.section.fixture else ""
    made_up = tag("p", words, class_="lead") if words else Html()
    head = [tag("th", title, class_="words") for title in ("column", "type", "first value")]
    columns = table(head, [[tag("td", cell, class_="words") for cell in row] for row in found.columns])
    body = (
        tag("h1", name),
        facts(about),
        made_up,
        section("Columns", columns),
        section("Rows", *(_row(seen, here=not found.heads) for seen in found.rows)),
    )
    return save(out, page(name, *body))


def _row(seen: Seen, *, here: bool) -> Html:
    title = tag("h3", f"Row {seen.number}")
    why = tag("p", f"left out: {seen.error}", class_="bad") if seen.error else Html()
    if seen.record is None:
        return join((title, why))
    said = []
    for speaker, _, parts in turns(seen.record):
        words = [
            part if isinstance(part, str) else tag("small", f"[{media_words(part, here=here)}] ", class_="dim") for part in parts
        ]
        said += [tag("dt", speaker), tag("dd", *words, class_="dim") if seen.error else tag("dd", *words)]
    pictures = _pictures(seen.record, here=here)
    shots = tag("div", *pictures, class_=f"shots {'one' if len(pictures) == 1 else 'many'}")
    lines = tag("div", tag("dl", *(tag("div", *pair, class_="all") for pair in zip(said[::2], said[1::2]))))
    return join((title, why, tag("div", shots, lines, class_="card pair")))


def _pictures(record: Record, *, here: bool) -> list[Html]:
    """Thumbnails, or why there is none; nothing for what is not here."""
    found = []
    for message in record.messages:
        for part in message.content:
            if isinstance(part, Media | Video) and (here or not is_named(part)):
                try:
                    found += [_thumbnail(one) for one in _stills(part)]
                except DataError as error:
                    found.append(tag("p", str(error), class_="bad small"))
    return found


def _stills(part: Media | Video) -> list[Media]:
    if isinstance(part, Media):
        return [part]
    pieces = video_parts(part.ref, max_frames=FRAMES, start=part.start, end=part.end, folder_fps=part.folder_fps)
    return [piece for piece in pieces if isinstance(piece, Media)]


def _thumbnail(media: Media) -> Html:
    image = open_picture(media).pixels()
    image.thumbnail((EDGE, EDGE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return tag("img", alt="", src=f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}")
