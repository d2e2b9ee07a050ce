"""Whose a folder is, or a file: nothing is written among the files of somebody else, or over one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from smolforge.errors import CheckpointError, UserError
from smolforge.wording import some

NAMED = 3  # files that a refusal names


def refuse_others(folder: Path, own: Callable[[str], bool] = lambda name: False) -> None:
    """Refuse a folder that holds something else than what is written there; one that is not there is nobody's.

    Args:
        own: whether a name is one of those that are written there; none is when left out, and the folder must be empty.

    Raises:
        CheckpointError: it holds other files, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError("is a file, not a folder", where=folder, mend="choose another place")
    others = sorted(path.name for path in folder.iterdir() if not own(path.name)) if folder.is_dir() else []
    if others:
        raise CheckpointError(f"holds other files ({some(others, NAMED)})", where=folder, mend="choose an empty folder")


def make(folder: Path, what: str = "") -> None:
    """Make a folder where there is none.

    Args:
        what: the setting that names it, for the message.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        where, mend = f"{what} {folder}".strip(), "choose another folder"
        raise UserError(f"cannot be made ({error.strerror})", where=where, mend=mend) from error


def claim_file(out: Path, kind: str, own: Callable[[Path], bool]) -> None:
    """See before the work that a file can be written, over nothing that is somebody else's; makes the folders above it.

    Args:
        kind: what is written there, for the message.
        own: whether a file that is there is one of these, so that a new one may take its place.

    Raises:
        UserError: it cannot be written, is a folder, or holds something else.
    """
    mend = "choose another --out"
    if out.is_dir():
        raise UserError("is a folder", where=out, mend="give the name of a file")
    if out.exists() and not (out.is_file() and own(out)):
        raise UserError(f"is there already, and no {kind} of smolforge's", where=out, mend=mend)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UserError(f"cannot be made ({error.strerror})", where=out, mend=mend) from error
