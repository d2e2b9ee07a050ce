"""From a recipe to what the loop needs: model, data, objective, optimiser, and where an earlier attempt stopped."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from smolforge.data.identity import Identity, changes, identities
from smolforge.data.mix import EachOnce
from smolforge.data.pack import refuse_repeated
from smolforge.data.pipeline import Stream, decode_pictures, open_stream
from smolforge.data.render import Renderer
from smolforge.data.tally import Tally
from smolforge.errors import CheckpointError, DataError
from smolforge.hub import local_folder
from smolforge.loading import base_folder, load_tree, merge, run_renderer, same_tokenizer
from smolforge.model.adapters import BASE, add_adapters, base_fingerprint, is_adapter, refuse_another_base
from smolforge.model.freeze import apply_freeze
from smolforge.model.quantize import quantize
from smolforge.model.tree import TreeModel
from smolforge.objectives import Objective, objective_of
from smolforge.recipe import COMPONENTS, Recipe
from smolforge.training.checkpoint import clear_leftovers, load_state, newest_checkpoint, processor_files, save_model
from smolforge.training.fixed import Fixed, fix, open_features
from smolforge.training.optim import Optimizer
from smolforge.training.place import refuse_other_recipe
from smolforge.training.runtime import Runtime
from smolforge.training.sharding import Sharding, refuse_unfit
from smolforge.wording import how_many


@dataclass
class Progress:
    """Where a run stands: all that a continuation must know besides weights and optimiser."""

    step: int = 0
    seconds: float = 0.0  # of training, over all attempts
    joules: float = 0.0  # that the device used meanwhile, where it tells; 0 where it does not
    before: dict[str, float] = field(default_factory=dict)  # held-out metrics of the starting point
    best: float | None = None  # lowest held-out loss
    best_step: int = 0
    waits: int = 0  # evaluations without a better one
    ended: bool = False  # by early stopping
    latest: dict[str, float] = field(default_factory=dict)  # held-out metrics last measured
    latest_step: int = -1  # at this step
    start: str | None = None  # fingerprint of the weights that references are kept by
    prepare_seconds: float = 0.0  # what was computed ahead took
    pictures_checked: bool = False  # every component that should train was seen to receive gradient
    data: dict[str, list[Identity]] = field(default_factory=dict)  # what was read: data and eval.data
    tally: Tally = field(default_factory=Tally)

    def to_json(self, recipe: Recipe) -> dict[str, Any]:
        """What goes into a checkpoint's state.json."""
        tally = vars(self.tally) | {name: dict(getattr(self.tally, name)) for name in ("dropped", "changed")}
        return vars(self) | {"tally": tally, "recipe": recipe.model_dump(mode="json")}

    @staticmethod
    def from_json(state: dict[str, Any]) -> Progress:
        known = {name: value for name, value in state.items() if name not in ("recipe", "tally")}
        tally = state["tally"]
        counters = {name: Counter(tally[name]) for name in ("dropped", "changed")}
        return Progress(**known, tally=Tally(**tally | counters))


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A run, ready to go."""

    recipe: Recipe
    folder: Path
    model: TreeModel
    processor: dict[str, bytes]  # the files that make a saved model complete
    stream: Stream
    eval_stream: Stream
    objective: Objective
    fixed: Fixed
    optimizer: Optimizer
    progress: Progress
    steps: int
    notes: tuple[str, ...] = ()  # what a continuation should be told of
    sharding: Sharding | None = None  # where the weights are spread over the processes

    def whole(self) -> AbstractContextManager[None]:
        """All weights on every process, for passes that the processes do not do together."""
        return self.sharding.whole() if self.sharding else nullcontext()

    def gathered(self) -> AbstractContextManager[None]:
        """Plain whole weights on the main process, to save them."""
        return self.sharding.gathered() if self.sharding else nullcontext()

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors that a continuation needs besides a whole model's weights."""
        return self.optimizer.state() | (self.model.adapters[0].state() if self.model.adapters else {})

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Put them back."""
        self.optimizer.load(state)
        for adapters in self.model.adapters:
            adapters.load_state(state)


def set_up(recipe: Recipe, runtime: Runtime) -> Setup:
    """Load and open everything, data before weights; continue from the run's newest checkpoint when there is one.

    Raises:
        UserError: anything that would make the run fail later.
    """
    folder = recipe.run.dir
    refuse_unfit(recipe, sharded=runtime.plugin is not None, mixed_precision=runtime.mixed_precision)
    if runtime.is_main:
        clear_leftovers(folder / "checkpoints")
    runtime.wait()
    checkpoint = newest_checkpoint(folder / "checkpoints")
    none = (lambda rows: range(0)) if runtime.plugin else None  # sharded weights ask for their own rows, once they are there
    state, tensors = load_state(checkpoint, none) if checkpoint else ({}, {})
    refuse_other_recipe(recipe, folder, state)
    progress = Progress.from_json(state) if state else Progress()
    begin = _begin(recipe, checkpoint)
    goes_on = checkpoint if checkpoint and recipe.adapters is None else begin  # adapters go on from their base
    whole = base_folder(goes_on)
    renderer = run_renderer(recipe, whole)
    objective = objective_of(recipe.objective)
    mixing: dict[str, Any] = {
        "mixture": recipe.mixture, "examples": recipe.batch.examples, "edges": recipe.images.random_edge,
    }  # fmt: skip
    stream = open_stream(recipe.data, renderer, shaping=objective.shaping, seed=recipe.run.seed, **mixing)
    eval_stream = open_stream(recipe.eval.data, renderer, shaping=objective.shaping, seed=0) if recipe.eval.data else stream
    # Without held-out data it is that of training, whose pictures may vary, and whose mixture gives some rows twice.
    eval_stream = replace(eval_stream, edges=None, mixture=EachOnce.of(eval_stream.mixture))
    data = {
        "data": identities(recipe.data, stream.sources), "eval.data": identities(recipe.eval.data, eval_stream.sources)
    }  # fmt: skip
    notes = refuse_other_data(recipe, progress.data, data) if state else ()
    progress.data = data
    refuse_repeated(recipe.batch.examples, stream.num_known)
    _meet_data(stream, recipe.batch.examples)

    steps = recipe.run.steps or math.ceil((recipe.run.epochs or 0) * stream.num_rows / recipe.batch.examples)

    def open_model(place: Path, rules: Renderer) -> TreeModel:
        tree = load_tree(place, rules, dtype=recipe.model.dtype, device=runtime.device)
        merge(tree)
        return tree

    def load(name: str) -> TreeModel:
        """A reference: what the run began with, or another model."""
        if name == recipe.model.name:
            tree = open_model(begin, renderer)
            if recipe.quantize:
                quantize(tree.model, recipe.quantize)
            return tree
        place = local_folder(name)
        other = run_renderer(recipe, base_folder(place))
        same_tokenizer(renderer, other, name)
        return open_model(place, other)

    model = open_model(goes_on, renderer)
    model.gradient_checkpointing = recipe.run.gradient_checkpointing or runtime.recomputes
    if recipe.adapters is None:
        apply_freeze(model.model, recipe.freeze, step=progress.step)
        model.thaws = tuple(part for part in COMPONENTS if recipe.freeze.until(part) > 0)
    else:
        if checkpoint:
            refuse_another_base(model.model, checkpoint)
        _put_adapters(recipe, begin, model, runtime, steps=steps, state=tensors)
    features = open_features(recipe, model)
    stream, eval_stream = (replace(one, features=features, tile_cost=model.tile_cost) for one in (stream, eval_stream))
    passes = steps * recipe.batch.examples / stream.num_rows
    fixed = fix(recipe, model, objective, features, load=load, passes=passes, start=progress.start)
    progress.start = fixed.start
    dtype, keep_all, sharding = model.dtype, bool(model.adapters), None
    if runtime.plugin:
        sharding, keep_all = Sharding(model, runtime, dtype=dtype), keep_all or dtype != torch.float32
        tensors = load_state(checkpoint, sharding.share)[1] if checkpoint else {}
    over_all = {"over_all": runtime.sum} if sharding else {}
    optimizer = Optimizer(model.whole, recipe.optim, keep_all=keep_all, **over_all)
    optimizer.load(tensors)
    return Setup(
        recipe=recipe, folder=folder, model=model, processor=processor_files(whole), stream=stream, eval_stream=eval_stream,
        objective=objective, fixed=fixed, optimizer=optimizer, steps=steps, progress=progress,
        sharding=sharding, notes=notes,
    )  # fmt: skip


def _begin(recipe: Recipe, checkpoint: Path | None) -> Path:
    """The folder of the weights that a run began with. Adapters on a start that had adapters itself: the run keeps it merged."""
    kept = recipe.run.dir / BASE
    return kept if checkpoint and kept.is_dir() else local_folder(recipe.model.name, recipe.model.revision)


def _put_adapters(
    recipe: Recipe, begin: Path, model: TreeModel, runtime: Runtime, *, steps: int, state: dict[str, torch.Tensor]
) -> None:
    """New adapters, or those of a run that goes on, beside weights that are quantised where the recipe says so."""
    assert recipe.adapters is not None
    base = _base_for_adapters(recipe, begin, model, runtime)
    about: dict[str, Any] = {"base_fingerprint": base_fingerprint(model.model)}
    if recipe.quantize:
        about["quantize"] = recipe.quantize.model_dump()
        quantize(model.model, recipe.quantize)
    adapters = add_adapters(
        model.model, recipe.adapters, base=base, revision=recipe.model.revision, seed=recipe.run.seed, steps=steps, about=about,
        state=state,
    )  # fmt: skip
    model.attach(adapters)


def _base_for_adapters(recipe: Recipe, begin: Path, model: TreeModel, runtime: Runtime) -> str:
    """What saved adapters name as their model: a Hub name, or a folder's full path. A start that has adapters itself is merged
    and written into the run."""
    if is_adapter(begin):
        merged = recipe.run.dir / BASE
        if runtime.is_main:
            save_model(merged, model.model, processor_files(base_folder(begin)))
        runtime.wait()
        return str(merged.resolve())
    here = begin.name == BASE or Path(recipe.model.name).expanduser().exists()
    return str(begin.resolve()) if here else recipe.model.name


def refuse_other_data(recipe: Recipe, before: dict[str, list[Identity]], now: dict[str, list[Identity]]) -> tuple[str, ...]:
    """A run goes on with the data that it began with; what to tell where the recipe lets it go on all the same.

    Args:
        before: as a checkpoint keeps them; empty where it does not.
    """
    if not before:
        return ("the checkpoint does not say which data it saw, so they are not compared with those of now",)
    changed = [one for where in now for one in changes(before[where], now[where], where)]
    if changed and not recipe.run.other_data:
        raise CheckpointError(
            f"holds a run of other data ({'; '.join(changed)})",
            where=recipe.run.dir,
            mend="put them back, give this one its own run.dir, or go on all the same with run.other_data=true: rows then come "
            "in another order, some again and some not at all",
        )
    return tuple(f"other data from here on: {one}" for one in changed)


def _meet_data(stream: Stream, examples: int) -> None:
    """Fail now, with the first reason, when no example of the first step can be used. The first that can ends the search."""
    tally = Tally()
    for index in range(min(examples, stream.num_rows)):
        try:
            decode_pictures(stream.example(index), {})
            return
        except DataError as error:
            tally.drop(error, stream.name(index))
    raise DataError(f"none of the first {how_many(examples, 'example')} can be used: {tally.named[0]}")
