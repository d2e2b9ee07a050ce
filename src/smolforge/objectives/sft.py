"""Supervised fine-tuning: maximum likelihood of the answers."""

from __future__ import annotations

import torch

from smolforge.data.batch import PackedBatch
from smolforge.objectives import LossOutput, Objective
from smolforge.recipe import SftSection


def sft(section: SftSection) -> Objective:
    """Targets and chosen answers are learnt; rejected ones are not laid out."""
    return Objective(kinds=frozenset({"target", "chosen"}), count=count, metrics=("loss",), loss=loss)


def count(row: PackedBatch) -> float:
    """Scored tokens, each by its weight."""
    return float(row.weights.sum())


def loss(log_probs: torch.Tensor, row: PackedBatch) -> LossOutput:
    """L = - sum_t w_t log p(y_t | y_<t, prompt): cross-entropy in nats, summed.

    Args:
        log_probs: (K,) float32.
    """
    total = -(row.weights * log_probs).sum()
    return LossOutput(loss=total, metrics={"loss": total.detach()})
