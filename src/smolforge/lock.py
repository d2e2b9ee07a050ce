"""One process at a time in a folder: two would write the same files."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from smolforge.errors import DataError

PATIENCE = 3.0  # seconds: processes that worked for one that was killed hold its lock until they are gone too


@contextmanager
def alone(file: Path, what: str) -> Iterator[None]:
    """Hold a lock, which the system frees when the process ends, however it ends.

    Args:
        file: of the lock; made when absent.
        what: what holds it, for the message, which names its process.

    Raises:
        DataError: another process holds it.
    """
    with file.open("a+") as handle:
        until = time.monotonic() + PATIENCE
        while not _taken(handle):
            if time.monotonic() > until:
                handle.seek(0)
                mend = f"wait for process {handle.read().strip() or 'that holds it'}, or end it"
                raise DataError(f"another {what} works in it", where=file.parent, mend=mend)
            time.sleep(0.1)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _taken(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
