r"""Prompts that begin alike become one tree: the picture and what stands before the questions runs once.

    <|im_start|>User:[picture]Is there a cat?<end_of_utterance>\nAssistant:        node 0  <|im_start|>User:[picture]Is there a
    <|im_start|>User:[picture]Is there a dog?<end_of_utterance>\nAssistant:   ->   node 1  (parent 0)   cat?<...>Assistant:
                                                                                   node 2  (parent 0)   dog?<...>Assistant:

Ids stay as they are, so every path from the root says exactly what its prompt said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from smolforge.data.render import Example, Node


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Prompts as one tree."""

    example: Example
    ends: tuple[int, ...]  # node that each prompt's answer goes on from, in their order


def share(prompts: Sequence[Example]) -> Shared:
    """One tree of a family of prompts. When a picture stands behind the place where they part, they are roots side by side."""
    assert prompts, "no prompts"
    common = _common_prefix([prompt.nodes[0].ids for prompt in prompts])
    starts = [start for prompt in prompts for image in prompt.images for start in image.starts]
    if len(prompts) == 1 or common == 0 or max(starts, default=0) >= common:
        return _side_by_side(prompts)
    first = prompts[0]
    context = np.zeros(common, np.float32)
    nodes = [Node(parent=-1, ids=first.nodes[0].ids[:common], weights=context)]
    ends, responses = [], []
    for prompt in prompts:
        assert _end(prompt) == 0, "a prompt of a family is a root and its options"
        own = replace(prompt.nodes[0], parent=0, ids=prompt.nodes[0].ids[common:], weights=prompt.nodes[0].weights[common:])
        ends.append(len(nodes))
        responses += [(len(nodes) + node, kind) for node, kind in prompt.responses]
        nodes += [own, *(replace(node, parent=node.parent + len(nodes)) for node in prompt.nodes[1:])]
    example = replace(first, nodes=tuple(nodes), responses=tuple(responses))
    return Shared(example=example, ends=tuple(ends))


def families(prompts: Sequence[Example]) -> list[list[int]]:
    """Numbers of the prompts that show the same pictures in the same places; the others stay alone."""
    groups: dict[object, list[int]] = {}
    for number, prompt in enumerate(prompts):
        pictures = tuple((image.key, image.starts) for image in prompt.images)
        groups.setdefault(pictures if pictures and _end(prompt) == 0 else number, []).append(number)
    return list(groups.values())


def _end(prompt: Example) -> int:
    """The node that an answer goes on from: the last that is not an option."""
    options = {node for node, kind in prompt.responses if kind == "option"}
    return max(node for node in range(len(prompt.nodes)) if node not in options)


def _common_prefix(ids: Sequence[np.ndarray]) -> int:
    """How many tokens all begin with, leaving each at least one of its own.

    >>> _common_prefix([np.array([1, 2, 3]), np.array([1, 2, 4, 5]), np.array([1, 2])])
    1
    """
    shortest = min(map(len, ids)) - 1
    same = np.ones(max(shortest, 0), bool)
    for other in ids[1:]:
        same &= ids[0][:shortest] == other[:shortest]
    return int(same.argmin()) if not same.all() else len(same)


def _side_by_side(prompts: Sequence[Example]) -> Shared:
    """The prompts as roots of one example."""
    nodes: list[Node] = []
    ends, responses, images = [], [], []
    for prompt in prompts:
        first = len(nodes)
        ends.append(first + _end(prompt))
        responses += [(first + node, kind) for node, kind in prompt.responses]
        images += [replace(image, node=image.node + first) for image in prompt.images]
        nodes += [replace(n, parent=n.parent + first if n.parent >= 0 else -1) for n in prompt.nodes]
    example = replace(prompts[0], nodes=tuple(nodes), responses=tuple(responses), images=tuple(images))
    return Shared(example=example, ends=tuple(ends))
