"""When a video's frames are shown: exact times, because prompts name them and a clip's first frame is decided by them."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """When a video's frames are shown, in ticks of the file's clock.

    >>> film = Timeline(stamps=(100, 140, 220), tick=Fraction(1, 1000), end=260)
    >>> float(film.seconds), [float(film.time(number)) for number in range(3)]
    (0.16, [0.0, 0.04, 0.12])
    """

    stamps: Sequence[int]  # rising, one a frame
    tick: Fraction  # seconds
    end: int  # when the last frame's time is over

    @property
    def seconds(self) -> Fraction:
        return (self.end - self.stamps[0]) * self.tick

    def time(self, number: int) -> Fraction:
        """Seconds from the first frame to frame `number`."""
        return (self.stamps[number] - self.stamps[0]) * self.tick

    def number(self, stamp: int) -> int:
        """Number of the frame that is shown at this stamp, which is one of `stamps`."""
        number = bisect_left(self.stamps, stamp)
        assert self.stamps[number] == stamp
        return number

    def clip(self, start: float | None, end: float | None) -> Timeline | None:
        """Frames shown at `start` <= seconds < `end`, as a video of its own; None when there are none."""
        first = 0 if start is None else bisect_left(self.stamps, self._ticks(start))
        last = len(self.stamps) if end is None else bisect_left(self.stamps, self._ticks(end))
        if first >= last:
            return None
        after = self.stamps[last] if last < len(self.stamps) else self.end
        return replace(self, stamps=self.stamps[first:last], end=after)

    def _ticks(self, seconds: float) -> int:
        return self.stamps[0] + math.ceil(Fraction(seconds).limit_denominator(10**6) / self.tick)  # 0.1 means a tenth


def even_timeline(num_frames: int, fps: float) -> Timeline:
    """Times of frames that come evenly, as those of a folder or of a drawn video do.

    >>> even_timeline(4, 2.0).seconds
    Fraction(2, 1)
    """
    return Timeline(stamps=range(num_frames), tick=1 / Fraction(fps), end=num_frames)


def compact(numbers: list[int]) -> Sequence[int]:
    """A range where steps are even, eight bytes a number where not.

    >>> compact([0, 512, 1024]), compact([0, 33, 67])
    (range(0, 1536, 512), array('q', [0, 33, 67]))
    """
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    even = range(numbers[0], numbers[0] + step * len(numbers), step) if numbers and step else range(0)
    return even if list(even) == numbers else array("q", numbers)
