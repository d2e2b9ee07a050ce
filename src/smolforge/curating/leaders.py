"""The first of each kind is kept: rows in order, each compared with the kept ones that could be near.

A row is left out when it is near a row that stays, so no chain of small differences ends in a row that is like none that is kept,
and the order of the rows alone decides.

Texts are found without comparing all pairs by prefix filtering (Chaudhuri, Ganti, Kaushik 2006, "A primitive operator for
similarity joins"; Bayardo, Ma, Srikant 2007, section 3): with all shingles in one order, here rare ones first, two sets whose
|a & b| / |a | b| is t or more share one of the first |a| - ceil(t |a|) + 1 shingles of a and of as many of b. Nothing is missed.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from smolforge.curating.shingles import jaccard

By = Literal["both", "picture", "text"]
TALLY = 1 << 22  # counters of shingles; two that share one are only ordered less well
NO_WORDS = 1  # stands for a text without words
Near = Mapping[int, Mapping[int, int]]


class Ragged:
    """Lists of numbers of different lengths in one array: a million NumPy arrays would weigh more than what they hold."""

    def __init__(self, kind: Literal["q", "Q"]) -> None:
        self._kind = kind
        self._values = array(kind)
        self._starts = array("q", [0])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def append(self, values: Sequence[int] | np.ndarray) -> None:
        self._values.frombytes(np.asarray(values, self._kind).tobytes())
        self._starts.append(len(self._values))

    def __getitem__(self, index: int) -> np.ndarray:
        start, stop = self._starts[index], self._starts[index + 1]
        return np.frombuffer(memoryview(self._values)[start:stop], self._kind) if stop > start else np.empty(0, self._kind)

    def size(self, index: int) -> int:
        return self._starts[index + 1] - self._starts[index]

    def as_set(self, index: int) -> set[int]:
        return set(self._values[self._starts[index] : self._starts[index + 1]])


@dataclass(frozen=True, kw_only=True)
class Found:
    """A row that is near one that stays; both by their numbers in the order of reading."""

    row: int
    of: int
    distance: int | None  # bits, of the picture that differs most; None where no picture was compared
    similarity: float | None  # of the whole texts; None where none was compared


@dataclass(frozen=True, kw_only=True)
class Own:
    """Shingles of the row in hand: Python's sets compare twenty numbers ten times as fast as NumPy does."""

    whole: set[int]
    answers: set[int]


class Comparison:
    """Rows and what they are compared by.

    Args:
        by: "both": pictures and texts, and rows without pictures by their texts alone; "picture"; "text".
        similarity: least Jaccard of two conversations, and of their answers alone.
    """

    def __init__(self, by: By, similarity: float) -> None:
        self.by, self.similarity = by, similarity
        self.pictures, self.wholes, self.answers = Ragged("q"), Ragged("Q"), Ragged("Q")
        self._counts = np.zeros(TALLY, np.uint32)

    def add(self, pictures: Sequence[int], whole: np.ndarray, answers: np.ndarray) -> None:
        """The next row: numbers of its pictures' marks, shingles of its conversation and of its answers alone."""
        self.pictures.append(pictures)
        self.wholes.append(whole)
        self.answers.append(answers)
        np.add.at(self._counts, whole & np.uint64(TALLY - 1), 1)

    def __len__(self) -> int:
        return len(self.pictures)

    def duplicates(self, near: Near) -> Iterator[Found | None]:
        """For each row in order the kept row that it is near, the first if there are several, or None: it stays."""
        kept: dict[tuple[int, int], list[int]] = {}
        for row in range(len(self)):
            pictures = self.pictures[row]
            if self.by == "picture" and not len(pictures):
                yield None
                continue
            home = int(pictures[0]) if len(pictures) and self.by != "text" else -1
            signs = self._signs(row)
            candidates = {
                other for place in (home, *near.get(home, ())) for sign in signs for other in kept.get((place, sign), ())
            }
            own = Own(whole=self.wholes.as_set(row), answers=self.answers.as_set(row))
            found = next((found for other in sorted(candidates) if (found := self._compare(row, own, other, near))), None)
            if found is None:
                for sign in signs:
                    kept.setdefault((home, sign), []).append(row)
            yield found

    def _signs(self, row: int) -> list[int]:
        """What a near text shares one of."""
        if self.by == "picture":
            return [NO_WORDS]
        whole = self.wholes[row]
        if not len(whole):
            return [NO_WORDS]
        order = np.lexsort((whole, self._counts[whole & np.uint64(TALLY - 1)]))
        length = len(whole) - math.ceil(self.similarity * len(whole) - 1e-9) + 1
        return [int(value) for value in whole[order[:length]]]

    def _compare(self, row: int, own: Own, other: int, near: Near) -> Found | None:
        distance = similarity = None
        if self.by != "text":
            mine, theirs = self.pictures[row], self.pictures[other]
            if len(mine) != len(theirs):
                return None
            for one, two in zip(mine.tolist(), theirs.tolist(), strict=True):
                bits = 0 if one == two else near.get(one, {}).get(two)
                if bits is None:
                    return None
                distance = max(distance or 0, bits)
        if self.by != "picture":
            if self._shared(own.answers, self.answers, other) < self.similarity:
                return None
            similarity = self._shared(own.whole, self.wholes, other)
            if similarity < self.similarity:
                return None
        return Found(row=row, of=other, distance=distance, similarity=similarity)

    def _shared(self, own: set[int], others: Ragged, other: int) -> float:
        """Jaccard; 0 where the sizes alone say that it is too small."""
        size, theirs = len(own), others.size(other)
        if min(size, theirs) < self.similarity * max(size, theirs):
            return 0.0
        return jaccard(own, others.as_set(other))
