"""A run in a process of its own. Not in conftest.py: a child process finds modules by name, and there are several of that one."""

from __future__ import annotations

import os

import torch

from smolforge.recipe import Recipe


def train_apart(recipe: Recipe, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    from smolforge.training.loop import train

    train(recipe)
