"""Videos against transformers' SmolVLMProcessor and VLMEvalKit's prompt, and against a full decoding of every frame."""

from __future__ import annotations

import json
import os
import shutil
import sys
import weakref
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest
from num2words import num2words
from PIL import Image
from tokenizers import Tokenizer
from transformers import Idefics3ImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
from transformers.video_utils import VideoMetadata, read_video_pyav

from smolforge.data import film
from smolforge.data.film import Timeline, timeline
from smolforge.data.films import decoding, packets
from smolforge.data.media import open_picture, tile_pixels
from smolforge.data.pipeline import decode_pictures
from smolforge.data.processor import load_renderer
from smolforge.data.render import Example, Renderer
from smolforge.data.video import VLMEVALKIT_SYSTEM, VideoSampling, VideoStyle, count_frames, in_words, sample_frames, video_parts
from smolforge.errors import DataError, MediaError
from smolforge.records import Media, Message, Part, Record

QUESTION = "What does the 2nd frame show?"
NTSC = Fraction(30000, 1001)  # frames a second of the clip


@pytest.fixture(scope="module")
def clip(shared: Path) -> Path:
    """390 frames, 13.013 s, in the second and larger of the file's two video streams."""
    return shared / "video" / "nasa_13013.mp4"


@pytest.fixture(scope="module")
def real(shared: Path) -> Renderer:
    return load_renderer(shared / "smolvlm-256m-processor")


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> Tokenizer:
    return Tokenizer.from_file(str(shared / "smolvlm-256m-processor" / "tokenizer.json"))


def render(renderer: Renderer, parts: Sequence[Part], *, system: str | None = None) -> Example:
    """A prompt of a video and the question, after a system message if there is one."""
    first = () if system is None else (Message(role="system", content=(system,)),)
    messages = (*first, Message(role="user", content=(*parts, QUESTION)))
    return renderer.render(Record(id="1", source="test", messages=messages, responses=()))


def prompt(renderer: Renderer, parts: Sequence[Part], *, system: str | None = None) -> list[int]:
    (node,) = render(renderer, parts, system=system).nodes
    return node.ids.tolist()


def frames_of(parts: Sequence[Part]) -> list[Image.Image]:
    return [part.ref() for part in parts if isinstance(part, Media)]


def texts_of(parts: Sequence[Part]) -> list[str]:
    return [part for part in parts if isinstance(part, str)]


