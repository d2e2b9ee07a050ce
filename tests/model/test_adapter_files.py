"""Adapters as files: what they hold whatever the run was doing, what plain PEFT wrote is read, and what does not belong together
or is damaged ends in one clear line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from smolforge.data.batch import PackedBatch, collate
from smolforge.data.pipeline import prepare
from smolforge.data.processor import load_renderer
from smolforge.data.sources.tables import open_source
from smolforge.errors import ModelError, RecipeError, UserError
from smolforge.loading import load, load_tree
from smolforge.model.adapters import Adapters, add_adapters, base_fingerprint, reached_beyond, target_modules
from smolforge.model.build import assemble, load_model
from smolforge.model.presets import PRESETS
from smolforge.model.tree import TreeModel
from smolforge.recipe import AdapterSection, DataSection, LoraSection, parse_recipe
from smolforge.training.loop import train

SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "r": 4},
    "lora and connector": {"method": "lora", "r": 4, "train": ["connector"]},
    "dora": {"method": "dora", "r": 4},
    "pissa": {"method": "pissa", "r": 4},
    "adalora": {"method": "adalora", "r": 2, "init_r": 4},
    "vera": {"method": "vera", "r": 16},
    "ia3": {"method": "ia3"},
    "bottleneck": {"method": "bottleneck", "r": 8},
    "prefix": {"method": "prefix", "tokens": 5},
    "prompt": {"method": "prompt", "tokens": 5},
    "p-tuning": {"method": "p_tuning", "tokens": 5},
}
ANOTHER = "the adapters belong to another model: these base weights are not those that they were trained beside"


def section_of(**settings: Any) -> AdapterSection:
    return TypeAdapter(AdapterSection).validate_python(settings)  # type: ignore[no-any-return]


def fresh(folder: Path) -> TreeModel:
    return load_tree(folder, load_renderer(folder), dtype="float32", device=torch.device("cpu"))


def adapted(folder: Path, settings: dict[str, Any]) -> TreeModel:
    """With every trained tensor away from its start."""
    tree = fresh(folder)
    about = {"base_fingerprint": base_fingerprint(tree.model)}
    tree.attach(add_adapters(tree.model, section_of(**settings), base=folder, steps=10, about=about))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tree.whole.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return tree


def row(folder: Path) -> PackedBatch:
    source, renderer = open_source(DataSection(source="scenes", split="train[:2]")), load_renderer(folder)
    return collate([prepare(source.record(index), renderer) for index in range(2)])


@torch.no_grad()
def log_probs(tree: TreeModel, batch: PackedBatch) -> torch.Tensor:
    return tree.eval()(batch)


@pytest.fixture
def base(tiny: Path, tmp_path: Path) -> Path:
    """A model folder that a test may spoil."""
    return Path(shutil.copytree(tiny, tmp_path / "base"))


SHAPES = {
    "seed": PRESETS["tiny"],
    "narrower": replace(PRESETS["tiny"], hidden=64, kv_heads=1, heads=2),
    "shallower": replace(PRESETS["tiny"], layers=2),
}


@pytest.fixture(scope="module")
def others(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models with the tokenizer of `tiny`: one of another seed, and of other shapes."""
    folders = {name: Path(shutil.copytree(tiny, tmp_path_factory.mktemp("others") / name)) for name in SHAPES}
    for name, shape in SHAPES.items():
        assemble(shape, seed=1).save_pretrained(folders[name])
    return folders


