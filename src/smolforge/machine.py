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


def forget_peak(device: torch.device) -> None:
    """Let `peak_memory` begin anew, where the device can; a process's resident set cannot."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def energy(device: torch.device) -> float | None:
    """Joules that a CUDA device has used since its driver was loaded; None where that cannot be known.

    It is known with NVIDIA's `nvidia-ml-py` installed (`pip install "smolforge[energy]"`); a processor's own counters overflow
    within minutes and are not used. Tests have never run this on a card.
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    import torch

    try:
        pynvml.nvmlInit()
        name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"  # NVML counts cards that CUDA_VISIBLE_DEVICES hides
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(name)) / 1000
    except pynvml.NVMLError:  # older cards do not tell
        return None
