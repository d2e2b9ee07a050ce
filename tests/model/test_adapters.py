"""Adapters: where they are put, that they can be switched off, and that what is saved is what was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import smolforge
from smolforge.data.batch import PackedBatch, collate
from smolforge.data.pipeline import prepare
from smolforge.data.processor import load_renderer
from smolforge.data.sources.scenes import scene
from smolforge.data.sources.tables import open_source
from smolforge.errors import ModelError, RecipeError
from smolforge.loading import base_folder, load, load_tree
from smolforge.model.adapters import (
    add_adapters,
    base_of,
    is_adapter,
    linear,
    weights_fingerprint,
)
from smolforge.model.build import component, load_model
from smolforge.model.tree import TreeModel
from smolforge.recipe import AdaloraSection, DataSection, LoraSection, parse_recipe
from smolforge.training.loop import train


def fresh(folder: Path) -> TreeModel:
    return load_tree(folder, load_renderer(folder), dtype="float32", device=torch.device("cpu"))


def adapted(folder: Path, *, random: bool = True, **settings: Any) -> TreeModel:
    """A model with adapters; `random` moves them away from their start, at which they change nothing."""
    model = fresh(folder)
    model.attach(add_adapters(model.model, LoraSection(**settings), base=folder))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if random and "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def row(folder: Path) -> PackedBatch:
    source = open_source(DataSection(source="scene_pairs", split="train[:3]"))
    renderer = load_renderer(folder)
    return collate([prepare(source.record(index), renderer) for index in range(3)])


def trainable(model: TreeModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# --- where ------------------------------------------------------------------------------------------------------------

PARTS = {"text": "decoder", "connector": "connector", "vision": "vision"}


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("on", [("text",), ("connector",), ("vision",), ("text", "connector"), ("text", "connector", "vision")])
def test_adapters_stay_in_their_parts(tiny, method, on):
    model = adapted(tiny, method=method, on=on, random=False)
    found = trainable(model)
    assert all("lora_" in name for name in found)
    assert {component(name) for name in found} == {PARTS[part] for part in on}
    assert {name for name, _ in model.named_parameters() if "lora_" in name} == found
    if "text" in on:
        assert len({name.split(".lora_")[0] for name in found if component(name) == "decoder"}) == 4 * 7  # layers * projections
    assert any("magnitude" in name for name in found) == (method == "dora")
    assert not any("lm_head" in name for name in found)
    assert model.boundary == (None if "vision" in on else "vision" if "connector" in on else "connector")


def test_target_modules_are_endings_within_the_parts(tiny):
    """`q_proj` is the name of a layer of the decoder's and of the tower's."""
    model = adapted(tiny, target_modules=("q_proj", "v_proj"), random=False)
    layers = {name.split(".lora_")[0].removesuffix(".base_layer") for name in trainable(model)}
    assert layers == {f"model.model.text_model.layers.{i}.self_attn.{p}" for i in range(4) for p in ("q_proj", "v_proj")}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_modules": ("query",)}, "no linear layer of text ends with query"),
        ({"target_modules": ("gate_proj",), "on": ("vision", "connector")}, "of vision, connector ends with gate_proj"),
        ({"target_modules": ("lm_head",)}, "ends with lm_head"),
        ({"target_modules": ("embed_tokens",)}, "ends with embed_tokens"),
    ],
)
def test_nothing_found_is_an_error(tiny, settings, words):
    with pytest.raises(RecipeError, match=words) as caught:
        adapted(tiny, **settings)
    assert "adapters.target_modules" in str(caught.value)


def test_the_draw_is_the_seeds(tiny):
    def drawn(seed: int, **settings: Any) -> dict[str, torch.Tensor]:
        model = fresh(tiny)
        torch.manual_seed(99)  # whatever was drawn before
        add_adapters(model.model, LoraSection(**settings), base=tiny, seed=seed)
        return {name: tensor for name, tensor in model.named_parameters() if "lora_A" in name}

    one, again, other, gaussian = drawn(1), drawn(1), drawn(2), drawn(1, init="gaussian")
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)
    assert not any(torch.equal(one[name], gaussian[name]) for name in one)


# --- off --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("on", [("text",), ("text", "connector", "vision")])
def test_off_is_the_base_model_bit_for_bit(tiny, method, on):
    batch = row(tiny)
    with torch.no_grad():
        base = fresh(tiny)(batch)
    model = adapted(tiny, method=method, on=on)
    before, trains = model(batch).detach(), trainable(model)
    with model.adapters[0].off(), torch.no_grad():
        assert torch.equal(model(batch), base)
    assert not torch.allclose(before, base, atol=1e-3)
    assert trainable(model) == trains
    assert torch.equal(model(batch).detach(), before)


def test_off_ends_with_an_error_too(tiny):
    model = adapted(tiny)
    trains = trainable(model)
    with pytest.raises(ZeroDivisionError), model.adapters[0].off():
        _ = 1 / 0
    assert trainable(model) == trains


def test_fresh_adapters_change_nothing(tiny):
    batch = row(tiny)
    with torch.no_grad():
        base = fresh(tiny)(batch)
        assert torch.equal(adapted(tiny, random=False)(batch), base)
        torch.testing.assert_close(adapted(tiny, random=False, method="dora")(batch), base, rtol=1e-4, atol=1e-4)


def test_loaded_for_use_stays_so_when_switched_off_and_on(run_folder):
    """Adapters that were loaded to be asked do not train; looking at the base model does not change that."""
    model = load(str(run_folder("lora")), device="cpu").model
    assert not [name for name in trainable(model) if "lora_" in name]
    with model.adapters[0].off():
        pass
    assert not [name for name in trainable(model) if "lora_" in name]


# --- fingerprints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_fingerprint_is_of_the_base_weights(tiny, method):
    base = weights_fingerprint({"model": fresh(tiny).model})
    assert weights_fingerprint({"model": fresh(tiny).model}) == base
    assert weights_fingerprint({"model": adapted(tiny, method=method, on=("text", "connector", "vision")).model}) == base


@pytest.mark.parametrize(
    "name",
    ["lm_head.weight", "model.text_model.layers.3.mlp.down_proj.weight", "model.text_model.norm.weight",
     "model.vision_model.embeddings.patch_embedding.bias", "model.connector.modality_projection.proj.weight"],
)  # fmt: skip
def test_one_changed_weight_is_another_fingerprint(tiny, name):
    model = fresh(tiny).model
    base = weights_fingerprint({"model": model})
    parameter = dict(model.named_parameters())[name]
    with torch.no_grad():
        parameter.view(-1)[-1] = torch.nextafter(parameter.view(-1)[-1], torch.tensor(9.0))
    assert weights_fingerprint({"model": model}) != base
    assert weights_fingerprint({"model": model.to(torch.bfloat16)}) != base


# --- saved ------------------------------------------------------------------------------------------------------------


def preferences(folder: Path, when: str) -> dict[str, dict[str, Any]]:
    """A run's scored pairs by id."""
    lines = (folder / "preferences" / f"{when}.jsonl").read_text().splitlines()
    return {line["id"]: line for line in map(json.loads, lines)}


