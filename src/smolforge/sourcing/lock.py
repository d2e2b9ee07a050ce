"""One process at a time in a folder: two would write the same drafts."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smolforge.errors import DataError


@contextmanager
def alone(file: Path, what: str) -> Iterator[None]:
    """Hold a lock, which the system frees when the process ends, however it ends.

    Args:
        file: of the lock; made when absent.
        what: what holds it, for the message.

    Raises:
        DataError: another process holds it.
    """
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"another {what} works in it", where=file.parent, mend="wait for it") from error
        yield
