"""Which instruction a row without one gets: a fixed one, one drawn from a list, or a curriculum by step.

Seed of the draw and place in the mixed stream decide, so that a continuation asks the same, and another epoch may ask otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Prompt = str | Sequence[str] | Mapping[int, str | Sequence[str]] | None


def choose_prompt(prompt: Prompt, *, seed: int, index: int, step: int) -> str | None:
    """The instruction at a place of the stream.

    Args:
        prompt: as `DataSection.prompt`; a mapping holds from each of its steps on.
        index: place in the mixed stream.
        step: optimiser step (from 0) that the place belongs to.

    >>> choose_prompt({0: "Name the main objects.", 100: "Describe the scene."}, seed=0, index=6400, step=100)
    'Describe the scene.'
    >>> {choose_prompt(["a", "b"], seed=0, index=index, step=0) for index in range(20)} == {"a", "b"}
    True
    """
    if isinstance(prompt, Mapping):
        begun = [first for first in prompt if first <= step]
        prompt = prompt[max(begun)] if begun else None
    if prompt is None or isinstance(prompt, str):
        return prompt
    return prompt[int(np.random.default_rng([seed, 4, index]).integers(len(prompt)))]


def varies(prompt: Prompt) -> bool:
    """Whether the same row may be asked differently when it comes up again.

    >>> varies("Describe."), varies(["Describe."]), varies(["Describe.", "What is this?"]), varies({0: "a", 5: "b"})
    (False, False, True, True)
    """
    if isinstance(prompt, Mapping):
        return len(prompt) > 1 or any(varies(one) for one in prompt.values())
    return prompt is not None and not isinstance(prompt, str) and len(prompt) > 1


def first_prompt(prompt: Prompt) -> str | None:
    """The one that stands for all of them, where a row is looked at outside of a run."""
    if isinstance(prompt, Mapping):
        prompt = prompt[min(prompt)] if prompt else None
    return prompt if prompt is None or isinstance(prompt, str) else prompt[0]
