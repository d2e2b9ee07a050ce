"""Drawn scenes of one to three coloured shapes, and their captions: the quickstart's world.

Row:

    {"image": <function that draws 96 x 96 pixels>, "caption": "a red circle at the top left and a blue square in the middle"}

As pairs (source scene_pairs), `rejected` is the caption with one thing wrong: a colour, a shape, a place, or an object that is
not there.

Every scene is a pure function of (seed, index). Scenes of the two splits never coincide: a layout belongs to the
split that its fingerprint says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from smolforge.records import Media, Message, Record, Response, fingerprint

COLOURS = {
    "red": (214, 40, 40), "green": (46, 160, 67), "blue": (40, 90, 220), "yellow": (245, 205, 30),
    "purple": (140, 60, 190), "pink": (245, 140, 190),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "diamond", "star")
PLACES = {
    "at the top left": (0, 0), "at the top": (1, 0), "at the top right": (2, 0),
    "at the left": (0, 1), "in the middle": (1, 1), "at the right": (2, 1),
    "at the bottom left": (0, 2), "at the bottom": (1, 2), "at the bottom right": (2, 2),
}  # fmt: skip
SIZE = 96
PROMPT = "Describe the picture."


@dataclass(frozen=True, order=True)
class Thing:
    """One object; objects are named in reading order, which `place` (index into PLACES) is."""

    place: int
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape} {list(PLACES)[self.place]}"


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    jitter: int  # seed of small shifts, sizes and the background

    @property
    def caption(self) -> str:
        """
        >>> Scene((Thing(0, "red", "circle"), Thing(4, "blue", "star")), 0).caption
        'a red circle at the top left and a blue star in the middle'
        """
        return " and ".join(str(thing) for thing in self.things)

    def draw(self) -> Image.Image:
        """96 x 96 RGB."""
        rng = np.random.default_rng(self.jitter)
        grey = int(rng.integers(225, 256))
        image = Image.new("RGB", (SIZE * 2, SIZE * 2), (grey, grey, grey))  # drawn at twice the size, for soft edges
        pen = ImageDraw.Draw(image)
        for thing in self.things:
            column, row = list(PLACES.values())[thing.place]
            cell = SIZE * 2 / 3
            x, y = (column + 0.5) * cell + rng.uniform(-4, 4), (row + 0.5) * cell + rng.uniform(-4, 4)
            draw_shape(pen, thing.shape, x, y, rng.uniform(17, 23), COLOURS[thing.colour])
        return image.resize((SIZE, SIZE), Image.Resampling.BOX)


def scene(seed: int, index: int, split: str = "train") -> Scene:
    """Scene number `index` of a split."""
    for attempt in count():
        rng = np.random.default_rng([seed, index, attempt, split == "train"])
        number = int(rng.integers(1, 4))
        places = sorted(rng.choice(len(PLACES), number, replace=False).tolist())
        things = tuple(Thing(p, str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))) for p in places)
        held_out = int(fingerprint(things), 16) % 10 == 0
        if held_out == (split != "train"):
            return Scene(things, int(rng.integers(2**31)))
    raise AssertionError("unreachable")


def false_caption(one: Scene, rng: np.random.Generator) -> str:
    """The scene's caption with one thing wrong: colour, shape or place of an object, or one that was invented.

    >>> false_caption(Scene((Thing(4, "blue", "star"),), 0), np.random.default_rng(1))
    'a blue triangle in the middle'
    """
    things, free = list(one.things), [p for p in range(len(PLACES)) if p not in {thing.place for thing in one.things}]
    kind = ("colour", "shape", "place", "invented")[int(rng.integers(4))]
    if kind == "invented":
        things.append(Thing(int(rng.choice(free)), str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))))
    else:
        number = int(rng.integers(len(things)))
        known: dict[str, list[Any]] = {"colour": list(COLOURS), "shape": list(SHAPES), "place": free}
        others = [value for value in known[kind] if value != getattr(things[number], kind)]
        things[number] = replace(things[number], **{kind: others[int(rng.integers(len(others)))]})
    return Scene(tuple(sorted(things)), 0).caption


def parse_caption(text: str) -> list[tuple[str, str, str]]:
    """(colour, shape, place) of each object a caption names; pieces that name none are kept as ("", "", piece).

    >>> parse_caption("a red circle at the top left and a big dog.")
    [('red', 'circle', 'at the top left'), ('', '', 'a big dog')]
    """
    named = []
    for piece in text.strip().rstrip(".").split(" and "):
        words = piece.split(" ", 3)
        whole = len(words) == 4 and words[0] == "a" and words[1] in COLOURS and words[2] in SHAPES and words[3] in PLACES
        named.append((words[1], words[2], words[3]) if whole else ("", "", piece.strip()))
    return [thing for thing in named if any(thing)]


class SceneTable:
    """Rows of a split, drawn on demand; with `pairs`, a false caption beside each true one."""

    def __init__(self, *, rows: int = 100_000, seed: int = 0, split: str = "train", pairs: bool = False) -> None:
        self.rows, self.seed, self.split, self.pairs = rows, seed, split, pairs

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        one = scene(self.seed, index, self.split)
        row = {"image": one.draw, "caption": one.caption}
        if self.pairs:
            row["rejected"] = false_caption(one, np.random.default_rng([self.seed, index, 2]))
        return row


def record(row: dict[str, Any], *, id: str, source: str, prompt: str | None) -> Record:
    """Row -> Record."""
    draw: Callable[[], Image.Image] = row["image"]
    user = Message(role="user", content=(Media(ref=draw), prompt or PROMPT))
    if "rejected" in row:
        answers = (Response(text=row["caption"], kind="chosen"), Response(text=row["rejected"], kind="rejected"))
        return Record(id=id, source=source, messages=(user,), responses=answers)
    return Record(id=id, source=source, messages=(user,), responses=(Response(text=row["caption"]),))


def draw_shape(pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, colour: tuple[int, int, int]) -> None:
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif shape == "square":
        pen.rectangle((x - r * 0.9, y - r * 0.9, x + r * 0.9, y + r * 0.9), fill=colour)
    else:
        corners = {"triangle": (3, 1.15, 1.15), "diamond": (4, 1.2, 1.2), "star": (10, 1.25, 0.5)}[shape]
        number, outer, inner = corners
        angles = np.arange(number) * 2 * np.pi / number - np.pi / 2
        radii = np.where(np.arange(number) % 2 == 0, outer, inner if shape == "star" else outer) * r
        pen.polygon([(x + a, y + b) for a, b in zip(radii * np.cos(angles), radii * np.sin(angles))], fill=colour)
