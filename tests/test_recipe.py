"""Recipes: what they accept, and what they say when they do not."""

from __future__ import annotations

import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from smolforge import recipe as module
from smolforge.errors import RecipeError
from smolforge.recipe import COMPONENTS, Recipe, Section, changes_said, differences, load_recipe, parse_recipe

ROOT = Path(__file__).resolve().parents[1]
SMALLEST: dict[str, Any] = {
    "model": {"name": "m"},
    "data": [{"source": "scenes"}],
    "run": {"dir": "runs/a", "steps": 10},
}


def parse(*overrides: str) -> Recipe:
    return parse_recipe(deepcopy(SMALLEST), overrides)


def refused(*overrides: str) -> str:
    """The one line a user sees."""
    with pytest.raises(RecipeError) as caught:
        parse(*overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line


# --- reading ---------------------------------------------------------------------------------------------------------


def test_smallest_recipe() -> None:
    recipe = parse()
    assert recipe.objective.kind == "sft"
    assert [recipe.optim.rate(part) for part in COMPONENTS] == [2e-5] * 3
    with pytest.raises(ValidationError):
        recipe.run.steps = 20  # type: ignore[misc]


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("**/*.yaml")), ids=lambda file: file.stem)
def test_shipped_recipes(file: Path) -> None:
    load_recipe(file)


def test_a_file_with_overrides(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(SMALLEST))
    assert load_recipe(file, ["run.steps=7"]).run.steps == 7
    assert load_recipe(str(file)).run.steps == 10


def test_reads_back_what_it_writes() -> None:
    """A run stores its recipe as JSON; read again it is the same."""
    recipe = parse("optim.lr={vision: 0.0, connector: 1e-4, decoder: 1e-5}", "freeze.vision=true")
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "mapping of sections"),
        (b"- a\n- b\n", "mapping of sections"),
        (b"model: {name: m", "not valid YAML"),
        (b"\xff\xfe\x00", "line 1 is not UTF-8; save it as UTF-8"),
        (b"model: {name: m}\n\n# caf\xe9\n", "line 3 is not UTF-8; save it as UTF-8"),
        (b"model: {name: m}\nmodel: {name: n}\n", "model stands twice, lines 1 and 2; keep one of them"),
        (b"model: {name: m}\noptim:\n  lr: 1\n  clip: 2\n  lr: 3\n", "lr stands twice, lines 3 and 5; keep one of them"),
        (b"model: {name: m, name: n}", "name stands twice, line 1; keep one of them"),
        (b"model: !!python/object/apply:os.system [true]", "not valid YAML"),
    ],
)
def test_files_that_hold_no_recipe(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    with pytest.raises(RecipeError, match=words) as caught:
        load_recipe(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(RecipeError, match="no such recipe"):
            load_recipe(path)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optm.lr=1.0", "unknown key optm; did you mean optim?"),
        ("optim.learning_rate=1.0", "unknown key optim.learning_rate; known here: kind, lr, schedule"),
        ("optim.warmpu=1.0", "unknown key optim.warmpu; did you mean warmup?"),
        ("optim.lr.visoin=1.0", "unknown key optim.lr.visoin; did you mean vision?"),
        ("data.0.wieght=1.0", "unknown key data.0.wieght; did you mean weight?"),
        ("eval.data=[{source: scenes, splt: test}]", "unknown key eval.data.0.splt; did you mean split?"),
        ("run.early_stopping={patiense: 3}", "unknown key run.early_stopping.patiense; did you mean patience?"),
        ("freeze.decodr=true", "unknown key freeze.decodr; did you mean decoder?"),
        ("objective.knid=sft", "unknown key objective.knid; did you mean kind?"),
    ],
)
def test_unknown_keys_name_their_neighbour(override: str, words: str) -> None:
    assert words in refused(override)


def test_a_misspelling_explains_what_else_is_missing() -> None:
    tree = deepcopy(SMALLEST)
    tree["modle"] = tree.pop("model")
    with pytest.raises(RecipeError, match="unknown key modle; did you mean model"):
        parse_recipe(tree)


