"""The sections of one run: whether it got better, what was trained on what, and what it cost."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolforge.data.exclusion import home_words
from smolforge.data.shares import config_words
from smolforge.errors import UserError
from smolforge.recipe import DataSection
from smolforge.report.charts import Curve, Point, chart
from smolforge.report.evaluation import (
    Measured,
    headline,
    known_measures,
    measured,
    pictures_with_answers,
    regressions,
    score_tables,
    stages,
)
from smolforge.report.page import Html, duration, facts, join, picture, read_json, section, table, tag
from smolforge.training.tracking import read_metrics
from smolforge.wording import how_many

ADAPTER_SETTINGS = ("placement", "r", "init_r", "alpha", "tokens", "projection", "encoder")  # that a page tells


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run's folder says. Mappings of files that are not there are empty."""

    name: str
    folder: Path
    recipe: dict[str, Any]
    summary: dict[str, Any]
    log: list[dict[str, Any]]
    tasks: list[Measured]

    @property
    def sources(self) -> str:
        several = _several_homes(self.recipe)
        return ", ".join(_source(entry, several) for entry in self.recipe["data"])


def read_run(folder: Path) -> Run:
    """
    Raises:
        UserError: the folder holds no run, or a damaged file.
    """
    if not (folder / "recipe.json").is_file():
        raise UserError("holds no run", where=folder, mend="give a folder that `smolforge train` wrote")
    recipe, summary = (read_json(folder / name) for name in ("recipe.json", "summary.json"))
    found = stages(folder)
    tasks = measured(found, known_measures(), start=str(recipe["model"].get("name"))) if found else []
    return Run(
        name=folder.resolve().name,
        folder=folder,
        recipe=recipe,
        summary=summary,
        log=read_metrics(folder),
        tasks=tasks,
    )


def run_sections(run: Run) -> Html:
    """All that is told of a run, the answer to "did it get better?" first."""
    return join(
        (
            _head(run),
            headline(run.tasks) or _losses_in_words(run.summary),
            score_tables(run.tasks),
            pictures_with_answers(run.tasks),
            regressions(run.tasks),
            section("What was trained on what", _trained(run.recipe)),
            _losses(run.summary),
            _preferences(run.summary),
            _curves(run),
            _samples(run.folder),
            _cost(run),
            _notes(run.summary),
            _settings(run),
        )
    )


# --- what came of it -------------------------------------------------------------------------------------------------


def _head(run: Run) -> Html:
    kind, summary = run.recipe["objective"]["kind"].upper(), run.summary
    state = f"{how_many(summary['steps'], 'step')} in {duration(summary['seconds'])}" if summary else "not finished yet"
    what = tag("p", f"{kind} of ", tag("b", run.recipe["model"]["name"]), f" on {run.sources}")
    return join((tag("h1", run.name), what, tag("p", state, class_="dim")))


def _losses_in_words(summary: Mapping[str, Any]) -> Html:
    """What can be said of a run without evaluation: its loss, and no more than that."""
    if not summary:
        return Html()
    before, after, where = summary["before"].get("loss"), summary["after"]["loss"], summary["measured_on"]
    if before is None:
        return Html()
    fell = "lower" if after < before else "higher" if after > before else "the same"
    words = f"Loss on {where}: {before:.4f} → {after:.4f} ({fell}; one number, without an interval)."
    more = "Whether the answers are better, an evaluation of the model before and after would tell."
    return tag("div", tag("p", words), tag("p", more, class_="dim small"), class_="lead")


MEASURES = {"sum": "by summed log-prob", "token": "by log-prob a token", "reward": "by implicit reward"}


def _preferences(summary: Mapping[str, Any]) -> Html:
    """How often chosen is preferred, by source and measure, with intervals and ties."""
    tables = summary.get("preferences")
    if not tables:
        return Html()
    rows = []
    for source, after in tables["after"].items():
        before = tables["before"].get(source, {})
        for measure, words in MEASURES.items():
            shares = [_share(found.get(measure)) for found in (before, after)]
            rows.append([f"{source}, {words}", *shares, f"{after['pairs']:,}"])
    note = (
        "Share of pairs, 95 % bootstrap interval. The implicit reward asks only whether the chosen answer gained more than the "
        "rejected one, and so flatters: the model may still say the rejected one."
    )
    title = f"Chosen preferred to rejected, on {summary['measured_on']}"
    return section(title, table(["", "before", "after", "pairs"], rows), tag("p", note, class_="dim small"))