@pytest.fixture
def saved(base: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Folder of adapters of a method on `base`."""

    def make(name: str) -> Path:
        folder = tmp_path / name
        adapted(base, SETTINGS[name]).adapters[0].save(folder)
        return folder

    return make


def refused(attempt: Callable[[], object], kind: type[UserError] = ModelError) -> str:
    """The one line that an attempt ends in."""
    with pytest.raises(kind) as caught:
        attempt()
    line = str(caught.value)
    assert "\n" not in line
    return line


# --- what a folder holds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_saved_and_loaded_it_is_the_same(base: Path, tmp_path: Path, name: str) -> None:
    """Saving leaves the model in memory as it was; PiSSA, saved as plain LoRA, adds in another order: worst seen 9e-6."""
    tree, batch = adapted(base, SETTINGS[name]), row(base)
    expected = log_probs(tree, batch)
    tree.adapters[0].save(tmp_path / "saved")
    assert torch.equal(log_probs(tree, batch), expected)
    found = log_probs(load(str(tmp_path / "saved"), device="cpu").model, batch)
    assert (found - expected).abs().max() <= (5e-5 if name == "pissa" else 0)
    assert (log_probs(fresh(base), batch) - expected).abs().max() > 1e-3, "no case: the adapters change nothing"


def test_dropout_is_not_saved(base: Path, tmp_path: Path) -> None:
    """P-tuning's file holds what its network gives; a checkpoint is written while the network trains."""
    tree, batch = adapted(base, {"method": "p_tuning", "tokens": 5, "encoder": "lstm", "dropout": 0.5}), row(base)
    expected = log_probs(tree, batch)
    tree.train()
    tree.adapters[0].save(tmp_path / "saved")
    assert tree.virtual.training
    found = log_probs(load(str(tmp_path / "saved"), device="cpu").model, batch)
    assert (found - expected).abs().max() < 1e-5  # an LSTM's sums in another order; worst seen 2e-6


def rankings(adapters: Adapters) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in adapters.model.named_parameters() if ".lora_E." in name}


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_adalora_is_saved_at_any_moment(base: Path, tmp_path: Path, kept: int) -> None:
    """Triplets that were given up and have grown back until ranks change again are saved; a layer that has none left can be."""
    tree, batch = adapted(base, SETTINGS["adalora"]), row(base)
    adapters = tree.adapters[0]
    energies = rankings(adapters)
    pattern = {name: [n < kept for n in range(4)] for name in energies}
    adapters.handle.peft_config["default"].rank_pattern = pattern
    with torch.no_grad():
        for number, energy in enumerate(energies.values()):
            energy[kept + number % 2 :] = 0.0  # of every other layer one has grown back
    expected = log_probs(tree, batch)
    adapters.save(tmp_path / "saved")
    assert adapters.handle.peft_config["default"].rank_pattern == pattern
    loaded = load(str(tmp_path / "saved"), device="cpu").model
    assert (log_probs(loaded, batch) - expected).abs().max() < 2e-5  # fewer terms in a sum; worst seen 2.9e-6
    ranks = {len(energy) for energy in rankings(loaded.adapters[0]).values()}
    assert ranks == {min(4, max(1, kept + back)) for back in (0, 1)}


def test_what_is_no_weight_does_not_train(tiny: Path) -> None:
    """AdaLoRA divides by its ranks; in bfloat16 PEFT would train those numbers, and never save them."""
    tree = load_tree(tiny, load_renderer(tiny), dtype="bfloat16", device=torch.device("cpu"))
    tree.attach(add_adapters(tree.model, section_of(**SETTINGS["adalora"]), base=tiny, steps=10))
    trains = {name for name, parameter in tree.whole.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[-2] for name in trains} == {"lora_A", "lora_B", "lora_E"}


