"""The model card: metadata that the Hub reads, and a page for people. Every sentence comes from the files of the run; what they
do not know is named as not known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from smolforge.publishing import results
from smolforge.publishing.contents import count_parameters, recipe_text
from smolforge.publishing.markdown import bullets, code, details, name, plain, section
from smolforge.publishing.subject import Base, Subject
from smolforge.publishing.training import data_section, hub_datasets, method, training_section
from smolforge.publishing.using import using_section
from smolforge.report.evaluation import Measured

MARK = "<!-- written by smolforge push -->"
CALLED = {
    "lora": "LoRA",
    "dora": "DoRA",
    "rslora": "rsLoRA",
    "pissa": "PiSSA",
    "adalora": "AdaLoRA",
    "vera": "VeRA",
    "ia3": "IA3",
}


def write_card(subject: Subject, repo: str, *, license: str | None = None) -> str:
    """README.md of the repository.

    Args:
        repo: owner/name.
        license: identifier such as apache-2.0; a card without it says so.
    """
    run = subject.run
    tasks, others = results.evaluations(run) if run else ([], [])
    head = yaml.safe_dump(_metadata(subject, repo, tasks, license), sort_keys=False, allow_unicode=True)
    parts = [
        f"# {repo.split('/')[1]}",
        _what(subject),
        training_section(subject, run) if run else "",
        data_section(subject, run) if run else "",
        results.results_section(subject, run, tasks) if run else "",
        using_section(subject, repo),
        section("Recipe", details("the whole recipe, folders cut to their last part", code(recipe_text(subject), "yaml")))
        if run
        else "",
        section("What is not known", bullets(_unknown(subject, tasks, others, license))),
    ]
    body = "\n\n".join(part for part in parts if part)
    return f"---\n{head}---\n{MARK}\n\n{body}\n"


def _metadata(subject: Subject, repo: str, tasks: Sequence[Measured], license: str | None) -> dict[str, Any]:
    """The front matter; keys that are not known are left out."""
    run, base = subject.run, subject.base
    kind = {True: "image-text-to-text", False: "text-generation", None: None}[subject.sees]
    listed: dict[str, Any] = {
        "license": license,
        "base_model": base.name if base and base.hub else None,
        "base_model_relation": _relation(subject) if base and base.hub else None,
        "library_name": "peft" if subject.peft else None if subject.adapter else "transformers",
        "pipeline_tag": kind,
        "datasets": hub_datasets(subject, run) if run else None,
        "tags": ["smolforge", *_methods(subject)],
    }
    if run and kind and (found := results.index(subject.places, tasks, run, kind)):
        listed["model-index"] = [{"name": repo.split("/")[1], "results": found}]
    return {key: value for key, value in listed.items() if value}


def _relation(subject: Subject) -> str | None:
    if subject.adapter:
        return "adapter"
    return "quantized" if subject.quantized else "finetune" if subject.run else None


def _methods(subject: Subject) -> list[str]:
    """sft or dpo, and how adapters are made."""
    recipe = subject.run.recipe if subject.run else {}
    adapters = recipe.get("adapters") or {}
    kinds = [recipe.get("objective", {}).get("kind"), adapters.get("method") or str(subject.config.get("peft_type", "")).lower()]
    return [kind for kind in kinds if kind]


def _what(subject: Subject) -> str:
    """What it is, and from which base."""
    recipe = subject.run.recipe if subject.run else {}
    made = f", made by {method(subject.run)} with smolforge" if subject.run else ""
    if subject.adapter:
        way = (recipe.get("adapters") or {}).get("method") or subject.config.get("peft_type")
        of = f" for {_base(subject.base)}" if subject.base else ""
        return f"Adapters{f' ({CALLED.get(way.lower(), way)})' if way else ''}{of}{made}."
    count = count_parameters(subject)
    kind = f"A model of type {name(subject.config.get('model_type', 'unknown'))}"
    size = f" with {count:,} saved parameters" if count else ""
    return f"{kind}{size}{f', from {_base(subject.base)}' if subject.base else ''}{made}."


def _base(base: Base) -> str:
    if not base.hub:
        return f"the local model {name(base.name)}"
    revision = f" at {name(base.revision)}" if base.revision else ""
    return f"[{plain(base.name)}](https://huggingface.co/{base.name}){revision}"


def _unknown(subject: Subject, tasks: Sequence[Measured], others: Sequence[str], license: str | None) -> list[str]:
    """What a reader might take for granted and the files do not say."""
    run, base = subject.run, subject.base
    lines = [] if license else ["License: none was given when this card was written, so none is stated here."]
    if base is None:
        lines.append("The base model: the files do not name one.")
    elif not base.hub:
        lines.append(f"The base model was a local folder called {name(base.name)}; its name on the Hub is not known.")
    if subject.sees is None:
        lines.append("Whether the base model reads pictures.")
    if run is None:
        lines.append("How it was trained and on what: the folder is no run's, and brought no recipe and no results.")
        return [*lines, "How good it is: nothing was measured."]
    if not run.recipe["eval"]["data"]:
        lines.append("Held-out loss: the recipe names no held-out data; the losses above are of training examples.")
    if "rows" not in run.summary:
        lines.append("How many rows the sources have: the run did not keep it.")
    if run.summary.get("energy_wh") is None:
        lines.append("Energy: the machine did not tell.")
    if not any(results.of_this_model(one, run) and not one.drawn for one in tasks):
        lines.append("Benchmarks: this model was not evaluated on any.")
    lines += [
        f"{plain(one.task.name)}: measured at one stage only, {plain(one.stages[0].name)}, so nothing is said of a change."
        for one in tasks
        if len(one.stages) == 1
    ]
    lines += [f"Results of {name(other)} are left out: they are of this model with other adapters." for other in others]
    return [*lines, "Everything else: other tasks and languages than those above, safety and bias were not measured."]
