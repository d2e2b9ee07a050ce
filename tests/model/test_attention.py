"""The tree mask by its definition, and each kind of attention against dense attention under that mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn import functional as F

from smolforge.data.batch import PackedBatch, collate
from smolforge.data.render import Example, Node
from smolforge.model import attention
from smolforge.model.attention import (
    Attend,
    Prefix,
    behind,
    block_attention,
    flex_attention,
    tree_attention,
    tree_blocks,
    tree_mask,
)

HEADS, GROUPS, WIDTH = 4, 2, 8

# a tree is a list of nodes (parent, tokens); a row is a list of trees
Tree = list[tuple[int, int]]
NODES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 7)), min_size=1, max_size=5)
TREES = NODES.map(lambda nodes: [(pick % (number + 1) - 1, size) for number, (pick, size) in enumerate(nodes)])
ROWS = st.lists(TREES, min_size=1, max_size=5)
PAIR: Tree = [(-1, 6), (0, 3), (0, 4)]


def row(trees: list[Tree]) -> PackedBatch:
    examples = [
        Example(
            id=str(number),
            source="hand",
            nodes=tuple(Node(parent=p, ids=np.arange(n), weights=np.zeros(n, np.float32)) for p, n in tree),
            responses=(),
        )
        for number, tree in enumerate(trees)
    ]
    return collate(examples)


def heads(length: int) -> tuple[torch.Tensor, ...]:
    """Queries, keys, values and the gradient that comes back."""
    generator = torch.Generator().manual_seed(length)
    shapes = [(length, HEADS, WIDTH), (length, GROUPS, WIDTH), (length, GROUPS, WIDTH), (length, HEADS, WIDTH)]
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def dense(batch: PackedBatch) -> Attend:
    seen = tree_mask(batch.node_ids, batch.ancestry)  # (L, L)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, prefix: Prefix | None = None) -> torch.Tensor:
        mask = seen
        if prefix is not None:  # every row sees every virtual token
            k, v = torch.cat([prefix[0], k]), torch.cat([prefix[1], v])
            mask = torch.cat([torch.ones(len(q), len(prefix[0]), dtype=torch.bool), mask], 1)  # (L, n + L)
        q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True).transpose(0, 1)

    return attend


def run(attend: Attend, batch: PackedBatch) -> list[torch.Tensor]:
    """Output and the gradients of queries, keys and values."""
    *inputs, back = heads(batch.num_tokens)
    inputs = [x.requires_grad_() for x in inputs]
    out = attend(*inputs, 0.3)
    out.backward(back)
    return [out.detach(), *(x.grad for x in inputs)]


def check(attend: Attend, batch: PackedBatch) -> None:
    """Absolute 1e-5 on values of order 1: float32 sums in another order (worst seen over 1,500 random rows: 2.4e-6)."""
    for got, expected in zip(run(attend, batch), run(dense(batch), batch), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@given(trees=ROWS)
def test_mask_by_definition(trees: list[Tree]) -> None:
    """q attends k when k <= q in the row and node(k) is node(q) or one of its ancestors."""
    parents, nodes, first = [], [], 0
    for tree in trees:
        for number, (parent, size) in enumerate(tree):
            parents.append(first + parent if parent >= 0 else -1)
            nodes += [first + number] * size
        first += len(tree)

    def line(node: int) -> set[int]:
        return {node} | (line(parents[node]) if parents[node] >= 0 else set())

    expected = [[k <= q and nodes[k] in line(nodes[q]) for k in range(len(nodes))] for q in range(len(nodes))]
    batch = row(trees)
    assert tree_mask(batch.node_ids, batch.ancestry).tolist() == expected


@pytest.mark.parametrize("kernel", ["matrix products", "SDPA"])
def test_blocks_equal_dense(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of whole trees give what one dense mask over the row gives, forward and backward, in both kernels."""
    monkeypatch.setattr(attention, "SHORT", 1024 if kernel == "matrix products" else 0)

    @given(trees=ROWS)
    @example(trees=[PAIR])
    @example(trees=[PAIR, PAIR, PAIR])
    @example(trees=[[(-1, 1)], [(-1, 40), (0, 5)], PAIR])
    def holds(trees: list[Tree]) -> None:
        batch = row(trees)
        check(block_attention(batch), batch)

    holds()


def test_short_and_long_blocks_in_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tree above the limit takes SDPA, its neighbours matrix products."""
    monkeypatch.setattr(attention, "SHORT", 13)
    batch = row([PAIR, [(-1, 30), (0, 4)], PAIR, [(-1, 2)]])
    assert {len(block.index[0]) > 13 for block in tree_blocks(batch)[0]} == {True, False}
    check(block_attention(batch), batch)


@given(trees=ROWS)
def test_blocks_hold_every_token_once(trees: list[Tree]) -> None:
    """A block's trees are of similar length, and `inverse` finds each row token where it stands unpadded."""
    batch = row(trees)
    blocks, inverse = tree_blocks(batch)
    assert torch.cat([block.index.flatten() for block in blocks])[inverse].tolist() == list(range(batch.num_tokens))
    for block in blocks:
        lengths = [len(set(tokens)) for tokens in block.index.tolist()]
        assert min(lengths) >= attention.SIMILAR * max(lengths)
        assert block.mask.any(-1).all()  # a query without a key would be NaN


