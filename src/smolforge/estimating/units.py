"""Which parameters are gathered together when a model is spread over devices, as `training/sharding.py` wraps it.

    tower layer 0 ... 11 | tower (the rest of it) | connector | decoder layer 0 ... 29 | root (embeddings, last norm, head)

A unit is gathered whole before it runs. The tower stays gathered for all chunks of a row, forward and again backward, the root
from a row's forward pass to the end of its backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from smolforge.estimating.rehearsal import build
from smolforge.model.tree import TreeModel
from smolforge.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Parameters that are gathered together."""

    part: str  # vision, connector, decoder, root
    total: int
    trainable: int


def tile_cost_of(recipe: Recipe, config: Any) -> float:
    """What a tile costs in a recipe's model beside its tokens, in tokens. Raises as `units_of`."""
    model, _, _, _ = build(recipe, config)
    return TreeModel(model).tile_cost


def units_of(recipe: Recipe, config: Any, *, step: int | None = None) -> list[Unit]:
    """The units of a recipe's model in the order of the forward pass, the root last.

    Args:
        config: Hugging Face's, of the model.
        step: at which it is asked what trains; the run's last when left out.

    Raises:
        RecipeError: as `rehearse`.
    """
    model, whole, _, _ = build(recipe, config, step=step)
    tree = TreeModel(model)
    modules: list[tuple[str, Any]] = [("decoder", layer) for layer in tree.decoder.layers]
    if tree.has_vision:
        layers = [("vision", layer) for layer in tree.vision.encoder.layers]
        modules = [*layers, ("vision", tree.vision), ("connector", tree.connector), *modules]
    seen, units = set[int](), []
    for part, module in [*modules, ("root", whole)]:
        mine = [parameter for parameter in module.parameters() if id(parameter) not in seen]
        seen |= set(map(id, mine))
        trainable = sum(parameter.numel() for parameter in mine if parameter.requires_grad)
        units.append(Unit(part=part, total=sum(parameter.numel() for parameter in mine), trainable=trainable))
    return units
