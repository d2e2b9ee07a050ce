"""One process at a time in a folder: two would write the same files."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from smolforge.errors import DataError

PATIENCE = 3.0  # seconds: processes that worked for one that was killed hold its lock until they are gone too
# Answers of disks that have no locks: Lustre mounted without `-o flock`, some network disks.
WITHOUT = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextmanager
def alone(file: Path, what: str) -> Iterator[None]:
    """Hold a lock, which the system frees when the process ends, however it ends. On a disk that has no locks, say so on standard
    error and go on without: clusters' shared disks are often such, and to refuse them would keep single runs out too.

    Args:
        file: of the lock; made when absent.
        what: what holds it, for the message, which names its process.

    Raises:
        DataError: another process holds it.
        OSError: the disk fails otherwise; the lock's file is named.
    """
    with file.open("a+") as handle:
        until = time.monotonic() + PATIENCE
        while not _taken(handle, what):
            if time.monotonic() > until:
                handle.seek(0)
                mend = f"wait for process {handle.read().strip() or 'that holds it'}, or end it"
                raise DataError(f"another {what} works in it", where=file.parent, mend=mend)
            time.sleep(0.1)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _taken(handle: IO[str], what: str) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT:
            raise OSError(error.errno, error.strerror, handle.name) from error
        without = f"this disk has no locks ({error.strerror}), so nothing keeps another {what} out: start only one in this folder"
        print(f"{Path(handle.name).parent}: {without}", file=sys.stderr)
    return True
