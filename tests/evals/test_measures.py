"""Scores and their intervals: by hand, against numpy's plain bootstrap, and how often an interval holds the truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from smolforge.evals import measures
from smolforge.evals.measures import DRAWS, Measure, Score, Total, differences, ratio, scores
from smolforge.evals.metrics.choices import macro

ACCURACY = Measure(about="right answers", of=ratio("right", "asked"))
EXACT = 1e-12  # the same draws, summed in another order


def answers(*right: float) -> list[dict[str, float]]:
    return [{"right": one, "asked": 1.0} for one in right]


def accuracy(*right: float, **settings: Any) -> Score:
    found = scores(answers(*right), {"accuracy": ACCURACY}, **settings)["accuracy"]
    assert found is not None
    return found


def total(**counts: float) -> Total:
    return Total({name: np.array([count]) for name, count in counts.items()})


# --- values --------------------------------------------------------------------------------------------------------------


def test_a_share_is_of_sums_not_a_mean_of_shares():
    """1 of 1 and 1 of 3 are 2 of 4, not (1 + 1/3) / 2."""
    found = scores([{"right": 1, "asked": 1}, {"right": 1, "asked": 3}], {"accuracy": ACCURACY})["accuracy"]
    assert found is not None
    assert found.value == 0.5


def test_a_ratio_is_nan_where_nothing_was_asked():
    of = ratio("right", "asked", times=100)
    assert of(total(right=1.0, asked=4.0)).tolist() == [25.0]
    assert math.isnan(of(total(right=1.0, asked=0.0))[0])


def test_a_count_that_no_example_has_is_zero():
    assert scores(answers(1, 0), {"other": Measure(about="", of=ratio("elsewhere", "asked"))})["other"] == Score(
        value=0, low=0, high=0
    )
    assert scores(answers(1, 0), {"other": Measure(about="", of=ratio("right", "elsewhere"))})["other"] is None


def test_a_macro_mean_leaves_out_kinds_that_were_not_asked():
    """Kind a: 1 of 2, kind b: 4 of 4, kind c: none asked. (1/2 + 1) / 2 = 3/4, where pooled it were 5/6."""
    of = macro("right", "asked", ("a", "b", "c"))
    counts = {"right:a": 1.0, "asked:a": 2.0, "right:b": 4.0, "asked:b": 4.0}
    assert of(total(**counts))[0] == 0.75
    assert math.isnan(of(total(asked=3.0))[0])


# --- intervals -----------------------------------------------------------------------------------------------------------


def test_intervals_that_can_be_worked_out():
    """One example has no other resample. Of a right and a wrong one, a quarter of the resamples are both right and a quarter both
    wrong, so that the middle 95 % are everything. Of forty right ones, every resample is right."""
    assert accuracy(1) == Score(value=1, low=1, high=1)
    assert accuracy(0, 1) == Score(value=0.5, low=0, high=1)
    assert accuracy(*[1] * 40) == Score(value=1, low=1, high=1)


def test_the_interval_of_a_mean_is_numpys_of_the_same_draws():
    rng = np.random.default_rng(3)
    values = rng.random(37)
    counts = np.random.default_rng(5).multinomial(37, np.full(37, 1 / 37), size=DRAWS)
    means = [np.repeat(values, row).mean() for row in counts]
    found = accuracy(*values, seed=5)
    assert found.value == pytest.approx(values.mean(), abs=EXACT)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=EXACT)


def test_the_interval_is_near_that_of_a_bootstrap_by_picking():
    """Another way of drawing the same: indices with replacement. Measured: 0.0024 apart at most, of an interval 0.12 wide."""
    values = np.random.default_rng(7).random(80)
    picks = np.random.default_rng(11).integers(80, size=(20_000, 80))
    found = accuracy(*values)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(values[picks].mean(1), [2.5, 97.5])), abs=0.006)


def test_resamples_in_which_a_score_cannot_be_said_are_left_out():
    """Only one of two examples names an object: a quarter of the resamples have none."""
    named = Measure(about="", of=ratio("wrong", "named"))
    assert scores([{"named": 2, "wrong": 1}, {"named": 0, "wrong": 0}], {"named": named})["named"] == Score(
        value=0.5, low=0.5, high=0.5
    )


def test_the_draws_are_those_of_the_seed():
    values = np.random.default_rng(0).random(30)
    assert accuracy(*values) == accuracy(*values)
    assert accuracy(*values) != accuracy(*values, seed=1)


# --- differences ---------------------------------------------------------------------------------------------------------


def test_no_difference_between_equal_answers():
    same = answers(1, 0, 1, 1, 0, 0, 1)
    assert differences(same, same, {"accuracy": ACCURACY})["accuracy"] == Score(value=0, low=0, high=0)


def test_a_difference_is_paired():
    """Every answer is worth 1/4 more than before: the difference is certain, although either score is not."""
    before = answers(*np.linspace(0, 0.75, 20))
    after = answers(*(np.linspace(0, 0.75, 20) + 0.25))
    found = differences(before, after, {"accuracy": ACCURACY})["accuracy"]
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25), abs=EXACT)
    alone = accuracy(*np.linspace(0, 0.75, 20))
    assert alone.high - alone.low > 0.15


def test_a_fall_is_negative():
    assert differences(answers(1, 1), answers(0, 0), {"accuracy": ACCURACY})["accuracy"] == Score(value=-1, low=-1, high=-1)


def test_a_difference_needs_both():
    """Before, nothing was named: there was no rate of hallucination to rise from."""
    named = Measure(about="", of=ratio("wrong", "named"))
    before, after = [{"named": 0.0, "wrong": 0.0}], [{"named": 2.0, "wrong": 1.0}]
    assert differences(before, after, {"named": named})["named"] is None
    with pytest.raises(AssertionError, match="1 examples against 2"):
        differences(before, after * 2, {"named": named})


def test_intervals_of_differences_hold_the_truth_as_often_as_they_say(monkeypatch):
    """400 pairs of answers: 60 % right before; of the wrong ones 30 % are mended, of the right ones 10 % spoilt, so that the
    truth is 0.4 * 0.3 - 0.6 * 0.1 = 0.06. Measured: 95.0 % of 300 intervals hold it."""
    monkeypatch.setattr(measures, "DRAWS", 400)  # plenty for a percentile's place within a point
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(300):
        before = rng.random(400) < 0.6
        after = np.where(before, rng.random(400) >= 0.1, rng.random(400) < 0.3)
        found = differences(answers(*before), answers(*after), {"accuracy": ACCURACY}, seed=seed)["accuracy"]
        assert found is not None
        held += found.low <= 0.06 <= found.high
    assert 0.90 <= held / 300 <= 0.99, held
