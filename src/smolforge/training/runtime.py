"""Devices and processes: the only file that knows accelerate and torch.distributed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from smolforge.errors import RecipeError
from smolforge.recipe import RunSection

T = TypeVar("T")


class Runtime:
    """One process's view of the run.

    Args:
        section: the recipe's device, trackers and folder.

    Raises:
        RecipeError: the device or a tracker is not here.
    """

    def __init__(self, section: RunSection) -> None:
        if section.device == "cuda" and not torch.cuda.is_available():
            raise RecipeError("no CUDA device here", where="run.device", mend="use auto, or see `smolforge doctor`")
        if section.device == "mps" and not torch.backends.mps.is_available():
            raise RecipeError("no MPS device here", where="run.device", mend="use auto, or see `smolforge doctor`")
        trackers = list(section.trackers) or None
        try:
            self._accelerator = Accelerator(cpu=section.device == "cpu", log_with=trackers, project_dir=str(section.dir))
        except (ImportError, ValueError) as error:
            raise RecipeError(str(error), where="run.trackers", mend="install the tracker or leave it out") from error
        if len(self._accelerator.log_with) < len(section.trackers):
            found = [str(tracker) for tracker in self._accelerator.log_with]
            raise RecipeError(
                f"only {found} of {list(section.trackers)} are installed",
                where="run.trackers",
                mend="install the others",
            )

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
        if self.world > 1:
            for gradient in gradients:
                torch.distributed.all_reduce(gradient)

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
        self._accelerator.end_training()
