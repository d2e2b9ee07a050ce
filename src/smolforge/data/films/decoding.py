"""Pictures of a video's frames by PyAV: seeking to the key frames before them instead of decoding everything."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from smolforge.data.films.packets import Version, VideoIndex, opened, quarters
from smolforge.errors import MediaError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

COUNTERCLOCKWISE = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}


def pyav_frames(path: Path, version: Version, index: VideoIndex, stamps: Sequence[int]) -> list[Image.Image]:
    """Frames at these stamps (rising), upright and RGB.

    Raises:
        MediaError: damaged, so that not all of them can be decoded.
    """
    pictures = _decode(path, version, stamps, index, seek=True)
    if pictures is None:
        pictures = _decode(path, version, stamps, index, seek=False)
    assert pictures is not None
    return pictures


def _decode(path: Path, version: Version, stamps: Sequence[int], index: VideoIndex, *, seek: bool) -> list[Image.Image] | None:
    """Where a key frame lies between one stamp and the next, decoding goes on from there.

    None when seeking went astray, as it does in streams without an index (MPEG-PS even gives frames another's time then).
    In place of a frame that is damaged, or that the file begins too late for, comes the next one that can be decoded.
    """
    keys: Sequence[int] = index.keys if seek else ()
    pictures: list[Image.Image] = []
    left = 2 * len(index.timeline.stamps) + len(stamps)  # frames to be decoded, should a file give more than its packets tell
    with opened(path, version) as (container, stream):
        stream.thread_type = "AUTO"
        frames = _shown(container, stream)
        shown = next(frames, None)
        for stamp in stamps:
            key = bisect_right(keys, stamp) - 1
            if shown is not None and key >= 0 and keys[key] > shown[0]:
                container.seek(index.seeks[key], stream=stream)
                frames = _shown(container, stream)
                shown = next(frames, None)
                if shown is None or shown[0] != keys[key] or not shown[1].key_frame:
                    return None
            while shown is not None and shown[0] < stamp and left:
                shown, left = next(frames, None), left - 1
            if shown is None or shown[0] < stamp:
                where = f"{path}, {len(pictures)} of {len(stamps)}"
                raise MediaError("not all of its frames can be decoded", where=where, mend="replace the file")
            if seek and shown[0] != stamp:
                return None
            pictures.append(_upright(shown[1]))
    return pictures


def _shown(container: InputContainer, stream: VideoStream) -> Iterator[tuple[int, VideoFrame]]:
    return ((frame.pts, frame) for frame in container.decode(stream) if frame.pts is not None)


def _upright(frame: VideoFrame) -> Image.Image:
    """RGB, turned as the file's display matrix says, to the next quarter. Mirroring is left alone."""
    image = frame.to_image()
    turn = COUNTERCLOCKWISE.get(quarters(frame))
    return image if turn is None else image.transpose(turn)
