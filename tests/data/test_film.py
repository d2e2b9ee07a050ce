"""Libraries that decode, what is kept on the disk, drawn films, and files that must not be read on.

torchcodec, decord and torchvision's reader are compared with PyAV where they are installed; the choice among libraries, and what
is refused before one is asked, everywhere.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import av
import numpy as np
import pytest
import torch
from PIL import Image

from smolforge.data import film
from smolforge.data.features import cache_folder
from smolforge.data.film import Backend, FrameCache, frames, timeline
from smolforge.data.films import libraries, packets
from smolforge.data.films.packets import version_of, video_index
from smolforge.data.films.shelf import Shelf, kept_video
from smolforge.data.media import open_picture
from smolforge.data.video import video_parts
from smolforge.errors import CheckpointError, DataError, MediaError
from smolforge.records import Media


def write(
    path: Path,
    codec: str = "libx264",
    *,
    shown: Sequence[int] = range(60),
    turned: int = 0,
    options: dict[str, str] | None = None,
    size: tuple[int, int] = (256, 128),
) -> Path:
    """A video whose frame n is shown at `shown[n]` / 25 s and differs from all others: a mark moves."""
    width, height = size
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.gop_size, stream.pix_fmt = width, height, 12, "yuv420p"
        if turned:
            stream.set_display_rotation(turned)
        for number, tick in enumerate(shown):
            pixels = np.full((height, width, 3), 4 * number % 256, np.uint8)
            pixels[: height // 2, : width // 2] = (255, 0, 0)
            place = number % (width - 8)
            pixels[height * 5 // 8 :, place : place + 8] = (0, 0, 255)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def write_trimmed(path: Path, source: Path, ticks: int) -> Path:
    """The same packets, all times earlier, so that an edit list cuts the first frames off."""
    with av.open(str(source)) as given, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - ticks, packet.dts - ticks, stream
                out.mux(packet)
    return path


def shots(path: Path, **options) -> list[bytes]:
    return [part.ref().tobytes() for part in video_parts(path, **options) if isinstance(part, Media)]


# --- libraries -----------------------------------------------------------------------------------------------------

OTHERS = [backend for backend in get_args(Backend) if backend not in ("auto", "pyav")]


def test_auto_is_pyav_whatever_is_installed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    assert libraries.chosen("auto") == "pyav"
    assert [libraries.chosen(backend) for backend in OTHERS] == OTHERS
    (auto,), (named,) = ([p.ref for p in video_parts(path, max_frames=1, backend=b)[1::2]] for b in ("auto", "pyav"))
    assert auto == named
    with pytest.raises(DataError, match=r"no backend opencv; one of auto, pyav, torchcodec, decord, torchvision"):
        video_parts(path, backend="opencv")


def test_frames_are_those_of_the_stamps(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", shown=[number + number // 7 for number in range(60)], options={"bf": "3"})
    with av.open(str(path)) as container:
        every = {frame.pts: frame.to_image().tobytes() for frame in container.decode(video=0)}
    stamps = timeline(path).stamps
    assert sorted(every) == list(stamps)
    for chosen in ([0, 1, 2], [5, 30, 59], [13], range(60)):
        assert [picture.tobytes() for picture in frames(path, [stamps[n] for n in chosen])] == [every[stamps[n]] for n in chosen]


@pytest.mark.parametrize("backend", OTHERS)
def test_a_library_that_is_not_there_is_named(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its first frame is asked for, in one line; prompts are planned without it."""
    monkeypatch.setitem(sys.modules, backend, None)
    picture = open_picture(video_parts(write(tmp_path / "a.mp4"), max_frames=1, backend=backend)[1])
    assert (picture.width, picture.height) == (256, 128)
    with pytest.raises(DataError, match=f"{backend} is not installed; use video.backend: pyav") as caught:
        picture.pixels()
    assert (f"or pip install {backend}" in str(caught.value)) == (backend != "torchvision")  # none that can be had reads videos


