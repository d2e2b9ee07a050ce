"""Frames by torchcodec, decord or torchvision instead of PyAV, for whoever has reasons to prefer one of them.

Times, sizes and what is refused come from the file's packets (`packets.video_index`), which PyAV reads; a library only decodes,
and every frame that it gives is checked against them. What it could give wrongly is an error that names PyAV: turned pictures,
files with an edit list, frames whose times differ, and for decord, which does not tell the time of what it decoded, streams
in which it was seen to miss.

| backend | tried | checks |
|---|---|---|
| pyav | 18.1 | each frame's time |
| decord | decord 0.6.0, decord2 3.4.0 | its table of times; MP4, MOV, MKV, WebM with closed groups of pictures |
| torchcodec | 0.12.0, 0.13.0, 0.17.0 | each frame's time; no MPEG streams, in which it loses its place |
| torchvision | 0.25.0's reader, which is PyAV; from 0.27 on there is none | each frame's time |

Pixels are PyAV's to the byte for 8 bits a channel and even sides. Of other videos torchcodec and decord make RGB in another way,
which shows at sharp edges of colour, and what stands in for a damaged place is each library's own (docs/data.md has the numbers).

`auto` is PyAV: it is always installed and reads every file that the others read. Older pipelines took decord on Linux and
torchvision on Apple's machines; a choice by what else is installed would change pictures' names, and with them every kept feature
and answer.
"""

from __future__ import annotations

import os
import re
import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from smolforge.data.films.decoding import pyav_frames
from smolforge.data.films.packets import Version, VideoIndex, check_unchanged, version_of, video_index
from smolforge.errors import DataError, MediaError

Backend = Literal["auto", "pyav", "torchcodec", "decord", "torchvision"]

AUTO: Backend = "pyav"
MODULES: dict[Backend, str] = {"decord": "decord", "torchcodec": "torchcodec.decoders", "torchvision": "torchvision.io"}
PYAV = "use video.backend: pyav"
MENDS: dict[Backend, str] = {
    "decord": f"{PYAV}, or pip install decord2",
    "torchcodec": f"{PYAV}, or pip install torchcodec (0.13.0 beside a torch without CUDA) and FFmpeg's shared libraries",
    "torchvision": f"{PYAV}, for torchvision reads no videos from 0.27 on",
}
SOUGHT_BY_DECORD = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # it gave other frames of MPEG-TS and MPEG-PS
LOST_BY_TORCHCODEC = ("mpegts", "mpeg")  # it seeks too far: of ten requests none (TS) or one (PS) was met
PLACE_IN_SOURCE = re.compile(r"^(\w+, |\[[\d:]+\] )\S+\.(cpp|cc):\d+[,:] ")
OTHER_DECODED = 10240  # frames that decord tries before it gives up at a damaged file's end; its own default


def chosen(backend: Backend) -> Backend:
    """The library that is meant: `auto` by the rule above, others as they are.

    Raises:
        DataError: no such backend.

    >>> chosen("auto"), chosen("decord")
    ('pyav', 'decord')
    """
    if backend not in get_args(Backend):
        raise DataError(f"no backend {backend}", where="video.backend", mend=f"one of {', '.join(get_args(Backend))}")
    return AUTO if backend == "auto" else backend


def check_backend(backend: Backend) -> None:
    """Fail before a run, not at each of its videos, when a library is not here. Raises DataError."""
    if chosen(backend) != "pyav":
        _loaded(chosen(backend), Path("video.backend"))