METHODS = {
    "lora": {"r": 4},
    "dora": {"r": 4, "method": "dora"},
    "all": {"r": 4, "on": ["text", "connector", "vision"]},
}
Run = Callable[[str], Path]


def recipe(model: Path, folder: Path, **sections: Any) -> Any:
    tree = {
        "model": {"name": str(model)},
        "data": [{"source": "scene_pairs", "split": "train[:12]"}],
        "eval": {"samples": 0, "examples": 4},
        "objective": {"kind": "dpo"},
        "optim": {"lr": 1e-2, "warmup": 1},
        "batch": {"examples": 4, "row_tokens": 512},
        "cache": {"dir": str(folder.parent / "cache")},
        "run": {"dir": str(folder), "steps": 3, "device": "cpu", "trackers": [], "workers": 0},
    }
    return parse_recipe(tree | sections)


@pytest.fixture(scope="module")
def run_folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Folder of a three-step run with adapters, made once."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = train(recipe(tiny, tmp_path_factory.mktemp(name) / "run", adapters=METHODS[name]))
        return made[name]

    return make


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers by an old name
@pytest.mark.parametrize("name", METHODS)
def test_peft_reads_what_is_saved(tiny, run_folder, name):
    """PEFT's own loader on Hugging Face's own model: the same log-probs as the tree model that reads the run's folder."""
    from peft import PeftModel

    folder = run_folder(name) / "model"
    assert is_adapter(folder)
    assert not (folder / "config.json").exists()
    assert not list(folder.glob("README.md"))
    assert base_of(folder)[0] == str(tiny.resolve())
    assert base_folder(folder) == tiny.resolve()
    assert {component(key) for key in load_file(folder / "adapter_model.safetensors")} == {
        PARTS[part] for part in METHODS[name].get("on", ["text"])
    }
    theirs = PeftModel.from_pretrained(load_model(tiny), str(folder)).eval()
    renderer = load_renderer(tiny)
    record = open_source(DataSection(source="scene_pairs", split="train[:1]")).record(0)
    example = prepare(replace(record, responses=record.responses[:1]), renderer)
    batch = collate([example])
    pixels = (batch.tiles.float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        logits = theirs(input_ids=batch.input_ids[None], pixel_values=pixels[None]).logits[0]
        expected = logits.log_softmax(1)[batch.predictors, batch.targets]
        ours = load(str(run_folder(name)), device="cpu").model(batch)
        base = fresh(tiny)(batch)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)  # float32 logits near 10; measured 4e-6
    assert not torch.allclose(ours, base, atol=1e-2), "three steps changed nothing"


