"""A run on many devices before anyone pays for them: memory a rank, tokens a second, communication, data rate, checkpoints.

A step's examples are shared over the ranks by cost and packed as the run does it (`data/pack.py`), the model's units are those
that the run wraps, operations and memory are rehearsed. What cannot be known stands in `assumed.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import torch

from smolforge.data.pack import balance, left_idle
from smolforge.description import last_step
from smolforge.estimating import (
    Device,
    Estimate,
    Host,
    configuration,
    device_for,
    estimated_at,
    host_memory,
    run_time,
    thaw_steps,
)
from smolforge.estimating.assumed import ASSUMED
from smolforge.estimating.cluster import Cluster, Kind, cluster_of
from smolforge.estimating.gpus import find_gpu
from smolforge.estimating.layout import Layout, Row, Tree, layout_of
from smolforge.estimating.traffic import GRADIENT, Traffic, sharded, summed
from smolforge.estimating.units import Unit, tile_cost_of, units_of
from smolforge.estimating.work import Work, work_of
from smolforge.recipe import Recipe
from smolforge.training.runtime import BUCKET
from smolforge.training.sharding import refuse_unfit

MASTER = 4  # bytes of a float32 weight
PREFETCHED = 2  # units that are gathered beside the one at work


@dataclass(frozen=True, kw_only=True)
class Feed:
    """What a step asks of disks and cores."""

    examples: float  # of a step, over all ranks
    tiles: float  # of pictures, over all ranks
    frames: float  # of videos, over all ranks
    videos: float  # over all ranks; each rank lays out all of them
    encoded: float | None  # bytes of a step's files; None where some are drawn

    def core_seconds(self, devices: int) -> float:
        """Seconds of one core a rank and step: tokens of all examples and packets of all videos, pixels of its own."""
        laid_out = self.examples * ASSUMED.render_ms + self.videos * ASSUMED.video_ms
        pixels = self.tiles * ASSUMED.tile_ms + self.frames * ASSUMED.frame_ms
        return (laid_out + pixels / devices) / 1000


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A step while the same parameters train. Seconds."""

    trainable: int
    flops: float  # of all ranks
    compute: float  # of the rank that has most to do, update included
    traffic: Traffic

    @property
    def seconds(self) -> float:
        return self.compute + self.traffic.waited


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """A run on many devices. Bytes and seconds."""

    model: str
    device: Device
    cluster: Cluster
    layout: Layout
    idle: str  # what to change where some devices never have anything to do
    parts: dict[str, int]  # of a rank's peak, by `estimating.PARTS`
    host: Host  # of a rank, in its machine's own memory
    workers: int  # of a rank, as the recipe has them
    tokens: float  # of a step, over all ranks
    rows: float  # of the rank with most, a step
    phases: tuple[tuple[int | None, Phase], ...]  # (step before which it holds, None for the last)
    feed: Feed
    checkpoint: float  # bytes of one
    steps: int | None  # of the run
    saves: int | None

    @property
    def peak(self) -> int:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.peak <= self.device.memory

    @property
    def last(self) -> Phase:
        return self.phases[-1][1]

    @property
    def cores(self) -> float:
        """Cores a rank that keep up with it."""
        return self.feed.core_seconds(self.cluster.devices) / self.last.seconds

    @property
    def training(self) -> float | None:
        """Seconds of the recipe's steps; None where it gives epochs."""
        if self.steps is None:
            return None
        return run_time([(until, phase.seconds) for until, phase in self.phases], self.steps)

    @property
    def saving(self) -> float | None:
        """Seconds of the run's checkpoints; None where it gives epochs."""
        return None if self.saves is None else self.saves * self.checkpoint / ASSUMED.disk


def scale(
    recipe: Recipe, *, gpu: str, devices: int, per_node: int = 8, sharding: Kind = "ddp", network: float | None = None
) -> Scaling:
    """What a recipe takes on many GPUs.

    Args:
        gpu: of `gpus.GPUS`, by name.
        per_node: GPUs of a machine.
        sharding: ddp, a whole model on every rank; fsdp, each has its share of weights, gradients and moments.
        network: Gbit/s out of a machine.

    Raises:
        UserError: as `estimating.estimate`, numbers of devices that make no machines, or what cannot be sharded.
    """
    cluster = cluster_of(find_gpu(gpu)[1], devices, per_node=per_node, sharding=sharding, network=network)
    if sharding == "fsdp":
        refuse_unfit(recipe, sharded=True, mixed_precision="no")
    config, folder = configuration(recipe)
    return scaled(recipe, config, layout_of(recipe, config, folder), device_for(recipe, gpu), cluster)


