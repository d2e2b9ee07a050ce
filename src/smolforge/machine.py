"""What numbers were made with, and what they cost: versions, peak memory, energy."""

from __future__ import annotations

import platform
import resource
import sys
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    packages = ("smolforge", "torch", "transformers", "accelerate", "tokenizers", "numpy", "pillow")
    python = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    return python | {package: metadata.version(package) for package in packages}


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: CUDA's allocator, or the process's resident set."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def energy(device: torch.device) -> float | None:
    """Joules that a CUDA device has used since its driver was loaded; None where that cannot be known.

    It is known with NVIDIA's `nvidia-ml-py` installed; a processor's own counters overflow within minutes and are not used.
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(device.index or 0)) / 1000
    except pynvml.NVMLError:  # older cards do not tell
        return None
