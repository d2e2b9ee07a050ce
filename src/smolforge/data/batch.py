"""THE collator: Examples -> PackedBatch, one row of token trees, back to back, unable to see each other.

Two trees, the first with two branches; positions restart at each root and go on from each parent:

    index      0 1 2 3 4 5 | 6 7 8
    node       0 0 0 1 1 2 | 3 3 4
    position   0 1 2 3 4 3 | 0 1 2
    scored           ^ ^ ^ |     ^       predicted from index  2 3 2 | 7

Legend: L row tokens, N nodes, K scored tokens, R responses, T tiles, U placeholder runs, P tile edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from smolforge.data.render import Example, PlacedImage
from smolforge.records import ResponseKind


@dataclass(frozen=True, kw_only=True)
class ResponseRef:
    """Whose log-probs a response index stands for."""

    example: int  # number of the example in the row
    id: str
    source: str
    number: int  # which of the example's responses
    kind: ResponseKind
    distorted: bool = False  # scored with spoilt pictures


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """One row."""

    input_ids: torch.Tensor  # (L,) int64
    position_ids: torch.Tensor  # (L,) int64
    node_ids: torch.Tensor  # (L,) int64
    ancestry: torch.Tensor  # (N, N) bool: [n, m] is True when m is n or one of its ancestors
    trees: tuple[int, ...]  # tokens of each tree; they sum to L
    predictors: torch.Tensor  # (K,) int64: row index of the hidden state that predicts the scored token
    targets: torch.Tensor  # (K,) int64: its id
    weights: torch.Tensor  # (K,) float32: its loss weight
    response_ids: torch.Tensor  # (K,) int64: its response
    responses: tuple[ResponseRef, ...]  # (R,)
    features: torch.Tensor | None  # (C, ...) what is known of the first C distinct tiles, from a cache
    tiles: torch.Tensor  # (T - C, 3, P, P) uint8: every other distinct tile once
    run_tiles: torch.Tensor  # (U,) int64: tile of each placeholder run, counted over features and tiles
    run_starts: torch.Tensor  # (U,) int64: row index of its first placeholder
    pictures: tuple[tuple[str, int], ...]  # key and number of tiles of each picture in `tiles`
    ids: tuple[str, ...]  # names of the examples, for messages
    keys: tuple[str, ...]  # their contents' names
    places: tuple[tuple[int, int], ...] = ()  # place in the mixed stream and tokens of each example, where there is a stream
    reference: torch.Tensor | None = None  # (K,) float32: the reference's log-prob of each scored token
    noise: torch.Tensor | None = None  # (L, D) float32: what is added to the token embeddings where the row is learnt from

    def to(self, device: torch.device) -> PackedBatch:
        """The same row on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {n: t.to(device) for n, t in values.items() if isinstance(t, torch.Tensor)}
        return replace(self, **moved)

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process pixels go through shared memory, a file handle each, and the rest as plain arrays."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        small = {n: t.numpy() for n, t in values.items() if isinstance(t, torch.Tensor) and n not in ("tiles", "features")}
        return _arrived, (values | small,)

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)


def _arrived(values: dict[str, Any]) -> PackedBatch:
    tensors: dict[str, Any] = {n: torch.from_numpy(v) for n, v in values.items() if isinstance(v, np.ndarray)}
    return PackedBatch(**(values | tensors))


