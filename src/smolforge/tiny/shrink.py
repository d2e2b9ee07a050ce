"""Any recipe with a tiny model on a few drawn rows: whether it runs at all is known in a minute, before a GPU is rented.

What stays is what can go wrong: objective, adapters, quantisation, mixture, freezing and thawing, schedules, evaluation, saving.
What shrinks: model, rows, pictures, batch and steps; numbers of steps in proportion.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from smolforge.data.sources.tables import named
from smolforge.model.presets import PRESETS
from smolforge.recipe import COMPONENTS, PreferenceSection, Recipe, load_recipe, parse_recipe
from smolforge.tiny.models import assemble_text, assemble_tiny

STEPS = 20  # where nobody asks for another number
RUNS = Path("runs/tiny")
DRAWN = ("scenes", "scene_pairs", "clips")  # have as many rows as one likes
SAMPLE = "[:64]"  # of those


def shrink(file: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe for a tiny model on drawn rows; a tiny model is assembled where none is there.

    A model that another recipe's run makes, `runs/NAME/model`, is looked for where that one's tiny run put it.

    Args:
        file: the recipe's YAML.
        overrides: "key=value" as for `load_recipe`. Folder, steps and worker processes that they name stay as they are.

    Raises:
        RecipeError: as `load_recipe`.
    """
    recipe = load_recipe(file, overrides)
    published = load_recipe(file, [one for one in overrides if not one.startswith("run.steps=")])
    tree: dict[str, Any] = recipe.model_dump(mode="json", exclude_unset=True)
    said = {override.partition("=")[0] for override in overrides}
    folder = recipe.run.dir if "run.dir" in said else RUNS / recipe.run.dir.name
    whole = published.run.steps or 1000  # of epochs nobody knows how many
    steps = recipe.run.steps if "run.steps" in said and recipe.run.steps else min(STEPS, whole)
    text = _is_text(recipe)

    tree["model"] = {**tree["model"], "name": str(_model(recipe.model.name, text=text)), "revision": None}
    if isinstance(recipe.objective, PreferenceSection) and recipe.objective.reference.model:
        tree["objective"]["reference"]["model"] = tree["model"]["name"]
    pairs = isinstance(recipe.objective, PreferenceSection)
    tree["data"] = [_rows(section, text=text, pairs=pairs) for section in tree["data"]]
    shape = PRESETS["tiny"]
    if not text:
        tree["images"] = tree.get("images", {}) | {"longest_edge": 2 * shape.image_size}
        tree["video"] = tree.get("video", {}) | {"longest_edge": shape.image_size, "max_frames": min(recipe.video.max_frames, 4)}
    tree["batch"] = {"examples": min(recipe.batch.examples, 8), "row_tokens": shape.context}
    tree["cache"] = tree.get("cache", {}) | {"dir": str(folder / "cache")}
    tree["eval"] = tree.get("eval", {}) | {"examples": 4, "samples": min(recipe.eval.samples, 2), "max_new_tokens": 8}
    tree["eval"]["data"] = [_rows(section, text=text, pairs=pairs) for section in tree["eval"].get("data", [])]
    _shrink_adapters(tree.get("adapters"))

    def part(number: float) -> int:
        """A number of steps in proportion."""
        return max(1, round(number * steps / whole))

    freeze = tree.get("freeze", {})
    for name in COMPONENTS:
        if isinstance(freeze.get(name), int) and not isinstance(freeze[name], bool):
            freeze[name] = part(freeze[name])
    if "decoder_layers" in freeze:
        freeze["decoder_layers"] = min(freeze["decoder_layers"], shape.layers - 1)
    optim = tree.setdefault("optim", {})
    if recipe.optim.warmup >= 1:
        optim["warmup"] = part(recipe.optim.warmup)
    if recipe.optim.kind.startswith("paged") and not torch.cuda.is_available():
        optim["kind"] = "adamw"  # nothing pages without CUDA
    every = {name: part(value) for name in ("save_every", "eval_every") if (value := getattr(recipe.run, name))}
    workers = recipe.run.workers if "run.workers" in said else min(recipe.run.workers, 1)
    fewer = {"workers": workers, "trackers": [], "epochs": None}
    tree["run"] = tree["run"] | every | fewer | {"dir": str(folder), "steps": steps}
    return parse_recipe(tree, where=f"{file}, made small")


def _is_text(recipe: Recipe) -> bool:
    """Whether the model reads text alone, which its name tells: its configuration may lie on the Hub."""
    return bool(re.search(r"smollm|llama|\.gguf$", recipe.model.name, re.IGNORECASE))


def _model(name: str, *, text: bool) -> Path:
    """A tiny model in place of one: what the tiny run of another recipe made, or a new one."""
    made = RUNS / Path(name).parent.name / "model"
    if Path(name).name == "model" and made.is_dir():
        return made
    folder = RUNS / ("start-text" if text else "start")
    if not folder.is_dir():
        (assemble_text if text else assemble_tiny)(folder)
    return folder


def _rows(section: dict[str, Any], *, text: bool, pairs: bool) -> dict[str, Any]:
    """A data section with a few drawn rows in the place of its own."""
    source = section["source"]
    if source in DRAWN:
        return section | {"split": section.get("split", "train").partition("[")[0] + SAMPLE}
    if named(source) is None:  # somebody's own file: rows of the same kind
        kind = {(True, True): "ultrafeedback_binarized", (True, False): "smoltalk", (False, True): "rlaif_v"}
        source = kind.get((text, pairs), "video_star" if section.get("modality") == "video" else "flickr8k")
    few = {"source": source, "fixture": True, "split": "train", "dir": None, "streaming": False, "exclude": []}
    return section | few


def _shrink_adapters(section: dict[str, Any] | None) -> None:
    """Ranks that fit a width of 128."""
    for name, most in (("r", 8), ("tokens", 4)):
        if section and isinstance(section.get(name), int):
            section[name] = min(section[name], most)