def scaled(recipe: Recipe, config: Any, layout: Layout, device: Device, cluster: Cluster) -> Scaling:
    """As `scale`, of parts that are at hand already. Raises as `rehearse`."""
    tile_cost = tile_cost_of(recipe, config)
    shared = [shares(step, cluster.devices, tile_cost) for step in layout.steps]
    ranked = replace(layout, steps=tuple(tuple(share) for step in shared for share in step if share))
    rows = [[_rows_of(share, layout) for share in step] for step in shared]
    made = estimated_at(recipe, config, ranked, device, last_step(recipe))
    phases = []
    for until in [*thaw_steps(recipe), None]:
        step = last_step(recipe) if until is None else until - 1
        units, work = units_of(recipe, config, step=step), work_of(recipe, config, step=step)
        phases.append((until, _phase(recipe, units, work, rows, device, cluster)))
    total = sum(unit.total for unit in units)
    trainable = sum(unit.trainable for unit in units)
    parts = _with_sums(made, units) if cluster.sharding == "ddp" else _sharded_parts(recipe, made, units, cluster)
    itemsize = getattr(torch, recipe.model.dtype).itemsize
    written = (trainable if recipe.adapters else total) * itemsize + made.states["optimiser"]
    trees = [tree for step in layout.steps for tree in step]
    count = len(layout.steps)
    encoded = [tree.encoded for tree in trees]
    feed = Feed(
        examples=len(trees) / count,
        tiles=sum(tree.tiles - tree.frames for tree in trees) / count,
        frames=sum(tree.frames for tree in trees) / count,
        videos=sum(tree.videos for tree in trees) / count,
        encoded=None if None in encoded else sum(size or 0.0 for size in encoded) / count,
    )
    read = sum(tree.encoded or 0.0 for tree in trees if not tree.videos) / count
    steps = recipe.run.steps
    return Scaling(
        model=recipe.model.name, device=device, cluster=cluster, layout=layout, parts=parts,
        host=host_memory(recipe, config, ranked, laid_out=read), workers=recipe.run.workers,
        idle=left_idle(recipe.batch.examples, cluster.devices),
        tokens=sum(tree.tokens for tree in trees) / count, rows=sum(max(map(len, step)) for step in rows) / count,
        phases=tuple(phases), feed=feed, checkpoint=written, steps=steps,
        saves=None if steps is None else -(-steps // recipe.run.save_every),
    )  # fmt: skip


def shares(step: Sequence[Tree], devices: int, tile_cost: float) -> list[list[Tree]]:
    """Each rank's examples of a step, as `data.pipeline.Stream` shares them.

    Args:
        tile_cost: what a tile costs beside its tokens, in tokens.
    """
    keys = [[key for key, _ in tree.pictures] for tree in step]
    costs = [tree.tokens + tile_cost * tree.tiles for tree in step]
    return [[step[number] for number in mine] for mine in balance(costs, devices, keys)]


def _rows_of(share: Sequence[Tree], layout: Layout) -> list[Row]:
    return replace(layout, steps=(tuple(share),)).rows[0]


def _phase(
    recipe: Recipe, units: Sequence[Unit], work: Work, steps: Sequence[Sequence[Sequence[Row]]], device: Device, cluster: Cluster
) -> Phase:
    """A step on average, of `steps` of ranks of rows."""
    trainable = sum(unit.trainable for unit in units)
    flops = sum(work.of(row) for step in steps for rank in step for row in rank) / len(steps)
    itemsize = getattr(torch, recipe.model.dtype).itemsize
    update = 0.0
    if device.bandwidth:  # master, two moments and gradient are read, all but the gradient written
        states = trainable / (cluster.devices if cluster.sharding == "fsdp" else 1)
        update = 28 * states / device.bandwidth
    if cluster.sharding == "ddp":  # ranks meet once a step
        compute = sum(max(sum(map(work.of, rank)) for rank in step) for step in steps) / len(steps) / device.flops
        return Phase(trainable=trainable, flops=flops, compute=compute + update, traffic=summed(trainable, cluster))
    rows = []  # ranks meet at every unit, so in every row all wait for the one that has most to do in it
    for step in steps:
        for number in zip_longest(*step):
            present = [row for row in number if row is not None]
            rows.append((max(row.tiles for row in present), max(map(work.of, present)) / device.flops))
    traffic = sharded(units, rows, cluster, itemsize=itemsize, steps=len(steps))
    return Phase(
        trainable=trainable, flops=flops, compute=sum(seconds for _, seconds in rows) / len(steps) + update, traffic=traffic
    )


def _with_sums(made: Estimate, units: Sequence[Unit]) -> dict[str, int]:
    """A rank's peak with DDP: a row's, or the states and a bucket of gradients when they are summed."""
    states = sum(made.states.values())
    bucket = max(BUCKET, GRADIENT * max(unit.trainable for unit in units))  # a tensor above a bucket's size goes alone
    fixed = made.parts.get("process", 0) + made.parts.get("reference", 0)
    if made.peak >= states + bucket + fixed:
        return made.parts
    kept = {name: made.parts[name] for name in ("reference", "process") if name in made.parts}
    return made.states | kept | {"exchange": bucket}


def _sharded_parts(recipe: Recipe, made: Estimate, units: Sequence[Unit], cluster: Cluster) -> dict[str, int]:
    """A rank's peak with FSDP: its share of the states, what is gathered, and a row's activations.

    What trains is kept in float32, so that the shares are the masters; what is frozen in the recipe's dtype.
    """
    n, itemsize = cluster.devices, getattr(torch, recipe.model.dtype).itemsize
    total, trainable = sum(unit.total for unit in units), sum(unit.trainable for unit in units)
    root, layers = units[-1], units[:-1]
    tower = [unit for unit in layers if unit.part == "vision"]  # gathered for all chunks of a row
    beside = max((1 + PREFETCHED) * max(unit.total for unit in layers), sum(unit.total for unit in tower))
    gathered = itemsize * (root.total + beside)
    largest = max(unit.trainable for unit in layers)
    # gradients in the passes' dtype: the root's from the head on, the tower's until the last chunk's backward pass, a layer's
    # until its float32 copy is scattered
    waiting = root.trainable + max(largest, sum(unit.trainable for unit in tower))
    exchange = itemsize * waiting + GRADIENT * max(root.trainable, largest)
    parts = {name: size for name, size in made.parts.items() if name not in ("weights", "gradients", "optimiser")}
    sharded = {
        "weights": MASTER * trainable // n + itemsize * (total - trainable) // n,
        "gathered": gathered,
        "gradients": GRADIENT * trainable // n,
        "exchange": exchange,
        "optimiser": 2 * MASTER * trainable // n,
    }
    return sharded | parts
