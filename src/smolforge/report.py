"""One self-contained HTML page from a run's files. Reads results only; runs nothing."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smolforge.errors import UserError
from smolforge.files import write_whole
from smolforge.training.tracking import read_metrics

STYLE = """
:root { color-scheme: light dark; --line: #d0d4da; --dim: #5b6470; --back: #fbfbfa; --ink: #16191d; --card: #fff;
  --train: #4470d8; --eval: #d2641e; --good: #1a7f43; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --line: #3a4048; --dim: #9aa4b0; --back: #14171a; --ink: #e8eaed; --card: #1c2024;
  --train: #7ea2f5; --eval: #f09a5c; --good: #5cc98a; --bad: #f28b82; } }
* { box-sizing: border-box } body { font: 16px/1.5 system-ui, sans-serif; background: var(--back); color: var(--ink);
  max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.6rem; margin: 0 0 .2rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem } p { margin: .4rem 0 }
.dim { color: var(--dim) } .good { color: var(--good) } .bad { color: var(--bad) }
table { border-collapse: collapse } th, td { text-align: right; padding: .3rem .9rem .3rem 0; border-bottom:
  1px solid var(--line);
  font-variant-numeric: tabular-nums } th:first-child, td:first-child, td.dim { text-align: left }
  td.dim { min-width: 16rem } th { font-weight: 600 }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem; overflow-wrap: anywhere }
.card img { width: 100%; max-height: 15rem; object-fit: contain;
  border-radius: 4px }
