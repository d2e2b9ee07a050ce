"""Processes that end with the one that started them, however that ends."""

from __future__ import annotations

import ctypes
import sys

PR_SET_PDEATHSIG = 1  # of prctl(2)


def end_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when the thread that started it is gone. Linux alone can; elsewhere it lives on.

    Args:
        number: of the signal.
    """
    if sys.platform == "linux":
        failed = ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(number))
        assert not failed, f"no signal has the number {number}"
