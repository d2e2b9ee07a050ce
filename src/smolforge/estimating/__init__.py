"""Memory and time of a run before it begins, so that nobody learns after an hour of loading that it does not fit.

No weights are read: the model is built without content and one step of it is rehearsed (`rehearsal.py`); what a step holds comes
from the recipe's data where they are at hand (`layout.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from smolforge.data.ahead import Sharing
from smolforge.description import last_step
from smolforge.errors import RecipeError
from smolforge.estimating.gpus import CONTEXT, FRAGMENTS, GPUS, USABLE, UTILISATION, Gpu, find_gpu, rate
from smolforge.estimating.heap import Heap, keeps_gaps
from smolforge.estimating.layout import Layout, layout_of
from smolforge.estimating.rehearsal import Rehearsal, rehearse
from smolforge.hub import local_folder
from smolforge.loading import base_folder
from smolforge.model.build import read_config, shape_config
from smolforge.model.presets import PRESETS
from smolforge.recipe import COMPONENTS, PreferenceSection, Recipe
from smolforge.wording import how_many

# Bytes beside the tensors of a process on a CPU (measured with a model of a million parameters, docs/memory.md): Python with all
# that is imported before a run, and what the run adds: tokenizer, data, threads.
IMPORTS, RUN = 410 * 2**20, 50 * 2**20
# Bytes that a worker process is taken to have to itself beside the step it makes (67 to 96 MiB were seen at steps of 80 MB, which
# this is above); all else it shares with the process that it was forked from.
WORKER = 60 * 2**20
STEPS = 3  # a heap grows for so many steps
# Share of the rate of a large matrix product that a step is taken to reach on a CPU: a guess, see docs/memory.md.
REACHED = {"float32": 0.6, "bfloat16": 0.25}
PARTS = {
    "weights": "weights", "constants": "quantisation constants", "gradients": "gradients", "optimiser": "optimiser",
    "reference": "reference model", "vision": "activations, vision tower", "decoder": "activations, decoder", "logits": "logits",
    "backward": "temporary, backward", "update": "temporary, update", "inputs": "row and pictures ahead", "heap": "allocator",
    "process": "fixed remainder", "workers": "worker processes", "gathered": "gathered weights", "exchange": "sums of gradients",
}  # fmt: skip
ACTIVATIONS = ("vision", "decoder", "logits", "backward", "update", "inputs")


@dataclass(frozen=True, kw_only=True)
class Device:
    """What the run would be on."""

    name: str
    memory: int  # bytes; of a GPU by name, with a reserve taken off (gpus.USABLE)
    flops: float  # a second, that a step is taken to reach in the recipe's dtype
    bandwidth: float | None  # bytes a second; None of a CPU
    about: str  # where the rate comes from
    gpu: bool
    here: bool  # it is this machine's


@dataclass(frozen=True, kw_only=True)
class Host:
    """What a process that trains holds in the machine's own memory beside model and activations. Bytes."""

    shared: float  # pixels of the step that trains and of those ahead; where worker processes make them, in shared memory
    workers: float  # of those processes' own

    @property
    def total(self) -> float:
        return self.shared + self.workers + IMPORTS + RUN


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run would take. Bytes and seconds."""

    name: str  # the method
    model: str
    device: Device
    layout: Layout
    parameters: dict[str, tuple[int, int]]  # component -> (all, trainable)
    parts: dict[str, int]  # of the peak, by `PARTS`; they sum to it
    states: dict[str, int]  # whole weights, constants, gradients and optimiser, whatever of them stands at the peak
    flops: float  # of a step
    seconds: float  # of a step
    host: Host
    notes: tuple[str, ...] = ()
    # (step before which it holds, what is so until then), in the run's order, where parts thaw; all else here is of the last step
    earlier: tuple[tuple[int, Estimate], ...] = ()

    @property
    def peak(self) -> int:
        return sum(self.parts.values())

    @property
    def tensors(self) -> int:
        """The peak without allocator, fixed remainder and worker processes."""
        return self.peak - sum(self.parts.get(part, 0) for part in ("heap", "process", "workers"))

    @property
    def total(self) -> int:
        return sum(total for total, _ in self.parameters.values())

    @property
    def trainable(self) -> int:
        return sum(trainable for _, trainable in self.parameters.values())

    @property
    def activations(self) -> int:
        return sum(self.parts.get(part, 0) for part in ACTIVATIONS)

    @property
    def fits(self) -> bool:
        return max([self.peak, *(one.peak for _, one in self.earlier)]) <= self.device.memory

    def time(self, steps: int) -> float:
        """Seconds of a run of so many steps."""
        return run_time([*((until, one.seconds) for until, one in self.earlier), (None, self.seconds)], steps)


def run_time(phases: Iterable[tuple[int | None, float]], steps: int) -> float:
    """Seconds of so many steps.

    Args:
        phases: (step before which it holds, None for the last; seconds of a step).

    >>> run_time([(10, 1.0), (90, 2.0), (None, 3.0)], 100), run_time([(10, 1.0), (None, 3.0)], 4)
    (200.0, 4.0)
    """
    seconds, done = 0.0, 0
    for until, each in phases:
        end = steps if until is None else min(until, steps)
        seconds, done = seconds + (end - done) * each, end
    return seconds


def estimate(recipe: Recipe, *, gpu: str | None = None) -> Estimate:
    """What a step of a recipe takes at its peak, and how long it is.

    Args:
        gpu: a GPU of `gpus.GPUS` by name; where the recipe would run on this machine when left out.

    Raises:
        UserError: no such GPU, no such model, or a recipe that does not fit it.
    """
    config, folder = configuration(recipe)
    return estimated(recipe, config, layout_of(recipe, config, folder), device_for(recipe, gpu))


def configuration(recipe: Recipe) -> tuple[Any, Path | None]:
    """(Hugging Face's configuration, folder of the processor files) of a recipe's model; a preset has no folder.

    Raises:
        ModelError: not a model of the family.
    """
    shape = PRESETS.get(recipe.model.name) if not Path(recipe.model.name).exists() else None
    if shape is not None:
        return shape_config(shape), None
    files = ("*.json", "*.txt", "*.jinja")
    folder = base_folder(local_folder(recipe.model.name, recipe.model.revision, files=files), files=files)
    return read_config(folder), folder


def estimated(recipe: Recipe, config: Any, layout: Layout, device: Device) -> Estimate:
    """As `estimate`, of parts that are at hand already. Raises as `rehearse`."""
    made = estimated_at(recipe, config, layout, device, last_step(recipe))
    earlier = [(until, estimated_at(recipe, config, layout, device, until - 1)) for until in thaw_steps(recipe)]
    return replace(made, earlier=tuple(earlier))


def thaw_steps(recipe: Recipe) -> list[int]:
    """Steps of the run, from the earliest, from which on more trains than before."""
    thaws = {recipe.freeze.until(part) for part in COMPONENTS}
    return sorted(step for step in thaws if 0 < step <= last_step(recipe))


def estimated_at(recipe: Recipe, config: Any, layout: Layout, device: Device, step: int) -> Estimate:
    """As `estimated`, with what trains at one step of the run. Raises as `rehearse`."""
    rows = layout.rows_per_step
    run = rehearse(recipe, config, layout.largest, stand=layout.gradients_stand, cuda=device.gpu, step=step)
    notes: list[str] = []
    parts = dict(run.parts)
    reference = _reference(recipe, run, config, notes)
    if reference:
        parts["reference"] = reference
    if recipe.optim.kind.startswith("paged") and device.gpu:
        notes.append("paged moments are counted here; what does not fit moves to the CPU's memory, and steps take longer")
    if device.gpu and not device.here:
        notes.append(f"{1 - USABLE:.0%} of {device.name}'s published memory are kept as a reserve: cards show less")
    ahead, workers = _pictures_ahead(recipe, config, layout), recipe.run.workers
    host = host_memory(recipe, config, layout)
    if device.gpu:
        computed = sum(parts.get(part, 0) for part in ACTIVATIONS)
        parts["heap"], parts["process"] = round(FRAGMENTS * computed), CONTEXT
        notes.append(
            f"the machine's own memory holds about {host.total / 2**30:.1f} GiB a process besides, {host.shared / 2**30:.1f} GiB "
            f"of it pixels of the step that trains and of those ahead of it: run.workers is {workers}"
        )
    else:
        parts["inputs"] = parts.get("inputs", 0) + ahead
        parts["heap"], parts["process"] = _heap(run) - run.peak, IMPORTS + RUN
        if workers:  # what waits or is being made
            parts["workers"] = round(host.shared - ahead + host.workers)
    mean = sum(row.tokens for one in layout.rows for row in one) / len(layout.rows)
    flops = run.flops * mean / layout.largest.tokens  # the largest row's, by tokens
    return Estimate(
        name=method(recipe), model=recipe.model.name, device=device, layout=layout, parameters=run.parameters, parts=parts,
        states={name: run.held.get(name, 0) for name in ("weights", "constants", "optimiser")} | {"gradients": _gradients(run)},
        flops=flops, seconds=_seconds(flops, run, rows, device), notes=tuple(notes), host=host,
    )  # fmt: skip


def method(recipe: Recipe) -> str:
    """A recipe's method in a word or two: `full`, `lora`, `dora + nf4`."""
    name = "full" if recipe.adapters is None else recipe.adapters.method
    return f"{name} + {recipe.quantize.kind}" if recipe.quantize else name


def _gradients(run: Rehearsal) -> int:
    return 4 * sum(trainable for _, trainable in run.parameters.values())  # float32, whatever the model computes in


def _reference(recipe: Recipe, run: Rehearsal, config: Any, notes: list[str]) -> int:
    """Bytes of a frozen model beside the one that trains."""
    section = recipe.objective
    if not isinstance(section, PreferenceSection) or not section.needs_reference:
        return 0
    if section.reference.model is None and (section.reference.kind != "copy" or recipe.adapters is not None):
        return 0
    if section.reference.model is not None:
        notes.append(f"the reference {section.reference.model} is taken to be as large as the model")
    adapters = sum(trainable for _, trainable in run.parameters.values()) if recipe.adapters else 0
    total = sum(total for total, _ in run.parameters.values())
    return (total - adapters) * getattr(torch, recipe.model.dtype).itemsize


def _pictures_ahead(recipe: Recipe, config: Any, layout: Layout) -> int:
    """Bytes of a step's tiles, the most of all steps."""
    if not hasattr(config, "vision_config"):
        return 0
    return max(sum(row.tiles for row in rows) for rows in layout.rows) * 3 * config.vision_config.image_size**2


def host_memory(recipe: Recipe, config: Any, layout: Layout, *, laid_out: float = 0.0) -> Host:
    """What one process that trains asks of its machine's memory for its data, on a GPU for good, at most.

    Args:
        layout: of its own share of each step.
        laid_out: bytes of the pictures' files of a whole step, which each worker process reads to lay the step out.
    """
    step, workers = _pictures_ahead(recipe, config, layout), recipe.run.workers
    sharing = Sharing.of(step, workers)
    at_work = 1 if sharing.parts == 1 else 2  # parts are gathered while the step before is still there
    if not step:
        return Host(shared=0.0, workers=workers * (WORKER + laid_out))
    row = layout.largest.tiles * 3 * config.vision_config.image_size**2  # decoded, and then laid out in shared memory
    return Host(shared=at_work * step + sharing.waiting(step, workers), workers=workers * (WORKER + row + laid_out))


def _heap(run: Rehearsal) -> int:
    heap = Heap(gaps=keeps_gaps())
    heap.replay(run.lasting)
    for _ in range(STEPS):
        heap.replay(run.row, forget=True)
    return max(heap.peak, run.peak)


def _seconds(flops: float, run: Rehearsal, rows: float, device: Device) -> float:
    seconds = flops / device.flops
    if device.bandwidth:  # weights are read three times a row, the update reads and writes its states once
        moved = 3 * rows * run.held.get("weights", 0) + 2 * (run.held.get("optimiser", 0) + _gradients(run))
        seconds = max(seconds, moved / device.bandwidth)
    return seconds


# --- devices -----------------------------------------------------------------------------------------------------------


def device_for(recipe: Recipe, gpu: str | None = None) -> Device:
    """A GPU by name, or the device that the recipe would take on this machine, whose rate is measured for half a second.

    Raises:
        RecipeError: no such GPU in the table, or none here.
    """
    if gpu is not None:
        return _by_name(*find_gpu(gpu), recipe, here=False)
    if recipe.run.device != "cpu" and torch.cuda.is_available():
        return _cuda_here(recipe)
    if recipe.run.device == "cuda":
        raise RecipeError("no CUDA device here", where="run.device", mend=f"name a GPU with --gpu, one of {', '.join(GPUS)}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    measured, share = matrix_rate(recipe.model.dtype), REACHED[recipe.model.dtype]
    about = f"{measured / 1e12:.2f} TFLOP/s in a large matrix product measured just now, of which steps reach about {share:.0%}"
    name = f"this machine's CPU, {how_many(torch.get_num_threads(), 'thread')}"
    return Device(name=name, memory=memory, flops=measured * share, bandwidth=None, about=about, gpu=False, here=True)


def _by_name(name: str, gpu: Gpu, recipe: Recipe, *, here: bool) -> Device:
    about = f"{UTILISATION:.0%} of the published peak: a model, not a measurement"
    if recipe.model.dtype == "bfloat16" and gpu.bfloat16 is None:
        about += "; the chip has no bfloat16 units, so float32's peak"
    return Device(
        name=name, memory=round(USABLE * gpu.memory * 2**30), flops=rate(gpu, recipe.model.dtype), bandwidth=gpu.bandwidth * 1e9,
        about=about, gpu=True, here=here,
    )  # fmt: skip


def _cuda_here(recipe: Recipe) -> Device:
    properties = torch.cuda.get_device_properties(0)
    measured = matrix_rate(recipe.model.dtype, "cuda")
    about = f"{measured / 1e12:.0f} TFLOP/s measured just now in a large matrix product, of which {UTILISATION:.0%} are taken"
    return Device(
        name=properties.name, memory=properties.total_memory, flops=measured * UTILISATION, bandwidth=None, about=about,
        gpu=True, here=True,
    )  # fmt: skip


def matrix_rate(dtype: str, device: str = "cpu", *, seconds: float = 0.5) -> float:
    """FLOP/s of a square matrix product, the fastest of those that fit into `seconds`."""
    size = 1024 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < seconds or best == float("inf"):
        start = time.perf_counter()
        a @ a
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
