"""Which linear layers get adapters: by the recipe's parts and endings, resolved to full names before anything is put there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from smolforge.errors import RecipeError
from smolforge.model.build import component
from smolforge.recipe import AdaloraSection, AdapterSection, BottleneckSection, Ia3Section, LoraSection, VirtualTokens

PARTS = {"text": "decoder", "connector": "connector", "vision": "vision"}
INNER = ("down_proj", "fc2", "modality_projection.proj")  # layers whose inputs IA3 scales: the MLPs' inner activations
IA3_LAYERS = ("k_proj", "v_proj", *INNER)
BEHIND_ATTENTION, BEHIND_MLP = ("self_attn.o_proj", "self_attn.out_proj"), ("mlp.down_proj", "mlp.fc2")


def target_modules(model: nn.Module, section: AdapterSection) -> list[str]:
    """Full names of the linear layers that get adapters; none for virtual tokens.

    Raises:
        RecipeError: an ending that no layer of these parts has, or a rank above a layer's width.
    """
    if isinstance(section, VirtualTokens):
        return []
    names = _layers(model, section.on)
    if isinstance(section, BottleneckSection):
        behind = BEHIND_MLP if section.placement == "pfeiffer" else BEHIND_ATTENTION + BEHIND_MLP
        names = [name for name in names if name.endswith(behind)]
    elif section.target_modules is not None:
        for ending in section.target_modules:
            if not any(_ends(name, ending) for name in names):
                raise RecipeError(
                    _no_match(ending, names, section.on), where="adapters.target_modules", mend="leave it out to take all"
                )
        names = [name for name in names if any(_ends(name, ending) for ending in section.target_modules)]
    elif isinstance(section, Ia3Section):
        names = [name for name in names if name.endswith(IA3_LAYERS)]
    if not names:
        raise RecipeError(f"this model has no layers in {', '.join(section.on)}", where="adapters.on", mend="choose other parts")
    _refuse_high_ranks(model, section, names)
    return names


def _layers(model: nn.Module, on: Sequence[str]) -> list[str]:
    """Linear layers of some parts, the head aside."""
    parts = {PARTS[part] for part in on}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and component(f"{name}.weight") in parts and name != "lm_head"
    ]


def _ends(name: str, ending: str) -> bool:
    """Whether a module's name ends with whole words of an ending, as PEFT matches."""
    return name == ending or name.endswith(f".{ending}")


def _no_match(ending: str, names: Sequence[str], on: Sequence[str]) -> str:
    known = sorted({name.rsplit(".", 1)[-1] for name in names})
    near = difflib.get_close_matches(ending.rsplit(".", 1)[-1], known, n=2) or known
    return f"no linear layer of {', '.join(on)} ends with {ending}; nearest: {', '.join(near)}" if near else f"no layer in {on}"


def _refuse_high_ranks(model: Any, section: AdapterSection, names: Sequence[str]) -> None:
    """A rank above a layer's smaller side is no low rank: it would cost more than the layer itself."""
    if isinstance(section, LoraSection | BottleneckSection):
        rank = section.r
    elif isinstance(section, AdaloraSection):
        rank = section.init_r
    else:
        return
    for name in names:
        layer = model.get_submodule(name)
        width = min(layer.in_features, layer.out_features)
        if rank > width:
            key = "adapters.init_r" if isinstance(section, AdaloraSection) else "adapters.r"
            raise RecipeError(f"{rank} is above the width {width} of {name}", where=key, mend=f"give at most {width}")


def reached_beyond(model: nn.Module, section: AdapterSection) -> list[str]:
    """What a recipe's endings would also reach in parts that get no adapters, as lines for people: PEFT, given the same list
    without parts, would train those too."""
    endings = getattr(section, "target_modules", None)
    lines = []
    for part in PARTS if endings else ():
        others = [] if part in section.on else _layers(model, [part])  # type: ignore[union-attr]
        found = [name for name in others if any(_ends(name, ending) for ending in endings or ())]
        if found:
            hit = sorted({name.rsplit(".", 1)[-1] for name in found})
            lines.append(
                f"{', '.join(hit)} also name {len(found)} layers of {part}, which is frozen and stays so: adapters.on is "
                f"[{', '.join(section.on)}]"  # type: ignore[union-attr]
            )
    return lines


def grouped(names: Sequence[str]) -> dict[str, int]:
    """Module names with the layers' numbers taken together, and how many there are.

    >>> grouped(["m.layers.0.q_proj", "m.layers.1.q_proj", "m.layers.3.q_proj", "proj"])
    {'m.layers.{0-1,3}.q_proj': 3, 'proj': 1}
    """
    numbers: dict[str, list[int]] = {}
    for name in names:
        found = re.search(r"\.layers\.(\d+)\.", name)
        pattern = name if found is None else f"{name[: found.start(1)]}{{}}{name[found.end(1) :]}"
        numbers.setdefault(pattern, []).extend([int(found[1])] if found else [])
    return {pattern.replace("{}", f"{{{_ranges(of)}}}"): max(1, len(of)) for pattern, of in numbers.items()}


def _ranges(numbers: Sequence[int]) -> str:
    """
    >>> _ranges([0, 1, 2, 5])
    '0-2,5'
    """
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in spans)
