"""Small files that are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Let a file's, or a folder's, content reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(file: Path, text: str) -> None:
    """Write a text file beside its name, flush it to the disk, rename it into place. A kill leaves the old file or the new."""
    draft = file.with_name(f"{file.name}.{os.getpid()}.draft")
    with draft.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    draft.replace(file)
