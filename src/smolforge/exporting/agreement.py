"""Whether another program's model says what smolforge's does: the look that every export ends with.

A text and, where the model sees, a picture are asked. smolforge answers greedily in float32, one full forward pass a token and no
cache; the other program goes on from its cache. The log-probs of every token of the vocabulary are compared after the prompt and
after each token of the answer.

Legend: L prompt tokens, N answer tokens, M places shown, V vocabulary, T tiles, P tile edge, D width, S image tokens a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from smolforge.data.batch import collate
from smolforge.data.media import ImageSpec, Picture
from smolforge.data.pipeline import prepare
from smolforge.data.render import Example, Node, PlacedImage, Renderer
from smolforge.data.sources.scenes import scene
from smolforge.errors import ModelError
from smolforge.generation import stop_ids
from smolforge.model.attention import tree_attention
from smolforge.model.tree import TreeModel
from smolforge.records import Media, Message, Part, Record

TEXT = "What is the capital of France?"
PICTURE = "Describe the picture."
STEPS = 12  # answer tokens that are compared
# Nats of any log-prob beyond what the weights' own rounding costs: sums in another order.
TOLERANCE = 1e-3
# How often the weights' own rounding they may be away, because programs round on the way, too. Worst seen: 2.6 of MLX in 8 bits
# (SmolLM2-135M, 4.09 against 1.55 nats; a toy 1.6), whose quantised products on a CPU are 3 to 4 % off at widths of 576 and
# 1,536, where bfloat16's plain ones are 0.2 % off; 1.6 of llama.cpp in q8_0 (1.13 against 0.71), which rounds activations to 8
# bits. All other dtypes of all programs: up to 1.2.
ROUNDING = 3

FLOOR = -85.0  # nats; below it some programs' float32 probabilities are zero

Ask = Callable[["Question", np.ndarray], "Said"]  # (question, smolforge's answer (N,)) -> what the program says
Keep = Callable[[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt as both programs get it."""

    name: str
    text: str  # of the user's turn
    ids: np.ndarray  # (L,) int64, a picture's placeholders included
    image: Image.Image | None = None  # as it is before any program prepares it
    tiles: np.ndarray | None = None  # (T, 3, P, P) uint8

    def pixels(self, spec: ImageSpec | None) -> np.ndarray | None:
        """The tiles as a vision tower takes them, (T, 3, P, P) float32; None where there are none, or the model does not see."""
        if self.tiles is None or spec is None:
            return None
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (spec.mean, spec.std))
        return (self.tiles.astype(np.float32) / 255 - mean) / std


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What smolforge says to a question."""

    answer: np.ndarray  # (N,) int64, greedy
    log_probs: np.ndarray  # (N + 1, V) float32: after the prompt, and after each token of the answer


@dataclass(frozen=True, kw_only=True)
class Said:
    """What another program says to a question. Place k is after the prompt and the first k tokens of smolforge's answer."""

    tokens: np.ndarray  # (n,) int64: the likeliest of places 0, 1, .., as far as they lie on smolforge's answer
    places: np.ndarray  # (M,) int64: those whose log-probs it shows
    log_probs: np.ndarray  # (M, V) float32


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far another program is from smolforge in float32."""

    prompts: tuple[str, ...]  # what was looked at
    difference: float  # largest of any token's log-prob at any place, in nats
    own: float  # the same for smolforge itself with weights of that dtype: what the dtype costs anyway
    greedy: bool  # the likeliest token is the same one wherever the answer goes on

    @property
    def holds(self) -> bool:
        """Within what the dtype costs anyway, times `ROUNDING`; a NaN is no agreement."""
        return self.difference <= TOLERANCE + ROUNDING * self.own


def questions(renderer: Renderer) -> tuple[Question, ...]:
    """A text and, where the model sees, a picture.

    The picture is as wide as the checkpoint makes pictures and one tile high, so that no program has to resize it: nothing is
    compared but the models and, for the whole view beside the tiles, one resampling.
    """
    asked = [ask(renderer, "a text", TEXT)]
    if renderer.images is not None:
        size = (renderer.images.longest_edge if renderer.images.split else renderer.images.tile, renderer.images.tile)
        asked.append(ask(renderer, "a picture", PICTURE, scene(0, 0).draw().resize(size, Image.Resampling.BICUBIC)))
    return tuple(asked)


def ask(renderer: Renderer, name: str, text: str, image: Image.Image | None = None) -> Question:
    """A question of one user's turn."""
    content: tuple[Part, ...] = (text,) if image is None else (Media(ref=image), text)
    record = Record(id=name, source="export", messages=(Message(role="user", content=content),), responses=())
    example = prepare(record, renderer)
    tiles = example.images[0].tiles if example.images else None
    return Question(name=name, text=text, ids=example.nodes[0].ids, image=image, tiles=tiles)


