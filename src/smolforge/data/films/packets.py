"""What one reading of a video file's packets tells, whatever library decodes it: frames' times, size, turn and key frames.

Decided here, for all of them: which stream is shown, what an edit list cuts off, which file is refused and in which words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from smolforge.data.films.timeline import Timeline, compact
from smolforge.errors import DataError, MediaError

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

Version = tuple[int, int]  # of a file: time of its last change in nanoseconds, bytes

# Videos whose times and names are kept, so that a shuffled table reads each once: Video-MME has 900, MLVU 1,730. Measured, an
# hour at 30 frames a second with a key frame every five takes 0.8 kB where both come evenly and 0.9 MB where neither does.
FILES_KEPT = 4096
# What videos come in. Playlists are left out: they name other files and addresses, which would be opened too.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,rm"
SOUGHT_BY_DECODING_TIME = ("mpegts",)  # the other containers seek to the time that a frame is shown at
MAX_PIXELS = 8192 * 4352  # a frame of 8K; 64 of them are 6.8 GB as RGB, those of a bomb more than a machine has
MAX_PACKETS = 24 * 3600 * 120  # a day at 120 frames a second: a file that says more is no video to learn from


@dataclass(frozen=True, kw_only=True)
class VideoIndex:
    """What one reading of a file's packets tells."""

    timeline: Timeline
    size: tuple[int, int]  # width and height of the first frame, upright
    quarters: int  # how often the picture is turned by 90 degrees, counter-clockwise, to stand upright
    keys: Sequence[int]  # stamps of the frames that decoding can begin at
    seeks: Sequence[int]  # what to seek to for each of them
    container: str  # FFmpeg's name of the format
    stream: int  # index among all of the file's streams
    video: int  # index among its video streams
    trimmed: bool  # an edit list cuts frames off
    closed: bool  # at every key frame decoding begins anew: no frame after it in the file is shown before it, or needs another


@lru_cache(maxsize=FILES_KEPT)
def video_index(path: Path, version: Version) -> VideoIndex:
    """Packets tell when frames are shown, though in the order of decoding, and which ones an edit list cuts off (discard).

    How the picture is turned only a frame tells, so packets are decoded until the first one comes out.

    Raises:
        DataError: PyAV is missing.
        MediaError: damaged, cut short, without a moving picture, without times, or far too large.
    """
    with opened(path, version) as (container, stream):
        by_decoding = container.format.name in SOUGHT_BY_DECODING_TIME
        shown: dict[int | None, int] = {}  # stamp to duration, 0 where the container does not say it
        keys: list[tuple[int, int]] = []
        first: tuple[tuple[int, int], int] | None = None
        trimmed, closed = False, True
        for number, packet in enumerate(container.demux(stream)):
            if number >= MAX_PACKETS:
                raise MediaError(f"more than {MAX_PACKETS} packets", where=path, mend="cut it to less than a day")
            first = first or _first_frame(packet)
            trimmed = trimmed or packet.is_discard
            if packet.size and not packet.is_discard:
                shown[packet.pts] = packet.duration or 0
                if packet.is_keyframe and packet.pts is not None:
                    closed = closed and _begins_anew(packet, stream)
                    keys.append((packet.pts, packet.dts if by_decoding and packet.dts is not None else packet.pts))
                elif keys and packet.pts is not None and packet.pts < keys[-1][0]:
                    closed = False
        entries = stream.index_entries
        if len(entries) and entries[-1].pos + entries[-1].size > version[1]:
            raise MediaError("cut short: its index tells of more than is there", where=path, mend="copy the file again")
        tick, rate, name = stream.time_base, stream.average_rate, container.format.name
        places = stream.index, [one.index for one in container.streams.video].index(stream.index)
    stamps = sorted(stamp for stamp in shown if stamp is not None)
    if not shown:
        raise MediaError("a video without frames", where=path, mend="replace the file")
    if tick is None or None in shown:
        raise MediaError("frames without times", where=path, mend="put the stream into an MP4 or MKV file")
    if first is None:
        raise MediaError("no frame can be decoded", where=path, mend="replace the file")
    last = shown[stamps[-1]]
    if last <= 0:
        last = round((stamps[-1] - stamps[0]) / (len(stamps) - 1)) if len(stamps) > 1 else round(1 / (rate or 1) / tick)
    keys.sort()
    return VideoIndex(
        timeline=Timeline(stamps=compact(stamps), tick=tick, end=stamps[-1] + max(last, 1)),
        size=first[0],
        quarters=first[1],
        keys=compact([stamp for stamp, _ in keys]),
        seeks=compact([place for _, place in keys]),
        container=name,
        stream=places[0],
        video=places[1],
        trimmed=trimmed,
        closed=closed,
    )


