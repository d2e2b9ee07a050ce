"""Any recipe with a tiny model on a few drawn rows: whether it runs at all is known in a minute, before a GPU is rented.

What stays is what can go wrong: objective, adapters, quantisation, mixture, freezing and thawing, schedules, evaluation, saving.
What shrinks: model, rows, pictures, batch and steps; numbers of steps in proportion.
"""

from __future__ import annotations

import errno
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from smolforge.data.processor import read_json
from smolforge.data.sources.tables import named
from smolforge.errors import CheckpointError
from smolforge.model.adapters.origin import base_of, is_adapter
from smolforge.model.presets import PRESETS
from smolforge.recipe import COMPONENTS, DataSection, PreferenceSection, Recipe, load_recipe, parse_recipe
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
    text = _is_text(recipe.model.name, recipe.data)

    def part(number: float) -> int:
        """A number of steps in proportion."""
        return max(1, round(number * steps / whole))

    tree["model"] = {**tree["model"], "name": str(_model(recipe.model.name, text=text)), "revision": None}
    if isinstance(recipe.objective, PreferenceSection) and recipe.objective.reference.model:
        tree["objective"]["reference"]["model"] = tree["model"]["name"]
    if isinstance(recipe.objective, PreferenceSection) and recipe.objective.reference.store:
        tree["objective"]["reference"]["store"] = None  # in the cache below: the real run's has no place for a tiny model's
    pairs = isinstance(recipe.objective, PreferenceSection)

    def rows(sections: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [_prompts(_rows(section, text=text, pairs=pairs), part) for section in sections]

    tree["data"] = rows(tree["data"])
    shape = PRESETS["tiny"]
    if not text:
        tree["images"] = tree.get("images", {}) | {"longest_edge": 2 * shape.image_size}
        if edges := recipe.images.random_edge:  # in proportion, of one tile or two
            tree["images"]["random_edge"] = _small_edges(edges, shape.image_size)
        if tiles := recipe.images.max_tiles:  # one picture here has up to five, whatever it has there
            tree["images"]["max_tiles"] = max(5, tiles)
        tree["video"] = tree.get("video", {}) | {"longest_edge": shape.image_size, "max_frames": min(recipe.video.max_frames, 4)}
    tree["batch"] = {"examples": min(recipe.batch.examples, 8), "row_tokens": shape.context}
    tree["cache"] = tree.get("cache", {}) | {"dir": str(folder / "cache")}
    tree["eval"] = tree.get("eval", {}) | {"examples": 4, "samples": min(recipe.eval.samples, 2), "max_new_tokens": 8}
    tree["eval"]["data"] = rows(tree["eval"].get("data", []))
    _shrink_adapters(tree.get("adapters"))

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
    every = {name: part(value) for name in ("save_every", "eval_every", "log_every") if (value := getattr(recipe.run, name))}
    workers = recipe.run.workers if "run.workers" in said else min(recipe.run.workers, 1)
    fewer = {"workers": workers, "trackers": [], "epochs": None}
    tree["run"] = tree["run"] | every | fewer | {"dir": str(folder), "steps": steps}
    return parse_recipe(tree, where=f"{file}, made small")


def _is_text(name: str, sections: Sequence[DataSection]) -> bool:
    """Whether a model reads text alone: its configuration tells, where it lies here; else its name and what the data hold."""
    path = Path(name).expanduser()
    for folder in (path, path / "model"):  # a run's folder stands for the model that came of it
        if is_adapter(folder):
            return _is_text(base_of(folder)[0], sections)
        if (folder / "config.json").is_file():
            return "vision_config" not in read_json(folder / "config.json")
    if path.suffix == ".gguf":
        return True
    if "vlm" in name.lower() or any(_modality(section) not in ("text", None) for section in sections):
        return False
    return bool(re.search(r"smollm|llama", name, re.IGNORECASE))


def _modality(section: DataSection) -> str | None:
    """What a source's rows hold; None where nobody said."""
    known = named(section.source)
    return section.modality or (known.modality if known else None)


def _model(name: str, *, text: bool) -> Path:
    """A tiny model in place of one: what the tiny run of another recipe made, or a new one."""
    made = RUNS / Path(name).parent.name / "model"
    if Path(name).name == "model" and made.is_dir():
        return made
    folder = RUNS / ("start-text" if text else "start")
    if not folder.is_dir():
        _assembled(folder, assemble_text if text else assemble_tiny)
    return folder


def _assembled(folder: Path, assemble: Callable[[Path], None]) -> None:
    """Assemble a model, each of the processes that start together for itself; the first one's becomes the folder.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", suffix=".draft", dir=folder.parent) as draft:
            assemble(Path(draft) / folder.name)
            (Path(draft) / folder.name).rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not folder.is_dir():
            mend = "see that you may write there, or work in another folder"
            raise CheckpointError(f"cannot be written ({error})", where=folder, mend=mend) from error


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


def _prompts(section: dict[str, Any], part: Callable[[float], int]) -> dict[str, Any]:
    """A data section whose curriculum has its steps in proportion, each prompt at least one before the next.

    >>> _prompts({"prompt": {0: "a", 5000: "b", 6000: "c"}}, lambda number: round(number * 20 / 50_000))
    {'prompt': {0: 'a', 2: 'b', 3: 'c'}}
    """
    if not isinstance(curriculum := section.get("prompt"), dict):
        return section
    small: dict[int, Any] = {}
    for step, prompt in sorted((int(step), prompt) for step, prompt in curriculum.items()):
        small[max(part(step), max(small) + 1) if small else 0] = prompt
    return section | {"prompt": small}


def _small_edges(edges: Mapping[int, float], tile: int) -> dict[int, float]:
    """Shares of longest edges of one tile and of two.

    >>> _small_edges({1024: 0.5, 1536: 0.25, 2048: 0.25}, 96)
    {96: 0.5, 192: 0.5}
    """
    small: dict[int, float] = {}
    for edge, share in edges.items():
        size = tile if edge <= max(edges) / 2 else 2 * tile
        small[size] = small.get(size, 0.0) + share
    return small


def _shrink_adapters(section: dict[str, Any] | None) -> None:
    """Ranks that fit a width of 128."""
    for name, most in (("r", 8), ("tokens", 4)):
        if section and isinstance(section.get(name), int):
            section[name] = min(section[name], most)