def test_multi_head_without_groups() -> None:
    """As many key-value heads as heads (the 2.2B); tolerance as in `check`."""
    batch = row([PAIR, PAIR])
    q, _, _, k = heads(batch.num_tokens)  # the gradient has the queries' shape
    v = k.flip(0)
    torch.testing.assert_close(block_attention(batch)(q, k, v, 0.3), dense(batch)(q, k, v, 0.3), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("trees", [[PAIR], [PAIR, [(-1, 1)], PAIR], [[(-1, 150), (0, 20), (0, 30), (1, 9)], PAIR]])
def test_flex_equals_dense(trees: list[Tree]) -> None:
    """What runs on CUDA, uncompiled and forward only, which is what it can do on a CPU; tolerance as in `check`."""
    batch = row(trees)
    q, k, v, _ = heads(batch.num_tokens)
    with torch.no_grad():
        out = flex_attention(batch, compiled=False)(q, k, v, 0.3)
        torch.testing.assert_close(out, dense(batch)(q, k, v, 0.3), rtol=0, atol=1e-5)


def test_neighbours_change_nothing() -> None:
    """A tree's output is the same whoever shares its row; 1e-6 for other shapes of the matrix products."""
    alone, packed = row([PAIR]), row([PAIR, [(-1, 3)], [(-1, 60)]])
    q, k, v, _ = heads(packed.num_tokens)
    n = alone.num_tokens
    torch.testing.assert_close(
        tree_attention(packed)(q, k, v, 0.3)[:n], tree_attention(alone)(q[:n], k[:n], v[:n], 0.3), rtol=0, atol=1e-6
    )


# --- virtual tokens ---------------------------------------------------------------------------------------------------


def with_prefix(attend: Attend, batch: PackedBatch, ahead: int) -> list[torch.Tensor]:
    """Output and the gradients of queries, keys, values, and the prefix's keys and values."""
    *inputs, back = heads(batch.num_tokens)
    inputs = [x.requires_grad_() for x in (*inputs, *heads(1000 + ahead)[1:3])]
    inputs[3:] = [x[:ahead].detach().requires_grad_() for x in inputs[3:]]
    out = attend(*inputs[:3], 0.3, (inputs[3], inputs[4]))
    out.backward(back)
    return [out.detach(), *(x.grad for x in inputs)]


@pytest.mark.parametrize("kernel", ["matrix products", "SDPA"])
def test_a_prefix_is_seen_by_every_token(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tolerance as in `check`."""
    monkeypatch.setattr(attention, "SHORT", 1024 if kernel == "matrix products" else 0)

    @given(trees=ROWS, ahead=st.integers(1, 6))
    @example(trees=[PAIR], ahead=3)
    @example(trees=[PAIR, [(-1, 3)], PAIR], ahead=1)
    def holds(trees: list[Tree], ahead: int) -> None:
        batch = row(trees)
        results = (with_prefix(attend, batch, ahead) for attend in (block_attention(batch), dense(batch)))
        for got, expected in zip(*results, strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)

    holds()


@given(trees=ROWS, ahead=st.integers(1, 6))
def test_virtual_rows_see_themselves_only(trees: list[Tree], ahead: int) -> None:
    """As one tree whose root they are: literally that tree, under the mask by definition."""
    batch, length = row(trees), sum(n for tree in trees for _, n in tree)
    q, k, v, _ = heads(ahead + length)
    got = behind(block_attention(batch), ahead)(q, k, v, 0.3, None)
    seen = torch.zeros(ahead + length, ahead + length, dtype=torch.bool)
    seen[ahead:, :ahead] = True
    seen[:ahead, :ahead] = torch.ones(ahead, ahead, dtype=torch.bool).tril()
    seen[ahead:, ahead:] = tree_mask(batch.node_ids, batch.ancestry)
    expected = F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in (q, k, v)), attn_mask=seen, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(got, expected.transpose(0, 1), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("ahead", [1, 5, 130])
def test_flex_with_a_prefix_equals_dense(ahead: int) -> None:
    batch = row([PAIR, [(-1, 150), (0, 20), (0, 30), (1, 9)]])
    q, k, v, _ = heads(batch.num_tokens)
    prefix = (heads(ahead)[1], heads(ahead)[2])
    with torch.no_grad():
        attend = flex_attention(batch, compiled=False)
        for given_ in (prefix, None, prefix):  # one layer with, one without: each its own mask
            torch.testing.assert_close(attend(q, k, v, 0.3, given_), dense(batch)(q, k, v, 0.3, given_), rtol=0, atol=1e-5)
