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

NO_SPANS = "no corrected spans, so every token weighs the same"


def weigh(example: Example, section: DenseSection) -> Example:
    """The example with weights of 1 and gamma on its chosen and rejected answers' tokens, divided by N when normalised.

    By diff the n-th chosen answer is compared with the n-th rejected one (the last, when one kind has fewer). A chosen answer
    under a spoilt picture weighs as the same one under its own; the model's own words there were corrected nowhere.
    Where spans were asked for and there are none, the example says so in its changes, which are counted.
    """
    plain: dict[str, list[int]] = {"chosen": [], "rejected": []}  # kind -> nodes
    spoilt = [(node, kind) for number, (node, kind) in enumerate(example.responses) if number in example.distorted]
    for number, (node, kind) in enumerate(example.responses):
        if number not in example.distorted and kind in plain:
            plain[kind].append(node)
    answers = (*plain["chosen"], *plain["rejected"])
    marks = dict.fromkeys(answers) if section.corrected == "diff" else {n: example.nodes[n].corrected for n in answers}
    unmarked = section.corrected == "spans" and all(mark is None for mark in marks.values())
    marks |= {node: None for node, kind in example.responses if kind == "other"}  # on the same scale
    if section.corrected == "diff":
        marks |= _by_diff(example, plain["chosen"], plain["rejected"], section)
    for (node, kind), twin in zip(spoilt, plain["chosen"]):
        marks[node] = marks[twin] if kind == "chosen" else None
    nodes = (_weighted(node, marks[n], section) if n in marks else node for n, node in enumerate(example.nodes))
    return replace(example, nodes=tuple(nodes), changes=example.changes + ((NO_SPANS,) if unmarked else ()))


def _by_diff(example: Example, chosen: list[int], rejected: list[int], section: DenseSection) -> dict[int, np.ndarray]:
    """Which tokens differ, by node."""
    if not chosen or not rejected:
        return {}
    marks: dict[int, np.ndarray] = {}
    for number in range(max(len(chosen), len(rejected))):
        c, r = chosen[min(number, len(chosen) - 1)], rejected[min(number, len(rejected) - 1)]
        a, b = differing(example.nodes[c].ids, example.nodes[r].ids, section)
        marks.setdefault(c, a)
        marks.setdefault(r, b)
    return marks


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
