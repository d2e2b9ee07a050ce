"""Why a process holds more than its tensors: the C library's heap, replayed.

PyTorch asks glibc for tensors aligned to 64 bytes. Up to glibc 2.37 that means: ask for 96 bytes more, and give what lies before
and behind back as chunks of their own. Small objects (nodes of the graph, tensors' headers) move into these at once, so the freed
tensor's place is that much too short for the next one of its size, and the heap grows past it. Large requests go to mmap, which
returns everything, but glibc raises the limit from which it does so with every such tensor that is freed, up to 32 MiB. Measured
on a decoder of 21 M parameters: tensors of 284 to 801 MiB took 612 to 1,057 MiB of memory, and 306 to 836 MiB when the limit was
held low with MALLOC_MMAP_THRESHOLD_=131072, which costs up to twice the time.

Here the same requests go through a heap with the same rules. Only the life of those small objects is not known: `LIFE` is fitted.
"""

from __future__ import annotations

import platform
from bisect import bisect_left, insort
from collections import deque

from smolforge.estimating.ledger import Trace

PAGE = 4096
ALIGNMENT = 64  # PyTorch's, of tensors on a CPU
SMALLEST = 32  # bytes of glibc's smallest chunk
TOP_PAD = 128 * 1024  # bytes glibc takes beyond what is asked for
FIRST_LIMIT, LAST_LIMIT = 128 * 1024, 32 * 2**20  # requests from this size on go to mmap; the limit rises up to the last
SMALL_TENSOR = 1024  # bytes; below it they come from glibc's caches
LIFE = 120  # tensors allocated until small objects leave the gap beside one (fitted, benchmarks/estimate.py)


def keeps_gaps() -> bool:
    """Whether this machine's C library loses the place beside aligned chunks: glibc before 2.38."""
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return name == "glibc" and numbers < (2, 38)


class Heap:
    """glibc's main heap, in bytes: chunks from 0 to `end`, the last of them the top.

    Args:
        gaps: as `keeps_gaps`.
    """

    def __init__(self, *, gaps: bool) -> None:
        self.gaps = gaps
        self.limit, self.trim = FIRST_LIMIT, FIRST_LIMIT
        self.top = self.end = 0
        self.mapped = 0
        self.peak = 0
        self._free: list[tuple[int, int]] = []  # (size, start), sorted: the smallest that fits is taken
        self._starts: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._used: dict[int, tuple[int, int]] = {}
        self._maps: dict[int, int] = {}
        self._gaps: deque[tuple[int, int, int]] = deque()
        self._clock = 0

    def replay(self, trace: Trace, *, forget: bool = False) -> None:
        """Allocate and free as a ledger noted.

        Args:
            forget: free at the end what the trace leaves allocated, as a step does with its gradients.
        """
        left: dict[int, None] = {}
        for number, size in trace:
            if number > 0:
                self.take(number, size)
                left[number] = None
            else:
                self.give(-number)
                left.pop(-number, None)
        for number in left if forget else ():
            self.give(number)

    def take(self, number: int, size: int) -> None:
        """Allocate a tensor of `size` bytes and call it `number`."""
        if size < SMALL_TENSOR:
            return
        self._clock += 1
        while self._gaps and self._gaps[0][0] < self._clock:
            _, start, length = self._gaps.popleft()
            self._release(start, length)
        need = -(-(size + 8) // 16) * 16
        room = self._find(need + ALIGNMENT + SMALLEST)
        if room is None:
            whole = -(-(need + ALIGNMENT + SMALLEST) // PAGE) * PAGE
            self._maps[number] = whole
            self.mapped += whole
        else:
            start, length = room
            before = -start % ALIGNMENT
            before += ALIGNMENT * (0 < before < SMALLEST)
            if before:
                self._gap(start, before)
            start, length = start + before, length - before
            if length - need >= SMALLEST:
                self._gap(start + need, length - need)
                length = need
            self._used[number] = (start, length)
        self.peak = max(self.peak, self.end + self.mapped)

    def give(self, number: int) -> None:
        """Free the tensor called `number`."""
        if number in self._maps:
            size = self._maps.pop(number)
            self.mapped -= size
            if self.limit < size <= LAST_LIMIT:
                self.limit, self.trim = size, 2 * size
        elif number in self._used:
            self._release(*self._used.pop(number))

    def _find(self, need: int) -> tuple[int, int] | None:
        """A chunk of at least `need` bytes from the free ones, the top or the system; None where mmap is asked."""
        place = bisect_left(self._free, (need, -1))
        if place < len(self._free):
            size, start = self._free[place]
            self._take_out(start)
            if size - need >= SMALLEST:
                self._put_in(start + need, size - need)
                size = need
            return start, size
        if self.end - self.top < need + SMALLEST:
            if need >= self.limit:
                return None
            more = need + TOP_PAD + SMALLEST - (self.end - self.top)
            self.end += -(-more // PAGE) * PAGE
        start, self.top = self.top, self.top + need
        return start, need

    def _gap(self, start: int, size: int) -> None:
        if self.gaps and size < SMALL_TENSOR:
            self._gaps.append((self._clock + LIFE, start, size))
        else:
            self._release(start, size)

    def _release(self, start: int, size: int) -> None:
        if start in self._ends:
            before = self._ends[start]
            start, size = before, size + self._take_out(before)
        if start + size in self._starts:
            size += self._take_out(start + size)
        if start + size == self.top:
            self.top = start
        else:
            self._put_in(start, size)
        if size >= 65_536 and self.end - self.top >= self.trim:  # glibc looks only after larger ones
            self.end -= max(0, self.end - self.top - SMALLEST - 1 - TOP_PAD) // PAGE * PAGE

    def _put_in(self, start: int, size: int) -> None:
        insort(self._free, (size, start))
        self._starts[start], self._ends[start + size] = size, start

    def _take_out(self, start: int) -> int:
        size = self._starts.pop(start)
        del self._ends[start + size]
        self._free.pop(bisect_left(self._free, (size, start)))
        return size