@pytest.mark.parametrize("section", ["model", "data", "run"])
def test_missing_sections(section: str) -> None:
    tree = {key: value for key, value in SMALLEST.items() if key != section}
    with pytest.raises(RecipeError, match=f"{section} is missing"):
        parse_recipe(tree)


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("run.steps=ten", "run.steps: "),
        ("run.steps=0", "run.steps: "),
        ("run.steps=1.5", "run.steps: "),
        ("batch.row_tokens=-1", "batch.row_tokens: "),
        ("model.dtype=float16", "model.dtype: "),
        ("optim.schedule=cosin", "optim.schedule: "),
        ("optim.lr=fast", "optim.lr: "),
        ("optim.lr=-1e-5", "optim.lr"),
        ("optim.lr=.nan", "optim.lr"),
        ("optim.lr=.inf", "optim.lr"),
        ("optim.lr.vision=-1.0", "optim.lr.vision: "),
        ("optim.warmup=-1", "optim.warmup: "),
        ("optim.betas=[0.9]", "optim.betas"),
        ("optim.betas=[0.9, 1.5]", "optim.betas"),
        ("optim.betas=[-0.1, 0.9]", "optim.betas"),
        ("optim.clip=0", "optim.clip: "),
        ("data=[]", "data: "),
        ("data=scenes", "data: "),
        ("data.0=scenes", "data.0: "),
        ("data.0.weight=0", "data.0.weight: "),
        ("objective.kind=dpoo", "objective.kind is one of "),
        ("run.device=tpu", "run.device: "),
        ("images.max_pixels=200000000", "images.max_pixels: "),  # Pillow itself refuses above 178,956,970
    ],
)
def test_wrong_values_name_their_key_and_what_was_given(override: str, words: str) -> None:
    line = refused(override)
    assert words in line
    assert "RatesSection" not in line
    value = yaml.safe_load(override.partition("=")[2])
    assert isinstance(value, list) or repr(value) in line


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("adapters=lora", "adapters: a section is a mapping of settings, not 'lora'; write adapters: {method: lora}"),
        ("adapters=dorra", "adapters: a section is a mapping of settings, not 'dorra'; did you mean adapters: {method: dora}?"),
        ("adapters=true", "adapters: a section is a mapping of settings, not true; write adapters: {method: ...}, of lora,"),
        ("adapters.method=[lora]", "adapters.method is one of 'lora',"),
        ("adapters=[lora]", "adapters: a section is a mapping of settings, not a list; write adapters: {method: ...}, of lora,"),
        ("objective=dpo", "objective: a section is a mapping of settings, not 'dpo'; write objective: {kind: dpo}"),
        ("quantize=nf4", "quantize: a section is a mapping of settings, not 'nf4'; write quantize: {kind: nf4}"),
        ("model=smolvlm", "model: a section is a mapping of settings, not 'smolvlm'; write model: {name: smolvlm}"),
        ("model=null", "model: a section is a mapping of settings, not null; write model: {name: ...}"),
        ("run=x", "run: a section is a mapping of settings, not 'x'; write run: {dir: x}"),
        ("freeze=vision", "freeze: a section is a mapping of settings, not 'vision'; write freeze: {vision: ...}"),
        ("batch=8", "batch: a section is a mapping of settings, not 8; its settings are examples, row_tokens"),
        ("data=x", "data: a list, not 'x'; write data: [{source: x}]"),
        ("data={source: x}", "data: a list, not a mapping; write data: [{...}]"),
        ("data=null", "data: a list, not null; write data: [{source: ...}]"),
        ("data.0=x", "data.0: a section is a mapping of settings, not 'x'; write data.0: {source: x}"),
        ("data=[]", "data: a list of at least 1, this one has 0"),
        ("eval.data=x", "eval.data: a list, not 'x'; write eval.data: [{source: x}]"),
        ("data.0.exclude=x", "data.0.exclude: a list, not 'x'; write data.0.exclude: [x]"),
        ("run.trackers=wandb", "run.trackers: a list, not 'wandb'; write run.trackers: [wandb]"),
        ("optim.betas=0.9", "optim.betas: a list of 2, not 0.9"),
        ("adapters.on=text", "adapters.on: a list, not 'text'; write adapters.on: [text]"),
        ("data.0.prompt=3", "data.0.prompt: should be text (given: 3)"),
        ("data.0.name=3", "data.0.name: should be text (given: 3)"),
        ("run.steps=ten", "run.steps: should be a whole number (given: 'ten')"),
        ("optim.lr=fast", "optim.lr: should be a number (given: 'fast')"),
        ("images.split=maybe", "images.split: should be true or false (given: 'maybe')"),
        ("video.fps=0", "video.fps: should be greater than 0 (given: 0)"),
        ("objective={kind: dpo, reference: copy}", "objective.reference: a section is a mapping of settings, not 'copy'; write"),
        ("objective={kind: dpo, picture: noise}", "not 'noise'; write objective.picture: {kind: noise}"),
        ("objective={kind: dpo, picture: {kind: crop, weight: x}}", "objective.picture.weight: should be a number (given: 'x')"),
    ],
)
def test_a_section_or_list_given_as_something_else_is_told_how_to_write_it(override: str, line: str) -> None:
    said = refused(override)
    assert line in said
    assert not re.search("Input|tuple|dictionary", said, re.IGNORECASE)


