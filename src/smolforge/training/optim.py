"""AdamW with a learning rate per component, float32 master weights, and the rate's schedule.

A parameter in bfloat16 has 8 bits of mantissa: an update a thousand times smaller than the weight is lost. So what trains
keeps a float32 copy here, gradients are accumulated in float32, and the model's weight is the copy rounded.

Of weights that are spread over several processes each has its rows here, in float32 anyway, and updates them alone; only norms
are sums over all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from smolforge.errors import TrainingError
from smolforge.model.adapters import stands_beside
from smolforge.model.build import component
from smolforge.recipe import OptimSection
from smolforge.training.adamw import MOMENTS, make_adamw, moments, put_back
from smolforge.training.shards import is_sharded, local_of


class Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) over a model's trainable parameters.

    Args:
        model: parameters are named by it, in checkpoints and messages.
        section: rates, decay, clipping.
        keep_all: whether the state holds every trained tensor, not only float32 copies. Adapters' own files do not hold them all,
            and those of a sharded model hold them rounded.
        over_all: sums numbers over the processes that share the weights; left out where each has them whole.
    """

    def __init__(
        self,
        model: nn.Module,
        section: OptimSection,
        *,
        keep_all: bool = False,
        over_all: Callable[[list[float]], list[float]] = lambda values: values,
    ) -> None:
        self.section, self.keep_all, self.over_all = section, keep_all, over_all
        self.parameters: dict[str, torch.Tensor] = {}
        self.masters: dict[str, torch.Tensor] = {}
        self.adamw = make_adamw(section, self._more(model))

    def extend(self, model: nn.Module) -> None:
        """Take in what has begun to train since."""
        for group in self._more(model):
            self.adamw.add_param_group(group)

    def _more(self, model: nn.Module) -> list[dict[str, Any]]:
        """Groups of the parameters that train and are not known yet, by component, kind and whether they decay."""
        trained: dict[str, torch.Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
        groups: dict[tuple[str, bool, bool], list[torch.Tensor]] = {}
        masters = {name: self.masters.get(name) for name in trained}  # in the model's order: sums over all are taken in it
        for name, parameter in trained.items():
            if masters[name] is None:
                masters[name] = master = self._master(parameter)
                groups.setdefault((component(name), stands_beside(name), master.ndim >= 2), []).append(master)
        self.parameters, self.masters = trained, {name: master for name, master in masters.items() if master is not None}
        decay = self.section.weight_decay
        return [
            {"params": params, "peak": self.section.rate(part, adapter=beside), "weight_decay": decay * decays}
            for (part, beside, decays), params in groups.items()
        ]

    def _master(self, parameter: torch.Tensor) -> torch.Tensor:
        if is_sharded(parameter):
            return local_of(parameter).requires_grad_()
        if parameter.dtype == torch.float32:
            return parameter
        master = parameter.detach().float().requires_grad_()

        def keep(p: torch.Tensor) -> None:  # runs as soon as a row's gradient is complete
            assert p.grad is not None
            grad = p.grad.float()
            master.grad = grad if master.grad is None else master.grad.add_(grad)
            p.grad = None

        parameter.register_post_accumulate_grad_hook(keep)
        return master

    @property
    def peak(self) -> float:
        """Highest peak rate of all groups."""
        return max(group["peak"] for group in self.adamw.param_groups)

    @property
    def components(self) -> tuple[str, ...]:
        """Components that train."""
        return tuple(dict.fromkeys(map(component, self.parameters)))

    def gradients(self) -> dict[str, torch.Tensor]:
        """Gradient of each parameter by name, zeros where none arrived."""
        for name, master in self.masters.items():
            if is_sharded(self.parameters[name]) and (grad := self.parameters[name].grad) is not None:
                master.grad = local_of(grad)
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        return {name: master.grad for name, master in self.masters.items() if master.grad is not None}

    def gradient_norms(self) -> dict[str, float]:
        """Norm of the gradient of each component that trains."""
        squares: dict[str, float] = {}
        for name, grad in self.gradients().items():
            squares[component(name)] = squares.get(component(name), 0.0) + float(grad.square().sum())
        return {part: math.sqrt(square) for part, square in zip(squares, self.over_all([*squares.values()]))}

    def step(self, factor: float) -> float:
        """Clip, update with each peak rate times `factor`, keep gradients until `forget`. Returns the norm before clipping."""
        limit = self.section.clip if self.section.clip is not None else math.inf
        norm = nn.utils.get_total_norm([master.grad for master in self.masters.values() if master.grad is not None])
        if any(map(is_sharded, self.parameters.values())):
            norm = norm.new_tensor(self.over_all([float(norm) ** 2])[0] ** 0.5)
        nn.utils.clip_grads_with_norm_(self.masters.values(), limit, norm)
        if not torch.isfinite(norm):
            raise TrainingError(f"the gradient's norm is {float(norm)}", mend="lower optim.lr, or start from another model")
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * factor
        self.adamw.step()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if self._is_copy(name):
                    parameter.copy_(self.masters[name])
        return float(norm)

    def forget(self) -> None:
        """Drop the gradients."""
        self.adamw.zero_grad(set_to_none=True)
        for parameter in filter(is_sharded, self.parameters.values()):
            parameter.grad = None

    def _is_copy(self, name: str) -> bool:
        """Whether the master is a tensor of its own, and not the weight or the rows of it that are here."""
        return self.masters[name] is not self.parameters[name] and not is_sharded(self.parameters[name])

    @torch.no_grad()
    def take_over(self, names: Iterable[str]) -> None:
        """Parameters that something else has set: float32 copies follow where they were, and keep their digits elsewhere."""
        for name in names:
            master, parameter = self.masters[name], self.parameters[name]
            if self._is_copy(name):
                master.copy_(torch.where(parameter == master.to(parameter.dtype), master, parameter))

    # state, as flat tensors ------------------------------------------------------------------------------------------

    def state(self) -> dict[str, torch.Tensor]:
        """Everything a continuation needs, by name: moments, step counts, master weights."""
        return dict(self._tensors())

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Put a saved state back, bit for bit."""
        for name, master in self.masters.items():
            if (kept := state.get(f"master.{name}")) is not None:
                with torch.no_grad():
                    master.copy_(kept)
                    if self._is_copy(name):
                        self.parameters[name].copy_(kept)
            saved = {key: state[f"{key}.{name}"] for key in MOMENTS if f"{key}.{name}" in state}
            if saved:
                put_back(self.adamw, master, saved)

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, master in self.masters.items():
            if self.keep_all or self._is_copy(name):
                yield f"master.{name}", master.detach()
            for key, value in moments(self.adamw, master).items():
                yield f"{key}.{name}", value


def schedule(section: OptimSection, step: int, steps: int) -> float:
    """Share of the peak rate at a step (from 0) of a run of `steps`.

    >>> [round(schedule(OptimSection(schedule="linear", warmup=2), s, 6), 2) for s in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warmup = round(section.warmup * steps) if section.warmup < 1 else round(section.warmup)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if section.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if section.schedule == "linear" else 1.0
