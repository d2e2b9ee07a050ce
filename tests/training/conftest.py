"""A small supervised run that trains in a few seconds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from apart import train_apart
from torch.distributed import TCPStore

from smolforge.recipe import Recipe, parse_recipe

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def make_recipe(tiny: Path, tmp_path: Path) -> MakeRecipe:
    """Recipe of a run on drawn scenes; keyword arguments are `key=value` overrides with `.` written `__`."""

    def make(**overrides: Any) -> Recipe:
        tree = {
            "model": {"name": str(tiny)},
            "data": [{"source": "scenes"}],
            "eval": {"data": [{"source": "scenes", "split": "test"}], "examples": 8, "samples": 0},
            "optim": {"lr": 1e-3, "warmup": 2},
            "batch": {"examples": 4, "row_tokens": 256},
            "run": {
                "dir": str(tmp_path / "run"),
                "steps": 10,
                "save_every": 4,
                "device": "cpu",
                "trackers": [],
                "workers": 0,
            },
        }
        return parse_recipe(tree, [f"{key.replace('__', '.')}={value}" for key, value in overrides.items()])

    return make


@pytest.fixture(scope="module")
def meeting_place() -> Iterator[Callable[[int], dict[str, str]]]:
    """Environment of processes of one run. They meet as torchrun's do, at a port that this process holds: one that was only
    looked for may be taken by another program before they come."""
    held = []

    def meeting_place(world: int) -> dict[str, str]:
        held.append(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
        return {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(held[-1].port),
            "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
            "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
        }  # fmt: skip

    yield meeting_place
    held.clear()


@pytest.fixture(scope="module")
def start_process():
    """Start a run in a process of its own, which can be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["smolforge.training.loop", "apart"])

    def start(
        recipe: Recipe, act: Callable[[Recipe, dict[str, str]], None] = train_apart, **environment: str
    ) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=act, args=(recipe, environment))
        process.start()
        return process

    return start