@pytest.mark.parametrize(
    ("package", "why"),
    [
        (  # 0.13.0 without FFmpeg
            'raise RuntimeError("Could not load libtorchcodec. Likely causes:\\n  1. FFmpeg is not properly installed.")',
            r"cannot be loaded \(Could not load libtorchcodec\.\)",
        ),
        (  # 0.17.0 without CUDA
            "try:\n    raise OSError('libnvrtc.so.13: cannot open it')\n"
            "except OSError as error:\n    raise OSError('Could not load this library: /x.so') from error",
            r"cannot be loaded \(libnvrtc\.so\.13: cannot open it\)",
        ),
        ("ffmpeg_major_version = None", "finds no FFmpeg that it can load"),  # 0.17.0 without FFmpeg
    ],
)
def test_a_library_that_cannot_be_loaded(package: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before a run begins, for each of its videos would be given up as damaged."""
    for module in ("torchcodec", "torchcodec.decoders"):
        monkeypatch.setitem(sys.modules, module, None)  # so that they are afterwards as they were
        del sys.modules[module]
    folder = tmp_path / "lib" / "torchcodec"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(package)
    (folder / "decoders.py").write_text("")
    monkeypatch.syspath_prepend(folder.parent)
    with pytest.raises(DataError, match=f"video.backend: torchcodec {why}; use video.backend: pyav, or pip install") as caught:
        libraries.check_backend("torchcodec")
    assert "\n" not in str(caught.value)


def test_a_torchvision_without_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchvision.io", SimpleNamespace(read_image=None))
    path = write(tmp_path / "a.mp4")
    why = r"torchvision has no VideoReader; use video\.backend: pyav, for torchvision reads no videos from 0\.27 on"
    with pytest.raises(DataError, match=why):
        frames(path, timeline(path).stamps[:1], "torchvision")
    with pytest.raises(DataError, match=why):
        libraries.check_backend("torchvision")


@pytest.mark.parametrize("backend", OTHERS)
def test_what_others_may_read_otherwise_is_refused(backend: Backend, tmp_path: Path) -> None:
    """Before the library is even loaded."""
    plain = write(tmp_path / "a.mp4", options={"bf": "2"})
    turned, trimmed = write(tmp_path / "b.mp4", turned=180), write_trimmed(tmp_path / "c.mp4", plain, 5 * 512)
    for path, why in ((turned, "turned pictures"), (trimmed, "an edit list")):
        stamps = timeline(path).stamps[:2]
        with pytest.raises(MediaError, match=f"{why}, which {backend} may read otherwise; use video.backend: pyav"):
            frames(path, stamps, backend)
        assert len(frames(path, stamps)) == 2


def test_an_edit_list_cuts_frames_off(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.mp4", options={"bf": "2"})
    trimmed = write_trimmed(tmp_path / "b.mp4", plain, 5 * 512)
    assert (len(timeline(plain).stamps), len(timeline(trimmed).stamps)) == (60, 55)
    assert shots(trimmed, max_frames=99, fps=30) == shots(plain, max_frames=99, fps=30)[5:]


OPEN = {"bf": "3", "x264-params": "open-gop=1"}
REFRESHED = {"bf": "0", "x264-params": "intra-refresh=1"}
MISSED_BY_DECORD = {  # measured: of 12 frames up to 12 were others, or decoded from the wrong picture
    "open.mp4": ("libx264", OPEN, "open groups of pictures"), "refreshed.mp4": ("libx264", REFRESHED, "open groups of pictures"),
    "a.ts": ("libx264", {}, "kind mpegts"),
    "a.mpg": ("mpeg2video", {}, "kind mpeg"), "a.avi": ("mpeg4", {}, "kind avi"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISSED_BY_DECORD)
def test_what_decord_misses_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found in the packets: no frame is decoded, so none can be another one."""
    codec, options, why = MISSED_BY_DECORD[name]
    monkeypatch.setitem(sys.modules, "decord", SimpleNamespace())  # has no reader: whoever asked it would fail otherwise
    path = write(tmp_path / name, codec, shown=range(100), options=options)
    with pytest.raises(MediaError, match=f"{why}, (of which decord gives other frames|which decord is not trusted with); use"):
        frames(path, timeline(path).stamps[:3], "decord")


@pytest.mark.parametrize(("name", "codec"), [("a.ts", "libx264"), ("a.mpg", "mpeg2video")])
def test_where_torchcodec_loses_its_place_is_refused(name: str, codec: str, tmp_path: Path, monkeypatch) -> None:
    """Measured: it seeks to a later key frame than it means, and finds the frame that was asked for no more."""
    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", SimpleNamespace())  # without a decoder
    path = write(tmp_path / name, codec, shown=range(50))
    with pytest.raises(MediaError, match=r"the kind mpeg(ts)?, in which torchcodec loses its place; use video\.backend: pyav"):
        frames(path, timeline(path).stamps[:3], "torchcodec")


def test_groups_of_pictures_are_open_or_closed(tmp_path: Path) -> None:
    """Without B-frames too, where key frames are only places from which a picture becomes whole."""
    for name, options, closed in (
        ("a.mp4", {"bf": "3"}, True),
        ("e.ts", {"bf": "3"}, True),
        ("b.mp4", OPEN, False),
        ("c.mkv", OPEN, False),
        ("d.mkv", REFRESHED, False),
    ):
        path = write(tmp_path / name, shown=range(100), options=options)
        assert video_index(path, version_of(path)).closed is closed, name


def test_another_count_or_other_times_are_refused(tmp_path: Path) -> None:
    """decord's table against the packets': 32-bit seconds pass, a frame's time that is its neighbour's does not."""
    stamps, tick = range(0, 600, 6), Fraction(1, 150)  # 25 a second
    times = np.arange(100, dtype=np.float32).astype(np.float64) / np.float32(25)
    libraries._check_times(tmp_path, "decord", stamps, tick, times)
    libraries._check_times(tmp_path, "decord", range(30, 630, 6), tick, times)  # both count from the first frame
    for wrong in (times[:-1], np.append(times, 4.0), times + 0.04 * (np.arange(100) > 50)):
        with pytest.raises(MediaError, match=r", \d+ for 100: decord counts other frames; use video.backend: pyav"):
            libraries._check_times(tmp_path, "decord", stamps, tick, wrong)


def in_torchcodecs_place(late: int) -> SimpleNamespace:
    """torchcodec's interface, read by PyAV, for where it is not installed. `late` frames late."""

    class VideoDecoder:
        def __init__(self, source: str, *, stream_index: int, dimension_order: str, num_ffmpeg_threads: int, device: str) -> None:
            assert (dimension_order, device) == ("NHWC", "cpu")
            with av.open(source) as container:
                decoded = list(container.decode(container.streams[stream_index]))
            self.pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
            self.times = [float(frame.pts * frame.time_base) for frame in decoded]

        def get_frames_at(self, indices: list[int]) -> SimpleNamespace:
            if max(indices) + late >= len(self.times):
                raise IndexError("Invalid frame index=60\nmore of it")
            places = [index + late for index in indices]
            times = torch.tensor([self.times[place] for place in places], dtype=torch.float64)
            return SimpleNamespace(data=torch.from_numpy(self.pixels[places]), pts_seconds=times)

    return SimpleNamespace(VideoDecoder=VideoDecoder)


def test_torchcodecs_frames_are_held_to_their_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mkv", shown=[10 + number + number // 7 for number in range(60)], options={"bf": "2"})
    stamps = [timeline(path).stamps[number] for number in (0, 20, 59)]
    for late, why in ((0, None), (1, "gives frames of other times"), (1000, "cannot decode it")):
        monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", in_torchcodecs_place(late))
        asked = stamps[:2] if late == 1 else stamps
        if why is None:
            assert [p.tobytes() for p in frames(path, asked, "torchcodec")] == [p.tobytes() for p in frames(path, asked)]
            continue
        with pytest.raises(MediaError, match=f"torchcodec {why}.*; use video.backend: pyav") as caught:
            frames(path, asked, "torchcodec")
        assert "\n" not in str(caught.value)


def test_a_colon_in_a_name_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg would look for `part:1.mp4` by a protocol called part."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", in_torchcodecs_place(0))
    path = write(tmp_path / "a.mp4").rename("part:1.mp4")
    assert path == Path("part:1.mp4")
    stamps = timeline(path).stamps[:2]
    assert [p.tobytes() for p in frames(path, stamps, "torchcodec")] == [p.tobytes() for p in frames(path, stamps)]


