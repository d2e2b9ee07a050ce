"""What a source says, before tokens and pixels: `Record`, `Message`, `Media`, `Video`, `Response`.

A record is a prompt (`messages`) and the responses that share it. Media are references (path, address, bytes, or a
picture in memory) until something needs their pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image

# other: another prompt's answer, for estimates; option: what could be said to a question of multiple choice
ResponseKind = Literal["target", "chosen", "rejected", "other", "option"]
Spoilt = Literal["crop", "noise"]
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, kw_only=True)
class Media:
    """One picture: where it is, not what it shows.

    `ref` is a path, an http(s) address, the encoded file's bytes, a `PIL.Image.Image`, or a function that draws one
    or reads its bytes.
    """

    ref: Path | str | bytes | Image | Callable[[], Image | bytes]
    split: bool = True  # False: shown whole as one tile, as frames of a video are
    edge: int | None = None  # its longest edge before tiling, where one was drawn; never more than the rules' own

    def __str__(self) -> str:
        if isinstance(self.ref, bytes):
            return f"<picture of {len(self.ref)} bytes>"
        return str(self.ref) if isinstance(self.ref, Path | str) else "<picture in memory>"


class Film(Protocol):
    """Frames that are drawn on demand, as a video file's are decoded."""

    @property
    def key(self) -> str:
        """Content's name, equal for equal content."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of every frame."""

    @property
    def num_frames(self) -> int: ...

    @property
    def fps(self) -> float:
        """Frames a second."""

    def frame(self, number: int) -> Image:
        """Frame `number`, counted from 0."""


@dataclass(frozen=True, kw_only=True)
class Video:
    """One video: where it is. Which of its frames are seen the renderer decides, by the recipe's `video`.

    `ref` is a file, a folder of frames in the order of their names, an encoded file's bytes, or frames drawn on demand.
    """

    ref: Path | bytes | Film
    start: float | None = None  # seconds; what comes before is cut off
    end: float | None = None  # seconds; this moment and what comes after is cut off
    folder_fps: float = 3.0  # frames a second that a folder holds

    def __str__(self) -> str:
        if isinstance(self.ref, bytes):
            return f"<video of {len(self.ref)} bytes>"
        return str(self.ref) if isinstance(self.ref, Path) else "<drawn video>"


Part = str | Media | Video


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn. `train` marks an assistant turn inside the prompt that is a training target too (chat data)."""

    role: Role
    content: tuple[Part, ...]
    train: bool = False


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """How the prompt's pictures are spoilt before an answer is scored: a small crop (mDPO) or diffusion noise (POVID).

    The draw is a function of the picture's content, so that it can be repeated and its log-probs be kept.
    """

    kind: Spoilt
    scale: tuple[float, float] = (0.01, 0.2)  # crop: share of the area that is kept
    step: int = 500  # noise: diffusion step of 1000


@dataclass(frozen=True, kw_only=True)
class Response:
    """One continuation of the prompt by the assistant.

    `spans` are optional `[start, end)` character ranges of `text` that a human corrected (RLHF-V). With a distortion the
    answer follows the same prompt with spoilt pictures. One that does not close is only a beginning, such as an option's letter.
    """

    text: str
    kind: ResponseKind = "target"
    spans: tuple[tuple[int, int], ...] = ()
    distortion: Distortion | None = None
    closes: bool = True  # ends with the closing token


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row of a source: a prompt and the responses that share it."""

    id: str
    source: str
    messages: tuple[Message, ...]
    responses: tuple[Response, ...]

    @property
    def media(self) -> tuple[Media, ...]:
        return tuple(part for message in self.messages for part in message.content if isinstance(part, Media))

    @property
    def videos(self) -> tuple[Video, ...]:
        return tuple(part for message in self.messages for part in message.content if isinstance(part, Video))

    @property
    def words(self) -> str:
        """The prompt's texts, as a person reads them."""
        return "\n".join(part for message in self.messages for part in message.content if isinstance(part, str))

    @property
    def prompt(self) -> Record:
        """The record without its responses: what a model is asked."""
        return replace(self, responses=())

    @property
    def name(self) -> str:
        """How errors and skip reports call this record."""
        return f"{self.source}[{self.id}]"


def fingerprint(*parts: Any) -> str:
    """A short, stable name for content: hex of BLAKE2b over the parts' bytes or `repr`."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
