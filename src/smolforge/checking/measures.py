"""Pure arithmetic of a check: from looks to what a person reads. No file is opened here."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from smolforge.checking.looking import CUT, PARTS, REDUCED, Look, Refusal
from smolforge.data.clean import Findings
from smolforge.data.pack import pack


@dataclass(frozen=True)
class Spread:
    """Five numbers of many; each is one of them."""

    min: int
    p5: int
    median: int
    p95: int
    max: int


def spread(values: Iterable[int]) -> Spread:
    """Nearest-rank percentiles; zeros of nothing.

    >>> spread([50, 10, 40, 20, 30])
    Spread(min=10, p5=10, median=30, p95=50, max=50)
    """
    ordered = sorted(values) or [0]
    return Spread(*(ordered[max(0, math.ceil(share * len(ordered)) - 1)] for share in (0, 0.05, 0.5, 0.95, 1)))


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """What the sample tells of one source."""

    label: str
    modality: str | None  # as recipe or catalogue say; None: unknown
    rows: int | None  # None of a stream
    share: float  # of the mixture, by weights
    came: float  # share of the run's first examples that it gave
    examples: float  # that the run takes of it
    looked: int
    reached: bool = True  # the walk along the mixture met it
    used: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> rows
    unreadable: int = 0  # of the dropped ones, for their picture or video
    reduced: int = 0  # fewer tiles or frames
    cut: int = 0  # prompt text
    held: Mapping[str, int] = field(default_factory=dict)  # modality -> rows
    tokens: Mapping[str, Spread] = field(default_factory=dict)  # part -> tokens an example; all: of the whole
    mean_tokens: float = 0.0
    mean_scored: float = 0.0
    mean_tiles: float = 0.0
    pictures: int = 0
    enlarged: int = 0
    tiles_upscaled: int = 0
    tiles_as_are: int = 0
    repeated: int = 0  # rows whose picture or video another row of the sample has as well
    echoes: int = 0  # rows with an answer that stands in its own prompt
    commonest: tuple[str, int] = ("", 0)  # the answer that most rows have, and how many
    unscored: int = 0  # rows without a token that is learnt
    needs: int = 0  # tokens of its longest example, were it not reduced
    drawn: bool = False  # a few drawn rows stand for it
    left_out: int | None = None  # rows that the recipe's lists leave out; None where it names none

    @property
    def epochs(self) -> float | None:
        return self.examples / self.rows if self.rows else None

    @property
    def scored_share(self) -> float:
        return self.mean_scored / self.mean_tokens if self.mean_tokens else 0.0


def source_facts(
    looks: Sequence[Look],
    refusals: Sequence[Refusal],
    *,
    label: str,
    modality: str | None,
    rows: int | None,
    share: float,
    came: float,
    examples: float,
) -> SourceFacts:
    """Counts over the looks and refusals of one source."""
    answers = Counter(answer for one in looks for answer in dict.fromkeys(one.answers))
    count = max(1, len(looks))
    return SourceFacts(
        label=label, modality=modality, rows=rows, share=share, came=came, examples=examples,
        looked=len(looks) + len(refusals),
        reached=bool(looks or refusals),
        used=len(looks),
        dropped=dict(Counter(one.reason for one in refusals).most_common()),
        unreadable=sum(one.media for one in refusals),
        reduced=sum(any(change.startswith(REDUCED) for change in one.changes) for one in looks),
        cut=sum(CUT in one.changes for one in looks),
        held=dict(Counter(one.modality for one in looks).most_common()),
        tokens={part: spread(one.parts[part] for one in looks) for part in PARTS} | {"all": spread(one.tokens for one in looks)},
        mean_tokens=sum(one.tokens for one in looks) / count,
        mean_scored=sum(one.scored for one in looks) / count,
        mean_tiles=sum(one.tiles for one in looks) / count,
        pictures=sum(one.pictures for one in looks),
        enlarged=sum(one.enlarged for one in looks),
        tiles_upscaled=sum(one.tiles_upscaled for one in looks),
        tiles_as_are=sum(one.tiles_as_are for one in looks),
        repeated=repeated(looks),
        echoes=sum(one.echo for one in looks),
        commonest=max(answers.items(), key=lambda pair: pair[1], default=("", 0)),
        unscored=sum(one.scored == 0 for one in looks),
        needs=max([0, *(one.needs for one in looks), *(one.needs for one in refusals)]),
    )  # fmt: skip


def repeated(looks: Sequence[Look]) -> int:
    """Rows with a picture or video that a row before them has.

    >>> def row(*media): return Look(index=0, source=0, name="", modality="image", parts={}, depth=0, scored=0, media=media)
    >>> repeated([row("cat"), row("dog", "cat"), row("cat"), row()])
    2
    """
    seen: set[str] = set()
    again = 0
    for one in looks:
        again += any(key in seen for key in one.media)
        seen.update(one.media)
    return again


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How much of one held-out source a source of the training data has too."""

    held_out: str
    source: str
    shared: int
    of: int
    exact: bool  # row by row of the same table; else by content, sample against sample

    @property
    def share(self) -> float:
        return self.shared / self.of if self.of else 0.0


