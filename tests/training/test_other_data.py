"""A run goes on with the data that it began with, or says what differs; and meets its data without holding a step of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import smolforge.data.pipeline as pipeline
from smolforge.errors import CheckpointError
from smolforge.training.loop import train
from smolforge.training.runtime import Runtime
from smolforge.training.setup import set_up


def rows(path: Path, count: int, first: int = 0) -> Path:
    lines = [{"prompt": f"count to {n}", "completion": " ".join(map(str, range(n + 1)))} for n in range(first, first + count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def stopped(recipe, step: int) -> None:
    """Bring a finished run's folder back to where it was at a step."""
    folder = recipe.run.dir
    for checkpoint in (folder / "checkpoints").glob("step-*"):
        if int(checkpoint.name[5:]) > step:
            shutil.rmtree(checkpoint)
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "model")


def test_a_run_on_other_rows_does_not_go_on_unless_it_is_told_to(make_recipe, tmp_path, capsys):
    file = rows(tmp_path / "my.jsonl", 10)
    data = f"[{{source: {file}}}]"
    settings = {"data": data, "run__steps": 4, "run__save_every": 2, "run__keep_last": 9}
    recipe = make_recipe(**settings)
    train(recipe)
    stopped(recipe, 2)
    rows(file, 25, first=3)
    told = r"run: holds a run of other data \(data\.0 \(.*my\.jsonl\) had 10 rows and has 25 rows\); put them back, give this "
    with pytest.raises(CheckpointError, match=told):
        train(recipe)
    capsys.readouterr()
    folder = train(make_recipe(run__other_data="true", **settings))
    assert "other data from here on: data.0" in capsys.readouterr().err
    assert json.loads((folder / "summary.json").read_text())["rows"] == [25]
    stopped(recipe, 4)  # the last checkpoint has the new rows' identity: nothing needs to be allowed any more
    train(recipe)
    assert "other data" not in capsys.readouterr().err


def test_held_out_rows_are_compared_too(make_recipe, tmp_path):
    """Else before and after would be measured on different questions."""
    file = rows(tmp_path / "held.jsonl", 10)
    recipe = make_recipe(eval__data=f"[{{source: {file}}}]", run__steps=2, run__save_every=2)
    train(recipe)
    rows(file, 10, first=5)
    with pytest.raises(CheckpointError, match=r"eval\.data\.0 .* has other content"):
        train(recipe)


def test_the_same_rows_at_another_time_go_on(make_recipe, tmp_path, capsys):
    file = rows(tmp_path / "my.jsonl", 10)
    recipe = make_recipe(data=f"[{{source: {file}}}]", run__steps=4, run__save_every=2, run__keep_last=9)
    train(recipe)
    stopped(recipe, 2)
    text = file.read_text()
    file.unlink()
    file.write_text(text)
    train(recipe)
    assert "going on from step 2" in capsys.readouterr().err


def test_a_checkpoint_that_does_not_know_its_data_says_so(make_recipe, capsys):
    recipe = make_recipe(run__steps=4, run__save_every=2, run__keep_last=9)
    train(recipe)
    stopped(recipe, 2)
    file = recipe.run.dir / "checkpoints" / "step-00000002" / "state.json"
    state = json.loads(file.read_text())
    del state["data"]
    file.write_text(json.dumps(state))
    train(recipe)
    assert "does not say which data it saw" in capsys.readouterr().err


def test_one_usable_example_is_enough_to_begin(make_recipe, monkeypatch):
    """Of a step of 512 examples one picture is decoded before the run starts."""
    decoded = []
    cut = pipeline.picture_tiles
    monkeypatch.setattr(pipeline, "picture_tiles", lambda picture, *more: decoded.append(picture.key) or cut(picture, *more))
    recipe = make_recipe(batch__examples=512)
    set_up(recipe, Runtime(recipe.run))
    assert len(decoded) == 1


def test_a_held_out_set_of_two_sources_is_each_row_once(make_recipe, tmp_path):
    """By shares of 1 to 3 as by numbers of rows: twelve rows of which some were measured twice and some never."""
    files = [rows(tmp_path / "a.jsonl", 6), rows(tmp_path / "b.jsonl", 6, first=6)]
    for weights in ("", ""), (", weight: 1", ", weight: 3"):
        sources = ", ".join(f"{{source: {file}{weight}}}" for file, weight in zip(files, weights))
        recipe = make_recipe(eval__data=f"[{sources}]", eval__examples=12)
        run = set_up(recipe, Runtime(recipe.run))
        drawn = [run.eval_stream.mixture(index) for index in range(12)]
        assert sorted(drawn) == [(source, row) for source in range(2) for row in range(6)]
