"""Sections about what is learnt: supervised fine-tuning and preferences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from smolforge.recipe.base import Section


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
