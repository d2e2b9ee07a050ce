"""An example with its loss mask: what the model reads, and what of it is learnt, as a person can check it.

prompt   context   <|im_start|>User:<fake_token_around_image><row_1_col_1>
         picture   [13 tiles, 832 tokens]
         context   <fake_token_around_image>What is it?<end_of_utterance> ... Assistant:
answer   learnt    A cat.<end_of_utterance>
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from PIL import Image

from smolforge.checking.looking import NOT_LEARNT, num_scored
from smolforge.data.render import Example, Node, PlacedImage, Renderer
from smolforge.records import ResponseKind
from smolforge.wording import how_many

Kind = Literal["context", "picture", "learnt", "rejected"]
MANY = 6  # pictures of a prompt up to which each is shown
ENDS = (3, 1)  # of more: so many first and last ones
THUMBNAIL = 320  # pixels
OPENING = 4000  # characters of a text that are shown


@dataclass(frozen=True)
class Run:
    """Tokens in a row that are treated alike."""

    kind: Kind
    text: str
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A node of the tree: the prompt, or one answer."""

    label: str  # prompt, or a kind of response
    runs: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An example for a person."""

    name: str
    modality: str
    tokens: int
    scored: int
    passages: tuple[Passage, ...]
    pictures: tuple[bytes, ...]  # JPEG, small
    more: int  # pictures that are not among them


def show(example: Example, renderer: Renderer, *, name: str, modality: str) -> Shown:
    """An example's passages and small copies of its pictures.

    Raises:
        MediaError: a picture is damaged.
    """
    kinds = {node: (number, kind) for number, (node, kind) in enumerate(example.responses)}
    passages = []
    for index, node in enumerate(example.nodes):
        number, kind = kinds.get(index, (-1, None))
        label: str = "prompt" if kind is None else "answer" if kind == "target" else kind
        label += " (spoilt picture)" if number in example.distorted else ""
        images = [image for image in example.images if image.node == index]
        passages.append(Passage(label=label, runs=tuple(_runs(node, images, renderer, kind))))
    distinct = list({image.picture.key: image.picture for image in example.images}.values())
    return Shown(
        name=name, modality=modality, tokens=example.num_tokens,
        scored=num_scored(example),
        passages=tuple(passages), pictures=tuple(_thumbnail(one.pixels()) for one in distinct[:MANY]),
        more=max(0, len(distinct) - MANY),
    )  # fmt: skip


def _runs(node: Node, images: list[PlacedImage], renderer: Renderer, kind: ResponseKind | None) -> Iterator[Run]:
    """A node's tokens in runs; a picture's tiles are one run with all marks between them."""
    at = 0
    for start, stop, text in _picture_runs(images, renderer.image_tokens):
        yield from _text_runs(node, at, start, renderer, kind)
        yield Run("picture", text, stop - start)
        at = stop
    yield from _text_runs(node, at, len(node.ids), renderer, kind)


def _picture_runs(images: list[PlacedImage], size: int) -> list[tuple[int, int, str]]:
    """(first token, token after the last, words) of each picture; of many the middle ones together."""
    spans = [(image.starts[0], image.starts[-1] + size, len(image.starts)) for image in images]
    if len(spans) > MANY:
        first, last = ENDS
        middle = spans[first:-last]
        tiles, length = sum(tiles for _, _, tiles in middle), middle[-1][1] - middle[0][0]
        words = f"[{len(middle)} more pictures, {how_many(tiles, 'tile')}, {length:,} tokens with the words between them]"
        folded = [(middle[0][0], middle[-1][1], words)]
        return [*(_named(*span, size) for span in spans[:first]), *folded, *(_named(*span, size) for span in spans[-last:])]
    return [_named(*span, size) for span in spans]


def _named(start: int, stop: int, tiles: int, size: int) -> tuple[int, int, str]:
    return start, stop, f"[{how_many(tiles, 'tile')}, {tiles * size:,} tokens]"


def _text_runs(node: Node, start: int, stop: int, renderer: Renderer, kind: ResponseKind | None) -> Iterator[Run]:
    learnt = node.weights[start:stop] != 0
    marked: Kind = "context" if kind in NOT_LEARNT else "rejected" if kind == "rejected" else "learnt"
    edges = [0, *(np.flatnonzero(np.diff(learnt)) + 1).tolist(), stop - start]
    for a, b in pairwise(edges):
        if a == b:
            continue
        text = renderer.tokenizer.decode(node.ids[start + a : start + b].tolist(), skip_special_tokens=False)
        half = OPENING // 2
        text = text if len(text) <= OPENING else f"{text[:half]} […] {text[-half:]}"
        yield Run(marked if learnt[a] else "context", text, b - a)


def _thumbnail(image: Image.Image) -> bytes:
    image = image.copy()  # one in memory is the source's own
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
