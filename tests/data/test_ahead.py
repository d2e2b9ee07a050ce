"""Steps prepared by other processes: same steps in the same order, errors as they are, a killed process in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from smolforge.data import ahead as ahead_module
from smolforge.data import pipeline
from smolforge.data.ahead import prepared
from smolforge.data.pipeline import Step, Stream, open_stream
from smolforge.data.processor import load_renderer
from smolforge.errors import DataError
from smolforge.recipe import DataSection


def same(a: Step, b: Step) -> bool:
    assert len(a.rows) == len(b.rows)
    for one, other in zip(a.rows, b.rows):
        for name, value in vars(one).items():
            there = getattr(other, name)
            if isinstance(value, torch.Tensor):  # the order in memory decides in which order a device adds
                assert torch.equal(value, there), name
                assert value.stride() == there.stride(), name
            else:
                assert value == there, name
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


@pytest.fixture
def photos(tiny_split, tmp_path):
    """Twelve photos of 17 tiles, two of them cut off, and four texts, one without an answer, in rows of about two photos."""
    rows = [{"prompt": f"word {number} " * 3, "completion": "yes" if number else ""} for number in range(4)]
    for number in range(12):
        file = tmp_path / f"{number}.jpg"
        Image.new("RGB", (400, 400), (number * 20, 20, 20)).save(file)
        if number in (3, 8):
            file.write_bytes(file.read_bytes()[:-600])
        rows.append({"image": file.name, "question": "What?", "answer": "red"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sections = [DataSection(source=str(tmp_path / "rows.jsonl"))]
    return open_stream(sections, load_renderer(tiny_split, row_tokens=480), kinds={"target"}, seed=0)


@pytest.mark.parametrize("world", [1, 2])
def test_a_step_in_parts_is_the_step(photos, world):
    """Whatever their number, so that a run with other workers has the same rows, and the damaged are counted once."""
    whole = photos._share(0, size=16, rank=0, world=world)
    assert len(whole.rows) > 2
    assert world == 2 or whole.tally.dropped == {"damaged picture": 2, "empty answer": 1}
    for parts in (2, 3, 7):
        made = [(photos._share(part, size=16, rank=0, world=world, parts=parts), 0.0) for part in range(parts)]
        assert max(len(step.rows) for step, _ in made) < len(whole.rows)
        assert same(pipeline._whole(made), whole)
        assert pipeline._whole(made).plan == whole.plan


def test_large_steps_are_made_together_and_one_at_a_time(photos, monkeypatch, tmp_path):
    """Four workers while the first step trains: the second is there, and nothing of the third, where each would have had two."""
    monkeypatch.setattr(ahead_module, "PART", 1000)
    make = Stream._share

    def told(self, number, **how):
        with (tmp_path / "made").open("a") as file:
            file.write(f"{number} {os.getpid()}\n")
        return make(self, number, **how)

    plain = list(photos.steps(0, 2, 16))
    monkeypatch.setattr(Stream, "_share", told)
    steps = photos.steps(0, 9, 16, workers=4)
    assert same(next(steps), plain[0])
    until = time.monotonic() + 300
    while len(made := [line.split() for line in (tmp_path / "made").read_text().splitlines()]) < 8 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.5)  # in which nothing of the third may begin
    made = [line.split() for line in (tmp_path / "made").read_text().splitlines()]
    assert sorted(int(number) for number, _ in made) == [*range(8)]
    assert len({process for _, process in made}) == 4
    assert same(next(steps), plain[1])
    steps.close()


def shares_its_tiles(number: int, *, stream: Stream) -> bool:
    return all(row.tiles.is_shared() for row in stream.step([number]).rows)


def test_pixels_are_laid_out_in_shared_memory(stream):
    """Before they are handed over: they are never copied there. Without processes they stay out of it."""
    make = partial(shares_its_tiles, stream=stream)
    assert [shared for shared, _ in prepared(make, [0, 1], workers=1)] == [True, True]
    assert [shared for shared, _ in prepared(make, [0], workers=0)] == [False]


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


def killed_when_told(number: int, *, folder: Path) -> int:
    """Number 0 is its process, which is killed at number 1 once the file `go` is there."""
    while number == 1 and not (folder / "go").exists():
        time.sleep(0.01)
    return killed(number) or os.getpid()


def wrong(number: int) -> int:
    raise RuntimeError(f"a mistake of ours with {number}")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_arrives_as_it_is(workers):
    made = prepared(fails, range(4), workers=workers)
    assert [next(made)[0], next(made)[0]] == [0, 1]
    with pytest.raises(DataError) as raised:
        next(made)
    assert str(raised.value) == "row 2: no such thing; mend it"


KILLED = r"run\.workers: a process that prepares examples was killed"


def test_a_killed_process_is_one_line():
    with pytest.raises(DataError, match=KILLED):
        list(prepared(killed, range(4), workers=1))


def test_a_killed_process_is_told_of_where_the_next_step_is_asked_for(tmp_path, monkeypatch):
    """Not in the midst of a training step, where PyTorch's handler of SIGCHLD would raise, and not when PyTorch looks by itself:
    that is every five seconds, here every two minutes."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (120,))
    before = signal.getsignal(signal.SIGCHLD)
    made = prepared(partial(killed_when_told, folder=tmp_path), range(4), workers=1)
    process = next(made)[0]
    (tmp_path / "go").touch()
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)  # a training step, in which the process is killed; its end is not taken
    began = time.monotonic()
    with pytest.raises(DataError, match=KILLED):
        next(made)
    assert time.monotonic() - began < 60
    assert signal.getsignal(signal.SIGCHLD) == before


