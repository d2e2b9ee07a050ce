"""Which of many marks are near each other: bits by `hamming`, then what the other looks say; flat ones only if they are equal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smolforge.curating.hamming import near_pairs
from smolforge.curating.hashing import FLAT_BYTES, agree, looks


class Marks:
    """Different marks by number, in the order in which they came; equal marks, flat pictures' pixels among them, share theirs."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, data: bytes) -> int:
        """Number of a mark, a new one if it is new."""
        return self._numbers.setdefault(data, len(self._numbers))

    def known(self) -> list[bytes]:
        """Marks by their numbers."""
        return list(self._numbers)


def neighbours(marks: Marks, distance: int) -> dict[int, dict[int, int]]:
    """Numbers of the other marks that are near, and in how many bits they differ; marks without any are left out."""
    known = marks.known()
    found: dict[int, dict[int, int]] = {}
    for one, other, bits in _near(known, known, distance):
        found.setdefault(one, {})[other] = bits
        found.setdefault(other, {})[one] = bits
    return found


def matches(marks: Marks, others: Marks, distance: int) -> dict[int, tuple[int, int]]:
    """For a mark's number the nearest of `others` (the first of equally near ones) and in how many bits they differ."""
    known, theirs = marks.known(), others.known()
    numbers = {data: number for number, data in enumerate(theirs)}
    found = {number: (numbers[data], 0) for number, data in enumerate(known) if data in numbers}
    for one, other, bits in _near(known, theirs, distance):
        if one not in found or (bits, other) < (found[one][1], found[one][0]):
            found[one] = (other, bits)
    return found


def _near(left: Sequence[bytes], right: Sequence[bytes], distance: int) -> list[tuple[int, int, int]]:
    mine, first = _looks(left)
    theirs, second = (mine, first) if left is right else _looks(right)
    i, j, bits = near_pairs(
        first["frequencies"],
        first["frequencies"] if left is right else second["frequencies"],
        distance,
        check=lambda i, j: agree(first[i], second[j]),
        same=left is right,
    )
    return list(zip(mine[i].tolist(), theirs[j].tolist(), bits.tolist(), strict=True))


def _looks(known: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the marks that are not of flat pictures, and what they hold."""
    numbers = [number for number, data in enumerate(known) if len(data) != FLAT_BYTES]
    return np.array(numbers, np.int64), looks([known[number] for number in numbers])