def version_of(path: Path) -> Version:
    """What tells that a file is still the one that was looked at.

    Raises:
        MediaError: missing, or not to be read.
    """
    try:
        state = path.stat()
    except FileNotFoundError as error:
        raise MediaError("no such video", where=path, mend="check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        why = error.strerror if isinstance(error, OSError) else error
        raise MediaError(f"cannot be read ({why})", where=ascii(str(path)), mend="check the path") from error
    return state.st_mtime_ns, state.st_size


def check_unchanged(path: Path, version: Version) -> None:
    """Raises MediaError when the file is another one by now."""
    if version_of(path) != version:  # other pixels would come under the old name
        raise MediaError("changed since it was first looked at", where=path, mend="start again")


def quarters(frame: VideoFrame) -> int:
    """Counter-clockwise turns by 90 degrees that put a frame upright, as its display matrix says, to the next quarter."""
    return round(frame.rotation / 90) % 4


@contextmanager
def opened(path: Path, version: Version) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A video file and its main video stream; PyAV's many ways to fail as one MediaError."""
    check_unchanged(path, version)
    try:
        import av
        from av.stream import Disposition
    except ImportError as error:
        raise DataError("videos need PyAV", where=path, mend="pip install av") from error
    # Where FFmpeg's threads report through Python, as they do once torchvision was loaded, whoever closes a file may wait for a
    # thread that waits for the interpreter's lock: seen, for ever. Silence is PyAV's own setting.
    av.logging.set_level(None)
    rules = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        with av.open(f"file:{path}", options=rules, metadata_errors="ignore") as container:
            stream = container.streams.best("video")
            cover = stream is not None and stream.disposition & Disposition.attached_pic  # of a sound file
            if not isinstance(stream, av.VideoStream) or cover:
                raise MediaError("no moving picture in it", where=path, mend="give a video")
            if stream.codec_context is None:
                raise MediaError("its codec is unknown", where=path, mend="encode it as H.264")
            if stream.width * stream.height > MAX_PIXELS:
                where = f"{path}, {stream.width} x {stream.height} pixels a frame"
                raise MediaError("too many pixels a frame", where=where, mend=f"at most {MAX_PIXELS} can be read")
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # frames may say otherwise than the container
            yield container, stream
    except (av.FFmpegError, ValueError, MemoryError, IndexError) as error:  # IndexError: a stream appears half way
        why = error.strerror if isinstance(error, av.FFmpegError) else error
        raise MediaError("damaged, or not a video that can be read", where=f"{path} ({why})", mend="replace the file") from error


def _begins_anew(packet: Packet, stream: VideoStream) -> bool:
    """Whether a key frame is what it is called. In H.264 it may also be a place from which some frames later all is whole again.

    Then it holds no slice of an IDR picture: NAL units of type 5 (H.264, 7.4.1), each behind its length (MP4, MKV) or 0 0 1.
    """
    if stream.codec_context.name != "h264":
        return True
    data, about = bytes(packet), stream.codec_context.extradata or b""
    if about[:1] != b"\x01":
        return any(unit and unit[0] & 31 == 5 for unit in data.split(b"\0\0\1")[1:])
    width, place = (about[4] & 3) + 1 if len(about) > 4 else 4, 0
    while place + width < len(data):
        if data[place + width] & 31 == 5:
            return True
        place += width + int.from_bytes(data[place : place + width], "big")
    return False


def _first_frame(packet: Packet) -> tuple[tuple[int, int], int] | None:
    """Upright size and quarters of a packet's first frame; None while the decoder waits for more, or cannot read this one."""
    import av

    try:
        frames = packet.decode()
    except av.FFmpegError:
        return None
    for frame in frames:
        if isinstance(frame, av.VideoFrame):
            turns = quarters(frame)
            return ((frame.height, frame.width) if turns % 2 else (frame.width, frame.height)), turns
    return None
