"""The whole run in one YAML file, validated before anything is loaded.

Read top to bottom it is the list of everything a run can be told. Options that make no sense together cannot be
written; an unknown key is an error that names its nearest neighbour. Imports no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from smolforge.errors import RecipeError

COMPONENTS = ("vision", "connector", "decoder")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class ModelSection(Section):
    name: str
    """Checkpoint to start from: a local folder, a Hub name, or a .gguf file of a SmolLM2."""
    revision: str | None = None
    """Branch, tag or commit on the Hub; the default branch when left out."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the forward and backward passes compute in. With bfloat16, what trains keeps float32 master weights."""


class FreezeSection(Section):
    vision: bool = False
    """Do not train the vision tower (SigLIP)."""
    connector: bool = False
    """Do not train the projection between tower and decoder."""
    decoder: bool = False
    """Do not train the language model (embeddings, layers and head)."""
    embeddings: bool = False
    """Do not train the token embeddings, and the head where it is tied to them."""
    decoder_layers: int = Field(default=0, ge=0)
    """Do not train the first so many layers of the language model."""

    @model_validator(mode="after")
    def _something_trains(self) -> FreezeSection:
        if all(getattr(self, part) for part in COMPONENTS):
            raise ValueError("everything is frozen; leave one of vision, connector, decoder unfrozen")
        return self


class LoraSection(Section):
    method: Literal["lora", "dora"] = "lora"
    """lora: low-rank updates (Hu et al. 2021); dora: with weight-decomposed magnitudes (Liu et al. 2024)."""
    r: int = Field(default=8, gt=0)
    """Rank of the updates."""
    alpha: float = Field(default=16, gt=0)
    """Scale of the updates: they are multiplied by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the inputs of the updates that is dropped while training."""
    init: Literal["default", "gaussian"] = "default"
    """How A is drawn (B starts at zero): Kaiming uniform, or Gaussian."""
    on: tuple[Literal["text", "connector", "vision"], ...] = Field(default=("text",), min_length=1)
    """Parts of the model that get adapters. Everything else, and the base weights themselves, stay as they are."""
    target_modules: tuple[str, ...] | None = None
    """Endings of the linear layers' names within these parts, such as q_proj; all linear layers when left out."""


class CacheSection(Section):
    dir: Path | None = None
    """Where features and reference log-probs are kept for all runs; ~/.cache/smolforge when left out."""
    features: bool = False
    """Keep pictures' features on the disk and encode each picture once. Needs a frozen vision tower."""
    max_gb: float = Field(default=20.0, gt=0)
    """Most space that the features of one model may take, in GB; the oldest go first."""


class DataSection(Section):
    source: str
    """A source by name (scenes, the_cauldron, coco_captions, smoltalk, rlaif_v, ...), a file (.jsonl, .json, .csv, .parquet),
    a folder of pictures or of a saved dataset, or a Hub dataset name."""
    name: str | None = None
    """Configuration of a Hub dataset that has several."""
    split: str = "train"
    """Split, with an optional slice: `train`, `train[:6%]`, `train[100:200]`, `train[-10%:]`."""
    weight: float | None = Field(default=None, gt=0)
    """Share of the mixture, relative to the other sources' weights. Left out everywhere: by number of rows."""
    prompt: str | None = None
    """Instruction for rows that bring none (picture + caption)."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset."""
    max_chars: int | None = Field(default=None, gt=0)
    """Preference pairs with an answer longer than this, in characters, are left out."""
    max_length_ratio: float | None = Field(default=None, gt=1)
    """Preference pairs whose longer answer has more than so many times the characters of the shorter are left out."""


class ImagesSection(Section):
    longest_edge: int | None = Field(default=None, gt=0)
    """Longest edge in pixels before tiling; the checkpoint's own value when left out. Smaller: fewer tiles, less detail."""
    split: bool | None = None
    """Cut pictures into tiles beside the whole view; the checkpoint's own value when left out."""
    upscale: bool = True
    """Enlarge small pictures to `longest_edge` as the checkpoint's processor does. False saves their tiles."""
    max_pixels: int = Field(default=100_000_000, gt=0, le=178_956_970)  # Pillow refuses more by itself
    """Pictures with more pixels are refused (a guard against decompression bombs)."""


class SftSection(Section):
    kind: Literal["sft"] = "sft"
    """Supervised fine-tuning: the log-likelihood of every response token, averaged over the step's tokens."""