def frames(path: Path, stamps: Sequence[int], backend: Backend = "auto", *, version: Version | None = None) -> list[Image.Image]:
    """A video file's frames at these stamps of its timeline: upright, RGB, the same ones whichever backend decodes.

    Args:
        stamps: rising, some of `film.timeline(path).stamps`.
        version: of the file that was looked at; the file as it is now when left out.

    Raises:
        DataError: PyAV or the library that was asked for is missing or cannot be loaded.
        MediaError: damaged, changed, or not to be had from this library.
    """
    version = version or version_of(path)
    index = video_index(path, version)
    decode = DECODERS[chosen(backend)]
    if decode is None:
        return pyav_frames(path, version, index, stamps)
    check_unchanged(path, version)
    if index.quarters or index.trimmed:
        what = "turned pictures" if index.quarters else "an edit list"
        raise MediaError(f"{what}, which {backend} may read otherwise", where=path, mend=PYAV)
    pictures = decode(path, index, stamps)
    for picture in pictures:
        if picture.size != index.size:
            where = f"{path}, {picture.size} for {index.size} pixels"
            raise MediaError(f"{backend} gives frames of another size", where=where, mend=PYAV)
    return pictures


def _of_decord(path: Path, index: VideoIndex, stamps: Sequence[int]) -> list[Image.Image]:
    """decord counts frames from a key frame on, which goes wrong where some are shown before it or are not whole yet."""
    decord = _loaded("decord", path)
    if index.container not in SOUGHT_BY_DECORD:
        raise MediaError(f"a file of the kind {index.container}, which decord is not trusted with", where=path, mend=PYAV)
    if not index.closed:
        raise MediaError("open groups of pictures, of which decord gives other frames", where=path, mend=PYAV)
    film = index.timeline
    try:
        reader = decord.VideoReader(_address(path))
        times = reader.get_frame_timestamp(list(range(len(reader))))[:, 0].astype(np.float64)  # from the first frame on
        _check_times(path, "decord", film.stamps, film.tick, times - times[0])
        pixels = reader.get_batch([film.number(stamp) for stamp in stamps]).asnumpy()
    except decord.DECORDError as error:
        raise MediaError("decord cannot decode it", where=f"{path} ({_reason(error)})", mend=PYAV) from error
    return [Image.fromarray(one) for one in pixels]


def _check_times(path: Path, library: str, stamps: Sequence[int], tick: Any, times: np.ndarray) -> None:
    """Every frame of the library's table is nearer to its own time than to its neighbours'. decord keeps 32-bit seconds."""
    expected = (np.array(stamps, np.float64) - stamps[0]) * float(tick)
    gap = float(np.diff(expected).min()) if len(expected) > 1 else 1.0
    if len(times) != len(expected) or float(np.abs(times - expected).max()) >= gap / 2:
        where = f"{path}, {len(times)} for {len(expected)}"
        raise MediaError(f"{library} counts other frames", where=where, mend=PYAV)


def _of_torchcodec(path: Path, index: VideoIndex, stamps: Sequence[int]) -> list[Image.Image]:
    """On the CPU, whatever device torch makes its tensors on: workers decode beside a model that holds the device."""
    decoders = _loaded("torchcodec", path)
    if index.container in LOST_BY_TORCHCODEC:
        raise MediaError(f"a file of the kind {index.container}, in which torchcodec loses its place", where=path, mend=PYAV)
    number = index.timeline.number
    try:
        decoder = decoders.VideoDecoder(
            _address(path), stream_index=index.stream, dimension_order="NHWC", num_ffmpeg_threads=0, device="cpu"
        )
        batch = decoder.get_frames_at([number(stamp) for stamp in stamps])
    except (RuntimeError, ValueError, IndexError) as error:
        raise MediaError("torchcodec cannot decode it", where=f"{path} ({_reason(error)})", mend=PYAV) from error
    for stamp, seconds in zip(stamps, batch.pts_seconds.tolist(), strict=True):
        _check_time(path, "torchcodec", index, stamp, seconds)
    return [Image.fromarray(one) for one in batch.data.numpy()]


