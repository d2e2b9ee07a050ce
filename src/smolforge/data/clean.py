"""Take out the preference pairs that teach nothing or teach twice, before training, and say what was found.

Every row is read once when the source is opened; pictures are never decoded. Kept of each row: a fingerprint and two
lengths. A bias in length is the first thing one wants to know about pairs (length is the easiest cue to learn), so the
medians of both sides are always told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from smolforge.data.sources.source import Source
from smolforge.errors import DataError
from smolforge.records import Media, Record, Video, fingerprint
from smolforge.wording import how_many

NAMED = 20  # rows that are named; all are counted
SKEWED = 10.0  # longer / shorter above which a pair is shown, without a rule about it

UNREADABLE = "cannot be used, dropped and named when it comes up"
EMPTY = "empty answer"
IDENTICAL = "chosen and rejected are identical"
DUPLICATE = "duplicate pair"
DUPLICATE_SINGLE = "duplicate answer"
CONTRADICTION = "contradicts an earlier pair"
LONG = "an answer is over-long"
LENGTH_SKEW = "length-skewed pair"


@dataclass(frozen=True, kw_only=True)
class PairRules:
    """What is removed besides empty answers and identical ones."""

    duplicates: bool = True  # pairs that come again, or again the other way round; False: they are only shown
    max_chars: int | None = None  # longest answer, in characters
    max_length_ratio: float | None = None  # longer / shorter, in characters


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What cleaning saw in one source."""

    source: str
    rows: int
    removed: Counter[str]  # reason -> rows
    shown: Counter[str]  # reason -> rows that stay
    named: tuple[str, ...]  # the first rows with a finding, removed ones first
    lengths: tuple[tuple[int, int], ...] = field(repr=False)  # characters (chosen, rejected) of the pairs that stay

    def lines(self) -> list[str]:
        """One fact a line; of the lengths in any case where there are pairs."""
        noun = "pair" if self.lengths else "row"
        lines = [f"{self.source}: removed {how_many(n, noun)}: {reason}" for reason, n in self.removed.most_common()]
        lines += [f"{self.source}: kept {how_many(n, noun)}: {reason}" for reason, n in self.shown.most_common()]
        if self.lengths:
            chosen, rejected = (median(side) for side in zip(*self.lengths))
            longer = sum(a > b for a, b in self.lengths) / len(self.lengths)
            lines.append(
                f"{self.source}: median characters {chosen:.0f} chosen, {rejected:.0f} rejected; "
                f"chosen is longer in {longer:.0%} of {how_many(len(self.lengths), 'pair')}"
            )
        return lines + [f"  {line}" for line in self.named]


def clean_pairs(source: Source, rules: PairRules) -> tuple[Source, Findings]:
    """The source without the pairs that the rules remove, and what was found.

    Rows that cannot be read stay: the pipeline drops and counts them like any other. Single answers (KTO) are checked
    for emptiness and duplicates only. The earlier one of two equal or contradicting pairs stays.

    Raises:
        DataError: nothing is left.
    """
    rows, seen, lengths = [], {}, []  # type: tuple[list[int], dict[str, int], list[tuple[int, int]]]
    removed, shown = Counter(), Counter()  # type: tuple[Counter[str], Counter[str]]
    named: dict[bool, list[str]] = {True: [], False: []}
    for index, number in enumerate(source.rows):
        name = f"{source.name}[{number}]"
        try:
            record = source.record(index)
        except DataError as error:
            rows.append(number)
            shown[UNREADABLE] += 1
            _name(named[False], str(error) if str(error).startswith(name) else f"{name}: {error}")
            continue
        faults = list(_faults(record, number, seen, rules))
        reason = next((reason for reason, _, removes in faults if removes), None)
        if reason:
            removed[reason] += 1
        else:
            rows.append(number)
            shown.update(reason for reason, _, _ in faults)
            if pair := _lengths(record):
                lengths.append(pair)
        for fault, detail, _ in faults:
            if reason in (None, fault):
                _name(named[reason is not None], f"{name}: {fault}{detail}")
    if not rows:
        reasons = ", ".join(f"{n} {reason}" for reason, n in removed.most_common())
        raise DataError(
            "no pair is left after cleaning", where=source.name, mend=f"loosen the rules or mend the data ({reasons})"
        )
    findings = Findings(
        source=source.name, rows=len(source), removed=removed, shown=shown, lengths=tuple(lengths),
        named=tuple((named[True] + named[False])[:NAMED]),
    )  # fmt: skip
    return replace(source, rows=rows), findings


def _faults(record: Record, number: int, seen: dict[str, int], rules: PairRules) -> Iterator[tuple[str, str, bool]]:
    """(reason, detail, whether it is removed for it); `seen` learns the pair if it is the first of its kind."""
    texts = [(response.kind, response.text.strip()) for response in record.responses]
    if not all(text for _, text in texts):
        yield EMPTY, "", True
        return
    pair = _lengths(record)
    if pair and texts[0][1] == texts[1][1]:
        yield IDENTICAL, "", True
        return
    asked = _prompt(record)
    key, swapped = fingerprint(asked, texts), fingerprint(asked, _swapped(texts)) if pair else ""
    if key in seen:
        yield DUPLICATE if pair else DUPLICATE_SINGLE, f" (of row {seen[key]})", rules.duplicates
    elif swapped in seen:
        yield CONTRADICTION, f" (row {seen[swapped]})", rules.duplicates
    else:
        seen[key] = number
    if pair:
        short, long = sorted(pair)
        if rules.max_chars is not None and long > rules.max_chars:
            yield LONG, f" ({long} characters)", True
        if long > (rules.max_length_ratio or SKEWED) * short:
            yield LENGTH_SKEW, f" ({short} and {long} characters)", rules.max_length_ratio is not None


def _lengths(record: Record) -> tuple[int, int] | None:
    """Characters of (chosen, rejected); None for single answers."""
    if [response.kind for response in record.responses] != ["chosen", "rejected"]:
        return None
    chosen, rejected = (len(response.text.strip()) for response in record.responses)
    return chosen, rejected


def _swapped(texts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    (chosen, first), (rejected, second) = texts
    return [(chosen, second), (rejected, first)]


def _name(lines: list[str], line: str) -> None:
    if len(lines) < NAMED:
        lines.append(line)


def _prompt(record: Record) -> list[tuple[str, list[str]]]:
    """What is asked, with pictures by their identity; comparable between records."""
    return [
        (
            message.role,
            [f"text {part.strip()}" if isinstance(part, str) else _identity(part, record) for part in message.content],
        )
        for message in record.messages
    ]


def _identity(media: Media | Video, record: Record) -> str:
    """A picture's or video's name without opening it: path, address, hash of the bytes, or else the record's id."""
    if isinstance(media, Video):
        film = media.ref
        content = fingerprint(film) if isinstance(film, bytes) else film if isinstance(film, Path) else film.key
        return f"video {content} from {media.start} to {media.end}"
    ref = media.ref
    if isinstance(ref, bytes):
        return f"bytes {fingerprint(ref)}"
    return f"file {ref}" if isinstance(ref, Path | str) else f"drawn for {record.id}"
