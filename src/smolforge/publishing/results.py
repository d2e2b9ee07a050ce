"""What a card says of before and after: losses, preferences, benchmarks, each with no more certainty than its interval has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from smolforge.evals.measures import Score
from smolforge.publishing.markdown import bullets, name, plain, section, table
from smolforge.publishing.places import Places
from smolforge.publishing.subject import Subject
from smolforge.report.evaluation import NOTE, Measured, few, known_measures, measured, stages
from smolforge.report.run import ABOUT, MEASURES, Run
from smolforge.report.words import FEW, difference, finding, interval, number, tally, verdicts
from smolforge.wording import how_many

START = "before"  # the stage of the model that a run began from


def evaluations(run: Run) -> tuple[list[Measured], list[str]]:
    """Tasks at the stages of this run, and names of stages that are of other models (`after+NAME`: with other adapters)."""
    found = stages(run.folder)
    own = [stage for stage in found if "+" not in stage.name]
    tasks = measured(own, known_measures(), start=str(run.recipe["model"].get("name"))) if own else []
    return tasks, [stage.name for stage in found if stage not in own]


def of_this_model(one: Measured, run: Run) -> bool:
    """Whether the last stage is what is published, and not only what it began from."""
    stage = one.stages[-1]
    return stage.name.lower() != START and stage.model != run.recipe["model"].get("name")


def results_section(subject: Subject, run: Run, tasks: Sequence[Measured]) -> str:
    """Before against after."""
    sided = [
        found for one in tasks if one.compared and not one.drawn for found in verdicts(one.compared.changes, one.task.measures)
    ]
    ends = dict.fromkeys((one.base.name, one.stages[-1].name) for one in tasks if one.compared and not one.drawn)
    lead = f"**{plain(' and '.join(f'{a} → {b}' for a, b in ends))}: {tally(sided)}**" if sided else ""
    return section(
        "Before and after",
        lead,
        *(_task(subject.places, one) for one in tasks),
        NOTE_HERE if tasks else "",
        _losses(run.summary),
        _preferences(subject.places, run.summary),
    )


NOTE_HERE = NOTE.split(" Green and red")[0]  # a card has no colours


def _task(places: Places, one: Measured) -> str:
    """Rows are measures, columns stages, then what changed and whether these questions can show it."""
    task, compared = one.task, one.compared
    ends = f"{one.stages[-1].name} − {one.base.name}"
    head = ["", *map(plain, one.tasks), *([plain(ends), "which is"] if compared else [])]
    rows = []
    for measure, about in task.measures.items():
        better = f"; {about['better']} is better" if about["better"] else ""
        cells = [f"{plain(measure)}<br><small>{plain(about['about'])}{better}</small>"]
        cells += [_score(held.scores.get(measure), about["percent"]) for held in one.tasks.values()]
        if compared:
            change = compared.changes.get(measure)
            by = change.difference if change else None
            cells.append(f"{difference(by, about['percent'])} {interval(by, about['percent'], sign=True)}".strip() if by else "–")
            cells.append(plain(finding(change, about["better"], one.questions)) if change else "–")
        rows.append(cells)
    asked = f"{task.questions:,} question{'' if task.questions == 1 else 's'} of {name(places.text(task.data))}"
    limit = f", limited to {task.limit:,}" if task.limit is not None else ""
    title = f"### {plain(task.name)}\n\n{plain(task.prompts)} prompts, {asked}{limit}."
    return "\n\n".join([title, table(head, rows), *([bullets(remarks)] if (remarks := _remarks(places, one)) else [])])


def _score(score: Score | None, percent: bool) -> str:
    return f"{number(score.value, percent)} {interval(score, percent)}".strip() if score else "–"


def _remarks(places: Places, one: Measured) -> list[str]:
    """What a reader of the scores must know."""
    lines = ["The rows are drawn and made up, to try the task: these scores say nothing about a model."] if one.drawn else []
    if one.refused:
        lines.append(f"The stages cannot be compared question by question: {one.refused}.")
    if one.compared and any(one.compared.alone):
        lines.append(f"Differences are over {how_many(one.questions, 'question')}, which both stages answered.")
    lines += [few(one.questions)] if one.questions < FEW else []
    skipped = {f"{stage}: {rows:,} left out, {why}" for stage, task in one.tasks.items() for why, rows in task.skipped.items()}
    notes = dict.fromkeys(note for task in one.tasks.values() for note in task.notes)
    return [plain(places.text(line)) for line in (*lines, *sorted(skipped), *notes)]


def _losses(summary: Mapping[str, Any]) -> str:
    before, after = summary["before"], summary["after"]
    rows = []
    for key in (key for key in after if not key.startswith(("accuracy/", "ties/"))):
        was, become = before.get(key), after[key]
        about = ABOUT.get(key, ("", ""))[0]
        words = f"{plain(key)}<br><small>{plain(about)}</small>" if about else plain(key)
        rows.append([words, "–" if was is None else f"{was:.4f}", f"{become:.4f}", "" if was is None else f"{become - was:+.4f}"])
    title = f"### On {plain(summary['measured_on'])}\n\nSingle numbers, without intervals."
    return f"{title}\n\n{table(['', 'before', 'after', 'change'], rows)}" if rows else ""


def _preferences(places: Places, summary: Mapping[str, Any]) -> str:
    """How often chosen is preferred, by source and measure."""
    tables = summary.get("preferences")
    if not tables:
        return ""
    rows = []
    for source, after in tables["after"].items():
        before = tables["before"].get(source, {})
        for measure, words in MEASURES.items():
            shares = [_share(found.get(measure)) for found in (before, after)]
            rows.append([f"{plain(places.text(source))}, {words}", *shares, f"{after['pairs']:,}"])
    note = (
        "Share of pairs, with 95 % bootstrap intervals. The implicit reward asks only whether the chosen answer gained more than "
        "the rejected one: the model may still say the rejected one."
    )
    title = f"### Chosen preferred to rejected, on {plain(summary['measured_on'])}"
    return f"{title}\n\n{table(['', 'before', 'after', 'pairs'], rows)}\n\n{note}"


def _share(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    if found["ties"] == 1:
        return "all ties"
    score = Score(value=found["accuracy"], low=found["low"], high=found["high"])
    return _score(score, True) + (f", ties {number(found['ties'], True)}" if found["ties"] else "")


# --- the model-index, which the Hub shows as scores -----------------------------------------------------------------


def index(places: Places, tasks: Sequence[Measured], run: Run, kind: str) -> list[dict[str, Any]]:
    """Scores of this model on real rows, in the Hub's form. Percentages are times 100, and say so."""
    return [
        {"task": {"type": kind}, "dataset": _dataset(places, one), "metrics": metrics}
        for one in tasks
        if of_this_model(one, run) and not one.drawn and (metrics := _metrics(one))
    ]


def _dataset(places: Places, one: Measured) -> dict[str, str]:
    data = one.task.data
    asked = f"{how_many(one.task.questions, 'question')}, {one.task.prompts} prompts"
    return {"name": f"{one.task.name} ({asked})", "type": data if places.is_hub(data) else one.task.name}


def _metrics(one: Measured) -> list[dict[str, Any]]:
    found = []
    for measure, score in one.task.scores.items():
        if score is None:
            continue
        percent = one.task.measures[measure]["percent"]
        bounds = interval(score, percent)
        words = f"{measure}{', %' if percent else ''}{f', 95 % interval {bounds}' if bounds else ''}"
        kind = re.sub(r"\W+", "_", measure.lower()).strip("_")
        found.append({"type": kind, "value": round(score.value * (100 if percent else 1), 4), "name": words})
    return found
