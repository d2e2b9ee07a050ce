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
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
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

    @model_validator(mode="after")
    def _something_trains(self) -> FreezeSection:
        if all(getattr(self, part) for part in COMPONENTS):
            raise ValueError("everything is frozen; leave one of vision, connector, decoder unfrozen")
        return self


class DataSection(Section):
    source: str
    """A source by name (scenes, the_cauldron, coco_captions, smoltalk), a file (.jsonl, .json, .csv, .parquet), a folder
    of pictures or of a saved dataset, or a Hub dataset name."""
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
    freeze: FreezeSection = FreezeSection()
    data: tuple[DataSection, ...] = Field(min_length=1)
    images: ImagesSection = ImagesSection()
    objective: SftSection = SftSection()
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
            if not getattr(self.freeze, part) and self.optim.rate(part) == 0:
                raise ValueError(f"{part} has learning rate 0 but is not frozen; set freeze.{part}: true or optim.lr")
        return self


# What may differ between a run and its continuation. Of these only batch.row_tokens touches the weights: sums are added in
# another order, and an example that no longer fits gives up tiles or text, which is counted. It is what helps against
# running out of memory.
FREE_TO_CHANGE = (
    "run.dir", "run.save_every", "run.keep_last", "run.log_every", "run.trackers", "run.workers", "run.device",
    "run.gradient_checkpointing", "batch.row_tokens", "eval.samples", "eval.max_new_tokens",
)  # fmt: skip


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
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
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


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise RecipeError("an override reads key=value", where=override, mend="for example run.steps=100")
    try:
        value = yaml.safe_load(text)
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
    if error["type"] == "model_type":
        return f"{place}: a section is a mapping of settings, not {error['input']!r}"
    message = error["msg"].removeprefix("Value error, ")
    given = "" if isinstance(error["input"], dict) else f" (given: {error['input']!r})"
    return f"{place}: {message}{given}" if place else message


def _is_union_tag(part: int | str) -> bool:
    """pydantic puts the tried branch of a union (`float`, `RatesSection`) into an error's path."""
    return part in ("float", "constrained-float") or (isinstance(part, str) and part.endswith("Section"))


def _fields_at(path: tuple[int | str, ...]) -> list[str]:
    section: type[Section] = Recipe
    for part in path:
        if isinstance(part, str) and part in section.model_fields:
            section = next(iter(_sections_in(section.model_fields[part].annotation)), section)
    return list(section.model_fields)


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, tuple, Annotated):
        for inner in get_args(annotation):
            yield from _sections_in(inner)
