"""One training step of the real model on tensors without content: what it holds, and what it computes.

PyTorch's fake tensors have shapes and no memory, so the 2.2B model's step takes seconds on any machine. The model is Hugging
Face's, with the recipe's adapters, freezing, masters and gradient checkpointing, and `TreeModel` runs it; only three things stand
in for what cannot run without content: quantised layers, the row's masks, and CUDA's fused attention.

Legend: L row tokens, B trees in a block, M longest tree of a block, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.checkpoint import set_checkpoint_early_stop

from smolforge.data.batch import PackedBatch
from smolforge.description import last_step
from smolforge.estimating.layout import Row
from smolforge.estimating.ledger import Ledger, Trace
from smolforge.model.adapters import add_adapters
from smolforge.model.adapters.pissa import Pissa
from smolforge.model.attention import Attend, Block, groups_of, over_blocks
from smolforge.model.build import CLASSES, count_parameters
from smolforge.model.freeze import apply_freeze
from smolforge.model.quantize import layers_to_pack, predicted_bytes
from smolforge.model.tree import TreeModel
from smolforge.recipe import COMPONENTS, QuantizeSection, Recipe
from smolforge.training.adamw import moment_bytes
from smolforge.training.optim import Optimizer

FEEDS = ("weights", "constants", "optimiser", "gradients", "vision", "decoder", "logits", "backward", "update", "inputs")


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A step, once its moments exist."""

    peak: int  # bytes of tensors
    parts: dict[str, int]  # of the peak, by FEEDS
    held: dict[str, int]  # what stays between steps
    saved: int  # what waits for the backward pass when it begins, logits and row included
    flops: float  # of one row, forward and backward
    parameters: dict[str, tuple[int, int]]  # component -> (all, trainable)
    lasting: Trace  # what the run allocates once ...
    row: Trace  # ... and with each row


def rehearse(recipe: Recipe, config: Any, row: Row, *, stand: bool, cuda: bool, step: int | None = None) -> Rehearsal:
    """Run one row of a step.

    Args:
        config: Hugging Face's, of the model.
        stand: whether gradients of an earlier row stand while this one goes forward.
        cuda: whether attention is CUDA's fused kernel.
        step: at which it is asked what trains; the run's last when left out.

    Raises:
        RecipeError: as `add_adapters` and `apply_freeze`.
    """
    model, whole, adapters, packed = build(recipe, config, step=step)
    parameters = count_parameters(whole)
    ledger = Ledger()
    # early stop raises an exception inside the recomputation, whose traceback would hold fake tensors until the collector comes
    with FakeTensorMode(allow_non_fake_inputs=True), ledger, set_checkpoint_early_stop(False):
        _take_place(whole)
        if isinstance(adapters, Pissa):
            adapters.start = {name: torch.empty_like(start, device="cpu") for name, start in adapters.start.items()}
        for name, section in packed.items():
            _weigh(ledger, model.get_submodule(name), section)
        tree = TreeModel(model, gradient_checkpointing=recipe.run.gradient_checkpointing)
        tree.adapters = [] if adapters is None else [adapters]
        tree.thaws = tuple(part for part in COMPONENTS if recipe.freeze.until(part) > 0)
        ledger.label = "optimiser"
        optimizer = Optimizer(whole, recipe.optim.model_copy(update={"kind": "adamw"}))
        moments = [torch.empty(moment_bytes(p.numel(), recipe.optim), dtype=torch.uint8) for p in optimizer.masters.values()]
        ledger.label = "gradients"
        _follow_gradients(ledger, optimizer, stand=stand)
        lasting = list(ledger.trace)
        ledger.forget_peak()
        saved = _step(ledger, tree, row, cuda=cuda, noise=recipe.model.neftune is not None)
        trace = list(ledger.trace)
        flops = ledger.flops
        ledger.label = "update"
        largest = torch.empty(max(p.numel() for p in optimizer.masters.values()))  # a gradient's square, for its norm
        del largest
        held = dict(ledger.held)
        del moments
    return Rehearsal(
        peak=ledger.peak, parts=_tidy(ledger.at_peak), held=_tidy(held), saved=saved, flops=flops, parameters=parameters,
        lasting=lasting, row=trace,
    )  # fmt: skip


