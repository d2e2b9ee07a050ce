"""Scores as text, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from smolforge.evals.results import Task
from smolforge.report.words import FEW, interval, number
from smolforge.wording import how_many, some

NOUNS = {"preference": "pair", "predictions": "prediction"}
SHOWN = 6  # scores without a value that are named, and rows that were skipped


def table(name: str, tasks: Iterable[Task]) -> str:
    """One block a task: what it was asked with, then a line a score."""
    return "\n\n".join([name, *(_block(task) for task in tasks)])


def _block(task: Task) -> str:
    head = f"{task.name} · {task.prompts} · {how_many(task.questions, NOUNS.get(task.name, 'question'))} of {task.data}"
    said = {measure: score for measure, score in task.scores.items() if score is not None}
    unsaid = [measure for measure in task.scores if measure not in said]
    width = max(map(len, said), default=0)
    percent = {measure: task.measures[measure]["percent"] for measure in said}
    rows = [f"  {m:<{width}}  {number(s.value, percent[m]):>6}  {interval(s, percent[m])}" for m, s in said.items()]
    if unsaid:
        rows.append(f"  not defined for these answers: {some(unsaid, SHOWN, between='; ')}")
    skipped = [f"  {how_many(rows, 'row')}: {reason}" for reason, rows in task.skipped.items()]
    named = [f"    {line}" for line in task.named[:SHOWN]]
    return "\n".join([head, *rows, *skipped, *named, *(f"  note: {note}" for note in [*task.notes, *_caveats(task)])])


def _caveats(task: Task) -> list[str]:
    """Where the bootstrap promises too much."""
    alike = any(score and score.low == score.high and task.measures[name]["percent"] for name, score in task.scores.items())
    few = (
        [f"intervals over {how_many(task.questions, NOUNS.get(task.name, 'question'))} are too narrow"]
        if task.questions < FEW
        else []
    )
    rule = f"an interval without width: all answers are alike; the truth may be {3 / task.questions:.1%} away (rule of three)"
    return few or ([rule] if alike else [])