@pytest.mark.parametrize("name", METHODS)
def test_a_run_folder_is_the_trained_model(tiny, run_folder, name):
    """Scores of the loaded adapters are what the run measured at its end: log-probs of the held-out (here: first) pairs."""
    folder = run_folder(name)
    measured = preferences(folder, "after")
    assert len(measured) == 4
    scored = {
        one["id"]: one["responses"] for one in smolforge.score(smolforge.load(str(folder)), "scene_pairs", split="train[:12]")
    }
    for number, line in measured.items():
        chosen, rejected = scored[number]
        assert (chosen["kind"], rejected["kind"]) == ("chosen", "rejected")
        assert chosen["logprob"] == pytest.approx(line["chosen"], abs=1e-2), number  # sums of 30 tokens, packed otherwise
        assert rejected["logprob"] == pytest.approx(line["rejected"], abs=1e-2), number
        assert chosen["tokens"] == line["chosen_tokens"]
    base = {one["id"]: one["responses"] for one in smolforge.score(smolforge.load(str(tiny)), "scene_pairs", split="train[:12]")}
    for number, line in measured.items():
        assert base[number][0]["logprob"] == pytest.approx(line["chosen_reference"], abs=1e-2)


def test_a_run_folder_answers_and_is_described(tiny, run_folder):
    folder = str(run_folder("lora"))
    model = smolforge.load(folder, device="cpu")
    answer = smolforge.generate(model, "Describe the picture.", images=[scene(0, 0).draw()], max_new_tokens=8)
    assert 1 <= answer.tokens <= 8
    told, base = smolforge.describe(folder), smolforge.describe(str(tiny))
    assert told.image_tokens == base.image_tokens == 9
    assert told.special_tokens == base.special_tokens
    assert told.total > base.total
    assert told.trainable == told.total - base.total