def elsewhere(kind: str) -> Any:
    """Configurations as people write them for PEFT."""
    import peft

    return {
        "lora": lambda: peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
        "all-linear": lambda: peft.LoraConfig(
            r=4, target_modules="all-linear", use_dora=True, init_lora_weights=False, task_type="CAUSAL_LM"
        ),
        "ia3": lambda: peft.IA3Config(
            target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False
        ),
        "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    }[kind]()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers by an old name
@pytest.mark.parametrize("kind", ["lora", "all-linear", "ia3", "prefix", "prompt"])
def test_adapters_made_elsewhere_are_read(base: Path, tmp_path: Path, kind: str) -> None:
    """By plain PEFT, without smolforge.json; log-probs are those of its own forward. Float32, other sums: worst seen 3.3e-6."""
    from peft import get_peft_model

    torch.manual_seed(0)
    handle = get_peft_model(load_model(base), elsewhere(kind)).eval()
    handle.save_pretrained(str(tmp_path / "made"), save_embedding_layers=False)
    assert not (tmp_path / "made" / "smolforge.json").exists()
    config = json.loads((tmp_path / "made" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    source = open_source(DataSection(source="scenes", split="train[:1]"))
    batch = collate([prepare(source.record(0), load_renderer(base))])
    loaded = load(str(tmp_path / "made"), device="cpu")
    assert loaded.notes == ()
    with torch.no_grad():
        pixels = (batch.tiles.float() / 255 - 0.5) / 0.5
        logits = handle(input_ids=batch.input_ids[None], pixel_values=pixels[None]).logits[0, -len(batch.input_ids) :]
        expected = logits.log_softmax(1)[batch.predictors, batch.targets]
    assert (log_probs(loaded.model, batch) - expected).abs().max() < 2e-5
    assert (log_probs(fresh(base), batch) - expected).abs().max() > 1e-3, "no case: the adapters change nothing"


# --- another base -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_another_base_of_the_same_shapes_is_refused(
    base: Path, others: dict[str, Path], saved: Callable[[str], Path], name: str
) -> None:
    """The folder that they name has changed, or they are given to another model; the way back is named."""
    folder, batch = saved(name), row(base)
    expected = f"{folder}: {ANOTHER}; use {base} as it was"
    assert refused(lambda: load(str(others["seed"]), adapter=str(folder), device="cpu")) == expected
    copied = Path(shutil.copytree(base, base.with_name("copied")))
    same = load(str(copied), adapter=str(folder), device="cpu").model
    assert torch.equal(log_probs(same, batch), log_probs(load(str(folder), device="cpu").model, batch))
    shutil.copy(others["seed"] / "model.safetensors", base)
    assert refused(lambda: load(str(folder), device="cpu")) == expected


@pytest.mark.parametrize("name", ["lora", "pissa", "bottleneck", "prompt"])
def test_a_run_does_not_go_on_beside_another_base(base: Path, others: dict[str, Path], tmp_path: Path, name: str) -> None:
    """Nor is it loaded, nor does full fine-tuning start from it. Put back, it goes on."""
    tree: dict[str, Any] = {
        "model": {"name": str(base)},
        "adapters": SETTINGS[name],
        "data": [{"source": "scenes"}],
        "eval": {"examples": 2, "samples": 0},
        "batch": {"examples": 2, "row_tokens": 256},
        "run": {"dir": str(tmp_path / "run"), "steps": 2, "save_every": 1, "device": "cpu", "trackers": [], "workers": 0},
    }
    run = train(parse_recipe(tree))
    weights = (base / "model.safetensors").read_bytes()
    shutil.copy(others["seed"] / "model.safetensors", base)
    assert refused(lambda: load(str(run), device="cpu")) == f"{run / 'model'}: {ANOTHER}; use {base} as it was"
    whole = tree | {"model": {"name": str(run)}, "adapters": None, "run": tree["run"] | {"dir": str(tmp_path / "full")}}
    assert ANOTHER in refused(lambda: train(parse_recipe(whole)))
    ended = load_file(run / "model" / "adapter_model.safetensors")
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints" / "step-00000002")
    (run / "summary.json").unlink()
    checkpoint = run / "checkpoints" / "step-00000001"
    assert refused(lambda: train(parse_recipe(tree))) == f"{checkpoint}: {ANOTHER}; use {base} as it was"
    (base / "model.safetensors").write_bytes(weights)
    train(parse_recipe(tree))
    again = load_file(run / "model" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, again[key]) for key, tensor in ended.items())


@pytest.mark.parametrize(
    ("name", "change"),
    [*((name, "narrower") for name in SETTINGS), ("prefix", "shallower"), ("lora", "shallower"), ("bottleneck", "shallower")],
)
def test_another_shape_is_refused(
    base: Path, others: dict[str, Path], saved: Callable[[str], Path], name: str, change: str
) -> None:
    """By the fingerprint; without one by the first tensor that does not fit."""
    folder = saved(name)
    smaller = others[change]
    assert ANOTHER in refused(lambda: load(str(smaller), adapter=str(folder), device="cpu"))
    (folder / "smolforge.json").unlink()
    line = refused(lambda: load(str(smaller), adapter=str(folder), device="cpu"))
    assert line.startswith(f"{folder}: the adapters do not fit {base} (")
    assert line.endswith("use the model they belong to")


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lora", "bottleneck", "prefix"])
@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "smolforge.json: is damaged"), ("[]", "smolforge.json: is damaged"), ("", "smolforge.json: is damaged")],
)
def test_a_damaged_note_is_refused(saved: Callable[[str], Path], name: str, content: str, words: str) -> None:
    folder = saved(name)
    (folder / "smolforge.json").write_text(content)
    assert words in refused(lambda: load(str(folder), device="cpu"))


@pytest.mark.parametrize("name", ["lora", "bottleneck", "prefix"])
@pytest.mark.parametrize("content", ["{", "[]", "", "{}", "\xff", '{"base_model_name_or_path": 3}'])
def test_a_damaged_configuration_is_refused(saved: Callable[[str], Path], name: str, content: str) -> None:
    folder = saved(name)
    (folder / "adapter_config.json").write_bytes(content.encode("latin-1"))
    line = refused(lambda: load(str(folder), device="cpu"))
    assert line == f"{folder / 'adapter_config.json'}: does not say which model the adapters belong to; copy it again"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("lora", {"peft_type": "UNKNOWN"}), ("lora", {"peft_type": None}), ("lora", {"r": -1}), ("lora", {"r": "many"}),
        ("lora", {"target_modules": ["no_such_layer"]}), ("lora", {"target_modules": None}),
        ("prefix", {"num_virtual_tokens": 3}),
        ("bottleneck", {"section": None}), ("bottleneck", {"section": {"method": "bottleneck", "r": -1}}),
        ("bottleneck", {"section": {"method": "bottleneck", "r": 7}}), ("bottleneck", {"target_modules": ["no_such_layer"]}),
        ("bottleneck", {"target_modules": 5}), ("adalora", {"rank_pattern": {"no_such_layer.lora_E": [True]}}),
        ("adalora", {"rank_pattern": {"model.text_model.layers.0.self_attn.q_proj.lora_E": [True]}}),
    ],
)  # fmt: skip
def test_a_configuration_that_says_something_else_is_refused(
    base: Path, saved: Callable[[str], Path], name: str, change: dict[str, Any]
) -> None:
    folder = saved(name)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    line = refused(lambda: load(str(folder), device="cpu"))
    assert line.startswith(f"{folder}: the adapters do not fit {base} (")