def write(
    path: Path,
    codec: str = "libx264",
    *,
    shown: Sequence[int] = range(60),
    turned: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """A video of 96 x 64 pixels, a key frame every 12 frames, whose frame n is shown at `shown[n]` / 25 s.

    Every frame differs from all others: a mark moves. The upper left quarter is red, the rest is not.
    """
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.gop_size = 96, 64, 12
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        if turned:
            stream.set_display_rotation(turned)
        for number, tick in enumerate(shown):
            pixels = np.full((64, 96, 3), 4 * number % 256, np.uint8)
            pixels[:32, :48] = (255, 0, 0)
            pixels[40:, number % 88 : number % 88 + 8] = (0, 0, 255)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        out.mux(stream.encode(sound))
        out.mux(stream.encode())
    return path


# --- prompts -----------------------------------------------------------------------------------------------------


def reference_prompt(tokenizer: Tokenizer, total: int, rate: float, seconds: float, sampling: VideoSampling) -> list[int]:
    """Ids that transformers gives."""
    return tokenizer.encode(reference_text(total, rate, seconds, sampling), add_special_tokens=False).ids


def reference_text(total: int, rate: float, seconds: float, sampling: VideoSampling) -> str:
    """Text that transformers gives: its sampling and its words. Its processor as a whole cannot be made without torchvision;
    with it (0.28), the ids of the same cases were found equal too."""
    metadata = VideoMetadata(total_num_frames=total, fps=rate, duration=seconds)
    numbers = SmolVLMVideoProcessor().sample_frames(metadata, num_frames=sampling.max_frames, fps=sampling.fps)
    metadata.frames_indices = numbers
    tokens = SimpleNamespace(
        image_seq_len=64,
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
    )
    inputs = {"pixel_values": np.empty((1, len(numbers))), "video_metadata": [metadata]}
    video = SmolVLMProcessor.replace_video_token(tokens, inputs, 0)
    return f"<|im_start|>User: {video}{QUESTION}<end_of_utterance>\nAssistant:"


@pytest.mark.parametrize(("max_frames", "fps"), [(64, 1.0), (16, 1.0), (4, 1.0), (1, 1.0), (64, 2.5), (64, 0.1), (30, 30.0)])
def test_prompts_equal_transformers(max_frames: int, fps: float, clip: Path, real: Renderer, tokenizer: Tokenizer) -> None:
    expected = reference_prompt(
        tokenizer, 390, float(NTSC), float(390 / NTSC), VideoSampling(max_frames=max_frames, fps=fps)
    )  # fmt: skip
    assert prompt(real, video_parts(clip, max_frames=max_frames, fps=fps)) == expected


@dataclass(frozen=True)
class Blank:
    """A drawn film of any length; its prompt needs no picture."""

    num_frames: int
    fps: float
    size = (96, 64)

    @property
    def key(self) -> str:
        return repr(self)

    def frame(self, number: int) -> Image.Image:
        raise AssertionError("a prompt was planned by drawing")


LENGTHS = {  # frames, a second, most that are taken
    "one frame": (1, 25.0, 64), "three seconds": (75, 25.0, 64), "one a second": (3, 1.0, 64), "59.9 seconds": (599, 10.0, 64),
    "64 frames": (64, 1.0, 64), "65 seconds": (65, 1.0, 64), "67 seconds, cut at the ends": (2010, 30.0, 64),
    "an hour": (108_000, 30.0, 64), "an hour of NTSC": (107_892, float(NTSC), 32), "a hundred minutes": (6000, 1.0, 16),
    "a day less a second": (86_399, 1.0, 8),
}  # fmt: skip


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_equal_transformers_in_words_and_ids(name: str, real: Renderer, tokenizer: Tokenizer) -> None:
    total, rate, most = LENGTHS[name]
    text = reference_text(total, rate, total / rate, VideoSampling(max_frames=most))
    ids = prompt(real, video_parts(Blank(total, rate), max_frames=most))
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert ids == tokenizer.encode(text, add_special_tokens=False).ids
    assert text.count("<global-img>") == text.count("Frame from") == len(numbers_of_frames(total, rate, most))


def numbers_of_frames(total: int, rate: float, most: int) -> list[int]:
    return sample_frames(total, total / rate, VideoSampling(max_frames=most))


def test_a_folder_of_an_hours_frames(tmp_path: Path, real: Renderer, tokenizer: Tokenizer) -> None:
    """MovieChat's kind: one picture a second, of which 64 are read."""
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    for number in range(1, 3600):
        (tmp_path / f"{number}.png").hardlink_to(tmp_path / "0.png")
    parts = video_parts(tmp_path, folder_fps=1.0)
    assert prompt(real, parts) == reference_prompt(tokenizer, 3600, 1.0, 3600.0, VideoSampling())
    assert [int(part.ref.stem) for part in parts[1::2]] == numbers_of_frames(3600, 1.0, 64)


def test_a_clip_is_a_video_of_its_own(clip: Path, real: Renderer, tokenizer: Tokenizer) -> None:
    """Frames shown from 2 s to before 9 s are numbers 60 (2.002 s) to 269 (8.97567 s): 210 frames, 7.007 s."""
    expected = reference_prompt(tokenizer, 210, float(NTSC), float(210 / NTSC), VideoSampling())
    parts = video_parts(clip, start=2, end=9)
    assert prompt(real, parts) == expected
    frames = frames_of(video_parts(clip, max_frames=390, fps=30))
    numbers = [60, 94, 129, 164, 199, 234, 269]  # 60 + (0 .. 209 in seven, cut to integers)
    assert [frame.tobytes() for frame in frames_of(parts)] == [frames[number].tobytes() for number in numbers]


def test_the_text_in_full(clip: Path) -> None:
    assert texts_of(video_parts(clip, max_frames=4)) == [
        "You are provided the following series of four frames from a 0:00:13 [H:MM:SS] video.\n\nFrame from 00:00:",
        "\nFrame from 00:04:",
        "\nFrame from 00:08:",
        "\nFrame from 00:12:",
        "\n\n",
    ]


def test_prompt_equals_vlmevalkit_but_for_its_spaces(clip: Path, real: Renderer, tokenizer: Tokenizer) -> None:
    """`build_prompt_video` joins its pieces by a space; our turns have no second <|im_start|> and none of three spaces."""
    pieces = ["<|im_start|>System:", "pay attention to the video and answer the question", "<end_of_utterance>\n"]
    pieces += ["<|im_start|>User:", "Here are some frames sampled from a video:\n"]
    picture = "<fake_token_around_image><global-img>" + 64 * "<image>" + "<fake_token_around_image>"
    for count in (0, 4, 8, 12):  # 13 frames, one a second, of which four are kept
        pieces += [f"Frame from 00:{count:02d}:", picture]
    text = " ".join([*pieces, "\n", QUESTION, "<end_of_utterance>", "\nAssistant:"])
    ours = text.replace("\n <|im_start|>User:", "\nUser:").replace(f"{QUESTION} ", QUESTION).replace("> \nAss", ">\nAss")
    assert len(text) - len(ours) == len("<|im_start|>") + 3
    parts = video_parts(clip, max_frames=4, style="vlmevalkit")
    assert prompt(real, parts, system=VLMEVALKIT_SYSTEM) == tokenizer.encode(ours, add_special_tokens=False).ids


def test_frames_are_one_tile_beside_split_photos(clip: Path, real: Renderer) -> None:
    photo = Media(ref=Image.new("RGB", (640, 480)))
    example = render(real, (photo, *video_parts(clip, max_frames=2)))
    assert [len(image.starts) for image in example.images] == [13, 1, 1]  # 3 x 4 tiles and the whole view
    assert [image.spec.split for image in example.images] == [True, False, False]
    assert real.images is not None
    assert example.images[1].spec == replace(real.images, split=False)


def test_pixels_equal_transformers(clip: Path, real: Renderer) -> None:
    """Those of the image processor without splitting, to the pixel.

    transformers' video processor, loaded from a published SmolVLM2 folder, resizes to the same sizes, because `size` (2048)
    replaces `video_size` (512); with torchvision 0.28, seven frames of this clip differed in 0.27 % of all values, by 2
    of 255 at most.
    """
    frames = frames_of(video_parts(clip, max_frames=4))
    processor = Idefics3ImageProcessorPil(
        size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}, do_rescale=False, do_normalize=False
    )
    expected = processor(frames, do_image_splitting=False, return_tensors="np")["pixel_values"][0]
    assert real.images is not None
    spec = replace(real.images, split=False)
    assert np.array_equal(np.concatenate([tile_pixels(frame, spec) for frame in frames]), expected)


