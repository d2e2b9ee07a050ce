"""What trains, and from which step on: components, first decoder layers and embeddings by the recipe's `freeze`."""

from __future__ import annotations

from typing import Any

from smolforge.errors import RecipeError
from smolforge.model.build import component
from smolforge.recipe import COMPONENTS, FreezeSection


def thaws(section: FreezeSection, step: int) -> list[str]:
    """Components that train from this very step on, having been frozen before it."""
    return [part for part in COMPONENTS if step > 0 and section.until(part) == step]


def apply_freeze(model: Any, section: FreezeSection, *, step: int = 0) -> None:
    """Set `requires_grad` of every parameter of a SmolVLM, Idefics3 or Llama model, as it is at a step.

    Raises:
        RecipeError: more layers than the decoder has, or nothing is left to train.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(0 <= section.until(component(name)) <= step)
    decoder = getattr(model.model, "text_model", model.model)
    if section.decoder_layers > len(decoder.layers):
        raise RecipeError(
            f"there are {len(decoder.layers)} decoder layers", where="freeze.decoder_layers", mend="give at most that number"
        )
    for layer in decoder.layers[: section.decoder_layers]:
        layer.requires_grad_(False)
    if section.embeddings:
        decoder.embed_tokens.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RecipeError("everything that this model has is frozen", where="freeze", mend="leave the decoder unfrozen")
