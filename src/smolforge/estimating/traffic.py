"""What devices send each other in a step, and how much of it they wait for.

DDP: the step's float32 gradients are summed once, when its last row is done (`training/runtime.py`). A ring's all-reduce sends
2 (n - 1) / n bytes a byte (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms").

FSDP: each row gathers every unit's weights for the forward pass and again for the backward pass, and scatters the sums of their
float32 gradients; (n - 1) / n of a tensor each time (Rajbhandari et al. 2020, arXiv 1910.02054, section 7). The tower takes tiles
in chunks, and stays gathered for all chunks of a row. Gathering the next unit runs beside the one at work. So what is waited
for is what takes longer than computing, and the root's gathering and scattering at a row's two ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smolforge.estimating.cluster import Cluster
from smolforge.estimating.units import Unit

GRADIENT = 4  # bytes of a float32 gradient


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Of one device, in one step on average."""

    sent: float  # bytes
    seconds: float  # that links take for it
    waited: float  # of those, not hidden behind computation

    @property
    def hidden(self) -> float:
        """Share that runs beside computation."""
        return 1 - self.waited / self.seconds if self.seconds else 1.0


def summed(trainable: int, cluster: Cluster) -> Traffic:
    """DDP: gradients of so many parameters, all of it waited for.

    >>> from smolforge.estimating.gpus import GPUS
    >>> from smolforge.estimating.cluster import cluster_of
    >>> round(summed(256_000_000, cluster_of(GPUS["A100-40"], 8)).sent)  # 2 x 7/8 x 4 bytes x 256 M
    1792000000
    """
    sent = 2 * cluster.others * GRADIENT * trainable
    return Traffic(sent=sent, seconds=sent / cluster.slowest, waited=sent / cluster.slowest)


def sharded(
    units: Sequence[Unit], rows: Sequence[tuple[int, float]], cluster: Cluster, *, itemsize: int, steps: int = 1
) -> Traffic:
    """FSDP: rows as (most tiles that a device has in it, seconds of its computation) of so many steps.

    Args:
        itemsize: bytes of a weight as it is gathered.
    """
    sent = waited = 0.0
    root = units[-1]
    edges = (itemsize * root.total + GRADIENT * root.trainable) * cluster.others
    for tiles, seconds in rows:
        row = sum(sent_by(unit, tiles, units, itemsize=itemsize) for unit in units) * cluster.others
        sent += row
        waited += max((row - edges) / cluster.slowest - seconds, 0.0) + edges / cluster.slowest
    return Traffic(sent=sent / steps, seconds=sent / cluster.slowest / steps, waited=waited / steps)


def sent_by(unit: Unit, tiles: int, units: Sequence[Unit], *, itemsize: int) -> float:
    """Bytes of a unit that move in a row with so many tiles, were no part of it a device's own.

    >>> layers = [Unit(part="vision", total=10, trainable=0), Unit(part="connector", total=4, trainable=4)]
    >>> [sent_by(layer, 17, layers, itemsize=2) for layer in layers]  # a frozen tower, forward alone
    [20, 32]
    """
    if unit.part in ("vision", "connector") and not tiles:
        return 0.0
    before = {"vision": ("vision",), "connector": ("vision", "connector")}.get(unit.part)
    backward = before is None or any(other.trainable for other in units if other.part in before)
    gathers = 1 if unit.part == "root" or not backward else 2
    return gathers * itemsize * unit.total + GRADIENT * unit.trainable
