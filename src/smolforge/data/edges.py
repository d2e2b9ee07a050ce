"""How large a picture is made before it is cut into tiles, drawn anew each time it comes up in training.

A model that always saw a picture at its largest has met few grids; one that saw it at several sizes can be run at any of them.
Seed and place in the mixed stream decide, so that a continuation, and any process, draws the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from smolforge.records import Media, Message, Part, Record


def with_edges(record: Record, shares: Mapping[int, float], *, seed: int, index: int) -> Record:
    """The record with a longest edge for each of its pictures; frames of videos, and pictures shown whole, keep theirs.

    Args:
        shares: of each longest edge in pixels, relative to each other.
        index: place in the mixed stream.

    >>> two = Message(role="user", content=(Media(ref="a.jpg"), Media(ref="b.jpg"), Media(ref="c.jpg", split=False)))
    >>> record = Record(id="1", source="s", messages=(two,), responses=())
    >>> [media.edge for media in with_edges(record, {1024: 2, 2048: 1}, seed=0, index=5).media]
    [1024, 2048, None]
    """
    edges = sorted(shares)
    weights = np.array([shares[edge] for edge in edges], np.float64)
    rng = np.random.default_rng([seed, 6, index])

    def sized(part: Part) -> Part:
        if not isinstance(part, Media) or not part.split:
            return part
        return replace(part, edge=edges[int(rng.choice(len(edges), p=weights / weights.sum()))])

    def looked_at(message: Message) -> Message:
        return replace(message, content=tuple(map(sized, message.content)))

    return replace(record, messages=tuple(map(looked_at, record.messages)))
