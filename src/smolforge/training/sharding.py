"""Weights, gradients and optimiser state spread over the processes (FSDP2), so that each holds a part of them.

Accelerate says whether and how (`accelerate launch --config_file configs/accelerate/fsdp.yaml`); the wrapping is done here,
because a TreeModel has a forward of its own. Each layer of tower and decoder, the tower, the connector, and what is left (token
embeddings, last norm, head) is gathered before it runs and given back after. The tower takes a row's tiles in chunks and is
gathered once for all of them, and once more for their backward passes:

    gathered      tower                        decoder, layer by layer      tower
    runs          chunk 0, chunk 1, chunk 2    forward, backward            chunk 2, chunk 1, chunk 0 backward

Every gather and every sum of gradients is an act of all processes at once, while the rows that they hold differ. So before a
step's passes they agree on what each pass runs, and who has less runs blank tiles and blank rows, whose gradient is zero:

    process 0     row of 20 tiles      row of text          row of 3 tiles
    process 1     row of text          row of text          -
    both run      2 chunks, decoder    decoder              1 chunk, decoder      (a chunk: up to TILE_CHUNK tiles)

Where processes go their own ways (held-out examples, samples, a reference's log-probs) they do so within `Sharding.whole`, with
all weights in place and nothing to exchange.

Legend: T tiles, C tiles whose features are known, P tile edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, OffloadPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from smolforge.data.batch import PackedBatch
from smolforge.errors import RecipeError
from smolforge.model.adapters import stands_beside
from smolforge.model.build import component
from smolforge.model.tree import TILE_CHUNK, TreeModel
from smolforge.recipe import Recipe, VirtualTokens
from smolforge.training.runtime import Runtime
from smolforge.training.shards import local_of, rows_of

PRECISIONS = {"float32": "no", "bfloat16": "bf16"}  # a recipe's word, and accelerate's
DDP = "launch it with configs/accelerate/ddp.yaml, where each process has the whole model"


def refuse_unfit(recipe: Recipe, *, sharded: bool, mixed_precision: str) -> None:
    """What cannot be run as it was launched.

    Args:
        mixed_precision: accelerate's word for it.

    Raises:
        RecipeError: with a launcher's precision that is not the recipe's, or what needs whole weights while training.
    """
    if mixed_precision not in ("no", PRECISIONS[recipe.model.dtype]):
        raise RecipeError(
            f"the launcher asks for {mixed_precision}, the recipe for {recipe.model.dtype}",
            where="model.dtype",
            mend="set accelerate's mixed_precision to 'no': the recipe decides",
        )
    if not sharded:
        return
    if recipe.quantize:
        raise RecipeError("quantised weights cannot be sharded", where="quantize", mend=DDP)
    if isinstance(recipe.adapters, VirtualTokens):
        raise RecipeError("virtual tokens are made outside of the layers, which are sharded", where="adapters.method", mend=DDP)
    if recipe.adapters and recipe.adapters.method == "adalora":
        raise RecipeError("adalora moves ranks of whole weights and cannot be sharded", where="adapters.method", mend=DDP)
    if recipe.optim.kind != "adamw":
        raise RecipeError(
            f"{recipe.optim.kind} keeps moments in blocks that cannot be cut by rows, so it cannot be sharded",
            where="optim.kind",
            mend=f"use adamw, or {DDP}",
        )


class Sharding:
    """A model spread over the processes; the model itself is changed.

    Args:
        model: whole, with its adapters, its frozen parts set.
        runtime: launched with sharding.
        dtype: that passes run in; what trains, now or later, is kept in float32.
    """

    def __init__(self, model: TreeModel, runtime: Runtime, *, dtype: torch.dtype) -> None:
        assert runtime.plugin is not None
        self.model, self.runtime, self.dtype = model, runtime, dtype
        self.reshards = bool(runtime.plugin.reshard_after_forward)
        mixed = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        on_cpu = runtime.device.type == "cpu"  # where weights lie on the CPU anyway
        offload = OffloadPolicy() if on_cpu else runtime.plugin.cpu_offload
        self._in_float32()
        model.computes = dtype
        self.tower: list[Any] = [*model.vision.encoder.layers, model.vision] if model.has_vision else []
        behind = [*([model.connector] if model.has_vision else []), *model.decoder.layers, model]
        self.units: list[Any] = [*self.tower, *behind]  # deepest first; the last takes what is left
        mesh = init_device_mesh(runtime.device.type, (runtime.world,))
        for unit in self.units:
            fully_shard(unit, mesh=mesh, reshard_after_forward=self.reshards, mp_policy=mixed, offload_policy=offload)
            unit.set_gradient_divide_factor(1.0)  # the loop divides by counts over all processes
            unit.set_force_sum_reduction_for_comms(True)
        self._set_reshards()
        if model.has_vision:
            model.connector.register_forward_pre_hook(lambda *_: self._leave_tower())
        self._look_behind()
        for layer in model.decoder.layers:
            layer.in_tree = partial(model.layer, layer)
            register_fsdp_forward_method(layer, "in_tree")
        model.around_layer = lambda layer, *given: layer.in_tree(*given)
        self._depth = 0
        with torch.no_grad():
            model(blank_row(runtime.device))  # who runs first becomes the root, and a step may begin with the tower
        self._give_back(self.units)

    def _in_float32(self) -> None:
        for name, parameter in self.model.whole.named_parameters():
            if parameter.requires_grad or (component(name) in self.model.thaws):
                parameter.data = parameter.data.float()

    def _set_reshards(self) -> None:
        """Which units are given back as soon as they ran: not the last, whose backward pass comes next, and not the tower, which
        is given back in `_leave_tower` and in `level`."""
        for unit in self.units:
            unit.set_reshard_after_forward(self.reshards and unit not in (*self.tower, self.model), recurse=False)
        for unit in self.tower:
            unit.set_reshard_after_backward(False, recurse=False)

    def _leave_tower(self) -> None:
        """All of a row's tiles have been through it: the connector comes next."""
        if self.reshards and not self._depth:
            self._give_back(self.tower)

    def _look_behind(self) -> None:
        """While a layer's backward pass runs, the weights of the one before it come. Left to itself FSDP goes by the order of all
        forward passes since the last backward pass, and those within `whole` are each process's own: they would wait for each
        other forever."""
        layers = [[*self.model.decoder.layers]] + ([[*self.model.vision.encoder.layers]] if self.model.has_vision else [])
        for unit in self.units:
            unit.set_modules_to_backward_prefetch([unit])  # is there already: fetches nothing
        for stack, above in zip(layers, (self.model, self.model.vision if self.model.has_vision else None)):
            for layer, behind in zip([*stack[1:], above], stack):
                layer.set_modules_to_backward_prefetch([behind])

    # whole weights ---------------------------------------------------------------------------------------------------

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All weights on every process, so that passes without gradients need nobody else. All processes enter together."""
        self._depth += 1
        if self._depth == 1:
            for unit in self.units:
                unit.set_reshard_after_forward(False, recurse=False)
                unit.unshard()
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._give_back(self.units)
                self._set_reshards()

    def _give_back(self, units: Sequence[Any]) -> None:
        """Gathered weights, those too that no backward pass came for."""
        for unit in units:
            unit.reshard()

    def refresh(self) -> None:
        """After other parameters train than before: what FSDP knows of them is set when weights are gathered."""
        with self.whole():
            pass

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """The main process has plain whole tensors in the model, on the CPU and in the dtype of the passes, to save it; tensor by
        tensor, so that devices hold one at a time. With adapters theirs alone. All processes enter together."""
        plain: dict[DTensor, nn.Parameter] = {}  # a tied weight stands in two places
        put: list[tuple[nn.Module, str, Any]] = []
        adapted = bool(self.model.adapters)
        for path, module in self.model.whole.named_modules():
            for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
                wanted = not adapted or stands_beside(f"{path}.{name}") or parameter.requires_grad
                if not isinstance(parameter, DTensor) or not wanted:
                    continue
                if parameter not in plain:
                    here: Any = parameter.detach().to(self.runtime.device)
                    full = here.full_tensor()  # once for tied weights, on every process alike
                    full = full.to("cpu", self.dtype) if self.runtime.is_main else full[:0].cpu()
                    plain[parameter] = nn.Parameter(full, requires_grad=parameter.requires_grad)
                if self.runtime.is_main:
                    put.append((module, name, parameter))
                    setattr(module, name, plain[parameter])
        try:
            yield
        finally:
            for module, name, parameter in put:
                setattr(module, name, parameter)

    @torch.no_grad()
    def take(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set the model to these whole tensors, by name; each process takes its rows."""
        for name, parameter in self.model.whole.named_parameters():
            rows = self.share(len(parameter))
            local_of(parameter).copy_(weights[name][rows.start : rows.stop])

    def share(self, rows: int) -> range:
        """Rows that this process has of a tensor with so many."""
        return rows_of(rows, self.runtime.rank, self.runtime.world)

    def rows(self) -> dict[str, range]:
        """Rows that this process has, by parameter."""
        found = {name: self.share(len(parameter)) for name, parameter in self.model.whole.named_parameters()}
        for name, parameter in self.model.whole.named_parameters():
            assert len(local_of(parameter)) == len(found[name]), f"{name} is cut in another way"
        return found

    # the same passes on every process --------------------------------------------------------------------------------

    def level(
        self, rows: Sequence[PackedBatch], add: Callable[[PackedBatch], PackedBatch], *, ahead: bool, compared: bool
    ) -> Iterator[PackedBatch]:
        """A step's rows on the device, filled up with blank tiles and blank rows: all processes run the same modules in the same
        order.

        Args:
            add: what stays the same (`Fixed.add`).
            ahead: whether that asks the model in ways that depend on the row, and is done for all rows first.
            compared: whether it adds a reference.
        """
        device = self.runtime.device
        blank = blank_row(device, compared=compared)
        if ahead:
            with self.whole():
                rows = [add(row.to(device)) for row in rows]
        plans = self.runtime.gather([self._passes(row) for row in rows])
        for number in range(max(map(len, plans))):
            chunks, connects = (max(kind) for kind in zip(*(plan[number] for plan in plans if number < len(plan))))
            row = self._filled(rows[number].to(device) if number < len(rows) else blank, chunks, connects)
            yield row if ahead else add(row)
            self._give_back(self.tower)
        self._give_back(self.units)

    def _passes(self, row: PackedBatch) -> tuple[int, bool]:
        """(chunks of tiles that the tower takes, whether known features go through the connector)."""
        known = row.features is not None and self.model.boundary == "vision"
        return -(-len(row.tiles) // TILE_CHUNK), known

    def _filled(self, row: PackedBatch, chunks: int, connects: bool) -> PackedBatch:
        """The row with blank tiles ahead of its own, (T - C, 3, P, P), until the tower takes so many chunks."""
        blank = max(len(row.tiles), TILE_CHUNK * (chunks - 1) + 1) - len(row.tiles) if chunks else 0
        known = 0 if row.features is None else len(row.features)
        if blank:
            edge = self.model.vision.config.image_size
            tiles = row.tiles.new_zeros(blank, 3, edge, edge)
            tiles = torch.cat([tiles, row.tiles]) if len(row.tiles) else tiles
            return replace(row, tiles=tiles, run_tiles=row.run_tiles + blank * (row.run_tiles >= known))
        if connects and not known and not len(row.tiles):
            size = self.model.feature_size // self.model.vision.config.hidden_size, self.model.vision.config.hidden_size
            return replace(row, features=torch.zeros(1, *size, dtype=self.dtype, device=self.runtime.device))
        return row


def blank_row(device: torch.device, *, compared: bool = False) -> PackedBatch:
    """A row of one token that scores none.

    Args:
        compared: whether it has a reference, as the other rows of its step.
    """
    one, none = torch.zeros(1, dtype=torch.int64, device=device), torch.zeros(0, dtype=torch.int64, device=device)
    return PackedBatch(
        input_ids=one, position_ids=one, node_ids=one, ancestry=torch.ones(1, 1, dtype=torch.bool, device=device), trees=(1,),
        predictors=none, targets=none, weights=none.float(), response_ids=none, responses=(), features=None,
        tiles=torch.zeros(0, 3, 1, 1, dtype=torch.uint8, device=device), run_tiles=none, run_starts=none, pictures=(),
        ids=(), keys=(), reference=none.float() if compared else None,
    )  # fmt: skip
