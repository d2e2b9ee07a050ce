"""Words that many messages need: counts, the first of many names, the nearest one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.7) -> str:
    """The nearest of some names, for a message; empty where none is near.

    Args:
        cutoff: how near, from 0 to 1 (equal).

    >>> did_you_mean("popo", ["pope", "chair"]), did_you_mean("x", ["pope"])
    ('did you mean pope?', '')
    """
    near = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f"did you mean {near[0]}?" if near else ""


def some(words: Sequence[str], most: int, *, between: str = ", ") -> str:
    """The first of some words, and how many more there are.

    >>> some(["a", "b", "c"], 3), some(["a", "b", "c"], 1)
    ('a, b, c', 'a and 2 more')
    """
    more = len(words) - most
    return between.join(words[:most]) + (f" and {more:,} more" if more > 0 else "")


def how_many(number: int, noun: str) -> str:
    """A count in words.

    >>> how_many(1, "row"), how_many(2400, "row"), how_many(0, "pair")
    ('1 row', '2,400 rows', '0 pairs')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
