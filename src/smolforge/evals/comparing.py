"""Two folders of results, question by question: by how much each score changed, and which answers got worse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
        return self.difference is not None and (self.difference.low > 0 or self.difference.high < 0)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One question under both models."""

    before: Prediction
    after: Prediction
    gain: float  # of the first measure that this question alone tells, above 0 for better


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One task under both models."""

    before: Task
    after: Task
    changes: dict[str, Change]
    pairs: list[Pair]  # questions that both answered, worst first
    alone: tuple[int, int]  # questions that only one of them answered, or that differ under one id


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
    found = ((key, _compare(old[key], new[key], before, after, measures[old[key].name])) for key in shared)
    compared = {key: one for key, one in found if one is not None}
    if not compared:
        raise DataError(
            f"no question of {', '.join(shared)} in common", where=f"{before} and {after}", mend="evaluate the same data"
        )
    return compared


def _compare(old: Task, new: Task, before: Path, after: Path, measures: Mapping[str, Measure]) -> Compared | None:
    """None when they share no question."""
    answers = {prediction.id: prediction for prediction in read_predictions(after, new.key)}
    first = read_predictions(before, old.key)
    both = [(one, answers[one.id]) for one in first if one.id in answers and _alike(one, answers[one.id], old.name)]
    if not both:
        return None
    sums = [one.sums for one, _ in both], [other.sums for _, other in both]
    was, become, changed = scores(sums[0], measures), scores(sums[1], measures), differences(*sums, measures)
    names = [name for name in old.scores if name in new.scores and name in measures]
    changes = {name: Change(before=was[name], after=become[name], difference=changed[name]) for name in names}
    telling = [measures[name] for name in names if measures[name].better]
    pairs = [Pair(before=one, after=other, gain=_gain(one, other, telling)) for one, other in both]
    return Compared(
        before=old, after=new, changes=changes, pairs=sorted(pairs, key=lambda pair: pair.gain),
        alone=(len(first) - len(both), len(answers) - len(both)),
    )  # fmt: skip


def _alike(before: Prediction, after: Prediction, task: str) -> bool:
    """Whether both were asked the same: an id may be a row's number, and the rows others. A pair's facts are its log-probs."""
    return before.prompt == after.prompt and (task == "preference" or before.facts == after.facts)


def _gain(before: Prediction, after: Prediction, measures: Sequence[Measure]) -> float:
    """By how much the first measure that can be said of both answers is better on this question; 0 when none can."""
    totals = [Total({name: np.array([count]) for name, count in one.sums.items()}) for one in (before, after)]
    for measure in measures:
        was, become = (float(measure.of(total)[0]) for total in totals)
        if not math.isnan(was) and not math.isnan(become):
            return was - become if measure.better == "lower" else become - was
    return 0.0
