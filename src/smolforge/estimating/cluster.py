"""How many devices there are, and how fast they reach each other.

one machine          |  several machines
GPU - GPU - ... GPU  |  a ring through all GPUs; between machines it is as fast as all of a machine's network adapters together,
 \\______ NVLink ____/ |  because as many rings run at once as there are adapters
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smolforge.errors import RecipeError
from smolforge.estimating.assumed import ASSUMED
from smolforge.estimating.gpus import Gpu

Kind = Literal["ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Equal machines with equal GPUs."""

    devices: int
    per_node: int
    sharding: Kind
    link: float  # bytes a second each way between two GPUs of a machine, published
    network: float  # bytes a second out of a machine, published

    @property
    def nodes(self) -> int:
        return -(-self.devices // self.per_node)

    @property
    def slowest(self) -> float:
        """Bytes a second that a ring through all devices is taken to reach."""
        published = self.link if self.nodes == 1 else min(self.link, self.network)
        return ASSUMED.link_share * published

    @property
    def others(self) -> float:
        """(n - 1) / n: of a tensor in n equal parts, what is not a device's own."""
        return (self.devices - 1) / self.devices


def cluster_of(gpu: Gpu, devices: int, *, per_node: int = 8, sharding: Kind = "ddp", network: float | None = None) -> Cluster:
    """
    Args:
        network: Gbit/s out of a machine; `ASSUMED.network` when left out.

    Raises:
        RecipeError: numbers that make no machines.
    """
    if devices < 2 or per_node < 1:
        raise RecipeError(
            f"{devices} devices, {per_node} a machine", where="--devices", mend="give two or more, one a machine at least"
        )
    if devices > per_node and devices % per_node:
        raise RecipeError(
            f"{devices} devices do not fill machines of {per_node}", where="--devices", mend="give a multiple of --per-node"
        )
    if network is not None and network <= 0:
        raise RecipeError(f"a network of {network:g} Gbit/s", where="--network", mend="give what leaves a machine, in Gbit/s")
    return Cluster(
        devices=devices, per_node=min(devices, per_node), sharding=sharding, link=gpu.link * 1e9,
        network=(ASSUMED.network if network is None else network) * 1e9 / 8,
    )  # fmt: skip
