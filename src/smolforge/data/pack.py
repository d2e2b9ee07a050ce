"""Pure bin packing: lengths -> rows. Same input, same rows, on every machine."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def pack(lengths: Sequence[int], capacity: int, shared: Sequence[Sequence[Hashable]] | None = None) -> list[list[int]]:
    """Distribute items over rows of `capacity`, first-fit decreasing; items with a common key stay in one row.

    Items that share a picture form one group, so that the picture is encoded once. A group longer than a row is split.
    Rows hold their items in ascending order. An item longer than `capacity` is a caller's mistake.

    Args:
        lengths: tokens of each item.
        capacity: tokens of a row.
        shared: keys of each item (its pictures); none by default.

    Returns:
        Rows of item indices; every index occurs once.

    >>> pack([5, 4, 3, 2], capacity=7)
    [[0, 3], [1, 2]]
    >>> pack([5, 4, 3, 2], capacity=9, shared=[["cat"], [], [], ["cat"]])
    [[0, 3], [1, 2]]
    """
    assert all(length <= capacity for length in lengths), "an item is longer than a row"
    units: list[list[int]] = []
    for group in _groups(len(lengths), shared or [()] * len(lengths)):
        unit: list[int] = []
        for item in group:
            if unit and sum(lengths[i] for i in unit) + lengths[item] > capacity:
                units.append(unit)
                unit = []
            unit.append(item)
        units.append(unit)
    sizes = [sum(lengths[item] for item in unit) for unit in units]
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(units)), key=lambda u: (-sizes[u], u)):
        row = next((r for r, free in enumerate(room) if free >= sizes[number]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(capacity)
        rows[row] += units[number]
        room[row] -= sizes[number]
    return [sorted(row) for row in rows]


def balance(costs: Sequence[float], ranks: int, shared: Sequence[Sequence[Hashable]] | None = None) -> list[list[int]]:
    """Distribute items over ranks so that the costliest rank has little more than the others: the largest first, each to the rank
    with the least so far (Graham 1969). Items with a common key stay together.

    Args:
        costs: of each item.
        shared: keys of each item (its pictures); none by default.

    Returns:
        Items of each rank, ascending; every index occurs once.

    >>> balance([5, 4, 3, 2], 2), balance([5, 4, 3, 2], 2, [["cat"], [], [], ["cat"]])
    ([[0, 3], [1, 2]], [[0, 3], [1, 2]])
    """
    groups = _groups(len(costs), shared or [()] * len(costs))
    sums = [sum(costs[item] for item in group) for group in groups]
    taken: list[list[int]] = [[] for _ in range(ranks)]
    loads = [(0.0, 0, rank) for rank in range(ranks)]  # cost, items, rank: of equal cost the rank with fewer items
    for number in sorted(range(len(groups)), key=lambda g: (-sums[g], g)):
        cost, items, rank = min(loads)
        taken[rank] += groups[number]
        loads[rank] = (cost + sums[number], items + len(groups[number]), rank)
    return [sorted(items) for items in taken]


def _groups(count: int, shared: Sequence[Sequence[Hashable]]) -> list[list[int]]:
    """Connected items: those that share a key, directly or through others (union-find)."""
    root = list(range(count))

    def find(item: int) -> int:
        while root[item] != item:
            root[item] = root[root[item]]
            item = root[item]
        return item

    owner: dict[Hashable, int] = {}
    for item, keys in enumerate(shared):
        for key in keys:
            root[find(item)] = find(owner.setdefault(key, item))
    groups: dict[int, list[int]] = {}
    for item in range(count):
        groups.setdefault(find(item), []).append(item)
    return list(groups.values())
