"""A run's folder before anything is loaded: it can be made, and nobody else's files are in it."""

from __future__ import annotations

from collections.abc import Collection

from smolforge.folders import make, refuse_others
from smolforge.recipe import Recipe

BEGUN = "recipe.json"  # a folder with it is a run's, whatever else a person has put there
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
