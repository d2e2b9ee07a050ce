"""Adapters inside the layers, by PEFT: it replaces linear layers by its own within Hugging Face's model, so that the token tree's
forward runs over them as it is. What the other kinds share with them is `Adapters`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smolforge.model.adapters.origin import ABOUT
from smolforge.model.build import quiet


class Adapters:
    """Adapters on a model, whatever kind: LoRA, DoRA, rsLoRA, VeRA and IA3 as they are, the others by what they override.

    Args:
        model: Hugging Face's model that they stand in.
        handle: PEFT's on it, or whatever saves them.
        about: what is written beside them when they are saved: method, the base's fingerprint, its quantisation.
    """

    why_not_merged: str | None = None  # reason where they cannot be added to the weights

    def __init__(self, model: Any, handle: Any, about: Mapping[str, Any]) -> None:
        self.model, self.handle, self.about = model, handle, dict(about)

    @property
    def whole(self) -> nn.Module:
        """The module that holds base and adapters, to count their parameters."""
        return self.model

    def layers(self) -> list[Any]:
        """The modules that can be switched off."""
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        return [m for m in self.model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]

    @contextmanager
    def off(self) -> Iterator[None]:
        """The base model, for as long as the context lasts."""
        layers = self.layers()
        trains = [(parameter, parameter.requires_grad) for layer in layers for parameter in layer.parameters()]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)  # which lets them train, whether they did or not
            for parameter, did in trains:
                parameter.requires_grad_(did)

    def merged(self) -> Any:
        """The base model with the adapters added to its weights; they are gone."""
        return self.handle.merge_and_unload()

    def save(self, draft: Path) -> None:
        """Write them into a folder, in PEFT's format, and what it has no place for beside."""
        with quiet():
            self.handle.save_pretrained(str(draft), save_embedding_layers=False)  # looking whether they changed would ask the Hub
        (draft / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        self.write_about(draft)

    def write_about(self, draft: Path) -> None:
        (draft / ABOUT).write_text(json.dumps(self.about, indent=1), encoding="utf-8")

    # for training ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, torch.Tensor]:
        """What a continuation needs besides the trained tensors."""
        return {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put that back."""

    def penalty(self) -> torch.Tensor | None:
        """What the method adds to a step's loss; None for most."""
        return None

    def after_step(self, step: int, gradients: Mapping[str, torch.Tensor]) -> list[str]:
        """What the method does after optimiser step `step` (from 0), with the gradients by parameter name; names of the
        parameters that it set."""
        return []


def linear(module: Any, x: torch.Tensor) -> torch.Tensor:
    """A linear layer's output, (L, in) -> (L, out). Plain LoRA goes in one fused product, x W^T + (s x A^T) B^T, which spares two
    passes over (L, out) forward and one backward; whatever else stands there runs as it is."""
    if not hasattr(module, "lora_A") or hasattr(module, "lora_E"):
        return module(x)
    if module.disable_adapters or module.merged or module.active_adapters != ["default"]:
        return module(x)
    dropout = module.lora_dropout["default"]
    a, b = module.lora_A["default"], module.lora_B["default"]
    plain = "default" not in module.lora_variant and (isinstance(dropout, nn.Identity) or not dropout.training)
    if not plain or b.bias is not None or a.weight.dtype != x.dtype:
        return module(x)
    return torch.addmm(module.base_layer(x), a(x) * module.scaling["default"], b.weight.T)