def test_adapters_that_do_not_fit_are_refused(tiny, run_folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(run_folder("lora") / "model", broken)
    (broken / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="missing file"):
        load(str(broken), device="cpu")
    shutil.copy(run_folder("lora") / "model" / "adapter_model.safetensors", broken)
    config = json.loads((broken / "adapter_config.json").read_text())
    (broken / "adapter_config.json").write_text(json.dumps(config | {"r": 16}))
    with pytest.raises(ModelError, match="the adapters do not fit") as caught:
        load(str(broken), device="cpu")
    assert "\n" not in str(caught.value)
    (broken / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(ModelError, match="gone"):
        load(str(broken), device="cpu")
    (broken / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="does not say which model"):
        load(str(broken), device="cpu")


# --- runs that start from adapters ------------------------------------------------------------------------------------


def scores(folder: Path) -> list[float]:
    found = smolforge.score(smolforge.load(str(folder)), "scene_pairs", split="train[:4]")
    return [response["logprob"] for one in found for response in one["responses"]]


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_full_fine_tuning_from_adapters(run_folder, tmp_path, name):
    """It starts from the merged model, and what it saves is whole. Merging adds in another order: 1e-2 of 100 nats."""
    begin = run_folder(name)
    folder = train(recipe(begin, tmp_path / "full", freeze={"vision": True}, optim={"lr": 1e-3}))
    assert not is_adapter(folder / "model")
    assert (folder / "model" / "config.json").is_file()
    assert not (folder / "base").exists()
    keys = load_file(folder / "model" / "model.safetensors").keys()
    assert not [key for key in keys if "lora" in key or "base_layer" in key]
    ended, began = preferences(begin, "after"), preferences(folder, "before")
    assert ended.keys() == began.keys()
    for number in began:
        for answer in ("chosen", "rejected"):
            assert began[number][answer] == pytest.approx(ended[number][answer], abs=1e-2)
    assert scores(folder) != pytest.approx(scores(begin), abs=1e-2)


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_new_adapters_on_merged_adapters(run_folder, tmp_path, name):
    """The merged start is written into the run as `base`, which its adapters name; the run can be loaded and continued."""
    begin = run_folder(name)
    run = {"dir": str(tmp_path / "second"), "steps": 4, "save_every": 2, "device": "cpu", "trackers": [], "workers": 0}
    asked = recipe(begin, tmp_path / "second", adapters=METHODS["lora"], run=run)
    folder = train(asked)
    assert base_of(folder / "model")[0] == str((folder / "base").resolve())
    assert not is_adapter(folder / "base")
    assert scores(folder / "base") == pytest.approx(scores(begin), abs=1e-2)
    assert scores(folder) != pytest.approx(scores(begin), abs=1e-2)
    whole = load_file(folder / "model" / "adapter_model.safetensors")
    for gone in ("model", "checkpoints/step-00000004"):
        shutil.rmtree(folder / gone)
    (folder / "summary.json").unlink()
    train(asked)
    again = load_file(folder / "model" / "adapter_model.safetensors")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_copied_adapters_find_their_model(run_folder, tmp_path):
    """They name it by its full path."""
    moved = tmp_path / "moved"
    shutil.copytree(run_folder("lora") / "model", moved)
    assert scores(moved) == scores(run_folder("lora"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_product_is_the_adapters_own(tiny: Path, dtype: torch.dtype) -> None:
    """Output and gradients of `linear` are those of PEFT's layer: float32 to 1e-6, bfloat16 within its rounding."""
    tree = load_tree(tiny, load_renderer(tiny), dtype=str(dtype).removeprefix("torch."), device=torch.device("cpu"))
    add_adapters(tree.model, LoraSection(r=4, alpha=8), base=tiny)
    layer = tree.decoder.layers[0].mlp.down_proj
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1, generator=generator)
    x = torch.randn(7, layer.in_features, generator=generator).to(dtype).requires_grad_()
    wrt = [x, layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    ours, theirs = linear(layer, x), layer(x)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    direction = torch.randn(theirs.shape, generator=generator).to(dtype)
    for a, b in zip(
        (ours, *torch.autograd.grad(ours, wrt, direction)), (theirs, *torch.autograd.grad(theirs, wrt, direction)), strict=True
    ):
        assert (a - b).norm() <= tolerance * b.norm()


def test_what_is_not_plain_runs_as_peft_has_it(tiny: Path) -> None:
    """DoRA, dropout while training, and adapters switched off."""
    for section, off in ((LoraSection(method="dora"), False), (LoraSection(dropout=0.5), False), (LoraSection(), True)):
        tree = load_tree(tiny, load_renderer(tiny), dtype="float32", device=torch.device("cpu"))
        tree.attach(add_adapters(tree.model, section, base=tiny))
        layer = tree.decoder.layers[0].self_attn.q_proj.train()
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
        x = torch.randn(5, layer.in_features)
        with tree.adapters[0].off() if off else nullcontext():
            torch.manual_seed(1)
            ours = linear(layer, x)
            torch.manual_seed(1)
            assert torch.equal(ours, layer(x))


def test_a_revision_is_kept(tiny: Path, tmp_path: Path) -> None:
    """Adapters of a Hub model's branch must not find the default branch when they are loaded."""
    tree = load_tree(tiny, load_renderer(tiny), dtype="float32", device=torch.device("cpu"))
    handle = add_adapters(tree.model, LoraSection(), base="owner/model", revision="v2")
    handle.save(tmp_path)
    assert base_of(tmp_path) == ("owner/model", "v2")


def test_a_base_inside_a_run_is_found_where_the_run_was_moved(tmp_path: Path) -> None:
    model = tmp_path / "moved" / "model"
    model.mkdir(parents=True)
    (tmp_path / "moved" / "base").mkdir()
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "old" / "base")}))
    assert base_of(model) == (str(tmp_path / "moved" / "base"), None)


def test_ranks_settle_though_the_step_they_settle_at_was_empty(tiny: Path) -> None:
    """A step without a usable example changes nothing, so AdaLoRA hears of it never. Its budget is reached at the next."""
    tree = load_tree(tiny, load_renderer(tiny), dtype="float32", device=torch.device("cpu"))
    section = AdaloraSection(method="adalora", r=2, init_r=4, settle=0.5, every=100)
    adapters = add_adapters(tree.model, section, base=tiny, steps=10)
    generator = torch.Generator().manual_seed(0)
    for step in (0, 1, 2, 3, 4, 6, 7):  # they settle at 5
        gradients = {
            name: torch.randn(p.shape, generator=generator) for name, p in tree.model.named_parameters() if p.requires_grad
        }
        adapters.after_step(step, gradients)
    pattern = adapters.handle.peft_config["default"].rank_pattern
    assert sum(map(sum, pattern.values())) == 2 * len(pattern)
