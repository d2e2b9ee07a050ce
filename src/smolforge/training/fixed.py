"""Work that cannot change is done once: pictures' features behind the deepest frozen boundary, and what the reference says."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from smolforge.data.batch import PackedBatch
from smolforge.data.features import FeatureCache, cache_folder, feature_folder
from smolforge.data.pipeline import Stream
from smolforge.errors import CheckpointError, DataError, TrainingError
from smolforge.model.adapters import weights_fingerprint
from smolforge.model.tree import TreeModel
from smolforge.objectives import Objective
from smolforge.objectives.reference import Reference, ReferenceStore, frozen, kept, split, store_file, without_adapters
from smolforge.recipe import PreferenceSection, Recipe
from smolforge.training.runtime import Runtime

CHUNK = 64  # examples whose log-probs are kept at a time
SPEAK_SECONDS = 10
SAMPLE = 64  # examples that the features' size is estimated from


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """Adds to a row what stays the same while the model trains."""

    model: TreeModel
    objective: Objective
    features: FeatureCache | None = None
    reference: Reference | None = None
    store: ReferenceStore | None = None  # where the reference is kept, when it is computed ahead ...
    ahead: Reference | None = None  # ... by this
    own_start: bool = True  # the reference is what the run starts from
    start: str | None = None  # fingerprint of the run's first weights, for a continuation

    def add(self, row: PackedBatch, *, compare: bool) -> PackedBatch:
        """The row with features for tiles and, when it is compared, the reference's log-probs. The row is on the device."""
        unseen, row = row, self.model.see(row)
        if self.features is not None and row.features is not None and unseen.pictures:
            sizes = [tiles for _, tiles in unseen.pictures]
            for (key, _), features in zip(unseen.pictures, row.features[-sum(sizes) :].split(sizes)):
                self.features.put(key, features)
        if self.objective.own_words:
            row = own_words(self.model, row)
            unseen = replace(unseen, targets=row.targets)
        if compare and self.reference is not None:
            row = replace(row, reference=self.reference(row if self.own_start else unseen))
        return row


def own_words(model: TreeModel, row: PackedBatch) -> PackedBatch:
    """POVID: under spoilt pictures each scored token becomes what the model itself would say there."""
    spoilt = torch.tensor([response.distorted for response in row.responses], device=row.targets.device)
    if not spoilt.any():
        return row
    mode = model.training
    model.eval()  # its own words, not those of a model with parts dropped
    own = torch.where(spoilt[row.response_ids], model.likeliest(row), row.targets)
    model.train(mode)
    return replace(row, targets=own)


def open_features(recipe: Recipe, model: TreeModel) -> FeatureCache | None:
    """The feature cache that fits this model, when the recipe wants one and the model sees."""
    boundary = model.boundary
    if not recipe.cache.features or boundary is None:
        return None
    parts = {"vision": model.vision} | ({"connector": model.connector} if boundary == "connector" else {})
    folder = feature_folder(cache_folder(recipe.cache.dir), weights_fingerprint(parts), boundary, model.dtype)
    return FeatureCache(folder=folder, max_bytes=int(recipe.cache.max_gb * 1e9), dtype=model.dtype)


def fix(
    recipe: Recipe,
    model: TreeModel,
    objective: Objective,
    features: FeatureCache | None,
    *,
    load: Callable[[str], TreeModel],
    passes: float,
    start: str | None,
) -> Fixed:
    """What stays the same in a run.

    Args:
        load: a model by name, for a reference that is not the policy itself.
        passes: how often each example will be seen.
        start: fingerprint of the weights that the run started from; None when it starts now, from the model as it is.

    Raises:
        UserError: the reference cannot be loaded, or a store belongs to another one.
    """
    section = recipe.objective
    if not isinstance(section, PreferenceSection):
        return Fixed(model=model, objective=objective, features=features)
    asked, kind, own = section.reference, section.reference.kind, section.reference.model is None
    if kind == "auto":
        never_again = passes <= 1 or objective.own_words or objective.shaping.others  # KTO lends other answers each time
        kind = "adapters_off" if model.adapters and own and never_again else "precomputed"
    if start is None:
        start = weights_fingerprint({"model": model.model})
    elif model.adapters:  # a continuation, whose base should lie there as it did
        unchanged_since(start, model)
    made = Fixed(model=model, objective=objective, features=features, own_start=own, start=start)
    if model.adapters and own:
        reference = without_adapters(model)
    elif own:
        reference = lazy(lambda: frozen(unchanged_since(start, load(recipe.model.name))))
    else:
        other = load(str(asked.model))
        reference = frozen(other)
    if kind in ("adapters_off", "copy"):
        return replace(made, reference=reference)
    weights = start if own else weights_fingerprint({"model": other.model})
    file = asked.store or store_file(cache_folder(recipe.cache.dir), weights, recipe.model.dtype)
    store = ReferenceStore(file, weights=weights, dtype=recipe.model.dtype)
    ahead = unchanged(model) if own and not model.adapters else reference
    return replace(made, reference=kept(store, reference), store=store, ahead=ahead)


