"""Who still needs which kept file, told between processes: a step's videos are all laid out before the first is decoded.

    videos/lock              whoever takes files away, or says what it needs, is alone for that moment
    videos/held/1f0c.names   what one step needs, a name a line; it counts while its process holds a lock on it

The system frees that lock when the process ends, however it ends, so nothing is held for the dead.
"""

from __future__ import annotations

import errno
import fcntl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from smolforge.errors import CheckpointError

HELD, SUFFIX = "held", "names"


@dataclass
class _Hold:
    """What is needed until one step is done: a file of names in each folder that it needs files of."""

    notes: dict[Path, FileIO] = field(default_factory=dict)

    def add(self, folder: Path, name: str) -> None:
        if folder not in self.notes:
            (folder / HELD).mkdir(exist_ok=True)
            note = (folder / HELD / f"{uuid.uuid4().hex}.{SUFFIX}").open("wb", buffering=0)
            self.notes[folder] = note
            fcntl.flock(note, fcntl.LOCK_EX)
        self.notes[folder].write(f"{name}\n".encode())

    def end(self) -> None:
        for note in self.notes.values():
            Path(note.name).unlink(missing_ok=True)
            note.close()


_NOW: ContextVar[_Hold | None] = ContextVar("hold", default=None)


@contextmanager
def held_videos() -> Iterator[None]:
    """Videos that are kept in here stay on the disk until its end, whatever the bound and however long they are waited for."""
    mine = _Hold()
    before = _NOW.set(mine)
    try:
        yield
    finally:
        _NOW.reset(before)
        mine.end()


def hold(folder: Path, name: str) -> None:
    """Say that a file is needed, before looking for it: from then on nobody takes it away. Nothing outside of `held_videos`.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    now = _NOW.get()
    if now is not None:
        with alone(folder):
            now.add(folder, name)


def held(folder: Path) -> set[str]:
    """Names that somebody needs; what processes that are gone left behind is cleared away. For who is `alone` in the folder."""
    return {name for file in (folder / HELD).glob(f"*.{SUFFIX}") for name in _needed(file)}


def _needed(file: Path) -> list[str]:
    with suppress(FileNotFoundError), file.open("r+") as note:  # or its step ended just now
        try:
            fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return note.read().split()
        file.unlink(missing_ok=True)
    return []


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time, in a folder that is made when absent; others wait.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                yield
            finally:  # not by closing it alone: a process that was forked meanwhile has it open too
                fcntl.flock(handle, fcntl.LOCK_UN)
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> CheckpointError:
    """Why nothing can be kept in a folder."""
    what = "the disk is full" if error.errno == errno.ENOSPC else f"cannot be written ({error.strerror})"
    mend = "free some space, choose another cache folder (XDG_CACHE_HOME), or set video.cache: false"
    return CheckpointError(what, where=folder, mend=mend)
