"""Scores as text, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from smolforge.evals.measures import Score
from smolforge.evals.results import Task

NOUNS = {"preference": "pairs", "predictions": "predictions"}
FEW = 30  # questions below which a percentile bootstrap is too narrow to go by
SHOWN = 6  # scores without a value that are named, and rows that were skipped


def table(name: str, tasks: Iterable[Task]) -> str:
    """One block a task: what it was asked with, then a line a score."""
    return "\n\n".join([name, *(_block(task) for task in tasks)])


def _block(task: Task) -> str:
    head = f"{task.name} · {task.prompts} · {task.questions:,} {NOUNS.get(task.name, 'questions')} of {task.data}"
    said = {measure: score for measure, score in task.scores.items() if score is not None}
    unsaid = [measure for measure in task.scores if measure not in said]
    width = max(map(len, said), default=0)
    rows = [f"  {measure:<{width}}  {interval(score, task.measures[measure])}" for measure, score in said.items()]
    if unsaid:
        listed = "; ".join(unsaid[:SHOWN]) + (f" and {len(unsaid) - SHOWN} more" if len(unsaid) > SHOWN else "")
        rows.append(f"  not defined for these answers: {listed}")
    skipped = [f"  {number:,} rows: {reason}" for reason, number in task.skipped.items()]
    named = [f"    {line}" for line in task.named[:SHOWN]]
    return "\n".join([head, *rows, *skipped, *named, *(f"  note: {note}" for note in [*task.notes, *_caveats(task)])])


def _caveats(task: Task) -> list[str]:
    """Where the bootstrap promises too much."""
    alike = any(score and score.low == score.high and task.measures[name]["percent"] for name, score in task.scores.items())
    few = [f"intervals over {task.questions} questions are too narrow"] if task.questions < FEW else []
    rule = f"an interval without width: all answers are alike; the truth may be {3 / task.questions:.1%} away (rule of three)"
    return few or ([rule] if alike else [])


def interval(score: Score, facts: dict[str, Any]) -> str:
    """
    >>> interval(Score(value=0.5, low=0.25, high=0.75), {"percent": True})
    ' 50.0 %  [25.0, 75.0]'
    >>> interval(Score(value=6.25, low=6.0, high=math.nan), {"percent": False})
    '  6.25    [6.00, –]'
    """
    times, digits, unit = (100, 1, "%") if facts["percent"] else (1, 2, " ")

    def shown(value: float) -> str:
        return "–" if math.isnan(value) else f"{value * times:.{digits}f}"

    return f"{shown(score.value):>{5 if facts['percent'] else 6}} {unit}  [{shown(score.low)}, {shown(score.high)}]"
