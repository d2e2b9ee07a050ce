"""The tree mask, and attention under it: query q attends key k when k <= q and node(k) is node(q) or an ancestor.

    index         0 1 2 3   4 5 6   7 8
    node          0 0 0 0   1 1 1   2 2         0 prompt, 1 and 2 its branches

A prefix is what every token of every tree may attend besides: keys and values of virtual tokens, which see no tree themselves.

Legend: L row tokens, N nodes, B trees in a block, M longest tree of a block, n virtual tokens, H heads, G key-value heads, E head
width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn import functional as F

from smolforge.data.batch import PackedBatch

Prefix = tuple[torch.Tensor, torch.Tensor]  # keys and values of virtual tokens, (n, G, E) each
# (queries (L, H, E), keys (L, G, E), values (L, G, E), scale, prefix) -> (L, H, E)
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, Prefix | None], torch.Tensor]

SIMILAR = 0.75  # trees go into one block when the shortest has this share of the longest's tokens
SHORT = 1024  # up to this many tokens a block's attention is plain matrix products, on a CPU faster than SDPA


def tree_mask(node_ids: torch.Tensor, ancestry: torch.Tensor) -> torch.Tensor:
    """(L, L) bool, True where the row's query may attend the column's key.

    >>> nodes = torch.tensor([0, 0, 1, 1, 2])
    >>> table = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)
    >>> tree_mask(nodes, table).int()
    tensor([[1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [1, 1, 1, 0, 0],
            [1, 1, 1, 1, 0],
            [1, 1, 0, 0, 1]], dtype=torch.int32)
    """
    related = ancestry[node_ids][:, node_ids]  # (L, L)
    return related & torch.ones_like(related).tril()


def tree_attention(batch: PackedBatch) -> Attend:
    """Attention for this row's layout: FlexAttention for training on CUDA, blocks of whole trees elsewhere."""
    if batch.input_ids.device.type == "cuda" and torch.is_grad_enabled():  # one answer is not worth compiling a kernel
        return flex_attention(batch)
    return block_attention(batch)


def behind(attend: Attend, count: int) -> Attend:
    """Attention of a row whose first `count` rows are virtual tokens: they attend to themselves, and all trees to them."""

    def whole(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, prefix: Prefix | None = None) -> torch.Tensor:
        causal = torch.ones(count, count, dtype=torch.bool, device=q.device).tril()
        own = attend_block(q[None, :count], k[None, :count], v[None, :count], causal[None, None], scale)[0]
        return torch.cat([own, attend(q[count:], k[count:], v[count:], scale, (k[:count], v[:count]))])

    return whole


# --- CPU and MPS: tree by tree -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """Trees of similar length, side by side: packed neighbours cost nothing."""

    index: torch.Tensor  # (B, M) row index of each token; padding repeats the tree's first
    mask: torch.Tensor  # (B, 1, M, M) bool


def block_attention(batch: PackedBatch) -> Attend:
    """Attention over blocks of trees; exact, forward and backward."""
    return over_blocks(*tree_blocks(batch))


def over_blocks(blocks: list[Block], inverse: torch.Tensor) -> Attend:
    """Attention of a row over the blocks of its trees, which are as `tree_blocks` gives them."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, prefix: Prefix | None = None) -> torch.Tensor:
        if len(blocks) == 1 and len(blocks[0].index) == 1:  # one tree: the row is the block
            return attend_block(q[None], k[None], v[None], blocks[0].mask, scale, prefix)[0]
        parts = [attend_block(q[b.index], k[b.index], v[b.index], b.mask, scale, prefix).flatten(0, 1) for b in blocks]
        return torch.cat(parts)[inverse]  # (L, H, E), back in the row's order

    return attend


def groups_of(lengths: Sequence[int]) -> list[list[int]]:
    """Which trees go into one block: their numbers, a block's longest first. Empty trees are in none.

    >>> groups_of([100, 10, 0, 90, 9])
    [[0, 3], [1, 4]]
    """
    groups: list[list[int]] = []
    for tree in sorted((t for t in range(len(lengths)) if lengths[t]), key=lambda t: -lengths[t]):
        if groups and lengths[tree] >= SIMILAR * lengths[groups[-1][0]]:
            groups[-1].append(tree)
        else:
            groups.append([tree])
    return groups


def tree_blocks(batch: PackedBatch) -> tuple[list[Block], torch.Tensor]:
    """The row's trees as blocks, and for each row token its place in the blocks' concatenation, (L,)."""
    device = batch.input_ids.device
    lengths = torch.tensor(batch.trees)
    starts = (lengths.cumsum(0) - lengths).tolist()
    blocks: list[Block] = []
    inverse = torch.empty(batch.num_tokens, dtype=torch.int64)
    place = 0
    for group in groups_of(batch.trees):
        longest = batch.trees[group[0]]
        first = torch.tensor([starts[t] for t in group])[:, None]  # (B, 1)
        steps = torch.arange(longest)[None]  # (1, M)
        real = steps < torch.tensor([batch.trees[t] for t in group])[:, None]  # (B, M)
        index = first + steps * real  # (B, M)
        inverse[index[real]] = place + torch.arange(index.numel()).view_as(index)[real]
        place += index.numel()
        index, real = index.to(device), real.to(device)
        nodes = batch.node_ids[index]  # (B, M)
        related = batch.ancestry[nodes[:, :, None], nodes[:, None, :]]  # (B, M, M)
        causal = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
        blocks.append(Block(index, (related & causal & real[:, None, :])[:, None]))
    return blocks, inverse.to(device)


def attend_block(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float, prefix: Prefix | None = None
) -> torch.Tensor:
    """Masked attention of whole trees: q (B, M, H, E), k and v (B, M, G, E), mask (B, 1, M, M) -> (B, M, H, E)."""
    heads, groups, length = q.shape[2], k.shape[2], q.shape[1]
    if prefix is not None:
        k, v = (torch.cat([ahead.expand(len(x), *ahead.shape), x], 1) for ahead, x in zip(prefix, (k, v)))  # (B, n + M, G, E)
        mask = F.pad(mask, (len(prefix[0]), 0), value=True)  # (B, 1, M, n + M)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H or G, M or n + M, E)
    if q.device.type == "cpu" and length <= SHORT:
        q = q.reshape(len(q), groups, heads // groups * length, -1)  # heads of one group share their keys
        scores = (q @ k.transpose(-1, -2)).view(len(q), groups, -1, length, k.shape[2]) * scale
        scores = scores.masked_fill(~mask[:, :, None], float("-inf"))
        shares = scores.softmax(-1, dtype=torch.float32).to(v.dtype)  # (B, G, H/G, M, n + M)
        out = (shares.flatten(2, 3) @ v).view(len(q), heads, length, -1)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=heads != groups)
    return out.transpose(1, 2)


# --- CUDA: FlexAttention -------------------------------------------------------------------------------------------


def flex_attention(batch: PackedBatch, *, compiled: bool = True) -> Attend:
    """FlexAttention with a block mask: tiles of the score matrix that no tree needs are never computed."""
    from torch.nn.attention.flex_attention import create_block_mask
    from torch.nn.attention.flex_attention import flex_attention as flex

    nodes, table, length = batch.node_ids, batch.ancestry, batch.num_tokens

    @cache
    def block_mask(ahead: int) -> Any:
        def allowed(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            own = (k - ahead).clamp(min=0)  # place in the row; keys before it are the prefix
            return (k < ahead) | ((own <= q) & table[nodes[q], nodes[own]])

        return create_block_mask(allowed, None, None, length, ahead + length, device=str(nodes.device))

    kernel: Any = _compiled() if compiled else flex

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, prefix: Prefix | None = None) -> torch.Tensor:
        if prefix is not None:
            k, v = torch.cat([prefix[0], k]), torch.cat([prefix[1], v])  # (n + L, G, E)
        heads_first = [x.transpose(0, 1)[None] for x in (q, k, v)]  # (1, H or G, L or n + L, E)
        mask = block_mask(len(k) - length)
        out = kernel(*heads_first, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
        return out[0].transpose(0, 1)

    return attend


@cache
def _compiled() -> Callable:
    """The fused kernel, compiled once a process."""
    from torch.nn.attention.flex_attention import flex_attention as flex

    return torch.compile(flex, dynamic=True)
