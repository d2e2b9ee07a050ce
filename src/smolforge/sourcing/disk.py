"""How much fits: free space, and sizes as people read them."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from smolforge.errors import DataError

RESERVE = 500_000_000  # bytes that stay free: a full disk stops more than us
Free = Callable[[Path], int]


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written below a folder, which need not exist yet."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


@contextmanager
def full_disk(folder: Path, mend: str) -> Iterator[None]:
    """A disk that filled up meanwhile, as one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError("the disk is full", where=folder, mend=mend) from error


def size(count: float) -> str:
    """Bytes in decimal units, as the Hub counts them.

    >>> size(999), size(1_500), size(2_300_000_000)
    ('999 B', '1.5 kB', '2.3 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
