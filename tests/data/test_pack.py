"""Packing: nothing lost, nothing too long, pictures together, few rows."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from smolforge.data.pack import pack

CAPACITY = 50
LENGTHS = st.lists(st.integers(0, CAPACITY), max_size=40)
ITEMS = st.lists(st.tuples(st.integers(0, CAPACITY), st.lists(st.integers(0, 12), max_size=2)), max_size=30)


def groups(shared: list[list[int]]) -> list[set[int]]:
    """Items that share a key, directly or through others: the slow way, by merging sets until nothing changes."""
    merged: list[tuple[set[int], set[int]]] = []
    for item, keys in enumerate(shared):
        together, others = ({item}, set(keys)), []
        for items, known in merged:
            if known & together[1]:
                together = (together[0] | items, together[1] | known)
            else:
                others.append((items, known))
        merged = [*others, together]
    return [items for items, _ in merged]


@given(items=ITEMS)
def test_every_item_once_and_no_row_too_long(items: list[tuple[int, list[int]]]) -> None:
    lengths, shared = [length for length, _ in items], [keys for _, keys in items]
    rows = pack(lengths, CAPACITY, shared)
    assert sorted(item for row in rows for item in row) == list(range(len(items)))
    assert all(row == sorted(row) for row in rows)
    assert all(row for row in rows)
    assert all(sum(lengths[item] for item in row) <= CAPACITY for row in rows)


@given(items=ITEMS)
def test_deterministic(items: list[tuple[int, list[int]]]) -> None:
    """Same input, same rows, whatever the names of the keys."""
    lengths, shared = [length for length, _ in items], [keys for _, keys in items]
    rows = pack(lengths, CAPACITY, shared)
    assert rows == pack(tuple(lengths), CAPACITY, [[f"picture {key}" for key in keys] for keys in shared])


@given(items=ITEMS)
def test_shared_items_stay_together(items: list[tuple[int, list[int]]]) -> None:
    """A group that fits a row is in one row."""
    lengths, shared = [length for length, _ in items], [keys for _, keys in items]
    row_of = {item: number for number, row in enumerate(pack(lengths, CAPACITY, shared)) for item in row}
    for group in groups(shared):
        if sum(lengths[item] for item in group) <= CAPACITY:
            assert len({row_of[item] for item in group}) == 1


@given(lengths=LENGTHS)
def test_few_rows(lengths: list[int]) -> None:
    """Never twice the rows that the tokens need: of any two rows, the later one's first item did not fit the earlier."""
    assert len(pack(lengths, CAPACITY)) <= max(2 * math.ceil(sum(lengths) / CAPACITY), bool(lengths))


def test_a_group_too_long_for_a_row_is_split_in_order() -> None:
    """Six answers about one picture at 20 tokens each: three rows of two."""
    assert pack([20] * 6, 50, [["cat"]] * 6) == [[0, 1], [2, 3], [4, 5]]


def test_items_joined_through_a_third() -> None:
    """0 and 2 have no common picture, but 1 has one with each."""
    shared = [["cat"], ["cat", "dog"], ["dog"], ["bird"]]
    assert pack([15, 15, 15, 50], 50, shared) == [[3], [0, 1, 2]]


def test_nothing() -> None:
    assert pack([], 10) == []
