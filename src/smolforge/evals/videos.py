"""Videos of benchmarks: where their files lie, and how a question shows them.

All models see up to 64 frames, one a second, which is what SmolVLM2's checkpoints ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smolforge.data.video import VideoStyle, video_parts
from smolforge.errors import DataError
from smolforge.evals.benchmark import Origin, Protocol
from smolforge.records import Message

STYLES: dict[Protocol, VideoStyle] = {"lmms-eval": "smolvlm", "vlmevalkit": "vlmevalkit"}
FOLDERS = ("", "videos", "video", "data")
SUFFIXES = (".mp4", ".MP4", ".mkv", ".avi", ".webm")


def video_messages(
    path: Path, text: str, protocol: Protocol, *, system: str, start: float | None = None, end: float | None = None
) -> tuple[Message, ...]:
    """A video before its question; VLMEvalKit has a system message too. `start` and `end` in seconds.

    Raises:
        MediaError: damaged, or nothing between start and end.
    """
    parts = video_parts(path, start=start, end=end, style=STYLES[protocol])
    user = Message(role="user", content=(*parts, text))
    return (user,) if protocol == "lmms-eval" else (Message(role="system", content=(system,)), user)


def find_video(names: Sequence[str], origin: Origin, *, folders: Sequence[str] = ("",)) -> Path:
    """The first video, or folder of frames, that has one of these names (a video's suffix may differ).

    `folders` lie in `origin.base`, or there in `videos`, `video` or `data`.

    Raises:
        DataError: not there.
    """
    mend = "unpack the benchmark's videos into a folder and name it; there they may lie in videos, video or data"
    if origin.base is None:
        raise DataError("videos without a folder", where=origin.name, mend=mend)
    for place in (origin.base / above / folder for folder in folders for above in FOLDERS):
        for name in names:
            stem = name.removesuffix(suffix) if (suffix := Path(name).suffix) in SUFFIXES else name
            for path in (place / name, *(place / (stem + other) for other in SUFFIXES), place / stem):
                if path.exists():
                    return path
    first = Path(names[0]) if Path(names[0]).suffix else Path(names[0] + SUFFIXES[0])
    raise DataError("no such video", where=origin.base / folders[0] / first, mend=mend)
