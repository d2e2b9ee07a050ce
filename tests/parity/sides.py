"""Rows to compare on, and the plain side: Hugging Face's forward, each response run alone. Not in conftest.py: it is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from smolforge.data.media import tile_pixels
from smolforge.data.render import Example, Node, Renderer
from smolforge.data.sources.scenes import scene
from smolforge.records import Media, Message, Record, Response

# --- examples --------------------------------------------------------------------------------------------------------


def picture(index: int, size: tuple[int, int] | None = None) -> Image.Image:
    image = scene(1, index).draw()
    return image if size is None else image.resize(size)


def user(*parts: str | Image.Image) -> Message:
    return Message(role="user", content=tuple(part if isinstance(part, str) else Media(ref=part) for part in parts))


def said(text: str, *, train: bool = True) -> Message:
    return Message(role="assistant", content=(text,), train=train)


def record(*messages: Message, answers: Sequence[str] = ()) -> Record:
    return Record(id="1", source="test", messages=messages, responses=tuple(Response(text=text) for text in answers))


def example(renderer: Renderer, what: Record) -> Example:
    """Rendered, its pictures decoded, and with weights that differ from token to token."""
    made = renderer.render(what)
    images = tuple(replace(i, tiles=tile_pixels(i.picture.pixels(), i.spec)) for i in made.images)
    rng = np.random.default_rng(made.num_tokens)
    nodes = tuple(
        replace(node, weights=node.weights * rng.uniform(0.5, 1.5, len(node.ids)).astype(np.float32)) for node in made.nodes
    )
    return replace(made, nodes=nodes, images=images)


def captions(count: int) -> list[str]:
    return [scene(2, index).caption for index in range(count)]


TEXT_ROWS: dict[str, tuple[Record, ...]] = {
    "one answer": (record(user("What is it?"), answers=["A red circle."]),),
    "five answers": (record(user("Describe it."), answers=captions(5)),),
    "several trees": (
        record(user("Which?"), answers=["A star.", "A square at the left."]),
        record(user("Where is the yellow diamond and what stands beside it?"), answers=captions(2)),
        record(user("Hi."), said("Hello."), user("Where?"), answers=["At the top."]),
    ),
    "chain of turns": (
        record(
            user("First?"), said("One."), user("Second?"), said("Two.", train=False), user("Third?"), said("Three."),
            user("Fourth?"), answers=["Four.", "Vier."],
        ),
    ),
    "no messages": (record(answers=["A red circle.", "A blue star."]),),
    "empty prompt": (record(user(""), answers=["A red circle."]), record(user("Hi."), answers=["Hello."])),
}  # fmt: skip

PICTURE_ROWS: dict[str, tuple[Record, ...]] = {
    "five captions": (record(user(picture(0), "Describe the picture."), answers=captions(5)),),
    "several pictures": (
        record(user("Compare ", picture(1), " with ", picture(2, (200, 90)), " please."), answers=captions(2)),
    ),
    "pictures and text": (
        record(user(picture(3), "Describe the picture."), answers=captions(3)),
        record(user("What is a circle?"), answers=["Round.", "Not a square."]),
        record(user(picture(4, (60, 300)), "What is it?"), said("A star."), user("And this?", picture(5)), said("Two."),
               user("Sure?"), answers=["Yes.", "No."]),
    ),
    "shared picture": (
        record(user(picture(6), "What?"), answers=captions(2)),
        record(user(picture(6), "Where?"), answers=captions(1)),
        record(user(picture(6), picture(6)), answers=captions(1)),
    ),
}  # fmt: skip


def levels(renderer: Renderer) -> Example:
    """A prefix of several levels: two questions on one picture, each with two answers, one of them answered further.

    node 0 picture - 1 question - 2, 3 answers
                   - 4 question - 5 answer - 6 question - 7 answer
    and beside them 8, a response without a parent.
    """
    made = example(renderer, record(user(picture(7), "Look.")))

    def text(parent: int, content: str, weight: float) -> Node:
        ids = np.array(renderer.encode(content), np.int64)
        return Node(parent=parent, ids=ids, weights=np.full(len(ids), weight, np.float32))

    nodes = (
        *made.nodes, text(0, " Where?", 0), text(1, " At the top.", 1), text(1, " At the left.", 0.5),
        text(0, " Which colour, and why?", 0), text(4, " Red.", 2), text(5, " Sure?", 0), text(6, " Yes.", 1),
        text(-1, "a blue square in the middle", 1),
    )  # fmt: skip
    assert len(made.nodes) == 1
    return replace(made, nodes=nodes, responses=tuple((n, "target") for n in (2, 3, 5, 7, 8)))


# --- the two sides ---------------------------------------------------------------------------------------------------


def plain(model: Any, examples: Sequence[Example], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Log-probs of the scored tokens by Hugging Face's forward, one sequence a response, in the batch's order, (K,)."""
    parts = []
    for one in examples:
        for node, _ in sorted(one.responses):
            chain = [node]
            while one.nodes[chain[0]].parent >= 0:
                chain.insert(0, one.nodes[chain[0]].parent)
            ids = torch.from_numpy(np.concatenate([one.nodes[n].ids for n in chain]))
            tiles = [image.tiles for n in chain for image in one.images if image.node == n]
            inputs = {"input_ids": ids[None]}
            if tiles:
                pixels = (torch.from_numpy(np.concatenate(tiles)).float() / 255 - 0.5) / 0.5
                inputs["pixel_values"] = pixels[None].to(dtype)  # (1, T, 3, P, P)
            logits = model(**inputs).logits[0].float()  # (L, V)
            first = len(ids) - len(one.nodes[node].ids)
            places = torch.arange(max(first, 1), len(ids))
            parts.append(logits[places - 1].log_softmax(-1).gather(1, ids[places, None])[:, 0])
    return torch.cat(parts)


def gradients(model: Any, log_probs: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the weighted sum; parameters that took no part have none."""
    model.zero_grad(set_to_none=True)
    (log_probs * weights).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference, relative to the expected norm."""
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()
