"""Every shipped recipe runs small, from its first step to its report, and what a person said stays said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smolforge.errors import RecipeError
from smolforge.recipe import load_recipe
from smolforge.tiny import shrink
from smolforge.training.loop import train

RECIPES = sorted((Path(__file__).resolve().parents[1] / "recipes").glob("*.yaml"))
STEPS = 3


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_shipped_recipe_runs(file, module_path, monkeypatch):
    monkeypatch.chdir(module_path)  # one folder for all, so that the tiny models are assembled once
    recipe = shrink(file, [f"run.steps={STEPS}", "run.workers=0"])
    run = train(recipe)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["kind"] == "train" for line in lines) == STEPS
    assert (run / "model").is_dir()
    summary = json.loads((run / "summary.json").read_text())
    assert not summary["dropped"]
    assert summary["after"]["loss"] != summary["before"]["loss"]


def test_the_video_stage_goes_on_from_the_vision_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vision, video = (Path(RECIPES[0].parent / f"smolvlm2-256m-{stage}.yaml") for stage in ("vision", "video"))
    assert shrink(video).model.name == "runs/tiny/start"
    run = train(shrink(vision, ["run.steps=2", "run.workers=0"]))
    assert Path(shrink(video).model.name) == run / "model"


def test_a_stage_runs_with_processes_that_prepare_its_steps(module_path, monkeypatch):
    """As the recipe is published, but small: what is prepared ahead are the rows, losses and all, that one process makes."""
    monkeypatch.chdir(module_path)
    file = RECIPES[0].parent / "smolvlm2-256m-video.yaml"
    losses = []
    for workers in (0, 2):
        recipe = shrink(file, [f"run.steps={STEPS}", f"run.workers={workers}", f"run.dir=workers-{workers}"])
        assert recipe.run.workers == workers
        run = train(recipe)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if line["kind"] == "train"])
    assert len(losses[0]) == STEPS
    assert losses[0] == losses[1]
    assert shrink(file).run.workers == 1


def test_numbers_of_steps_shrink_in_proportion(tmp_path, monkeypatch):
    """50,000 steps become 20, so SigLIP thaws at 10,000 / 50,000 x 20 = 4; of 100 steps at 20."""
    monkeypatch.chdir(tmp_path)
    file = RECIPES[0].parent / "smolvlm2-256m-vision.yaml"
    small, longer = shrink(file), shrink(file, ["run.steps=100", "run.dir=elsewhere"])
    assert (small.run.steps, small.freeze.vision) == (20, 4)
    assert (longer.run.steps, longer.freeze.vision, longer.run.dir) == (100, 20, Path("elsewhere"))
    assert [one.source for one in small.data] == [one.source for one in load_recipe(file).data]
    assert all(one.fixture for one in small.data)
    assert [one.weight for one in small.data] == [0.35, 0.41, 0.08, 0.08, 0.08]


def test_steps_on_the_command_line_replace_epochs():
    file = RECIPES[0].parent / "captions.yaml"
    assert load_recipe(file).run.epochs == 3
    assert load_recipe(file, ["run.steps=7"]).run.steps == 7
    assert load_recipe(file, ["run.steps=7"]).run.epochs is None
    with pytest.raises(RecipeError, match="exactly one of steps and epochs"):
        load_recipe(file, ["run.steps=7", "run.epochs=2"])