.card dl { margin: .5rem 0 0 } .card dt { font-size: .8rem; color: var(--dim); margin-top: .4rem } .card dd { margin: 0 }
svg { width: 100%; height: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px }
svg text { fill: var(--dim); font-size: 13px } pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem; overflow-x: auto; font-size: .85rem } .wide { overflow-x: auto } summary { cursor: pointer }
"""


def write_report(folder: Path) -> Path:
    """Build `report.html` in a run's folder from the files there.

    Raises:
        UserError: the folder holds no run.
    """
    if not (folder / "recipe.json").is_file():
        raise UserError("holds no run", where=folder, mend="give a folder that `smolforge train` wrote")
    recipe, summary, scores = (_json(folder / name) for name in ("recipe.json", "summary.json", "metrics.json"))
    log = read_metrics(folder)
    sections = [
        _head(folder, recipe, summary),
        _scores(scores),
        _preferences(summary),
        _losses(summary),
        _curve(log, recipe["run"]["steps"] or max((e["step"] for e in log), default=1)),
        _samples(folder),
        _cost(log, summary),
        _notes(summary),
        _settings(folder, summary),
    ]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{_esc(folder.name)} · smolforge</title><style>{STYLE}</style><body>{''.join(sections)}</body></html>"
    )
    out = folder / "report.html"
    write_whole(out, page)
    return out


# --- sections --------------------------------------------------------------------------------------------------------


def _head(folder: Path, recipe: dict[str, Any], summary: dict[str, Any]) -> str:
    sources = ", ".join(f"{s['source']} ({s['split']})" for s in recipe["data"])
    state = f"{summary['steps']} steps in {_duration(summary['seconds'])}" if summary else "not finished yet"
    return (
        f"<h1>{_esc(folder.name)}</h1><p>{_esc(recipe['objective']['kind'].upper())} of <b>{_esc(recipe['model']['name'])}</b>"
        f" on {_esc(sources)}</p><p class=dim>{state}</p>"
    )


def _scores(scores: dict[str, Any]) -> str:
    """Task scores of each stage: {"before": {"exact": ..}, "sft": {..}}."""
    if not scores:
        return ""
    names = [name for name in next(iter(scores.values())) if name != "seconds"]
    head = "".join(f"<th>{_esc(stage)}" for stage in scores)
    rows = "".join(f"<tr><td>{_esc(name)}" + "".join(f"<td>{values[name]:.1%}" for values in scores.values()) for name in names)
    return f"<h2>Scores on held-out examples</h2><div class=wide><table><tr><th>{head}{rows}</table></div>"


MEASURES = {"sum": "by summed log-prob", "token": "by log-prob a token", "reward": "by implicit reward"}


def _preferences(summary: dict[str, Any]) -> str:
    """How often chosen is preferred, by source and measure, with intervals and ties."""
    tables = summary.get("preferences")
    if not tables:
        return ""
    rows = []
    for source, after in tables["after"].items():
        before = tables["before"].get(source, {})
        for measure, words in MEASURES.items():
            cells = "".join(f"<td>{_share(table.get(measure))}" for table in (before, after))
            rows.append(f"<tr><td>{_esc(source)}, {words}{cells}<td>{after['pairs']}")
    return (
        f"<h2>Chosen preferred to rejected, on {_esc(summary['measured_on'])}</h2><div class=wide><table><tr><th><th>before"
        f"<th>after<th>pairs{''.join(rows)}</table></div><p class=dim>Share of pairs, 95 % bootstrap interval. The implicit "
        "reward asks only whether the chosen answer gained more than the rejected one, and so flatters: the model may still "
        "say the rejected one.</p>"
    )


def _share(score: dict[str, Any] | None) -> str:
    if score is None:
        return "–"
    if score["ties"] == 1:
        return "all ties"
    ties = f", ties {score['ties']:.1%}" if score["ties"] else ""
    return f"{score['accuracy']:.1%} <span class=dim>[{score['low']:.1%}, {score['high']:.1%}]{ties}</span>"


# What the names of a run's metrics mean, and whether lower or higher is better.
ABOUT = {
    "loss": ("the objective", "lower"),
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


def _losses(summary: dict[str, Any]) -> str:
    if not summary:
        return ""
    before, after = summary["before"], summary["after"]
    names = [name for name in after if not name.startswith(("accuracy/", "ties/"))]
    rows = "".join(_metric_row(name, before.get(name), after[name]) for name in names)
    return (
        f"<h2>Before against after, on {_esc(summary['measured_on'])}</h2><div class=wide><table><tr><th><th>before<th>after<th>"
        f"change<th>{rows}</table></div>"
    )


def _metric_row(name: str, before: float | None, after: float) -> str:
    words, better = ABOUT.get(name, ("", ""))
    if name == "loss":
        words = "the objective; for supervised runs nats a token of the answers"
    was = "–" if before is None else f"{before:.4f}"
    return f"<tr><td>{_esc(name)}<td>{was}<td>{after:.4f}<td>{_change(before, after, better)}<td class=dim>{_esc(words)}"


def _change(before: float | None, after: float, better: str) -> str:
    if before is None or before == after:
        return ""
    kind = "" if not better else "good" if (after < before) == (better == "lower") else "bad"
    return f"<span class='{kind}'>{after - before:+.4f}</span>"


def _curve(log: list[dict[str, Any]], steps: int) -> str:
    """Loss by step; of preference runs the rewards too."""

    def points(kind: str, name: str) -> list[tuple[int, float]]:
        return [(entry["step"], entry[name]) for entry in log if entry["kind"] == kind and name in entry]

    charts = _chart("Loss", {"training, each step": points("train", "loss")}, {"held-out": points("eval", "loss")}, steps)
    rewards = {kind: points("train", f"rewards/{kind}") for kind in ("chosen", "rejected")}
    return charts + _chart("Rewards", rewards, {}, steps)


def _chart(title: str, lines: dict[str, list[tuple[int, float]]], dotted: dict[str, list[tuple[int, float]]], steps: int) -> str:
    """Curves by step as SVG: `lines` drawn through, `dotted` with a mark a point."""
    values = [y for curve in (*lines.values(), *dotted.values()) for _, y in curve]
    if not any(lines.values()):
        return ""
    width, height, left, bottom, top = 640, 260, 54, 28, 12
    lowest, highest = min(0.0, *values), max(0.0, *values)
    span = highest - lowest or 1.0

    def at(point: tuple[float, float]) -> tuple[float, float]:
        x = left + point[0] / steps * (width - left - 12)
        return x, top + (highest - point[1]) / span * (height - top - bottom)

    def path(curve: list[tuple[int, float]]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, curve))

    drawn = ""
    for n in range(5):
        tick = lowest + span * n / 4
        y = at((0, tick))[1]
        drawn += f'<line x1="{left}" x2="{width - 12}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
        drawn += f'<text x="{left - 6}" y="{y:.1f}" text-anchor="end" dy="4">{tick:.2f}</text>'
        x = at((round(steps * n / 4), 0))[0]
        drawn += f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{round(steps * n / 4)}</text>'
    legend = []
    colours = iter(("var(--train)", "var(--eval)"))
    for name, curve in lines.items():
        colour = next(colours)
        drawn += f'<polyline points="{path(_thin(curve))}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        legend.append(f'<span style="color:{colour}">━</span> {_esc(name)}')
    for name, curve in dotted.items():
        colour = next(colours)
        drawn += f'<polyline points="{path(curve)}" fill="none" stroke="{colour}" stroke-width="1.2" stroke-dasharray="4 4"/>'
        drawn += "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in map(at, curve))
        legend.append(f'<span style="color:{colour}">●</span> {_esc(name)}')
    return (
        f'<h2>{title}</h2><svg viewBox="0 0 {width} {height}" role="img" aria-label="{title.lower()} by step">{drawn}</svg>'
        f"<p class=dim>{' · '.join(legend)}</p>"
    )


def _thin(points: list[tuple[int, float]], most: int = 600) -> list[tuple[int, float]]:
    """At most `most` points, each the mean of its neighbours."""
    size = -(-len(points) // most)
    chunks = [points[n : n + size] for n in range(0, len(points), size)]
    return [(chunk[-1][0], sum(y for _, y in chunk) / len(chunk)) for chunk in chunks]


def _samples(folder: Path) -> str:
    """Answers to the same prompts at each stage: a run's before and after, or what `stages.json` lists (stage -> file)."""
    stages = _json(folder / "stages.json") or {when: f"samples/{when}.jsonl" for when in ("before", "after")}
    answers = {stage: lines for stage, file in stages.items() if (lines := _lines(folder / file))}
    if not answers:
        return ""
    cards = zip(*answers.values())
    return (
        f"<h2>Answers</h2><div class=cards>{''.join(_card(folder / 'samples', dict(zip(answers, card))) for card in cards)}</div>"
    )


