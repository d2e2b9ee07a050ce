"""What a row costs in operations, by its tokens, attended pairs, scored tokens and tiles, so that any row's cost is a sum.

The coefficients are taken from rehearsals of four short rows, which count what the code does: a frozen tower's forward pass
alone, layers that are computed again in the backward pass, adapters. All of it is products and attention, so the sum is exact.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from smolforge.estimating.layout import Row
from smolforge.estimating.rehearsal import rehearse
from smolforge.model.tree import HEAD_CHUNK
from smolforge.recipe import Recipe

SHORT, SCORED = 32, 4  # tokens of the rows that are rehearsed
SHALLOW = (2, 3)  # layers of the models that are, where all layers are alike; the first has its own way with gradients


@dataclass(frozen=True, kw_only=True)
class Work:
    """FLOP of a row, forward and backward."""

    token: float  # each token: the layers' matrices
    pair: float  # each token times each of its tree, squared lengths: attention
    scored: float  # each scored token: the head
    tile: float  # each tile: tower and connector
    again: float = 0.0  # each scored token of a row with more than `chunk`: its logits are computed twice
    chunk: int = 2**60

    def of(self, row: Row) -> float:
        """FLOP of a row."""
        pairs = sum(length**2 for length in row.trees)
        again = self.again * row.scored * (row.scored > self.chunk)
        return self.token * row.tokens + self.pair * pairs + self.scored * row.scored + self.tile * row.tiles + again


def work_of(recipe: Recipe, config: Any, *, step: int | None = None) -> Work:
    """Coefficients of a recipe on a GPU, where attention is a fused kernel.

    Args:
        config: Hugging Face's, of the model.
        step: at which it is asked what trains; the run's last when left out.

    Raises:
        RecipeError: as `rehearse`.
    """

    text, eyes = getattr(config, "text_config", config), getattr(config, "vision_config", None)

    def flops(*trees: int, scored: int = SCORED, tiles: int = 0) -> tuple[float, float]:
        """Of a row in a model as deep as the decoder, and as deep as the tower; from two shallow ones where layers are alike."""
        row = Row(trees=trees, scored=scored, tiles=tiles, runs=tiles)

        def of(one: Any) -> float:
            return rehearse(recipe, one, row, stand=False, cuda=True, step=step).flops

        if recipe.adapters is not None or recipe.freeze.decoder_layers:
            whole = of(config)
            return whole, whole
        shallow = [of(_of_depth(config, depth)) for depth in SHALLOW]
        layer = (shallow[1] - shallow[0]) / (SHALLOW[1] - SHALLOW[0])
        depths = (text.num_hidden_layers, eyes.num_hidden_layers if eyes else SHALLOW[0])
        first, second = (shallow[0] + (depth - SHALLOW[0]) * layer for depth in depths)
        return first, second

    plain = flops(SHORT, SHORT)
    pair = (flops(2 * SHORT)[0] - plain[0]) / (2 * SHORT**2)  # the same tokens in one tree
    scored = (flops(SHORT, SHORT, scored=2 * SCORED)[0] - plain[0]) / SCORED
    token = (plain[0] - 2 * SHORT**2 * pair - SCORED * scored) / (2 * SHORT)
    tile = flops(SHORT, SHORT, tiles=1)[1] - plain[1] if eyes else 0.0
    again = 2.0 * text.hidden_size * text.vocab_size
    return Work(token=token, pair=pair, scored=scored, tile=tile, again=again, chunk=max(1, HEAD_CHUNK // text.vocab_size))


def _of_depth(config: Any, depth: int) -> Any:
    """The configuration with so many layers in decoder and tower."""
    config = copy.deepcopy(config)
    for part in (getattr(config, "text_config", config), getattr(config, "vision_config", None)):
        if part is not None:
            part.num_hidden_layers = depth
    return config
