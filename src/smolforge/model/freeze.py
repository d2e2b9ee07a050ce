"""What trains: whole components by the recipe's `freeze`."""

from __future__ import annotations

from torch import nn

from smolforge.model.build import component
from smolforge.recipe import FreezeSection


def apply_freeze(model: nn.Module, section: FreezeSection) -> None:
    """Set `requires_grad` of every parameter by its component."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not getattr(section, component(name)))
