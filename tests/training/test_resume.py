"""Killed at any moment, a run ends in the same weights; several processes reach the single process's numbers.

Real processes, real SIGKILLs. They come from a fork server that has imported everything, so that each starts at once.
"""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from apart import dies_in_save
from safetensors.torch import load_file

from smolforge.training.checkpoint import UNFINISHED, checkpoint_steps
from smolforge.training.tracking import read_metrics

KILLS, STEPS = 12, 32


def steps_taken(folder: Path) -> int:
    """As another process sees them."""
    return sum(entry["kind"] == "train" for entry in read_metrics(folder)) if folder.is_dir() else 0


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.slow
def test_killed_at_random_moments_ends_bit_for_bit_the_same(make_recipe, start_process, tmp_path):
    """SIGKILLs at start-up, after so many steps, and while a checkpoint is half written, or whole and not yet in its place (one
    every other step). Who watches from outside may come late: then, too, it is killed in a save, six steps later."""
    settings = {"run__steps": STEPS, "run__save_every": 2, "run__eval_every": 5, "run__workers": 1}
    whole = start_process(make_recipe(run__dir=tmp_path / "whole", **settings))
    whole.join(600)
    assert whole.exitcode == 0
    recipe = make_recipe(run__dir=tmp_path / "killed", **settings)
    folder, draw = tmp_path / "killed", random.Random(0)
    aims = sorted(draw.sample(range(STEPS - 12), KILLS))  # at so many steps, and a little later
    halves: list[int] = []  # steps logged when a checkpoint was half written
    for number, aim in enumerate(aims):
        within, file = number % 2 == 1, draw.randrange(2, 16) if number > 1 else 0
        process = start_process(recipe, **dies_in_save(max(1, aim) if within else aim + 6, file))
        if within:
            process.join(600)
            assert any((folder / "checkpoints").glob(f"*{UNFINISHED}/*"))
            halves.append(steps_taken(folder))
        else:
            while process.is_alive() and steps_taken(folder) < aim:
                time.sleep(0.002)
            process.join(draw.uniform(0, 0.1))
            process.kill()
            process.join()
        assert process.exitcode == -signal.SIGKILL
    assert len(set(halves)) == KILLS // 2, f"kills must fall at different moments: {halves}"
    last = start_process(recipe)
    last.join(600)
    assert last.exitcode == 0
    assert_equal(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed" / "checkpoints").glob(f"*{UNFINISHED}"))


def assert_equal(a: Path, b: Path) -> None:
    ours, theirs = final_weights(a), final_weights(b)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    steps = [[(e["kind"], e["step"], e["loss"]) for e in read_metrics(folder)] for folder in (a, b)]
    assert steps[0] == steps[1], "the log, too, is that of one run"
    assert checkpoint_steps(a / "checkpoints") == checkpoint_steps(b / "checkpoints")


def test_two_processes_reach_the_numbers_of_one(make_recipe, start_process, meeting_place, tmp_path):
    """Gradients are sums divided by a global count, so ranks may hold different rows, some without a picture, some dropped.
    Tolerance: order of additions."""
    rows = [{"prompt": f"count to {n}", "completion": " ".join(map(str, range(n)))} for n in range(9)]  # the first is empty
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = f"[{{source: scenes, weight: 0.3}}, {{source: {tmp_path / 'rows.jsonl'}, weight: 0.7}}]"
    one = start_process(make_recipe(run__dir=tmp_path / "one", data=data))
    one.join(600)
    recipe = make_recipe(run__dir=tmp_path / "two", data=data)
    shared = meeting_place(2)
    ranks = [start_process(recipe, RANK=str(r), LOCAL_RANK=str(r), **shared) for r in range(2)]
    for process in (one, *ranks):
        process.join(600)
        assert process.exitcode == 0
    losses = [[e["loss"] for e in read_metrics(tmp_path / name) if e["kind"] == "train"] for name in ("one", "two")]
    assert len(losses[0]) == 10
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    dropped = [json.loads((tmp_path / name / "summary.json").read_text())["dropped"] for name in ("one", "two")]
    assert dropped[0] == dropped[1]
    assert dropped[0]["empty answer"] > 0
