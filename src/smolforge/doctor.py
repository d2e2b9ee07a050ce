"""What this machine can do, and what to install for the rest. Imports nothing heavy before it is asked for."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, util
from typing import Literal

from smolforge.wording import how_many


@dataclass(frozen=True)
class Finding:
    """One line: how it stands, what it is about, what to do."""

    state: Literal["ok", "note", "fail"]
    topic: str
    words: str


NEEDED = ("torch", "transformers", "accelerate", "datasets", "safetensors", "tokenizers", "numpy", "pillow", "av", "tensorboard")
OPTIONAL = {
    "gguf": "reads SmolLM2 from GGUF files: pip install 'smolforge[gguf]'",
    "decord": "for video.backend: decord, where av (PyAV) is not wanted: pip install decord2",
    "torchcodec": "for video.backend: torchcodec, where av is not wanted: pip install torchcodec",
    "torchvision": "for video.backend: torchvision, where av is not wanted; from 0.27 on it reads no videos",
}
OTHER_NAMES = {"decord": "decord2"}  # packages that bring the same module


def examine() -> Iterator[Finding]:
    """Findings, the machine first."""
    yield Finding("ok", "machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {_memory()}")
    right = sys.version_info >= (3, 11)
    yield Finding("ok" if right else "fail", "Python", platform.python_version() + ("" if right else ": 3.11 or newer is needed"))
    yield from _packages()
    if util.find_spec("torch"):
        yield from _devices()
    yield from _traps()
    free = shutil.disk_usage(".").free / 2**30
    enough = free > 5
    yield Finding("ok" if enough else "note", "disk", f"{free:.0f} GiB free here" + ("" if enough else ": checkpoints need room"))
    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    words = "HF_HUB_OFFLINE=1: local folders only" if offline else "asked when a name is not a folder here"
    yield Finding("note" if offline else "ok", "Hub", words)


def _packages() -> Iterator[Finding]:
    for name in NEEDED:
        here = _version(name)
        yield Finding("ok", name, here) if here else Finding("fail", name, f"missing: pip install {name}, or make setup")
    for name, use in OPTIONAL.items():
        here = _version(name) or _other(name)
        yield Finding("ok", name, here) if here else Finding("note", name, f"not installed; {use}")


def _version(name: str) -> str:
    """Of a package; empty where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _other(name: str) -> str:
    other = OTHER_NAMES.get(name, "")
    version = _version(other) if other else ""
    return f"{version} ({other})" if version else ""


def _devices() -> Iterator[Finding]:
    import torch

    yield Finding(
        "ok",
        "CPU",
        f"{how_many(torch.get_num_threads(), 'thread')}, bfloat16 {'fast' if _fast_bf16() else 'without fast instructions'}",
    )
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(number)
            bf16 = "bfloat16" if card.major >= 8 else "no bfloat16: use dtype float32"
            yield Finding("ok", f"GPU {number}", f"{card.name}, {card.total_memory / 2**30:.0f} GiB, {bf16}")
    elif torch.version.cuda:
        yield Finding("note", "GPU", "this PyTorch has CUDA but finds no device: check the driver with nvidia-smi")
    elif shutil.which("nvidia-smi"):
        yield Finding("note", "GPU", "an NVIDIA driver is here but PyTorch is the CPU build: install its CUDA build into .venv")
    elif torch.backends.mps.is_available():
        yield Finding("ok", "GPU", "Apple MPS")
    else:
        yield Finding("note", "GPU", "none: everything runs on the CPU, small models in reasonable time")


def _traps() -> Iterator[Finding]:
    if util.find_spec("torchvision") and util.find_spec("torch"):
        import torch

        if torch.version.cuda is None and "+cpu" not in metadata.version("torchvision"):
            words = "a CUDA build beside a CPU PyTorch breaks transformers' processors: pip uninstall torchvision"
            yield Finding("note", "torchvision", words)


def _fast_bf16() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = file.read()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "memory unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB memory"
