"""PiSSA (Meng et al. 2024): LoRA that starts from a layer's principal singular vectors, beside what they leave of the weight.

    W = U S V^T,   B0 A0 = (1 / s) U_r S_r V_r^T  (B0 and A0 with sqrt(S_r) each),   W' = W - s B0 A0,   y = x (W' + s B A)^T

The model starts as it was, and off means A0 and B0 instead of A and B. Saved, it is plain LoRA of rank 2 r on the untouched W,
s (B A - B0 A0) = s [B, -B0] [A; A0], so whatever reads LoRA reads it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from smolforge.model.adapters.inside import Adapters
from smolforge.model.adapters.origin import WEIGHTS


class Pissa(Adapters):
    """LoRA by PEFT, with the start taken out of the base weights."""

    def __init__(self, model: Any, handle: Any, about: Mapping[str, Any]) -> None:
        super().__init__(model, handle, about)
        self.start: dict[str, torch.Tensor] = {}  # A0 and B0 by parameter name

    @torch.no_grad()
    def begin(self, start: Mapping[str, torch.Tensor] | None = None) -> None:
        """Take the start out of the base weights, once: A0 and B0 of a run that goes on (singular vectors found anew may differ
        in the last bit), or from the singular vectors."""
        for name, layer in self.model.named_modules():
            if not hasattr(layer, "lora_A"):
                continue
            a, b, weight = layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.base_layer.weight
            scale, r = layer.scaling["default"], len(a)
            names = [f"{name}.{part}.default.weight" for part in ("lora_A", "lora_B")]
            if start is None:
                u, s, vt = torch.linalg.svd(weight.float(), full_matrices=False)
                root = (s[:r] / scale).sqrt()
                a.copy_(root[:, None] * vt[:r])  # (r, in)
                b.copy_(u[:, :r] * root)  # (out, r)
            else:
                a.copy_(start[names[0]])
                b.copy_(start[names[1]])
            self.start |= {names[0]: a.clone(), names[1]: b.clone()}
            weight.sub_((scale * b.float() @ a.float()).to(weight.dtype))

    def layers(self) -> list[Any]:
        """What is trained in full beside; LoRA's own layers stay on, with A0 and B0."""
        return [layer for layer in super().layers() if not hasattr(layer, "lora_A")]

    @contextmanager
    def off(self) -> Iterator[None]:
        trained = {name: parameter for name, parameter in self.model.named_parameters() if name in self.start}
        now = {name: parameter.detach().clone() for name, parameter in trained.items()}
        _put(trained, self.start)
        try:
            with super().off():
                yield
        finally:
            _put(trained, now)

    def state(self) -> dict[str, torch.Tensor]:
        return {f"pissa.{name}": tensor for name, tensor in self.start.items()}

    def save(self, draft: Path) -> None:
        config = self.handle.peft_config["default"]
        whole = copy.deepcopy(config)
        whole.r, whole.lora_alpha = 2 * config.r, 2 * config.lora_alpha  # the same alpha / r
        self.handle.peft_config["default"] = whole
        try:
            super().save(draft)
        finally:
            self.handle.peft_config["default"] = config
        tensors = load_file(draft / WEIGHTS)
        for name, tensor in tensors.items():
            start = self.start.get(name.removeprefix("base_model.model.").replace(".weight", ".default.weight"))
            if start is not None:
                a = ".lora_A." in name
                tensors[name] = torch.cat([tensor, start.cpu() if a else -start.cpu()], 0 if a else 1).contiguous()
        save_file(tensors, draft / WEIGHTS, metadata={"format": "pt"})


@torch.no_grad()
def _put(parameters: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
