"""Rows of a recipe that an evaluation asks too: a score on a question that was learnt says nothing.

A row overlaps with an evaluation row when

- one of its pictures is near one of the evaluation's, whatever is said about it, or
- prompt and answer share a run of 13 words with the evaluation's question and answer (Brown et al. 2020, arXiv 2005.14165,
  appendix C). A run that more than 10 of the evaluation's rows have is an instruction, and not counted, or
- neither row has a picture, and both texts, shorter than 13 words, are the same. About pictures short texts are no evidence:
  "Is there a dog? Yes." is asked of thousands of photos.

A flat picture counts where it is the row's only one: black frames begin many films.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np

from smolforge.curating.conversation import asked_and_answered
from smolforge.curating.dedupe import Findings
from smolforge.curating.hashing import DISTANCE, FLAT_BYTES
from smolforge.curating.lists import Removal
from smolforge.curating.pictures import Marks, matches
from smolforge.curating.reading import Read, Readable, Skips, Table, read_rows, read_tables
from smolforge.curating.shingles import shingles, words
from smolforge.records import Record
from smolforge.store import Store

Overlap = Literal["either", "picture", "text"]
RUN = 13  # words
COMMON = 10  # rows of the evaluation
Place = tuple[int, int]  # source and index of a row


class Runs:
    """Runs of 13 words, and whole shorter texts, of the evaluation's rows."""

    def __init__(self) -> None:
        self._first: dict[int, Place] = {}
        self._count: dict[int, int] = {}
        self._sorted: np.ndarray | None = None

    def add(self, runs: Iterable[int], place: Place) -> None:
        """The runs of one row."""
        for run in set(runs):
            self._first.setdefault(run, place)
            self._count[run] = self._count.get(run, 0) + 1
        self._sorted = None

    def find(self, runs: np.ndarray) -> tuple[Place, float] | None:
        """The first row that shares a run which is no instruction, and the share of `runs` that the evaluation has."""
        if self._sorted is None:
            rare = (run for run, count in self._count.items() if count <= COMMON)
            self._sorted = np.sort(np.fromiter(rare, np.uint64))
        if not len(runs) or not len(self._sorted):
            return None
        at = np.searchsorted(self._sorted, runs).clip(max=len(self._sorted) - 1)
        met = runs[self._sorted[at] == runs]
        return (min(self._first[int(run)] for run in met), len(met) / len(runs)) if len(met) else None


def find_overlaps(
    tables: Sequence[Table],
    against: Sequence[Readable],
    *,
    by: Overlap = "either",
    distance: int = DISTANCE,
    store: Store,
    max_pixels: int = 100_000_000,
    tick: Callable[[], object] = lambda: None,
) -> Findings:
    """Rows that overlap with a row of `against`; arguments as `dedupe.find_duplicates`."""
    skips, marks, theirs, runs = Skips(), Marks(), Marks(), Runs()
    marks_store = None if by == "text" else store
    places: dict[int, Place] = {}  # of the first evaluation row with this mark
    for one in read_rows(against, marks_store, skips, max_pixels=max_pixels, tick=tick):
        for data in _counted(one):
            places.setdefault(theirs.number(data), (one.source, one.index))
        if by != "picture":
            runs.add((int(run) for found in _runs(one.record) for run in found), (one.source, one.index))
    rows: list[tuple[int, int, tuple[int, ...], tuple[Place, float] | None]] = []
    counts, pictures = [0] * len(tables), 0
    for one in read_tables(tables, marks_store, skips, max_pixels=max_pixels, tick=tick):
        counts[one.source] += 1
        pictures += len(one.marks)
        found = [hit for some in _runs(one.record) if (hit := runs.find(some))] if by != "picture" else []
        best = max(found, key=lambda hit: hit[1]) if found else None
        numbers = tuple(marks.number(data) for data in _counted(one))
        if numbers or best:
            rows.append((one.source, one.index, numbers, best))
    near = {} if by == "text" else matches(marks, theirs, distance)
    removals = []
    for source, index, numbers, shared in rows:
        seen = min((near[number][::-1] for number in numbers if number in near), default=None)
        if seen is None and shared is None:
            continue
        other, other_index = places[seen[1]] if seen else shared[0]  # type: ignore[index]
        reason = {(True, True): "picture and text", (True, False): "picture", (False, True): "text"}[bool(seen), bool(shared)]
        removals.append(
            Removal(
                source=source, index=index, reason=f"{reason} of an evaluation", other=against[other], other_index=other_index,
                distance=seen[0] if seen else None, similarity=shared[1] if shared else None,
            )
        )  # fmt: skip
    return Findings(
        removals=tuple(removals), rows=tuple(counts), pictures=pictures, different_pictures=len(marks), clusters=(), skips=skips
    )


def _counted(one: Read) -> tuple[bytes, ...]:
    return one.marks if len(one.marks) == 1 else tuple(data for data in one.marks if len(data) != FLAT_BYTES)


def _runs(record: Record) -> list[np.ndarray]:
    """Of each answer with its prompt: runs of 13 words; of a shorter text the whole, unless the row has pictures."""
    seen = bool(record.media or record.videos)
    texts = asked_and_answered(record)
    return [shingles(text, RUN) for text in texts if not seen or len(words(text)) >= RUN]
