"""Whole runs with every adapter method: interrupted and continued they end bit for bit the same, and what they write is what was
trained, for smolforge, for PEFT and for whoever reads merged weights.

A run of each method is made once and shared by the tests.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from apart import dies_in_save
from pydantic import TypeAdapter
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import smolforge
from smolforge.data.batch import collate
from smolforge.data.pipeline import Stream, open_stream, prepare
from smolforge.data.processor import load_renderer
from smolforge.data.render import Example, Renderer
from smolforge.data.sources.scenes import scene
from smolforge.errors import ModelError
from smolforge.generation import Sampling, generate, stop_ids
from smolforge.loading import load
from smolforge.model.adapters import add_adapters
from smolforge.objectives import objective_of
from smolforge.recipe import METHODS, AdapterSection, Recipe, parse_recipe
from smolforge.records import Media, Message, Part, Record
from smolforge.training.checkpoint import checkpoint_name, checkpoint_steps
from smolforge.training.evaluate import held_out
from smolforge.training.fixed import Fixed
from smolforge.training.loop import train
from smolforge.training.runtime import Runtime
from smolforge.training.setup import set_up
from smolforge.training.tracking import read_metrics

STEPS = 6
LONGEST = 12  # tokens of an answer
# 12 steps: ranks change after steps 4 and 7 and for good after step 9; the checkpoint of step 6 lies between two changes
RANKS = {"method": "adalora", "r": 2, "init_r": 4, "every": 3}
SETTINGS: dict[str, tuple[dict[str, Any], float]] = {  # section, learning rate
    "lora": ({"method": "lora", "r": 4, "dropout": 0.1}, 5e-3),
    "lora and connector": ({"method": "lora", "r": 4, "train": ["connector"]}, 5e-3),
    "dora": ({"method": "dora", "r": 4, "on": ["text", "connector", "vision"]}, 5e-3),
    "rslora": ({"method": "rslora", "r": 4}, 5e-3),
    "pissa": ({"method": "pissa", "r": 4, "on": ["text", "vision"]}, 5e-3),
    "adalora": (RANKS, 2e-2),
    "vera": ({"method": "vera", "r": 16}, 5e-2),
    "ia3": ({"method": "ia3", "on": ["text", "connector"]}, 5e-2),
    "houlsby": ({"method": "bottleneck", "r": 8, "dropout": 0.1}, 5e-3),
    "pfeiffer": ({"method": "bottleneck", "r": 8, "placement": "pfeiffer", "on": ["text", "vision"]}, 5e-3),
    "prefix": ({"method": "prefix", "tokens": 5}, 0.3),
    "prefix through an MLP": ({"method": "prefix", "tokens": 5, "projection": True, "hidden": 32}, 2e-2),
    "prompt": ({"method": "prompt", "tokens": 5}, 2e-2),
    "p-tuning": ({"method": "p_tuning", "tokens": 5, "hidden": 32}, 5e-3),
    "p-tuning lstm": ({"method": "p_tuning", "tokens": 5, "encoder": "lstm", "hidden": 32, "dropout": 0.1}, 5e-3),
}
MERGED = ("lora", "lora and connector", "dora", "rslora", "pissa", "adalora", "vera", "ia3")
WHY_NOT = {
    "houlsby": "bottleneck cannot be merged: bottleneck adapters are small networks",
    "prefix": "prefix cannot be merged: virtual tokens stand in front of the text",
    "prompt": "prompt cannot be merged: virtual tokens stand in front of the text",
    "p-tuning": "p_tuning cannot be merged: virtual tokens stand in front of the text",
}
IN_BFLOAT16 = ("lora", "adalora", "prompt")
OTHER_NAME = "ignore:.*is_gradient_checkpointing:FutureWarning"  # PEFT asks transformers by an old name
NO_MODULE = "ignore:The following rank_pattern keys did not match:RuntimeWarning"  # PEFT's, of AdaLoRA's own ranks
RunOf = Callable[..., tuple[Path, Recipe]]


def recipe_of(tiny: Path, folder: Path, name: str, *, run: dict[str, Any] | None = None, **sections: Any) -> Recipe:
    adapters, rate = SETTINGS[name]
    steps = 2 * STEPS if adapters["method"] == "adalora" else STEPS
    tree = {
        "model": {"name": str(tiny)},
        "adapters": adapters,
        "data": [{"source": "scenes"}],
        "eval": {"data": [{"source": "scenes", "split": "test"}], "examples": 8, "samples": 0},
        "optim": {"lr": rate, "warmup": 1},
        "batch": {"examples": 4, "row_tokens": 256},
        "run": {
            "dir": str(folder), "steps": steps, "save_every": steps // STEPS, "keep_last": STEPS, "eval_every": steps // 2,
            "device": "cpu", "trackers": [], "workers": 0,
        } | (run or {}),
    }  # fmt: skip
    return parse_recipe(tree | sections)


@pytest.fixture(scope="module")
def run_of(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> RunOf:
    """(folder, recipe) of an uninterrupted run of a method."""
    made: dict[tuple[str, str], tuple[Path, Recipe]] = {}

    def make(name: str, dtype: str = "float32") -> tuple[Path, Recipe]:
        if (name, dtype) not in made:
            folder = tmp_path_factory.mktemp("run") / "whole"
            recipe = recipe_of(tiny, folder, name, model={"name": str(tiny), "dtype": dtype})
            made[name, dtype] = train(recipe), recipe
        return made[name, dtype]

    return make


def moved(recipe: Recipe, folder: Path) -> Recipe:
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"dir": folder})})


def interrupted(whole: Path, folder: Path, last: int) -> Path:
    """A copy of a run as it stood after the checkpoint of step `last`, with a log that goes on behind it."""
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "model")
    for step in checkpoint_steps(folder / "checkpoints"):
        if step > last:
            shutil.rmtree(folder / "checkpoints" / checkpoint_name(step))
    assert checkpoint_steps(folder / "checkpoints")[-1] == last
    (folder / "summary.json").unlink()
    return folder


def log(folder: Path) -> list[dict[str, Any]]:
    """Without what a clock measured."""
    return [{key: value for key, value in entry.items() if not key.endswith(("/s", "waiting"))} for entry in read_metrics(folder)]


def tensors(folder: Path, step: int | None = None) -> dict[str, torch.Tensor]:
    """Of the final model, or of the optimiser at a step."""
    file = folder / "model" / "adapter_model.safetensors"
    return load_file(file if step is None else folder / "checkpoints" / checkpoint_name(step) / "optimizer.safetensors")


def assert_same_run(a: Path, b: Path, steps: int) -> None:
    """Final weights, everything the optimiser and the method keep, and the log, bit for bit."""
    for step in (None, steps):
        ours, theirs = tensors(a, step), tensors(b, step)
        assert ours.keys() == theirs.keys()
        assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert log(a) == log(b)
    assert [entry["step"] for entry in log(a) if entry["kind"] == "train"] == list(range(1, steps + 1))


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def stream_of(recipe: Recipe) -> Stream:
    """The held-out examples as the run sees them."""
    renderer = load_renderer(Path(recipe.model.name), images=recipe.images, row_tokens=recipe.batch.row_tokens)
    return open_stream(recipe.eval.data, renderer, shaping=objective_of(recipe.objective).shaping, seed=0)


def held_out_loss(folder: Path, recipe: Recipe) -> float:
    """Of the model that a folder is loaded as, on the rows that the run measured."""
    model = load(str(folder), dtype=recipe.model.dtype, device="cpu").model
    fixed = Fixed(model=model, objective=objective_of(recipe.objective))
    return held_out(fixed, stream_of(recipe), recipe.eval, Runtime(recipe.run)).means["loss"]


def test_no_method_is_missing() -> None:
    assert {section["method"] for section, _ in SETTINGS.values()} == set(METHODS)


# --- interrupted and continued ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in SETTINGS), *((name, "bfloat16") for name in IN_BFLOAT16)]
)
def test_a_continued_run_is_the_uninterrupted_one(run_of: RunOf, tmp_path: Path, name: str, dtype: str) -> None:
    """From its middle, and AdaLoRA too where its ranks stay as they are."""
    whole, recipe = run_of(name, dtype)
    assert recipe.run.steps is not None
    for last in (6, 10) if name == "adalora" else (STEPS // 2,):
        again = interrupted(whole, tmp_path / f"from {last}", last)
        train(moved(recipe, again))
        assert_same_run(whole, again, recipe.run.steps)


@pytest.mark.parametrize("name", ["adalora", "pissa", "p-tuning"])
def test_a_killed_run_goes_on(run_of: RunOf, start_process: Any, tmp_path: Path, name: str) -> None:
    """SIGKILL in the second of checkpoints at every step; ended in this process."""
    whole, recipe = run_of(name)
    settings = recipe.run.model_copy(update={"dir": tmp_path / "killed", "save_every": 1})
    process = start_process(recipe.model_copy(update={"run": settings}), **dies_in_save(2))
    process.join(600)
    assert process.exitcode == -signal.SIGKILL
    assert recipe.run.steps is not None
    assert checkpoint_steps(tmp_path / "killed" / "checkpoints") == [1]
    train(moved(recipe, tmp_path / "killed"))
    assert_same_run(whole, tmp_path / "killed", recipe.run.steps)


@pytest.mark.parametrize("name", ["adalora", "pissa", "p-tuning lstm"])
def test_a_preference_run_goes_on_wherever_its_reference_comes_from(tiny: Path, tmp_path: Path, name: str) -> None:
    """Losses with the adapters off are those with log-probs kept before the first step. Tolerance: rows of
    other lengths; here they were equal to the last bit."""
    half = 4 if name == "adalora" else 2
    run = {"steps": 2 * half, "save_every": half, "eval_every": half}
    sections = {
        "data": [{"source": "scene_pairs", "split": "train[:12]"}],
        "eval": {"data": [{"source": "scene_pairs", "split": "test[:4]"}], "examples": 4, "samples": 0},
        "cache": {"dir": str(tmp_path / "cache")},
    }
    curves = []
    for kind in ("adapters_off", "precomputed"):
        objective = {"kind": "dpo", "reference": {"kind": kind}}
        recipe = recipe_of(tiny, tmp_path / kind, name, run=run, objective=objective, **sections)
        whole = train(recipe)
        again = interrupted(whole, tmp_path / f"{kind} again", half)
        train(moved(recipe, again))
        assert recipe.run.steps is not None
        assert_same_run(whole, again, recipe.run.steps)
        curves.append([entry["loss"] for entry in log(whole) if entry["kind"] == "train"])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
    assert len(set(curves[0])) == len(curves[0]), "no case: nothing is learnt"


def test_ranks_moved(run_of: RunOf) -> None:
    """The budget, a mean of two of four ranks, is kept; layers got different shares; masters kept what bfloat16 has not."""
    folder, recipe = run_of("adalora")
    assert recipe.run.steps is not None
    ranks = [int(kept.sum()) for name, kept in tensors(folder, recipe.run.steps).items() if name.startswith("adalora.rank.")]
    assert len(ranks) == 4 * 7
    assert sum(ranks) == 2 * len(ranks)
    assert len(set(ranks)) > 2
    moments = tensors(run_of("adalora", "bfloat16")[0], recipe.run.steps)
    masters = torch.cat([tensor.flatten() for name, tensor in moments.items() if name.startswith("master.") and "lora_E" in name])
    assert masters.dtype == torch.float32
    assert not masters.all()
    assert not torch.equal(masters, masters.bfloat16().float())


def test_two_processes_with_adalora_reach_the_numbers_of_one(
    run_of: RunOf, start_process: Any, meeting_place: Any, tmp_path: Path
) -> None:
    """Its penalty is added once, not once a process. Tolerance: order of additions; worst seen 2.8e-7."""
    whole, recipe = run_of("adalora")
    shared = meeting_place(2)
    ranks = [start_process(moved(recipe, tmp_path / "two"), RANK=str(r), LOCAL_RANK=str(r), **shared) for r in range(2)]
    for process in ranks:
        process.join(600)
        assert process.exitcode == 0
    one, two = ([(entry["loss"], entry.get("grad_norm", 0.0)) for entry in log(folder)] for folder in (whole, tmp_path / "two"))
    assert len(one) == len(two)
    for ours, theirs in zip(one, two):
        assert ours == pytest.approx(theirs, rel=1e-5)


# --- what is written is what was trained ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_the_loss_falls(run_of: RunOf, name: str) -> None:
    """In six steps, of AdaLoRA twelve, at a rate that suits the method, by more than a tenth of a nat."""
    told = summary(run_of(name)[0])
    assert told["after"]["loss"] < told["before"]["loss"] - 0.1


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in SETTINGS), *((name, "bfloat16") for name in IN_BFLOAT16)]
)
def test_a_loaded_run_is_the_trained_model(run_of: RunOf, name: str, dtype: str) -> None:
    """Its held-out loss is what the run measured in memory, at the end and at the checkpoint before. Rows and sums are the same,
    but PiSSA is saved as LoRA of twice the rank, and what an LSTM made is made again for the file: worst seen 2.4e-7."""
    tolerance = 1e-6 if name in ("pissa", "p-tuning lstm") else 0
    folder, recipe = run_of(name, dtype)
    middle = recipe.run.eval_every
    assert middle is not None
    measured = {entry["step"]: entry["loss"] for entry in log(folder) if entry["kind"] == "eval"}
    assert measured[2 * middle] == summary(folder)["after"]["loss"]
    for place, step in ((folder, 2 * middle), (folder / "checkpoints" / checkpoint_name(middle), middle)):
        assert held_out_loss(place, recipe) == pytest.approx(measured[step], rel=0, abs=tolerance)


@pytest.mark.filterwarnings(OTHER_NAME, NO_MODULE)
@pytest.mark.parametrize("name", [name for name, (section, _) in SETTINGS.items() if section["method"] != "bottleneck"])
def test_peft_reads_what_is_saved(run_of: RunOf, tiny: Path, name: str) -> None:
    """PEFT's loader and forward on what transformers' auto class makes of the base. Float32, other sums; worst seen 2.9e-6."""
    from peft import PeftModel

    folder, recipe = run_of(name)
    base = AutoModelForImageTextToText.from_pretrained(tiny, dtype=torch.float32).eval()
    rows = [row for index in range(2) for row in stream_of(recipe).step([index]).rows]

    def log_probs(model: Any, row: Any) -> torch.Tensor:
        pixels = (row.tiles.float() / 255 - 0.5) / 0.5
        logits = model(input_ids=row.input_ids[None], pixel_values=pixels[None]).logits[0, -len(row.input_ids) :]
        return logits.log_softmax(1)[row.predictors, row.targets]

    ours = load(str(folder), device="cpu").model
    with torch.no_grad():
        before = [log_probs(base, row) for row in rows]
        theirs = PeftModel.from_pretrained(base, str(folder / "model")).eval()
        for row, untouched in zip(rows, before):
            expected, found = log_probs(theirs, row), ours(row)
            assert (found - expected).abs().max() < 2e-5
            assert (untouched - expected).abs().max() > 1e-2, "no case: the run changed nothing"


def test_pissa_is_plain_lora_of_twice_the_rank(run_of: RunOf) -> None:
    folder, _ = run_of("pissa")
    config = json.loads((folder / "model" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 8, 32)
    assert config["init_lora_weights"] is True
    ranks = {min(tensor.shape) for tensor in tensors(folder).values()}
    assert ranks == {8}


def test_early_stopping_takes_the_best_prompt_encoder(tiny: Path, tmp_path: Path) -> None:
    """P-tuning's file holds what its network gave, not the network: the best step comes back from the optimiser's state. What is
    learnt here makes the held-out captions less likely."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "Say it.", "completion": "zzzz zzzz zzzz"}) + "\n")
    data = [{"source": str(tmp_path / "rows.jsonl")}]
    optim = {"lr": 0.3, "warmup": 0, "schedule": "constant"}
    run = {"steps": 30, "save_every": 100, "eval_every": 1, "early_stopping": {"patience": 2}}
    recipe = recipe_of(tiny, tmp_path / "run", "p-tuning", data=data, optim=optim, run=run)
    folder = train(recipe)
    held = {entry["step"]: entry["loss"] for entry in log(folder) if entry["kind"] == "eval" and entry["step"]}
    best, last = min(held, key=lambda step: held[step]), max(held)
    assert best == last - 2
    assert held[best] < held[last] - 0.01, "no case: the two models are alike"
    assert summary(folder)["after"]["loss"] == held[best]
    assert held_out_loss(folder, recipe) == held[best]


