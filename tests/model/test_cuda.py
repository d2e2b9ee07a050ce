"""What only a GPU can show; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from smolforge.data.batch import collate
from smolforge.data.render import Example, Node
from smolforge.model.attention import block_attention, flex_attention

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def row(lengths: list[int]):
    def node(parent: int, n: int) -> Node:
        return Node(parent=parent, ids=np.arange(n), weights=np.ones(n, np.float32))

    nodes = (node(-1, lengths[0]), *(node(0, n) for n in lengths[1:]))
    return collate(
        [Example(id="0", source="t", nodes=nodes, responses=()), Example(id="1", source="t", nodes=nodes, responses=())]
    )


@pytest.mark.parametrize("lengths", [[5], [100, 30, 31], [700, 1, 129]])
def test_flex_attention_equals_blocks_forward_and_backward(lengths):
    """float32; L is no multiple of the block size; tolerance: another order of additions in the fused kernel."""
    batch = row(lengths).to(torch.device("cuda"))
    torch.manual_seed(0)
    inputs = [torch.randn(batch.num_tokens, heads, 64, device="cuda", requires_grad=True) for heads in (9, 3, 3)]
    results = []
    for attend in (flex_attention(batch), block_attention(batch)):
        out = attend(*inputs, 0.125)
        results.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)
