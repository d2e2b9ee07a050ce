"""Steps prepared by other processes: same steps in the same order, errors as they are, a killed process in one line."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest
import torch

from smolforge.data.ahead import prepared
from smolforge.data.pipeline import Step, open_stream
from smolforge.data.processor import load_renderer
from smolforge.errors import DataError
from smolforge.recipe import DataSection


def same(a: Step, b: Step) -> bool:
    assert len(a.rows) == len(b.rows)
    for one, other in zip(a.rows, b.rows):
        for name, value in vars(one).items():
            there = getattr(other, name)
            assert torch.equal(value, there) if isinstance(value, torch.Tensor) else value == there, name
    return a.tally == b.tally


@pytest.fixture
def stream(tiny):
    return open_stream([DataSection(source="scenes")], load_renderer(tiny), kinds={"target"}, seed=3)


def test_processes_change_nothing(stream):
    plain = list(stream.steps(2, 7, 8))
    ahead = list(stream.steps(2, 7, 8, workers=2))
    assert len(plain) == len(ahead) == 5
    assert all(map(same, plain, ahead))
    assert all(step.waited > 0 for step in plain)


def test_a_start_without_fork(stream):
    """macOS and Windows start processes anew: the stream must pickle."""
    ahead = [step for step, _ in prepared(partial(stream._share, size=4, rank=0, world=1), [5, 6], workers=1, method="spawn")]
    assert all(map(same, stream.steps(5, 7, 4), ahead))


def fails(number: int) -> int:
    if number == 2:
        raise DataError("no such thing", where="row 2", mend="mend it")
    return number


def killed(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_arrives_as_it_is(workers):
    made = prepared(fails, range(4), workers=workers)
    assert [next(made)[0], next(made)[0]] == [0, 1]
    with pytest.raises(DataError) as raised:
        next(made)
    assert str(raised.value) == "row 2: no such thing; mend it"


def test_a_killed_process_is_one_line():
    with pytest.raises(DataError, match=r"run\.workers: a process that prepares examples was killed"):
        list(prepared(killed, range(4), workers=1))


def test_ranks_share_a_step_by_cost(tiny_split, tmp_path):
    """Of eight examples two have pictures of 17 tiles: each of two ranks gets one, and all examples are taken once."""
    import json

    from PIL import Image

    rows = [{"prompt": f"word {number} " * 3, "completion": "yes"} for number in range(6)]
    for number in range(2):
        Image.new("RGB", (400, 400), (number * 90, 20, 20)).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": "What?", "answer": "red"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stream = open_stream([DataSection(source=str(tmp_path / "rows.jsonl"))], load_renderer(tiny_split), kinds={"target"}, seed=0)
    ranks = [next(stream.steps(0, 1, 8, rank=rank, world=2)) for rank in range(2)]
    assert [sum(len(row.tiles) for row in rank.rows) for rank in ranks] == [17, 17]
    names = [name for rank in ranks for row in rank.rows for name in row.ids]
    assert len(names) == len(set(names)) == 8
