"""Preference accuracy: three numbers, always named, with bootstrap intervals and ties apart.

sum      the policy gives the chosen answer the higher log-prob; a short answer has an advantage
token    the same a token
reward   the chosen answer's log-prob rose more than the rejected one's, against the reference; this one flatters
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smolforge.wording import how_many

MEASURES = ("sum", "token", "reward")
DRAWS = 2000  # bootstrap samples


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A pair, scored: log-probs in nats, summed over the answer with its closing token."""

    id: str
    source: str
    chosen: float
    rejected: float
    chosen_tokens: int
    rejected_tokens: int
    chosen_reference: float | None = None  # None without a reference
    rejected_reference: float | None = None

    def margin(self, measure: str) -> float | None:
        """By how much chosen is ahead: of nats, nats a token, or nats above the reference; None when it cannot be said."""
        if measure == "sum":
            return self.chosen - self.rejected
        if measure == "token":
            return self.chosen / self.chosen_tokens - self.rejected / self.rejected_tokens
        if self.chosen_reference is None or self.rejected_reference is None:
            return None
        return (self.chosen - self.chosen_reference) - (self.rejected - self.rejected_reference)


def accuracies(comparisons: Sequence[Comparison], *, seed: int = 0) -> dict[str, Any]:
    """Accuracy by each measure over some pairs.

    Returns:
        {"pairs": n, "sum": {"accuracy": share of pairs with chosen ahead, "low", "high": 95 % bootstrap interval (percentiles
        of 2,000 resamples of the pairs), "ties": share of pairs with none ahead}, "token": .., "reward": .. or None}.

    >>> pair = Comparison(id="1", source="a", chosen=-4.0, rejected=-3.0, chosen_tokens=4, rejected_tokens=2)
    >>> found = accuracies([pair])
    >>> found["sum"]["accuracy"], found["token"]["accuracy"], found["reward"]
    (0.0, 1.0, None)
    """
    comparisons = sorted(comparisons, key=lambda one: (one.source, one.id))  # the draws know no order of computing
    table: dict[str, Any] = {"pairs": len(comparisons)}
    for measure in MEASURES:
        margins = [comparison.margin(measure) for comparison in comparisons]
        known = np.array([margin for margin in margins if margin is not None])
        if not len(known):
            table[measure] = None
            continue
        ahead = known > 0
        picks = np.random.default_rng(seed).integers(len(known), size=(DRAWS, len(known)))
        low, high = np.percentile(ahead[picks].mean(1), [2.5, 97.5])
        table[measure] = {
            "accuracy": float(ahead.mean()), "low": float(low), "high": float(high), "ties": float((known == 0).mean())
        }  # fmt: skip
    return table


def by_source(comparisons: Sequence[Comparison]) -> dict[str, dict[str, Any]]:
    """`accuracies` of each source, and of "all" when there are several."""
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault(comparison.source, []).append(comparison)
    if len(groups) != 1:
        groups = {"all": list(comparisons)} | groups
    return {source: accuracies(group) for source, group in groups.items()}


def lines(table: dict[str, dict[str, Any]]) -> list[str]:
    """One line a source and measure, for a person."""
    words = {"sum": "by summed log-prob", "token": "by log-prob a token", "reward": "by implicit reward"}
    found = []
    for source, scores in table.items():
        for measure in MEASURES:
            s = scores[measure]
            if s is None:
                found.append(f"{source}: {words[measure]} unknown, there is no reference")
                continue
            if s["ties"] == 1:
                found.append(f"{source}: chosen preferred {words[measure]}: all ties, {how_many(scores['pairs'], 'pair')}")
                continue
            ties = f", ties {s['ties']:.1%}" if s["ties"] else ""
            interval = f"[{s['low']:.1%}, {s['high']:.1%}]"
            said = f"{s['accuracy']:.1%} {interval}{ties}, {how_many(scores['pairs'], 'pair')}"
            found.append(f"{source}: chosen preferred {words[measure]} {said}")
    return found
