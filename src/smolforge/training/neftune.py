"""NEFTune: noise on the token embeddings of what is learnt from (Jain et al. 2023, arXiv 2310.05914, Algorithm 1).

    embedding + U(-1, 1) * alpha / sqrt(L D)        L tokens of the sequence, D width of the model

Like transformers' hook on the input embeddings (`neftune_noise_alpha`), it comes before pictures' features take the place of
their placeholders, so features have none. In a token tree each path from the root is a sequence, and L of a token is that of the
longest path that runs through it: an answer's is its own sequence's; a prompt that several answers share runs once, with one
noise. L counts placeholders, as the hook does; rows have no padding, which the hook would count.

    node     P P P P A A A B        P prompt, A and B answers: 4 + 3 and 4 + 1 tokens
    L        7 7 7 7 7 7 7 5

The noise is a tensor of the row and no matter of the model's mode: evaluation, references and generation have rows without it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from smolforge.data.batch import PackedBatch


def with_noise(row: PackedBatch, alpha: float, *, width: int, seed: int) -> PackedBatch:
    """The row with noise for its tokens, (L, D) float32, on the row's device.

    Drawn for each example by the seed and its place in the mixed stream, so by the step too: packing, processes and interruptions
    change nothing. On another kind of device it is another draw.

    Args:
        alpha: the paper's; it used 5, 10 and 15.
        width: of the model, D.
    """
    if not row.ids:  # a blank one, that a sharded step is filled up with
        return row
    device = row.input_ids.device
    noise = torch.empty(row.num_tokens, width, device=device)
    first = 0
    for place, tokens in row.places:
        drawn = int(np.random.SeedSequence([seed, 7, place]).generate_state(1, np.uint64)[0])
        noise[first : first + tokens].uniform_(-1, 1, generator=torch.Generator(device).manual_seed(drawn))
        first += tokens
    assert first == row.num_tokens, f"{first} tokens of places for a row of {row.num_tokens}"
    return replace(row, noise=noise * (alpha / (path_lengths(row) * width).sqrt())[:, None])


def path_lengths(row: PackedBatch) -> torch.Tensor:
    """Tokens of the longest path from a root that runs through each token, (L,)."""
    sizes = torch.bincount(row.node_ids, minlength=len(row.ancestry))  # (N,)
    paths = (row.ancestry * sizes).sum(1)  # (N,): from the root to the node's end
    longest = (row.ancestry * paths[:, None]).amax(0)  # (N,): over the nodes below it
    return longest[row.node_ids]
