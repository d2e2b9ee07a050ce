"""Devices and processes: the only file that knows accelerate and torch.distributed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin

from smolforge.errors import RecipeError
from smolforge.parent import end_with_parent
from smolforge.recipe import RunSection

T = TypeVar("T")

BUCKET = 25 * 2**20  # bytes of gradients that processes sum in one go: fewer, larger messages


class Runtime:
    """One process's view of the run.

    Args:
        section: the recipe's device, trackers and folder.

    Raises:
        RecipeError: the device or a tracker is not here.
    """

    plugin: FullyShardedDataParallelPlugin | None  # how weights are spread over the processes; None: each has them all

    def __init__(self, section: RunSection) -> None:
        if section.device == "cuda" and not torch.cuda.is_available():
            raise RecipeError("no CUDA device here", where="run.device", mend="use auto, or see `smolforge doctor`")
        if section.device == "mps" and not torch.backends.mps.is_available():
            raise RecipeError("no MPS device here", where="run.device", mend="use auto, or see `smolforge doctor`")
        none = section.device == "auto" and not (torch.cuda.is_available() or torch.backends.mps.is_available())
        trackers = list(section.trackers) or None
        plugin = launched_sharding()
        try:
            self._accelerator = Accelerator(
                cpu=section.device == "cpu" or none, log_with=trackers, project_dir=str(section.dir), fsdp_plugin=plugin
            )
        except (ImportError, ValueError) as error:
            raise RecipeError(str(error), where="run.trackers", mend="install the tracker or leave it out") from error
        if len(self._accelerator.log_with) < len(section.trackers):
            found = [str(tracker) for tracker in self._accelerator.log_with]
            raise RecipeError(
                f"only {found} of {list(section.trackers)} are installed",
                where="run.trackers",
                mend="install the others",
            )
        together = torch.distributed.is_initialized()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not together:
            raise RecipeError(
                f"several processes were launched, and on {self.device.type} they cannot work together",
                where="run.device",
                mend="launch one, or use cuda or cpu",
            )
        self.plugin = plugin if together else None  # one process alone has nobody to share weights with
        if self.world > 1:  # a launcher that is killed tells nobody, and they would go on and hold the run's folder
            end_with_parent(signal.SIGTERM)

    @property
    def device(self) -> torch.device:
        return self._accelerator.device

    @property
    def rank(self) -> int:
        return self._accelerator.process_index

    @property
    def world(self) -> int:
        return self._accelerator.num_processes

    @property
    def mixed_precision(self) -> str:
        """What the launcher asks for: "no", "bf16", "fp16" or "fp8"."""
        return str(self._accelerator.mixed_precision)

    @property
    def recomputes(self) -> bool:
        """Whether the launcher asks for activations to be computed again in the backward pass."""
        return self.plugin is not None and bool(self.plugin.activation_checkpointing)

    @property
    def is_main(self) -> bool:
        return self._accelerator.is_main_process

    def wait(self) -> None:
        """Until every process is here."""
        self._accelerator.wait_for_everyone()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes."""
        if self.world == 1:
            return [float(value) for value in values]
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        tensor = torch.tensor(values, dtype=dtype, device=self.device)
        torch.distributed.all_reduce(tensor)
        return tensor.tolist()

    def sum_gradients(self, gradients: Iterable[torch.Tensor]) -> None:
        """Sum gradients over all processes in place; a process without a picture contributes zeros."""
        if self.world == 1:
            return
        for bucket in buckets(gradients, BUCKET):
            if len(bucket) == 1:  # as large as a bucket: not worth a copy
                torch.distributed.all_reduce(bucket[0])
                continue
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            torch.distributed.all_reduce(flat)
            for gradient, part in zip(bucket, flat.split([gradient.numel() for gradient in bucket])):
                gradient.copy_(part.view_as(gradient))

    def gather(self, value: T) -> list[T]:
        """This value of every process."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def agree(self, flag: bool) -> bool:
        """True everywhere when it is True anywhere."""
        return self.sum([float(flag)])[0] > 0

    def start_trackers(self, folder: str, *, first: int) -> None:
        """Open the trackers; TensorBoard forgets what an interrupted attempt wrote after step `first`."""
        purge: dict[str, Any] = {"tensorboard": {"purge_step": first + 1}} if first else {}
        self._accelerator.init_trackers(folder, init_kwargs=purge)

    def track(self, values: dict[str, float], step: int) -> None:
        """Hand values to TensorBoard and the other trackers."""
        self._accelerator.log(values, step=step)

    @property
    def board(self) -> Any:
        """TensorBoard's writer, on the first process and where the recipe has it; else None."""
        here = any(tracker.name == "tensorboard" for tracker in self._accelerator.trackers)
        return self._accelerator.get_tracker("tensorboard", unwrap=True) if here and self.is_main else None

    def finish(self) -> None:
        """Close the trackers, once the first process has written what it alone writes."""
        self.wait()
        self._accelerator.end_training()


def buckets(tensors: Iterable[torch.Tensor], size: int) -> Iterator[list[torch.Tensor]]:
    """Neighbours of one dtype together, up to `size` bytes; a larger tensor alone.

    >>> [len(bucket) for bucket in buckets([torch.zeros(2), torch.zeros(2), torch.zeros(9), torch.zeros(1)], 16)]
    [2, 1, 1]
    """
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and (sum(t.nbytes for t in bucket) + tensor.nbytes > size or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def launched_sharding() -> FullyShardedDataParallelPlugin | None:
    """What `accelerate launch` was told of sharding.

    Raises:
        RecipeError: an option that this trainer has not.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    plugin = FullyShardedDataParallelPlugin()
    for option, given, value in (
        ("fsdp_version", plugin.fsdp_version, 2),
        ("fsdp_cpu_ram_efficient_loading", plugin.cpu_ram_efficient_loading, False),
        ("fsdp_activation_checkpointing_offload", plugin.activation_checkpointing_offload, False),
        ("use_parallelism_config", os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "false").lower() == "true", False),
    ):
        if given != value:
            word = str(value).lower()
            raise RecipeError(f"{given} is not supported", where=f"accelerate's {option}", mend=f"set it to {word}")
    return plugin
