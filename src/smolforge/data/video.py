"""Videos, because the family reads them as pictures with their times in between: which frames, and what stands around them.

a file, its bytes, a folder of frames, or drawn ones
  film.timeline  when every frame is shown, read from the file's packets
  sample_frames  numbers of the frames that are taken
  video_parts    "... four frames from a 0:00:13 [H:MM:SS] video.\\n" "\\nFrame from 00:01:" picture ... "\\n\\n"
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import numpy as np

from smolforge.data.film import Backend, FrameCache, frame_pictures, timeline, video_file
from smolforge.errors import DataError, MediaError
from smolforge.records import Film, Part

VideoStyle = Literal["smolvlm", "vlmevalkit"]  # whose words stand around the frames

MAX_FRAMES = 999  # what `in_words` can say; a context holds far fewer
MAX_FPS = 1000.0
MAX_SECONDS = 24 * 3600  # of more than a day H:MM:SS cannot tell
SKIPPED_SECONDS = 1  # at both ends of a long video: titles and fades

# VLMEvalKit's `SmolVLM2.build_prompt_video` joins all pieces by a space, hence those at the ends. It opens the user's turn with
# a second <|im_start|> and puts a space before <end_of_utterance> and before the last newline, which parts cannot say.
VLMEVALKIT_SYSTEM = "pay attention to the video and answer the question "


@dataclass(frozen=True, kw_only=True)
class VideoSampling:
    """How densely a video is looked at; the defaults are those of SmolVLM2's checkpoints (`video_sampling`)."""

    max_frames: int = 64
    fps: float = 1.0  # frames a second, as long as they are no more than max_frames


# --- parts of a message ------------------------------------------------------------------------------------------


def video_parts(
    ref: Path | bytes | Film,
    *,
    max_frames: int = 64,
    fps: float = 1.0,
    start: float | None = None,
    end: float | None = None,
    folder_fps: float = 3.0,
    style: VideoStyle = "smolvlm",
    backend: Backend = "auto",
    cache: FrameCache | None = None,
) -> tuple[Part, ...]:
    """A video as the parts of a user's turn: its frames, each as one tile, and the text around them.

    Args:
        ref: a video file, its bytes, a folder of frames in the order of their names, or frames that are drawn.
        max_frames: most frames that are taken, 1 to 999.
        fps: frames taken a second while they are no more than max_frames.
        start: seconds; what comes before is cut off. Times in the prompt count from the clip's first frame.
        end: seconds; this moment and what comes after is cut off.
        folder_fps: frames a second that a folder holds.
        style: "smolvlm" is word for word what transformers' SmolVLMProcessor writes. "vlmevalkit" is VLMEvalKit's prompt
            for SmolVLM2, which calls frame i of one a second "Frame from {i as MM:SS}" whatever fps was.
        backend: what decodes a file (`films/libraries.py`); each gives the same frames.
        cache: where a file's decoded frames are kept.

    Raises:
        CheckpointError: bytes cannot be kept as a file.
        DataError: PyAV is missing, or numbers that make no sense.
        MediaError: missing, damaged, without a moving picture, or no frame between start and end.
    """
    if isinstance(ref, bytes):
        ref = video_file(ref)
    path = ref if isinstance(ref, Path) else "a drawn video"
    _check(path, max_frames, fps, start, end, folder_fps)
    whole = timeline(ref, folder_fps=folder_fps)
    if whole.seconds >= MAX_SECONDS:
        hours = float(whole.seconds) / 3600
        raise MediaError("a video of more than a day", where=f"{path}, {hours:.1f} hours", mend="cut it to less than a day")
    clip = whole.clip(start, end)
    if clip is None:
        asked = f"from {start or 0} s on" if end is None else f"from {start or 0} s to {end} s"
        mend = f"the video lasts {float(whole.seconds):.3f} s"
        raise MediaError("no frame between its start and end", where=f"{path}, {asked}", mend=mend)
    sampling = VideoSampling(max_frames=max_frames, fps=fps)
    if style == "smolvlm":
        numbers = sample_frames(len(clip.stamps), float(clip.seconds), sampling)
        length = timedelta(seconds=int(clip.seconds))
        before = f"You are provided the following series of {in_words(len(numbers))} frames from a {length} [H:MM:SS] video.\n"
        captions = [f"\nFrame from {_clock(int(clip.time(number)))}:" for number in numbers]
        after = "\n\n"
    else:
        counted = count_frames(len(clip.stamps), float(clip.seconds), sampling)
        numbers = [number for _, number in counted]
        before = "Here are some frames sampled from a video:\n"
        captions = [f" Frame from {_clock(count)}: " for count, _ in counted]
        after = " \n "
    captions[0] = before + captions[0]
    stamps = tuple(clip.stamps[number] for number in numbers)
    pictures = frame_pictures(ref, stamps, backend=backend, cache=cache)
    return (*(part for pair in zip(captions, pictures) for part in pair), after)