def keep_references(
    fixed: Fixed, stream: Stream, places: Sequence[int], runtime: Runtime, say: Callable[[str], None], *, what: str
) -> None:
    """Compute and keep the reference's log-probs of examples that are not kept yet; features of pictures come with them.

    Interrupted, the next attempt goes on behind the last chunk.

    Args:
        places: indices of the mixed stream.
        what: how the examples are called in messages.
    """
    assert fixed.store is not None
    assert fixed.ahead is not None
    mine = places[runtime.rank :: runtime.world]
    done, usable, began, spoken = 0, 0, time.monotonic(), time.monotonic()
    for first in range(0, len(mine), CHUNK):
        chunk = mine[first : first + CHUNK]
        keys = {place: key for place in chunk if (key := stream.key(place))}
        usable += len(keys)
        missing = fixed.store.missing([*keys.values()])
        values: dict[str, np.ndarray] = {}
        for row in stream.step([place for place, key in keys.items() if key in missing]).rows:
            unseen = row.to(runtime.device)
            row = fixed.add(unseen, compare=False)
            log_probs = fixed.ahead(row if fixed.own_start else unseen)  # another model has its own eyes
            if not torch.isfinite(log_probs).all():
                raise TrainingError(
                    "the reference's log-probs are not finite", where=", ".join(row.ids), mend="look at these rows"
                )
            values |= split(row, log_probs)
        fixed.store.put(values)
        done += len(values)
        now = time.monotonic()
        if now - spoken > SPEAK_SECONDS:
            left = (now - began) / (first + len(chunk)) * (len(mine) - first - len(chunk))
            say(f"reference of {what}: {first + len(chunk):,} of {len(mine):,}, {left:.0f} s left")
            spoken = now
    runtime.wait()
    took, file = time.monotonic() - began, fixed.store.kept.file
    rest = f"{usable - done:,} kept before, {len(mine) - usable:,} unusable"
    say(f"reference of {what}: {done:,} computed in {took:.0f} s, {rest}; {file}")


def announce_features(fixed: Fixed, stream: Stream, examples: int, say: Callable[[str], None]) -> None:
    """Say how much space the features will take, before any is written.

    Args:
        examples: that the run will see.

    Raises:
        CheckpointError: the disk has not that much.
    """
    cache, model = fixed.features, fixed.model
    if cache is None:
        return
    pictures: dict[str, int] = {}
    seen = 0
    for place in range(min(SAMPLE, stream.num_rows)):
        try:
            example = stream.example(place)
        except DataError:
            continue
        seen += 1
        pictures |= {image.key: len(image.starts) for image in example.images}
    sizes = len(stream.edges) if stream.edges else 1  # a picture is kept at each size that it is shown at
    tiles = sum(pictures.values()) / max(1, seen) * min(stream.num_rows * sizes, examples)
    tile_bytes = model.feature_size * model.dtype.itemsize
    needed, limit = tiles * tile_bytes, cache.max_bytes
    cache.folder.mkdir(parents=True, exist_ok=True)
    free, have = shutil.disk_usage(cache.folder).free, cache.size()
    words = f"features: about {needed / 1e6:,.0f} MB for {tiles:,.0f} tiles, {have / 1e6:,.0f} MB there, in {cache.folder}"
    if needed > limit:
        words += f"; more than cache.max_gb = {limit / 1e9:g}, so the pictures unused for the longest time are encoded again"
    say(words)
    if min(needed, limit) - have > free:
        raise CheckpointError(
            f"the disk has {free / 1e9:.1f} GB free", where=cache.folder, mend="choose another cache.dir or a lower cache.max_gb"
        )


def unchanged_since(start: str, model: TreeModel) -> TreeModel:
    """The model, when its weights (adapters aside) are those that the run started from.

    Raises:
        CheckpointError: they are not.
    """
    if weights_fingerprint({"model": model.model}) != start:
        raise CheckpointError(
            "the model that the run started from has changed since", where="model.name", mend="put it back, or start a new run"
        )
    return model


def unchanged(model: TreeModel) -> Reference:
    """The policy itself, as long as no step has changed it."""

    @torch.no_grad()
    def reference(row: PackedBatch) -> torch.Tensor:
        model.eval()
        return model(row)

    return reference


def lazy(make: Callable[[], Reference]) -> Reference:
    """A reference that is loaded when it is first asked."""
    made: list[Reference] = []

    def reference(row: PackedBatch) -> torch.Tensor:
        if not made:
            made.append(make())
        return made[0](row)

    return reference