def build(recipe: Recipe, config: Any, *, step: int | None = None) -> tuple[Any, Any, Any, dict[str, QuantizeSection]]:
    """(model, what holds all parameters, adapters or None, quantised layers by name) on the meta device."""
    packed: dict[str, QuantizeSection] = {}
    adapters = None
    with torch.device("meta"):
        model = CLASSES[config.model_type][1](config).to(getattr(torch, recipe.model.dtype))
        if recipe.quantize is not None:
            packed = dict.fromkeys(_pack(model, recipe.quantize), recipe.quantize)
        if recipe.adapters is None:
            apply_freeze(model, recipe.freeze, step=last_step(recipe) if step is None else step)
        else:
            adapters = add_adapters(model, recipe.adapters, base=recipe.model.name, steps=recipe.run.steps)
            _in_base_dtype(model)
    return model, model if adapters is None else adapters.whole, adapters, packed


def _in_base_dtype(model: nn.Module) -> None:
    """PEFT gives adapters the dtype of the weight they stand beside, except on the meta device."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            dtype = module.get_base_layer().weight.dtype
            for name in module.adapter_layer_names:
                getattr(module, name).to(dtype)


def _take_place(whole: nn.Module) -> None:
    """Give parameters and buffers of the meta device a place on the CPU; what was shared stays shared."""
    placed: dict[torch.Tensor, torch.Tensor] = {}
    for module in whole.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if parameter not in placed:
                    new = nn.Parameter(torch.empty_like(parameter, device="cpu"), requires_grad=parameter.requires_grad)
                    placed[parameter] = new
                module._parameters[name] = placed[parameter]  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = placed.setdefault(buffer, torch.empty_like(buffer, device="cpu"))


def _tidy(parts: dict[str, int]) -> dict[str, int]:
    return {name: parts[name] for name in FEEDS if parts.get(name)}


def _follow_gradients(ledger: Ledger, optimizer: Optimizer, *, stand: bool) -> None:
    """Count gradients as such; with `stand` they are there already, as from a step's second row on."""
    for name, parameter in optimizer.parameters.items():
        master = optimizer.masters[name]
        if stand:
            master.grad = torch.empty_like(master)

        def mark(p: torch.Tensor, master: torch.Tensor = master) -> None:
            assert master.grad is not None
            ledger.account(master.grad, label="gradients")

        parameter.register_post_accumulate_grad_hook(mark)


def _step(ledger: Ledger, tree: TreeModel, row: Row, *, cuda: bool, noise: bool) -> int:
    tree.train()
    ledger.label = "inputs"
    batch = _batch(tree, row, noise=noise)
    layers = tree.decoder.layers
    attend = _fused(ledger, row.trees) if cuda else _in_blocks(row.trees)
    ledger.label = "vision"
    batch = tree.see(batch)
    with _label_behind(ledger, tree, "decoder"):
        hidden = tree.embed(batch)
    ledger.label = "decoder"
    hidden = tree.decode(hidden, batch.position_ids, [attend] * len(layers))
    hidden = hidden[batch.predictors]
    ledger.label = "logits"
    loss = -tree.log_probs(hidden, batch.targets).mean()
    del hidden
    saved = sum(ledger.held[label] for label in ("vision", "decoder", "logits", "inputs"))
    ledger.label = "backward"
    if loss.requires_grad:
        loss.backward()
    return saved


@contextmanager
def _label_behind(ledger: Ledger, tree: TreeModel, label: str) -> Iterator[None]:
    """What follows the connector's output is the decoder's."""
    if not tree.has_vision:
        ledger.label = label
        yield
        return

    def set_label(*_: Any) -> None:
        ledger.label = label

    hook = tree.connector.register_forward_hook(set_label)
    yield
    hook.remove()


