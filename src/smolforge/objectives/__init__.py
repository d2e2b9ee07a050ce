"""What is optimised: pure functions from token log-probs to a sum and its metrics.

An objective never divides. The loop divides once, by `count` taken over all ranks and rows of the step, so a gradient does
not depend on packing, accumulation or the number of devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from smolforge.data.batch import PackedBatch
from smolforge.records import ResponseKind


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """Sums over one row."""

    loss: torch.Tensor  # scalar, with a graph
    metrics: dict[str, torch.Tensor]  # scalars without one; divided by the same count


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How the loop uses an objective."""

    kinds: frozenset[ResponseKind]  # responses it needs
    count: Callable[[PackedBatch], float]  # what the sums are divided by: scored tokens, pairs, ...
    metrics: tuple[str, ...]  # names that `loss` gives, "loss" among them
    loss: Callable[[torch.Tensor, PackedBatch], LossOutput]  # (log-probs (K,), row) -> sums


def objective_of(section: Any) -> Objective:
    """The objective that a recipe's section describes."""
    from smolforge.objectives.sft import sft

    return {"sft": sft}[section.kind](section)