def test_numbers_as_yaml_writes_them() -> None:
    """YAML reads 1e-5, which has no point, as a text."""
    assert parse("optim.lr=1e-5").optim.rate("decoder") == 1e-5
    assert parse("optim.lr=1").optim.rate("vision") == 1.0


# --- what excludes each other ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["run.epochs=1", "run.steps=2"], "run: give exactly one of steps and epochs"),
        (["run.steps=null"], "run: give exactly one of steps and epochs"),
        (["run.early_stopping={}"], "set eval_every"),
        (["run.early_stopping={}", "run.eval_every=10"], "set eval.data"),
        (["freeze={vision: true, connector: true, decoder: true}"], "everything is frozen"),
        (["optim.lr={decoder: 1e-5}"], "vision has learning rate 0 but is not frozen"),
        (["optim.lr=0.0"], "learning rate 0"),
        (["data=[{source: a, weight: 1}, {source: b}]"], "some sources of data have a weight"),
    ],
)
def test_options_that_make_no_sense_together(overrides: list[str], words: str) -> None:
    assert words in refused(*overrides)


def test_options_that_do() -> None:
    parse("run.steps=null", "run.epochs=0.5")
    parse("run.early_stopping={}", "run.eval_every=10", "eval.data=[{source: scenes, split: test}]")
    parse("optim.lr={decoder: 1e-5}", "freeze={vision: true, connector: true}")
    parse("data=[{source: a, weight: 1}, {source: b, weight: 2.5}]")


# --- preference optimisation, adapters, caches ---------------------------------------------------------------------------

