"""Captions of drawn scenes against what was drawn: exactness, recall and hallucination."""

from __future__ import annotations

from collections import Counter

from smolforge.data.sources.scenes import parse_caption


def scene_sums(caption: str, reference: str) -> tuple[dict[str, int], tuple[tuple[int, int, str], ...]]:
    """What one caption adds, and where its objects stand: [start, end) and "right" or "hallucinated".

    >>> scene_sums("a red circle at the top and a dog", "a red circle at the top")[1]
    ((0, 23, 'right'), (28, 33, 'hallucinated'))
    """
    missing = Counter(parse_caption(reference))
    sums = {
        "captions": 1, "exact": int(caption.strip() == reference.strip()), "right": 0, "hallucinated": 0, "named": 0,
        "there": missing.total(),
    }  # fmt: skip
    marks = []
    for (start, end), thing in zip(_pieces(caption), parse_caption(caption), strict=True):
        kind = "right" if missing[thing] > 0 else "hallucinated"
        missing[thing] -= 1
        sums[kind] += 1
        sums["named"] += 1
        marks.append((start, end, kind))
    return sums, tuple(marks)


def _pieces(caption: str) -> list[tuple[int, int]]:
    """Where the pieces of a caption stand that `parse_caption` reads as one object each."""
    at = len(caption) - len(caption.lstrip())
    places = []
    for piece in caption.strip().rstrip(".").split(" and "):
        bare = piece.strip()
        if bare:
            start = at + piece.index(bare)
            places.append((start, start + len(bare)))
        at += len(piece) + len(" and ")
    return places
