"""Pure bin packing: lengths -> rows. Same input, same rows, on every machine."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from smolforge.errors import RecipeError
from smolforge.wording import how_many

TIMES = 100  # that a step sees each row, from which on its size is a slip of the pen


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


def portion(costs: Sequence[float], part: int, parts: int) -> range:
    """Neighbours among items, so that `parts` portions hold each item once and cost about the same.

    >>> [portion([5, 1, 1, 1, 4], part, 3) for part in range(3)], portion([1, 1], 0, 1)
    ([range(0, 1), range(1, 4), range(4, 5)], range(0, 2))
    """
    share, past = sum(costs) / parts, 0.0
    bounds = []  # what stands before the middle of each item, in shares
    for cost in costs:
        bounds.append(min(parts - 1, int((past + cost / 2) / share)) if share else 0)
        past += cost
    inside = [item for item, place in enumerate(bounds) if place == part]
    return range(inside[0], inside[-1] + 1) if inside else range(0)


def left_idle(examples: int, ranks: int) -> str:
    """What to tell of a step that has fewer examples than there are ranks; empty where it has enough.

    >>> left_idle(8, 8), left_idle(2, 3)[:71]
    ('', 'a step has 2 examples for 3 devices, so 1 of them always has nothing to')
    """
    if examples >= ranks:
        return ""
    idle = ranks - examples
    return (
        f"a step has {how_many(examples, 'example')} for {ranks:,} devices, so {idle:,} of them always "
        f"{'have' if idle > 1 else 'has'} nothing to do; raise batch.examples to {ranks:,} or more, or take {examples:,} "
        f"device{'s' if examples > 1 else ''}"
    )


def seen_again(examples: int, rows: int | None) -> str:
    """What to tell of a step that has more examples than there are rows; empty where it has not.

    >>> seen_again(30, 30), seen_again(64, 30)
    ('', 'a step of 64 examples sees each of the 30 rows 2.1 times; set batch.examples to 30 or less, or bring more rows')

    Args:
        rows: None of streams, which have no end.
    """
    if rows is None or examples <= rows:
        return ""
    mend = f"set batch.examples to {rows:,} or less, or bring more rows"
    return f"a step of {how_many(examples, 'example')} sees each of the {rows:,} rows {examples / rows:,.1f} times; {mend}"


def refuse_repeated(examples: int, rows: int | None) -> None:
    """Refuse a step that takes a hundred times as long as one with each row once, and teaches the same.

    Args:
        rows: None of streams, which have no end.

    Raises:
        RecipeError: it sees each row `TIMES` times or more.
    """
    if rows is not None and examples >= TIMES * rows:
        raise RecipeError(seen_again(examples, rows), where="batch.examples")


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