DPO = "objective.kind=dpo"
LORA = "adapters={}"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["loss={sigmoid: 0.0}"], "no loss has a weight above 0"),
        (["loss={}"], "no loss has a weight above 0"),
        (["label_smoothing=0.1"], "label_smoothing belongs to cdpo, exo_pair, robust; choose one or leave it out"),
        (["loss=exo_pair"], "exo_pair needs label_smoothing above 0"),
        (["margin=0.3"], "margin belongs to simpo"),
        (["loss={sigmoid: 1, ipo: 1}", "margin=0.3"], "margin belongs to simpo"),
        (["desirable=2"], "desirable belongs to kto"),
        (["loss=simpo", "undesirable=2"], "undesirable belongs to kto"),
        (["loss={kto: 1, sigmoid: 1}"], "kto scores single answers"),
        (["loss=kto", "nll=0.1"], "kto scores single answers"),
        (["loss=kto", "picture={kind: crop}"], "kto scores single answers"),
        (["picture={kind: noise}", "reference.kind=precomputed"], "use objective.reference.kind: copy"),
        (["reference={kind: adapters_off, model: m}"], "leave objective.reference.model out, or choose copy"),
        (["reference.store=a.sqlite"], "objective.reference.store belongs to objective.reference.kind: precomputed"),
        (
            ["reference={kind: copy, store: a.sqlite}"],
            "objective.reference.store belongs to objective.reference.kind: precomputed",
        ),
        (["reference.kind=adapters_off"], "adapters_off needs adapters; choose copy or precomputed"),
        (["picture={kind: noise}"], "set objective.reference.kind: copy"),
    ],
)
def test_preference_options_that_make_no_sense_together(overrides: list[str], words: str) -> None:
    assert words in refused(DPO, *(f"objective.{override}" for override in overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["picture={kind: noise}", "reference={model: other}"],
        ["picture={kind: noise}", "reference={kind: auto, model: other}"],
        ["picture={kind: noise}", "reference={kind: precomputed}"],
    ],
)
def test_noise_needs_a_reference_at_hand_beside_adapters_too(overrides: list[str]) -> None:
    """auto with another model as the reference means precomputed, which own words cannot be."""
    assert "reference.kind: copy" in refused(DPO, LORA, *(f"objective.{override}" for override in overrides))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("loss=dpo", "objective.loss"),
        ("loss={sigmoyd: 1}", "objective.loss"),
        ("loss={sigmoid: -1}", "objective.loss"),
        ("beta=0", "objective.beta: "),
        ("label_smoothing=0.5", "objective.label_smoothing: "),
        ("margin=-1", "objective.margin: "),
        ("desirable=0", "objective.desirable: "),
        ("nll=-0.1", "objective.nll: "),
        ("dense={gamma: 0}", "objective.dense.gamma: "),
        ("dense={corrected: dif}", "objective.dense.corrected: "),
        ("dense={min_match: 0}", "objective.dense.min_match: "),
        ("picture={kind: blur}", "objective.picture.kind is one of "),
        ("picture={scale: [0.1, 0.2]}", "objective.picture.kind is missing"),
        ("picture={kind: crop, step: 3}", "unknown key objective.picture.step; known here: kind, scale"),
        ("picture={kind: noise, scale: [0.1, 0.2]}", "unknown key objective.picture.scale; known here: kind, step"),
        ("picture={kind: noise, step: 1000}", "objective.picture.step: "),
        ("picture={kind: noise, weight: 1.5}", "objective.picture.weight: "),
        ("picture={kind: crop, wieght: 1}", "unknown key objective.picture.wieght; did you mean weight?"),
        ("reference.kind=none", "objective.reference.kind: "),
        ("referense.kind=copy", "unknown key objective.referense; did you mean reference?"),
    ],
)
def test_wrong_preference_values(override: str, words: str) -> None:
    assert words in refused(DPO, f"objective.{override}")


@pytest.mark.parametrize("scale", ["[0.3, 0.1]", "[0.0, 0.2]", "[-0.1, 0.2]", "[0.5, 1.5]"])
def test_a_crop_keeps_a_share_of_the_area(scale: str) -> None:
    """Above 0, at most 1, the smaller first."""
    assert "objective.picture.scale" in refused(DPO, f"objective.picture={{kind: crop, scale: {scale}}}")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["loss=cdpo", "label_smoothing=0.1"],
        ["loss=exo_pair", "label_smoothing=0.001"],
        ["loss={sigmoid: 0.8, bco_pair: 0.2, nll: 1.0}"],
        ["loss={sigmoid: 0.5, simpo: 0.5}", "margin=0.3"],
        ["loss=simpo", "margin=0.0"],
        ["loss=kto", "desirable=1.5", "undesirable=0.5"],
        ["loss=orpo", "beta=0.2"],
        ["loss=nll"],
        ["nll=0.1", "dense={}"],
        ["dense={gamma: 1.1, normalize: false, corrected: spans}", "loss=ipo"],
        ["picture={kind: crop}"],
        ["picture={kind: crop, anchor: null, scale: [0.2, 0.4], weight: 2}", "reference.kind=precomputed"],
        ["picture={kind: noise}", "reference.kind=copy"],
        ["picture={kind: noise, step: 0, weight: 0.3}", "reference={kind: copy, model: m}"],
        ["reference={kind: precomputed, store: a.sqlite, model: m}"],
        ["reference={model: m}"],
    ],
)
def test_preference_options_that_do(overrides: list[str]) -> None:
    assert parse(DPO, *(f"objective.{override}" for override in overrides)).objective.kind == "dpo"


def test_reference_beside_adapters() -> None:
    parse(DPO, LORA, "objective.reference.kind=adapters_off")
    parse(DPO, LORA, "objective.picture={kind: noise}")
    parse(DPO, LORA, "objective.picture={kind: noise}", "objective.reference={kind: copy, model: other}")


