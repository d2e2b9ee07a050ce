"""All pairs of 64-bit hashes that differ in few bits, without comparing all pairs: a million pictures have 5e11 of them.

Multi-index hashing (Norouzi, Punjani, Fleet 2012, "Fast search in Hamming space with multi-index hashing", section 3): a hash is
cut into 4 bands of 16 bits. Two hashes that differ in at most d = 4 r + a bits differ in at most r bits of one of the first a + 1
bands, or in at most r - 1 bits of one of the others (else they would differ in more). So each band is looked up with all its
neighbours of r (or r - 1) bits, and what is found is compared in full. Nothing is missed: the search is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np

BANDS, WIDTH = 4, 16
MOST = 15  # bits; 16 would look up 2,517 neighbours in a band instead of 697
CANDIDATES = 1 << 22  # compared at a time: 64 MiB


def near_pairs(
    left: np.ndarray,
    right: np.ndarray,
    distance: int,
    *,
    same: bool = False,
    check: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (i, j) of left[i] and right[j] that differ in at most `distance` bits, in order of i, then j.

    Args:
        left, right: uint64 (N,) and (M,).
        distance: 0 to 15.
        same: both are the same hashes; each pair is given once, with i < j.
        check: what else must hold of pairs (i, j), bool (P,).

    Returns:
        i, j and their bits, int64 (P,) each.
    """
    assert 0 <= distance <= MOST, f"{distance} bits"
    left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
    found: list[np.ndarray] = [np.empty(0, np.int64)]
    for i, j in _candidates(left, right, distance):
        keep = np.bitwise_count(left[i] ^ right[j]) <= distance
        if same:
            keep &= i < j
        pairs = np.unique(i[keep] * len(right) + j[keep])
        if check is not None and len(pairs):
            pairs = pairs[check(pairs // len(right), pairs % len(right))]
        found.append(pairs)
    pairs = np.unique(np.concatenate(found))  # a pair may be met in several bands
    i, j = pairs // max(len(right), 1), pairs % max(len(right), 1)
    return i, j, np.bitwise_count(left[i] ^ right[j]).astype(np.int64)


def _candidates(left: np.ndarray, right: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    radius, rest = divmod(distance, BANDS)
    for band in range(BANDS):
        reach = radius if band <= rest else radius - 1
        mine, theirs = (_band(hashes, band) for hashes in (left, right))
        order = np.argsort(theirs, kind="stable")
        starts = np.searchsorted(theirs[order], np.arange((1 << WIDTH) + 1))
        for flip in _flips(reach):
            bucket = mine ^ flip
            first, count = starts[bucket], starts[bucket + 1] - starts[bucket]
            ends = np.cumsum(count)
            cuts = np.searchsorted(ends, np.arange(CANDIDATES, int(ends[-1]) if len(ends) else 0, CANDIDATES))
            for rows in np.split(np.arange(len(left)), cuts):
                number = count[rows]
                total = int(number.sum())
                if total:
                    within = np.arange(total) - np.repeat(np.cumsum(number) - number, number)
                    yield np.repeat(rows, number), order[np.repeat(first[rows], number) + within]


def _band(hashes: np.ndarray, band: int) -> np.ndarray:
    return ((hashes >> np.uint64(WIDTH * band)) & np.uint64((1 << WIDTH) - 1)).astype(np.int64)


def _flips(reach: int) -> list[int]:
    """Every mask of at most `reach` of 16 bits; none for a band that need not be looked at.

    >>> [len(_flips(reach)) for reach in (-1, 0, 1, 2, 3)]
    [0, 1, 17, 137, 697]
    """
    return [sum(1 << bit for bit in bits) for count in range(reach + 1) for bits in combinations(range(WIDTH), count)]
