"""Estimates as plain text."""

from __future__ import annotations

import math

from smolforge.estimating import PARTS, Estimate
from smolforge.estimating.assumed import ASSUMED
from smolforge.estimating.comparing import Compared
from smolforge.estimating.scaling import Scaling
from smolforge.wording import how_many

UNITS = ((2**30, "GiB", 1), (2**20, "MiB", 0), (2**10, "KiB", 0))


def size(number: float) -> str:
    """
    >>> size(26 * 2**30), size(3.5 * 2**20), size(4)
    ('26.0 GiB', '4 MiB', '4 bytes')
    """
    for unit, name, digits in UNITS:
        if number >= unit:
            return f"{number / unit:.{digits}f} {name}"
    return f"{number:.0f} bytes"


def duration(seconds: float) -> str:
    """
    >>> duration(0.25), duration(90), duration(7200)
    ('0.25 s', '90 s', '2.0 h')
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    return f"{seconds:.0f} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def lines(made: Estimate, *, steps: int | None) -> list[str]:
    """One estimate: what a step holds, its memory part by part, whether it fits, its time.

    Args:
        steps: of the run, for its time; None where the recipe gives epochs.
    """
    row, layout, device = made.layout.largest, made.layout, made.device
    share = 100 * made.trainable / made.total
    found = [
        f"{made.model}, {made.name}: {made.trainable:,} of {made.total:,} parameters train ({share:.3g} %)",
        f"rows {layout.source}: {layout.rows_per_step:.3g} a step, {layout.examples_per_row:.3g} examples a row; the largest has "
        f"{row.tokens:,} tokens in {how_many(len(row.trees), 'tree')}, {how_many(row.tiles, 'tile')}, "
        f"{how_many(row.scored, 'scored token')}",
        "",
    ]
    found += [f"  {PARTS[part]:<26}{size(made.parts[part]):>10}" for part in PARTS if made.parts.get(part)]
    verdict = "fits" if made.fits else "does not fit"
    found.append(f"  {'peak':<26}{size(made.peak):>10}   {verdict} into {size(device.memory)} of {device.name}")
    for until, early in made.earlier:
        before = f"  before step {until:,}"
        found.append(f"{before:<28}{size(early.peak):>10}   {early.trainable:,} parameters train until then")
    found += ["", f"time a step: about {duration(made.seconds)} for {made.flops / 1e12:.3g} TFLOP, at {device.about}"]
    found[-1] += "".join(f"; before step {until:,} about {duration(early.seconds)}" for until, early in made.earlier)
    if steps:
        found.append(f"{how_many(steps, 'step')}: about {duration(made.time(steps))}, without measuring, answering and saving")
    return found + [f"note: {note}" for note in made.notes]


TABLE_HEAD = (
    f"{'method':<14}"
    + "".join(f"{name:>12}" for name in ("trained", "weights", "gradients", "optimiser", "activations", "peak"))
    + "   fits   longest row"
)


def table_line(one: Compared) -> str:
    """A method, to be shown below `TABLE_HEAD`. Weights hold quantisation constants; activations all that a step computes."""
    made = one.estimate
    if made is None:
        return f"{one.name:<14}   –  {one.refused}"
    states = made.states
    numbers = (states["weights"] + states["constants"], states["gradients"], states["optimiser"], made.activations, made.peak)
    cells = [f"{made.trainable:,}", *map(size, numbers)]
    longest = "–" if one.row_tokens is None else f"{one.row_tokens:,} tokens, {one.examples:.3g} examples"
    longest += ", a whole step" if one.whole else ""
    return f"{one.name:<14}" + "".join(f"{cell:>12}" for cell in cells) + f"   {'yes' if made.fits else 'no':<6} {longest}"


SHARDING = {
    "ddp": "every rank has the whole model (ddp)",
    "fsdp": "every rank has its share of weights, gradients and moments (fsdp)",
}


def scaling_lines(made: Scaling) -> list[str]:
    """A run on many devices: memory of a rank, the step, communication, data, checkpoints, the run's time; what is assumed."""
    cluster, feed = made.cluster, made.feed
    machines = f"{how_many(cluster.nodes, 'machine')} of {cluster.per_node}"
    found = [
        f"{made.model} on {cluster.devices} x {made.device.name}, {machines}: {SHARDING[cluster.sharding]}",
        f"rows {made.layout.source}",
        f"a step: {feed.examples:.4g} examples, {made.tokens:,.0f} tokens, {feed.tiles:,.0f} tiles of pictures, "
        f"{feed.frames:,.0f} frames; a rank has at most {made.rows:.3g} rows",
        *([f"note: {made.idle}"] if made.idle else []),
        "",
        "memory of a rank",
        *(f"  {PARTS[part]:<26}{size(made.parts[part]):>10}" for part in PARTS if made.parts.get(part)),
        f"  {'peak':<26}{size(made.peak):>10}   {'fits' if made.fits else 'does not fit'} into {size(made.device.memory)}",
        "",
    ]
    for until, phase in made.phases:
        name = f"before step {until:,}" if until else "after it" if len(made.phases) > 1 else "a step"
        wait, rate = phase.traffic, 1 / phase.seconds
        found += [
            f"{name}: {duration(phase.seconds)}, {duration(phase.compute)} of it computing "
            f"({phase.flops / 1e12:,.0f} TFLOP of all ranks); {phase.trainable:,} parameters train",
            f"  {made.tokens * rate:,.0f} tokens/s, {feed.examples * rate:,.0f} examples/s, {3600 * rate:,.0f} steps/h",
            f"  communication: {decimal(wait.sent)} a rank, {duration(wait.seconds)} of its links, {wait.hidden:.0%} of that "
            "beside computing",
        ]
    return [*found, *_data_lines(made), *_whole_lines(made), "", *assumed_lines(made)]