def _share(score: Mapping[str, Any] | None) -> Html:
    if score is None:
        return tag("td", "–")
    if score["ties"] == 1:
        return tag("td", "all ties")
    ties = f", ties {score['ties']:.1%}" if score["ties"] else ""
    return tag("td", f"{score['accuracy']:.1%}", tag("small", f"[{score['low']:.1%}, {score['high']:.1%}]{ties}", class_="dim"))


# What the names of a run's metrics mean, and whether lower or higher is better.
ABOUT = {
    "loss": ("the objective; for supervised runs nats a token of the answers", "lower"),
    "rewards/chosen": ("beta times the chosen answer's gain over the reference, nats", "higher"),
    "rewards/rejected": ("the same of the rejected answer", "lower"),
    "rewards/margins": ("chosen minus rejected", "higher"),
    "rewards/spoilt": ("beta times the gain of the answer under a spoilt picture", "lower"),
    "logps/chosen": ("log-prob of the chosen answers, nats; falling hard means the model forgets how to say them", "higher"),
    "logps/rejected": ("log-prob of the rejected answers", ""),
    "drift/chosen": ("log-prob of chosen against the reference, nats a token", "higher"),
    "drift/rejected": ("the same of rejected", ""),
    "kl": ("distance from the reference on the chosen answers, nats a token (k2 estimate)", ""),
    "length/chosen": ("tokens of the chosen answers", ""),
    "length/rejected": ("tokens of the rejected answers", ""),
    "answer tokens": ("mean length of the model's own sample answers", ""),
}


def _losses(summary: Mapping[str, Any]) -> Html:
    if not summary:
        return Html()
    before, after = summary["before"], summary["after"]
    names = [name for name in after if not name.startswith(("accuracy/", "ties/"))]
    rows = [_metric_row(name, before.get(name), after[name]) for name in names]
    return section(f"Before against after, on {summary['measured_on']}", table(["", "before", "after", "change"], rows))


def _metric_row(name: str, before: float | None, after: float) -> list[Html]:
    words, better = ABOUT.get(name, ("", ""))
    kind, change = "", ""
    if before is not None and before != after:
        change = f"{after - before:+.4f}"
        kind = "" if not better else "good" if (after < before) == (better == "lower") else "bad"
    return [
        tag("td", name, tag("small", words, class_="dim") if words else ""),
        tag("td", "–" if before is None else f"{before:.4f}"),
        tag("td", f"{after:.4f}"),
        tag("td", change, class_=kind),
    ]


def _samples(folder: Path) -> Html:
    """Answers to the same prompts at each stage: a run's before and after, or what `stages.json` lists (stage -> file)."""
    files = read_json(folder / "stages.json") or {when: f"samples/{when}.jsonl" for when in ("before", "after")}
    answers = {stage: lines for stage, file in files.items() if (lines := _lines(folder / file))}
    cards = [_sample(folder / "samples", dict(zip(answers, one))) for one in zip(*answers.values())]
    return section("Answers to held-out prompts", tag("div", *cards, class_="cards")) if cards else Html()


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line] if file.is_file() else []


def _sample(folder: Path, samples: dict[str, dict[str, Any]]) -> Html:
    """One prompt: its pictures, and each stage's answer."""
    sample = [*samples.values()][-1]
    right = [text for text, kind in zip(sample["references"], sample["kinds"]) if kind != "rejected"]
    wrong = [text for text, kind in zip(sample["references"], sample["kinds"]) if kind == "rejected"]
    rows = [("asked", sample["prompt"], "")]
    rows += [(stage, one["answer"] or "(nothing)", "good" if one["answer"] in right else "") for stage, one in samples.items()]
    rows += [("expected", " / ".join(right), "")] + ([("rejected", " / ".join(wrong), "bad")] if wrong else [])
    listed = [join((tag("dt", name), tag("dd", text, class_=kind))) for name, text, kind in rows]
    images = [picture(folder / name, folder) for name in sample["pictures"]]
    shown = tag("div", *images, class_="shots one" if len(images) == 1 else "shots") if any(images) else Html()
    return tag("div", shown, tag("dl", *listed), class_="card")


