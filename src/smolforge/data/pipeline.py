"""sources -> mix -> render -> pack -> batch, read top to bottom.

Step s consumes examples s * N to (s + 1) * N - 1 of the mixed stream, which is a pure function of (seed, index). So the data
cursor is the step number, steps can be prepared ahead by any number of threads, and resuming costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from smolforge.data.batch import PackedBatch, collate
from smolforge.data.media import ImageSpec, tile_grid, tile_pixels
from smolforge.data.mix import Mixture
from smolforge.data.pack import pack
from smolforge.data.render import Example, Renderer
from smolforge.data.sources.tables import Source, open_source
from smolforge.errors import DataError
from smolforge.recipe import DataSection
from smolforge.records import Record, ResponseKind

NAMED = 20  # dropped or changed examples that are named; all are counted


@dataclass
class Tally:
    """What happened to the examples so far: nothing is dropped or changed in silence."""

    examples: int = 0
    tokens: int = 0
    tiles: int = 0
    tiles_upscaled: int = 0  # tiles the same pictures would take with upscale: true
    dropped: Counter[str] = field(default_factory=Counter)  # reason -> examples
    changed: Counter[str] = field(default_factory=Counter)  # what the length policy did -> examples
    named: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        for name in ("examples", "tokens", "tiles", "tiles_upscaled"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.dropped.update(other.dropped)
        self.changed.update(other.changed)
        self.named = (self.named + other.named)[:NAMED]

    def drop(self, error: DataError, record: str) -> None:
        self.dropped[error.what] += 1
        line = str(error)
        self.named.append(line if line.startswith(record) else f"{record}: {line}")

    def lines(self) -> list[str]:
        """For the end of a run, one fact a line; empty when there is nothing to tell."""
        lines = [f"dropped {n} examples: {reason}" for reason, n in self.dropped.most_common()]
        lines += [f"changed {n} examples: {what}" for what, n in self.changed.most_common()]
        if self.tiles_upscaled > self.tiles:
            saved = 1 - self.tiles / self.tiles_upscaled
            lines.append(f"upscale: false saved {saved:.0%} of the tiles ({self.tiles_upscaled} -> {self.tiles})")
        return lines + [f"  {line}" for line in self.named]


@dataclass(frozen=True, kw_only=True)
class Step:
    """An optimiser step's rows on one device, and what happened on the way."""

    rows: tuple[PackedBatch, ...]
    tally: Tally


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The mixed sources of a recipe, as records and as steps of packed rows."""

    sources: tuple[Source, ...]
    mixture: Mixture
    renderer: Renderer
    kinds: frozenset[ResponseKind]  # responses the objective uses; others are not laid out

    @property
    def num_rows(self) -> int:
        return sum(map(len, self.sources))

    def record(self, index: int) -> Record:
        """Record at a place of the mixed stream. Raises DataError."""
        source, row = self.mixture(index)
        return self.sources[source].record(row)

    def step(self, indices: Sequence[int]) -> Step:
        """Rows of the examples at these places; what cannot be used is dropped and counted."""
        tally, decoded, examples = Tally(), {}, []  # type: tuple[Tally, dict, list[Example]]
        for index in indices:
            source, row = self.mixture(index)
            name = f"{self.sources[source].name}[{self.sources[source].rows[row]}]"
            try:
                record = self.sources[source].record(row)
                examples.append(prepare(self._used(record), self.renderer, decoded))
            except DataError as error:
                tally.drop(error, name)
                continue
            _count(examples[-1], tally, name)
        return Step(rows=tuple(row for _, row in pack_rows(examples, self.renderer.row_tokens)), tally=tally)

    def steps(self, first: int, last: int, size: int, *, rank: int = 0, world: int = 1, workers: int = 0) -> Iterator[Step]:
        """Steps first to last - 1 of `size` examples, this rank's share of each, prepared ahead by `workers` threads."""
        indices = [range(step * size + rank, (step + 1) * size, world) for step in range(first, last)]
        if not workers:
            yield from map(self.step, indices)
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="prepare") as pool:
            ahead: list[Future[Step]] = []
            for number in range(len(indices)):
                while len(ahead) <= workers and number + len(ahead) < len(indices):
                    ahead.append(pool.submit(self.step, indices[number + len(ahead)]))
                yield ahead.pop(0).result()

    def _used(self, record: Record) -> Record:
        responses = tuple(response for response in record.responses if response.kind in self.kinds)
        if not responses:
            raise DataError(f"no response of kind {' or '.join(sorted(self.kinds))}", where=record.name)
        return replace(record, responses=responses)


def open_stream(sections: Sequence[DataSection], renderer: Renderer, *, kinds: Collection[ResponseKind], seed: int) -> Stream:
    """Open a recipe's sources as one mixed stream.

    Raises:
        DataError: a source cannot be opened.
    """
    sources = tuple(open_source(section) for section in sections)
    weights = [section.weight for section in sections if section.weight is not None]
    return Stream(
        sources=sources,
        mixture=Mixture([len(source) for source in sources], weights or None, seed=seed),
        renderer=renderer,
        kinds=frozenset(kinds),
    )


def prepare(
    record: Record,
    renderer: Renderer,
    decoded: dict[tuple[str, ImageSpec], np.ndarray] | None = None,
    *,
    reserve: int = 0,
) -> Example:
    """Render a record and decode its pictures; equal pictures are decoded once per `decoded`.

    Raises:
        DataError: as `Renderer.render`, or a picture is damaged.
    """
    decoded = {} if decoded is None else decoded
    example = renderer.render(record, reserve=reserve)
    for image in example.images:
        if image.key not in decoded:
            decoded[image.key] = tile_pixels(image.picture.pixels(), image.spec)
    return replace(example, images=tuple(replace(image, tiles=decoded[image.key]) for image in example.images))


def pack_rows(examples: Sequence[Example], row_tokens: int) -> list[tuple[list[int], PackedBatch]]:
    """Examples as rows, each with the numbers of its examples; those that share a picture stay together, so that it is
    encoded once."""
    shared = [[image.key for image in example.images] for example in examples]
    rows = pack([example.num_tokens for example in examples], row_tokens, shared)
    return [(row, collate([examples[number] for number in row])) for row in rows]


def _count(example: Example, tally: Tally, name: str) -> None:
    tally.examples += 1
    tally.tokens += example.num_tokens
    for image in example.images:
        tally.tiles += len(image.starts)
        full = replace(image.spec, upscale=True)
        tally.tiles_upscaled += tile_grid(image.picture.width, image.picture.height, full).tiles
    for change in example.changes:
        tally.changed[change.split(":")[0]] += 1
        tally.named.append(f"{name}: {change}")
