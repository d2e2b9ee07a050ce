"""Weighted, seeded mixture: index -> (source, row), a pure function of (seed, index), O(1) at any index.

Indices come in blocks of about `BLOCK`. Up to the end of block b, source s has given floor((b + 1) * BLOCK * w_s + u_s) rows,
with u_s drawn by the seed: shares are exact in the long run, and how much of each source came before any index is known
without walking there. Inside a block the order is a seeded permutation; inside a source each epoch is one, without
repeats.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from heapq import heappop, heappush
from typing import Any

import numpy as np

BLOCK = 1024


class Mixture:
    """Endless stream over several sources.

    Args:
        rows: number of rows of each source.
        weights: share of each source, relative to each other; by number of rows when left out.
        endless: sources without a length, streams, are read in their own order.
        seed: decides every order.

    >>> mixture = Mixture([2, 100], weights=[1.0, 3.0])
    >>> sum(source for source, row in map(mixture, range(4000))) in range(2990, 3010)
    True
    """

    def __init__(
        self, rows: Sequence[int], weights: Sequence[float] | None = None, *, seed: int = 0, endless: Collection[int] = ()
    ) -> None:
        assert min(rows) > 0, "every source has rows"
        shares = np.array(weights if weights is not None else rows, np.float64)
        self.rows, self.seed, self.endless = tuple(rows), seed, frozenset(endless)
        self.shares = shares / shares.sum()
        self.offsets = np.random.default_rng([seed, 0]).random(len(rows))
        self._remember()

    def __call__(self, index: int) -> tuple[int, int]:
        """(source, row) at a place of the stream."""
        block = max(0, index // BLOCK - 1)
        while self._given(block + 1).sum() <= index:
            block += 1
        while block and self._given(block).sum() > index:
            block -= 1
        sources, ranks = self._block(block)
        place = index - int(self._given(block).sum())
        source = int(sources[place])
        given = int(self._given(block)[source]) + int(ranks[place])
        if source in self.endless:
            return source, given
        epoch, at = divmod(given, self.rows[source])
        return source, int(self._order(source, epoch)[at])

    def _remember(self) -> None:
        self._block = lru_cache(maxsize=4)(self._make_block)
        self._order = lru_cache(maxsize=2 * len(self.rows))(self._make_order)

    def __getstate__(self) -> dict[str, Any]:
        """For another process, without what is remembered."""
        return {name: value for name, value in vars(self).items() if name not in ("_block", "_order")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._remember()

    def _given(self, block: int) -> np.ndarray:
        """Rows each source has given before a block, (sources,)."""
        return np.floor(block * BLOCK * self.shares + self.offsets).astype(np.int64)

    def _make_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Source of each place in a block, and how many of the same source stand before it there."""
        counts = self._given(block + 1) - self._given(block)
        sources = np.random.default_rng([self.seed, 1, block]).permutation(np.repeat(np.arange(len(counts)), counts))
        ranks = np.zeros_like(sources)
        for source in range(len(counts)):
            here = sources == source
            ranks[here] = np.arange(here.sum())
        return sources, ranks

    def _make_order(self, source: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 2, source, epoch]).permutation(self.rows[source])


class EachOnce(Mixture):
    """The same sources for measuring: no row comes again before every row was there.

    The next row is of the source that is furthest behind its share and has rows left, so that any first n places hold the shares
    as exactly as whole rows can, and all places together hold every row. Of a single source the order is that of `Mixture`.

    >>> once = EachOnce([2, 4], weights=[1.0, 1.0])
    >>> [source for source, row in map(once, range(6))], len({once(index) for index in range(6)})
    ([0, 1, 0, 1, 1, 1], 6)
    """

    def __init__(
        self, rows: Sequence[int], weights: Sequence[float] | None = None, *, seed: int = 0, endless: Collection[int] = ()
    ) -> None:
        super().__init__(rows, weights, seed=seed, endless=endless)
        self._turns: list[tuple[int, int]] = []  # (source, rows that it gave before) of the places known so far
        self._next = sorted((1 / share, source, 0) for source, share in enumerate(self.shares.tolist()))  # a heap

    @staticmethod
    def of(mixture: Mixture) -> EachOnce:
        """The sources, shares and seed of a mixture."""
        return EachOnce(mixture.rows, mixture.shares.tolist(), seed=mixture.seed, endless=mixture.endless)

    def __call__(self, index: int) -> tuple[int, int]:
        """(source, row) at a place; behind the last row the next epoch begins."""
        epoch, place = divmod(index, sum(self.rows))
        while len(self._turns) <= place:
            _, source, given = heappop(self._next)
            self._turns.append((source, given))
            if source in self.endless or given + 1 < self.rows[source]:
                heappush(self._next, ((given + 2) / float(self.shares[source]), source, given + 1))
        source, given = self._turns[place]
        return source, given if source in self.endless else int(self._order(source, epoch)[given])