# --- merged -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MERGED)
def test_merged_weights_are_read_by_others(run_of: RunOf, tmp_path: Path, name: str) -> None:
    """`smolforge.merge` checks its own work; transformers' auto class reads the result, whose loss is the run's. Tolerance: sums
    in another order, mean over all tokens; worst seen 4.8e-7."""
    folder, recipe = run_of(name)
    merged = smolforge.merge(str(folder), tmp_path / "whole")
    assert held_out_loss(merged.folder, recipe) == pytest.approx(summary(folder)["after"]["loss"], abs=5e-6)
    read, report = AutoModelForImageTextToText.from_pretrained(merged.folder, output_loading_info=True)
    assert not any(report.values()), report
    ours = load(str(merged.folder), device="cpu").model.model.state_dict()
    assert all(torch.equal(tensor, ours[key]) for key, tensor in read.state_dict().items())


@pytest.mark.parametrize("name", WHY_NOT)
def test_what_stands_apart_is_not_merged(run_of: RunOf, tmp_path: Path, name: str) -> None:
    """Neither by the verb nor as the start of full fine-tuning or of other adapters."""
    folder, recipe = run_of(name)
    run = recipe.run.model_copy(update={"dir": tmp_path / "second"})
    model = recipe.model.model_copy(update={"name": str(folder)})
    second = recipe.model_copy(update={"run": run, "model": model})
    attempts: list[Callable[[], Any]] = [
        lambda: smolforge.merge(str(folder), tmp_path / "out"),
        lambda: train(second.model_copy(update={"adapters": None})),
        lambda: train(second.model_copy(update={"adapters": run_of("lora")[1].adapters})),
    ]
    for attempt in attempts:
        with pytest.raises(ModelError, match=WHY_NOT[name]) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_new_adapters_on_a_merged_pissa_run(run_of: RunOf, tmp_path: Path) -> None:
    """The start is the merged model, which the run keeps; its loss is what the first run ended with. Tolerance as of merging."""
    folder, recipe = run_of("pissa")
    run = recipe.run.model_copy(update={"dir": tmp_path / "second"})
    model = recipe.model.model_copy(update={"name": str(folder)})
    asked = recipe.model_copy(update={"run": run, "model": model})
    second = train(asked)
    assert summary(second)["before"]["loss"] == pytest.approx(summary(folder)["after"]["loss"], abs=5e-6)
    assert set_up(asked, Runtime(asked.run)).progress.step == STEPS
    assert held_out_loss(second, recipe) == pytest.approx(summary(second)["after"]["loss"], abs=1e-6)


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says more than one word: forty steps on all weights."""
    run = {"steps": 40, "save_every": 40, "eval_every": None}
    recipe = recipe_of(tiny, tmp_path_factory.mktemp("taught") / "run", "lora", run=run)  # at LoRA's rate
    return train(recipe.model_copy(update={"adapters": None}))


def ask(content: tuple[Part, ...], renderer: Renderer) -> Example:
    record = Record(id="0", source="test", messages=(Message(role="user", content=content),), responses=())
    return prepare(record, renderer, reserve=LONGEST)


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")  # PEFT's `generate` makes its own
@pytest.mark.parametrize("name", ["prefix", "prefix through an MLP", "prompt", "p-tuning", "p-tuning lstm"])
def test_answers_behind_virtual_tokens_are_peft_s(taught: Path, name: str) -> None:
    """Greedy, token for token: by PEFT's forward over a growing text, by its `generate`, one prompt at a time, side by side."""
    loaded = load(str(taught), device="cpu")
    section: AdapterSection = TypeAdapter(AdapterSection).validate_python(SETTINGS[name][0])
    picture = scene(0, 0).draw()
    prompts: list[tuple[Part, ...]] = [
        ("What is a circle?",), (Media(ref=picture), "Describe the picture."), ("Hi.",),
        (Media(ref=scene(0, 3).draw()), "And then ", Media(ref=picture), "?"),
    ]  # fmt: skip
    examples = [ask(prompt, loaded.renderer) for prompt in prompts]
    sampling = Sampling(max_new_tokens=LONGEST)
    before = generate(loaded.model, loaded.renderer, examples, sampling)
    adapters = add_adapters(loaded.model.model, section, base=taught)
    loaded.model.attach(adapters)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in loaded.model.whole.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    loaded.model.eval()
    answers = generate(loaded.model, loaded.renderer, examples, sampling)
    assert [one.text for one in answers] != [one.text for one in before], "no case: the virtual tokens change no answer"
    assert answers == [generate(loaded.model, loaded.renderer, [one], sampling)[0] for one in examples]
    stops = stop_ids(loaded.renderer)
    for example, answer in zip(examples, answers):
        row = collate([example])
        inputs = {"input_ids": row.input_ids[None]}
        if len(row.tiles):
            inputs["pixel_values"] = ((row.tiles.float() / 255 - 0.5) / 0.5)[row.run_tiles][None]
        ids, plain = row.input_ids, list[int]()
        with torch.no_grad():
            while len(plain) < LONGEST and (not plain or plain[-1] not in stops):
                logits = adapters.handle(**inputs | {"input_ids": ids[None]}).logits[0, -1]
                plain.append(int(logits.argmax()))
                ids = torch.cat([ids, torch.tensor(plain[-1:])])
        assert (answer.text, answer.tokens) == (loaded.renderer.decode(plain), len(plain))
        made = adapters.handle.generate(
            **inputs, attention_mask=torch.ones_like(row.input_ids)[None], max_new_tokens=LONGEST, do_sample=False,
            eos_token_id=sorted(stops), pad_token_id=0,
        )  # fmt: skip
        assert made[0, -len(plain) :].tolist() == plain