LossName = Literal[
    "sigmoid", "cdpo", "robust", "hinge", "ipo", "sigmoid_norm", "kto", "apo_zero", "apo_down", "simpo", "orpo", "bco_pair",
    "exo_pair", "nca_pair", "sppo_hard", "discopop", "nll",
]  # fmt: skip
WITHOUT_REFERENCE = frozenset({"simpo", "orpo", "nll"})
SMOOTHED = frozenset({"cdpo", "robust", "exo_pair"})


class DenseSection(Section):
    gamma: float = Field(default=5.0, gt=0)
    """Weight of a corrected token's log-prob; other tokens weigh 1 (RLHF-V, Yu et al. 2023: 5; its released script: 1.1)."""
    corrected: Literal["diff", "spans"] = "diff"
    """Which tokens were corrected: what differs between chosen and rejected, or the data's character spans."""
    normalize: bool = True
    """Divide a response's sum by its weights' sum, |y_u| + gamma |y_c| (the paper; its released script does not)."""
    min_match: int = Field(default=3, gt=0)
    """Runs of equal tokens shorter than this count as different (diff)."""
    both_sides: bool = True
    """Weigh only replaced runs, not those that one answer lacks altogether (diff; as the released script)."""


class CropSection(Section):
    kind: Literal["crop"]
    """mDPO (Wang et al. 2024): the chosen answer should be likelier with its picture than with a small crop of it."""
    scale: tuple[float, float] = (0.01, 0.2)
    """Smallest and largest share of the picture's area that the crop keeps."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of this term."""
    anchor: float | None = 0.0
    """The chosen answer's reward should stay above this (delta); null leaves the anchor out."""

    @field_validator("scale")
    @classmethod
    def _shares(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError("a smaller and a larger share of the area, above 0 and up to 1")
        return scale


class NoiseSection(Section):
    kind: Literal["noise"]
    """POVID's second stage (Zhou et al. 2024): rejected is what the model itself would say of a noised picture."""
    step: int = Field(default=500, ge=0, lt=1000)
    """Diffusion step, of 1000, whose noise the picture gets."""
    weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of this term; the pair's own loss has the rest."""


class ReferenceSection(Section):
    kind: Literal["auto", "adapters_off", "copy", "precomputed"] = "auto"
    """Where the reference log-probs come from: the model without its adapters, a frozen copy, or computed once before training
    and kept. auto: adapters off where there are adapters and no pair comes twice, otherwise precomputed."""
    model: str | None = None
    """Another checkpoint as the reference (copy or precomputed); the run's starting point when left out."""
    store: Path | None = None
    """File of precomputed log-probs; in the cache folder, by the reference's weights, when left out."""


class PreferenceSection(Section):
    kind: Literal["dpo"]
    """Preference optimisation: DPO (Rafailov et al. 2023) and its relatives."""
    loss: LossName | dict[LossName, Annotated[float, Field(ge=0)]] = "sigmoid"
    """A loss by name, or several with their weights: {sigmoid: 0.8, bco_pair: 0.2, nll: 1.0} is MPO's mixture."""
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull towards the reference (IPO's tau; SimPO's and ORPO's scale)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of pairs believed to be labelled the wrong way round (cdpo, robust, exo_pair)."""
    margin: float = Field(default=0.5, ge=0)
    """SimPO's target reward margin gamma."""
    desirable: float = Field(default=1.0, gt=0)
    """KTO's weight of chosen answers."""
    undesirable: float = Field(default=1.0, gt=0)
    """KTO's weight of rejected answers."""
    nll: float = Field(default=0.0, ge=0)
    """Weight of an added negative log-likelihood of the chosen answers, averaged over their tokens (RPO)."""
    dense: DenseSection | None = None
    """Corrected segments weigh more (dense DPO, RLHF-V). Combines with every loss."""
    picture: Annotated[CropSection | NoiseSection, Field(discriminator="kind")] | None = None
    """A second term that compares the picture with a spoilt one: crop (mDPO) or noise (POVID)."""
    reference: ReferenceSection = ReferenceSection()
    """Where the reference log-probs come from."""

    @property
    def losses(self) -> dict[str, float]:
        """Every loss with its weight, the added likelihood among them."""
        given: dict[LossName, float] = dict.fromkeys([self.loss], 1.0) if isinstance(self.loss, str) else self.loss
        losses: dict[str, float] = {str(name): weight for name, weight in given.items()}
        return losses | ({"nll": losses.get("nll", 0.0) + self.nll} if self.nll else {})

    @property
    def needs_reference(self) -> bool:
        """Whether a loss compares with a reference; accuracies by implicit reward need one too."""
        return bool(self.losses.keys() - WITHOUT_REFERENCE) or self.picture is not None

    @model_validator(mode="after")
    def _options_apply(self) -> PreferenceSection:
        names = self.losses.keys()
        if not any(self.losses.values()):
            raise ValueError("no loss has a weight above 0")
        if self.label_smoothing and not names & SMOOTHED:
            raise ValueError(f"label_smoothing belongs to {', '.join(sorted(SMOOTHED))}; choose one or leave it out")
        if "exo_pair" in names and not self.label_smoothing:
            raise ValueError("exo_pair needs label_smoothing above 0")
        for field, loss in (("margin", "simpo"), ("desirable", "kto"), ("undesirable", "kto")):
            if getattr(self, field) != type(self).model_fields[field].default and loss not in names:
                raise ValueError(f"{field} belongs to {loss}; choose that loss or leave it out")
        if "kto" in names and (len(names) > 1 or self.picture):
            raise ValueError("kto scores single answers and cannot be added to losses of pairs")
        if isinstance(self.picture, NoiseSection) and self.reference.kind == "precomputed":
            raise ValueError(
                "noise makes the model's own words rejected, which nobody can score ahead; use objective.reference.kind: copy"
            )
        if self.reference.kind == "adapters_off" and self.reference.model:
            raise ValueError("adapters_off is the run's own base model; leave objective.reference.model out, or choose copy")
        if self.reference.store and self.reference.kind != "precomputed":
            raise ValueError("objective.reference.store belongs to objective.reference.kind: precomputed")
        return self


class RatesSection(Section):
    vision: float = Field(default=0.0, ge=0)
    """Learning rate of the vision tower."""
    connector: float = Field(default=0.0, ge=0)
    """Learning rate of the connector."""
    decoder: float = Field(default=0.0, ge=0)
    """Learning rate of the language model."""


class OptimSection(Section):
    lr: Annotated[float, Field(ge=0)] | RatesSection = 2e-5
    """Peak learning rate: one number, or one for each of vision, connector, decoder."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up: to zero along a cosine or a line, or not at all."""
    warmup: float = Field(default=0.03, ge=0)
    """Below 1: share of all steps; from 1 on: number of steps over which the rate rises from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay (AdamW), on matrices only, not on norms and biases."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    eps: float = Field(default=1e-8, gt=0)
    """AdamW's term against division by zero."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest global norm of the gradient; null switches clipping off."""

    def rate(self, component: str) -> float:
        """Peak learning rate of one of `COMPONENTS`."""
        return self.lr if isinstance(self.lr, float) else float(getattr(self.lr, component))


class BatchSection(Section):
    examples: int = Field(default=16, gt=0)
    """Examples (token trees) an optimiser step consumes, over all devices."""
    row_tokens: int = Field(default=8192, gt=0)
    """Tokens in one packed row, which is one forward pass. Halve it when memory runs out: the result stays the same."""


class EarlyStopping(Section):
    patience: int = Field(default=3, gt=0)
    """Evaluations without a better held-out loss before the run ends."""
    min_delta: float = Field(default=0.0, ge=0)
    """What counts as better: a loss lower by more than this."""


class EvalSection(Section):
    data: tuple[DataSection, ...] = ()
    """Held-out sources. Without them, before and after are measured on the first training examples, and marked so."""
    examples: int = Field(default=200, gt=0)
    """Largest number of held-out examples whose loss is measured."""
    samples: int = Field(default=8, ge=0)
    """Held-out examples that are answered before and after training, for the report."""
    max_new_tokens: int = Field(default=64, gt=0)
    """Longest answer of those, in tokens."""


class RunSection(Section):
    dir: Path
    """Where the run writes: checkpoints, logs, the final model, the report."""
    steps: int | None = Field(default=None, gt=0)
    """Optimiser steps."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the data instead of steps."""
    save_every: int = Field(default=100, gt=0)
    """Steps between checkpoints; the last step is always saved."""
    eval_every: int | None = Field(default=None, gt=0)
    """Steps between measurements of the held-out loss; only before and after when left out."""
    log_every: int = Field(default=1, gt=0)
    """Steps between lines of the log."""
    keep_last: int = Field(default=2, gt=0)
    """Newest checkpoints kept."""
    keep_best: bool = True
    """Keep the checkpoint with the lowest held-out loss as well."""
    early_stopping: EarlyStopping | None = None
    """End when the held-out loss stops falling."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Decides the order of the data and every random draw."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes CUDA, then Apple's MPS, then the CPU."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: a third more time, far less memory."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Where curves go besides metrics.jsonl: any of accelerate's trackers (tensorboard, wandb, mlflow, ...)."""
    workers: int = Field(default=2, ge=0)
    """Threads that prepare the next steps' pictures."""

    @model_validator(mode="after")
    def _length_and_evaluations(self) -> RunSection:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        if self.early_stopping and not self.eval_every:
            raise ValueError("early_stopping compares held-out losses; set eval_every")
        return self


class Recipe(Section):
    model: ModelSection
    adapters: LoraSection | None = None
    """Small trainable updates beside frozen weights (PEFT); full fine-tuning when left out."""
    freeze: FreezeSection = FreezeSection()
    data: tuple[DataSection, ...] = Field(min_length=1)
    images: ImagesSection = ImagesSection()
    objective: SftSection | PreferenceSection = Field(default=SftSection(), discriminator="kind")
    cache: CacheSection = CacheSection()
    optim: OptimSection = OptimSection()
    batch: BatchSection = BatchSection()
    eval: EvalSection = EvalSection()
    run: RunSection

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        weights = [source.weight is not None for source in self.data]
        if any(weights) and not all(weights):
            raise ValueError("some sources of data have a weight and some have none; give one to each, or to none")
        if self.run.early_stopping and not self.eval.data:
            raise ValueError("early_stopping needs held-out data; set eval.data")
        for part in COMPONENTS:
            if self.trains(part) and self.optim.rate(part) == 0:
                raise ValueError(f"{part} has learning rate 0 but is not frozen; set freeze.{part}: true or optim.lr")
        if self.adapters and self.freeze != FreezeSection():
            raise ValueError("adapters freeze all other weights by themselves; leave freeze out, and choose parts by adapters.on")
        if self.cache.features and self.trains("vision"):
            mend = "leave vision out of adapters.on" if self.adapters else "set freeze.vision: true"
            raise ValueError(f"cache.features keeps what the vision tower says, and the tower changes here; {mend}")
        if isinstance(self.objective, PreferenceSection):
            self._reference_agrees(self.objective)
        return self

    def _reference_agrees(self, objective: PreferenceSection) -> None:
        reference = objective.reference
        if reference.kind == "adapters_off" and not self.adapters:
            raise ValueError("objective.reference.kind: adapters_off needs adapters; choose copy or precomputed")
        at_hand = self.adapters and not reference.model
        if isinstance(objective.picture, NoiseSection) and not at_hand and reference.kind == "auto":
            raise ValueError("noise needs a reference at hand while training; set objective.reference.kind: copy")
        if reference.model and self.cache.features:
            raise ValueError("another reference model sees pictures with its own tower; leave cache.features out")

    def trains(self, part: str) -> bool:
        """Whether any weight of one of `COMPONENTS` changes."""
        if self.adapters:
            return {"decoder": "text"}.get(part, part) in self.adapters.on
        return not getattr(self.freeze, part)


# What may differ between a run and its continuation. Of these only batch.row_tokens touches the weights: sums are added in
# another order, and an example that no longer fits gives up tiles or text, which is counted. It is what helps against
# running out of memory.
FREE_TO_CHANGE = (
    "run.dir", "run.save_every", "run.keep_last", "run.log_every", "run.trackers", "run.workers", "run.device",
    "run.gradient_checkpointing", "batch.row_tokens", "eval.samples", "eval.max_new_tokens", "cache", "objective.reference.store",
)  # fmt: skip


UNION_TAGS = ("float", "constrained-float", "sft", "dpo", "crop", "noise")
FREE = tuple(f"{key}." for key in FREE_TO_CHANGE)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML file, apply `key=value` overrides, validate.

    Raises:
        RecipeError: unreadable file, unknown key, wrong type or options that exclude each other.
    """
    file = Path(path)
    if not file.is_file():
        raise RecipeError("no such recipe", where=file, mend="check the path; recipes/ holds examples")
    try:
        tree = _read_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"not valid YAML ({error})", where=file, mend="mend the line it names") from error
    return parse_recipe(tree, overrides, where=str(file))


def parse_recipe(tree: Any, overrides: Sequence[str] = (), *, where: str = "recipe") -> Recipe:
    """Validate a mapping as a recipe.

    Raises:
        RecipeError: as `load_recipe`.
    """
    if not isinstance(tree, dict):
        raise RecipeError("a recipe is a mapping of sections", where=where, mend="start from one in recipes/")
    for override in overrides:
        _apply_override(tree, override)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        # a misspelling explains the rest, and of a union's branches the one that got furthest is the one that was meant
        errors = sorted(error.errors(), key=lambda e: (e["type"] != "extra_forbidden", -len(e["loc"])))
        raise RecipeError(_explain(errors[0]), where=where) from error


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Settings that change the weights and differ, as `key: old -> new`.

    >>> differences({"optim": {"lr": 1.0}, "run": {"dir": "a"}}, {"optim": {"lr": 2.0}, "run": {"dir": "b"}})
    ['optim.lr: 1.0 -> 2.0']
    """
    a, b = dict(_leaves(old)), dict(_leaves(new))
    keys = [key for key in (*a, *(key for key in b if key not in a)) if a.get(key) != b.get(key)]
    return [f"{key}: {a.get(key)} -> {b.get(key)}" for key in keys if not f"{key}.".startswith(FREE)]


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    for key, value in items:
        name = f"{prefix}{key}"
        if isinstance(value, Mapping | list | tuple) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


class _Loader(yaml.SafeLoader):
    """YAML 1.2's truth values: `on`, `off`, `yes` and `no` are words, as in `adapters: {on: [text]}`."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        letter: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:bool" or letter in "tTfF"]
        for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _read_yaml(text: str) -> Any:
    return yaml.load(text, _Loader)


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise RecipeError("an override reads key=value", where=override, mend="for example run.steps=100")
    try:
        value = _read_yaml(text)
    except yaml.YAMLError as error:
        raise RecipeError("the value is not valid YAML", where=override, mend="quote it") from error
    *path, last = key.split(".")
    node: Any = tree
    for name in path:
        if isinstance(node, list) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        elif isinstance(node, dict):
            if not isinstance(node.get(name), dict | list):
                node[name] = {}
            node = node[name]
        else:
            raise RecipeError(f"there is no {name} to set", where=override, mend="check the key's path")
    if isinstance(node, list):
        if not (last.isdigit() and int(last) < len(node)):
            raise RecipeError(f"the list has {len(node)} entries", where=override, mend="count from 0")
        node[int(last)] = value
    else:
        node[last] = value


def _explain(error: ErrorDetails) -> str:
    place = ".".join(str(part) for part in error["loc"] if not _is_union_tag(part))
    if error["type"] == "extra_forbidden":
        known = _fields_at(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"unknown key {place}; {hint}"
    if error["type"] == "missing":
        return f"{place} is missing"
    if error["type"] == "union_tag_not_found":
        near = difflib.get_close_matches("kind", map(str, error["input"]), n=1, cutoff=0.5)
        return f"unknown key {place}.{near[0]}; did you mean kind?" if near else f"{place}.kind is missing"
    if error["type"] == "union_tag_invalid":
        return f"{place}.kind is one of {error['ctx']['expected_tags']} (given: {error['ctx']['tag']!r})"
    if error["type"] == "model_type":
        return f"{place}: a section is a mapping of settings, not {error['input']!r}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        known = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        if near := difflib.get_close_matches(error["input"], known, n=1):
            message = f"{message}; did you mean {near[0]}?"
    given = "" if isinstance(error["input"], dict) else f" (given: {error['input']!r})"
    return f"{place}: {message}{given}" if place else message


def _is_union_tag(part: int | str) -> bool:
    """pydantic puts the tried branch of a union (`float`, `RatesSection`, a section's kind) into an error's path."""
    return part in UNION_TAGS or (isinstance(part, str) and (part.endswith("Section") or part.startswith(("literal[", "dict["))))


def _fields_at(path: tuple[int | str, ...]) -> list[str]:
    section: type[Section] = Recipe
    for part, tag in zip(path, (*path[1:], None)):
        if isinstance(part, str) and part in section.model_fields:
            found = list(_sections_in(section.model_fields[part].annotation))
            meant = (one for one in found if "kind" in one.model_fields and tag in get_args(one.model_fields["kind"].annotation))
            section = next(meant, found[0] if found else section)
    return list(section.model_fields)


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, tuple, Annotated):
        for inner in get_args(annotation):
            yield from _sections_in(inner)
