"""Captions of drawn scenes against what was drawn: exactness, recall and hallucination."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from smolforge.data.sources.scenes import parse_caption


@dataclass(frozen=True, kw_only=True)
class SceneScores:
    """Over all captions."""

    exact: float  # share of captions that are the reference, word for word
    recall: float  # objects of the scenes that were named, over all objects
    hallucination: float  # objects named that are not in the scene, over all objects named


def scene_scores(captions: Sequence[str], references: Sequence[str]) -> SceneScores:
    """Objects are compared whole: colour, shape and place. Naming an object twice counts once as right.

    >>> truth = "a red circle at the top and a blue star in the middle"
    >>> scene_scores(["a red circle at the top and a red star in the middle"], [truth])
    SceneScores(exact=0.0, recall=0.5, hallucination=0.5)
    """
    assert len(captions) == len(references), f"{len(captions)} captions for {len(references)} references"
    exact = right = named = there = 0
    for caption, reference in zip(captions, references):
        said, drawn = Counter(parse_caption(caption)), Counter(parse_caption(reference))
        exact += caption.strip() == reference.strip()
        right += (said & drawn).total()
        named += said.total()
        there += drawn.total()
    return SceneScores(
        exact=exact / max(1, len(captions)), recall=right / max(1, there), hallucination=(named - right) / max(1, named)
    )
