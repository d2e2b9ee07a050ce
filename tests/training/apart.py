"""A run in a process of its own. Not in conftest.py: a child process finds modules by name, and there are several of that one."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from smolforge.recipe import Recipe
from smolforge.store import Store
from smolforge.training.checkpoint import UNFINISHED

COUNTED = (40, 1)  # tiles of the rows whose exchanges are counted


def train_apart(recipe: Recipe, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    if limit := int(environment.get("LARGEST_FILE", "0")):  # bytes; what is larger cannot be written, as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if place := environment.get("DIES_IN_SAVE"):
        die_in_save(*map(int, place.split(",")))
    if kept := environment.get("DIES_WITH_KEPT"):
        die_with_kept(int(kept))
    torch.set_num_threads(1)
    from smolforge.model import tree
    from smolforge.training import sharding
    from smolforge.training.loop import train

    tree.TILE_CHUNK = sharding.TILE_CHUNK = int(environment.get("TILE_CHUNK", tree.TILE_CHUNK))
    train(recipe)


def dies_in_save(step: int, file: int = 3) -> dict[str, str]:
    """Environment of a process that is killed in the first checkpoint from a step on, before it opens its n-th file (n > 0), or
    before the whole draft is renamed (0).

    A process that watches from outside may come too late, on a machine that has other things to do.
    """
    return {"DIES_IN_SAVE": f"{step},{file}"}


def die_in_save(step: int, file: int) -> None:
    draft, me = re.compile(rf"step-(\d+){re.escape(UNFINISHED)}(/|$)"), os.getpid()
    met, opened = "open" if file else "os.rename", 0

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal opened
        if event != met or os.getpid() != me:
            return
        found = draft.search(str(arguments[0]))
        if found and int(found[1]) >= step:
            opened += 1
            if opened == max(file, 1):
                os.kill(me, signal.SIGKILL)

    sys.addaudithook(note)


def die_with_kept(least: int) -> None:
    """Killed after the commit with which a store has so many values."""
    put = Store.put

    def put_and_die(store: Store, values: Mapping[str, bytes]) -> None:
        put(store, values)
        if len(store) >= least:
            os.kill(os.getpid(), signal.SIGKILL)

    Store.put = put_and_die  # type: ignore[method-assign]


def count_apart(recipe: Recipe, environment: dict[str, str]) -> None:
    """What FSDP gathers and sums in rows of the first process, while the others have none: `counts-RANK.json` in the run's
    folder, a line a row."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    from smolforge.training.runtime import Runtime
    from smolforge.training.setup import set_up
    from smolforge.training.sharding import blank_row

    counts: Counter[str] = Counter()

    def counted(name: str, act: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return act(*args, **kwargs)

        return run

    acts = torch.distributed.all_gather_single, torch.distributed.reduce_scatter_single
    torch.distributed.all_gather_single, torch.distributed.reduce_scatter_single = map(counted, ("gathers", "sums"), acts)
    runtime = Runtime(recipe.run)
    run = set_up(recipe, runtime)
    assert run.sharding is not None
    edge = run.model.vision.config.image_size
    blank = blank_row(runtime.device)
    rows = [replace(blank, tiles=torch.zeros(tiles, 3, edge, edge, dtype=torch.uint8)) for tiles in COUNTED]
    run.model.train()
    found = []
    for row in run.sharding.level(rows if runtime.is_main else [], lambda row: row, ahead=False, compared=False):
        counts.clear()
        loss = run.model(row).sum()
        forward = dict(counts)
        loss.backward()
        found.append({"forward": forward, "all": dict(counts)})
    file = recipe.run.dir / f"counts-{runtime.rank}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(map(json.dumps, found)))
