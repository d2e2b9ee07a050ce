"""What is published: a run, a model or adapters, what it came from, and what of that the files know."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolforge.errors import ModelError, UserError
from smolforge.hub import local_folder
from smolforge.model.adapters import BASE, base_of, is_adapter
from smolforge.model.adapters.bottleneck import PEFT_TYPE
from smolforge.model.adapters.origin import CONFIG
from smolforge.publishing.places import Places, last, places_of
from smolforge.report.page import read_json
from smolforge.report.run import Run, read_run


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that something was made from."""

    name: str  # on the Hub, or the last part of a local path
    hub: bool
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A folder that can be published."""

    folder: Path  # of the weights
    run: Run | None
    base: Base | None  # None: the files do not say
    config: dict[str, Any]  # config.json, or adapter_config.json
    adapter: bool
    sees: bool | None  # pictures; None: the files do not say
    places: Places

    @property
    def peft(self) -> bool:
        """Whether these are adapters that PEFT reads."""
        return self.adapter and self.config.get("peft_type") not in (None, PEFT_TYPE)  # bottlenecks are read by smolforge alone

    @property
    def quantized(self) -> bool:
        return bool(self.config.get("quantization_config"))


def read_subject(model: str, base: str | None = None) -> Subject:
    """
    Args:
        model: folder of a finished run, of a model or of adapters.
        base: name of the base on the Hub, where the files know it as a folder, or not at all.

    Raises:
        UserError: nothing that can be published.
    """
    given = Path(model).expanduser()
    if not given.is_dir():
        raise UserError("no such folder", where=model, mend="give the folder of a run, of a model or of adapters")
    run = _finished(given) if (given / "recipe.json").is_file() else None
    folder = local_folder(model)
    adapter = is_adapter(folder)
    config = read_json(folder / (CONFIG if adapter else "config.json"))
    if not config and not adapter:
        raise ModelError("no config.json there", where=folder, mend="give the folder of a run, of a model or of adapters")
    recipe = run.recipe if run else {}
    start = _start(run, folder, adapter)
    places = places_of(recipe, given, *([start[0]] if start else []))
    return Subject(
        folder=folder, run=run, base=_base(start, base, places, model), config=config, adapter=adapter,
        sees=_sees(folder, config, adapter), places=places,
    )  # fmt: skip


def _finished(folder: Path) -> Run:
    if not (folder / "summary.json").is_file():
        raise UserError("the run is not finished: it has no summary.json", where=folder, mend="run its command again: it goes on")
    return read_run(folder)


def _start(run: Run | None, folder: Path, adapter: bool) -> tuple[str, str | None] | None:
    """Name and revision of the base as the files have it. Adapters say it themselves: a Hub name, or a folder's full path."""
    if adapter:
        name, revision = base_of(folder)
        if Path(name).name == BASE and (Path(name).parent / "recipe.json").is_file():
            mend = "make it whole with `smolforge merge RUN OUT`, and push OUT"
            raise ModelError("adapters of a model that only this run's folder has", where=name, mend=mend)
        return name, revision
    return (run.recipe["model"]["name"], run.recipe["model"].get("revision")) if run else None


def _base(start: tuple[str, str | None] | None, given: str | None, places: Places, model: str) -> Base | None:
    if start is None:
        return Base(name=given, hub=True) if given else None
    name, revision = start
    if places.is_hub(name):
        if given not in (None, name):
            raise UserError(f"began from {name}, not from {given}", where=model, mend="leave --base out")
        return Base(name=name, hub=True, revision=revision)
    return Base(name=given, hub=True) if given else Base(name=last(name), hub=False)


def _sees(folder: Path, config: dict[str, Any], adapter: bool) -> bool | None:
    if not adapter:
        return "vision_config" in config
    if (folder / "preprocessor_config.json").is_file():  # saved with the tokenizer of a model that sees
        return True
    mapping = config.get("auto_mapping") or {}
    kind = str(mapping.get("base_model_class") or config.get("task_type") or "")
    if "CausalLM" in kind or "CAUSAL_LM" in kind:
        return False
    return True if "ForConditionalGeneration" in kind else None


def as_json(tree: Any) -> bytes:
    """A JSON file's content."""
    return (json.dumps(tree, indent=2, ensure_ascii=False) + "\n").encode()