def same_content(held_out: Sequence[Look], looks: Sequence[Look]) -> int:
    """Held-out rows whose picture or video the looks have too; of rows without one, whose texts they have."""
    media = {key for one in looks for key in one.media}
    words = {one.words for one in looks if not one.media}
    return sum(any(key in media for key in one.media) if one.media else one.words in words for one in held_out)


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What was left out of a source's preference pairs before anything else, over all its rows."""

    label: str
    rows: int
    removed: Mapping[str, int]  # reason -> rows
    pairs: int  # that stay
    longer: float  # share of them whose chosen answer is the longer one, in characters; equal ones count half


def cleaned(findings: Findings, label: str) -> Cleaned:
    """A source's cleaning in numbers."""
    lengths = findings.lengths
    longer = sum((a > b) + (a == b) / 2 for a, b in lengths) / len(lengths) if lengths else 0.5
    removed = dict(findings.removed.most_common())
    return Cleaned(label=label, rows=findings.rows, removed=removed, pairs=len(lengths), longer=longer)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A few steps as the run packs them. Means over the steps."""

    steps: int
    examples: int  # of a step, as they were packed; fewer than the recipe's where some are dropped
    rows: float
    tokens: float
    tiles: float  # distinct ones, which the vision tower sees
    full: float  # tokens / (rows x batch.row_tokens), over all steps
    most_tiles: int  # of a step


def packed(steps: Sequence[Sequence[Look]], row_tokens: int) -> Packed | None:
    """Pack steps by `data.pack`; None without examples."""
    rows = tokens = tiles = most = 0  # sums over the steps
    for step in steps:
        shared = [[key for key, _ in one.placed] for one in step]
        numbers = pack([one.tokens for one in step], row_tokens, shared)
        rows += len(numbers)
        tokens += sum(one.tokens for one in step)
        here = sum(sum({key: n for number in row for key, n in step[number].placed}.values()) for row in numbers)
        tiles, most = tiles + here, max(most, here)
    if not tokens:
        return None
    count = len(steps)
    return Packed(
        steps=count, examples=round(sum(map(len, steps)) / count), rows=rows / count, tokens=tokens / count, tiles=tiles / count,
        full=tokens / (rows * row_tokens), most_tiles=most,
    )  # fmt: skip


def held_shares(sources: Sequence[SourceFacts]) -> dict[str, float]:
    """Share of the run's examples by what the rows really hold: each source's sample, weighted by its share."""
    shares: dict[str, float] = defaultdict(float)
    whole = sum(one.share for one in sources if one.used) or 1.0  # of what could be looked at
    for one in sources:
        for modality, rows in one.held.items():
            shares[modality] += one.share / whole * rows / one.used
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


def scored_shares(sources: Sequence[SourceFacts]) -> list[float]:
    """Each source's share of all tokens that are learnt."""
    scored = [one.share * one.mean_scored for one in sources]
    return [one / (sum(scored) or 1.0) for one in scored]


def overall(sources: Sequence[SourceFacts], value: Callable[[SourceFacts], float]) -> float:
    """Mean of a measure over the run's examples: each source's, weighted by its share."""
    whole = sum(one.share for one in sources if one.used) or 1.0
    return sum(one.share * value(one) for one in sources if one.used) / whole
