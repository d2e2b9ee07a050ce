"""The loop: golden losses, exact arithmetic whatever the packing, clean ends."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smolforge.data.pipeline import Stream
from smolforge.errors import CheckpointError, DataError, RecipeError, TrainingError
from smolforge.generation import generate
from smolforge.loading import load
from smolforge.recipe import OptimSection
from smolforge.report import write_report
from smolforge.training.loop import train
from smolforge.training.optim import schedule
from smolforge.training.tracking import read_metrics

# float32, one thread, seed 0. Recorded on an x86-64 CPU with PyTorch 2.13; other CPUs round differently in the last digits,
# which ten steps amplify to about 1e-4.
GOLDEN = [6.3914, 5.0111, 4.1221, 3.8042, 2.7315, 2.6307, 2.5797, 2.3777, 1.9367, 2.0538]


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in read_metrics(folder) if entry["kind"] == "train"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_golden_ten_steps(make_recipe):
    folder = train(make_recipe())
    assert losses(folder) == pytest.approx(GOLDEN, rel=1e-3)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["after"]["loss"] < summary["before"]["loss"]
    assert summary["measured_on"] == "held-out examples"


def test_row_size_does_not_change_the_result(make_recipe, tmp_path):
    """One row a step or four: the same sums, divided once by the same count. Tolerance: order of float32 additions."""
    one = train(make_recipe(run__dir=tmp_path / "one", batch__row_tokens=4096))
    four = train(make_recipe(run__dir=tmp_path / "four", batch__row_tokens=80))
    assert losses(one) == pytest.approx(losses(four), rel=1e-4)


def test_gradient_checkpointing_and_workers_change_nothing(make_recipe, tmp_path):
    plain = train(make_recipe(run__dir=tmp_path / "plain"))
    other = train(make_recipe(run__dir=tmp_path / "other", run__gradient_checkpointing="true", run__workers=3))
    assert losses(plain) == pytest.approx(losses(other), rel=1e-5)


def test_bfloat16_keeps_float32_masters(make_recipe, tmp_path):
    """With a rate whose single update is lost in bfloat16, the masters still move the weights over ten steps."""
    folder = train(make_recipe(model__dtype="bfloat16", optim__lr=1e-5))
    moments = load_file(next((folder / "checkpoints").glob("step-*10")) / "optimizer.safetensors")
    masters = {name: t for name, t in moments.items() if name.startswith("master.")}
    assert masters
    assert all(t.dtype == torch.float32 for t in masters.values())
    assert weights(folder)["lm_head.weight"].dtype == torch.bfloat16
    assert losses(folder)[-1] < losses(folder)[0]


def test_frozen_components_stay_bit_for_bit(make_recipe, tiny):
    folder = train(make_recipe(freeze__vision="true", freeze__connector="true", run__steps=2))
    before, after = load_file(tiny / "model.safetensors"), weights(folder)
    for name, tensor in before.items():
        frozen = "vision_model" in name or "connector" in name
        assert torch.equal(tensor, after[name]) == frozen, name


def test_rates_by_component(make_recipe, tiny):
    """A rate of zero for what is not frozen is refused; different rates move components differently."""
    with pytest.raises(Exception, match="vision has learning rate 0 but is not frozen"):
        make_recipe(optim__lr="{connector: 1.0e-3, decoder: 1.0e-3}")
    folder = train(make_recipe(optim__lr="{vision: 1.0e-9, connector: 1.0e-2, decoder: 1.0e-9}", run__steps=2))
    before, after = load_file(tiny / "model.safetensors"), weights(folder)
    moved = {n: float((before[n] - after[n]).abs().max()) for n in before}
    assert moved["model.connector.modality_projection.proj.weight"] > 1e-3
    assert max(size for name, size in moved.items() if "connector" not in name) < 1e-7


def test_early_stopping_takes_the_best_model(make_recipe):
    """A rate far too high makes the held-out loss rise; the run ends and the model is that of its lowest loss."""
    recipe = make_recipe(
        optim__lr=0.3, optim__clip="null", optim__warmup=0, optim__schedule="constant", run__steps=30, run__eval_every=1,
        run__early_stopping="{patience: 2}",
    )  # fmt: skip
    folder = train(recipe)
    held = {e["step"]: e["loss"] for e in read_metrics(folder) if e["kind"] == "eval"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] < 30
    best = min((loss, step) for step, loss in held.items() if step > 0)
    assert summary["after"]["loss"] == pytest.approx(best[0], rel=1e-6)
    assert (folder / "checkpoints" / f"step-{best[1]:08d}").is_dir()


def test_an_early_stop_is_final(make_recipe):
    """The same command again trains no further, also when it was killed before the summary."""
    settings = {
        "optim__lr": 0.3, "optim__clip": "null", "optim__warmup": 0, "optim__schedule": "constant", "run__steps": 30,
        "run__eval_every": 1, "run__early_stopping": "{patience: 2}",
    }  # fmt: skip
    folder = train(make_recipe(**settings))
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").unlink()
    train(make_recipe(**settings))
    again = json.loads((folder / "summary.json").read_text())
    assert (again["steps"], again["after"]) == (summary["steps"], summary["after"])


def test_the_last_step_is_measured_and_may_be_the_best(make_recipe):
    folder = train(make_recipe(run__steps=5, run__eval_every=2, run__early_stopping="{patience: 2}"))
    held = [e["step"] for e in read_metrics(folder) if e["kind"] == "eval"]
    assert held == [0, 2, 4, 5]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["after"]["loss"] == [e["loss"] for e in read_metrics(folder) if e["kind"] == "eval"][-1]


def test_frozen_decoder_with_texts_among_pictures(make_recipe, tmp_path):
    """A row of text teaches a connector nothing; it must not end the run."""
    data = tmp_path / "text.jsonl"
    data.write_text('{"prompt": "count", "completion": "one"}\n')
    mixed = f"[{{source: scenes, weight: 0.5}}, {{source: {data}, weight: 0.5}}]"
    folder = train(make_recipe(data=mixed, freeze__decoder="true", freeze__vision="true", batch__examples=2, run__steps=6))
    assert len(losses(folder)) == 6


def test_memory_settings_may_change_on_the_way(make_recipe):
    """What an out-of-memory message advises is accepted by the run that it advises."""
    train(make_recipe(run__steps=2))
    train(make_recipe(run__steps=2, batch__row_tokens=128, run__gradient_checkpointing="true"))


def test_a_damaged_log_line_is_left_out(make_recipe):
    folder = train(make_recipe(run__steps=2))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    assert write_report(folder).is_file()


def test_gradients_that_are_not_finite_end_the_run():
    from torch import nn

    from smolforge.recipe import OptimSection
    from smolforge.training.optim import Optimizer

    model = nn.Linear(1, 1)
    optimizer = Optimizer(model, OptimSection())
    model(torch.tensor([[float("inf")]])).sum().backward()
    before = model.weight.clone()
    with pytest.raises(TrainingError, match=r"the gradient.s norm is (inf|nan)"):
        optimizer.step(1.0)
    assert torch.equal(model.weight, before)


def test_changed_recipe_is_refused_with_the_difference(make_recipe):
    train(make_recipe(run__steps=2))
    with pytest.raises(CheckpointError, match=r"optim\.lr: 0\.001 -> 0\.002") as caught:
        train(make_recipe(run__steps=2, optim__lr=0.002))
    assert "\n" not in str(caught.value)


def test_what_changes_no_weight_may_change(make_recipe):
    train(make_recipe(run__steps=2))
    train(make_recipe(run__steps=2, run__workers=1, run__save_every=1))


def test_finished_run_is_left_as_it_is(make_recipe):
    folder = train(make_recipe(run__steps=2))
    before = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    train(make_recipe(run__steps=2))
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on(make_recipe, tmp_path, monkeypatch, number):
    whole = train(make_recipe(run__dir=tmp_path / "whole", run__steps=40))
    recipe = make_recipe(run__dir=tmp_path / "cut", run__steps=40, run__save_every=1000)

    def signalled(section: OptimSection, step: int, steps: int) -> float:
        if step == 2:
            signal.raise_signal(number)
        return schedule(section, step, steps)

    with monkeypatch.context() as patch:
        patch.setattr("smolforge.training.loop.schedule", signalled)
        train(recipe)
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()] == ["step-00000003"]
    assert not (tmp_path / "cut" / "summary.json").exists()
    train(recipe)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(tmp_path / "cut").values()))


def test_keeps_the_last_checkpoints(make_recipe):
    folder = train(make_recipe(run__save_every=2, run__keep_last=2))
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-00000008", "step-00000010"]


def test_a_loss_that_is_not_finite_names_the_records(make_recipe):
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf).*|.*scenes\[") as caught:
        train(make_recipe(optim__lr=1e30, optim__clip="null", optim__warmup=0))
    assert "scenes[" in str(caught.value)


def test_text_only_data_with_a_vision_tower(make_recipe, tmp_path):
    """No picture in the first step: tower and connector need no gradient there, the run goes on."""
    data = tmp_path / "text.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"count {n}", "completion": f"{n} {n}"}) + "\n" for n in range(8)))
    folder = train(make_recipe(data__0__source=data, eval__data="[]", run__steps=2))
    assert json.loads((folder / "summary.json").read_text())["measured_on"] == "training examples"


def test_unusable_rows_are_counted_and_named(make_recipe, tmp_path):
    rows = [{"prompt": "say one", "completion": "one"}, {"prompt": "say nothing", "completion": " "}] * 4
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows) + "not json\n")
    folder = train(make_recipe(data__0__source=data, eval__data="[]", run__steps=9, batch__examples=2))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["dropped"]["empty answer"] == 8  # 18 of the stream's examples are two epochs of nine rows
    assert summary["dropped"]["not valid JSON"] == 2
    assert any(f"{data}[" in line or "rows.jsonl" in line for line in summary["notes"])


def test_nothing_usable_is_an_error_before_the_weights_are_loaded(make_recipe, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "no known shape"}\n')
    with pytest.raises(DataError, match=r"none of the first 4 examples can be used.*fit no known shape; it has text"):
        train(make_recipe(data__0__source=data))


def test_pairs_that_are_none_end_in_what_to_bring(make_recipe, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(
        DataError, match=r"no response of kind chosen or rejected; dpo needs rows with chosen and rejected; .*sft$"
    ):
        train(make_recipe(data__0__source=data, eval__data="[]", objective="{kind: dpo}", batch__examples=1))


def test_a_step_that_sees_each_row_a_hundred_times_is_refused_and_one_that_sees_it_twice_told(make_recipe, capfd):
    few = {"data__0__split": "train[:3]", "run__steps": 1}
    with pytest.raises(
        RecipeError, match=r"^batch.examples: a step of 300 examples sees each of the 3 rows 100.0 times; set batch"
    ):
        train(make_recipe(**few, batch__examples=300))
    train(make_recipe(**few, batch__examples=6))
    assert "a step of 6 examples sees each of the 3 rows 2.0 times; set batch.examples to 3 or less" in capfd.readouterr().err


def test_a_run_does_not_begin_in_the_folder_of_its_model(make_recipe, tiny):
    before = sorted(path.name for path in tiny.iterdir())
    with pytest.raises(CheckpointError, match=r"holds other files .*; choose an empty folder"):
        train(make_recipe(run__dir=tiny))
    assert sorted(path.name for path in tiny.iterdir()) == before


def test_trained_model_generates_what_it_learnt(make_recipe, tmp_path):
    """Two texts by heart: the saved model, loaded again, says them."""
    data = tmp_path / "rows.jsonl"
    texts = {"first": "a red circle at the top", "second": "a blue star in the middle"}
    data.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in texts.items()))
    folder = train(make_recipe(data__0__source=data, eval__data="[]", run__steps=60, batch__examples=2, optim__lr=5e-3))
    from smolforge import generate as ask

    loaded = load(str(folder), device="cpu")
    assert {prompt: ask(loaded, prompt).text for prompt in texts} == texts
    assert generate(loaded.model, loaded.renderer, []) == []


def test_step_is_a_pure_function_of_its_indices(make_recipe):
    from smolforge.data.pipeline import Shaping, open_stream
    from smolforge.data.processor import load_renderer

    recipe = make_recipe()
    stream = open_stream(recipe.data, load_renderer(Path(recipe.model.name)), kinds={"target"}, seed=3)
    assert isinstance(stream, Stream)
    ahead = list(stream.steps(2, 6, 4, workers=3))
    for number, step in zip(range(2, 6), ahead):
        alone = stream.step(range(number * 4, number * 4 + 4))
        assert [row.ids for row in step.rows] == [row.ids for row in alone.rows]
        assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(step.rows, alone.rows))
    halves = [list(stream.steps(2, 6, 4, rank=rank, world=2)) for rank in (0, 1)]
    for number, step in enumerate(ahead):
        together = sorted(name for half in halves for row in half[number].rows for name in row.ids)
        assert together == sorted(name for row in step.rows for name in row.ids)
    assert replace(stream, shaping=Shaping(kinds=frozenset({"rejected"}))).step(range(4)).tally.examples == 0


def test_two_runs_do_not_write_one_folder(make_recipe):
    from smolforge.errors import DataError
    from smolforge.lock import alone

    recipe = make_recipe(run__steps=1)
    recipe.run.dir.mkdir(parents=True)
    with alone(recipe.run.dir / ".lock", "run"), pytest.raises(DataError, match="another run works in it; wait for process"):
        train(recipe)
    train(recipe)


def test_a_run_on_a_disk_without_locks_says_so_and_goes_on(make_recipe, monkeypatch, capsys):
    def flock(handle, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    recipe = make_recipe(run__steps=1)
    assert (train(recipe) / "summary.json").is_file()
    assert f"{recipe.run.dir}: this disk has no locks" in capsys.readouterr().err


def test_a_finished_run_says_so(make_recipe, capsys):
    recipe = make_recipe(run__steps=1)
    train(recipe)
    capsys.readouterr()
    train(recipe)
    assert "is finished: 1 of 1 steps" in capsys.readouterr().err


def test_a_video_library_that_is_not_here_ends_the_run_before_it_begins(make_recipe):
    from smolforge.errors import DataError

    with pytest.raises(DataError, match=r"video\.backend: torchcodec .*use video\.backend: pyav"):
        train(make_recipe(video__backend="torchcodec"))
