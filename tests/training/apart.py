"""A run in a process of its own. Not in conftest.py: a child process finds modules by name, and there are several of that one."""

from __future__ import annotations

import os
import resource
import signal

import torch

from smolforge.recipe import Recipe


def train_apart(recipe: Recipe, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    if limit := int(environment.get("LARGEST_FILE", "0")):  # bytes; what is larger cannot be written, as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    torch.set_num_threads(1)
    from smolforge.training.loop import train

    train(recipe)
