"""Dense weights (RLHF-V, Yu et al. 2023, arXiv 2312.00849, eq. 5): corrected segments of an answer weigh more.

    log pi(y | x) = (1 / N) [ sum over unchanged tokens of log p + gamma * sum over corrected tokens of log p ]
    N = |unchanged| + gamma |corrected|

The paper has gamma 5 and the 1/N; its released script gamma 1.1 and no 1/N. What was corrected is what differs between chosen
and rejected, or what the data's spans say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

import numpy as np

from smolforge.data.render import Example, Node
from smolforge.recipe import DenseSection


def weigh(example: Example, section: DenseSection) -> Example:
    """The example with weights of 1 and gamma on its chosen and rejected answers' tokens, divided by N when normalised.

    By diff the n-th chosen answer is compared with the n-th rejected one (the last, when one kind has fewer). Answers under
    spoilt pictures are compared as the others.
    """
    nodes = list(example.nodes)
    chosen, rejected = ([node for node, kind in example.responses if kind == wanted] for wanted in ("chosen", "rejected"))
    for ours, others, first in ((chosen, rejected, True), (rejected, chosen, False)):
        for number, index in enumerate(ours):
            node = nodes[index]
            corrected = node.corrected
            if section.corrected == "diff" and others:
                other = example.nodes[others[min(number, len(others) - 1)]]
                a, b = (node, other) if first else (other, node)
                corrected = differing(a.ids, b.ids, section)[0 if first else 1]
            nodes[index] = _weighted(node, corrected, section)
    return replace(example, nodes=tuple(nodes))


def _weighted(node: Node, corrected: np.ndarray | None, section: DenseSection) -> Node:
    marked = np.zeros(len(node.ids), bool) if corrected is None else corrected
    weights = np.where(marked, section.gamma, 1.0)
    if section.normalize:
        weights = weights / weights.sum()
    return replace(node, weights=weights.astype(np.float32))


def differing(
    a: Sequence[int] | np.ndarray, b: Sequence[int] | np.ndarray, section: DenseSection
) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens of each answer were changed, two bool arrays.

    Equal runs shorter than `min_match` count as changed. With `both_sides`, a run that only one answer has is not marked.

    >>> section = DenseSection(min_match=2)
    >>> a, b = differing([1, 2, 9, 3, 4], [1, 2, 7, 8, 3, 4, 5, 6], section)
    >>> a.astype(int), b.astype(int)
    (array([0, 0, 1, 0, 0]), array([0, 0, 1, 1, 0, 0, 0, 0]))
    """
    left, right = [int(token) for token in a], [int(token) for token in b]
    marks = np.zeros(len(left), bool), np.zeros(len(right), bool)
    blocks = SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
    kept = [block for block in blocks if block.size >= section.min_match]
    at = 0, 0
    for x, y, size in [*kept, (len(left), len(right), 0)]:
        both = x > at[0] and y > at[1]
        if both or not section.both_sides:
            marks[0][at[0] : x] = True
            marks[1][at[1] : y] = True
        at = x + size, y + size
    return marks
