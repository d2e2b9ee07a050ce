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
  font-variant-numeric: tabular-nums } th:first-child, td:first-child { text-align: left } th { font-weight: 600 }
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
        _losses(summary),
        _curve(log, recipe["run"]["steps"] or max((e["step"] for e in log), default=1)),
        _samples(folder / "samples"),
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


def _losses(summary: dict[str, Any]) -> str:
    if not summary:
        return ""
    before, after = summary["before"], summary["after"]
    rows = "".join(f"<tr><td>{_esc(k)}<td>{before[k]:.4f}<td>{after[k]:.4f}<td>{_change(before[k], after[k])}" for k in after)
    return (
        f"<h2>Before against after, on {_esc(summary['measured_on'])}</h2><div class=wide><table><tr><th><th>before<th>after<th>"
        f"change{rows}</table></div><p class=dim>loss: nats a token of the answers</p>"
    )


def _change(before: float, after: float) -> str:
    kind = "good" if after < before else "bad"
    return f"<span class={kind}>{after - before:+.4f}</span>"


def _curve(log: list[dict[str, Any]], steps: int) -> str:
    train = [(e["step"], e["loss"]) for e in log if e["kind"] == "train"]
    held = [(e["step"], e["loss"]) for e in log if e["kind"] == "eval"]
    if not train:
        return ""
    width, height, left, bottom, top = 640, 260, 46, 28, 12
    highest = max(y for _, y in train + held) or 1.0

    def at(point: tuple[int, float]) -> str:
        x = left + point[0] / steps * (width - left - 12)
        return f"{x:.1f},{top + (1 - point[1] / highest) * (height - top - bottom):.1f}"

    ticks = [highest * n / 4 for n in range(5)]
    grid = "".join(
        f'<line x1="{left}" x2="{width - 12}" y1="{at((0, t)).split(",")[1]}" y2="{at((0, t)).split(",")[1]}" '
        f'stroke="var(--line)"/><text x="{left - 6}" y="{at((0, t)).split(",")[1]}" text-anchor="end" dy="4">{t:.2f}</text>'
        for t in ticks
    )
    marks = "".join(
        f'<text x="{at((s, 0)).split(",")[0]}" y="{height - 8}" text-anchor="middle">{s}</text>'
        for s in (round(steps * n / 4) for n in range(5))
    )
    dots = "".join(f'<circle cx="{at(p).split(",")[0]}" cy="{at(p).split(",")[1]}" r="4" fill="var(--eval)"/>' for p in held)
    line = " ".join(at(p) for p in _thin(train))
    dashes = " ".join(at(p) for p in held)
    return (
        f'<h2>Loss</h2><svg viewBox="0 0 {width} {height}" role="img" aria-label="loss by step">{grid}{marks}'
        f'<polyline points="{line}" fill="none" stroke="var(--train)" stroke-width="1.6"/>'
        f'<polyline points="{dashes}" fill="none" stroke="var(--eval)" stroke-width="1.2" stroke-dasharray="4 4"/>{dots}</svg>'
        '<p class=dim><span style="color:var(--train)">━</span> training, each step · '
        '<span style="color:var(--eval)">●</span> held-out</p>'
    )


def _thin(points: list[tuple[int, float]], most: int = 600) -> list[tuple[int, float]]:
    """At most `most` points, each the mean of its neighbours."""
    size = -(-len(points) // most)
    chunks = [points[n : n + size] for n in range(0, len(points), size)]
    return [(chunk[-1][0], sum(y for _, y in chunk) / len(chunk)) for chunk in chunks]


def _samples(folder: Path) -> str:
    before, after = ({line["id"]: line for line in _lines(folder / f"{when}.jsonl")} for when in ("before", "after"))
    if not before and not after:
        return ""
    return f"<h2>Answers</h2><div class=cards>{''.join(_card(folder, key, before, after) for key in (after or before))}</div>"


def _card(folder: Path, key: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    sample = after.get(key) or before[key]
    pictures = "".join(_picture(folder / name) for name in sample["pictures"])
    facts = [("asked", sample["prompt"], "")]
    for when, lines in (("before", before), ("after", after)):
        if key in lines:
            answer = lines[key]["answer"]
            facts.append((when, answer or "(nothing)", "good" if answer in sample["references"] else ""))
    facts.append(("expected", " / ".join(sample["references"]), ""))
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
