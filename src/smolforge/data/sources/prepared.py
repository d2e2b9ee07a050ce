"""Folders that `smolforge data prepare` wrote: rows that are records already, with their pictures and videos beside them.

Row:

    {"record": '{"id": "17", "source": "rlaif_v", "messages": [{"role": "user", "content": [{"image": 0}, "What is it?"]}],
                 "responses": [{"text": "A cat.", "kind": "chosen"}, {"text": "A dog.", "kind": "rejected"}]}',
     "images": [b"\\xff\\xd8..."], "videos": ["videos/5d41.mp4"], "tokens": 412, "tiles": 5, "row": 17}

Pictures are the bytes of their files. Of what was drawn in memory the pixels are kept as PNG, with the name that the drawing
had, so that features and references that were kept for it are found again. A text that the recipe's `prompt` may replace is
{"text": "Give a concise caption.", "asked": "<slot>"}.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from PIL import Image

from smolforge.data.media import Drawing
from smolforge.data.sources.cards import refuse_stray_tables
from smolforge.errors import DataError
from smolforge.records import Distortion, Media, Message, Part, Record, Response, Video

if TYPE_CHECKING:
    import datasets

MARKER = "smolforge.json"  # stands in a folder that is whole
FORMAT = 1  # raise it when older folders cannot be read any more
SLOT = "\ue000"  # stands for the recipe's prompt; a letter of private use, which no text should hold
DATASET = "train"  # the one split of such a folder

Row = dict[str, Any]
Kept = dict[str, Any]  # a picture or video as the row's JSON names it


def is_prepared(folder: Path) -> bool:
    """Whether `smolforge data prepare` finished this folder."""
    return (folder / MARKER).is_file()


def open_prepared(folder: Path, split: str = DATASET) -> datasets.Dataset:
    """Rows of a prepared folder, read from the disk as they are asked for.

    Raises:
        DataError: made by another version, damaged, or another split is asked for.
    """
    import datasets

    if split != DATASET:
        mend = "prepare applied the recipe's split; write train, or a slice of it"
        raise DataError(f"no split {split}: what was prepared is one split, train", where=folder, mend=mend)
    read_marker(folder)
    refuse_stray_tables(folder)
    try:
        return datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"not readable ({error})", where=folder, mend="prepare it again") from error


def read_marker(folder: Path) -> dict[str, Any]:
    """What a prepared folder says about itself: source, modality, rows, excluded (by lists, before), left_out, bytes, about.

    Raises:
        DataError: no marker that this version reads.
    """
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"its {MARKER} cannot be read ({error})", where=folder, mend="prepare it again") from error
    if not isinstance(marker, dict) or marker.get("format") != FORMAT:
        raise DataError("was prepared by another version of smolforge", where=folder, mend="prepare it again")
    return marker


# --- row -> record -----------------------------------------------------------------------------------------------


def record(row: Row, *, id: str, source: str, base: Path | None = None, prompt: str | None = None) -> Record:
    """Row -> Record, with the id and the source that it had before.

    Args:
        base: the prepared folder, which videos lie below.
        prompt: instruction instead of the row's own, where the original source took one too.

    Raises:
        DataError: a malformed row.
    """
    kept = json.loads(row["record"])
    messages = tuple(
        Message(
            role=message["role"],
            content=tuple(_part(part, row, base, prompt) for part in message["content"]),
            train=message.get("train", False),
        )
        for message in kept["messages"]
    )
    return Record(id=kept["id"], source=kept["source"], messages=messages, responses=tuple(map(_response, kept["responses"])))


def _part(part: str | Kept, row: Row, base: Path | None, prompt: str | None) -> Part:
    if isinstance(part, str):
        return part
    if "text" in part:
        return part["text"] if prompt is None else part["asked"].replace(SLOT, prompt)
    if "image" in part:
        data = row["images"][part["image"]]
        drawn = part.get("drawn")
        ref = KeptDrawing(name=drawn["key"], edges=tuple(drawn["size"]), data=data) if drawn else data
        return Media(ref=ref, split=part.get("split", True))
    path = _inside(row["videos"][part["video"]], base)
    film = part.get("film")
    ref = (
        KeptFilm(folder=path, key=film["key"], size=tuple(film["size"]), num_frames=film["frames"], fps=film["fps"])
        if film
        else path
    )
    return Video(ref=ref, start=part.get("start"), end=part.get("end"), folder_fps=part.get("folder_fps", 3.0))


def _inside(name: str, base: Path | None) -> Path:
    relative = PurePosixPath(name)
    if base is None or relative.is_absolute() or ".." in relative.parts:
        raise DataError("a video outside of its folder", where=name, mend="prepare it again")
    return base / name


def _response(kept: Kept) -> Response:
    spoilt = kept.get("distortion")
    return Response(
        text=kept["text"],
        kind=kept["kind"],
        spans=tuple((start, end) for start, end in kept.get("spans", ())),
        distortion=Distortion(kind=spoilt["kind"], scale=tuple(spoilt["scale"]), step=spoilt["step"]) if spoilt else None,
        closes=kept.get("closes", True),
    )


@dataclass(frozen=True, kw_only=True)
class KeptDrawing(Drawing):
    """A picture that was drawn in memory: its pixels in a PNG, under the name that it had."""

    name: str
    edges: tuple[int, int]
    data: bytes

    @property
    def key(self) -> str:
        return self.name

    @property
    def size(self) -> tuple[int, int]:
        return self.edges

    def __call__(self) -> Image.Image:
        return Image.open(io.BytesIO(self.data), formats=("PNG",))


@dataclass(frozen=True, kw_only=True)
class KeptFilm:
    """Frames that were drawn on demand: each a PNG in a folder."""

    folder: Path
    key: str
    size: tuple[int, int]
    num_frames: int
    fps: float

    def frame(self, number: int) -> Image.Image:
        with Image.open(self.folder / frame_name(number), formats=("PNG",)) as image:
            image.load()
            return image


def frame_name(number: int) -> str:
    """
    >>> frame_name(7)
    '000007.png'
    """
    return f"{number:06d}.png"


# --- record -> row -----------------------------------------------------------------------------------------------


def text_of(record: Record, asked: Record, *, picture: Callable[[Media], Kept], video: Callable[[Video], Kept]) -> str:
    """The JSON of a record.

    Args:
        asked: the same record made with `SLOT` as its prompt, which shows where a prompt goes.
        picture: keeps a picture, and says how the row names it.
        video: likewise.
    """
    messages = []
    for message, slots in zip(record.messages, asked.messages, strict=True):
        content: list[str | Kept] = []
        for part, slot in zip(message.content, slots.content, strict=True):
            if isinstance(part, str):
                content.append({"text": part, "asked": slot} if isinstance(slot, str) and slot != part else part)
            else:
                content.append(picture(part) if isinstance(part, Media) else video(part))
        messages.append({"role": message.role, "content": content} | ({"train": True} if message.train else {}))
    kept = {
        "id": record.id, "source": record.source, "messages": messages,
        "responses": [_to_json(response) for response in record.responses],
    }  # fmt: skip
    return json.dumps(kept)


def _to_json(response: Response) -> Kept:
    """Only what differs from a plain answer."""
    spoilt = response.distortion
    more: Mapping[str, Any] = {
        "spans": response.spans,
        "distortion": spoilt and {"kind": spoilt.kind, "scale": spoilt.scale, "step": spoilt.step},
    }
    kept = {"text": response.text, "kind": response.kind} | {name: value for name, value in more.items() if value}
    return kept if response.closes else kept | {"closes": False}