@pytest.mark.parametrize(
    "overrides",
    [[], ["loss=ipo"], ["loss={sigmoid: 0.8, nll: 1.0}", "nll=0.5"], ["picture={kind: crop}"], ["loss=kto", "desirable=2"]],
)
def test_a_preference_recipe_reads_back_what_it_writes(overrides: list[str]) -> None:
    """Every field is written, also those that belong to another loss."""
    recipe = parse(DPO, *(f"objective.{override}" for override in overrides))
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe


def test_losses_with_their_weights() -> None:
    def losses(*overrides: str) -> dict[str, float]:
        return parse(DPO, *(f"objective.{override}" for override in overrides)).objective.losses

    assert losses() == {"sigmoid": 1.0}
    assert losses("loss=ipo", "nll=0.1") == {"ipo": 1.0, "nll": 0.1}
    assert losses("loss={sigmoid: 0.8, nll: 1.0}", "nll=0.5") == {"sigmoid": 0.8, "nll": 1.5}


def test_which_losses_need_a_reference() -> None:
    def needs(*overrides: str) -> bool:
        return parse(DPO, *(f"objective.{override}" for override in overrides)).objective.needs_reference

    assert needs()
    assert needs("loss=kto")
    assert needs("loss={simpo: 1, ipo: 1}")
    assert needs("loss=orpo", "picture={kind: crop}")
    assert not needs("loss=simpo")
    assert not needs("loss={orpo: 1, nll: 1}")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["adapters.r=0"], "adapters.r: "),
        (["adapters.alpha=0"], "adapters.alpha: "),
        (["adapters.dropout=1"], "adapters.dropout: "),
        (["adapters.method=qlora"], "adapters: qlora is written as method: lora with quantize: {kind: nf4}"),
        (["adapters.method=dorra"], "'p_tuning' (given: 'dorra'); did you mean dora?"),
        (["adapters={metod: dora}"], "unknown key adapters.metod; did you mean method?"),
        (["adapters={method: prefix, token: 4}"], "unknown key adapters.token; did you mean tokens?"),
        (["adapters={method: prefix, hidden: 4}"], "set projection: true"),
        (["adapters={method: pissa, init: gaussian}"], "leave init out"),
        (["adapters={method: adalora, r: 16}"], "it must be above r"),
        (["adapters={method: lora, on: [connector], train: [connector]}"], "leave it out of on or of train"),
        (["adapters={}", "quantize={kind: int8, double: false}"], "double and compute belong to nf4 and fp4"),
        (["adapters=null", "optim.lr={adapters: 0.1, decoder: 0.1}"], "optim.lr.adapters is set and there are no adapters"),
        (["adapters={}", "optim.lr={adapters: 0.1, vision: 0.1}"], "optim.lr.vision is set, but nothing there learns by it"),
        (["adapters={}", "optim.lr={adapters: 0.1, decoder: 0.1}"], "optim.lr.decoder is set, but nothing there learns by it"),
        (["quantize={kind: nf4}"], "quantised weights cannot be trained themselves; give adapters"),
        (["adapters={method: pissa}", "quantize={kind: nf4}"], "use lora or dora"),
        (["adapters.init=zeros"], "adapters.init: "),
        (["adapters.on=[]"], "adapters.on: "),
        (["adapters.on=[decoder]"], "adapters.on"),
        (["adapters.rank=8"], "unknown key adapters.rank"),
        ([LORA, "freeze.vision=true"], "leave freeze out, and choose parts by adapters.on"),
        ([LORA, "freeze.decoder_layers=2"], "leave freeze out"),
        ([LORA, "freeze.embeddings=true"], "leave freeze out"),
        ([LORA, "optim.lr={connector: 1e-4}"], "adapters would train at learning rate 0; set optim.lr.adapters"),
        (["freeze.decoder_layers=-1"], "freeze.decoder_layers: "),
        (["cache.features=true"], "set freeze.vision: true"),
        (["cache.features=true", "freeze.decoder=true"], "set freeze.vision: true"),
        (["cache.features=true", "adapters.on=[text, vision]"], "leave vision out of adapters.on"),
        (["cache.max_gb=0"], "cache.max_gb: "),
        (
            [DPO, "objective.reference={kind: copy, model: m}", "cache.features=true", "freeze.vision=true"],
            "leave cache.features out",
        ),
    ],
)
def test_adapters_freezing_and_caches_refused(overrides: list[str], words: str) -> None:
    assert words in refused(*overrides)