# --- sampling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 10.0, 24.0, float(NTSC), 59.94])
@pytest.mark.parametrize("total", [1, 2, 7, 24, 300, 2000, 100_000])
@pytest.mark.parametrize("sampling", [(64, 1.0), (8, 1.0), (1, 1.0), (64, 0.5), (128, 2.0), (3, 0.01), (999, 1000.0)])
def test_sampling_equals_transformers(total: int, rate: float, sampling: tuple[int, float]) -> None:
    """Long videos, of which a second is left out at both ends, and videos shorter than that are among them."""
    metadata = VideoMetadata(total_num_frames=total, fps=rate, duration=total / rate)
    expected = SmolVLMVideoProcessor().sample_frames(metadata, num_frames=sampling[0], fps=sampling[1]).tolist()
    assert sample_frames(total, total / rate, VideoSampling(max_frames=sampling[0], fps=sampling[1])) == expected


def test_counting_as_vlmevalkit() -> None:
    """Every frame rate / fps = 25th: 250 frames in 10 s are 0, 25 ... 225; a video under a second still has a frame."""
    assert count_frames(250, 10.0, VideoSampling()) == [(n, 25 * n) for n in range(10)]
    assert count_frames(250, 10.0, VideoSampling(fps=0.5)) == [(n, 50 * n) for n in range(5)]
    assert count_frames(250, 10.0, VideoSampling(max_frames=3)) == [(0, 0), (4, 100), (9, 225)]
    assert count_frames(10, 0.4, VideoSampling()) == [(0, 0)]


def test_numbers_equal_num2words() -> None:
    assert [in_words(number) for number in range(1, 1000)] == [num2words(number) for number in range(1, 1000)]


# --- times and frames ----------------------------------------------------------------------------------------------