def collate(examples: Sequence[Example]) -> PackedBatch:
    """Lay examples out in one row. Their pictures must be decoded.

    The first token of a response is predicted from its parent's last token; a response without a parent has no
    predictor for its first token, which is then not scored.
    """
    ids, positions, node_ids, parents = [], [], [], []
    predictors, targets, weights, response_ids = [], [], [], []
    responses: list[ResponseRef] = []
    images, tile_of = _distinct_pictures(examples)
    features = [image.features for image in images if image.features is not None]
    new = [image for image in images if image.features is None]
    tiles = [image.tiles for image in new if image.tiles is not None]
    run_tiles: list[int] = []
    run_starts: list[int] = []
    trees: list[int] = []
    offset, first_node = 0, 0
    for number, example in enumerate(examples):
        trees += _tree_sizes(example)
        starts: list[int] = []  # row index of each node's first token
        depths: list[int] = []  # position of its first token
        kinds = dict(example.responses)
        for index, node in enumerate(example.nodes):
            n, parent = len(node.ids), node.parent
            depth = depths[parent] + len(example.nodes[parent].ids) if parent >= 0 else 0
            starts.append(offset)
            depths.append(depth)
            parents.append(first_node + parent if parent >= 0 else -1)
            ids.append(node.ids)
            positions.append(np.arange(depth, depth + n))
            node_ids.append(np.full(n, first_node + index))
            if index in kinds:
                before = starts[parent] + len(example.nodes[parent].ids) - 1 if parent >= 0 else -1
                row = np.concatenate(([before], np.arange(offset, offset + n - 1)))  # (n,) predictor of each token
                scored = (node.weights != 0) & (row >= 0)
                predictors.append(row[scored])
                targets.append(node.ids[scored])
                weights.append(node.weights[scored])
                response_ids.append(np.full(int(scored.sum()), len(responses)))
                place = [node_ for node_, _ in example.responses].index(index)
                responses.append(
                    ResponseRef(
                        example=number, id=example.id, source=example.source, number=place, kind=kinds[index],
                        distorted=place in example.distorted,
                    )
                )  # fmt: skip
            offset += n
        for image in example.images:
            run_tiles += [tile_of[image.key] + t for t in range(len(image.starts))]
            run_starts += [starts[image.node] + start for start in image.starts]
        first_node += len(example.nodes)
    return PackedBatch(
        input_ids=_int(ids),
        position_ids=_int(positions),
        node_ids=_int(node_ids),
        ancestry=torch.from_numpy(ancestry(parents)),
        trees=tuple(trees),
        predictors=_int(predictors),
        targets=_int(targets),
        weights=torch.from_numpy(np.concatenate(weights or [np.zeros(0)]).astype(np.float32)),
        response_ids=_int(response_ids),
        responses=tuple(responses),
        features=torch.cat(features) if features else None,
        tiles=_joined(tiles) if tiles else torch.zeros((0, 3, 1, 1), dtype=torch.uint8),
        run_tiles=torch.tensor(run_tiles, dtype=torch.int64),
        run_starts=torch.tensor(run_starts, dtype=torch.int64),
        pictures=tuple((image.key, len(image.starts)) for image in new),
        ids=tuple(f"{example.source}[{example.id}]" for example in examples),
        keys=tuple(example.key for example in examples),
    )


def _joined(tiles: Sequence[np.ndarray]) -> torch.Tensor:
    """Pictures' tiles one behind the other, (T, 3, P, P); in memory as (T, P, P, 3), which is how Pillow has pixels.

    A process that prepares steps writes them into shared memory at once, as PyTorch's own collate does: they need no copy on
    their way out, and no memory twice.
    """
    edge = tiles[0].shape[-1]
    shape = (sum(map(len, tiles)), edge, edge, 3)
    if get_worker_info() is None:
        pixels = torch.empty(shape, dtype=torch.uint8)
    else:
        storage = torch.UntypedStorage._new_shared(math.prod(shape))
        pixels = torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
    pixels = pixels.permute(0, 3, 1, 2)  # (T, 3, P, P)
    np.concatenate(tiles, out=pixels.numpy())
    return pixels


def _tree_sizes(example: Example) -> list[int]:
    """Tokens of each root with all below it; of the whole example when its trees do not lie one behind the other."""
    sizes: list[int] = []
    roots: list[int] = []
    for index, node in enumerate(example.nodes):
        roots.append(index if node.parent < 0 else roots[node.parent])
        if roots[-1] == index:
            sizes.append(0)
        elif roots[-1] != roots[-2]:
            return [example.num_tokens]
        sizes[-1] += len(node.ids)
    return sizes


def _distinct_pictures(examples: Sequence[Example]) -> tuple[list[PlacedImage], dict[str, int]]:
    """Each distinct picture once, those with features first, and where each one's tiles begin."""
    images = {image.key: image for example in examples for image in example.images}
    images |= {image.key: image for example in examples for image in example.images if image.features is not None}
    ordered = sorted(images.values(), key=lambda image: image.features is None)
    for image in ordered:
        content = image.tiles if image.features is None else image.features
        assert content is not None, "pictures are decoded before they are collated"
        assert len(content) == len(image.starts), f"{len(content)} tiles for {len(image.starts)} runs"
    firsts = accumulate((len(image.starts) for image in ordered), initial=0)
    return ordered, {image.key: first for image, first in zip(ordered, firsts)}


def ancestry(parents: Sequence[int]) -> np.ndarray:
    """(N, N) bool from each node's parent (-1 for a root; parents come first).

    >>> ancestry([-1, 0, 0]).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [1, 0, 1]])
    """
    table = np.eye(len(parents), dtype=bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            table[node] |= table[parent]
    return table


def _int(parts: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts or [np.zeros(0)]).astype(np.int64))
