"""The mixture is a pure function of (seed, index): exact shares, no repeats within an epoch, any starting point."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolforge.data.mix import BLOCK, EachOnce, Mixture

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


def test_two_sources_of_two_hundred_rows_are_measured_once_each():
    """By chance the mixture gives 398 of the 400 rows in as many draws."""
    assert len({Mixture([200, 200], seed=0)(index) for index in range(400)}) < 400
    once = EachOnce([200, 200], seed=0)
    assert {once(index) for index in range(400)} == {(source, row) for source in range(2) for row in range(200)}


@given(sources, st.integers(0, 100), st.integers(1, 200))
def test_what_is_measured_has_its_shares_until_a_source_is_through(parts, seed, count):
    """Of any first n places each source with rows left has its share of those that were left to share, to one row a source."""
    rows, weights = zip(*parts)
    once = EachOnce(rows, weights, seed=seed)
    count = min(count, sum(rows))
    drawn = [once(index) for index in range(count)]
    assert len(set(drawn)) == count
    given = Counter(source for source, _ in drawn)
    left = [source for source in range(len(rows)) if given[source] < rows[source]]
    total = sum(given[source] for source in left)
    for source in left:
        assert given[source] == pytest.approx(total * weights[source] / sum(weights[s] for s in left), abs=len(rows))


@given(st.integers(1, 300), st.integers(0, 100), st.integers(0, 1000))
def test_one_source_is_measured_in_the_order_of_the_mixture(rows, seed, index):
    assert EachOnce([rows], seed=seed)(index) == Mixture([rows], seed=seed)(index)


def test_what_is_measured_pickles_and_reads_streams_in_their_order():
    once = EachOnce.of(Mixture([2, 2**62], [1, 3], seed=4, endless=[1]))
    drawn = [once(index) for index in range(9)]
    assert [row for source, row in drawn if source] == list(range(7))
    assert [pickle.loads(pickle.dumps(once))(index) for index in range(9)] == drawn
