"""The mixture is a pure function of (seed, index): exact shares, no repeats within an epoch, any starting point."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolforge.data.mix import BLOCK, Mixture

sources = st.lists(st.tuples(st.integers(1, 3000), st.floats(0.01, 10)), min_size=1, max_size=5)


@given(sources, st.integers(0, 2**20), st.integers(0, 3 * BLOCK))
def test_any_index_alone_equals_the_walk(parts, seed, start):
    rows, weights = zip(*parts)
    walk, fresh = Mixture(rows, weights, seed=seed), Mixture(rows, weights, seed=seed)
    expected = [walk(index) for index in range(start, start + 20)]
    assert [fresh(index) for index in reversed(range(start, start + 20))] == expected[::-1]


@given(sources, st.integers(0, 100))
def test_shares_are_exact(parts, seed):
    """After n rows no source is further than a block's rounding from its share."""
    rows, weights = zip(*parts)
    mixture = Mixture(rows, weights, seed=seed)
    total = 4 * BLOCK
    counts = Counter(mixture(index)[0] for index in range(total))
    for source, weight in enumerate(weights):
        assert counts[source] == pytest.approx(total * weight / sum(weights), abs=len(rows) + 1)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=3), st.integers(0, 100))
def test_each_source_repeats_nothing_within_its_epoch(rows, seed):
    mixture = Mixture(rows, seed=seed)
    seen: dict[int, list[int]] = {}
    for index in range(2 * sum(rows)):
        source, row = mixture(index)
        seen.setdefault(source, []).append(row)
    for source, order in seen.items():
        size = rows[source]
        for first in range(0, len(order) - size + 1, size):
            assert sorted(order[first : first + size]) == list(range(size))


def test_far_indices_cost_nothing():
    assert Mixture([1000, 10], [0.9, 0.1], seed=1)(10**12)[0] in (0, 1)


def test_seeds_differ():
    orders = {tuple(Mixture([100], seed=seed)(index) for index in range(10)) for seed in range(5)}
    assert len(orders) == 5