def test_times_equal_ffprobe(clip: Path, shared: Path) -> None:
    """ffprobe prints six digits after the point."""
    expected = json.loads((shared / "video" / "nasa_13013.frames.json").read_text())
    film = timeline(clip)
    assert len(film.stamps) == len(expected) == 390
    assert film.seconds == 390 / NTSC
    for number, frame in enumerate(expected):
        assert film.time(number) == pytest.approx(float(frame["pts_time"]), abs=6e-7)


@pytest.mark.parametrize(("name", "count", "seconds"), [("h265.mp4", 10, 1), ("av1.mkv", 125, 5)])
def test_other_codecs(name: str, count: int, seconds: int, shared: Path) -> None:
    path = shared / "video" / name
    film = timeline(path)
    assert (len(film.stamps), film.seconds) == (count, seconds)
    frames = frames_of(video_parts(path, fps=5))
    assert len({frame.tobytes() for frame in frames}) == len(frames) == 5 * seconds


def test_frames_equal_transformers(tmp_path: Path) -> None:
    """Its PyAV reader decodes all frames up to the last one and keeps some."""
    path = write(tmp_path / "a.mp4", shown=range(200))
    expected, metadata = read_video_pyav(str(path), lambda metadata: np.array(sample_frames(200, 8.0, VideoSampling(fps=2))))
    parts = video_parts(path, fps=2)
    assert np.array_equal(np.stack([np.asarray(frame) for frame in frames_of(parts)]), expected)
    assert [text[-6:-1] for text in texts_of(parts)[:-1]] == [f"00:{int(second):02d}" for second in metadata.timestamps]


CODECS = {
    "mp4": "libx264", "mkv": "libx264", "mov": "mpeg4", "ts": "libx264", "avi": "mpeg4", "webm": "libvpx-vp9", "flv": "libx264",
    "mpg": "mpeg2video", "gif": "gif",
}  # fmt: skip


@pytest.mark.parametrize("kind", CODECS)
def test_sought_frames_equal_those_of_a_full_decoding(kind: str, tmp_path: Path) -> None:
    """With B-frames, so that the orders of decoding and of showing differ."""
    path = write(
        tmp_path / f"a.{kind}", CODECS[kind], shown=range(120), options={"bf": "2"} if kind in ("mp4", "mkv", "ts") else {}
    )
    with av.open(str(path)) as container:
        expected = [frame.to_image().tobytes() for frame in container.decode(video=0)]
    assert len(expected) == len(set(expected)) == len(timeline(path).stamps) == 120
    frames = frames_of(video_parts(path, max_frames=7, fps=2))
    numbers = sample_frames(120, 4.8, VideoSampling(max_frames=7, fps=2))
    assert [expected.index(frame.tobytes()) for frame in frames] == numbers


@pytest.mark.parametrize(("kind", "most"), [("mp4", 30), ("mkv", 30), ("ts", 30), ("gif", 240)])
def test_few_frames_are_decoded(kind: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 240 frames with a key frame every 12, four: each takes its group's first frames at most. A GIF has one group."""
    path = write(tmp_path / f"a.{kind}", CODECS[kind], shown=range(240))
    decoded, shown = [], decoding._shown

    def counted(*arguments):
        for item in shown(*arguments):
            decoded.append(item)
            yield item

    monkeypatch.setattr(decoding, "_shown", counted)
    assert len(frames_of(video_parts(path, max_frames=4))) == 4
    assert len(decoded) <= most


def test_variable_frame_rate(tmp_path: Path) -> None:
    """Two frames in the first second, then one every two seconds: times are the file's, not number / average rate."""
    path = write(tmp_path / "a.mkv", shown=(0, 12, 50, 100, 150))
    film = timeline(path)
    assert [float(film.time(number)) for number in range(5)] == [0, 0.48, 2, 4, 6]
    parts = video_parts(path, max_frames=5)
    assert [text[-6:-1] for text in texts_of(parts)[:-1]] == ["00:00", "00:00", "00:02", "00:04", "00:06"]
    assert texts_of(video_parts(path, start=2, end=6))[0].endswith("0:00:04 [H:MM:SS] video.\n\nFrame from 00:00:")


@pytest.mark.parametrize(("turned", "corner"), [(0, (0, 0)), (90, (0, 1)), (180, (1, 1)), (-90, (1, 0))])
def test_turned_videos_stand_upright(turned: int, corner: tuple[int, int], tmp_path: Path) -> None:
    """The red quarter, upper left in the file, goes counter-clockwise: at 90 degrees to the lower left (x, y)."""
    (frame,) = frames_of(video_parts(write(tmp_path / "a.mp4", turned=turned), max_frames=1))
    assert frame.size == ((64, 96) if turned in (90, -90) else (96, 64))
    right, below = corner
    place = (frame.width - 8 if right else 8, frame.height - 8 if below else 8)
    red, green, blue = frame.getpixel(place)
    assert (red > 200, green < 60, blue < 60) == (True, True, True)


def test_clips_of_a_timeline() -> None:
    """Start belongs to the clip, end does not; 0.1 s is a tenth though no float is."""
    film = Timeline(stamps=range(100, 110), tick=Fraction(1, 10), end=110)
    assert film.clip(None, None) == film
    assert film.clip(0.1, 0.3) == replace(film, stamps=range(101, 103), end=103)
    assert film.clip(0.15, None) == replace(film, stamps=range(102, 110))
    assert film.clip(0.91, 5) is None


def test_a_folder_of_frames(tmp_path: Path) -> None:
    """Three frames a second: of nine, one a second are numbers 0, 4 and 8, at 0, 1.33 and 2.67 s."""
    for number in range(9):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number + 1:05d}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    parts = video_parts(tmp_path)
    assert [part.ref.name for part in parts[1::2]] == ["00001.png", "00005.png", "00009.png"]
    assert not any(part.split for part in parts[1::2])
    assert "three frames from a 0:00:03 [H:MM:SS]" in parts[0]
    assert [text[-6:-1] for text in parts[:-1:2]] == ["00:00", "00:01", "00:02"]
    assert [part.ref.name for part in video_parts(tmp_path, start=2)[1::2]] == ["00007.png"]
    assert "nine frames from a 0:00:09 [H:MM:SS]" in video_parts(tmp_path, folder_fps=1)[0]