def reader_of(name: str, module: str) -> bool:
    """Whether a library with this module is installed; torchvision is not imported for it, which spoils transformers."""
    return util.find_spec(name) is not None and (Path(util.find_spec(name).origin).parent / module).exists()


INSTALLED = {
    "torchcodec": reader_of("torchcodec", "decoders/__init__.py"),
    "decord": reader_of("decord", "video_reader.py"),
    "torchvision": reader_of("torchvision", "io/video_reader.py"),
}


def by(backend: Backend, path: Path, asked: Sequence[int]) -> list[bytes]:
    """Its frames, where it is installed and can be loaded."""
    if not INSTALLED[backend]:
        pytest.skip(f"{backend} is not installed, or reads no videos")
    try:
        return [picture.tobytes() for picture in frames(path, asked, backend)]
    except DataError as error:
        if "cannot be loaded" not in str(error) and "finds no FFmpeg" not in str(error):
            raise
        pytest.skip(str(error))


def some_of(stamps: Sequence[int], count: int = 7) -> Iterator[list[int]]:
    for seed in range(4):
        yield [stamps[n] for n in sorted(np.random.default_rng(seed).choice(len(stamps), count, replace=False).tolist())]


@pytest.mark.parametrize("backend", INSTALLED)
@pytest.mark.parametrize(
    ("name", "codec", "shown", "options"),
    [
        ("a.mp4", "libx264", range(120), {"bf": "3"}),
        ("b.mkv", "libx264", [number + number // 7 * 3 for number in range(120)], {"bf": "2"}),
        ("c.webm", "libvpx-vp9", range(120), {}),
        ("d.mp4", "libx264", range(50, 110), {}),
        ("e.mp4", "libx264", range(7), {}),
    ],
)
def test_libraries_give_the_same_frames(backend: Backend, name: str, codec: str, shown, options, tmp_path: Path) -> None:
    """Equal to the byte where they were measured: torchcodec 0.13.0, decord 0.6.0, decord2 3.4.0, torchvision 0.25.0."""
    path = write(tmp_path / name, codec, shown=shown, options=options)
    for asked in some_of(timeline(path).stamps):
        assert by(backend, path, asked) == [p.tobytes() for p in frames(path, asked)]


@pytest.mark.parametrize(
    ("name", "codec", "options"), [("a.mkv", "libx264", OPEN), ("b.avi", "mpeg4", {}), ("c.flv", "flv1", {})]
)
def test_torchcodec_reads_what_decord_misses(name: str, codec: str, options, tmp_path: Path) -> None:
    path = write(tmp_path / name, codec, shown=range(100), options=options)
    for asked in some_of(timeline(path).stamps):
        assert by("torchcodec", path, asked) == [p.tobytes() for p in frames(path, asked)]


@pytest.mark.parametrize(("name", "codec", "options"), [("a.mp4", "libx264", REFRESHED), ("b.avi", "mpeg4", {"bf": "2"})])
def test_torchcodec_gives_no_other_frame(name: str, codec: str, options, tmp_path: Path) -> None:
    """Where it seeks too far at times, of these files: each request ends in PyAV's frames or in an error that names PyAV."""
    path = write(tmp_path / name, codec, shown=range(100), options=options)
    refused = []
    for asked in [list(timeline(path).stamps), *some_of(timeline(path).stamps)]:
        try:
            found = by("torchcodec", path, asked)
        except MediaError as error:
            refused.append(str(error))
        else:
            assert found == [p.tobytes() for p in frames(path, asked)]
    assert refused
    assert all(line.endswith("; use video.backend: pyav") for line in refused)


# --- bytes and drawn films -----------------------------------------------------------------------------------------


def test_bytes_are_a_video_like_its_file(tmp_path: Path) -> None:
    """As rows of FineVideo hold it: the same prompt, names and pixels; kept once, whoever asks."""
    path = write(tmp_path / "a.mp4", options={"bf": "2"})
    of_file, of_bytes = video_parts(path, fps=3), video_parts(path.read_bytes(), fps=3)
    assert of_file[::2] == of_bytes[::2]
    for one, other in zip(of_file[1::2], of_bytes[1::2], strict=True):
        assert (open_picture(one).key, one.ref().tobytes()) == (open_picture(other).key, other.ref().tobytes())
    kept = film.video_file(path.read_bytes())
    assert kept.read_bytes() == path.read_bytes()
    assert kept.is_relative_to(cache_folder(None) / "videos")
    before = version_of(kept)
    assert film.video_file(path.read_bytes()) == kept
    kept.unlink()
    assert version_of(film.video_file(path.read_bytes())) == before  # frames that were planned stay what they are
    assert shots(path, fps=3) == [part.ref().tobytes() for part in of_bytes[1::2]]
    with pytest.raises(MediaError, match="not a video that can be read"):
        video_parts(b"no video")


def test_kept_videos_are_bounded(tmp_path: Path) -> None:
    """The one that was not read for the longest time goes; what was read within a minute stays whatever the bound."""
    old = [kept_video(bytes([number]) * 1000, cache=tmp_path, max_bytes=3500) for number in range(3)]
    for number, file in enumerate(old):
        os.utime(file, (time.time() - 1000 + number, 0))
    assert kept_video(bytes([0]) * 1000, cache=tmp_path, max_bytes=3500) == old[0]  # read again
    kept_video(b"new" * 300, cache=tmp_path, max_bytes=3500)
    assert [file.exists() for file in old] == [True, False, True]
    for number in range(10, 16):
        kept_video(bytes([number]) * 1000, cache=tmp_path, max_bytes=3500)
    assert not old[2].exists()
    assert len(list((tmp_path / "videos").rglob("*.video"))) == 8  # the eight of this minute
    assert not list(tmp_path.rglob("*.unfinished"))


def test_a_cache_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "videos").write_text("a file stands where the folder should")
    with pytest.raises(CheckpointError, match=r"videos: cannot be written \(.*\); free some space"):
        kept_video(b"x" * 10, cache=tmp_path)


@dataclass(frozen=True)
class Counting:
    """A drawn film whose frame n has the colour n."""

    num_frames: int = 20
    fps: float = 5.0
    key: str = "counting"
    size: tuple[int, int] = (40, 30)

    def frame(self, number: int) -> Image.Image:
        return Image.new("RGB", self.size, (number, 0, 0))


def test_a_drawn_film_is_a_video() -> None:
    one = Counting()
    assert timeline(one).seconds == 4
    parts = video_parts(one, start=1, end=3, fps=2)
    assert parts[0].endswith("four frames from a 0:00:02 [H:MM:SS] video.\n\nFrame from 00:00:")
    drawn = [open_picture(part) for part in parts[1::2]]
    assert [picture.pixels().getpixel((0, 0))[0] for picture in drawn] == [5, 8, 11, 14]
    assert {(picture.width, picture.height, picture.split) for picture in drawn} == {(40, 30, False)}
    names = {open_picture(part).key for part in video_parts(Counting(), fps=5, max_frames=99)[1::2]}
    assert len(names) == 20
    assert {picture.key for picture in drawn} < names
    assert not names & {open_picture(part).key for part in video_parts(Counting(key="other"), fps=5)[1::2]}
    with pytest.raises(MediaError, match="a video without frames"):
        video_parts(Counting(num_frames=0))


# --- kept frames ---------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames each reading of pixels was asked for."""
    seen: list[int] = []
    decode = libraries.pyav_frames

    def counted(path, version, index, stamps):
        seen.append(len(stamps))
        return decode(path, version, index, stamps)

    monkeypatch.setattr(libraries, "pyav_frames", counted)
    return seen


def test_kept_frames_are_decoded_once(tmp_path: Path, decoded: list[int]) -> None:
    """In another run, from another place, at another density only those that are new; equal to the byte."""
    path, cache = write(tmp_path / "a.mp4", options={"bf": "2"}), FrameCache(cache=tmp_path / "cache")
    plain = shots(path, fps=2)
    film._decoded.cache_clear()
    assert shots(path, fps=2, cache=cache) == plain
    assert decoded == [5, 5]
    film._decoded.cache_clear()  # as a new process has it
    moved = path.rename(tmp_path / "b.mp4")
    assert shots(moved, fps=2, cache=FrameCache(cache=tmp_path / "cache")) == plain
    assert decoded == [5, 5]
    denser = shots(moved, fps=3, cache=cache)
    assert decoded[2:] == [len(denser) - len(set(denser) & set(plain))]
    film._decoded.cache_clear()
    assert denser == shots(moved, fps=3)
    assert len(list(tmp_path.rglob("*.png"))) == len(set(denser) | set(plain))


def test_another_films_or_librarys_frames_are_not_taken(tmp_path: Path) -> None:
    """Names come from the content and the library, not from the path."""
    cache = FrameCache(cache=tmp_path / "cache")
    first = shots(write(tmp_path / "a.mp4"), max_frames=2, cache=cache)
    names = {open_picture(part).key for part in video_parts(tmp_path / "a.mp4", max_frames=2, cache=cache)[1::2]}
    others = {open_picture(p).key for p in video_parts(tmp_path / "a.mp4", max_frames=2, backend="decord")[1::2]}
    assert not names & others
    second = shots(write(tmp_path / "a.mp4", size=(128, 64)), max_frames=2, cache=cache)
    assert not set(first) & set(second)


def test_a_damaged_frame_is_made_anew(tmp_path: Path, decoded: list[int]) -> None:
    path, cache = write(tmp_path / "a.mp4"), FrameCache(cache=tmp_path / "cache")
    plain = shots(path, cache=cache)
    for damage in (lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"no picture"):
        film._decoded.cache_clear()
        victim = next(iter(sorted(tmp_path.rglob("*.png"))))
        victim.write_bytes(damage(victim.read_bytes()))
        assert shots(path, cache=cache) == plain
    assert decoded == [2, 1, 1, 1]


def test_kept_frames_are_bounded(tmp_path: Path) -> None:
    """Frames that were not read for the longest time go first, and what is left is still right."""
    path, cache = write(tmp_path / "a.mp4", shown=range(300)), FrameCache(cache=tmp_path / "cache", max_bytes=20_000)
    plain = shots(path, fps=1)
    film._decoded.cache_clear()
    assert shots(path, fps=1, cache=cache) == plain
    assert cache.shelf.size() < 20_000
    old = sorted(tmp_path.rglob("*.png"))
    assert len(old) == len(plain) == 12
    for file in old:
        os.utime(file, (time.time() - 1000, 0))
    other = shots(write(tmp_path / "b.mp4", shown=range(7, 157), size=(128, 64)), fps=2, cache=cache)
    assert len(other) == 12
    assert cache.shelf.size() <= 20_000
    left = [file for file in old if file.exists()]
    assert len(left) < 12
    assert len(list(tmp_path.rglob("*.png"))) == len(left) + 12
    film._decoded.cache_clear()
    assert shots(path, fps=1, cache=cache) == plain


def test_other_processes_files_and_drafts_are_counted(tmp_path: Path) -> None:
    one = Shelf(folder=tmp_path, suffix="x", max_bytes=1000)
    one.put("aa1", b"1" * 400)
    (tmp_path / "aa" / "aa2.x.123.unfinished").write_bytes(b"2" * 500)  # of a process that was killed
    assert one.size() == 900
    for file in (tmp_path / "aa").iterdir():
        os.utime(file, (1, 0))
    one.put("bb3", b"3" * 400)
    assert one.find("bb3") is not None
    assert one.size() <= 1000


def test_frames_travel_to_other_processes(tmp_path: Path, decoded: list[int]) -> None:
    """Equal where they come out, so that a video's frames are still decoded together, and kept in the same place."""
    cache = FrameCache(cache=tmp_path / "cache")
    parts = video_parts(write(tmp_path / "a.mp4"), fps=3, cache=cache)
    there = [pickle.loads(pickle.dumps(part)) for part in parts[1::2]]
    assert there == list(parts[1::2])
    assert [one.ref().tobytes() for one in there] == [part.ref().tobytes() for part in parts[1::2]]
    assert len(decoded) == 1


# --- files that must not be read on --------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        shots(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    return line


def test_huge_frames_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4")
    monkeypatch.setattr(packets, "MAX_PIXELS", 256 * 128)
    assert len(shots(path)) == 2
    film._decoded.cache_clear()
    video_index.cache_clear()
    monkeypatch.setattr(packets, "MAX_PIXELS", 256 * 128 - 1)
    assert ", 256 x 128 pixels a frame: too many pixels a frame; at most 32767 can be read" in refused(path)


def test_frames_that_become_huge_on_the_way_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transport stream that goes on in another size, of which its beginning does not tell."""
    first = write(tmp_path / "a.ts", shown=range(30)).read_bytes()
    second = write(tmp_path / "b.ts", shown=range(60, 90), size=(1024, 512)).read_bytes()
    (tmp_path / "c.ts").write_bytes(first + second)
    ends = frames(tmp_path / "c.ts", timeline(tmp_path / "c.ts").stamps[::59])
    assert [picture.size for picture in ends] == [(256, 128), (1024, 512)]
    film._decoded.cache_clear()
    video_index.cache_clear()
    monkeypatch.setattr(packets, "MAX_PIXELS", 256 * 128)
    assert "damaged, or not a video that can be read" in refused(tmp_path / "c.ts")


def test_what_is_wrong_with_a_video_is_said_in_the_same_words_whatever_its_numbers(tmp_path: Path, monkeypatch) -> None:
    """Runs count by these words, and keep them in every checkpoint."""
    films = [write(tmp_path / f"{width}.mkv", size=(width, 128), shown=range(width // 4)) for width in (64, 128)]
    seen: dict[str, list[MediaError]] = {}

    def fails(kind: str, does: Callable[..., object], *given: object) -> None:
        with pytest.raises(MediaError) as caught:
            does(*given)
        seen.setdefault(kind, []).append(caught.value)

    for path in films:
        version = version_of(path)
        index = video_index(path, version)
        stamps, tick = index.timeline.stamps, index.timeline.tick
        fails("end", libraries.pyav_frames, path, version, index, (*stamps, stamps[-1] + 1))
        fails("clip", partial(video_parts, start=100.0 + len(stamps)), path)
        fails("table", libraries._check_times, path, "decord", stamps, tick, np.arange(len(stamps) - 1) / 25)
        fails("time", libraries._check_time, path, "torchcodec", index, stamps[0], len(stamps))
    video_index.cache_clear()
    monkeypatch.setattr(packets, "MAX_PIXELS", 63 * 128)
    for path in films:
        fails("pixels", timeline, path)
    for kind, errors in seen.items():
        words, places = ({getattr(error, name) for error in errors} for name in ("what", "where"))
        assert (len(words), len(places)) == (1, 2), kind
        assert not any(letter.isdigit() for letter in words.pop())
        assert all(error.where.startswith(f"{path}, ") for error, path in zip(errors, films)), kind


def test_a_file_of_endless_packets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4")
    monkeypatch.setattr(packets, "MAX_PACKETS", 50)
    assert "more than 50 packets; cut it to less than a day" in refused(path)


def test_what_a_file_is_counts_not_what_it_is_called(tmp_path: Path) -> None:
    video = write(tmp_path / "a.mp4")
    for name in ("b.mkv", "c.txt", "d"):
        (tmp_path / name).write_bytes(video.read_bytes())
        assert shots(tmp_path / name) == shots(video)
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.jpg")
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    others = {"e.mp4": (tmp_path / "picture.jpg").read_bytes(), "f.mp4": (tmp_path / "picture.png").read_bytes()}
    others |= {"g.mp4": b"<html>404 not found</html>" * 50, "h.mp4": b"PK\x03\x04" + bytes(500), "i.mp4": bytes(5000)}
    others |= {"j.webm": np.random.default_rng(0).integers(0, 256, 20_000, np.uint8).tobytes()}
    for name, data in others.items():
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name)


def test_every_cut_of_a_file_is_an_error_or_its_beginning(tmp_path: Path) -> None:
    """An MP4 whose index stands last is nothing without it; of an MKV what came is a shorter video."""
    for name in ("a.mp4", "a.mkv"):
        whole = write(tmp_path / name, shown=range(100)).read_bytes()
        every = {picture.tobytes() for picture in frames(tmp_path / name, timeline(tmp_path / name).stamps)}
        usable = 0
        for tenth in range(10):
            path = tmp_path / f"{tenth}{name}"
            path.write_bytes(whole[: len(whole) * tenth // 10])
            try:
                found = shots(path)
            except MediaError:
                continue
            assert set(found[:1]) <= every
            usable += 1
        assert (usable > 4) == (name == "a.mkv"), name


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    for name, codec in (("a.mp4", "libx264"), ("b.webm", "libvpx-vp9"), ("c.avi", "mpeg4")):
        path = write(tmp_path / name, codec, shown=(0,))
        assert len(shots(path)) == 1
        assert "one frames from a 0:00:00 [H:MM:SS]" in video_parts(path)[0]


def test_silence_of_ffmpegs_threads(tmp_path: Path) -> None:
    """Reporting through Python, which torchvision turns on, can stop a program for ever when a file is closed."""
    path = write(tmp_path / "a.mp4")
    av.logging.set_level(av.logging.ERROR)
    try:
        assert len(shots(path)) == 2
        assert av.logging.get_level() is None
    finally:
        av.logging.set_level(None)
