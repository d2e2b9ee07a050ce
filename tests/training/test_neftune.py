"""NEFTune in a run: how much noise falls where, that only learning has it, and that nothing but seed and place decides it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from smolforge.data.batch import PackedBatch, collate
from smolforge.data.pipeline import Stream, open_stream
from smolforge.data.processor import load_renderer
from smolforge.data.render import Example, Node
from smolforge.recipe import DataSection, parse_recipe
from smolforge.training import loop
from smolforge.training.loop import train
from smolforge.training.neftune import path_lengths, with_noise
from smolforge.training.runtime import Runtime
from smolforge.training.setup import set_up
from smolforge.training.sharding import blank_row
from smolforge.training.stepping import level
from smolforge.training.tracking import read_metrics


def tree(*nodes: tuple[int, int]) -> Example:
    """Of (parent, tokens) each; every node but roots is an answer."""
    made = tuple(Node(parent=p, ids=np.ones(n, np.int64), weights=np.ones(n, np.float32)) for p, n in nodes)
    return Example(id="", source="", nodes=made, responses=tuple((i, "target") for i, (p, _) in enumerate(nodes) if p >= 0))


def row_of(*examples: Example, places: tuple[int, ...]) -> PackedBatch:
    return replace(collate(examples), places=tuple(zip(places, (one.num_tokens for one in examples))))


def stream_of(tiny: Path) -> Stream:
    return open_stream([DataSection(source="scenes")], load_renderer(tiny), kinds={"target"}, seed=0)


def noises(rows: tuple[PackedBatch, ...], **options: Any) -> dict[int, torch.Tensor]:
    """Noise of each example by its place."""
    found = {}
    for row in rows:
        parts = with_noise(row, 5.0, width=16, seed=0, **options).noise.split([tokens for _, tokens in row.places])
        found |= {place: part for (place, _), part in zip(row.places, parts)}
    return found


# --- the noise itself ----------------------------------------------------------------------------------------------


def test_a_token_counts_the_longest_path_through_it():
    """The docstring's tree: prompt 4, answers 3 and 1. Behind it a chain of 2, 3 and 1 with a branch of 5 at its first node, and
    a second root of 2 in the same example."""
    row = row_of(tree((-1, 4), (0, 3), (0, 1)), tree((-1, 2), (0, 3), (1, 1), (0, 5), (-1, 2)), places=(0, 1))
    assert path_lengths(row).tolist() == [7] * 4 + [7] * 3 + [5] + [7] * 2 + [6] * 3 + [6] + [7] * 5 + [2] * 2


def test_uniform_and_as_large_as_the_paper_says():
    """U(-1, 1) has mean 0 and variance 1/3; of 4 x 256 x 64 draws the means err by about 0.0023 and 0.0012."""
    row = row_of(tree((-1, 156), (0, 100)), tree((-1, 700), (0, 68)), places=(5, 6))
    noise = with_noise(row, 5.0, width=64, seed=1).noise
    unit = torch.cat([noise[:256] * math.sqrt(256 * 64) / 5, noise[256:] * math.sqrt(768 * 64) / 5])
    assert unit.abs().max() <= 1 + 1e-6
    assert unit.mean().item() == pytest.approx(0, abs=0.01)
    assert unit.square().mean().item() == pytest.approx(1 / 3, abs=0.005)
    deciles = np.quantile(unit, np.linspace(0.1, 0.9, 9))
    assert deciles == pytest.approx(np.linspace(-0.8, 0.8, 9), abs=0.015)
    flat = unit.flatten()
    assert abs(torch.corrcoef(torch.stack([flat[:-1], flat[1:]]))[0, 1]) < 0.01, "neighbours know nothing of each other"


def test_seed_and_place_decide_and_not_the_row():
    a, b = tree((-1, 4), (0, 3)), tree((-1, 6), (0, 2), (0, 2))
    first = noises((row_of(a, b, places=(8, 9)),))
    other = noises((row_of(b, places=(9,)), row_of(a, places=(8,))))
    assert all(torch.equal(first[place], other[place]) for place in (8, 9))
    assert not torch.equal(noises((row_of(a, places=(10,)),))[10], first[8]), "another step, other noise"
    seeded = with_noise(row_of(a, places=(8,)), 5.0, width=16, seed=1).noise
    assert not torch.equal(seeded, first[8])


def test_two_processes_add_the_noise_of_one(tiny):
    stream = stream_of(tiny)
    one = noises(next(iter(stream.steps(3, 4, 8))).rows)
    two: dict[int, torch.Tensor] = {}
    for rank in range(2):
        share = next(iter(stream.steps(3, 4, 8, rank=rank, world=2))).rows
        two |= noises(share)
    assert sorted(one) == list(range(24, 32)) == sorted(two)
    assert all(torch.equal(one[place], two[place]) for place in one)


def test_blank_rows_stay_blank():
    blank = blank_row(torch.device("cpu"))
    assert with_noise(blank, 5.0, width=16, seed=0) is blank


def test_a_row_whose_places_are_lost_is_no_row_to_learn_from():
    with pytest.raises(AssertionError, match="0 tokens of places for a row of 7"):
        with_noise(collate([tree((-1, 4), (0, 3))]), 5.0, width=16, seed=0)


# --- runs ----------------------------------------------------------------------------------------------------------


def losses(folder: Path, kind: str) -> list[float]:
    return [entry["loss"] for entry in read_metrics(folder) if entry["kind"] == kind]


def test_training_has_noise_and_measuring_none(make_recipe, tmp_path):
    """At a rate of zero in effect, the held-out loss stays what it was, to the bit; training losses are other ones."""
    still = {"run__steps": 3, "run__eval_every": 1, "optim__lr": 1e-30}
    plain = train(make_recipe(run__dir=tmp_path / "plain", **still))
    noisy = train(make_recipe(run__dir=tmp_path / "noisy", model__neftune=20.0, **still))
    assert losses(plain, "eval") == losses(noisy, "eval")
    assert all(a != b for a, b in zip(losses(plain, "train"), losses(noisy, "train"), strict=True))


def test_checkpointing_and_packing_see_the_same_noise(make_recipe, tmp_path):
    kept = {"model__neftune": 20.0, "run__steps": 4}
    plain = train(make_recipe(run__dir=tmp_path / "plain", **kept))
    again = {"run__gradient_checkpointing": "true", "batch__row_tokens": 80, "run__workers": 1}
    other = train(make_recipe(run__dir=tmp_path / "other", **kept, **again))
    assert losses(plain, "train") == pytest.approx(losses(other, "train"), rel=1e-4)


def test_interrupted_is_the_same_run_to_the_bit(make_recipe, tiny_split, tmp_path, monkeypatch):
    """With drawn sizes besides. Stopped in the fourth step, after the checkpoint of the second: the third is taken again."""
    asked = {"model__name": tiny_split, "model__neftune": 5.0, "images__random_edge": "{96: 0.6, 192: 0.4}"}
    asked |= {"run__steps": 6, "run__save_every": 2, "batch__row_tokens": 512, "eval__examples": 2}
    whole = train(make_recipe(run__dir=tmp_path / "whole", **asked))
    recipe, steps = make_recipe(run__dir=tmp_path / "cut", **asked), []

    def cut(*given: Any) -> float:
        steps.append(1)
        if len(steps) == 4:
            raise ZeroDivisionError("pulled the plug")
        return update(*given)

    update = loop.update
    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", cut)
        with pytest.raises(ZeroDivisionError):
            train(recipe)
    train(recipe)
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "cut", whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert losses(tmp_path / "cut", "train")[-6:] == losses(whole, "train")[-6:]


def test_pairs_share_their_prompts_noise_and_the_reference_has_none(tiny, tmp_path):
    """Before the first step the policy is its reference, so what differs is noise; chosen and rejected hang below one prompt."""
    recipe = parse_recipe(
        {
            "model": {"name": str(tiny), "neftune": 20.0},
            "data": [{"source": "scene_pairs", "split": "train[:16]"}],
            "eval": {"data": [{"source": "scene_pairs", "split": "test[:4]"}], "samples": 0},
            "objective": {"kind": "dpo", "reference": {"kind": "copy"}},
            "batch": {"examples": 4, "row_tokens": 512},
            "run": {"dir": str(tmp_path / "run"), "steps": 1, "device": "cpu", "trackers": [], "workers": 0},
        }
    )
    runtime = Runtime(recipe.run)
    run = set_up(recipe, runtime)
    step = next(iter(run.stream.steps(0, 1, 4)))
    (row,) = level(run, step.rows, runtime)
    with torch.no_grad():
        without = run.model(replace(row, noise=None))
        assert torch.equal(row.reference, without)
        assert (run.model(row) - row.reference).abs().mean() > 1e-3
    assert len(row.noise) == row.num_tokens < sum(2 * tokens for _, tokens in row.places), "the prompt is there once"