@torch.no_grad()
def expect(model: TreeModel, renderer: Renderer, question: Question, answer: np.ndarray | None = None) -> Expected:
    """smolforge's own log-probs.

    Args:
        answer: what follows the prompt; smolforge's greedy answer, up to its closing token, when left out.
    """
    images: tuple[PlacedImage, ...] = ()
    if question.tiles is not None and question.image is not None and renderer.images is not None:
        starts = np.flatnonzero(question.ids == renderer.image_id)[:: renderer.image_tokens]
        if len(starts) != len(question.tiles):
            raise ModelError(f"{len(question.tiles)} tiles for {len(starts)} runs of placeholders", where=question.name)
        width, height = question.image.size
        picture = Picture(key=question.name, width=width, height=height, pixels=question.image.copy)
        place = PlacedImage(picture=picture, spec=renderer.images, node=0, starts=tuple(starts.tolist()), tiles=question.tiles)
        features = model.image_features(collate([_example(question.ids, (place,))]))  # (T, S, D), once
        images = (replace(place, tiles=None, features=features),)
    stops, given = stop_ids(renderer), answer is not None
    ids = question.ids if answer is None else np.concatenate([question.ids, answer])
    while True:
        row = collate([_example(ids, images)])
        hidden = model.decode(model.embed(row), row.position_ids, [tree_attention(row)] * len(model.decoder.layers))  # (L + n, D)
        log_probs = model.head(hidden[len(question.ids) - 1 :]).float().log_softmax(-1)  # (n + 1, V)
        if given or len(log_probs) > STEPS or (len(log_probs) > 1 and ids[-1] in stops):
            return Expected(answer=ids[len(question.ids) :], log_probs=log_probs.numpy())
        ids = np.append(ids, int(log_probs[-1].argmax()))


def _example(ids: np.ndarray, images: tuple[PlacedImage, ...]) -> Example:
    node = Node(parent=-1, ids=ids, weights=np.zeros(len(ids), np.float32))
    return Example(id="asked", source="export", nodes=(node,), responses=(), images=images)


def rounded(model: TreeModel, *, dtype: torch.dtype | None = None, keep: Keep | None = None) -> TreeModel:
    """A copy of a float32 model with weights as a file keeps them.

    Args:
        dtype: that weights are kept and computed in.
        keep: what a quantised file leaves of a matrix (out, in), by its name.
    """
    copy = deepcopy(model)
    for name, parameter in copy.named_parameters():  # buffers, the rotary frequencies among them, stay as every program has them
        if keep is not None and parameter.ndim == 2:
            parameter.data = keep(name, parameter.data)
        if dtype is not None:
            parameter.data = parameter.data.to(dtype)
    return copy


def agree(
    runtime: Ask,
    asked: tuple[Question, ...],
    expected: dict[str, Expected],
    renderer: Renderer,
    same: TreeModel | None,
) -> Agreement:
    """Compare a program with what smolforge said.

    Args:
        expected: smolforge's answers in float32, by the questions' names.
        same: smolforge's model with the weights rounded as the exported ones are; None when they are float32.
    """
    difference, own, greedy = 0.0, 0.0, True
    for question in asked:
        ours = expected[question.name]
        said = runtime(question, ours.answer)
        if said.log_probs.shape[1:] != ours.log_probs.shape[1:]:
            what = f"{said.log_probs.shape[1]} tokens in its vocabulary for {ours.log_probs.shape[1]} of smolforge's"
            raise ModelError(what, where=question.name)
        if not len(said.places):  # nothing to compare: it left smolforge's answer at once
            difference, greedy = float("inf"), False
            continue
        difference = _larger(difference, said.log_probs, ours.log_probs[said.places])
        greedy &= said.tokens[: len(ours.answer)].tolist() == ours.answer.tolist()
        if same is not None:
            again = expect(same, renderer, question, ours.answer).log_probs
            own = _larger(own, again[said.places], ours.log_probs[said.places])
    return Agreement(prompts=tuple(q.name for q in asked), difference=difference, own=own, greedy=greedy)


def _larger(so_far: float, one: np.ndarray, other: np.ndarray) -> float:
    """NaN wins: it is no agreement."""
    return float(np.maximum(so_far, np.abs(np.maximum(one, FLOOR) - np.maximum(other, FLOOR)).max()))
