"""sources -> mix -> render -> pack -> batch, read top to bottom.

Step s consumes examples s * N to (s + 1) * N - 1 of the mixed stream, which is a pure function of (seed, index). So the data
cursor is the step number, steps can be prepared ahead by any number of processes, and resuming costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from smolforge.data.ahead import Sharing, prepared
from smolforge.data.batch import PackedBatch, collate
from smolforge.data.clean import Findings, PairRules, clean_pairs
from smolforge.data.edges import with_edges
from smolforge.data.exclusion import check_lists
from smolforge.data.features import FeatureCache
from smolforge.data.film import held_videos
from smolforge.data.media import picture_tiles
from smolforge.data.mix import Mixture
from smolforge.data.pack import balance, pack, portion
from smolforge.data.prompts import choose_prompt, varies
from smolforge.data.render import Example, PlacedImage, Renderer
from smolforge.data.shares import Part, mixture_tree, source_shares, titles
from smolforge.data.sources.source import Source
from smolforge.data.sources.tables import open_source
from smolforge.data.tally import Tally
from smolforge.errors import DataError
from smolforge.recipe import DataSection, MixtureSection
from smolforge.records import Record, Response, ResponseKind, fingerprint

T = TypeVar("T")
LOOKED = 32  # examples that tell how large a step's pixels are
FIRST = 4  # rows of a source that are looked at before a run


@dataclass(frozen=True, kw_only=True)
class Step:
    """An optimiser step's rows on one device, and what happened on the way."""

    rows: tuple[PackedBatch, ...]
    tally: Tally
    waited: float = 0.0  # seconds that training waited for it
    plan: str = ""  # fingerprint of all that the ranks share it out by; equal on all of them, or their files differ


def _unchanged(one: T) -> T:
    return one