# --- what was done ---------------------------------------------------------------------------------------------------


def _trained(recipe: Mapping[str, Any]) -> Html:
    model, run, batch, optim = recipe["model"], recipe["run"], recipe["batch"], recipe["optim"]
    length = how_many(run["steps"], "step") if run["steps"] else f"{run['epochs']:g} epochs"
    revision = f" at {model['revision']}" if model.get("revision") else ""
    several = _several_homes(recipe)
    held = _sources(recipe["eval"]["data"], several)
    return facts(
        [
            ("objective", _objective(recipe["objective"])),
            ("model", f"{model['name']}{revision}, computed in {model['dtype']}"),
            ("trains", _trains(recipe)),
            ("data", _sources(recipe["data"], several)),
            ("held out", held or "nothing; before and after are measured on training examples"),
            ("length", f"{length} of {how_many(batch['examples'], 'example')}"),
            ("learning rate", f"{_rate(optim['lr'])}, {optim['schedule']}, warm-up {optim['warmup']:g}"),
        ]
    )


def _objective(objective: Mapping[str, Any]) -> str:
    if objective["kind"] == "sft":
        return "supervised fine-tuning (SFT)"
    loss = objective["loss"]
    losses = loss if isinstance(loss, str) else " + ".join(f"{weight:g} {name}" for name, weight in loss.items())
    extras = [f"nll {objective['nll']:g}"] if objective.get("nll") else []
    extras += ["dense"] if objective.get("dense") else []
    extras += [f"picture term: {objective['picture']['kind']}"] if objective.get("picture") else []
    return ", ".join(
        [f"preference optimisation ({objective['kind'].upper()}), loss {losses}, beta {objective['beta']:g}", *extras]
    )


def _trains(recipe: Mapping[str, Any]) -> str:
    """Adapters, or what is not frozen.

    >>> _trains({"adapters": {"method": "prefix", "tokens": 20}})
    'adapters only: prefix (tokens 20) on text'
    >>> _trains({"freeze": {"vision": 100, "connector": True, "embeddings": False, "decoder_layers": 4}})
    'all weights but vision before step 100, connector, first 4 decoder layers'
    """
    adapters = recipe.get("adapters")
    if adapters:
        settings = ", ".join(f"{name} {_short(adapters[name])}" for name in ADAPTER_SETTINGS if name in adapters)
        also = f", and {', '.join(adapters['train'])} in full" if adapters.get("train") else ""
        beside = f", beside {recipe['quantize']['kind']} weights" if recipe.get("quantize") else ""
        words = f"{adapters['method']} ({settings})" if settings else adapters["method"]
        return f"adapters only: {words} on {', '.join(adapters.get('on', ['text']))}{also}{beside}"
    frozen = []
    for name, value in recipe["freeze"].items():
        words = name.replace("_", " ")
        if value is True:
            frozen.append(words)
        elif value:
            frozen.append(f"first {value} {words}" if name == "decoder_layers" else f"{words} before step {value}")
    return f"all weights but {', '.join(frozen)}" if frozen else "all weights"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _sources(entries: Sequence[Mapping[str, Any]], several: set[str]) -> str:
    return "; ".join(_source(entry, several, weighed=True) for entry in entries)


def _source(entry: Mapping[str, Any], several: set[str], *, weighed: bool = False) -> str:
    """What an entry of a recipe's data asks for.

    Args:
        several: sources that the recipe reads in several folders or at several revisions.
        weighed: with its weight.

    >>> _source({"source": "the_cauldron", "name": ["ai2d", "tqa"], "split": "train", "dir": "a"}, {"the_cauldron"})
    'the_cauldron / ai2d,tqa (train, dir a)'
    """
    source = entry["source"]
    name = config_words(DataSection(source=source, name=entry.get("name")))
    told = [entry["split"]]
    told += [home_words(*_home(entry))] if source in several and not entry.get("fixture") else []
    told += [f"weight {entry['weight']:g}"] if weighed and entry.get("weight") is not None else []
    return f"{' / '.join(filter(None, (source, name)))} ({', '.join(told)})"


