"""What is optimised: pure functions from token log-probs to sums and their metrics.

An objective never divides. The loop divides once, by counts taken over all ranks and rows of the step, so a gradient does
not depend on packing, accumulation or the number of devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from smolforge.data.batch import PackedBatch
from smolforge.data.pipeline import Shaping
from smolforge.objectives.comparison import Comparison

Counts = dict[str, float]  # unit (tokens, pairs, ...) -> how many
Shared = Mapping[str, float]  # what all rows of a step must know before their losses


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """Sums over one row."""

    terms: dict[str, torch.Tensor]  # unit -> scalar with a graph; the loss is the sum of each divided by its unit's count
    metrics: dict[str, torch.Tensor]  # scalars without one; divided by the count of `Objective.metrics`' unit

    def loss(self, counts: Counts) -> torch.Tensor:
        """This row's part of the step's loss, a scalar."""
        return torch.stack([term / (counts[unit] or 1) for unit, term in self.terms.items()]).sum()


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How the loop uses an objective."""

    shaping: Shaping  # which responses it needs, and how they are weighed
    units: tuple[str, ...]  # what the sums are divided by ...
    counts: Callable[[PackedBatch], Counts]  # ... and how many a row has of each
    metrics: dict[str, str]  # name -> unit it is divided by
    loss: Callable[[torch.Tensor, PackedBatch, Shared], LossOutput]  # (log-probs (K,), row, shared) -> sums
    compared: frozenset[str] = frozenset()  # metrics that need a reference
    needs_reference: bool = False  # the loss reads row.reference
    own_words: bool = False  # spoilt rejected answers become the model's own words
    compare: Callable[[torch.Tensor, PackedBatch], list[Comparison]] | None = None  # chosen against rejected, pair by pair
    look: Callable[[torch.Tensor, PackedBatch], Counts] | None = None  # sums over a step's rows, without gradient, ...
    looked: tuple[str, ...] = ()  # ... by these names ...
    share: Callable[[Counts], Shared] = lambda sums: {}  # ... and what the losses need of them


def total_counts(objective: Objective, rows: Iterable[PackedBatch]) -> Counts:
    """Counts over a step's rows; zeros without rows."""
    totals = dict.fromkeys(objective.units, 0.0)
    for row in rows:
        for unit, count in objective.counts(row).items():
            totals[unit] += count
    return totals


class Sums:
    """Metrics summed over rows, the loss among them.

    Args:
        compared: whether the rows have a reference; metrics that need one are left out otherwise.
    """

    def __init__(self, objective: Objective, *, compared: bool) -> None:
        self.units = objective.metrics
        self.loss = 0.0
        names = [name for name in objective.metrics if compared or name not in objective.compared]
        self.totals = dict.fromkeys(names, 0.0)

    def add(self, output: LossOutput, loss: torch.Tensor) -> None:
        """A row's output, and its part of the loss, which is divided already."""
        scalars = [value.detach().float() for value in (loss, *output.metrics.values())]
        values = torch.stack(scalars).tolist()  # one wait for the device
        self.loss += values[0]
        for name, value in zip(output.metrics, values[1:]):
            self.totals[name] += value

    def means(self, counts: Counts, over_all: Callable[[list[float]], list[float]]) -> dict[str, float]:
        """Each metric over its count, after `over_all` summed them over the processes. What was not there is left out."""
        loss, *totals = over_all([self.loss, *self.totals.values()])
        pairs = zip(self.totals, totals)
        return {"loss": loss} | {name: total / counts[self.units[name]] for name, total in pairs if counts[self.units[name]]}


def objective_of(section: Any) -> Objective:
    """The objective that a recipe's section describes."""
    from smolforge.objectives.preference import preference
    from smolforge.objectives.sft import sft

    makers: dict[str, Callable[[Any], Objective]] = {"sft": sft, "dpo": preference}
    return makers[section.kind](section)
