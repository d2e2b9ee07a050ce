"""Sections about adapters, and about the frozen weights that they stand beside."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from smolforge.recipe.base import Section

Part = Literal["text", "connector", "vision"]


class _Beside(Section):
    """What all adapters share that stand beside linear layers."""

    on: tuple[Part, ...] = Field(default=("text",), min_length=1)
    """Parts of the model that get adapters. Everything else, and the base weights themselves, stay as they are."""
    target_modules: tuple[str, ...] | None = None
    """Endings of the linear layers' names within these parts, such as q_proj; the method's usual layers when left out."""
    train: tuple[Literal["connector"], ...] = ()
    """Parts that are trained in full beside the adapters, and saved with them."""

    @model_validator(mode="after")
    def _one_or_the_other(self) -> _Beside:
        if both := [part for part in self.train if part in self.on]:
            raise ValueError(f"{both[0]} would get adapters and be trained in full; leave it out of on or of train")
        return self


class LoraSection(_Beside):
    method: Literal["lora", "dora", "rslora", "pissa"] = "lora"
    """lora: low-rank updates (Hu et al. 2021); dora: with weight-decomposed magnitudes (Liu et al. 2024); rslora: scaled by
    alpha / sqrt(r), for high ranks (Kalajdzievski 2023); pissa: starting from the principal
    singular vectors (Meng et al. 2024)."""
    r: int = Field(default=8, gt=0)
    """Rank of the updates."""
    alpha: float = Field(default=16, gt=0)
    """Scale of the updates: they are multiplied by alpha / r (rslora: alpha / sqrt(r))."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the inputs of the updates that is dropped while training."""
    init: Literal["default", "gaussian"] = "default"
    """How A is drawn (B starts at zero): Kaiming uniform, or Gaussian. Not of pissa, which draws nothing."""

    @model_validator(mode="after")
    def _options_apply(self) -> LoraSection:
        if self.method == "pissa" and self.init != "default":
            raise ValueError("pissa starts from singular vectors; leave init out")
        if self.method == "pissa" and self.dropout:
            raise ValueError("pissa's updates hold part of the weights themselves, which dropout would drop; leave dropout out")
        return self


class AdaloraSection(_Beside):
    method: Literal["adalora"]
    """Ranks moved to where they matter while training (Zhang et al. 2023)."""
    r: int = Field(default=8, gt=0)
    """Mean rank of the updates at the end."""
    init_r: int = Field(default=12, gt=0)
    """Rank of every update at the beginning."""
    alpha: float = Field(default=16, gt=0)
    """Scale of the updates: they are multiplied by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the inputs of the updates that is dropped while training."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps before the first rank is given up."""
    settle: float = Field(default=0.3, ge=0, lt=1)
    """Share of all steps, at the end, in which ranks no longer change."""
    every: int = Field(default=1, gt=0)
    """Steps between changes of the ranks."""
    orthogonality: float = Field(default=0.5, gt=0)
    """Weight of the penalty that keeps singular vectors orthogonal."""

    @model_validator(mode="after")
    def _ranks_fall(self) -> AdaloraSection:
        if self.init_r <= self.r:
            raise ValueError("init_r is the rank before any is given up; it must be above r")
        if self.warmup + self.settle >= 1:
            raise ValueError("warmup and settle leave no step in which ranks change; together they stay below 1")
        return self


class VeraSection(_Beside):
    method: Literal["vera"]
    """Random matrices that all layers share, with trained scales (Kopiczko et al. 2024)."""
    r: int = Field(default=256, gt=0)
    """Rank of the shared matrices."""
    d_initial: float = Field(default=0.1, gt=0)
    """First value of the scales d."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the inputs of the updates that is dropped while training."""
    seed: int = Field(default=0, ge=0)
    """Of the random matrices."""


class Ia3Section(_Beside):
    method: Literal["ia3"]
    """Learned scales of keys, values and the MLP's inner activations (Liu et al. 2022)."""


class BottleneckSection(Section):
    method: Literal["bottleneck"]
    """Small MLPs with a residual connection inside the layers (Houlsby et al. 2019)."""
    r: int = Field(default=64, gt=0)
    """Width of the bottleneck."""
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    """houlsby: behind attention and behind the MLP of every layer; pfeiffer: behind the MLP only (Pfeiffer et al. 2021)."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """Between the two projections."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the inputs that is dropped while training."""
    on: tuple[Literal["text", "vision"], ...] = Field(default=("text",), min_length=1)
    """Parts of the model whose layers get them."""


