"""Which files of a model folder go to the Hub: those that `smolforge.load` would fetch from there. No pickle, no optimiser."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from smolforge.errors import ModelError
from smolforge.hub import MODEL_FILES
from smolforge.model.adapters.origin import CONFIG
from smolforge.publishing.subject import Subject, as_json
from smolforge.wording import how_many

PATTERNS = (*MODEL_FILES, "LICENSE*", "NOTICE*")
OF_TRAINING = ("optimizer.safetensors", "state.json", "trainer_state.json", "recipe.json")  # of a checkpoint
WORDS = ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json")  # tokens, and no settings
INDEX = ".safetensors.index.json"
RECIPE = "recipe.yaml"


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the repository."""

    name: str
    source: Path | bytes  # where it lies, or what it holds

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


def collect(subject: Subject) -> tuple[list[File], list[str]]:
    """The files that go, the card not among them, and the names of what stays here.

    Settings that name local folders are cut to their last part; adapters name their base as `subject` does.

    Raises:
        ModelError: no safetensors weights, a shard is missing, or a damaged file.
    """
    names = sorted(path.name for path in subject.folder.iterdir())
    going = [name for name in names if _goes(subject.folder / name)]
    weights = [name for name in going if name.endswith(".safetensors")]
    if not weights:
        old = next((name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))), None)
        mend = "save it again as safetensors" if old else "give the folder of a run, of a model or of adapters"
        raise ModelError(f"no safetensors weights{f', only {old}' if old else ''}", where=subject.folder, mend=mend)
    for index in (name for name in going if name.endswith(INDEX)):
        shards = set(_json(subject.folder / index).get("weight_map", {}).values())
        if missing := sorted(shards - set(weights)):
            raise ModelError(f"a shard is missing: {missing[0]}", where=subject.folder / index, mend="copy the model again")
    files = [_file(subject, name) for name in going]
    return files + recipe_file(subject), [name for name in names if name not in going]


def recipe_file(subject: Subject) -> list[File]:
    """A run's recipe, as it can be shown."""
    return [File(name=RECIPE, source=recipe_text(subject).encode())] if subject.run else []


def recipe_text(subject: Subject) -> str:
    """YAML in which folders are cut to their last part."""
    recipe = subject.run.recipe if subject.run else {}
    return yaml.safe_dump(subject.places.tree(recipe), sort_keys=False, allow_unicode=True)


def count_parameters(subject: Subject) -> int | None:
    """Numbers in the saved weights, by their headers; None of quantised ones, which are packed."""
    if subject.quantized:
        return None
    from safetensors import SafetensorError, safe_open

    total = 0
    for file in sorted(subject.folder.glob("*.safetensors")):
        if file.name in OF_TRAINING:
            continue
        try:
            with safe_open(file, framework="np") as opened:
                total += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelError(f"not readable weights ({error})", where=file, mend="copy the model again") from error
    return total


def _goes(file: Path) -> bool:
    return file.is_file() and file.name not in OF_TRAINING and any(fnmatch(file.name, pattern) for pattern in PATTERNS)


def _file(subject: Subject, name: str) -> File:
    """As it lies, or with other content where it named local folders."""
    path = subject.folder / name
    if not name.endswith(".json") or name in WORDS or name.endswith(INDEX):
        return File(name=name, source=path)
    tree = _json(path)
    shown = _without_paths(tree, subject)
    if name == CONFIG and subject.base and "base_model_name_or_path" in tree:
        shown["base_model_name_or_path"] = subject.base.name
    return File(name=name, source=path if shown == tree else as_json(shown))


def _without_paths(tree: Any, subject: Subject) -> Any:
    """Only values that are a path as a whole: a chat template may hold what looks like one."""
    if isinstance(tree, dict):
        return {key: _without_paths(value, subject) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_without_paths(value, subject) for value in tree]
    whole = isinstance(tree, str) and (
        tree in subject.places.known or (tree.startswith(("/", "~/", "file:///")) and "{" not in tree)
    )
    return subject.places.text(tree) if whole else tree


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"not valid JSON ({error})", where=file, mend="copy the model again") from error


def listing(files: Sequence[tuple[str, int]]) -> list[str]:
    """A line a file, and the total.

    >>> listing([("config.json", 820), ("model.safetensors", 269_060_552)])
    ['          820  config.json', '  269,060,552  model.safetensors', '  269,061,372  bytes in 2 files']
    """
    total = sum(size for _, size in files)
    width = len(f"{total:,}") + 2
    return [f"{size:>{width},}  {name}" for name, size in files] + [f"{total:>{width},}  bytes in {how_many(len(files), 'file')}"]
