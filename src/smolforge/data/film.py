"""Video files and folders of frames: when each frame is shown, and its picture when it is asked for.

A frame's name and size are known without its pixels, so that prompts are planned, and kept answers found, by reading alone.
Pixels are decoded when they are asked for, the video's chosen frames together, and kept for its next question.
"""

from __future__ import annotations

import hashlib
import math
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from PIL import Image

from smolforge.data.media import Drawing
from smolforge.errors import DataError, MediaError
from smolforge.records import Media, fingerprint

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

Version = tuple[int, int]  # of a file: time of its last change in nanoseconds, bytes

DECODING = 1  # raise it when the same file and stamp would give other pixels
# Videos whose times and names are kept, so that a shuffled table reads each once: Video-MME has 900, MLVU 1,730. Measured, an
# hour at 30 frames a second with a key frame every five takes 0.8 kB where both come evenly and 0.9 MB where neither does.
FILES_KEPT = 4096
FRAME_FILES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# What videos come in. Playlists are left out: they name other files and addresses, which would be opened too.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,rm"
SOUGHT_BY_DECODING_TIME = ("mpegts",)  # the other containers seek to the time that a frame is shown at


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """When a video's frames are shown, in ticks of the file's clock.

    >>> film = Timeline(stamps=(100, 140, 220), tick=Fraction(1, 1000), end=260)
    >>> float(film.seconds), [float(film.time(number)) for number in range(3)]
    (0.16, [0.0, 0.04, 0.12])
    """

    stamps: Sequence[int]  # rising, one a frame
    tick: Fraction  # seconds
    end: int  # when the last frame's time is over

    @property
    def seconds(self) -> Fraction:
        return (self.end - self.stamps[0]) * self.tick

    def time(self, number: int) -> Fraction:
        """Seconds from the first frame to frame `number`."""
        return (self.stamps[number] - self.stamps[0]) * self.tick

    def clip(self, start: float | None, end: float | None) -> Timeline | None:
        """Frames shown at `start` <= seconds < `end`, as a video of its own; None when there are none."""
        first = 0 if start is None else bisect_left(self.stamps, self._ticks(start))
        last = len(self.stamps) if end is None else bisect_left(self.stamps, self._ticks(end))
        if first >= last:
            return None
        after = self.stamps[last] if last < len(self.stamps) else self.end
        return replace(self, stamps=self.stamps[first:last], end=after)

    def _ticks(self, seconds: float) -> int:
        return self.stamps[0] + math.ceil(Fraction(seconds).limit_denominator(10**6) / self.tick)  # 0.1 means a tenth


def timeline(path: Path, *, folder_fps: float = 3.0) -> Timeline:
    """When each frame of a video file, or of a folder of frames, is shown.

    Raises:
        DataError: PyAV is missing.
        MediaError: missing, damaged, or without a moving picture.
    """
    if not path.is_dir():
        return _film(path, _version(path)).timeline
    count = len(_frame_files(path))
    if not count:
        raise MediaError("no frames in this folder", where=path, mend=f"frames are files named {', '.join(FRAME_FILES)}")
    return Timeline(stamps=range(count), tick=1 / Fraction(folder_fps), end=count)


def frame_pictures(path: Path, stamps: tuple[int, ...]) -> list[Media]:
    """Frames of a video file, or of a folder, at some of its stamps; none is decoded."""
    if path.is_dir():
        files = _frame_files(path)
        return [Media(ref=files[stamp], split=False) for stamp in stamps]
    version = _version(path)
    return [Media(ref=_Frame(path, version, stamps, place), split=False) for place in range(len(stamps))]


def _frame_files(folder: Path) -> list[Path]:
    return sorted((f for f in folder.iterdir() if f.suffix.lower() in FRAME_FILES and f.name[0] != "."), key=_by_numbers)


def _by_numbers(file: Path) -> tuple[list[str | int], str]:
    """Orders names with numbers by their values, 2.jpg before 10.jpg. In a split name every second piece is a number."""
    return [int(piece) if place % 2 else piece for place, piece in enumerate(re.split("([0-9]+)", file.stem))], file.name


