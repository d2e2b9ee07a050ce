"""A step's videos stay on the disk until their frames are there, however many they are and however long it takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smolforge.data import film
from smolforge.data.films import shelf
from smolforge.data.films.holding import held_videos
from smolforge.data.films.shelf import kept_video
from smolforge.data.pipeline import Stream, open_stream
from smolforge.data.processor import load_renderer
from smolforge.errors import CheckpointError
from smolforge.recipe import DataSection

ROOM = 3500  # bytes: three videos of a thousand, and none that was not needed lately
Keep = Callable[[int], Path]


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keep:
    """Keeps video n, of a thousand bytes, where nothing stays for having been of use a moment ago."""
    monkeypatch.setattr(shelf, "NEEDED_SECONDS", -1.0)
    return lambda number: kept_video(bytes([number]) * 1000, cache=tmp_path, max_bytes=ROOM)


def write(path: Path, grey: int) -> Path:
    """A second of a video in one grey."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for _ in range(25):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 64, 3), grey, np.uint8), format="rgb24")))
        out.mux(stream.encode())
    return path


@pytest.fixture
def stream(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stream:
    """Twelve videos as bytes, of which five have room."""
    videos = [write(tmp_path / f"{n}.mp4", 10 * n).read_bytes() for n in range(12)]
    assert len(set(videos)) == 12
    asked = {"question": ["What is it?"] * 12, "answer": ["a mark"] * 12}
    pq.write_table(pa.table({"video": videos} | asked), tmp_path / "rows.parquet")
    monkeypatch.setattr(shelf, "NEEDED_SECONDS", -1.0)
    room = 5 * max(map(len, videos))
    monkeypatch.setattr(film, "kept_video", partial(kept_video, cache=tmp_path / "cache", max_bytes=room))
    monkeypatch.setattr(film, "video_file", lambda data: film.kept_video(data))
    monkeypatch.setattr("smolforge.data.video.video_file", film.video_file)
    return open_stream([DataSection(source=str(tmp_path / "rows.parquet"))], load_renderer(tiny), kinds={"target"}, seed=0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_a_step_loses_no_video_though_the_bound_is_less_than_it_needs(stream: Stream, tmp_path: Path, world: int, workers: int):
    seen, lost = 0, {}
    for rank in range(world):
        for step in stream.steps(0, 2, 12, rank=rank, world=world, workers=workers):
            seen, lost = seen + step.tally.examples, lost | step.tally.dropped
    assert (seen, lost) == (24, {})
    kept_video(b"another", cache=tmp_path / "cache", max_bytes=5000)
    assert len(list((tmp_path / "cache").rglob("*.video"))) <= 5, "what no step needs any more makes room"


def test_held_out_examples_are_a_step_too(stream: Stream) -> None:
    tally = stream.step(range(12)).tally
    assert (tally.examples, tally.dropped) == (12, {})


def test_what_is_held_stays_and_goes_when_it_is_not(tmp_path: Path, keep: Keep) -> None:
    before = [keep(number) for number in range(3)]
    with held_videos():
        held = [keep(0)] + [keep(number) for number in range(10, 16)]
        assert all(file.exists() for file in held)
        with held_videos():  # of a step within a step, which ends first
            keep(20)
        keep(21)
        assert [file.exists() for file in before] == [True, False, False]
        assert all(file.exists() for file in held)
    keep(30)
    assert len(list(tmp_path.rglob("*.video"))) <= 3
    assert not list(tmp_path.rglob("*.names"))


def test_another_processs_videos_stay_until_it_ends_however_it_ends(tmp_path: Path, keep: Keep) -> None:
    """It is killed, so that it tells nobody."""
    hold = (
        "import sys; from pathlib import Path; from smolforge.data.films.holding import held_videos\n"
        "from smolforge.data.films.shelf import kept_video\n"
        "with held_videos():\n"
        f"    for n in range(100, 104): kept_video(bytes([n]) * 1000, cache=Path(sys.argv[1]), max_bytes={ROOM})\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        theirs = set(tmp_path.rglob("*.video"))
        assert len(theirs) == 4
        for number in range(6):
            keep(number)
        assert theirs <= set(tmp_path.rglob("*.video"))
        process.kill()
        process.wait()
    keep(7)
    assert len(theirs & set(tmp_path.rglob("*.video"))) == 1, "the three oldest went, as many as there was need for"
    assert not list(tmp_path.rglob("*.names"))


def test_a_hold_that_cannot_be_written_is_one_error(tmp_path: Path, keep: Keep) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "held").write_text("a file stands where the folder should")
    with held_videos(), pytest.raises(CheckpointError, match=r"videos: cannot be written \(.*\); free some space"):
        keep(1)
