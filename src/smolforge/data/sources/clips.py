"""Drawn clips of one moving shape: what only the order of frames tells, for trying how videos are learnt.

Row:

    {"video": <Clip of eight frames>, "question": "Which way does the shape move?", "answer": "a red circle moves left"}

The shape goes once round: what leaves at one edge comes in at the other one, an eighth of the way each frame. So the clip to the
left and the clip to the right begin with the same frame and show the same eight frames in another order; neither a frame, not
even the first one, nor all of them without their order tell one from the other.

    left   0 7 6 5 4 3 2 1      right   0 1 2 3 4 5 6 7      (places, of which every clip along this line has all)

Every clip is a pure function of (seed, index). Clips of the two splits never coincide: a line belongs to the split that
its fingerprint says.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from smolforge.data.sources.scenes import COLOURS, SHAPES, SIZE, draw_shape
from smolforge.records import Message, Record, Response, Video, fingerprint

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
FRAMES = 8
STEP = SIZE // FRAMES  # pixels a frame
MARGIN = 14  # of the line from the edges beside it, so that a shape is whole there
QUESTION = "Which way does the shape move?"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One shape's way round, a film of `smolforge.records`.

    >>> clip(0, 0).answer, clip(0, 0).num_frames
    ('a purple diamond moves left', 8)
    """

    colour: str
    shape: str
    direction: str
    x: int  # centre in frame 0, pixels
    y: int
    radius: float
    grey: int  # of the background

    num_frames = FRAMES
    fps = 1.0
    size = (SIZE, SIZE)

    @property
    def key(self) -> str:
        return fingerprint("clip", self)

    @property
    def answer(self) -> str:
        return f"a {self.colour} {self.shape} moves {self.direction}"

    @property
    def line(self) -> tuple[str | int, ...]:
        """The same for all clips of a shape along one line that show the same places."""
        across, down = DIRECTIONS[self.direction]
        return self.colour, self.shape, abs(across), self.x % STEP if across else self.x, self.y % STEP if down else self.y

    def frame(self, number: int) -> Image.Image:
        """96 x 96 RGB."""
        across, down = DIRECTIONS[self.direction]
        x, y = (self.x + across * STEP * number) % SIZE, (self.y + down * STEP * number) % SIZE
        image = Image.new("RGB", (SIZE * 2, SIZE * 2), (self.grey,) * 3)  # drawn at twice the size, for soft edges
        pen = ImageDraw.Draw(image)
        for turn in (-1, 0, 1):  # what leaves comes in at the other edge
            place = (2 * (x + turn * abs(across) * SIZE), 2 * (y + turn * abs(down) * SIZE))
            draw_shape(pen, self.shape, *place, 2 * self.radius, COLOURS[self.colour])
        return image.resize((SIZE, SIZE), Image.Resampling.BOX)


def clip(seed: int, index: int, split: str = "train") -> Clip:
    """Clip number `index` of a split. Of any four that follow each other each goes another way."""
    direction = list(DIRECTIONS)[index % len(DIRECTIONS)]
    for attempt in count():
        rng = np.random.default_rng([seed, index, attempt, split == "train"])
        along, beside = int(rng.integers(SIZE)), int(rng.integers(MARGIN, SIZE - MARGIN))
        x, y = (along, beside) if DIRECTIONS[direction][0] else (beside, along)
        one = Clip(
            colour=str(rng.choice(list(COLOURS))),
            shape=str(rng.choice(SHAPES)),
            direction=direction,
            x=x,
            y=y,
            radius=float(rng.uniform(8.5, 11.5)),
            grey=int(rng.integers(225, 256)),
        )
        held_out = int(fingerprint(one.line), 16) % 10 == 0
        if held_out == (split != "train"):
            return one
    raise AssertionError("unreachable")


class ClipTable:
    """Rows of a split, drawn on demand."""

    def __init__(self, *, rows: int = 100_000, seed: int = 0, split: str = "train") -> None:
        self.rows, self.seed, self.split = rows, seed, split

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        one = clip(self.seed, index, self.split)
        return {"video": one, "question": QUESTION, "answer": one.answer}


def record(row: dict[str, Any], *, id: str, source: str, prompt: str | None) -> Record:
    """Row -> Record."""
    user = Message(role="user", content=(Video(ref=row["video"]), prompt or row["question"]))
    return Record(id=id, source=source, messages=(user,), responses=(Response(text=row["answer"]),))
