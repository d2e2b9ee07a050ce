"""Which rows are looked at: the first ones of each source in the run's own order, each once."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from smolforge.checking import renderer_of
from smolforge.checking.sampling import FIRST, draw, first_steps
from smolforge.data.mix import Mixture
from smolforge.data.pipeline import Shaping, Stream
from smolforge.data.sources import shapes
from smolforge.data.sources.source import Source

SHAPING = Shaping(kinds=frozenset({"target"}))


class Numbers:
    """Row n asks for n, without end."""

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> dict[str, str]:
        return {"question": f"{index}", "answer": f"{index}"}


@pytest.fixture
def stream(recipe, write):
    """Two sources of numbers with 8 and 1,000 rows; the second is a stream where asked for."""

    def opened(shares=(0.5, 0.5), *, endless: bool = False) -> Stream:
        renderer = renderer_of(recipe({"source": "unread"}))
        rows = [range(8), range(2**62) if endless else range(1000)]
        sources = tuple(
            Source(name=name, table=Numbers(), rows=some, to_record=shapes.record, endless=endless and name == "b")
            for name, some in zip("ab", rows)
        )
        mixture = Mixture([len(some) for some in rows], shares, seed=3, endless=[1] if endless else [])
        return Stream(sources=sources, mixture=mixture, renderer=renderer, shaping=SHAPING, examples=4)

    return opened


def sampled(stream, *, rows: int, last: int):
    return draw(stream, rows=rows, last=last, until=time.monotonic() + 60, tell=lambda *said: None, doing="")


def test_the_first_rows_of_each_source_in_the_mixtures_order(stream):
    mixed = stream()
    sample = sampled(mixed, rows=10, last=1000)
    expected: dict[int, list[int]] = {0: [], 1: []}
    for index in range(1000):
        source, row = mixed.mixture(index)
        if row not in expected[source] and len(expected[source]) < 10:
            expected[source].append(row)
    seen = {source: [mixed.mixture(one.index)[1] for one in sample.of(source)[0]] for source in (0, 1)}
    assert seen == expected
    assert [len(rows) for rows in seen.values()] == [8, 10], "the first source has no more"
    assert sample.walked < 1000, "it ends when every source has given its rows"


def test_first_places_are_counted(stream):
    mixed = stream((0.8, 0.2))
    sample = sampled(mixed, rows=2, last=10**9)
    counts = sum(mixed.mixture(index)[0] == 0 for index in range(FIRST))
    assert sample.came == [counts / FIRST, 1 - counts / FIRST]
    assert sample.came[0] == pytest.approx(0.8, abs=0.001)


def test_a_stream_without_an_end(stream):
    sample = sampled(stream(endless=True), rows=5, last=1000)
    looks, _ = sample.of(1)
    assert [one.name for one in looks] == [f"b[{n}]" for n in range(5)], "in its own order"


def test_a_rare_source_is_not_searched_for_beyond_the_run(stream):
    sample = sampled(stream((0.9999, 0.0001)), rows=5, last=400)
    assert sample.of(1) == ([], [])
    assert sample.walked == 400


def test_steps_are_whole_and_use_what_was_looked_at(stream):
    mixed = stream()
    sample = sampled(mixed, rows=10, last=1000)
    until = time.monotonic() + 60
    steps = first_steps(mixed, sample, examples=4, steps=3, until=until, tell=lambda *said: None)
    assert [[one.index for one in step] for step in steps] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    sample.looks[0] = replace(sample.looks[0], scored=77)
    again = first_steps(mixed, sample, examples=4, steps=1, until=until, tell=lambda *said: None)
    assert again[0][sample.looks[0].index].scored == 77
    large = first_steps(mixed, sample, examples=600, steps=3, until=until, tell=lambda *said: None)
    assert [len(step) for step in large] == [600], "more than 512 examples: one step, and it is whole"