def test_adapters_freezing_and_caches() -> None:
    """What trains: the parts with adapters, or what is not frozen."""

    def trains(*overrides: str) -> list[str]:
        recipe = parse(*overrides)
        return [part for part in COMPONENTS if recipe.trains(part)]

    assert trains() == [*COMPONENTS]
    assert trains(LORA) == ["decoder"]
    assert trains("adapters={on: [connector, vision], method: dora, r: 64, alpha: 128}") == ["vision", "connector"]
    assert trains("freeze={vision: true, embeddings: true, decoder_layers: 3}") == ["connector", "decoder"]
    assert trains(LORA, "cache.features=true", "optim.lr={decoder: 1e-4}") == ["decoder"]
    assert trains("cache={features: true, dir: /tmp/c, max_gb: 1.5}", "freeze.vision=true") == ["connector", "decoder"]
    assert trains(LORA, DPO, "objective.reference={kind: adapters_off}", "cache.features=true") == ["decoder"]
    assert parse().adapters is None


# --- overrides -------------------------------------------------------------------------------------------------------


def test_overrides() -> None:
    """Any key, values as YAML has them, the last one counts."""
    recipe = parse(
        "model.name=HuggingFaceTB/SmolVLM-256M-Instruct", "freeze.vision=true", "data.0.split=train[:6%]",
        "optim.clip=null", "run.steps=5", "run.steps=6", "optim.lr.connector=1e-4", "optim.lr.decoder=1e-5",
        "data.0.prompt='a = b: c'",
    )  # fmt: skip
    assert recipe.model.name == "HuggingFaceTB/SmolVLM-256M-Instruct"
    assert recipe.freeze.vision
    assert recipe.data[0].split == "train[:6%]"
    assert recipe.optim.clip is None
    assert recipe.run.steps == 6
    assert [recipe.optim.rate(part) for part in COMPONENTS] == [0, 1e-4, 1e-5]
    assert recipe.data[0].prompt == "a = b: c"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("run.steps", "key=value"),
        ("=5", "key=value"),
        ("", "key=value"),
        ("run.steps={", "not valid YAML"),
        ("optim={lr: 1, lr: 2}", "lr stands twice, line 1; keep one of them"),
        ("data.1.split=train", "data.1.split=train"),
        ("data.1={source: a}", "the list has 1 entries"),
        ("data.x.split=train", "data.x.split=train"),
        ("data.last={source: a}", "data.last"),
    ],
)
def test_bad_overrides(override: str, words: str) -> None:
    assert words in refused(override)


# --- going on with a run -----------------------------------------------------------------------------------------------


def dumped(*overrides: str) -> dict[str, Any]:
    return parse(*overrides).model_dump(mode="json")


def test_no_differences() -> None:
    """What changes no weight may change."""
    free = [
        "run.dir=elsewhere", "run.save_every=7", "run.keep_last=9", "run.log_every=3", "run.workers=0", "run.device=cpu",
        "eval.samples=1", "eval.max_new_tokens=9",
    ]  # fmt: skip
    assert differences(dumped(), dumped()) == []
    assert differences(dumped(), dumped(*free)) == []


