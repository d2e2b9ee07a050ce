"""From a recipe to what the loop needs: model, data, objective, optimiser, and where an earlier attempt stopped."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smolforge.data.pipeline import Stream, Tally, open_stream
from smolforge.data.processor import load_renderer
from smolforge.errors import CheckpointError, DataError, RecipeError
from smolforge.hub import local_folder
from smolforge.loading import load_tree
from smolforge.model.freeze import apply_freeze
from smolforge.model.tree import TreeModel
from smolforge.objectives import Objective, objective_of
from smolforge.recipe import Recipe, differences
from smolforge.training.checkpoint import clear_leftovers, load_state, newest_checkpoint, processor_files
from smolforge.training.optim import Optimizer
from smolforge.training.runtime import Runtime


@dataclass
class Progress:
    """Where a run stands: all that a continuation must know besides weights and optimiser."""

    step: int = 0
    seconds: float = 0.0  # of training, over all attempts
    before: dict[str, float] = field(default_factory=dict)  # held-out metrics of the starting point
    best: float | None = None  # lowest held-out loss
    best_step: int = 0
    waits: int = 0  # evaluations without a better one
    ended: bool = False  # by early stopping
    latest: dict[str, float] = field(default_factory=dict)  # held-out metrics last measured
    latest_step: int = -1  # at this step
    pictures_checked: bool = False  # every component that should train was seen to receive gradient
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
    optimizer: Optimizer
    progress: Progress
    steps: int


def set_up(recipe: Recipe, runtime: Runtime) -> Setup:
    """Load and open everything, data before weights; continue from the run's newest checkpoint when there is one.

    Raises:
        UserError: anything that would make the run fail later.
    """
    folder = recipe.run.dir
    if runtime.is_main:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecipeError(
                f"cannot be made ({error.strerror})", where=f"run.dir {folder}", mend="choose another folder"
            ) from error
        clear_leftovers(folder / "checkpoints")
    runtime.wait()
    checkpoint = newest_checkpoint(folder / "checkpoints")
    state, moments = load_state(checkpoint) if checkpoint else ({}, {})
    refuse_other_recipe(recipe, folder, state)
    base = checkpoint or local_folder(recipe.model.name, recipe.model.revision)  # a checkpoint is a whole model folder
    renderer = load_renderer(base, images=recipe.images, row_tokens=recipe.batch.row_tokens)
    objective = objective_of(recipe.objective)
    stream = open_stream(recipe.data, renderer, kinds=objective.kinds, seed=recipe.run.seed)
    eval_stream = open_stream(recipe.eval.data, renderer, kinds=objective.kinds, seed=0) if recipe.eval.data else stream
    _meet_data(stream, recipe.batch.examples)
    model = load_tree(base, renderer, dtype=recipe.model.dtype, device=runtime.device)
    model.gradient_checkpointing = recipe.run.gradient_checkpointing
    apply_freeze(model.model, recipe.freeze)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RecipeError("everything that this model has is frozen", where="freeze", mend="leave the decoder unfrozen")
    optimizer = Optimizer(model.model, recipe.optim)
    if checkpoint:
        optimizer.load(moments)
    steps = recipe.run.steps or math.ceil((recipe.run.epochs or 0) * stream.num_rows / recipe.batch.examples)
    return Setup(
        recipe=recipe, folder=folder, model=model, processor=processor_files(base), stream=stream, eval_stream=eval_stream,
        objective=objective, optimizer=optimizer, steps=steps,
        progress=Progress.from_json(state) if state else Progress(),
    )  # fmt: skip


def refuse_other_recipe(recipe: Recipe, folder: Path, state: dict[str, Any]) -> None:
    """A run directory holds one recipe, from its first checkpoint on."""
    written = folder / "recipe.json"
    before = state.get("recipe")
    if before is None and (folder / "model").exists() and written.is_file():
        before = json.loads(written.read_text(encoding="utf-8"))
    changed = differences(before, recipe.model_dump(mode="json")) if before else []
    if changed:
        raise CheckpointError(
            f"holds a run of another recipe ({'; '.join(changed)})",
            where=folder,
            mend="give this one its own run.dir, or delete that run",
        )


def _meet_data(stream: Stream, examples: int) -> None:
    """Fail now, with the first reason, when no example of the first step can be used."""
    tally = stream.step(range(min(examples, stream.num_rows))).tally
    if tally.examples == 0:
        raise DataError(f"none of the first {examples} examples can be used: {tally.named[0]}")
