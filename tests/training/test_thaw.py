"""Learning rates of components and adapters, and components that train from a step on: what moves, by how much, from when, and
that an interruption anywhere around the step changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from smolforge.data.processor import load_renderer
from smolforge.errors import RecipeError, TrainingError
from smolforge.loading import load_tree
from smolforge.model.adapters import add_adapters, stands_beside
from smolforge.model.build import component
from smolforge.model.freeze import apply_freeze
from smolforge.recipe import COMPONENTS, AdapterSection, FreezeSection, OptimSection, Recipe, parse_recipe
from smolforge.training.checkpoint import checkpoint_name
from smolforge.training.loop import train
from smolforge.training.optim import Optimizer
from smolforge.training.tracking import read_metrics

STEPS = 6
THAWS: dict[str, tuple[dict[str, Any], str, int]] = {  # freeze, component, step
    "vision": ({"vision": 3}, "vision", 3),
    "connector": ({"vision": True, "connector": 2}, "connector", 2),
    "decoder": ({"vision": True, "decoder": 3, "decoder_layers": 1, "embeddings": True}, "decoder", 3),
}
FACTOR = 0.5  # of the schedule, where a test steps by itself
RATES = {"vision": 1e-3, "connector": 2e-3, "decoder": 5e-4}


def recipe_of(tiny: Path, folder: Path, **sections: Any) -> Recipe:
    tree: dict[str, Any] = {
        "model": {"name": str(tiny)},
        "data": [{"source": "scenes"}],
        "eval": {"data": [{"source": "scenes", "split": "test"}], "examples": 4, "samples": 0},
        "optim": {"lr": RATES, "warmup": 1},
        "batch": {"examples": 4, "row_tokens": 256},
        "run": {
            "dir": str(folder), "steps": STEPS, "save_every": 1, "keep_last": STEPS, "device": "cpu", "trackers": [],
            "workers": 0,
        },
    }  # fmt: skip
    return parse_recipe(tree | sections)


def weights(folder: Path, step: int | None = None) -> dict[str, torch.Tensor]:
    """Of a checkpoint, or of the final model."""
    return load_file((folder / "model" if step is None else folder / "checkpoints" / checkpoint_name(step)) / "model.safetensors")


def log(folder: Path) -> list[dict[str, Any]]:
    """Without what a clock measured."""
    return [{key: value for key, value in entry.items() if not key.endswith(("/s", "waiting"))} for entry in read_metrics(folder)]


RunOf = Callable[..., tuple[Path, Recipe]]


@pytest.fixture(scope="module")
def run_of(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> RunOf:
    """(folder, recipe) of an uninterrupted run with a checkpoint at every step."""
    made: dict[tuple[str, str], tuple[Path, Recipe]] = {}

    def make(name: str, dtype: str = "float32") -> tuple[Path, Recipe]:
        if (name, dtype) not in made:
            folder = tmp_path_factory.mktemp("run") / "whole"
            recipe = recipe_of(tiny, folder, freeze=THAWS[name][0], model={"name": str(tiny), "dtype": dtype})
            made[name, dtype] = train(recipe), recipe
        return made[name, dtype]

    return make


# --- rates ------------------------------------------------------------------------------------------------------------


def moved_by(tiny: Path, optim: dict[str, Any], adapters: dict[str, Any] | None) -> dict[str, float]:
    """How far weights of each kind move in AdamW's first step with gradients of one: the rate itself, as m / sqrt(v) is one
    (Kingma and Ba 2015, section 2.1). Here times a factor of the schedule."""
    tree = load_tree(tiny, load_renderer(tiny), dtype="float32", device=torch.device("cpu"))
    if adapters is None:
        apply_freeze(tree.model, FreezeSection())
    else:
        section: AdapterSection = TypeAdapter(AdapterSection).validate_python(adapters)
        tree.attach(add_adapters(tree.model, section, base=tiny))
    optimizer = Optimizer(tree.whole, OptimSection.model_validate(optim | {"clip": None}))
    before = {name: parameter.detach().clone() for name, parameter in optimizer.parameters.items()}
    for parameter in optimizer.parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(FACTOR)
    moved: dict[str, list[torch.Tensor]] = {}
    for name, parameter in optimizer.parameters.items():
        kind = f"{component(name)}{' adapters' if stands_beside(name) else ''}"
        moved.setdefault(kind, []).append((before[name] - parameter.detach()).flatten())
    found = {kind: torch.cat(parts).double() for kind, parts in moved.items()}
    # float32 weights around one are 1e-7 apart, four orders below the smallest rate here
    assert all(float(steps.max() - steps.min()) < 3e-7 for steps in found.values())
    return {kind: float(steps.mean()) / FACTOR for kind, steps in found.items()}


EVERYWHERE = ["text", "connector", "vision"]


@pytest.mark.parametrize(
    ("lr", "adapters", "expected"),
    [
        (RATES, None, RATES),
        (1e-3, None, dict.fromkeys(COMPONENTS, 1e-3)),
        (
            {"adapters": 3e-3, "connector": 2e-3}, {"method": "lora", "train": ["connector"]},
            {"decoder adapters": 3e-3, "connector": 2e-3},
        ),
        (RATES, {"method": "lora", "on": EVERYWHERE}, {f"{part} adapters": rate for part, rate in RATES.items()}),
        ({"adapters": 4e-3}, {"method": "dora", "on": EVERYWHERE}, {f"{part} adapters": 4e-3 for part in COMPONENTS}),
        ({"decoder": 1e-3}, {"method": "ia3"}, {"decoder adapters": 1e-3}),
        ({"adapters": 4e-3, "decoder": 1e-3}, {"method": "bottleneck"}, {"decoder adapters": 4e-3}),
        ({"adapters": 4e-3}, {"method": "prompt", "tokens": 5}, {"decoder adapters": 4e-3}),
        ({"adapters": 4e-3}, {"method": "vera", "r": 16}, {"decoder adapters": 4e-3}),
        ({"adapters": 4e-3}, {"method": "adalora", "r": 2, "init_r": 4}, {"decoder adapters": 4e-3}),
    ],
)  # fmt: skip
def test_each_rate_reaches_its_weights(tiny: Path, lr: Any, adapters: Any, expected: dict[str, float]) -> None:
    moved = moved_by(tiny, {"lr": lr}, adapters)
    assert moved.keys() == expected.keys()
    for kind, rate in expected.items():
        assert moved[kind] == pytest.approx(rate, rel=1e-3), kind


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"optim": {"lr": {"connector": 1e-3, "decoder": 1e-3}}}, "vision has learning rate 0 but is not frozen"),
        (
            {"optim": {"lr": {"connector": 1e-3, "decoder": 1e-3}}, "freeze": {"vision": 3}},
            "vision has learning rate 0 but is not frozen",
        ),
        (
            {"optim": {"lr": {"adapters": 1e-3}}, "adapters": {"method": "lora", "train": ["connector"]}},
            "connector would train at learning rate 0; set optim.lr.connector",
        ),
        ({"optim": {"lr": {"adapters": 0, "decoder": 1e-3}}, "adapters": {"method": "prompt"}}, "set optim.lr.adapters"),
        ({"optim": {"lr": {"connector": 1e-3}}, "adapters": {"method": "lora"}}, "set optim.lr.adapters"),
    ],
)
def test_a_rate_of_zero_for_what_would_train_is_refused(tiny: Path, tmp_path: Path, sections: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        recipe_of(tiny, tmp_path, **sections)
    assert "\n" not in str(caught.value)


def test_rates_in_a_run_with_adapters(tiny: Path, tmp_path: Path) -> None:
    """Adapters hardly move at their rate; the connector, in full beside them, does at its own."""
    adapters = {"method": "lora", "r": 4, "train": ["connector"]}
    optim = {"lr": {"adapters": 1e-9, "connector": 1e-2}, "warmup": 0}
    run = {"dir": str(tmp_path), "steps": 2, "device": "cpu", "trackers": [], "workers": 0}
    folder = train(recipe_of(tiny, tmp_path, adapters=adapters, optim=optim, run=run))
    saved = load_file(folder / "model" / "adapter_model.safetensors")
    connector = [tensor for name, tensor in saved.items() if component(name) == "connector"]
    up = [tensor for name, tensor in saved.items() if ".lora_B." in name]  # zeros at the start
    assert len(connector) == 1
    assert len(up) == 4 * 7
    start = load_file(tiny / "model.safetensors")["model.connector.modality_projection.proj.weight"]
    assert float((connector[0] - start).abs().max()) > 5e-3
    assert 0 < max(float(tensor.abs().max()) for tensor in up) < 1e-8


# --- thawing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", THAWS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_component_trains_from_its_step_on(run_of: RunOf, tiny: Path, name: str, dtype: str) -> None:
    """To its step every weight of it is the start's, bit for bit; after it every tensor has moved, but those that other keys of
    `freeze` hold. The others train all along."""
    folder, _ = run_of(name, dtype)
    _, part, step = THAWS[name]
    start = {key: tensor.to(getattr(torch, dtype)) for key, tensor in load_file(tiny / "model.safetensors").items()}
    held = ("text_model.layers.0.", "embed_tokens.") if part == "decoder" else ()
    never = {"vision": (), "connector": ("vision",), "decoder": ("vision",)}[part]
    masters = load_file(folder / "checkpoints" / checkpoint_name(step) / "optimizer.safetensors")
    assert not [key for key in masters if component(key) == part]
    for number in (step, step + 1, STEPS):
        now = weights(folder, number)
        assert now.keys() == start.keys()
        moments = load_file(folder / "checkpoints" / checkpoint_name(number) / "optimizer.safetensors")
        for key, tensor in start.items():
            trains = component(key) not in never and not any(word in key for word in held)
            trains = trains and (component(key) != part or number > step)
            # in bfloat16 one small step may round away: then the float32 copy tells
            moved = not torch.equal(now[key], tensor)
            if dtype == "bfloat16" and trains:
                moved = not torch.equal(moments[f"master.{key}"], tensor.float())
            assert moved == trains, (key, number)
    for kind in ("exp_avg", "exp_avg_sq"):
        assert {component(key) for key in moments if key.startswith(f"{kind}.")} == set(COMPONENTS) - set(never)


@pytest.mark.parametrize("name", THAWS)
def test_the_log_tells_and_gradients_are_looked_at_again(
    run_of: RunOf, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    _, part, step = THAWS[name]
    train(recipe_of(tiny, tmp_path / "run", freeze=THAWS[name][0]))
    lines = capsys.readouterr().err.splitlines()
    place = next(n for n, line in enumerate(lines) if line == f"step {step}: {part} trains from here on")
    norms = [n for n, line in enumerate(lines) if line.startswith("gradient norms: ")]
    assert len(norms) == 2
    assert norms[0] < place < norms[1]
    assert part not in lines[norms[0]]
    assert part in lines[norms[1]]


def test_a_step_that_never_comes_is_told(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = {"dir": str(tmp_path / "run"), "steps": 2, "device": "cpu", "trackers": [], "workers": 0}
    folder = train(recipe_of(tiny, tmp_path / "run", freeze={"vision": True, "connector": 2}, run=run))
    assert "connector stays frozen: freeze.connector is 2, and the run has 2 steps" in capsys.readouterr().err.splitlines()
    start, now = load_file(tiny / "model.safetensors"), weights(folder)
    assert {component(key) for key, tensor in now.items() if not torch.equal(tensor, start[key])} == {"decoder"}


def test_a_thawed_component_without_gradient_ends_the_run(tiny: Path, tmp_path: Path) -> None:
    """A tower that can learn nothing, for the projection behind it is all zeros."""
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    tensors = load_file(base / "model.safetensors")
    tensors["model.connector.modality_projection.proj.weight"].zero_()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    recipe = recipe_of(base, tmp_path / "run", freeze={"vision": 2, "connector": True})
    with pytest.raises(TrainingError, match="vision should train and received no gradient"):
        train(recipe)
    assert [entry["step"] for entry in log(tmp_path / "run") if entry["kind"] == "train"] == [1, 2]


@pytest.mark.parametrize(
    ("name", "dtype", "last"),
    [
        *(("vision", dtype, last) for dtype in ("float32", "bfloat16") for last in (2, 3, 4)),
        *(("connector", dtype, last) for dtype in ("float32", "bfloat16") for last in (1, 2, 3)),
        ("decoder", "bfloat16", 3),
    ],
)
def test_interrupted_around_the_step_it_ends_the_same(run_of: RunOf, tmp_path: Path, name: str, dtype: str, last: int) -> None:
    """Before, at and after it: `last` is the checkpoint that is left."""
    whole, recipe = run_of(name, dtype)
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    shutil.rmtree(again / "model")
    (again / "summary.json").unlink()
    for step in range(last + 1, STEPS + 1):
        shutil.rmtree(again / "checkpoints" / checkpoint_name(step))
    train(recipe.model_copy(update={"run": recipe.run.model_copy(update={"dir": again})}))
    ours, theirs = weights(whole), weights(again)
    assert ours.keys() == theirs.keys()
    assert not [key for key in ours if not torch.equal(ours[key], theirs[key])]
    moments = [load_file(folder / "checkpoints" / checkpoint_name(STEPS) / "optimizer.safetensors") for folder in (whole, again)]
    assert moments[0].keys() == moments[1].keys()
    assert not [key for key in moments[0] if not torch.equal(moments[0][key], moments[1][key])]
    assert log(whole) == log(again)
    assert len([entry for entry in log(whole) if entry["kind"] == "train"]) == STEPS


def test_two_processes_thaw_together(run_of: RunOf, start_process: Any, meeting_place: Any, tiny: Path, tmp_path: Path) -> None:
    """The losses of one process, across the step; texts among the pictures leave ranks without one. Tolerance: order of
    additions; worst seen 1.2e-6."""
    rows = [{"prompt": f"count to {n}", "completion": " ".join(map(str, range(n)))} for n in range(1, 9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = [{"source": "scenes", "weight": 0.4}, {"source": str(tmp_path / "rows.jsonl"), "weight": 0.6}]
    recipes = {name: recipe_of(tiny, tmp_path / name, data=data, freeze={"vision": 3, "connector": 2}) for name in ("one", "two")}
    train(recipes["one"])
    shared = meeting_place(2)
    ranks = [start_process(recipes["two"], RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]
    for process in ranks:
        process.join(600)
        assert process.exitcode == 0
    one, two = ([entry for entry in log(tmp_path / name) if entry["kind"] == "train"] for name in ("one", "two"))
    assert len(one) == STEPS
    for ours, theirs in zip(one, two, strict=True):
        assert (ours["loss"], ours["grad_norm"]) == pytest.approx((theirs["loss"], theirs["grad_norm"]), rel=2e-5)
    start = load_file(tiny / "model.safetensors")
    for name in ("one", "two"):
        moved = {component(key) for key, tensor in weights(tmp_path / name).items() if not torch.equal(tensor, start[key])}
        assert moved == set(COMPONENTS)


def test_features_of_a_connector_that_thaws(tiny: Path, tmp_path: Path) -> None:
    """With the tower frozen for good its features may be kept, and the run, which sees the same pictures at every step, is the
    one without."""
    data = [{"source": "scenes", "split": "train[:4]"}]
    curves = []
    for features in (False, True):
        folder = tmp_path / f"features {features}"
        cache = {"dir": str(tmp_path / "cache"), "features": features}
        recipe = recipe_of(tiny, folder, freeze={"vision": True, "connector": 2}, data=data, cache=cache)
        curves.append([entry["loss"] for entry in log(train(recipe)) if entry["kind"] == "train"])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