def test_where_things_are_kept_is_free() -> None:
    """Features and kept log-probs say the same wherever they are, and whether or not there are any."""
    frozen = [DPO, "freeze.vision=true", "objective.reference.kind=precomputed"]
    free = ["cache={dir: /tmp/a, features: true, max_gb: 3}", "objective.reference.store=/tmp/a.sqlite"]
    assert differences(dumped(*frozen), dumped(*frozen, *free)) == []
    assert differences(dumped(*frozen, *free), dumped(*frozen)) == []
    other = dumped(*frozen, "objective.reference={kind: precomputed, model: m, store: a.sqlite}")
    assert differences(dumped(*frozen), other) == ["objective.reference.model: None -> m"]


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        ([DPO, "objective.beta=0.2"], ["objective.beta: 0.1 -> 0.2"]),
        ([DPO, "objective.loss=ipo"], ["objective.loss: sigmoid -> ipo"]),
        ([DPO, "objective.dense.gamma=2"], ["objective.dense.gamma: None -> 2.0"]),
        ([DPO, "objective.picture={kind: crop}"], ["objective.picture.kind: None -> crop"]),
        ([DPO, "adapters.r=4"], ["adapters.r: None -> 4"]),
        ([DPO, "freeze.decoder_layers=2"], ["freeze.decoder_layers: 0 -> 2"]),
    ],
)
def test_differences_of_preferences(overrides: list[str], lines: list[str]) -> None:
    found = differences(dumped(DPO), dumped(*overrides))
    assert set(lines) <= set(found)


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["optim.lr=0.5"], ["optim.lr: 2e-05 -> 0.5"]),
        (["run.seed=1", "batch.examples=8"], ["batch.examples: 16 -> 8", "run.seed: 0 -> 1"]),
        (["data.0.split=test"], ["data.0.split: train -> test"]),
        (["optim.betas=[0.9, 0.95]"], ["optim.betas.1: 0.999 -> 0.95"]),
        (["run.steps=null", "run.epochs=2"], ["run.steps: 10 -> None", "run.epochs: None -> 2.0"]),
        (["freeze.vision=true"], ["freeze.vision: False -> True"]),
    ],
)
def test_differences(overrides: list[str], lines: list[str]) -> None:
    assert differences(dumped(), dumped(*overrides)) == lines


def test_differences_of_sections_that_one_side_lacks() -> None:
    more = dumped("data=[{source: scenes}, {source: b}]")
    assert "data.1.source: None -> b" in differences(dumped(), more)
    assert "data.1.source: b -> None" in differences(more, dumped())
    rates = dumped("optim.lr={vision: 1.0, connector: 1.0, decoder: 1.0}")
    assert differences(dumped(), rates)[0] == "optim.lr: 2e-05 -> None"


def test_a_refusal_names_what_a_person_wrote() -> None:
    """A change of the objective brings its defaults along, and a section its zeros; nobody wrote those."""
    mixed = dumped("mixture={image: 60, text: 40}")
    assert len(differences(mixed, dumped(DPO, "freeze.vision=true"))) > 10
    assert sorted(changes_said(mixed, parse(DPO, "freeze.vision=true"))) == [
        "freeze.vision: False -> True", "mixture.image: 60.0 -> None", "mixture.text: 40.0 -> None", "objective.kind: sft -> dpo",
    ]  # fmt: skip
    assert changes_said(dumped("adapters={r: 4}", "optim.lr=1"), parse("optim.lr=1")) == [
        "adapters.method: lora -> None", "adapters.r: 4 -> None"
    ]  # fmt: skip
    assert changes_said(dumped(), parse("optim.lr=2e-5", "run.dir=elsewhere")) == []


def test_settings_that_nobody_wrote_are_named_where_nothing_else_differs() -> None:
    """Another version's default."""
    old = dumped()
    old["optim"]["clip"] = 0.5
    assert changes_said(old | {"of_another_version": 1}, parse()) == ["optim.clip: 0.5 -> 1.0", "of_another_version: 1 -> None"]


@pytest.mark.parametrize("split", ["train[5%", "train[:x]", "train[", "", "train[1:2:3]"])
def test_a_split_is_refused_with_the_recipe(split: str) -> None:
    mend = "write train, train[:6%] or train[100:200]"
    assert f"data.0.split: not a split ({split!r}); {mend}" in refused(f"data.0.split='{split}'")
    said = refused(f"eval.data=[{{source: scenes}}, {{source: scenes, split: '{split}'}}]")
    assert f"eval.data.1.split: not a split ({split!r}); {mend}" in said


# --- the file itself ---------------------------------------------------------------------------------------------------


def test_imports_no_torch() -> None:
    """Help and validation must answer at once."""
    code = "import sys, smolforge.recipe; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_field_says_what_it_is() -> None:
    sections = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Section)]
    for section in sections:
        if section is not Recipe:
            for name, field in section.model_fields.items():
                assert field.description, f"{section.__name__}.{name}"
