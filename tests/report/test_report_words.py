"""Scores in words: their digits, and claims that go no further than the intervals."""

from __future__ import annotations

import math

import pytest

from smolforge.evals.comparing import Change
from smolforge.evals.measures import Score
from smolforge.report.words import difference, finding, interval, number, sentences, tally, verdict, verdicts

ABOUT = {"better": "higher", "percent": True, "about": ""}


def change(value: float, low: float, high: float) -> Change:
    """From 0.5 by `value`."""
    before = Score(value=0.5, low=0.4, high=0.6)
    after = Score(value=0.5 + value, low=0.4 + value, high=0.6 + value)
    return Change(before=before, after=after, difference=Score(value=value, low=low, high=high))


@pytest.mark.parametrize(
    ("values", "better", "expected"),
    [
        ((0.1, 0.01, 0.2), "higher", "better"),
        ((0.1, 0.01, 0.2), "lower", "worse"),
        ((-0.1, -0.2, -0.01), "higher", "worse"),
        ((-0.1, -0.2, -0.01), "lower", "better"),
        ((0.1, 0.01, 0.2), "", "higher"),
        ((-0.1, -0.2, -0.01), "", "lower"),
        ((0.1, -0.01, 0.2), "higher", "same"),
        ((0.1, 0.0, 0.2), "higher", "same"),  # an interval that begins at 0 holds it
        ((0.1, math.nan, math.nan), "higher", ""),
    ],
)
def test_verdict(values, better, expected):
    assert verdict(change(*values), better) == expected


def test_a_difference_that_cannot_be_said_has_no_verdict():
    assert verdict(Change(before=None, after=None, difference=None), "higher") == ""
    assert finding(Change(before=None, after=None, difference=None), "higher", 9) == "cannot be compared"


def test_finding_names_the_number_of_questions():
    assert finding(change(0.1, -0.1, 0.3), "higher", 1200) == "no difference that these 1,200 questions can show"
    assert finding(change(0.1, 0.05, 0.3), "higher", 1200) == "better"


def test_numbers():
    assert (number(1.0, True), number(0.0004, True), number(3.14159, False), number(123.456, False)) == (
        "100.0%",
        "0.0%",
        "3.14",
        "123.5",
    )
    assert difference(Score(value=-0.00001, low=-1, high=1), True) == "0.0", "no negative zero"
    assert difference(Score(value=12.34, low=0, high=0), False) == "+12.3"
    assert interval(Score(value=12.34, low=9.876, high=14.0), False) == "[9.9, 14.0]"
    assert interval(Score(value=1.0, low=math.nan, high=math.nan), True) == ""


def test_a_headline_keeps_certain_and_uncertain_apart_and_leaves_out_no_loss():
    """Of five measures the first three are told, and of the rest what got worse; those without a better side never."""
    changes = {
        "length": change(0.3, 0.2, 0.4),
        "a": change(0.1, 0.05, 0.15),
        "b": change(0.1, -0.05, 0.25),
        "c": change(-0.2, -0.3, -0.1),
        "d": change(0.2, 0.1, 0.3),
        "e": change(-0.1, -0.15, -0.05),
    }
    measures = dict.fromkeys(changes, ABOUT) | {"length": {**ABOUT, "better": ""}}
    assert sentences(changes, measures, 40) == (
        "a 50.0% → 60.0% (better, +10.0 [+5.0, +15.0]); c 50.0% → 30.0% (worse, -20.0 [-30.0, -10.0]); "
        "b 50.0% → 60.0% (+10.0 [-5.0, +25.0]): no difference that these 40 questions can show; "
        "also worse: e 50.0% → 40.0% (-10.0 [-15.0, -5.0])."
    )
    assert tally(verdicts(changes, measures)) == "Of 5 scores, 2 are better, 2 are worse, 1 shows no difference."


def test_a_headline_of_nothing_says_so():
    nothing = {"a": Change(before=None, after=None, difference=None)}
    assert sentences(nothing, {"a": ABOUT}, 3) == "These 3 questions say nothing of any score."
