"""Videos: when each frame is shown, and its picture when it is asked for. Files, their bytes, folders of frames, drawn ones.

A frame's name and size are known without its pixels, so that prompts are planned, and kept answers found, by reading alone.
Pixels are decoded when they are asked for, the video's chosen frames together, and kept for its next question.

    timeline(ref), frame_pictures(ref, stamps)
      films/packets.py    what a file's packets tell: times, size, turn, key frames, what is refused
      films/decoding.py   pixels by PyAV, by seeking
      films/libraries.py  pixels by torchcodec, decord, torchvision; `frames`, whichever it is
      films/shelf.py      encoded files and decoded frames on the disk
      films/holding.py    which encoded files a step still needs; `held_videos`
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

from PIL import Image

from smolforge.data.films.holding import held_videos
from smolforge.data.films.libraries import Backend, check_backend, chosen, frames
from smolforge.data.films.packets import FILES_KEPT, Version, check_unchanged, version_of, video_index
from smolforge.data.films.shelf import FrameCache, kept_video
from smolforge.data.films.timeline import Timeline, even_timeline
from smolforge.data.media import Drawing
from smolforge.errors import MediaError
from smolforge.records import Film, Media, fingerprint

__all__ = [
    "Backend", "FrameCache", "Timeline", "check_backend", "frame_pictures", "frames", "held_videos", "timeline", "video_file"
]  # fmt: skip

DECODING = 1  # raise it when the same file and stamp would give other pixels
FRAME_FILES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def timeline(ref: Path | bytes | Film, *, folder_fps: float = 3.0) -> Timeline:
    """When each frame of a video is shown.

    Args:
        ref: a video file, its bytes, a folder of frames, or frames that are drawn.
        folder_fps: frames a second that a folder holds.

    Raises:
        DataError: PyAV is missing.
        MediaError: missing, damaged, or without a moving picture.
    """
    if isinstance(ref, bytes):
        ref = video_file(ref)
    if not isinstance(ref, Path):
        if ref.num_frames < 1:
            raise MediaError("a video without frames", where="a drawn video", mend="draw at least one")
        return even_timeline(ref.num_frames, ref.fps)
    if not ref.is_dir():
        return video_index(ref, version_of(ref)).timeline
    count = len(_frame_files(ref))
    if not count:
        raise MediaError("no frames in this folder", where=ref, mend=f"frames are files named {', '.join(FRAME_FILES)}")
    return even_timeline(count, folder_fps)


def frame_pictures(
    ref: Path | bytes | Film, stamps: tuple[int, ...], *, backend: Backend = "auto", cache: FrameCache | None = None
) -> list[Media]:
    """Frames of a video at some of its stamps; none is decoded yet.

    Args:
        ref: as `timeline` takes it.
        stamps: rising, some of its timeline's.
        backend: what will decode a file; each gives the same frames.
        cache: where a file's decoded frames are kept.

    Raises:
        DataError: no such backend.
        MediaError: missing.
    """
    if isinstance(ref, bytes):
        ref = video_file(ref)
    if not isinstance(ref, Path):
        return [Media(ref=_Drawn(ref, stamp), split=False) for stamp in stamps]
    if ref.is_dir():
        files = _frame_files(ref)
        return [Media(ref=files[stamp], split=False) for stamp in stamps]
    version, library = version_of(ref), chosen(backend)
    return [Media(ref=_Frame(ref, version, stamps, place, library, cache), split=False) for place in range(len(stamps))]


def video_file(data: bytes) -> Path:
    """Bytes of an encoded video as a file in the user's cache.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    from smolforge.data.features import cache_folder

    return kept_video(data, cache=cache_folder(None))


def _frame_files(folder: Path) -> list[Path]:
    return sorted((f for f in folder.iterdir() if f.suffix.lower() in FRAME_FILES and f.name[0] != "."), key=_by_numbers)


def _by_numbers(file: Path) -> tuple[list[str | int], str]:
    """Orders names with numbers by their values, 2.jpg before 10.jpg. In a split name every second piece is a number."""
    return [int(piece) if place % 2 else piece for place, piece in enumerate(re.split("([0-9]+)", file.stem))], file.name


# --- pictures ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Drawn(Drawing):
    """A frame of a drawn video."""

    film: Film
    number: int

    @property
    def key(self) -> str:
        return fingerprint("drawn", self.film.key, self.number)

    @property
    def size(self) -> tuple[int, int]:
        return self.film.size

    def __call__(self) -> Image.Image:
        return self.film.frame(self.number)


_ONE_AT_A_TIME = Lock()  # threads that ask for the same video at once wait for the first one's frames


@dataclass(frozen=True)
class _Frame(Drawing):
    """Decodes a frame. Equal for the same frame in every question about the video."""

    path: Path
    version: Version
    stamps: tuple[int, ...]  # of all frames that were chosen with it
    place: int  # among them
    backend: Backend
    cache: FrameCache | None

    @property
    def key(self) -> str:
        return _key(self.path, self.version, self.stamps[self.place], self.backend)

    @property
    def size(self) -> tuple[int, int]:
        return video_index(self.path, self.version).size

    def __call__(self) -> Image.Image:
        with _ONE_AT_A_TIME:
            return _decoded(self.path, self.version, self.stamps, self.backend, self.cache)[self.place]


def _key(path: Path, version: Version, stamp: int, backend: Backend) -> str:
    """Libraries convert colours by themselves, so that their frames have names of their own."""
    library = () if backend == "pyav" else (backend,)
    return fingerprint(DECODING, _content(path, version), stamp, *library)


@lru_cache(maxsize=FILES_KEPT)
def _content(path: Path, version: Version) -> str:
    """Hash of all that is in the file, so that a folder that was moved keeps its answers.

    The first and the last part alone would not tell a whole download from one with a hole. Measured, a gigabyte takes 1.2 s; its
    packets were all read before, for the timeline.
    """
    check_unchanged(path, version)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror})", where=path, mend="check the file") from error


@lru_cache(maxsize=2)  # questions about a video follow each other; 64 frames of 720p are 177 MB
def _decoded(
    path: Path, version: Version, stamps: tuple[int, ...], backend: Backend, cache: FrameCache | None
) -> list[Image.Image]:
    if cache is None:
        return frames(path, stamps, backend, version=version)
    names = [_key(path, version, stamp, backend) for stamp in stamps]
    kept = {stamp: picture for stamp, name in zip(stamps, names) if (picture := cache.get(name)) is not None}
    absent = [stamp for stamp in stamps if stamp not in kept]
    if absent:
        check_unchanged(path, version)
        kept.update(zip(absent, frames(path, absent, backend, version=version), strict=True))
        for stamp, name in zip(stamps, names):
            if stamp in absent:
                cache.put(name, kept[stamp])
    return [kept[stamp] for stamp in stamps]
