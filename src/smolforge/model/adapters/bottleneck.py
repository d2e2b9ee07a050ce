"""Bottleneck adapters: small MLPs with a residual connection behind attention and MLP of every layer (Houlsby et al. 2019), or
behind the MLP only (Pfeiffer et al. 2021). PEFT has none.

One stands around the linear layer that ends a sub-layer, before the layer's own residual addition:

    x --> o_proj --> h --> down (D -> r) --> activation --> up (r -> D) --> + --> residual stream
                     +--------------------------------------------------->--+

so Hugging Face's own forward runs over it as the token tree's does. `up` starts at zero: the model begins as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from smolforge.errors import ModelError
from smolforge.model.adapters.inside import Adapters
from smolforge.model.adapters.origin import CONFIG, WEIGHTS, read_config
from smolforge.recipe import BottleneckSection

PEFT_TYPE = "SMOLFORGE_BOTTLENECK"
ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class Bottleneck(nn.Module):
    """A linear layer with an adapter behind it: (..., in) -> (..., D)."""

    def __init__(self, base_layer: Any, section: BottleneckSection, dtype: torch.dtype) -> None:
        super().__init__()
        width = base_layer.out_features
        places = {"device": base_layer.weight.device, "dtype": dtype}
        self.base_layer = base_layer
        down, up = nn.Linear(width, section.r, **places), nn.Linear(section.r, width, **places)
        self.bottleneck = nn.ModuleDict(
            {"dropout": nn.Dropout(section.dropout), "down": down, "activation": ACTIVATIONS[section.activation](), "up": up}
        )
        for start in (down.bias, up.bias, up.weight):
            nn.init.zeros_(start)
        self.on = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.base_layer(x)  # (..., D)
        if not self.on:
            return h
        inner = self.bottleneck
        return h + inner["up"](inner["activation"](inner["down"](inner["dropout"](h))))

    def enable_adapters(self, enabled: bool) -> None:
        self.on = enabled


class Bottlenecks(Adapters):
    """Bottleneck adapters of a model; they are their own handle."""

    why_not_merged = "bottleneck adapters are small networks with an activation, which no weight of the base model can express"

    def layers(self) -> list[Any]:
        return [module for module in self.model.modules() if isinstance(module, Bottleneck)]

    def save(self, draft: Path) -> None:
        draft.mkdir(parents=True, exist_ok=True)
        (draft / CONFIG).write_text(json.dumps(self.handle, indent=1), encoding="utf-8")
        save_file({name: tensor.contiguous() for name, tensor in _tensors(self.model).items()}, draft / WEIGHTS)
        self.write_about(draft)


def put_bottlenecks(
    model: Any,
    section: BottleneckSection,
    names: Sequence[str],
    about: Mapping[str, Any],
    *,
    base: str,
    revision: str | None = None,
) -> Bottlenecks:
    """Freeze a model and put an adapter behind each of its linear layers in `names`."""
    model.requires_grad_(False)
    dtype = model.get_input_embeddings().weight.dtype  # a quantised layer's own says nothing of its outputs'
    for name in names:
        model.set_submodule(name, Bottleneck(model.get_submodule(name), section, dtype))
    config = {
        "peft_type": PEFT_TYPE, "base_model_name_or_path": base, "revision": revision, "target_modules": list(names),
        "section": section.model_dump(mode="json"),
    }  # fmt: skip
    return Bottlenecks(model, config, about)


def load_bottlenecks(model: Any, folder: Path, about: Mapping[str, Any], *, weights: bool = True) -> Bottlenecks:
    """Put saved bottleneck adapters into a model.

    Args:
        weights: False makes adapters of the same shape without reading their weights.

    Raises:
        ModelError: they do not fit the model.
    """
    config = read_config(folder)
    try:
        section, names = BottleneckSection.model_validate(config["section"]), config["target_modules"]
        adapters = put_bottlenecks(
            model, section, names, about, base=config["base_model_name_or_path"], revision=config.get("revision")
        )
        if weights:
            found, there = load_file(folder / WEIGHTS), _tensors(model)
            if odd := sorted(found.keys() ^ there.keys()):
                raise KeyError(odd[0])
            with torch.no_grad():
                for name, tensor in there.items():
                    if tensor.shape != found[name].shape:
                        raise ValueError(f"{name} is {tuple(found[name].shape)} there and {tuple(tensor.shape)} here")
                    tensor.copy_(found[name])
    except (KeyError, TypeError, ValueError, AttributeError, OSError, SafetensorError, ValidationError) as error:
        raise ModelError(
            f"the adapters do not fit {config['base_model_name_or_path']} ({str(error).splitlines()[0]})",
            where=folder,
            mend="use the model they belong to",
        ) from error
    return adapters


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if ".bottleneck." in name}