@pytest.mark.parametrize("name", SETTINGS)
def test_missing_weights_are_refused(base: Path, saved: Callable[[str], Path], name: str) -> None:
    """The file, a tensor of it (which PEFT would draw at random), and a file that was cut."""
    folder = saved(name)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    whole = file.read_bytes()
    file.unlink()
    assert refused(lambda: load(str(folder), device="cpu")).startswith(f"{file}: missing file")
    save_file({key: tensors[key] for key in sorted(tensors)[1:]}, file, metadata={"format": "pt"})
    line = refused(lambda: load(str(folder), device="cpu"))
    assert line.startswith(f"{folder}: the adapters do not fit {base} (")
    file.write_bytes(whole[: len(whole) // 2])
    assert f"{folder}: the adapters do not fit {base} (" in refused(lambda: load(str(folder), device="cpu"))


# --- which layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "lora", "r": 65}, "adapters.r: 65 is above the width 64 of model.text_model.layers.0.self_attn.k_proj"),
        ({"method": "pissa", "r": 65}, "adapters.r: 65 is above the width 64"),
        ({"method": "adalora", "init_r": 65}, "adapters.init_r: 65 is above the width 64"),
        ({"method": "bottleneck", "r": 129}, "adapters.r: 129 is above the width 128"),
    ],
)
def test_a_rank_above_the_width_is_refused(tiny: Path, settings: dict[str, Any], words: str) -> None:
    line = refused(lambda: target_modules(load_model(tiny), section_of(**settings)), RecipeError)
    assert line.startswith(words)
    assert "give at most" in line
    width = int(line.rsplit(" ", 1)[1])
    rank = {key: width for key in ("r", "init_r") if key in settings}
    assert target_modules(load_model(tiny), section_of(**settings | rank))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "lora", "target_modules": ["q_porj"]}, "text ends with q_porj; nearest: q_proj"),
        ({"method": "lora", "target_modules": ["q_proj", "v_prj", "o_proj"]}, "text ends with v_prj; nearest: v_proj"),
        ({"method": "adalora", "target_modules": ["gate"]}, "text ends with gate; nearest: gate_proj"),
        ({"method": "ia3", "target_modules": ["fc1"]}, "text ends with fc1; nearest: "),
        ({"method": "vera", "target_modules": ["self_attn.vproj"]}, "ends with self_attn.vproj; nearest: v_proj"),
        ({"method": "lora", "target_modules": ["proj"]}, "text ends with proj; nearest: "),
        ({"method": "lora", "target_modules": ["lm_head"]}, "text ends with lm_head; nearest: "),
    ],
)
def test_a_name_that_no_layer_has_is_answered_with_the_nearest(tiny: Path, settings: dict[str, Any], words: str) -> None:
    line = refused(lambda: target_modules(load_model(tiny), section_of(**settings)), RecipeError)
    assert line.startswith("adapters.target_modules: no linear layer of ")
    assert words in line
    assert not line.split("nearest: ")[1].startswith(";")


def test_what_names_would_also_reach_is_told(tiny: Path) -> None:
    """SigLIP's attention has the decoder's names: PEFT, given the same list, would train the tower too."""
    model = load_model(tiny)
    tower = len(model.model.vision_model.encoder.layers)
    section = LoraSection(target_modules=("q_proj", "v_proj"))
    assert reached_beyond(model, section) == [
        f"q_proj, v_proj also name {2 * tower} layers of vision, which is frozen and stays so: adapters.on is [text]"
    ]
    assert reached_beyond(model, LoraSection(target_modules=("gate_proj",))) == []
    assert reached_beyond(model, LoraSection(target_modules=("q_proj",), on=("text", "vision"))) == []
    assert reached_beyond(model, LoraSection()) == []
    assert not [name for name in target_modules(model, section) if "vision" in name]
