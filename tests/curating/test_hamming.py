from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolforge.curating.hamming import CANDIDATES, near_pairs


def all_pairs(left: np.ndarray, right: np.ndarray, distance: int, same: bool) -> list[tuple[int, int, int]]:
    bits = np.bitwise_count(left[:, None] ^ right[None])
    return [
        (int(i), int(j), int(bits[i, j])) for i, j in zip(*np.nonzero(bits <= distance), strict=True) if not same or i < j
    ]  # fmt: skip


def searched(*arguments, **more) -> list[tuple[int, int, int]]:
    return list(zip(*(values.tolist() for values in near_pairs(*arguments, **more)), strict=True))


def family(rng: np.random.Generator, count: int, most: int) -> np.ndarray:
    """Hashes in groups around few centres, so that every distance up to `most` occurs."""
    centres = rng.integers(0, 2**64, 5, dtype=np.uint64)
    found = []
    for _ in range(count):
        value = int(rng.choice(centres))
        for bit in rng.choice(64, int(rng.integers(0, most // 2 + 2)), replace=False):
            value ^= 1 << int(bit)
        found.append(value)
    return np.array(found, np.uint64)


@given(seed=st.integers(0, 10**6), distance=st.integers(0, 15))
def test_every_near_pair_is_found_and_no_other(seed, distance):
    rng = np.random.default_rng(seed)
    hashes, others = family(rng, 40, distance), family(rng, 30, distance)
    hashes[:10] = others[:10] ^ np.uint64(1 << 63)
    assert searched(hashes, hashes, distance, same=True) == all_pairs(hashes, hashes, distance, same=True)
    assert searched(hashes, others, distance) == all_pairs(hashes, others, distance, same=False)


@pytest.mark.parametrize("distance", range(16))
def test_the_worst_spread_of_differing_bits_is_found(distance):
    """As many differing bits in each band as can be, the case that a narrower look-up would miss."""
    flip = 0
    for number in range(distance):
        flip |= 1 << (16 * (number % 4) + number // 4)
    for turn in range(4):  # whichever band has the most
        turned = ((flip << (16 * turn)) | (flip >> (64 - 16 * turn))) & (2**64 - 1)
        hashes = np.array([0x0123456789ABCDEF, 0x0123456789ABCDEF ^ turned], np.uint64)
        assert searched(hashes, hashes, distance, same=True) == [(0, 1, distance)]


def test_nothing_of_nothing():
    none = np.empty(0, np.uint64)
    assert searched(none, none, 10, same=True) == []
    assert searched(np.array([1], np.uint64), none, 10) == []
    assert searched(none, np.array([1], np.uint64), 10) == []


def test_more_candidates_than_are_compared_at_a_time(monkeypatch):
    assert CANDIDATES == 1 << 22
    monkeypatch.setattr("smolforge.curating.hamming.CANDIDATES", 7)
    rng = np.random.default_rng(0)
    hashes = family(rng, 60, 6)
    assert searched(hashes, hashes, 6, same=True) == all_pairs(hashes, hashes, 6, same=True)


def test_a_check_takes_pairs_out():
    hashes = np.array([0, 1, 3], np.uint64)
    assert searched(hashes, hashes, 2, same=True) == [(0, 1, 1), (0, 2, 2), (1, 2, 1)]
    assert searched(hashes, hashes, 2, same=True, check=lambda i, j: i + j != 2) == [(0, 1, 1), (1, 2, 1)]
