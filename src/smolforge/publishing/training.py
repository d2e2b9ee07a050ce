"""What a card says of the training and its data, from recipe.json and summary.json alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from smolforge.data.sources.tables import SOURCES
from smolforge.errors import UserError
from smolforge.publishing.contents import count_parameters
from smolforge.publishing.markdown import bullets, facts, name, plain, section, table
from smolforge.publishing.places import Places
from smolforge.publishing.subject import Subject
from smolforge.recipe import COMPONENTS, PreferenceSection, parse_recipe
from smolforge.report.page import duration
from smolforge.report.run import Run
from smolforge.wording import how_many

ELSEWHERE = ("model", "data", "eval", "run", "cache")  # sections that the card tells in its own words, or that change no weight

LABELS = {"optim": "optimiser"}
SAVED_AS_TRAINED = ("lora", "dora", "rslora", "ia3")  # others are saved in another shape, or without the network that made them
ALWAYS = ("kind", "loss", "beta")  # of an objective; what else stands at its default may not apply to the loss


def method(run: Run) -> str:
    """
    What was learnt, in the field's words: "supervised fine-tuning (SFT)", "preference optimisation (DPO), loss sigmoid".
    """
    objective = run.recipe["objective"]
    if objective["kind"] == "sft":
        return "supervised fine-tuning (SFT)"
    loss = objective.get("loss")
    losses = loss if isinstance(loss, str) else " + ".join(f"{weight:g} {one}" for one, weight in (loss or {}).items())
    return f"preference optimisation ({objective['kind'].upper()}{f', loss {losses}' if losses else ''})"


def training_section(subject: Subject, run: Run) -> str:
    """Settings, length, cost."""
    recipe, summary = run.recipe, run.summary
    sections = {key: _telling(key, part) for key, part in recipe.items() if key not in ELSEWHERE and isinstance(part, Mapping)}
    energy = summary.get("energy_wh")
    rows = [
        ("method", plain(method(run))),
        _trained(subject, run),
        *((LABELS.get(key, key), plain(subject.places.text(", ".join(_settings(part))))) for key, part in sections.items()),
        ("computed in", plain(recipe["model"].get("dtype") or "")),
        ("length", _length(recipe, summary)),
        ("seed", plain(recipe["run"]["seed"])),
        ("time", _time(summary)),
        ("peak memory", f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB" if summary.get("peak_memory_bytes") else ""),
        ("energy", f"{energy:,.1f} Wh" if energy is not None else ""),
        ("versions", plain(", ".join(f"{key} {value}" for key, value in summary.get("versions", {}).items()))),
    ]
    return section("Training", facts(rows), _stopping(recipe))


def data_section(subject: Subject, run: Run) -> str:
    """Sources, splits, weights; what was dropped."""
    data, held = run.recipe["data"], run.recipe["eval"]["data"]
    rows = run.summary.get("rows") or [None] * len(data)
    lines = [_source(subject.places, one, "training", count) for one, count in zip(data, rows, strict=True)]
    lines += [_source(subject.places, one, "held out", None) for one in held]
    told = run.summary.get("notes") or ["Every example was used as it is."]
    notes = [plain(subject.places.text(line.strip())) for line in told]
    return section(
        "Data",
        table(["source", "split", "used for", "weight", "rows"], lines),
        f"Found, dropped and changed:\n\n{bullets(notes)}" if run.summary.get("notes") else notes[0],
    )


def hub_datasets(subject: Subject, run: Run) -> list[str]:
    """Names on the Hub of what was trained on."""
    found = [_on_hub(subject.places, one["source"]) for one in run.recipe["data"]]
    return list(dict.fromkeys(one for one in found if one))


def _on_hub(places: Places, source: str) -> str | None:
    known = SOURCES.get(source)
    return known.hub if known else source if places.is_hub(source) else None


def _source(places: Places, one: Mapping[str, Any], use: str, rows: int | None) -> list[str]:
    hub = _on_hub(places, one["source"])
    shown = f"[{plain(hub)}](https://huggingface.co/datasets/{hub})" if hub else name(places.text(one["source"]))
    known = SOURCES.get(one["source"])
    names = one.get("name") or ""
    shown_names = plain(names if isinstance(names, str) else ", ".join(names))
    about = " (drawn by smolforge)" if known and not hub else f", {shown_names}" if names else ""
    weight = one.get("weight")
    counts = f"{weight:g}" if weight is not None else "", f"{rows:,}" if rows is not None else ""
    return [shown + about, name(one["split"]), use, *counts]


def _telling(section: str, part: Mapping[str, Any]) -> Mapping[str, Any]:
    """A section without what changes nothing."""
    if section == "freeze":
        return {f"{key} before step" if _is_step(key, value) else key: value for key, value in part.items() if value}
    if section != "objective" or part["kind"] != "dpo":
        return part
    usual = PreferenceSection(kind="dpo").model_dump(mode="json")
    return {key: value for key, value in part.items() if key in ALWAYS or value != usual.get(key)}


def _settings(part: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every setting that says something: `r 8`, `reference.kind auto`.

    >>> list(_settings({"r": 8, "on": ["text"], "init": None, "reference": {"kind": "auto"}, "vision": True, "x": False}))
    ['r 8', 'on text', 'reference.kind auto', 'vision']
    """
    for key, value in part.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{key}.")
        elif value is True:
            yield f"{prefix}{key}"
        elif value is not None and value is not False and value != []:
            listed = " and ".join(map(_plain, value)) if isinstance(value, list) else _plain(value)
            yield f"{prefix}{key} {listed}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _trained(subject: Subject, run: Run) -> tuple[str, str]:
    """(what is counted, how many). The run says it itself, or saved adapters where all that trains is saved as it is, or of
    a whole model what the recipe does not freeze."""
    trained, saved = run.summary.get("trained"), count_parameters(subject)
    if subject.adapter:
        if trained is None and (run.recipe.get("adapters") or {}).get("method") not in SAVED_AS_TRAINED:
            return "parameters in the adapters' file", f"{saved:,}" if saved else ""
        return "trained parameters", f"{trained or saved:,}, of the adapters"
    if trained is not None or saved is None:
        return "trained parameters", f"{trained:,}{f' of {saved:,}' if saved else ''}" if trained else ""
    from smolforge.description import describe

    freeze = run.recipe.get("freeze", {})
    thawed = {key: value > run.summary["steps"] if _is_step(key, value) else value for key, value in freeze.items()}
    try:
        about = describe(str(subject.folder), recipe=parse_recipe({**run.recipe, "freeze": thawed}))
    except UserError as error:  # a recipe of another version: what it froze cannot be applied here
        return "trained parameters", plain(f"not known here: {subject.places.text(str(error))}")
    return "trained parameters", f"{about.trainable:,} of {about.total:,}"


def _is_step(key: str, value: Any) -> bool:
    """Whether a component of `freeze` names the step from which it trains."""
    return key in COMPONENTS and not isinstance(value, bool)


def _length(recipe: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    steps, examples = summary["steps"], recipe["batch"]["examples"]
    return f"{how_many(steps, 'step')} of {how_many(examples, 'example')}, {how_many(steps * examples, 'example')} in all"


def _time(summary: Mapping[str, Any]) -> str:
    ahead = summary.get("prepare_seconds")
    return duration(summary["seconds"]) + (f", and {duration(ahead)} for what was computed ahead" if ahead else "")


def _stopping(recipe: Mapping[str, Any]) -> str:
    section = recipe["run"]
    if section.get("early_stopping") and section.get("keep_best"):
        return "Early stopping was on: the weights are those of the measured step with the lowest held-out loss."
    return ""