def _several_homes(recipe: Mapping[str, Any]) -> set[str]:
    homes: dict[str, set[tuple[str | None, str | None]]] = {}
    for entry in (*recipe["data"], *recipe["eval"]["data"]):
        if not entry.get("fixture"):
            homes.setdefault(entry["source"], set()).add(_home(entry))
    return {source for source, found in homes.items() if len(found) > 1}


def _home(entry: Mapping[str, Any]) -> tuple[str | None, str | None]:
    return entry.get("dir"), None if entry.get("dir") else entry.get("revision")


def _rate(rate: float | Mapping[str, float]) -> str:
    if isinstance(rate, int | float):
        return f"{rate:g}"
    return ", ".join(f"{part} {value:g}" for part, value in rate.items() if value)


def _curves(run: Run) -> Html:
    """Loss by step; of preference runs also rewards and how often chosen is ahead."""
    steps = run.recipe["run"]["steps"] or max((entry["step"] for entry in run.log), default=1)

    def points(kind: str, name: str) -> list[Point]:
        return [(entry["step"], entry[name]) for entry in run.log if entry["kind"] == kind and name in entry]

    def both(name: str, words: str, colour: str) -> list[Curve]:
        return [
            Curve(name=f"{words}, training", points=points("train", name), colour=colour),
            Curve(name=f"{words}, held-out", points=points("eval", name), colour=colour, dotted=True),
        ]

    loss = [
        Curve(name="training, each step", points=points("train", "loss"), colour="train"),
        Curve(name="held-out", points=points("eval", "loss"), colour="eval", dotted=True),
    ]
    rewards = [*both("rewards/chosen", "chosen", "train"), *both("rewards/rejected", "rejected", "eval")]
    shares = [*both("accuracy/token", "by log-prob a token", "train"), *both("accuracy/sum", "by summed log-prob", "eval")]
    charts = [
        chart("Loss", loss, steps),
        chart("Rewards", rewards, steps),
        chart("Share of pairs with chosen ahead", shares, steps, high=1.0),
    ]
    return section("Curves", tag("div", *charts, class_="charts")) if any(charts) else Html()


def _cost(run: Run) -> Html:
    train, summary = [entry for entry in run.log if entry["kind"] == "train"], run.summary
    if not train:
        return Html()
    told = [("speed", f"{_median(train, 'examples/s'):,.1f} examples/s, {_median(train, 'tokens/s'):,.0f} tokens/s (medians)")]
    if summary:
        ahead = summary.get("prepare_seconds")
        told = [
            ("training", duration(summary["seconds"])),
            ("preparing", f"{duration(ahead)}, what a reference says, computed ahead" if ahead else ""),
            *told,
            ("peak memory", f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB"),
            ("energy", f"{summary['energy_wh']:,.1f} Wh" if summary.get("energy_wh") is not None else ""),
        ]
    return section("Cost", facts(told))


def _median(entries: list[dict[str, Any]], name: str) -> float:
    return statistics.median_high(entry[name] for entry in entries)


def _notes(summary: Mapping[str, Any]) -> Html:
    if not summary:
        return Html()
    lines = summary["notes"] or ["every example was used as it is"]
    return section("Dropped and changed examples", tag("ul", *(tag("li", line) for line in lines)))


def _settings(run: Run) -> Html:
    file = run.folder / "recipe.yaml"
    recipe = tag("pre", file.read_text(encoding="utf-8")) if file.is_file() else tag("pre", json.dumps(run.recipe, indent=1))
    versions = " · ".join(f"{name} {version}" for name, version in run.summary.get("versions", {}).items())
    return section("Settings", tag("details", tag("summary", "the whole recipe"), recipe), tag("p", versions, class_="dim small"))