def sample_frames(num_frames: int, seconds: float, sampling: VideoSampling) -> list[int]:
    """Numbers of the frames that transformers takes of a video (`SmolVLMVideoProcessor.sample_frames`).

    min(fps x seconds, max_frames) spread evenly from the first frame to the last one; of a long video a second is left out
    at both ends.

    >>> sample_frames(100, 10.0, VideoSampling(fps=0.3))
    [0, 49, 99]
    >>> sample_frames(100, 10.0, VideoSampling(max_frames=5))  # 10 s less 2 s are more than 5: from frame 10 to 90
    [10, 30, 50, 70, 90]
    """
    first, last, rate = 0, num_frames - 1, num_frames / seconds
    if seconds - 2 * SKIPPED_SECONDS > sampling.max_frames * sampling.fps:  # the reference compares seconds with this product
        first, last = int(SKIPPED_SECONDS * rate), min(int(num_frames - SKIPPED_SECONDS * rate), last)
        if first >= last:
            first, last = 0, num_frames - 1
    count = max(1, min(round(sampling.fps * seconds), sampling.max_frames))
    return np.unique(np.linspace(first, last, count, dtype=int)).tolist()


def count_frames(num_frames: int, seconds: float, sampling: VideoSampling) -> list[tuple[int, int]]:
    """(count, number) of the frames that VLMEvalKit takes (`save_video_frames`, then `SmolVLM2.build_prompt_video`).

    `fps` frames a second from the first one on, counted 0, 1, 2 ..., and of more than max_frames an even choice.

    >>> count_frames(100, 10.0, VideoSampling(max_frames=4))
    [(0, 0), (3, 30), (6, 60), (9, 90)]
    """
    step = num_frames / seconds / sampling.fps
    every = [min(int(count * step), num_frames - 1) for count in range(max(1, int(seconds * sampling.fps)))]
    kept = np.linspace(0, len(every) - 1, min(len(every), sampling.max_frames), dtype=int).tolist()
    return [(count, every[count]) for count in kept]


def in_words(number: int) -> str:
    """A count from 1 to 999 in English words, as num2words writes it.

    >>> in_words(7), in_words(64), in_words(100), in_words(128)
    ('seven', 'sixty-four', 'one hundred', 'one hundred and twenty-eight')
    """
    assert 1 <= number <= MAX_FRAMES
    hundreds, rest = divmod(number, 100)
    above = f"{BELOW_TWENTY[hundreds]} hundred" if hundreds else ""
    below = BELOW_TWENTY[rest] if rest < 20 else "-".join(filter(None, (TENS[rest // 10], BELOW_TWENTY[rest % 10])))
    return " and ".join(filter(None, (above, below)))


BELOW_TWENTY = (
    "", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def _clock(seconds: int) -> str:
    return f"{seconds // 60:02d}:{seconds % 60:02d}"


def _check(path: Path | str, max_frames: int, fps: float, start: float | None, end: float | None, folder_fps: float) -> None:
    if not 1 <= max_frames <= MAX_FRAMES:
        raise DataError(f"max_frames is {max_frames}", where=path, mend=f"1 to {MAX_FRAMES} frames can be taken")
    for name, rate in (("fps", fps), ("folder_fps", folder_fps)):
        if not 0 < rate <= MAX_FPS:
            raise DataError(f"{name} is {rate}", where=path, mend=f"frames a second are more than 0 and at most {MAX_FPS:.0f}")
    begin = start or 0.0
    if not (0 <= begin < math.inf and (end is None or begin < end < math.inf)):
        where = f"{path}, from {start} s to {end} s"
        raise DataError("a clip whose start and end make no sense", where=where, mend="start is 0 or later, and before the end")
