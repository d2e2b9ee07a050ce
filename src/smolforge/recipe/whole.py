"""The whole recipe, and what may change between a run and its continuation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from smolforge.recipe.adapters import AnyAdapter, QuantizeSection, parts_of
from smolforge.recipe.base import Section
from smolforge.recipe.objectives import NoiseSection, PreferenceSection, SftSection
from smolforge.recipe.sections import (
    COMPONENTS,
    SPLIT,
    SPLIT_MEND,
    BatchSection,
    CacheSection,
    DataSection,
    EvalSection,
    FreezeSection,
    ImagesSection,
    MixtureSection,
    ModelSection,
    OptimSection,
    RatesSection,
    RunSection,
    VideoSection,
)


class Recipe(Section):
    model: ModelSection
    adapters: AnyAdapter | None = None
    """Small trainable updates beside frozen weights (method: lora unless said otherwise); full fine-tuning when left out."""
    quantize: QuantizeSection | None = None
    """Keep the frozen weights in 4 or 8 bits (bitsandbytes). Needs adapters."""
    freeze: FreezeSection = FreezeSection()
    data: tuple[DataSection, ...] = Field(min_length=1)
    mixture: MixtureSection | None = None
    """Share of the examples by modality; by the sources' weights alone when left out."""
    images: ImagesSection = ImagesSection()
    video: VideoSection = VideoSection()
    objective: SftSection | PreferenceSection = Field(default=SftSection(), discriminator="kind")
    cache: CacheSection = CacheSection()
    optim: OptimSection = OptimSection()
    batch: BatchSection = BatchSection()
    eval: EvalSection = EvalSection()
    run: RunSection

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        for where, sections in (("data", self.data), ("eval.data", self.eval.data)):
            for number, one in enumerate(sections):
                if not re.fullmatch(SPLIT, one.split):
                    raise ValueError(f"{where}.{number}.split: not a split ({one.split!r}); {SPLIT_MEND}")
        weights = [source.weight is not None for source in self.data]
        if any(weights) and not all(weights) and self.mixture is None:
            raise ValueError("some sources of data have a weight and some have none; give one to each, or to none")
        if self.mixture is not None and not any(self.mixture.model_dump().values()):
            raise ValueError("mixture gives every modality nothing; set the shares of those that data has")
        if any(source.streaming for source in self.data) and self.run.steps is None:
            raise ValueError("a stream has no length, so epochs cannot be counted; set run.steps")
        if self.run.early_stopping and not self.eval.data:
            raise ValueError("early_stopping needs held-out data; set eval.data")
        self._rates_agree()
        if self.adapters and self.freeze != FreezeSection():
            raise ValueError("adapters freeze all other weights by themselves; leave freeze out, and choose parts by adapters.on")
        if self.cache.features and self.trains("vision"):
            mend = "leave vision out of adapters.on" if self.adapters else "set freeze.vision: true"
            raise ValueError(f"cache.features keeps what the vision tower says, and the tower changes here; {mend}")
        if isinstance(self.objective, PreferenceSection):
            self._reference_agrees(self.objective)
        self._quantization_agrees()
        return self

    def _rates_agree(self) -> None:
        """What trains has a rate, and beside adapters a rate has something that trains by it."""
        rates = self.optim.lr
        by_part = rates if isinstance(rates, RatesSection) else None
        if by_part and by_part.adapters is not None and self.adapters is None:
            raise ValueError("optim.lr.adapters is set and there are no adapters; leave it out")
        for part in COMPONENTS:
            if self._rate(part) == 0:
                if not self.adapters:
                    mend = f"set freeze.{part}: true or optim.lr"
                    raise ValueError(f"{part} has learning rate 0 but is not frozen; {mend}")
                where = part if part in getattr(self.adapters, "train", ()) else "adapters"
                raise ValueError(f"{where} would train at learning rate 0; set optim.lr.{where}")
        full = COMPONENTS if by_part is None or by_part.adapters is None else getattr(self.adapters, "train", ())
        for part in COMPONENTS if by_part and self.adapters else ():  # freeze may come and go above rates that stay
            if getattr(by_part, part) > 0 and not (self.trains(part) and part in full):
                raise ValueError(f"optim.lr.{part} is set, but nothing there learns by it; leave it out")

    def _rate(self, part: str) -> float | None:
        """Peak learning rate of what trains in a part; None where nothing does."""
        if not self.trains(part):
            return None
        beside = self.adapters is not None and part not in getattr(self.adapters, "train", ())
        return self.optim.rate(part, adapter=beside)

    def _quantization_agrees(self) -> None:
        if self.quantize is None:
            return
        if self.adapters is None:
            raise ValueError("quantised weights cannot be trained themselves; give adapters, or leave quantize out")
        if self.adapters.method == "pissa":
            raise ValueError("pissa changes the base weights when it starts, and quantised ones cannot be; use lora or dora")

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
        """Whether any weight of one of `COMPONENTS` changes, at whatever step."""
        if self.adapters:
            return {"decoder": "text"}.get(part, part) in parts_of(self.adapters)
        return self.freeze.until(part) >= 0


# What may differ between a run and its continuation. Of these only batch.row_tokens touches the weights: sums are added in
# another order, and an example that no longer fits gives up tiles or text, which is counted. It is what helps against
# running out of memory.
FREE_TO_CHANGE = (
    "run.dir", "run.save_every", "run.keep_last", "run.log_every", "run.trackers", "run.workers", "run.device",
    "run.gradient_checkpointing", "batch.row_tokens", "eval.samples", "eval.max_new_tokens", "cache", "objective.reference.store",
    "run.other_data",
)  # fmt: skip
SWITCHES = ("objective.kind", "adapters.method", "quantize.kind")  # what decides which settings a section has
FREE = tuple(f"{key}." for key in FREE_TO_CHANGE)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Settings that change the weights and differ, as `key: old -> new`.

    >>> differences({"optim": {"lr": 1.0}, "run": {"dir": "a"}}, {"optim": {"lr": 2.0}, "run": {"dir": "b"}})
    ['optim.lr: 1.0 -> 2.0']
    """
    a, b = dict(_leaves(old)), dict(_leaves(new))
    keys = [key for key in (*a, *(key for key in b if key not in a)) if a.get(key) != b.get(key)]
    return [f"{key}: {a.get(key)} -> {b.get(key)}" for key in keys if not f"{key}.".startswith(FREE)]


def changes_said(old: Mapping[str, Any], new: Recipe) -> list[str]:
    """Those of `differences` that a person wrote: what came along with them, as another section's defaults, says nothing.

    All of them where nobody wrote any: then the defaults are others than they were.

    Args:
        old: as a run keeps it, all settings written out.
    """
    found = differences(old, new.model_dump(mode="json"))
    written = {key for key, _ in _leaves(new.model_dump(mode="json", exclude_unset=True))} | set(SWITCHES)
    try:
        written |= {key for key, _ in _leaves(Recipe.model_validate(old).model_dump(mode="json", exclude_defaults=True))}
    except ValidationError:  # of a version that knew other settings: what it had by default is not known
        return found
    return [line for line in found if line.partition(": ")[0] in written] or found


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    for key, value in items:
        name = f"{prefix}{key}"
        if isinstance(value, Mapping | list | tuple) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value