def _of_torchvision(path: Path, index: VideoIndex, stamps: Sequence[int]) -> list[Image.Image]:
    """Its reader seeks to a key frame at or before a time; frames are read from there to the one that is asked for."""
    import av

    io = _loaded("torchvision", path)
    av.logging.set_level(None)  # its import changed it; `packets.opened` says why it must not
    film = index.timeline
    pictures: list[Image.Image] = []
    slack = float(film.tick) / 2
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that reading videos will be removed
            reader = io.VideoReader(_address(path), f"video:{index.video}")
            shown = next(reader, None)
            for stamp in stamps:
                wanted, key = float(stamp * film.tick), bisect_right(index.keys, stamp) - 1
                if shown is not None and key >= 0 and float(index.keys[key] * film.tick) > shown["pts"] + slack:
                    shown = next(reader.seek(float(index.keys[key] * film.tick), keyframes_only=True), None)
                while shown is not None and shown["pts"] < wanted - slack:
                    shown = next(reader, None)
                if shown is None:
                    where = f"{path}, {len(pictures)} of {len(stamps)}"
                    raise MediaError("torchvision does not decode all of its frames", where=where, mend=PYAV)
                _check_time(path, "torchvision", index, stamp, shown["pts"])
                pictures.append(Image.fromarray(shown["data"].permute(1, 2, 0).contiguous().numpy()))
    except (RuntimeError, ValueError, OSError, IndexError) as error:
        raise MediaError("torchvision cannot decode it", where=f"{path} ({_reason(error)})", mend=PYAV) from error
    return pictures


def _check_time(path: Path, library: str, index: VideoIndex, stamp: int, seconds: float) -> None:
    wanted = float(stamp * index.timeline.tick)
    if abs(seconds - wanted) >= float(index.timeline.tick) / 2 + 1e-9:
        where = f"{path}, {seconds:.6f} s for {wanted:.6f} s"
        raise MediaError(f"{library} gives frames of other times", where=where, mend=PYAV)


def _address(path: Path) -> str:
    """For FFmpeg, which takes what stands before a colon for a protocol unless there is a slash in it."""
    return str(path.absolute())


def _loaded(backend: Backend, path: Path) -> Any:
    """The module that reads videos, of a library that may need more than to be installed.

    torchcodec 0.17 can be imported without FFmpeg, for its pictures, and then says of every video that it has none.
    """
    from importlib import import_module

    if backend == "decord":
        os.environ.setdefault("DECORD_EOF_RETRY_MAX", str(OTHER_DECODED))
    try:
        library, module = import_module(backend), import_module(MODULES[backend])
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == backend
        why = "is not installed" if absent else f"cannot be loaded ({_reason(error)})"
    except (RuntimeError, OSError) as error:
        why = f"cannot be loaded ({_reason(error)})"
    else:
        if backend == "torchcodec" and getattr(library, "ffmpeg_major_version", "") is None:
            why = "finds no FFmpeg that it can load"
        elif backend == "torchvision" and not hasattr(module, "VideoReader"):
            why = "has no VideoReader"
        else:
            return module
    raise DataError(f"{backend} {why}", where=path, mend=MENDS[backend])


def _reason(error: BaseException) -> str:
    """What it was at first, in a line.

    >>> _reason(RuntimeError("decodeAVFrame, /src/core/Decoder.cpp:14, Could not push packet to decoder"))
    'Could not push packet to decoder'
    >>> _reason(RuntimeError("[03:08:44] /src/video_reader.cc:151: Check failed: st_nb >= 0 (-1 vs. 0)\\nStack trace"))
    'Check failed: st_nb >= 0 (-1 vs. 0)'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return PLACE_IN_SOURCE.sub("", line).removesuffix(" Likely causes:")[:200]


Decoder = Callable[[Path, VideoIndex, Sequence[int]], list[Image.Image]]
DECODERS: dict[str, Decoder | None] = {
    "pyav": None,
    "torchcodec": _of_torchcodec,
    "decord": _of_decord,
    "torchvision": _of_torchvision,
}