def _data_lines(made: Scaling) -> list[str]:
    read = "some pictures or videos are drawn, so there is no rate to read them at"
    if made.feed.encoded is not None:
        read = f"{decimal(made.feed.encoded / made.last.seconds)}/s read by every machine: ranks look into all files of a step"
    host, ranks = made.host, made.cluster.per_node
    return [
        f"a machine's own memory: about {size(ranks * host.total)} for {how_many(ranks, 'rank')} with run.workers: "
        f"{made.workers}, {size(ranks * host.shared)} of it pixels, which travel through /dev/shm",
        f"data: {read}",
        f"  {made.cores:.1f} cores a rank, {made.cores * made.cluster.per_node:.0f} a machine, to lay out, decode and cut: "
        f"run.workers: {math.ceil(made.cores)}",
    ]


def _whole_lines(made: Scaling) -> list[str]:
    found = [f"checkpoint: {decimal(made.checkpoint)}, {duration(made.checkpoint / ASSUMED.disk)} to write"]
    if made.steps is not None and made.saves is not None and made.training is not None and made.saving is not None:
        found.append(
            f"{how_many(made.steps, 'step')}: {duration(made.training)}, and {duration(made.saving)} for "
            f"{how_many(made.saves, 'checkpoint')}; without measuring and answering"
        )
    return found


def assumed_lines(made: Scaling) -> list[str]:
    """What a calculation for many devices takes for granted."""
    between = "" if made.cluster.nodes == 1 else f", {made.cluster.network * 8 / 1e9:,.0f} Gbit/s out of a machine"
    return [
        f"assumed, not measured: {ASSUMED.utilisation:.0%} of the GPU's published peak; {ASSUMED.link_share:.0%} of its links: "
        f"{made.cluster.link / 1e9:,.0f} GB/s each way in a machine{between}; {decimal(ASSUMED.disk)}/s to disk",
        f"measured on one CPU: {ASSUMED.render_ms:g} ms to lay out an example, {ASSUMED.video_ms:g} ms more for each video, "
        f"{ASSUMED.tile_ms:g} ms a tile of a picture, {ASSUMED.frame_ms:g} ms a frame of a video",
    ]


def decimal(number: float) -> str:
    """Bytes as networks and disks count them.

    >>> decimal(1.79e9), decimal(16e6), decimal(900)
    ('1.8 GB', '16 MB', '900 bytes')
    """
    for unit, name, digits in ((1e9, "GB", 1), (1e6, "MB", 0), (1e3, "kB", 0)):
        if number >= unit:
            return f"{number / unit:.{digits}f} {name}"
    return f"{number:.0f} bytes"