def _version(path: Path) -> Version:
    try:
        state = path.stat()
    except FileNotFoundError as error:
        raise MediaError("no such video", where=path, mend="check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise MediaError(f"cannot be read ({error})", where=ascii(str(path)), mend="check the path") from error
    return state.st_mtime_ns, state.st_size


def _check_unchanged(path: Path, version: Version) -> None:
    if _version(path) != version:  # other pixels would come under the old name
        raise MediaError("changed since it was first looked at", where=path, mend="start again")


_ONE_AT_A_TIME = Lock()  # threads that ask for the same video at once wait for the first one's frames


@dataclass(frozen=True)
class _Frame(Drawing):
    """Draws a frame. Equal for the same frame in every question about the video."""

    path: Path
    version: Version
    stamps: tuple[int, ...]  # of all frames that were chosen with it
    place: int  # among them

    @property
    def key(self) -> str:
        return fingerprint(DECODING, _content(self.path, self.version), self.stamps[self.place])

    @property
    def size(self) -> tuple[int, int]:
        return _film(self.path, self.version).size

    def __call__(self) -> Image.Image:
        with _ONE_AT_A_TIME:
            return _decoded(self.path, self.version, self.stamps)[self.place]


@lru_cache(maxsize=FILES_KEPT)
def _content(path: Path, version: Version) -> str:
    """Hash of all that is in the file, so that a folder that was moved keeps its answers.

    The first and the last part alone would not tell a whole download from one with a hole. Measured, a gigabyte takes 1.2 s; its
    packets were all read before, for the timeline.
    """
    _check_unchanged(path, version)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror})", where=path, mend="check the file") from error


@lru_cache(maxsize=2)  # questions about a video follow each other; 64 frames of 720p are 177 MB
def _decoded(path: Path, version: Version, stamps: tuple[int, ...]) -> list[Image.Image]:
    film = _film(path, version)
    pictures = _decode(path, version, stamps, film.keys, film.seeks)
    if pictures is None:
        pictures = _decode(path, version, stamps, (), ())
    assert pictures is not None
    return pictures


@dataclass(frozen=True, kw_only=True)
class _Film:
    """What one reading of a file's packets tells."""

    timeline: Timeline
    size: tuple[int, int]  # width and height of the first frame, upright
    keys: Sequence[int]  # stamps of the frames that decoding can begin at
    seeks: Sequence[int]  # what to seek to for each of them


@lru_cache(maxsize=FILES_KEPT)
def _film(path: Path, version: Version) -> _Film:
    """Packets tell when frames are shown, though in the order of decoding, and which ones an edit list cuts off (discard).

    How the picture is turned only a frame tells, so packets are decoded until the first one comes out.
    """
    with _opened(path, version) as (container, stream):
        by_decoding = container.format.name in SOUGHT_BY_DECODING_TIME
        shown: dict[int | None, int] = {}  # stamp to duration, 0 where the container does not say it
        keys: list[tuple[int, int]] = []
        size: tuple[int, int] | None = None
        for packet in container.demux(stream):
            size = size or _first_size(packet)
            if packet.size and not packet.is_discard:
                shown[packet.pts] = packet.duration or 0
                if packet.is_keyframe and packet.pts is not None:
                    keys.append((packet.pts, packet.dts if by_decoding and packet.dts is not None else packet.pts))
        index = stream.index_entries
        if len(index) and index[-1].pos + index[-1].size > version[1]:
            raise MediaError("cut short: its index tells of more than is there", where=path, mend="copy the file again")
        tick, rate = stream.time_base, stream.average_rate
    stamps = sorted(stamp for stamp in shown if stamp is not None)
    if not shown:
        raise MediaError("a video without frames", where=path, mend="replace the file")
    if tick is None or None in shown:
        raise MediaError("frames without times", where=path, mend="put the stream into an MP4 or MKV file")
    if size is None:
        raise MediaError("no frame can be decoded", where=path, mend="replace the file")
    last = shown[stamps[-1]]
    if last <= 0:
        last = round((stamps[-1] - stamps[0]) / (len(stamps) - 1)) if len(stamps) > 1 else round(1 / (rate or 1) / tick)
    keys.sort()
    return _Film(
        timeline=Timeline(stamps=_compact(stamps), tick=tick, end=stamps[-1] + max(last, 1)),
        size=size,
        keys=_compact([stamp for stamp, _ in keys]),
        seeks=_compact([place for _, place in keys]),
    )


