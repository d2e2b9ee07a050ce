"""Scores and their differences in words, so that the page and the terminal claim the same, and no more than the intervals say;
and where data lies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from smolforge.evals.comparing import Change
from smolforge.evals.measures import Score
from smolforge.wording import how_many

Verdict = Literal["better", "worse", "higher", "lower", "same", ""]
COLOURS: dict[Verdict, str] = {"better": "good", "worse": "bad"}
TOLD = 3  # scores of a task that a headline names
FEW = 30  # questions below which a bootstrap interval is too narrow to be trusted


def number(value: float, percent: bool) -> str:
    """A score as people write it.

    >>> number(0.1157, True), number(1.1571, False), number(23.42, False)
    ('11.6%', '1.16', '23.4')
    """
    return f"{value:.1%}" if percent else f"{value:.{_digits(value)}f}"


def interval(score: Score | None, percent: bool, *, sign: bool = False) -> str:
    """
    >>> interval(Score(value=0.5, low=0.4, high=0.6), True), interval(Score(value=0.0, low=-0.02, high=0.03), True, sign=True)
    ('[40.0, 60.0]', '[-2.0, +3.0]')
    """
    if score is None or math.isnan(score.low):
        return ""
    digits = 1 if percent else _digits(score.value)
    return f"[{', '.join(_plain(value * (100 if percent else 1), digits, sign) for value in (score.low, score.high))}]"


def difference(score: Score, percent: bool) -> str:
    """By how much a score rose; points for a percentage.

    >>> difference(Score(value=-0.075, low=-0.1, high=-0.05), True)
    '-7.5'
    """
    return _plain(score.value * (100 if percent else 1), 1 if percent else _digits(score.value), True)


def _digits(value: float) -> int:
    return 2 if abs(value) < 10 else 1


def _plain(value: float, digits: int, sign: bool) -> str:
    value = round(value, digits) + 0.0  # no -0.0
    return f"{value:+.{digits}f}" if sign and value else f"{value:.{digits}f}"


def verdict(change: Change, better: str) -> Verdict:
    """What the interval of a difference supports: "same" where it holds 0, "" where there is none.

    Args:
        better: which way the measure is better; "" for measures that only stand beside others.
    """
    found = change.difference
    if found is None or math.isnan(found.low):
        return ""
    if not change.certain:
        return "same"
    rose = found.value > 0
    if not better:
        return "higher" if rose else "lower"
    return "better" if rose == (better == "higher") else "worse"


def finding(change: Change, better: str, questions: int) -> str:
    """The verdict as a reader should understand it."""
    words = verdict(change, better)
    return f"no difference that {these(questions)} can show" if words == "same" else words or "cannot be compared"


def these(questions: int) -> str:
    """
    >>> these(1), these(2400)
    ('this 1 question', 'these 2,400 questions')
    """
    return f"{'this' if questions == 1 else 'these'} {how_many(questions, 'question')}"


def sentences(changes: Mapping[str, Change], measures: Mapping[str, Mapping[str, Any]], questions: int) -> str:
    """A task's headline: its first scores that have a better side, and everything that got worse.

    exact 11.5% → 71.5% (better, +60.0 [+52.5, +67.5]); recall 40.0% → 41.0% (+1.0 [-2.0, +4.0]): no difference that these 200
    questions can show; also worse: accuracy 80.0% → 71.0% (-9.0 [-12.0, -6.0]).
    """
    known = [name for name, change in changes.items() if measures[name]["better"] and verdict(change, measures[name]["better"])]
    found = {name: verdict(changes[name], measures[name]["better"]) for name in known}
    first, rest = known[:TOLD], known[TOLD:]
    parts = [_moved(name, changes[name], measures[name], f"{found[name]}, ") for name in first if found[name] != "same"]
    unsure = [_moved(name, changes[name], measures[name]) for name in first if found[name] == "same"]
    parts += [f"{', '.join(unsure)}: no difference that {these(questions)} can show"] if unsure else []
    worse = [_moved(name, changes[name], measures[name]) for name in rest if found[name] == "worse"]
    parts += [f"also worse: {', '.join(worse)}"] if worse else []
    return "; ".join(parts) + "." if parts else f"{these(questions)} say nothing of any score.".capitalize()


def _moved(name: str, change: Change, about: Mapping[str, Any], verdict: str = "") -> str:
    was, become, by = change.before, change.after, change.difference
    if was is None or become is None or by is None:
        raise AssertionError(f"{name} has a verdict but no values")
    percent = about["percent"]
    values = f"{number(was.value, percent)} → {number(become.value, percent)}"
    return f"{name} {values} ({verdict}{difference(by, percent)} {interval(by, percent, sign=True)})"


def verdicts(changes: Mapping[str, Change], measures: Mapping[str, Mapping[str, Any]]) -> list[Verdict]:
    """Of the scores that have a better side and can be compared."""
    found = [verdict(change, measures[name]["better"]) for name, change in changes.items() if measures[name]["better"]]
    return [one for one in found if one]


def tally(found: Sequence[Verdict]) -> str:
    """How many scores went which way.

    >>> tally(["better", "better", "same"])
    'Of 3 scores, 2 are better, none is worse, 1 shows no difference.'
    """
    better, worse, same = (found.count(kind) for kind in ("better", "worse", "same"))
    unsure = f", {same} {'show' if same > 1 else 'shows'} no difference" if same else ""
    return f"Of {how_many(len(found), 'score')}, {_is(better)} better, {_is(worse)} worse{unsure}."


def _is(count: int) -> str:
    return f"{count} are" if count > 1 else f"{count or 'none'} is"
