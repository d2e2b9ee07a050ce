"""Pictures' features on the disk: what a frozen vision tower (and connector) says of a picture is computed once, for all runs.

One file a picture, memory-mapped when read:

    ~/.cache/smolforge/features/<weights, dtype and boundary>/ab/ab12...npy

A file is written under another name and then renamed, so any number of processes may share a folder. The
folder's name is made of the weights' fingerprint and the file's of the picture's content, its preprocessing and its
distortion: what does not fit the model cannot be found.
"""

from __future__ import annotations

import errno
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from smolforge.errors import CheckpointError
from smolforge.records import fingerprint

if TYPE_CHECKING:
    import torch  # `cache_folder` is asked for before it is loaded

HEADER = 128  # bytes of an .npy file before its numbers
LOOK_EVERY = 256  # pictures between looks at what is in the folder
FORMAT = 1  # raise it when the same picture, rules and weights would give other features


@dataclass
class FeatureCache:
    """Features of pictures under one model's frozen part.

    Args:
        folder: of this model, from `feature_folder`.
        max_bytes: most space; the pictures unread for the longest time go first.
        dtype: of the features.
    """

    folder: Path
    max_bytes: int
    dtype: torch.dtype
    evicted: int = 0  # pictures that had to go
    _bytes: int = field(default=-1, repr=False)  # in the folder, as far as this process knows
    _puts: int = field(default=0, repr=False)

    def get(self, key: str) -> torch.Tensor | None:
        """Features of a picture, (T, ...), or None. A damaged file is forgotten and made anew."""
        file = self._file(key)
        try:
            mapped = np.load(file, mmap_mode="r")
        except OSError:  # not there, or not to be read now
            return None
        except (ValueError, EOFError):
            file.unlink(missing_ok=True)
            return None
        with suppress(OSError):  # another user's file
            os.utime(file)  # when it was last of use decides what goes first
        import torch

        return torch.from_numpy(mapped.copy()).view(self.dtype)

    def put(self, key: str, features: torch.Tensor) -> None:
        """Keep a picture's features, (T, ...).

        Raises:
            CheckpointError: the disk is full or not writable.
        """
        import torch

        bits = {torch.float32: torch.float32, torch.bfloat16: torch.int16, torch.float16: torch.int16}  # NumPy knows no bfloat16
        array = features.detach().to(self.dtype).cpu().contiguous().view(bits[self.dtype]).numpy()
        file = self._file(key)
        self._make_room(array.nbytes + HEADER)
        draft = file.with_name(f"{file.name}.{uuid.uuid4().hex}.unfinished")  # no other process writes this one
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as handle:
                np.save(handle, array)
            draft.replace(file)
        except OSError as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            full = error.errno == errno.ENOSPC
            raise CheckpointError(
                "the disk is full" if full else f"cannot be written ({error.strerror})",
                where=self.folder,
                mend="free some space, choose another cache.dir, or set cache.features: false",
            ) from error
        self._bytes += array.nbytes + HEADER

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"

    def _make_room(self, size: int) -> None:
        self._puts += 1
        if self._bytes < 0 or self._puts % LOOK_EVERY == 0:  # other processes write too
            self._bytes = self.size()
        if self._bytes + size <= self.max_bytes:
            return
        files = []
        for file in self.folder.glob("*/*.npy*"):
            with suppress(FileNotFoundError):
                files.append((file.stat().st_mtime, file.stat().st_size, file))
        self._bytes = sum(length for _, length, _ in files)
        for _, length, file in sorted(files):
            if self._bytes + size <= 0.9 * self.max_bytes:  # some room at once: looking through the folder costs time
                return
            file.unlink(missing_ok=True)
            self._bytes -= length
            self.evicted += 1

    def size(self) -> int:
        """Bytes in the folder, drafts that killed processes left included."""
        total = 0
        for file in self.folder.glob("*/*.npy*"):
            with suppress(FileNotFoundError):  # another process made room
                total += file.stat().st_size
        return total


def cache_folder(folder: Path | None) -> Path:
    """The recipe's `cache.dir`, or the user's own cache."""
    if folder is not None:
        return folder.expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smolforge"


def feature_folder(cache: Path, weights: str, boundary: str, dtype: torch.dtype) -> Path:
    """Where features of these frozen weights are kept.

    Args:
        weights: fingerprint of the frozen part's weights.
        boundary: the part they come out of, "vision" or "connector".
    """
    return cache / "features" / fingerprint(FORMAT, weights, boundary, str(dtype))