def _card(folder: Path, samples: dict[str, dict[str, Any]]) -> str:
    """One prompt: its pictures, and each stage's answer."""
    sample = [*samples.values()][-1]
    pictures = "".join(_picture(folder / name) for name in sample["pictures"])
    facts = [("asked", sample["prompt"], "")]
    right = [text for text, kind in zip(sample["references"], sample["kinds"]) if kind != "rejected"]
    for stage, one in samples.items():
        facts.append((stage, one["answer"] or "(nothing)", "good" if one["answer"] in right else ""))
    facts.append(("expected", " / ".join(right), ""))
    wrong = [text for text, kind in zip(sample["references"], sample["kinds"]) if kind == "rejected"]
    facts += [("rejected", " / ".join(wrong), "bad")] if wrong else []
    listed = "".join(f"<dt>{name}<dd class='{kind}'>{_esc(text)}" for name, text, kind in facts)
    return f"<div class=card>{pictures}<dl>{listed}</dl></div>"


def _picture(file: Path) -> str:
    if not file.is_file():
        return ""
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}">'


def _cost(log: list[dict[str, Any]], summary: dict[str, Any]) -> str:
    train = [e for e in log if e["kind"] == "train"]
    if not train:
        return ""
    facts = [
        f"{_median(e['examples/s'] for e in train):,.1f} examples/s",
        f"{_median(e['tokens/s'] for e in train):,.0f} tokens/s",
    ]
    if summary:
        facts += [
            f"{_duration(summary['seconds'])} of training",
            f"peak memory {summary['peak_memory_bytes'] / 2**30:.2f} GiB",
        ]
    return f"<h2>Cost</h2><p>{' · '.join(facts)}</p>"


def _notes(summary: dict[str, Any]) -> str:
    if not summary:
        return ""
    lines = "".join(f"<li>{_esc(line)}" for line in summary["notes"]) or "<li>every example was used as it is"
    return f"<h2>Dropped and changed examples</h2><ul>{lines}</ul>"


def _settings(folder: Path, summary: dict[str, Any]) -> str:
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    versions = " · ".join(f"{name} {version}" for name, version in summary.get("versions", {}).items())
    return (
        f"<h2>Settings</h2><details><summary>the whole recipe</summary><pre>{_esc(recipe)}</pre></details>"
        f"<p class=dim>{_esc(versions)}</p>"
    )


# --- small parts -----------------------------------------------------------------------------------------------------


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def _esc(text: object) -> str:
    return html.escape(str(text))


def _median(values: Any) -> float:
    ordered: Sequence[float] = sorted(values)
    return ordered[len(ordered) // 2]


def _duration(seconds: float) -> str:
    """
    >>> _duration(42.4), _duration(3723)
    ('42 s', '1 h 2 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
