"""Noise on the embeddings against Hugging Face's forward, where a hook adds the same noise as its own NEFTune does."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sides import PICTURE_ROWS, TEXT_ROWS, error, example, gradients, plain
from transformers.integrations.neftune import neftune_post_forward_hook

from smolforge.data.batch import PackedBatch, collate
from smolforge.data.processor import load_renderer
from smolforge.data.render import Example
from smolforge.model.build import load_model
from smolforge.model.tree import TreeModel
from smolforge.training.neftune import with_noise

ALPHA = 50.0  # large, so that a wrong noise is seen
ROWS = {**{name: TEXT_ROWS[name] for name in ("several trees", "chain of turns")}, **PICTURE_ROWS}


def noisy(examples: Sequence[Example], *, width: int, alpha: float = ALPHA) -> PackedBatch:
    places = tuple((place, one.num_tokens) for place, one in enumerate(examples))
    return with_noise(replace(collate(examples), places=places), alpha, width=width, seed=3)


def of_paths(examples: Sequence[Example], row: PackedBatch) -> list[torch.Tensor]:
    """The row's noise along each response's path from the root, in the order in which `plain` runs them."""
    assert row.noise is not None
    found, first = [], 0
    for one in examples:
        for node, _ in sorted(one.responses):
            chain = [node]
            while one.nodes[chain[0]].parent >= 0:
                chain.insert(0, one.nodes[chain[0]].parent)
            found.append(torch.cat([row.noise[row.node_ids == first + n] for n in chain]))
        first += len(one.nodes)
    return found


@pytest.mark.parametrize("name", ROWS)
def test_equal_noise_gives_equal_log_probs_and_gradients(name: str, tiny: Path) -> None:
    """Worst seen: 1.6e-7 in log-probs, 2.3e-6 in gradients (float32, order of sums)."""
    model, renderer = load_model(tiny), load_renderer(tiny)
    examples = [example(renderer, what) for what in ROWS[name]]
    row = noisy(examples, width=model.config.text_config.hidden_size)
    paths = iter(of_paths(examples, row))
    fresh = copy.deepcopy(model)

    def add(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:  # as transformers', before pictures come in
        return output + next(paths)[None]

    fresh.get_input_embeddings().register_forward_hook(add)
    ours, theirs = TreeModel(model)(row), plain(fresh, examples)
    without = plain(model, examples)
    assert error(ours.detach(), theirs.detach()) < 1e-5
    assert error(ours.detach(), without.detach()) > 1e-3, "and the noise matters"
    got, expected = gradients(model, ours, row.weights), gradients(fresh, theirs, row.weights)
    assert got.keys() == expected.keys()
    for key in expected:
        if not key.endswith("self_attn.k_proj.bias"):  # zero in exact arithmetic
            assert error(got[key], expected[key]) < 1e-5, key


def test_as_large_as_in_transformers(tiny: Path) -> None:
    """Of a sequence that is alone, so unpadded, both are U(-b, b) with b = alpha / sqrt(L D): equal at the 1st, 10th, ... 99th
    percentile within 1 % of b, five standard deviations of the median of so many draws."""
    one = example(load_renderer(tiny), TEXT_ROWS["one answer"][0])
    width = 16384
    ours = noisy([one], width=width, alpha=5.0).noise
    module = torch.nn.Embedding(2, width)
    module.neftune_noise_alpha = 5.0
    torch.manual_seed(0)
    theirs = neftune_post_forward_hook(module.train(), None, torch.zeros(1, one.num_tokens, width))
    bound = 5.0 / (one.num_tokens * width) ** 0.5
    at = [1, 10, 25, 50, 75, 90, 99]
    assert np.percentile(ours, at) == pytest.approx(np.percentile(theirs, at), abs=0.01 * bound)
    assert 0.999 * bound < ours.abs().max() <= bound
