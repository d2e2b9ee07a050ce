"""What a run's folder alone tells, before anything is loaded, is what the whole way tells."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from smolforge.recipe import OptimSection
from smolforge.training.loop import train
from smolforge.training.optim import schedule
from smolforge.training.place import finished


def rows(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"prompt": f"count to {n}", "completion": str(n)}) + "\n" for n in range(count)))
    return path


@pytest.fixture
def epochs(make_recipe, tmp_path):
    """Recipe of a run over its rows twice."""

    def make(count: int, **overrides):
        file = rows(tmp_path / "my.jsonl", count)
        held = rows(tmp_path / "held.jsonl", 2)
        settings = {"data": f"[{{source: {file}}}]", "eval__data": f"[{{source: {held}}}]", "eval__examples": 2}
        return make_recipe(**settings, run__steps="null", run__epochs=2, batch__examples=2, **overrides)

    return make


def at(recipe) -> int:
    return json.loads((recipe.run.dir / "summary.json").read_text())["steps"]


def test_epochs_over_the_same_rows_are_finished(epochs):
    recipe = epochs(4)
    assert finished(recipe) == ""
    train(recipe)
    assert finished(recipe) == f"{recipe.run.dir} is finished: 4 of 4 steps"


def test_a_model_that_was_deleted_is_written_again(make_recipe):
    recipe = make_recipe(run__steps=2)
    train(recipe)
    model = recipe.run.dir / "model" / "model.safetensors"
    before = model.read_bytes()
    shutil.rmtree(model.parent)
    assert finished(recipe) == ""
    train(recipe)
    assert model.read_bytes() == before


def test_epochs_over_more_rows_go_on(epochs):
    train(epochs(4))
    more = epochs(8, run__other_data="true")
    assert finished(more) == ""
    train(more)
    assert at(more) == 8
    assert finished(more) == f"{more.run.dir} is finished: 8 of 8 steps"


def test_what_was_summed_up_before_it_went_on_is_not_finished(epochs, monkeypatch):
    train(epochs(4))
    more = epochs(8, run__other_data="true")

    def signalled(section: OptimSection, step: int, steps: int) -> float:

        if step == 5:
            signal.raise_signal(signal.SIGTERM)
        return schedule(section, step, steps)

    with monkeypatch.context() as patch:
        patch.setattr("smolforge.training.loop.schedule", signalled)
        train(more)
    assert at(more) == 4, "the end before"
    assert finished(more) == ""
    (more.run.dir / "kept.json").write_bytes((more.run.dir / "summary.json").read_bytes())
    train(more)
    assert at(more) == 8
    (more.run.dir / "kept.json").replace(more.run.dir / "summary.json")  # as if it was killed before it was summed up
    assert finished(more) == ""
    train(more)
    assert at(more) == 8


def test_of_epochs_that_stopped_early_the_data_tell_the_end(epochs, capsys):
    recipe = epochs(40, run__eval_every=1, run__early_stopping="{patience: 1}", optim__lr="10")
    train(recipe)
    assert at(recipe) < 40
    assert finished(recipe) == ""
    capsys.readouterr()
    train(recipe)
    assert f"is finished: {at(recipe)} of 40 steps" in capsys.readouterr().err


def test_adapters_on_a_folder_are_compared_with_it(make_recipe, tiny, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    recipe = make_recipe(model__name=base, run__steps=1, adapters="{method: lora}")
    train(recipe)
    assert finished(recipe) == ""
