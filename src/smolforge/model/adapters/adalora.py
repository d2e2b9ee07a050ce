"""AdaLoRA (Zhang et al. 2023): updates P diag(E) Q whose ranks move to where they matter while training.

PEFT scores and masks the triplets. Here its schedule gets the run's steps, its scores the optimiser's gradients, and both
survive an interruption.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from smolforge.errors import RecipeError
from smolforge.model.adapters.inside import Adapters
from smolforge.recipe import AdaloraSection

SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # PEFT's: sensitivity, its mean, its uncertainty


def rank_schedule(section: AdaloraSection, steps: int) -> dict[str, int]:
    """PEFT's settings of the budget's schedule for a run of `steps`.

    Raises:
        RecipeError: too few steps for ranks to change in.

    >>> rank_schedule(AdaloraSection(method="adalora"), 100)
    {'total_step': 100, 'tinit': 10, 'tfinal': 30, 'deltaT': 1}
    """
    first, last = round(section.warmup * steps), max(1, round(section.settle * steps))
    if first >= steps - last:
        raise RecipeError(
            f"{steps} steps leave none between the first {first} and the last {last} for ranks to change in",
            where="adapters.warmup",
            mend="train longer, or lower adapters.warmup and adapters.settle",
        )
    return {"total_step": steps, "tinit": first, "tfinal": last, "deltaT": section.every}


class Adalora(Adapters):
    """AdaLoRA by PEFT, driven by the training loop."""

    def __init__(self, model: Any, handle: Any, about: Mapping[str, Any]) -> None:
        super().__init__(model, handle, about)
        for name, parameter in model.named_parameters():
            if ".ranknum." in name:  # a constant, which PEFT lets train where the model is not in float32, and never saves
                parameter.requires_grad_(False)

    @property
    def _tuner(self) -> Any:
        return self.handle.base_model

    def penalty(self) -> torch.Tensor | None:
        """How far the singular vectors are from orthogonal: the weight times the mean of |P^T P - I| and |Q Q^T - I| (equation 4;
        PEFT's own forward adds the same to its loss)."""
        distances = []
        for name, p in self.model.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                gram = p @ p.T if ".lora_A." in name else p.T @ p  # (r, r)
                distances.append((gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).norm())
        return self.handle.peft_config["default"].orth_reg_weight * torch.stack(distances).mean()

    def after_step(self, step: int, gradients: Mapping[str, torch.Tensor]) -> list[str]:
        masked = [name for name, _ in self.model.named_parameters() if ".lora_E." in name]
        trained = {name: p for name, p in self.model.named_parameters() if name in gradients}
        kept = {name: p.grad for name, p in trained.items()}
        for name, p in trained.items():
            p.grad = gradients[name].to(p.dtype)
        config = self.handle.peft_config["default"]
        settled = config.total_step - config.tfinal
        if step > settled and self._tuner.rankallocator.ipt:  # step `settled` had no usable example: the scores still wait
            step = settled
        self._tuner.update_and_allocate(step)
        for name, p in trained.items():
            p.grad = kept[name]
        return masked

    def save(self, draft: Path) -> None:
        config = self.handle.peft_config["default"]
        mine = config.rank_pattern
        config.rank_pattern = mine and self._written(mine)
        super().save(draft)
        config.rank_pattern = mine  # saving renames its keys

    def _written(self, pattern: Mapping[str, list[bool]]) -> dict[str, list[bool]]:
        """Triplets that a file must hold: those that are kept, those that were given up and have grown back since (ranks change
        every so many steps only), and at least one a layer, for PEFT takes a rank of zero for a damaged file."""
        parameters, written = dict(self.model.named_parameters()), {}
        for name, kept in pattern.items():
            rows = torch.tensor(kept) | (parameters[name].detach().flatten().cpu() != 0)  # (init_r,)
            rows[0] |= ~rows.any()
            written[name] = rows.tolist()
        return written

    def state(self) -> dict[str, torch.Tensor]:
        pattern = self.handle.peft_config["default"].rank_pattern or {}
        state = {f"adalora.rank.{name}": torch.tensor(kept, dtype=torch.uint8) for name, kept in pattern.items()}
        for score in SCORES:
            state |= {f"adalora.{score}.{name}": tensor for name, tensor in getattr(self._tuner.rankallocator, score).items()}
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        def of(kind: str) -> dict[str, torch.Tensor]:
            prefix = f"adalora.{kind}."
            return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}

        device = next(self.model.parameters()).device
        for score in SCORES:
            setattr(self._tuner.rankallocator, score, {name: tensor.to(device) for name, tensor in of(score).items()})
        pattern = {name: kept.bool().tolist() for name, kept in of("rank").items()}
        self.handle.peft_config["default"].rank_pattern = pattern or None