@dataclass(frozen=True, kw_only=True)
class Shaping:
    """What an objective asks of its examples."""

    kinds: frozenset[ResponseKind]  # responses it uses; others are not laid out
    use: Callable[[Record], Record] = _unchanged  # adds or refuses responses; raises DataError
    weigh: Callable[[Example], Example] = _unchanged  # loss weights of tokens
    others: bool = False  # lay out the next example's first answer as well, of kind "other"
    pairs: bool = False  # look through the preference pairs first, and clean them
    mend: str | None = None  # what to do where rows have no such responses


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The mixed sources of a recipe, as records and as steps of packed rows."""

    sources: tuple[Source, ...]
    mixture: Mixture
    renderer: Renderer
    shaping: Shaping
    features: FeatureCache | None = None
    findings: tuple[Findings, ...] = ()  # what cleaning found in each source
    examples: int | None = None  # a step of the run consumes, for prompts that vary; None: no run, the first one stands for all
    edges: Mapping[int, float] | None = None  # longest edges that pictures' own are drawn from, with shares; None: the renderer's
    tile_cost: float = 0.0  # what a tile costs beside its tokens, in tokens; decides how ranks share a step

    @property
    def num_rows(self) -> int:
        return sum(map(len, self.sources))

    @property
    def num_known(self) -> int | None:
        """Rows that there are; None where a stream, which has no end, is among the sources."""
        return None if any(source.endless for source in self.sources) else self.num_rows

    @property
    def parts(self) -> tuple[Part, ...]:
        """The sources as parts of the mixture; their weights are in `mixture.shares`."""
        return tuple(_part(source, None) for source in self.sources)

    def tree(self, steps: int) -> list[str]:
        """The mixture of a run as lines."""
        return mixture_tree(self.parts, self.mixture.shares.tolist(), steps * (self.examples or 1))

    def misnamed(self) -> Iterator[str]:
        """A line for each source whose first rows hold another thing than its modality says; streams are not read for it."""
        for source in self.sources:
            if source.modality is None or source.endless:
                continue
            held = {_medium(source, row) for row in range(min(len(source), FIRST))} - {None}
            said = source.modality.removeprefix("multi_")
            if len(held) == 1 and said not in held:
                what = f"its first rows hold {held.pop()}, and its modality is {source.modality}"
                yield f"{source.called}: {what}; mend its modality, by which a mixture shares out"

    def record(self, index: int) -> Record:
        """Record at a place of the mixed stream. Raises DataError."""
        number, row = self.mixture(index)
        source = self.sources[number]
        if self.examples is None:
            return source.record(row)
        prompt = choose_prompt(source.prompt, seed=self.mixture.seed, index=index, step=index // self.examples)
        return source.record(row, prompt=prompt)

    def name(self, index: int) -> str:
        """How messages call the record at a place of the mixed stream."""
        source, row = self.mixture(index)
        return f"{self.sources[source].name}[{self.sources[source].rows[row]}]"

    def example(self, index: int) -> Example:
        """Example at a place of the mixed stream; its pictures are not decoded. Raises DataError."""
        record = self._used(self.record(index))
        if self.edges:
            record = with_edges(record, self.edges, seed=self.mixture.seed, index=index)
        example = self.renderer.render(record)
        if self.shaping.others:
            example = self._with_other(record, index + 1) or example
        return self.shaping.weigh(example)

    def key(self, index: int) -> str | None:
        """Content key of the example at a place, or None when it cannot be used."""
        try:
            return self.example(index).key
        except DataError:
            return None

    def distinct(self, last: int) -> list[int]:
        """Places before `last` whose examples did not come before: what the run sees, each once."""
        if self.edges or self.shaping.others or (self.examples and any(varies(source.prompt) for source in self.sources)):
            return list(range(last))  # the picture's size, the answer lent by the next example, or the prompt, varies
        seen: dict[tuple[int, int], int] = {}
        for index in range(last):
            seen.setdefault(self.mixture(index), index)
            if len(seen) == self.num_rows:
                break
        return list(seen.values())

    @held_videos()  # all examples are laid out before the first is decoded
    def step(self, indices: Sequence[int]) -> Step:
        """Rows of the examples at these places; what cannot be used is dropped and counted."""
        return self._rows([(index, self._laid_out(index)) for index in indices])

    def _laid_out(self, index: int) -> Example | DataError:
        try:
            return self.example(index)
        except DataError as error:
            return error

    def _rows(self, laid_out: Sequence[tuple[int, Example | DataError]], part: int = 0, parts: int = 1) -> Step:
        """Rows of what was laid out, or one of several parts of them, which are the same rows together.

        Rows are made one after the other, so that their pictures are not in memory twice. A picture that turns out to be damaged
        leaves room in its row.
        """
        tally, rows = Tally(), []  # type: tuple[Tally, list[PackedBatch]]
        for index, example in laid_out if part == 0 else ():
            if isinstance(example, DataError):
                tally.drop(example, self.name(index))
        usable = [(index, example) for index, example in laid_out if not isinstance(example, DataError)]
        costs = [(example.num_tokens, [image.key for image in example.images]) for _, example in usable]
        packed = pack([tokens for tokens, _ in costs], self.renderer.row_tokens, [keys for _, keys in costs])
        tiles = [sum(len(image.starts) for image in example.images) for _, example in usable]
        mine = portion([sum(tiles[number] for number in row) for row in packed], part, parts)
        last = {key: row for row in mine for number in packed[row] for key in costs[number][1]}  # row that needs a picture last
        decoded: dict[str, PlacedImage] = {}
        for row in mine:
            filled: list[tuple[int, Example]] = []
            for index, example in (usable[number] for number in packed[row]):
                name = self.name(index)
                try:
                    filled.append((index, decode_pictures(example, decoded, features=self.features)))
                except DataError as error:
                    tally.drop(error, name)
                    continue
                tally.count(filled[-1][1], name)
            if filled:
                places = tuple((index, example.num_tokens) for index, example in filled)
                rows.append(replace(collate([example for _, example in filled]), places=places))
            decoded = {key: image for key, image in decoded.items() if last[key] > row}
        return Step(rows=tuple(rows), tally=tally)

    def steps(self, first: int, last: int, size: int, *, rank: int = 0, world: int = 1, workers: int = 0) -> Iterator[Step]:
        """Steps first to last - 1 of `size` examples, this rank's share of each, prepared ahead by `workers` processes."""
        sharing = Sharing.of(self.pixels(size) / world if workers else 0.0, workers)
        parts = sharing.parts
        make = partial(self._share, size=size, rank=rank, world=world, parts=parts)
        made = prepared(make, range(first * parts, last * parts), workers=workers, ahead=sharing.ahead)
        for _ in range(first, last):
            yield _whole([next(made) for _ in range(parts)])

    def pixels(self, size: int) -> float:
        """About how many bytes the tiles of `size` examples take, by the first few."""
        if self.renderer.images is None:
            return 0.0
        laid_out = [self._laid_out(index) for index in range(min(size, LOOKED))]
        tiles = [sum(len(image.starts) for image in one.images) for one in laid_out if not isinstance(one, DataError)]
        return size * sum(tiles) / max(1, len(tiles)) * 3 * self.renderer.images.tile**2

    @held_videos()
    def _share(self, number: int, *, size: int, rank: int, world: int, parts: int = 1) -> Step:
        """A rank's rows of a step, or one of `parts` of them, which `number` counts from the first step on: ranks get about the
        same cost, and examples with a common picture the same rank.

        Each rank lays out the whole step to know, and `plan` tells whether all saw the same.
        """
        step, part = divmod(number, parts)
        laid_out = [(index, self._laid_out(index)) for index in range(step * size, (step + 1) * size)]
        if world == 1:
            return self._rows(laid_out, part, parts)
        costs, pictures = zip(*(self._cost(example) for _, example in laid_out))
        mine = balance(costs, world, pictures)[rank]
        return replace(self._rows([laid_out[n] for n in mine], part, parts), plan=fingerprint(costs, pictures))

    def _cost(self, example: Example | DataError) -> tuple[float, tuple[str, ...]]:
        """What an example costs, in tokens, and the keys of its pictures; nothing where it cannot be used."""
        if isinstance(example, DataError):
            return 0.0, ()
        tiles = sum(len(image.starts) for image in example.images)
        return example.num_tokens + self.tile_cost * tiles, tuple(image.key for image in example.images)

    def _used(self, record: Record) -> Record:
        kinds = self.shaping.kinds
        responses = tuple(response for response in record.responses if response.kind in kinds)
        if not responses:
            raise DataError(f"no response of kind {' or '.join(sorted(kinds))}", where=record.name, mend=self.shaping.mend)
        return self.shaping.use(replace(record, responses=responses))

    def _with_other(self, record: Record, index: int) -> Example | None:
        """The example with the first answer of another record besides; None when that one has none that fits as it is."""
        try:
            text = self._used(self.record(index)).responses[0].text
            example = self.renderer.render(replace(record, responses=(*record.responses, Response(text=text, kind="other"))))
        except DataError:  # told of at the other record's own place
            return None
        return None if example.changes else example