def _first_size(packet: Packet) -> tuple[int, int] | None:
    """Width and height of a packet's first frame, upright; None while the decoder waits for more, or cannot read this one."""
    import av

    try:
        frames = packet.decode()
    except av.FFmpegError:
        return None
    return next((_upright_size(frame) for frame in frames if isinstance(frame, av.VideoFrame)), None)


def _compact(numbers: list[int]) -> Sequence[int]:
    """A range where steps are even, eight bytes a number where not.

    >>> _compact([0, 512, 1024]), _compact([0, 33, 67])
    (range(0, 1536, 512), array('q', [0, 33, 67]))
    """
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    even = range(numbers[0], numbers[0] + step * len(numbers), step) if numbers and step else range(0)
    return even if list(even) == numbers else array("q", numbers)


def _decode(
    path: Path, version: Version, stamps: Sequence[int], keys: Sequence[int], seeks: Sequence[int]
) -> list[Image.Image] | None:
    """Frames at these stamps, upright and RGB. Where a key frame lies between one and the next, decoding goes on from there.

    None when seeking went astray, as it does in streams without an index (MPEG-PS even gives frames another's time then).
    Without `keys` nothing is sought.
    """
    pictures: list[Image.Image] = []
    with _opened(path, version) as (container, stream):
        stream.thread_type = "AUTO"
        frames = _shown(container, stream)
        shown = next(frames, None)
        for stamp in stamps:
            key = bisect_right(keys, stamp) - 1
            if shown is not None and key >= 0 and keys[key] > shown[0]:
                container.seek(seeks[key], stream=stream)
                frames = _shown(container, stream)
                shown = next(frames, None)
                if shown is None or shown[0] != keys[key] or not shown[1].key_frame:
                    return None
            while shown is not None and shown[0] < stamp:
                shown = next(frames, None)
            if shown is None:
                raise MediaError(f"{len(pictures)} of {len(stamps)} frames can be decoded", where=path, mend="replace the file")
            pictures.append(_upright(shown[1]))
    return pictures


def _shown(container: InputContainer, stream: VideoStream) -> Iterator[tuple[int, VideoFrame]]:
    return ((frame.pts, frame) for frame in container.decode(stream) if frame.pts is not None)


def _upright(frame: VideoFrame) -> Image.Image:
    """RGB, turned as the file's display matrix says, to the next quarter. Mirroring is left alone."""
    image = frame.to_image()
    turn = COUNTERCLOCKWISE.get(_quarters(frame))
    return image if turn is None else image.transpose(turn)


def _upright_size(frame: VideoFrame) -> tuple[int, int]:
    return (frame.height, frame.width) if _quarters(frame) % 2 else (frame.width, frame.height)


def _quarters(frame: VideoFrame) -> int:
    return round(frame.rotation / 90) % 4


COUNTERCLOCKWISE = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}


@contextmanager
def _opened(path: Path, version: Version) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A video file and its main video stream; PyAV's many ways to fail as one MediaError."""
    _check_unchanged(path, version)
    try:
        import av
        from av.stream import Disposition
    except ImportError as error:
        raise DataError("videos need PyAV", where=path, mend="pip install av") from error
    rules = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        with av.open(f"file:{path}", options=rules, metadata_errors="ignore") as container:
            stream = container.streams.best("video")
            cover = stream is not None and stream.disposition & Disposition.attached_pic  # of a sound file
            if not isinstance(stream, av.VideoStream) or cover:
                raise MediaError("no moving picture in it", where=path, mend="give a video")
            yield container, stream
    except (av.FFmpegError, ValueError, MemoryError, IndexError) as error:  # IndexError: a stream appears half way
        why = error.strerror if isinstance(error, av.FFmpegError) else error
        raise MediaError(f"damaged, or not a video that can be read ({why})", where=path, mend="replace the file") from error
