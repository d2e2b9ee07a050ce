"""A score is a function of sums, so that one piece of code gives its value, its interval and the difference of two models.

Every example adds some named numbers (right answers, n-gram matches, hallucinated mentions). They are summed over the examples,
and a measure is computed from the totals: a mean, a ratio, F1, BLEU. A bootstrap resample only changes how often each example
is summed. Legend: R resamples, E examples, C counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Sums = Mapping[str, float]  # what one example adds
Totals = Mapping[str, np.ndarray]  # the same summed, (R,) float64 each; a name that no example has is 0

DRAWS = 2000  # bootstrap resamples
CHUNK = 100  # resamples computed at a time


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A score: what it is, from what it is computed, and which way is better."""

    about: str  # one clause, for tables
    of: Callable[[Totals], np.ndarray]  # (R,) from (R,) each; NaN where it cannot be said
    better: Literal["higher", "lower", ""] = "higher"  # "": neither, it stands beside the others
    percent: bool = True  # shown times 100 with a %, or as it is
    needs: str = ""  # a count without which the measure is left out, such as METEOR's where there is no Java


@dataclass(frozen=True, kw_only=True)
class Score:
    """A measure's value with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def ratio(above: str, below: str, *, times: float = 1.0) -> Callable[[Totals], np.ndarray]:
    """`times * above / below`, NaN where `below` is 0.

    >>> ratio("right", "asked")(Total({"right": np.array([1.0]), "asked": np.array([4.0])}))
    array([0.25])
    """
    return lambda totals: times * divide(totals[above], totals[below])


def length(of: str, what: str = "an answer") -> Measure:
    """Mean of the count `tokens` over the count `of`: what says less invents less, so it stands beside other scores."""
    return Measure(about=f"tokens of {what}", of=ratio("tokens", of), better="", percent=False)


def divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)


class Total(dict[str, np.ndarray]):
    """Totals in which a name that nothing was added to is 0."""

    def __missing__(self, name: str) -> np.ndarray:
        return np.zeros_like(next(iter(self.values()), np.zeros(1)))


def scores(examples: Sequence[Sums], measures: Mapping[str, Measure], *, seed: int = 0) -> dict[str, Score | None]:
    """Each measure over some examples, None where it cannot be said of them.

    >>> right = Measure(about="right answers", of=ratio("right", "asked"))
    >>> scores([{"right": 1, "asked": 1}, {"right": 1, "asked": 1}], {"accuracy": right})
    {'accuracy': Score(value=1.0, low=1.0, high=1.0)}
    """
    names, table = _table(examples)  # (E, C)
    whole = _totals(names, table.sum(0, keepdims=True))
    drawn = _totals(names, *_resampled(table, seed=seed))
    found: dict[str, Score | None] = {}
    for name, measure in measures.items():
        value = float(measure.of(whole)[0])
        low, high = _interval(measure.of(drawn))
        found[name] = None if np.isnan(value) else Score(value=value, low=low, high=high)
    return found


def differences(
    before: Sequence[Sums], after: Sequence[Sums], measures: Mapping[str, Measure], *, seed: int = 0
) -> dict[str, Score | None]:
    """By how much each measure rose from `before` to `after` on the same examples in the same order (paired bootstrap)."""
    assert len(before) == len(after), f"{len(before)} examples against {len(after)}"
    names, table = _table([*before, *after])
    old, new = table[: len(before)], table[len(before) :]
    drawn_old, drawn_new = (_totals(names, drawn) for drawn in _resampled(old, new, seed=seed))
    found: dict[str, Score | None] = {}
    for name, measure in measures.items():
        value = float(measure.of(_totals(names, new.sum(0, keepdims=True)))[0]) - float(
            measure.of(_totals(names, old.sum(0, keepdims=True)))[0]
        )
        low, high = _interval(measure.of(drawn_new) - measure.of(drawn_old))
        found[name] = None if np.isnan(value) else Score(value=value, low=low, high=high)
    return found


def _table(examples: Sequence[Sums]) -> tuple[list[str], np.ndarray]:
    """Names of all counts, and (E, C) float64."""
    names = sorted({name for sums in examples for name in sums})
    return names, np.array([[sums.get(name, 0.0) for name in names] for sums in examples], np.float64)


def _totals(names: Sequence[str], table: np.ndarray) -> Total:
    """(R, C) -> totals of (R,)."""
    return Total(zip(names, table.T))


def _resampled(*tables: np.ndarray, seed: int) -> list[np.ndarray]:
    """Totals of each table (E, C) under the same resamples of its examples, (R, C) each."""
    examples, rng = len(tables[0]), np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in tables]
    for first in range(0, DRAWS, CHUNK):
        times = rng.multinomial(examples, np.full(examples, 1 / examples), size=min(CHUNK, DRAWS - first)).astype(np.float64)
        for part, table in zip(parts, tables):
            part.append(times @ table)
    return [np.concatenate(part) for part in parts]


def _interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of what could be said."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
