"""A checkpoint is whole or absent, also when the disk is full."""

from __future__ import annotations

import errno
import json
import subprocess
from pathlib import Path

import pytest
import torch

from smolforge.errors import CheckpointError
from smolforge.loading import load
from smolforge.training import checkpoint as module
from smolforge.training.checkpoint import (
    clear_leftovers,
    load_state,
    newest_checkpoint,
    processor_files,
    prune,
    save_checkpoint,
    save_model,
)
from smolforge.training.loop import train
from smolforge.training.place import checkpoint_steps


def fill_disk(monkeypatch: pytest.MonkeyPatch, *, after_files: int) -> None:
    """The disk is full when the given number of files has been flushed."""
    flush, flushed = module.flush, []

    def limited(path: Path) -> None:
        if len(flushed) >= after_files:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        flushed.append(path)
        flush(path)

    monkeypatch.setattr(module, "flush", limited)


def test_round_trip(tiny, tmp_path):
    loaded = load(str(tiny), device="cpu")
    tensors = {"exp_avg.a": torch.rand(3), "step.a": torch.tensor(7.0)}
    save_checkpoint(tmp_path / "step-00000007", loaded.model.model, processor_files(tiny), tensors, {"step": 7})
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    state, back = load_state(newest)
    assert state == {"step": 7}
    assert all(torch.equal(tensors[name], back[name]) for name in tensors)
    again = load(str(newest), device="cpu")
    for (name, a), b in zip(loaded.model.model.state_dict().items(), again.model.model.state_dict().values()):
        assert torch.equal(a, b), name
    assert again.renderer.tokenizer.get_vocab() == loaded.renderer.tokenizer.get_vocab()


@pytest.mark.parametrize("files", [0, 1, 5])
def test_full_disk_is_one_line_and_loses_nothing(tiny, tmp_path, monkeypatch, files):
    loaded = load(str(tiny), device="cpu")
    save_checkpoint(tmp_path / "step-00000001", loaded.model.model, processor_files(tiny), {"a": torch.ones(1)}, {"step": 1})
    fill_disk(monkeypatch, after_files=files)
    with pytest.raises(CheckpointError, match="the disk is full; free some space and run the same command again") as caught:
        save_checkpoint(tmp_path / "step-00000002", loaded.model.model, processor_files(tiny), {"a": torch.ones(1)}, {"step": 2})
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert load_state(newest)[0] == {"step": 1}


def test_only_a_full_disk_asks_for_space(tiny, tmp_path):
    loaded = load(str(tiny), device="cpu")
    (tmp_path / "here").write_text("a file in the place of the folder")
    with pytest.raises(CheckpointError, match=r"cannot be written \(.*\); see that the folder can be written and run") as caught:
        save_model(tmp_path / "here" / "model", loaded.model.model, {})
    assert "space" not in str(caught.value)


def test_a_disk_that_is_really_full(make_recipe, tmp_path):
    """A file system of 16 MiB: the second checkpoint does not fit. More room, and the run goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        recipe = make_recipe(run__dir=disk / "run", run__save_every=1, run__keep_last=5)
        with pytest.raises(CheckpointError, match="the disk is full"):
            train(recipe)
        assert [p.name for p in (recipe.run.dir / "checkpoints").iterdir()] == ["step-00000001"]
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        train(recipe)
        assert (recipe.run.dir / "summary.json").is_file()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_run_goes_on_after_a_full_disk(make_recipe, monkeypatch):
    recipe = make_recipe()
    with monkeypatch.context() as patch:
        fill_disk(patch, after_files=20)  # the first checkpoint fits, the second does not
        with pytest.raises(CheckpointError):
            train(recipe)
    assert [p.name for p in (recipe.run.dir / "checkpoints").iterdir()] == ["step-00000004"]
    train(recipe)
    assert (recipe.run.dir / "summary.json").is_file()


def test_replacing_a_model_keeps_the_old_one_until_the_new_is_whole(tiny, tmp_path, monkeypatch):
    loaded = load(str(tiny), device="cpu")
    save_model(tmp_path / "model", loaded.model.model, processor_files(tiny))
    fill_disk(monkeypatch, after_files=2)
    with pytest.raises(CheckpointError):
        save_model(tmp_path / "model", loaded.model.model, processor_files(tiny))
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_leftovers_are_removed_and_damage_is_named(tmp_path):
    (tmp_path / "step-00000003.unfinished").mkdir()
    whole = tmp_path / "step-00000002"
    whole.mkdir()
    (whole / "state.json").write_text(json.dumps({"step": 2}))
    assert newest_checkpoint(tmp_path) == whole
    clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
    (whole / "optimizer.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="delete it, and the run goes on from the one before"):
        load_state(whole)


def test_prune_keeps_what_it_is_told(tmp_path):
    for step in (1, 2, 3):
        (tmp_path / f"step-{step:08d}").mkdir()
    prune(tmp_path, [1, 3])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


def test_a_folder_of_another_spelling_is_not_a_checkpoint(tmp_path):
    for name in ("step-7", "step-00000008", "step-²", "step-9.bak"):
        (tmp_path / name).mkdir()
    assert checkpoint_steps(tmp_path) == [8]
    prune(tmp_path, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-7", "step-9.bak", "step-²"]