def test_frames_in_a_folder_follow_their_numbers(tmp_path: Path) -> None:
    """2 before 10, with and without zeros before it; what differs in nothing else goes by its letters."""
    names = ["a", "frame1", "frame2", "frame010", "frame10", "frame11", "s1e2", "s1e10", "s2e1"]
    for name in reversed(names):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    assert [part.ref.stem for part in video_parts(tmp_path, folder_fps=1)[1::2]] == names


# --- what is read and decoded ----------------------------------------------------------------------------------------


class Calls:
    """How often functions ran since the last look, as their modules call them."""

    def __init__(self, patch: pytest.MonkeyPatch, *names: tuple[ModuleType, str]) -> None:
        self.seen = dict.fromkeys(names, 0)
        for module, name in names:
            patch.setattr(module, name, self._counted((module, name), getattr(module, name)))

    def _counted(self, name, function):
        def counted(*arguments, **options):
            self.seen[name] += 1
            return function(*arguments, **options)

        return counted

    def __call__(self) -> tuple[int, ...]:
        seen = tuple(self.seen.values())
        self.seen = dict.fromkeys(self.seen, 0)
        return seen


def test_eight_videos_and_questions_about_them(tmp_path: Path, real: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three questions a video in the order of a shuffled table: rendering them reads each video once and makes no picture.
    Preparing them decodes each video once when its questions follow each other, and rendering them again opens none."""
    videos = [write(tmp_path / f"{number}.mp4", shown=range(60 + number)) for number in range(8)]
    calls = Calls(monkeypatch, (packets, "opened"), (decoding, "opened"), (decoding, "_decode"), (decoding, "_upright"))
    hashed = film._content.cache_info().misses
    asked = np.random.default_rng(0).permutation(np.repeat(np.arange(8), 3)).tolist()
    examples = [render(real, video_parts(videos[number], max_frames=2)) for number in asked]
    assert calls() == (8, 0, 0, 0)
    keys = [tuple(image.key for image in example.images) for example in examples]
    assert [keys.index(key) for key in keys] == [asked.index(number) for number in asked]  # a video's questions share them
    assert len({key for some in keys for key in some}) == 8 * 2  # two frames each
    for number in sorted(range(24), key=lambda number: asked[number]):
        decode_pictures(examples[number], {})
    assert calls() == (0, 8, 8, 16)
    for number in sorted(range(24), key=lambda number: asked[number]):
        render(real, video_parts(videos[asked[number]], max_frames=2))
    assert calls() == (0, 0, 0, 0)
    assert film._content.cache_info().misses - hashed == 8


def test_a_video_is_read_once_though_others_lie_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path / "0.mp4", shown=range(12))
    videos = [first, *(Path(shutil.copy(first, tmp_path / f"{number}.mp4")) for number in range(1, 100))]
    calls, hashed = Calls(monkeypatch, (packets, "opened")), film._content.cache_info().misses
    for _ in range(3):
        for path in videos:
            _ = open_picture(video_parts(path)[1]).key
    assert calls() == (100,)
    assert film._content.cache_info().misses - hashed == 100


def test_a_frames_name_is_its_content(clip: Path, tmp_path: Path) -> None:
    """Wherever the file lies and whenever it was written, in every clip of it; another frame or file has another."""

    def names(path: Path, **options: float) -> list[str]:
        return [open_picture(part).key for part in video_parts(path, **options)[1::2]]

    moved = tmp_path / "elsewhere" / "b.mov"
    moved.parent.mkdir()
    shutil.copyfile(clip, moved)
    os.utime(moved, (1, 1))
    assert names(clip, max_frames=3) == names(moved, max_frames=3)
    assert len(set(names(clip))) == 13
    every = names(clip, max_frames=390, fps=30)
    assert names(clip, start=2, end=9) == [every[number] for number in (60, 94, 129, 164, 199, 234, 269)]
    data = bytearray(clip.read_bytes())
    data[len(data) // 2] ^= 1  # a bit in the middle, neither size nor times
    moved.write_bytes(data)
    assert not set(names(moved)) & set(every)


def test_frames_are_kept_until_the_file_changes(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copy(clip, tmp_path / "a.mp4"))
    calls = Calls(monkeypatch, (decoding, "_decode"))
    first, second = video_parts(copy, max_frames=3), video_parts(copy, max_frames=3)
    assert first == second
    assert [frame.tobytes() for frame in frames_of(first)] == [frame.tobytes() for frame in frames_of(second)]
    assert calls() == (1,)
    unread = video_parts(copy, max_frames=2)
    write(copy)  # another video under the same name
    assert open_picture(video_parts(copy, max_frames=3)[1]).pixels().size == (96, 64)
    assert calls() == (1,)
    with pytest.raises(MediaError, match=r"a\.mp4: changed since it was first looked at; start again"):
        open_picture(unread[1]).pixels()


@pytest.mark.parametrize(("kind", "turned"), [(kind, 0) for kind in CODECS] + [("mp4", turned) for turned in (90, 180, -90)])
def test_a_frame_knows_its_size(kind: str, turned: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, (decoding, "_decode"))
    picture = open_picture(video_parts(write(tmp_path / f"a.{kind}", CODECS[kind], turned=turned), max_frames=1)[1])
    assert calls() == (0,)
    assert picture.pixels().size == (picture.width, picture.height) == ((64, 96) if turned in (90, -90) else (96, 64))
    with pytest.raises(MediaError, match="too many pixels"):
        open_picture(video_parts(tmp_path / f"a.{kind}", max_frames=1)[1], max_pixels=96 * 64 - 1)


def test_a_picture_of_a_frame_is_the_callers_own(tmp_path: Path) -> None:
    """What is drawn on it does not come up in the next question's."""
    picture = open_picture(video_parts(write(tmp_path / "a.mp4"), max_frames=1)[1])
    before = picture.pixels().tobytes()
    picture.pixels().paste((255, 255, 255), (0, 0, 96, 64))
    assert picture.pixels().tobytes() == before


def test_pictures_hold_no_frames(tmp_path: Path) -> None:
    """Frames live as long as the module keeps them: a group's prompts have hundreds."""
    parts = video_parts(write(tmp_path / "a.mp4"))
    pictures = [open_picture(part) for part in parts[1::2]]
    tiles = [picture.pixels() for picture in pictures]
    frames = [weakref.ref(frame) for frame in frames_of(parts)]
    assert all(frame() is not None for frame in frames)
    film._decoded.cache_clear()
    assert [frame() for frame in frames] == [None] * len(tiles) == [None] * 2


def test_an_hours_times_take_little_memory(tmp_path: Path) -> None:
    """Frames at an even rate are a range, others eight bytes each: an hour at 30 a second is less than a megabyte."""
    assert isinstance(timeline(write(tmp_path / "even.mp4")).stamps, range)
    film = timeline(write(tmp_path / "uneven.mkv", shown=[number + number // 7 for number in range(60)]))
    assert isinstance(film.stamps, array)
    assert sys.getsizeof(film.stamps) < 200 + 8 * 60
    assert list(film.stamps) == [40 * (number + number // 7) for number in range(60)]


# --- what cannot be used -------------------------------------------------------------------------------------------


def refused(path: Path, **options: float) -> str:
    with pytest.raises(MediaError) as caught:
        frames_of(video_parts(path, **options))
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def test_files_that_are_no_videos(tmp_path: Path, clip: Path) -> None:
    assert "no such video; check the path" in refused(tmp_path / "absent.mp4")
    assert "no frames in this folder" in refused(tmp_path)
    for name, data in {"empty.mp4": b"", "text.mp4": b"hello " * 1000, "head.mp4": clip.read_bytes()[:1000]}.items():
        (tmp_path / name).write_bytes(data)
        assert "not a video that can be read" in refused(tmp_path / name)
    assert "no moving picture in it" in refused(write_sound(tmp_path / "sound.mp4"))


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    write(tmp_path / "a.ts")
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.4,\na.ts\n#EXT-X-ENDLIST\n")
    assert "not a video that can be read" in refused(playlist)


def test_a_download_that_broke_off(tmp_path: Path) -> None:
    """The index stands first and names frames that never came; without a look at it the video would only be shorter."""
    whole = write(tmp_path / "whole.mp4", options={"movflags": "faststart"})
    with av.open(str(whole)) as source, av.open(str(tmp_path / "first.mp4"), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    data = (tmp_path / "first.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert len(frames_of(video_parts(tmp_path / "first.mp4"))) == 2
    (tmp_path / "cut.mp4").write_bytes(data[: int(0.9 * len(data))])
    assert "cut short" in refused(tmp_path / "cut.mp4")


def test_frames_that_are_damaged(tmp_path: Path, clip: Path) -> None:
    data = bytearray(clip.read_bytes())
    data[2000:600_000] = bytes(598_000)
    (tmp_path / "a.mp4").write_bytes(data)
    refused(tmp_path / "a.mp4")


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "avi"])
def test_damage_anywhere_is_one_error_or_none(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = np.frombuffer(write(tmp_path / f"a.{kind}", CODECS[kind]).read_bytes(), np.uint8)
    usable = 0
    for number in range(25):
        data = whole[: rng.integers(1, len(whole))].copy() if number % 2 else whole.copy()
        data[rng.integers(0, len(data), rng.choice([1, 10, 100]))] = rng.integers(0, 256)
        path = tmp_path / f"{number}.{kind}"
        path.write_bytes(data.tobytes())
        try:
            usable += len(frames_of(video_parts(path, max_frames=4))) > 0
        except MediaError:
            continue
    assert 0 < usable < 25


def test_a_clip_outside_the_video(clip: Path) -> None:
    assert refused(clip, start=20, end=30).endswith(
        ", from 20 s to 30 s: no frame between its start and end; the video lasts 13.013 s"
    )
    assert ".mp4, from 14.5 s on: no frame" in refused(clip, start=14.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_frames": 0}, "max_frames is 0"),
        ({"max_frames": 1000}, "max_frames is 1000; 1 to 999"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"folder_fps": -1}, "folder_fps is -1"),
        ({"start": 3, "end": 3}, "from 3 s to 3 s: a clip whose start and end make no sense; start is 0"),
        ({"start": -1}, "from -1 s to None s: a clip whose"),
        ({"end": float("inf")}, "from None s to inf s: a clip whose"),
    ],
)
def test_numbers_that_make_no_sense(options: dict[str, float], message: str, clip: Path) -> None:
    with pytest.raises(DataError, match=message):
        video_parts(clip, **options)


@pytest.mark.parametrize("style", ["smolvlm", "vlmevalkit"])
def test_a_video_of_days_is_refused(style: VideoStyle, tmp_path: Path) -> None:
    """Damaged times may say anything; a list of one frame a second must not be made of them."""
    path = write(tmp_path / "a.mkv", shown=(0, 25, 25 * 10**6))
    with pytest.raises(MediaError, match=r"mkv, 277\.8 hours: a video of more than a day; cut it"):
        video_parts(path, style=style)


def test_pyav_missing(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "a.mp4"
    copy.write_bytes(clip.read_bytes())
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match="videos need PyAV; pip install av"):
        video_parts(copy)
