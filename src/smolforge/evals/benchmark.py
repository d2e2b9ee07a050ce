"""What a benchmark is: how a row becomes a question, and how answers become counts. One file each in `benchmarks/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from smolforge.data.sources.shapes import media
from smolforge.evals.measures import Measure, Sums
from smolforge.records import Message, Record

Row = dict[str, Any]
Protocol = Literal["lmms-eval", "vlmevalkit"]  # whose prompts are used: scores differ between them
PROTOCOLS: tuple[Protocol, ...] = ("lmms-eval", "vlmevalkit")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a row comes from."""

    name: str  # of the benchmark, for messages
    base: Path | None = None  # folder that relative paths start from
    number: int = 0  # of the row


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the model is asked, and what scoring must know of it."""

    id: str  # unique in the benchmark, the same in every run
    record: Record  # the prompt; `responses` are empty
    max_new_tokens: int
    facts: dict[str, Any]  # JSON: references, right letter, kind of question; kept beside the answer
    options: tuple[str, ...] = ()  # of multiple choice: what the model could say; each one's log-prob is computed


@dataclass(frozen=True, kw_only=True)
class Given:
    """What came back for a question."""

    text: str
    tokens: int  # generated, the closing token included
    finished: bool = True  # ended by itself, not by max_new_tokens
    logprobs: tuple[float, ...] = ()  # nats, of the question's options in their order
    ratings: tuple[float, ...] = ()  # nats, that the judge gives to each rating from the lowest on


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A question's contribution."""

    sums: Sums
    read: str = ""  # how the answer was understood, such as the letter that was found
    marks: tuple[tuple[int, int, str], ...] = ()  # [start, end) of the answer and what stands there: "right" or "hallucinated"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark. `question` and `score` are pure; the runner does the rest."""

    about: str  # what it measures, one clause
    source: str  # paper or site, and where the scoring comes from
    hub: str  # dataset on the Hub
    split: str
    columns: tuple[str, ...]  # that every row must have
    question: Callable[[Row, Protocol, Origin], Question]  # raises DataError for a row that cannot be asked
    score: Callable[[Sequence[Question], Sequence[Given]], Sequence[Scored]]
    measures: Mapping[str, Measure]
    revision: str | None = None  # of the dataset on the Hub, where its newest is not meant
    files: tuple[str, ...] = ()  # patterns of files that `rows` reads, where the Hub has files and no table
    configs: tuple[str, ...] = ()  # configurations on the Hub, all of them used; rows tell theirs in the column "config"
    pictures: bool = True  # needs a model that sees
    videos: bool = False
    rows: Callable[[Path], Sequence[Row]] | None = None  # reads a folder in the benchmark's own layout; None when it has another
    drawn: bool = False  # `rows` makes them and needs no folder
    judge: Callable[[Question, Given], Record] | None = None  # what a judge model is asked; it rates by log-probs of `ratings`
    ratings: tuple[str, ...] = ()  # what the judge may say, lowest first
    notes: Callable[[], Sequence[str]] = field(default=tuple)  # what is missing here, such as Java for METEOR


def asked_about(picture: Any, text: str, *, id: str, origin: Origin) -> Record:
    """One user turn: a picture of a row, and what is asked about it. Raises DataError for what is no picture."""
    turn = Message(role="user", content=(media(picture, origin.base), text))
    return Record(id=id, source=origin.name, messages=(turn,), responses=())
