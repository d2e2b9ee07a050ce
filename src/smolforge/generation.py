"""Batched generation: prompts are rendered and packed like training rows, then continued with a key-value cache.

Legend: B prompts, M longest prompt plus new tokens, L row tokens, H heads, G key-value heads, E head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from smolforge.data.batch import PackedBatch, collate
from smolforge.data.render import Example, Renderer
from smolforge.model.attention import Attend, tree_attention
from smolforge.model.tree import TreeModel

MAX_PROMPTS = 64  # continued side by side
CACHE_TOKENS = 32768  # places in the key-value cache of prompts side by side, padding included


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn. The default, temperature 0, takes the likeliest."""

    max_new_tokens: int = 64
    temperature: float = 0.0  # 0: greedy; 1: the model's own distribution
    top_p: float = 1.0  # keep the likeliest tokens that together have this probability
    top_k: int = 0  # keep the k likeliest; 0 keeps all
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A continuation."""

    text: str
    tokens: int  # generated, the closing token included
    finished: bool  # ended by its closing token, not by max_new_tokens
    changes: tuple[str, ...] = ()  # what the length policy did to the prompt


@torch.no_grad()
def generate(model: TreeModel, renderer: Renderer, prompts: Sequence[Example], sampling: Sampling | None = None) -> list[Answer]:
    """Continue prompts (examples without responses, pictures decoded), in their order.

    Args:
        prompts: made by `pipeline.prepare(record, renderer, reserve=max_new_tokens)`.
    """
    sampling = sampling or Sampling()
    stops = stop_ids(renderer)
    generator = torch.Generator().manual_seed(sampling.seed)
    answers: dict[int, Answer] = {}
    for group in _groups(prompts, sampling.max_new_tokens):
        ids = _continue(model, collate([prompts[n] for n in group]), sampling, stops, generator)
        for number, tokens in zip(group, ids):
            finished = bool(tokens) and tokens[-1] in stops
            text, changes = renderer.decode(tokens), prompts[number].changes
            answers[number] = Answer(text=text, tokens=len(tokens), finished=finished, changes=changes)
    return [answers[number] for number in range(len(prompts))]


def stop_ids(renderer: Renderer) -> frozenset[int]:
    """Ids that end an answer: the chat format's closing token, and the base model's own."""
    names = (renderer.chat.close, "<|im_end|>", "<|endoftext|>")
    ids = (renderer.tokenizer.token_to_id(name) for name in names)
    return frozenset(token for token in ids if token is not None)


def _groups(prompts: Sequence[Example], room: int) -> Iterator[list[int]]:
    """Prompts of similar length together, longest first, as many as the cache holds with `room` new tokens each."""
    group: list[int] = []
    for number in sorted(range(len(prompts)), key=lambda n: -prompts[n].num_tokens):
        if group:
            places = (len(group) + 1) * (prompts[group[0]].num_tokens + room)
            if len(group) == MAX_PROMPTS or places > CACHE_TOKENS:
                yield group
                group = []
        group.append(number)
    if group:
        yield group


def _continue(
    model: TreeModel, row: PackedBatch, sampling: Sampling, stops: frozenset[int], generator: torch.Generator
) -> list[list[int]]:
    device = model.head.weight.device
    row = row.to(device)
    lengths = torch.tensor(row.trees, device=device)  # (B,)
    caches = [_Cache(row, lengths, sampling.max_new_tokens) for _ in model.decoder.layers]
    attend = tree_attention(row)
    hidden = model.decode(model.embed(row), row.position_ids, [cache.fill(attend) for cache in caches])  # (L, D)
    hidden = hidden[lengths.cumsum(0) - 1]  # (B, D)
    done = torch.zeros(len(lengths), dtype=torch.bool)
    answers: list[list[int]] = [[] for _ in row.trees]
    for number in range(sampling.max_new_tokens):
        tokens = _choose(model.head(hidden).float().cpu(), sampling, generator)  # (B,)
        for answer, token, over in zip(answers, tokens.tolist(), done.tolist()):
            if not over:
                answer.append(token)
        done |= torch.tensor([token in stops for token in tokens.tolist()])
        if done.all() or number + 1 == sampling.max_new_tokens:
            break
        hidden = model.decoder.embed_tokens(tokens.to(device))
        hidden = model.decode(hidden, lengths + number, [cache.extend(number) for cache in caches])
    return answers


def _choose(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
    """Next token of each prompt: (B, V) float32 -> (B,)."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits = logits / sampling.temperature
    if sampling.top_k:
        kth = logits.topk(min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < kth, float("-inf"))
    if sampling.top_p < 1:
        ordered, order = logits.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # probability of all likelier tokens
        logits = logits.scatter(1, order, ordered.masked_fill(before >= sampling.top_p, float("-inf")))
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


@dataclass
class _Cache:
    """Keys and values of one layer for B prompts, left-aligned: (B, M, G, E)."""

    row: PackedBatch
    lengths: torch.Tensor
    room: int
    keys: torch.Tensor = field(init=False)
    values: torch.Tensor = field(init=False)

    def fill(self, attend: Attend) -> Attend:
        """Attend in the packed row and keep its keys and values."""

        def kept(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
            longest = max(self.row.trees) + self.room
            self.keys = k.new_zeros(len(self.lengths), longest, *k.shape[1:])
            self.values = torch.zeros_like(self.keys)
            starts = self.lengths.cumsum(0) - self.lengths
            tree = torch.repeat_interleave(torch.arange(len(self.lengths), device=k.device), self.lengths)  # (L,)
            place = torch.arange(len(k), device=k.device) - starts[tree]
            self.keys[tree, place], self.values[tree, place] = k, v
            return attend(q, k, v, scale)

        return kept

    def extend(self, number: int) -> Attend:
        """Attend from new token `number` of each prompt to everything before it."""

        def one(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
            prompts = torch.arange(len(q), device=q.device)
            last = self.lengths + number  # (B,) place of the new token
            self.keys[prompts, last], self.values[prompts, last] = k, v
            groups = k.shape[1]
            q = q.unflatten(1, (groups, -1))  # (B, G, H/G, E)
            scores = torch.einsum("bghe,bmge->bghm", q, self.keys) * scale
            seen = torch.arange(self.keys.shape[1], device=q.device) <= last[:, None]  # (B, M)
            scores = scores.masked_fill(~seen[:, None, None], float("-inf"))
            shares = scores.softmax(-1, dtype=torch.float32).to(v.dtype)
            return torch.einsum("bghm,bmge->bghe", shares, self.values).flatten(1, 2)

        return one
