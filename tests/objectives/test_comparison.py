"""Preference accuracies by hand, and how sure they are."""

from __future__ import annotations

from typing import Any

import pytest

from smolforge.objectives.comparison import MEASURES, Comparison, accuracies, by_source, lines


def pair(chosen: float, rejected: float, **others: Any) -> Comparison:
    """A pair of summed log-probs; one token each where nothing else is said."""
    given = {"id": "1", "source": "a", "chosen_tokens": 1, "rejected_tokens": 1} | others
    return Comparison(chosen=chosen, rejected=rejected, **given)


def ahead(count: int, of: int) -> list[Comparison]:
    """`count` of so many pairs have chosen ahead."""
    return [pair(-1.0, -2.0) if number < count else pair(-2.0, -1.0) for number in range(of)]


def test_margins_by_hand() -> None:
    """-6 + 9 = 3 nats; -6 / 3 + 9 / 6 = -0.5 a token; (-6 + 4) - (-9 + 8.5) = -1.5 against the reference."""
    found = pair(-6.0, -9.0, chosen_tokens=3, rejected_tokens=6, chosen_reference=-4.0, rejected_reference=-8.5)
    assert [found.margin(measure) for measure in MEASURES] == pytest.approx([3.0, -0.5, -1.5])


def test_accuracies_by_hand() -> None:
    """What is ahead, chosen before rejected:

                     sum         token             reward
    first           -2 > -3     -1 > -3            0 > -1
    second          -8 < -6     -2 > -3           -1 > -3
    third           -4 = -4     -4 < -2           -1 = -1
    fourth          -9 < -1     -9 < -0.5         -5 < 0
    """
    found = accuracies(
        [
            pair(-2.0, -3.0, chosen_tokens=2, chosen_reference=-2.0, rejected_reference=-2.0),
            pair(-8.0, -6.0, chosen_tokens=4, rejected_tokens=2, chosen_reference=-7.0, rejected_reference=-3.0),
            pair(-4.0, -4.0, rejected_tokens=2, chosen_reference=-3.0, rejected_reference=-3.0),
            pair(-9.0, -1.0, rejected_tokens=2, chosen_reference=-4.0, rejected_reference=-1.0),
        ]
    )
    assert found["pairs"] == 4
    assert [found[measure]["accuracy"] for measure in MEASURES] == [0.25, 0.5, 0.5]
    assert [found[measure]["ties"] for measure in MEASURES] == [0.25, 0.0, 0.25]


def test_ties_are_not_ahead() -> None:
    """At the first step, where policy and reference are one model, nothing is preferred."""
    same = pair(-2.0, -3.0, chosen_reference=-2.0, rejected_reference=-3.0)
    found = accuracies([same] * 5)
    assert found["reward"] == {"accuracy": 0.0, "low": 0.0, "high": 0.0, "ties": 1.0}
    assert found["sum"] == {"accuracy": 1.0, "low": 1.0, "high": 1.0, "ties": 0.0}


def test_without_a_reference() -> None:
    for halves in ({}, {"chosen_reference": -1.0}, {"rejected_reference": -1.0}):
        one = pair(-2.0, -3.0, **halves)
        assert one.margin("reward") is None
        assert accuracies([one])["reward"] is None
    known = pair(-2.0, -3.0, chosen_reference=-2.0, rejected_reference=-2.0)
    assert accuracies([known, pair(-2.0, -3.0)])["reward"]["accuracy"] == 1.0


def test_no_pairs() -> None:
    assert accuracies([]) == {"pairs": 0, "sum": None, "token": None, "reward": None}


@pytest.mark.parametrize(("count", "of"), [(1, 3), (6, 10), (30, 40), (99, 100), (250, 500)])
def test_interval(count: int, of: int) -> None:
    """It holds the accuracy, and is the same each time."""
    found = accuracies(ahead(count, of))["sum"]
    assert found["accuracy"] == pytest.approx(count / of)
    assert 0 <= found["low"] <= found["accuracy"] <= found["high"] <= 1
    assert accuracies(ahead(count, of))["sum"] == found


def test_interval_narrows_with_more_pairs() -> None:
    """As 1 / sqrt(n): about 1.96 * sqrt(0.6 * 0.4 / n) on either side, 0.30, 0.15, 0.048 for n = 10, 40, 400."""
    found = [accuracies(ahead(6 * n // 10, n))["sum"] for n in (10, 40, 400)]
    widths = [scores["high"] - scores["low"] for scores in found]
    assert widths[0] > widths[1] > widths[2]
    assert widths[1:] == pytest.approx([2 * 0.152, 2 * 0.048], rel=0.1)


def test_seed() -> None:
    several = {accuracies(ahead(60, 101), seed=seed)["sum"]["low"] for seed in range(8)}
    assert len(several) > 1


def test_by_source() -> None:
    """Of each source, and of all together where there are several."""
    a, b = ahead(1, 2), [pair(-1.0, -2.0, source="b")] * 2
    found = by_source([*a, *b])
    assert list(found) == ["all", "a", "b"]
    assert [found[source]["sum"]["accuracy"] for source in found] == [0.75, 0.5, 1.0]
    assert [found[source]["pairs"] for source in found] == [4, 2, 2]
    assert found["b"] == accuracies(b)
    assert list(by_source(a)) == ["a"]
    assert by_source([]) == {"all": accuracies([])}


def test_lines() -> None:
    """A line a source and measure; ties are named where there are any."""
    even = pair(-2.0, -2.0, rejected_tokens=2)
    assert lines(by_source([even, pair(-1.0, -2.0)]))[:2] == [
        "a: chosen preferred by summed log-prob 50.0% [0.0%, 100.0%], ties 50.0%, 2 pairs",
        "a: chosen preferred by log-prob a token 50.0% [0.0%, 100.0%], 2 pairs",
    ]
    assert lines(by_source([even]))[2] == "a: by implicit reward unknown, there is no reference"
