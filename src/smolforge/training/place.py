"""A run's folder before anything is loaded: it can be made, nobody else's files are in it, and what it holds is of this recipe.

Imports no torch: what a folder alone tells is said at once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from smolforge.data.identity import unchanged
from smolforge.errors import CheckpointError
from smolforge.folders import make, refuse_others
from smolforge.hub import folder_here
from smolforge.recipe import Recipe, changes_said
from smolforge.wording import some

BEGUN = "recipe.json"  # a folder with it is a run's, whatever else a person has put there
NAMED = 5  # settings that a refusal names
EARLY = ("base", "metrics.jsonl", BEGUN)  # what a run may have written when it was killed before; drafts are called after them


def claim(recipe: Recipe, beside: Collection[str] = ()) -> None:
    """Make the run's folder. One that holds a run, or what was left of one, stays as it is.

    Args:
        beside: names that the caller keeps in that folder.

    Raises:
        CheckpointError: it holds other files.
        UserError: it cannot be made.
    """
    folder, cache = recipe.run.dir, recipe.cache.dir
    inside = cache.relative_to(folder).parts[:1] if cache and cache.is_relative_to(folder) else ()
    known = (*EARLY, *inside, *beside)

    def own(name: str) -> bool:
        return name.startswith((".", *(f"{one}." for one in EARLY))) or name in known

    if not (folder / BEGUN).is_file() and not any(folder.glob("checkpoints/step-*/state.json")):
        refuse_others(folder, own)
    make(folder, "run.dir")


def refuse_other_recipe(recipe: Recipe, folder: Path, state: Mapping[str, Any]) -> None:
    """A run directory holds one recipe, from its first checkpoint on.

    Args:
        state: of its newest checkpoint; empty where there is none.

    Raises:
        CheckpointError: the recipe is another one.
    """
    written = folder / "recipe.json"
    before = state.get("recipe")
    if before is None and (folder / "model").exists() and written.is_file():
        before = json.loads(written.read_text(encoding="utf-8"))
    changed = changes_said(before, recipe) if before else []
    if changed:
        raise CheckpointError(
            f"holds a run of another recipe ({some(changed, NAMED, between='; ')})",
            where=folder,
            mend="give this one its own run.dir, or delete that run",
        )


def finished(recipe: Recipe) -> str:
    """The line that says a run is over and was summed up; empty where it is not, or where only loading more would tell that it
    is: its data and the base of its adapters must be what they were.

    Raises:
        CheckpointError: the folder holds a run of another recipe.
    """
    folder = recipe.run.dir
    state = _newest_state(folder)
    refuse_other_recipe(recipe, folder, state)
    if not state or (recipe.adapters and folder_here(recipe.model.name)):
        return ""
    step, ended = state["step"], state.get("ended", False)
    steps = recipe.run.steps or (0 if ended else step)  # epochs of the same data end where they ended, if not early
    over = steps and (ended or step >= steps) and is_complete(folder, step)
    return finished_line(folder, step, steps) if over and _same_data(recipe, state.get("data", {})) else ""


def is_complete(folder: Path, step: int) -> bool:
    """Whether a run's model is there, and its summary is of this step: a run that went on with more rows has an older one until
    it ends again."""
    return (folder / "model").is_dir() and _read(folder / "summary.json").get("steps") == step


def finished_line(folder: Path, step: int, steps: int) -> str:
    """What is said of a run that is over."""
    return f"{folder} is finished: {step} of {steps} steps"


def _same_data(recipe: Recipe, kept: Mapping[str, Any]) -> bool:
    return bool(kept) and unchanged(recipe.data, kept["data"]) and unchanged(recipe.eval.data, kept["eval.data"])


def _newest_state(folder: Path) -> dict[str, Any]:
    steps = checkpoint_steps(folder / "checkpoints")
    return _read(folder / "checkpoints" / checkpoint_name(steps[-1]) / "state.json") if steps else {}


def _read(file: Path) -> dict[str, Any]:
    """Empty where there is no such file, or a damaged one, which whoever needs it refuses."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content


def checkpoint_name(step: int) -> str:
    """
    >>> checkpoint_name(100)
    'step-00000100'
    """
    return f"step-{step:08d}"


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the whole checkpoints, ascending."""
    names = {path.name for path in folder.glob("step-*")}
    steps = {int(name[5:]) for name in names if name[5:].isdecimal()}
    return sorted(step for step in steps if checkpoint_name(step) in names)