class PrefixSection(Section):
    method: Literal["prefix"]
    """Learned keys and values in front of every layer of the language model (Li and Liang 2021; without projection: P-tuning v2,
    Liu et al. 2022)."""
    tokens: int = Field(default=20, gt=0)
    """Length of the prefix."""
    projection: bool = False
    """Learn the prefix through a small MLP, which is dropped afterwards; false is P-tuning v2."""
    hidden: int | None = Field(default=None, gt=0)
    """Width of that MLP; the model's own when left out."""

    @model_validator(mode="after")
    def _options_apply(self) -> PrefixSection:
        if self.hidden and not self.projection:
            raise ValueError("hidden is the width of the projection; set projection: true or leave it out")
        return self


class PromptSection(Section):
    method: Literal["prompt"]
    """Learned embeddings in front of the prompt (Lester et al. 2021)."""
    tokens: int = Field(default=20, gt=0)
    """Number of virtual tokens."""
    init: Literal["vocabulary", "random"] = "vocabulary"
    """They start as embeddings of tokens drawn from the vocabulary, or as random numbers."""


class PTuningSection(Section):
    method: Literal["p_tuning"]
    """Embeddings in front of the prompt, made by a small network (Liu et al. 2021)."""
    tokens: int = Field(default=20, gt=0)
    """Number of virtual tokens."""
    encoder: Literal["mlp", "lstm"] = "mlp"
    """The network."""
    hidden: int | None = Field(default=None, gt=0)
    """Its width; the model's own when left out."""
    layers: int = Field(default=2, gt=0)
    """Its layers (lstm)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout in it while training (lstm)."""

    @model_validator(mode="after")
    def _options_apply(self) -> PTuningSection:
        if self.encoder == "mlp" and (self.layers != 2 or self.dropout):
            raise ValueError("layers and dropout belong to encoder: lstm; choose it or leave them out")
        return self


InLayers = LoraSection | AdaloraSection | VeraSection | Ia3Section  # beside linear layers, by PEFT
VirtualTokens = PrefixSection | PromptSection | PTuningSection  # in front of the text, by PEFT
AdapterSection = InLayers | BottleneckSection | VirtualTokens
METHODS: tuple[str, ...] = tuple(
    method for section in get_args(AdapterSection) for method in get_args(section.model_fields["method"].annotation)
)


OTHER_NAMES = {
    "qlora": "method: lora with quantize: {kind: nf4}", "qdora": "method: dora with quantize: {kind: nf4}",
    "houlsby": "method: bottleneck with placement: houlsby", "pfeiffer": "method: bottleneck with placement: pfeiffer",
    "p_tuning_v2": "method: prefix", "prefix_tuning": "method: prefix with projection: true", "prompt_tuning": "method: prompt",
}  # fmt: skip


def _lora_unless_said(section: Any) -> Any:
    if not isinstance(section, dict):
        return section
    if isinstance(method := section.get("method"), str) and method in OTHER_NAMES:
        raise ValueError(f"{method} is written as {OTHER_NAMES[method]}")
    return {"method": "lora"} | section


AnyAdapter = Annotated[AdapterSection, Field(discriminator="method"), BeforeValidator(_lora_unless_said)]


class QuantizeSection(Section):
    kind: Literal["nf4", "fp4", "int8"] = "nf4"
    """How frozen weights are kept: 4-bit NormalFloat (QLoRA, Dettmers et al. 2023), 4-bit floats, 8-bit integers (LLM.int8())."""
    double: bool = True
    """Quantise the scales of the 4-bit kinds as well: 0.37 bits less a weight."""
    compute: Literal["bfloat16", "float32"] = "bfloat16"
    """What they are multiplied in (4-bit kinds)."""
    on: tuple[Literal["text", "vision"], ...] = Field(default=("text", "vision"), min_length=1)
    """Parts whose linear layers are quantised. Embeddings, head, norms and connector never are."""

    @model_validator(mode="after")
    def _options_apply(self) -> QuantizeSection:
        if self.kind == "int8" and (not self.double or self.compute != "bfloat16"):
            raise ValueError("double and compute belong to nf4 and fp4; leave them out, or choose one of these")
        return self


def parts_of(section: AdapterSection) -> tuple[str, ...]:
    """Parts of the model that a method changes: text, connector, vision."""
    if isinstance(section, VirtualTokens):
        return ("text",)
    return section.on + (section.train if isinstance(section, InLayers) else ())
