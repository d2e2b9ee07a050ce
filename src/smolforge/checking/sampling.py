"""Which examples a check looks at: the first ones of each source in the mixture's own order, so what a run's first steps see."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from smolforge.checking.looking import Look, Refusal, decode, look_at, refusal
from smolforge.checking.mask import Shown, show
from smolforge.data.pipeline import Stream
from smolforge.errors import DataError

WALK = 50_000  # places of the stream that are searched for rows of rare sources
FIRST = 4096  # places whose sources are counted
FILMS = 4  # videos of each source some of whose frames are decoded; a picture always is
PACKED = 512  # examples of the first steps that are packed, but at least one step

Tell = Callable[[str, int, int], None]  # what is being done, how much is done, of how much


@dataclass
class Sample:
    """What was looked at."""

    looks: list[Look] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    came: list[float] = field(default_factory=list)  # share of each source among the first places
    shown: dict[str, Shown] = field(default_factory=dict)  # the first example of each modality
    walked: int = 0  # places
    late: bool = False  # the time was up before the sample was whole

    def of(self, source: int) -> tuple[list[Look], list[Refusal]]:
        """Looks and refusals of one source."""
        return [one for one in self.looks if one.source == source], [one for one in self.refusals if one.source == source]


def draw(stream: Stream, *, rows: int, last: int, until: float, tell: Tell, doing: str) -> Sample:
    """Walk along the mixture until `rows` different rows of each source, or all it has, were looked at; pictures are decoded.

    Args:
        last: place where the run ends.
        until: `time.monotonic` at which it stops with what it has.
        doing: what is told of it.
    """
    sample = Sample(came=_first_shares(stream, min(last, FIRST)))
    wanted = [rows if source.endless else min(rows, len(source)) for source in stream.sources]
    seen: list[set[int]] = [set() for _ in stream.sources]
    films = [0] * len(wanted)
    decoded: set[str] = set()
    for index in range(min(last, WALK)):
        if time.monotonic() > until and sample.looks:
            sample.late = True
            break
        sample.walked = index + 1
        source, row = stream.mixture(index)
        if row in seen[source] or len(seen[source]) == wanted[source]:
            continue
        seen[source].add(row)
        tell(doing, sum(map(len, seen)), sum(wanted))
        try:
            look, example = look_at(stream, index)
            films[source] += look.modality == "video"
            decode(example, known=decoded, frames=films[source] <= FILMS)
        except DataError as error:
            sample.refusals.append(refusal(stream, index, error))
            continue
        sample.looks.append(look)
        if look.modality not in sample.shown:
            sample.shown[look.modality] = show(example, stream.renderer, name=look.name, modality=look.modality)
        if list(map(len, seen)) == wanted:
            break
    return sample


def first_steps(stream: Stream, sample: Sample, *, examples: int, steps: int, until: float, tell: Tell) -> list[list[Look]]:
    """The usable examples of the first whole steps, at most `PACKED` of them but one step; nothing is decoded."""
    known = {one.index: one for one in sample.looks}
    refused = {one.index for one in sample.refusals}
    number = min(steps, max(1, PACKED // examples))
    done: list[list[Look]] = []
    for step in range(number):
        looks: list[Look] = []
        for index in range(step * examples, (step + 1) * examples):
            if time.monotonic() > until and done:
                return done
            tell("packing the first steps", index, number * examples)
            if index in refused:
                continue
            try:
                looks.append(known.get(index) or look_at(stream, index)[0])
            except DataError:  # counted where its source's sample meets it
                continue
        if looks:
            done.append(looks)
    return done


def _first_shares(stream: Stream, places: int) -> list[float]:
    counts = [0] * len(stream.sources)
    for index in range(places):
        counts[stream.mixture(index)[0]] += 1
    return [count / places for count in counts]
