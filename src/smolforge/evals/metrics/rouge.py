"""ROUGE-L of a caption (Lin 2004, ACL W04-1013, section 3), as the COCO caption evaluation computes it."""

from __future__ import annotations

from collections.abc import Sequence

from smolforge.evals.metrics.ptb import Tokens

BETA = 1.2  # by how much recall matters more than precision


def rouge_l(candidate: Tokens, references: Sequence[Tokens]) -> float:
    """F of precision P and recall R of the longest common subsequence, eq. 4, from 0 to 1. P and R are the best of any reference:

    (1 + beta^2) R P / (R + beta^2 P)

    Three of four words are common, and the reference has three: P = 0.75, R = 1.

    >>> round(rouge_l(["a", "big", "red", "cat"], [["a", "red", "cat"]]), 4)
    0.8798
    """
    said = _words(candidate)
    precision = recall = 0.0
    for reference in references:
        given = _words(reference)
        common = common_length(said, given)
        precision, recall = max(precision, common / len(said)), max(recall, common / len(given))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common_length(one: Tokens, other: Tokens) -> int:
    """Tokens of the longest sequence that stands in both in this order, gaps allowed."""
    row = [0] * (len(other) + 1)  # of the tokens of `one` so far and each beginning of `other`
    for token in one:
        before = 0
        for place, there in enumerate(other, start=1):
            above = row[place]
            row[place] = before + 1 if token == there else max(above, row[place - 1])
            before = above
    return row[-1]


def _words(tokens: Tokens) -> list[str]:
    """pycocoevalcap takes a caption without words for one empty word, so that nothing against nothing is 1."""
    return list(tokens) or [""]
