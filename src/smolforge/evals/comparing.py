"""Two folders of results, question by question: by how much each score changed, and which answers got worse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smolforge.errors import DataError
from smolforge.evals.measures import Measure, Score, Total, differences, scores
from smolforge.evals.results import Prediction, Task, read_predictions, read_results


@dataclass(frozen=True, kw_only=True)
class Change:
    """A score before and after, on the questions that both answered."""

    before: Score | None
    after: Score | None
    difference: Score | None  # after minus before, with the interval of a paired bootstrap

    @property
    def certain(self) -> bool:
        """Whether the interval of the difference leaves out zero."""
        return self.difference is not None and not self.difference.low <= 0 <= self.difference.high


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One question under both models."""

    before: Prediction
    after: Prediction
    gain: float  # of the task's first measure on this question alone, above 0 for better


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One task under both models."""

    before: Task
    after: Task
    changes: dict[str, Change]
    pairs: list[Pair]  # questions that both answered, worst first
    alone: tuple[int, int]  # questions that only one of them answered


def compare(before: Path, after: Path, measures: Mapping[str, Mapping[str, Measure]]) -> dict[str, Compared]:
    """The tasks that both folders have, by their key.

    Args:
        measures: of each task, by its name.

    Raises:
        DataError: a folder without results, or no task or question that both have.
    """
    old, new = read_results(before)["tasks"], read_results(after)["tasks"]
    shared = [key for key in old if key in new]
    if not shared:
        mend = "evaluate both models with the same --tasks and --prompts"
        raise DataError(f"no task in common: {', '.join(old)} against {', '.join(new)}", where=f"{before} and {after}", mend=mend)
    return {key: _compare(old[key], new[key], before, after, measures[old[key].name]) for key in shared}


def _compare(old: Task, new: Task, before: Path, after: Path, measures: Mapping[str, Measure]) -> Compared:
    answers = {prediction.id: prediction for prediction in read_predictions(after, new.key)}
    first = read_predictions(before, old.key)
    both = [(one, answers[one.id]) for one in first if one.id in answers]
    if not both:
        raise DataError(f"no question of {old.key} in common", where=f"{before} and {after}", mend="evaluate the same data")
    sums = [one.sums for one, _ in both], [other.sums for _, other in both]
    was, become, changed = scores(sums[0], measures), scores(sums[1], measures), differences(*sums, measures)
    names = [name for name in old.scores if name in new.scores and name in measures]
    changes = {name: Change(before=was[name], after=become[name], difference=changed[name]) for name in names}
    main = measures[names[0]]
    pairs = [Pair(before=one, after=other, gain=_gain(one, other, main)) for one, other in both]
    return Compared(
        before=old, after=new, changes=changes, pairs=sorted(pairs, key=lambda pair: pair.gain),
        alone=(len(first) - len(both), len(answers) - len(both)),
    )  # fmt: skip


def _gain(before: Prediction, after: Prediction, measure: Measure) -> float:
    """By how much the measure is better on one question; 0 where it cannot be said of both answers."""
    was, become = (float(measure.of(Total({k: np.array([v]) for k, v in one.sums.items()}))[0]) for one in (before, after))
    if math.isnan(was) or math.isnan(become):
        return 0.0
    return was - become if measure.better == "lower" else become - was
