"""AdamW, its 8-bit and its paged form, with one way to take their moments out and put them back.

Moments of AdamW are two float32 numbers a trained weight, more than the weight itself in bfloat16. bitsandbytes keeps them in
8 bits (Dettmers et al. 2022), or lets them move to the CPU's memory when the GPU's is full. Tensors of fewer than 4,096 numbers
keep float32 moments with every kind, so LoRA gains less than full fine-tuning.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from smolforge.errors import RecipeError
from smolforge.model.quantize import bitsandbytes
from smolforge.recipe import OptimSection

CLASSES = {"adamw_8bit": "AdamW8bit", "paged_adamw": "PagedAdamW", "paged_adamw_8bit": "PagedAdamW8bit"}  # bitsandbytes' names
DEVICES = {"adamw_8bit": ("cpu", "cuda"), "paged_adamw": ("cuda",), "paged_adamw_8bit": ("cuda",)}
# torch's three, then bitsandbytes': moments and, where they have 8 bits, the largest of each 256 of them
MOMENTS = ("step", "exp_avg", "exp_avg_sq", "state1", "state2", "absmax1", "absmax2")
SMALLEST = 4096  # numbers of a tensor from which on its moments have 8 bits
BLOCK = 256  # moments that share a scale


def make_adamw(section: OptimSection, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser of a recipe's kind over groups of "params", "peak" (rate, for the caller) and "weight_decay".

    Raises:
        RecipeError: bitsandbytes is missing, or has nothing of the kind for the device that the parameters are on.
    """
    if section.kind == "adamw":
        return torch.optim.AdamW(groups, betas=section.betas, eps=section.eps, fused=True)
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    if absent := sorted(devices - set(DEVICES[section.kind])):
        mend = "use adamw_8bit or adamw" if "adamw_8bit" not in section.kind or absent == ["cpu"] else "use adamw"
        raise RecipeError(f"{section.kind} does not run on {absent[0]}", where="optim.kind", mend=mend)
    return getattr(bitsandbytes("optim.kind").optim, CLASSES[section.kind])(groups, betas=section.betas, eps=section.eps)


def moments(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the optimiser remembers of a parameter, by `MOMENTS`; nothing before its first step. Tensors are its own, no copies.

    The code tables of 8-bit moments are bitsandbytes' constants and stay out.
    """
    state = optimizer.state.get(parameter, {})
    return {key: torch.as_tensor(state[key]) for key in MOMENTS if key in state}


def put_back(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, saved: dict[str, torch.Tensor]) -> None:
    """Give an optimiser of the same kind the `moments` of a parameter again, bit for bit, on the parameter's device."""
    if "state1" not in saved:
        optimizer.state[parameter] = {key: tensor.to(parameter.device) for key, tensor in saved.items()}
        return
    group, place = _place(optimizer, parameter)
    adamw: Any = optimizer
    adamw.init_state(adamw.param_groups[group], parameter, group, place)  # paged memory, where that is the kind
    state = optimizer.state[parameter]
    for key, tensor in saved.items():
        if key == "step":
            state[key] = int(tensor)
        else:
            state[key].copy_(tensor)


def _place(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> tuple[int, int]:
    for index, group in enumerate(optimizer.param_groups):
        for place, one in enumerate(group["params"]):
            if one is parameter:
                return index, place
    raise AssertionError("a parameter that the optimiser does not have")


def moment_bytes(numbers: int, section: OptimSection) -> int:
    """Bytes of the moments of a trained tensor of so many numbers; where paged ones lie is another matter.

    >>> moment_bytes(4095, OptimSection(kind="adamw_8bit")), moment_bytes(4096, OptimSection(kind="adamw_8bit"))
    (32760, 8320)
    """
    if section.kind.endswith("8bit") and numbers >= SMALLEST:
        return 2 * numbers + 2 * 4 * math.ceil(numbers / BLOCK)
    return 8 * numbers