def _batch(tree: TreeModel, row: Row, *, noise: bool) -> PackedBatch:
    """A row of this shape; nothing in it has content."""
    size = tree.vision.config.image_size if tree.has_vision else 1
    whole, scored = torch.empty(row.tokens, dtype=torch.int64), torch.empty(row.scored, dtype=torch.int64)
    tiles, runs = (row.tiles, row.runs) if tree.has_vision else (0, 0)
    return PackedBatch(
        input_ids=whole, position_ids=torch.empty_like(whole), node_ids=torch.empty_like(whole),
        ancestry=torch.empty(1, 1, dtype=torch.bool), trees=row.trees, predictors=scored, targets=torch.empty_like(scored),
        weights=torch.empty(row.scored), response_ids=torch.empty_like(scored), responses=(), features=None,
        tiles=torch.empty(tiles, 3, size, size, dtype=torch.uint8), run_tiles=torch.empty(runs, dtype=torch.int64),
        run_starts=torch.empty(runs, dtype=torch.int64), pictures=(), ids=(), keys=(),
        noise=torch.empty(row.tokens, tree.decoder.config.hidden_size) if noise else None,
    )  # fmt: skip


# --- what cannot run without content ---------------------------------------------------------------------------------


def block_sizes(trees: Sequence[int]) -> list[tuple[int, int]]:
    """(B, M) of each block of `attention.tree_blocks`.

    >>> block_sizes([100, 10, 90, 9])
    [(2, 100), (2, 10)]
    """
    return [(len(group), trees[group[0]]) for group in groups_of(trees)]


def _in_blocks(trees: Sequence[int]) -> Attend:
    """`attention.block_attention` with blocks of these shapes."""
    blocks = [
        Block(torch.empty(b, m, dtype=torch.int64), torch.empty(b, 1, m, m, dtype=torch.bool)) for b, m in block_sizes(trees)
    ]
    return over_blocks(blocks, torch.empty(sum(trees), dtype=torch.int64))


class _Fused(torch.autograd.Function):
    """What a fused kernel keeps: queries, keys, values, output and a number a query and head. FlexAttention's, in memory."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(q)  # (L, H, E)
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:2]))
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v, _, sums = ctx.saved_tensors
        torch.empty_like(sums)  # the rows' products of output and gradient
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class _Counted(torch.autograd.Function):
    """Passes a tensor on and counts an attention's operations: two products forward, five backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, ledger: Ledger, product: float) -> torch.Tensor:
        ctx.ledger, ctx.product = ledger, product
        ledger.flops += 2 * product
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        ctx.ledger.flops += 5 * ctx.product
        return grad, None, None


def _fused(ledger: Ledger, trees: Sequence[int]) -> Attend:
    pairs = sum(length**2 for length in trees) / 2  # blocks of the mask above the diagonal are not computed

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, prefix: Any = None) -> torch.Tensor:
        more = 0
        if prefix is not None:
            more = len(q) * len(prefix[0])
            k, v = torch.cat([prefix[0], k]), torch.cat([prefix[1], v])
        return _Counted.apply(_Fused.apply(q, k, v), ledger, 2.0 * q.shape[1] * q.shape[2] * (pairs + more))

    return attend


class _Dequantised(torch.autograd.Function):
    """A product with weights that are unpacked for it, forward and backward, and kept packed in between."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight)
        whole = torch.empty_like(weight)
        return F.linear(x.to(whole.dtype), whole, bias).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        whole = torch.empty_like(ctx.saved_tensors[0])
        return (grad.to(whole.dtype) @ whole).to(grad.dtype), None, None


class Packed(nn.Linear):
    """Stands for a quantised layer: its weight has the shape of the unpacked one, and is counted as packed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Dequantised.apply(x, self.weight, self.bias)


def _pack(model: Any, section: QuantizeSection) -> list[str]:
    """Put `Packed` where `quantize` puts bitsandbytes' layers; their names."""
    names = layers_to_pack(model, section)
    for name in names:
        old = model.get_submodule(name)
        dtype = old.weight.dtype if section.kind == "int8" else getattr(torch, section.compute)
        new = Packed(old.in_features, old.out_features, bias=old.bias is not None, device="meta", dtype=dtype)
        model.set_submodule(name, new)
    model.requires_grad_(False)
    return names


def _weigh(ledger: Ledger, layer: Any, section: QuantizeSection) -> None:
    layer = getattr(layer, "base_layer", layer)
    weights, constants = predicted_bytes((layer.out_features, layer.in_features), section)
    ledger.account(layer.weight, label="weights", nbytes=weights)
    layer.constants = torch.empty(constants, dtype=torch.uint8)
    ledger.account(layer.constants, label="constants")