def test_more_processes_than_cores_are_not_complained_of():
    """PyTorch warns, and in tests warnings are errors."""
    assert [one for one, _ in prepared(str, range(3), workers=(os.cpu_count() or 1) + 1)] == ["0", "1", "2"]


def test_a_mistake_of_ours_is_not_told_as_a_kill():
    with pytest.raises(RuntimeError, match="a mistake of ours with 0"):
        next(prepared(wrong, range(4), workers=1))


ENDINGS = {
    "in a process": ("raise KeyError('x')", "list(made)"),
    "in the training step": ("return number", "for one in made: raise KeyError('x')"),
    "kept by who asked": ("return number", "next(made); kept = made"),
    "at work for ever": ("time.sleep(600 * number)", "next(made)"),
}


@pytest.mark.parametrize(("make", "ask"), ENDINGS.values(), ids=ENDINGS)
def test_a_program_ends_with_its_processes(tmp_path, make, ask):
    """They ignore SIGTERM, with which Python ends what is left at exit, and waits. About 3 s each; the last is killed after 5."""
    program = f"""
        import time
        from smolforge.data.ahead import prepared

        def make(number):
            {make}

        made = prepared(make, range(50), workers=1)
        {ask}
    """
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(program))
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=300)
    assert ("KeyError" in done.stderr) == ("KeyError" in program), done.stderr
    assert done.returncode == ("KeyError" in program)


def test_ranks_share_a_step_by_cost(tiny_split, tmp_path):
    """Of eight examples two have pictures of 17 tiles: each of two ranks gets one, and all examples are taken once."""
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


def test_ranks_that_see_other_files_have_other_plans(tiny, tmp_path):
    """One rank's copy lacks a picture: the plans differ, which ends a run."""
    import shutil

    copies = [tmp_path / "a", tmp_path / "b"]
    copies[0].mkdir()
    for number in range(4):
        Image.new("RGB", (96, 96), (number * 60, 0, 0)).save(copies[0] / f"{number}.png")
    lines = [json.dumps({"image": f"{number}.png", "caption": "red"}) + "\n" for number in range(4)]
    (copies[0] / "captions.jsonl").write_text("".join(lines))
    shutil.copytree(*copies)

    def plan(folder, rank):
        stream = open_stream([DataSection(source=str(folder))], load_renderer(tiny), kinds={"target"}, seed=0)
        return next(stream.steps(0, 1, 4, rank=rank, world=2)).plan

    assert plan(copies[0], 0) == plan(copies[1], 1) != ""
    (copies[1] / "2.png").unlink()
    assert plan(copies[0], 0) != plan(copies[1], 1)