def _medium(source: Source, row: int) -> str | None:
    """What a row holds: video, image (one or several) or text; None of a row that cannot be read, which a run drops."""
    try:
        record = source.record(row)
    except DataError:
        return None
    return "video" if record.videos else "image" if record.media else "text"


def open_stream(
    sections: Sequence[DataSection],
    renderer: Renderer,
    *,
    seed: int,
    kinds: Collection[ResponseKind] = (),
    shaping: Shaping | None = None,
    features: FeatureCache | None = None,
    mixture: MixtureSection | None = None,
    examples: int | None = None,
    edges: Mapping[int, float] | None = None,
) -> Stream:
    """Open a recipe's sources as one mixed stream.

    Args:
        mixture: shares by modality; by the sections' weights, or numbers of rows, when left out.
        examples: that a step of the run consumes; left out where nothing trains, such as for held-out data.
        edges: longest edges that pictures are drawn from (the recipe's `images.random_edge`), for data that are learnt from.
        kinds: responses that are used, where nothing else is asked of the examples.
        shaping: what an objective asks of them, instead of `kinds`.

    Raises:
        DataError: a source cannot be opened.
    """
    check_lists(sections)
    sources = tuple(replace(open_source(one, seed=seed), title=title) for one, title in zip(sections, titles(sections)))
    findings: tuple[Findings, ...] = ()
    if shaping and shaping.pairs:
        for source in sources:
            if source.endless:
                what = "preference pairs are looked through before training, and a stream has no end"
                raise DataError(what, where=source.name, mend="leave streaming out")
        rules = (PairRules(max_chars=s.max_chars, max_length_ratio=s.max_length_ratio) for s in sections)
        sources, findings = zip(*map(clean_pairs, sources, rules))
    shares = source_shares([_part(source, section.weight) for source, section in zip(sources, sections)], mixture)
    endless = [number for number, source in enumerate(sources) if source.endless]
    return Stream(
        sources=sources,
        mixture=Mixture([len(source) for source in sources], shares, seed=seed, endless=endless),
        renderer=renderer,
        shaping=shaping or Shaping(kinds=frozenset(kinds)),
        features=features,
        findings=findings,
        examples=examples,
        edges=edges,
    )


def _part(source: Source, weight: float | None) -> Part:
    return Part(name=source.called, modality=source.modality, rows=None if source.endless else len(source), weight=weight)


def prepare(record: Record, renderer: Renderer, *, reserve: int = 0) -> Example:
    """Render a record and decode its pictures.

    Raises:
        DataError: as `Renderer.render`, or a picture is damaged.
    """
    return decode_pictures(renderer.render(record, reserve=reserve), {})


def decode_pictures(example: Example, decoded: dict[str, PlacedImage], *, features: FeatureCache | None = None) -> Example:
    """The example with its pictures' tiles, or with their features when a cache has them.

    Args:
        decoded: pictures that were decoded already, by key; filled.

    Raises:
        DataError: a picture is damaged.
    """
    for image in example.images:
        if image.key not in decoded:
            known = features.get(image.key) if features else None
            tiles = None if known is not None else picture_tiles(image.picture, image.spec, image.distortion)
            decoded[image.key] = replace(image, tiles=tiles, features=known)
    filled = ((image, decoded[image.key]) for image in example.images)
    return replace(example, images=tuple(replace(image, tiles=d.tiles, features=d.features) for image, d in filled))


def pack_rows(examples: Sequence[Example], row_tokens: int) -> list[tuple[list[int], PackedBatch]]:
    """Examples as rows, each with the numbers of its examples; those that share a picture stay together, so that it is
    encoded once."""
    shared = [[image.key for image in example.images] for example in examples]
    rows = pack([example.num_tokens for example in examples], row_tokens, shared)
    return [(row, collate([examples[number] for number in row])) for row in rows]


def _whole(parts: Sequence[tuple[Step, float]]) -> Step:
    """A step from its parts and the seconds that were waited for each."""
    tally = Tally()
    for step, _ in parts:
        tally.add(step.tally)
    rows = tuple(row for step, _ in parts for row in step.rows)
    return Step(rows=rows, tally=tally, waited=sum(seconds for _, seconds in parts), plan=parts[0][0].plan)
