"""What is kept of videos on the disk, for all epochs and runs: files named after what is in them, within a bound.

    ~/.cache/smolforge/videos/ab/ab12...video    encoded files whose rows hold bytes
    ~/.cache/smolforge/frames/ab/ab12...png      chosen frames, decoded (recipe: video.cache)

A file is written under another name and then renamed, so any number of processes may share a folder. Those unread for the longest
time go first, but none that a step still needs (`holding.py`).
"""

from __future__ import annotations

import io
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import cache as remembered
from pathlib import Path

from PIL import Image

from smolforge.data.films.holding import alone, held, hold, unwritable
from smolforge.records import fingerprint

LOOK_EVERY = 0.05  # of the space may be written before looking at what other processes wrote
NEEDED_SECONDS = 60.0  # a video that was read or written so shortly ago stays: outside of steps a prompt may wait for its frames
VIDEO_BYTES = 16 * 2**30  # of encoded files; FineVideo's have 14 MB on average
FRAME_BYTES = 50 * 2**30
CHANGED = 0  # time of change of every file: with the same name it is the same file, whenever it was written
LITTLE_EFFORT = 1  # of zlib. Measured on a 720p film: 0.16 of the pixels' bytes in 31 ms; level 6 takes 0.13 in 92 ms


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """A folder of files by name, which is the hash of their content or of how it came to be.

    Args:
        folder: made when absent.
        suffix: of its files' names.
        max_bytes: most space. Each process that writes may exceed it by a twentieth, and what is held stays whatever the space.
        needed_seconds: a file that was of use so shortly ago stays too.
    """

    folder: Path
    suffix: str
    max_bytes: int
    needed_seconds: float = 0.0

    def find(self, name: str) -> Path | None:
        """A kept file, or None. It counts as read."""
        file = self._file(name)
        try:
            os.utime(file, (time.time(), CHANGED))
        except FileNotFoundError:
            return None
        except OSError:  # another user's file
            return file if file.is_file() else None
        return file

    def put(self, name: str, data: bytes) -> Path:
        """Keep a file.

        Raises:
            CheckpointError: the disk is full or not writable.
        """
        file = self._file(name)
        draft = file.with_name(f"{file.name}.{uuid.uuid4().hex}.unfinished")  # no other process writes this one
        self._make_room(len(data))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(data)
            os.utime(draft, (time.time(), CHANGED))
            draft.replace(file)
        except OSError as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise unwritable(self.folder, error) from error
        ledger = _ledger(self.folder)
        ledger.held, ledger.written = ledger.held + len(data), ledger.written + len(data)
        return file

    def drop(self, name: str) -> None:
        """Forget a file, such as a damaged one."""
        self._file(name).unlink(missing_ok=True)

    def size(self) -> int:
        """Bytes in the folder, drafts that killed processes left included."""
        return sum(length for _, length, _ in self._files())

    def _file(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.{self.suffix}"

    def _files(self) -> list[tuple[float, int, Path]]:
        """(last read, bytes, file) of all files."""
        found = []
        for file in self.folder.glob(f"*/*.{self.suffix}*"):
            with suppress(FileNotFoundError):  # another process made room
                state = file.stat()
                found.append((state.st_atime, state.st_size, file))
        return found

    def _make_room(self, size: int) -> None:
        ledger = _ledger(self.folder)
        if ledger.held < 0 or ledger.written > LOOK_EVERY * self.max_bytes:
            ledger.held, ledger.written = self.size(), 0
        if ledger.held + size <= self.max_bytes:
            return
        with alone(self.folder):
            files, needed = self._files(), held(self.folder)
            ledger.held = sum(length for _, length, _ in files)
            for read, length, file in sorted(files):
                # Some room at once, because looking through the folder costs time.
                if ledger.held + size <= 0.9 * self.max_bytes or read > time.time() - self.needed_seconds:
                    return
                if file.name.partition(".")[0] not in needed:
                    file.unlink(missing_ok=True)
                    ledger.held -= length


@dataclass
class _Ledger:
    held: int = -1  # bytes in the folder, as far as this process knows
    written: int = 0  # by this process since it looked


@remembered
def _ledger(folder: Path) -> _Ledger:
    """One a folder and process: shelves themselves travel to the processes that prepare pictures."""
    return _Ledger()


# --- encoded videos ------------------------------------------------------------------------------------------------


def kept_video(data: bytes, *, cache: Path, max_bytes: int = VIDEO_BYTES) -> Path:
    """A file of an encoded video's bytes, kept under their hash.

    A file, because it is opened several times (times, pixels, each epoch), by libraries that want a path, in several processes;
    bytes in memory would travel with every frame.

    Args:
        cache: the cache's folder (`features.cache_folder`).
        max_bytes: most space, but for what `held_videos` holds.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    shelf = Shelf(folder=cache / "videos", suffix="video", max_bytes=max_bytes, needed_seconds=NEEDED_SECONDS)
    name = fingerprint(data)
    hold(shelf.folder, name)
    return shelf.find(name) or shelf.put(name, data)


# --- decoded frames ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FrameCache:
    """Decoded frames by the names that `film` gives them: of the file's content, the stamp, the library and `DECODING`.

    They are kept at their full size and without loss, so that a run's pixels are the same with it and without.

    Args:
        cache: the cache's folder (`features.cache_folder`).
        max_bytes: most space; a 720p frame takes about 0.4 MB.
    """

    cache: Path
    max_bytes: int = FRAME_BYTES

    @property
    def shelf(self) -> Shelf:
        return Shelf(folder=self.cache / "frames", suffix="png", max_bytes=self.max_bytes)

    def get(self, key: str) -> Image.Image | None:
        """A frame, RGB, or None. A damaged file is forgotten and made anew."""
        file = self.shelf.find(key)
        if file is None:
            return None
        try:
            with Image.open(file, formats=("PNG",)) as picture:
                picture.load()
                return picture.convert("RGB")
        except FileNotFoundError:  # another process made room
            return None
        except (OSError, SyntaxError, ValueError):
            self.shelf.drop(key)
            return None

    def put(self, key: str, picture: Image.Image) -> None:
        """Keep a frame.

        Raises:
            CheckpointError: the disk is full or not writable.
        """
        data = io.BytesIO()
        picture.save(data, "PNG", compress_level=LITTLE_EFFORT)
        self.shelf.put(key, data.getvalue())
