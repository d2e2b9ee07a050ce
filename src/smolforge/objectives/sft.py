"""Supervised fine-tuning: maximum likelihood of the answers."""

from __future__ import annotations

import torch

from smolforge.data.batch import PackedBatch
from smolforge.data.pipeline import Shaping
from smolforge.objectives import Counts, LossOutput, Objective, Shared
from smolforge.recipe import SftSection


def sft(section: SftSection) -> Objective:
    """Targets and chosen answers are learnt; rejected ones are not laid out."""
    shaping = Shaping(kinds=frozenset({"target", "chosen"}))
    return Objective(shaping=shaping, units=("tokens",), counts=counts, metrics={}, loss=loss)


def counts(row: PackedBatch) -> Counts:
    """Scored tokens, each by its weight."""
    return {"tokens": float(row.weights.sum())}


def loss(log_probs: torch.Tensor, row: PackedBatch, shared: Shared) -> LossOutput:
    """L = - sum_t w_t log p(y_t | y_<t, prompt): cross-entropy in nats, summed.

    Args:
        log_probs: (K,) float32.
    """
    return LossOutput(terms={"tokens": -(row.weights * log_probs).sum()}, metrics={})
