"""Batched generation: prompts are rendered and packed like training rows, then continued with a key-value cache.

Prompts about the same pictures are one tree, which runs once; the options of a multiple-choice question are branches under it,
scored in the same pass.

Legend: B prompts, M longest prompt plus new tokens, L row tokens, K scored tokens, D width, H heads, G key-value heads,
E head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from smolforge.data.batch import PackedBatch, collate
from smolforge.data.render import Example, Renderer
from smolforge.data.share import Shared, families, share
from smolforge.errors import ModelError
from smolforge.model.attention import Attend, Prefix, tree_attention
from smolforge.model.tree import TreeModel

MAX_PROMPTS = 64  # continued side by side
CACHE_TOKENS = 32768  # places in the key-value cache of prompts side by side, padding included, with answers of PLANNED tokens
PLANNED = 256
ROOM = 64  # places for new tokens that a cache begins with
FEWER = 0.75  # prompts that ended leave the batch when less than this share of it goes on


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
    logprobs: tuple[float, ...] = ()  # of the prompt's options: nats, summed over their tokens


@torch.no_grad()
def generate(model: TreeModel, renderer: Renderer, prompts: Sequence[Example], sampling: Sampling | None = None) -> list[Answer]:
    """Continue prompts (pictures decoded), in their order.

    Args:
        prompts: made by `pipeline.prepare(record, renderer, reserve=max_new_tokens)`; options that they have are scored.
    """
    sampling = sampling or Sampling()
    generator = torch.Generator().manual_seed(sampling.seed)
    answers: dict[int, Answer] = {}
    for group in plan(prompts, sampling.max_new_tokens):
        answers |= zip(group, continue_group(model, renderer, [prompts[n] for n in group], sampling, generator))
    return [answers[number] for number in range(len(prompts))]


@torch.no_grad()
def continue_group(
    model: TreeModel,
    renderer: Renderer,
    prompts: Sequence[Example],
    sampling: Sampling,
    generator: torch.Generator | None = None,
    *,
    limits: Sequence[int] | None = None,
) -> list[Answer]:
    """Continue prompts side by side, all at once: a group that `plan` made.

    Args:
        limits: most new tokens of each prompt, where they differ; at most `sampling.max_new_tokens`.

    Raises:
        ModelError: the model computes NaN or infinite numbers.
    """
    generator = generator or torch.Generator().manual_seed(sampling.seed)
    limits = limits or [sampling.max_new_tokens] * len(prompts)
    groups = families(prompts)
    shared = [share([prompts[number] for number in group]) for group in groups]
    row = collate([one.example for one in shared]).to(model.head.weight.device)
    paths = _paths(shared)
    stops = stop_ids(renderer)
    order = [number for group in groups for number in group]
    most = [max(1, min(limits[number], renderer.context - len(path))) for number, path in zip(order, paths)]
    ids, scores = _continue(model, row, paths, most, sampling, stops, generator)
    answers: dict[int, Answer] = {}
    for number, tokens in zip(order, ids):
        kinds = [kind for _, kind in prompts[number].responses]
        own, scores = scores[: len(kinds)], scores[len(kinds) :]
        finished = bool(tokens) and tokens[-1] in stops
        answers[number] = Answer(
            text=renderer.decode(tokens), tokens=len(tokens), finished=finished, changes=prompts[number].changes,
            logprobs=tuple(score for score, kind in zip(own, kinds) if kind == "option"),
        )  # fmt: skip
    return [answers[number] for number in range(len(prompts))]


def stop_ids(renderer: Renderer) -> frozenset[int]:
    """Ids that end an answer: the chat format's closing token, and the base model's own."""
    names = (renderer.chat.close, "<|im_end|>", "<|endoftext|>")
    ids = (renderer.tokenizer.token_to_id(name) for name in names)
    return frozenset(token for token in ids if token is not None)


def plan(prompts: Sequence[Example], room: int) -> list[list[int]]:
    """Groups to continue side by side: families of prompts about the same pictures stay together, those of similar length meet,
    longest first, as many as the cache holds with `room` new tokens each. Pictures need not be decoded."""
    room = min(room, PLANNED)  # few answers are longer, and those that ended give their places back
    groups: list[list[int]] = []
    longest: list[int] = []  # prompt of each group
    ordered = sorted(families(prompts), key=lambda family: -max(prompts[n].depth for n in family))
    for number in (number for family in ordered for number in family):
        length = max(prompts[number].depth, longest[-1] if longest else 0)
        fits = groups and len(groups[-1]) < MAX_PROMPTS and (len(groups[-1]) + 1) * (length + room) <= CACHE_TOKENS
        if fits:
            groups[-1].append(number)
            longest[-1] = length
        else:
            groups.append([number])
            longest.append(prompts[number].depth)
    return groups


def _paths(shared: Sequence[Shared]) -> list[torch.Tensor]:
    """Row index of each prompt's tokens, from its root on: B tensors of (n,)."""
    paths: list[torch.Tensor] = []
    offset = 0
    for one in shared:
        starts: list[int] = []
        nodes = one.example.nodes
        for node in nodes:
            starts.append(offset)
            offset += len(node.ids)
        for place in one.ends:
            pieces: list[torch.Tensor] = []
            while place >= 0:
                pieces.insert(0, torch.arange(starts[place], starts[place] + len(nodes[place].ids)))
                place = nodes[place].parent
            paths.append(torch.cat(pieces))
    return paths


def _continue(
    model: TreeModel,
    row: PackedBatch,
    paths: Sequence[torch.Tensor],
    limits: Sequence[int],
    sampling: Sampling,
    stops: frozenset[int],
    generator: torch.Generator,
) -> tuple[list[list[int]], list[float]]:
    """New tokens of each prompt, at most its limit, and the log-prob of each response of the row."""
    device = row.input_ids.device
    lengths = torch.tensor([len(path) for path in paths], device=device)  # (B,)
    index = torch.nn.utils.rnn.pad_sequence(list(paths), batch_first=True).to(device)  # (B, longest prompt)
    caches = [_Cache(index, lengths) for _ in model.decoder.layers]
    attend = tree_attention(row)
    states = model.decode(model.embed(row), row.position_ids, [cache.fill(attend) for cache in caches])  # (L, D)
    scores = _sums(row, model.log_probs(states[row.predictors], row.targets))
    if not states.isfinite().all():
        raise ModelError(
            "the model computes no numbers (NaN or infinite)", where=row.ids[0], mend="use another checkpoint or dtype"
        )
    hidden = states[index.gather(1, lengths[:, None] - 1)[:, 0]]  # (B, D)
    answers: list[list[int]] = [[] for _ in paths]
    rows = list(range(len(paths)))  # prompt of each row of `hidden`
    over: set[int] = set()
    for number in range(sampling.max_new_tokens):
        tokens = _choose(model.head(hidden).float().cpu(), sampling, generator)  # (B,)
        for prompt, token in zip(rows, tokens.tolist()):
            if prompt not in over:
                answers[prompt].append(token)
                over |= {prompt} if token in stops or number + 1 == limits[prompt] else set()
        if len(over) == len(paths):
            break
        going = torch.tensor([prompt not in over for prompt in rows])
        if going.float().mean() < FEWER:  # moving the cache costs as much as a few steps
            rows = [prompt for prompt in rows if prompt not in over]
            tokens, lengths = tokens[going], lengths[going.to(device)]
            for cache in caches:
                cache.keep(going.to(device))
        hidden = model.decoder.embed_tokens(tokens.to(device))
        hidden = model.decode(hidden, lengths + number, [cache.extend(number) for cache in caches], begins=False)
    return answers, scores


def _sums(row: PackedBatch, log_probs: torch.Tensor) -> list[float]:
    """(K,) log-probs summed by response, in nats."""
    sums = torch.zeros(len(row.responses), dtype=torch.float64)
    return sums.index_add(0, row.response_ids.cpu(), log_probs.cpu().double()).tolist()


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


class _Cache:
    """Keys and values of one layer for B prompts, left-aligned: (B, M, G, E).

    Args:
        index: (B, longest prompt) row index of each prompt's tokens; padding is any index.
        lengths: (B,) tokens of each prompt.
    """

    keys: torch.Tensor
    values: torch.Tensor
    prefix: Prefix | None = None  # what all prompts see besides

    def __init__(self, index: torch.Tensor, lengths: torch.Tensor) -> None:
        self.index, self.lengths = index, lengths

    def fill(self, attend: Attend) -> Attend:
        """Attend in the packed row and keep its keys and values. A prefix that prompts share is copied to each."""

        def kept(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, prefix: Prefix | None = None) -> torch.Tensor:
            self.prefix = None if prefix is None else (prefix[0].clone(), prefix[1].clone())  # no view of the whole row
            room = k.new_zeros(len(self.index), ROOM, *k.shape[1:])
            self.keys, self.values = torch.cat([k[self.index], room], 1), torch.cat([v[self.index], room], 1)
            return attend(q, k, v, scale, prefix)

        return kept

    def keep(self, which: torch.Tensor) -> None:
        """Go on with some of the prompts: (B,) bool."""
        self.keys, self.values, self.lengths = self.keys[which], self.values[which], self.lengths[which]

    def extend(self, number: int) -> Attend:
        """Attend from new token `number` of each prompt to everything before it."""

        def one(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, prefix: Prefix | None = None) -> torch.Tensor:
            prompts = torch.arange(len(q), device=q.device)
            last = self.lengths + number  # (B,) place of the new token
            so_far = self.index.shape[1] + number + 1
            if so_far > self.keys.shape[1]:
                room = torch.zeros_like(self.keys)  # twice the places: few copies, however long the answer
                self.keys, self.values = torch.cat([self.keys, room], 1), torch.cat([self.values, room], 1)
            self.keys[prompts, last], self.values[prompts, last] = k, v
            keys, values = self.keys[:, :so_far], self.values[:, :so_far]
            groups = k.shape[1]
            q = q.unflatten(1, (groups, -1))  # (B, G, H/G, E)
            scores = torch.einsum("bghe,bmge->bghm", q, keys) * scale
            seen = torch.arange(so_far, device=q.device) <= last[:, None]  # (B, M)
            scores = scores.masked_fill(~seen[:, None, None], float("-inf"))
            if self.prefix is None:
                shares = scores.softmax(-1, dtype=torch.float32).to(v.dtype)
                return torch.einsum("bghm,bmge->bghe", shares, values).flatten(1, 2)
            ahead = torch.einsum("bghe,nge->bghn", q, self.prefix[0]) * scale  # virtual tokens, the same for all prompts
            shares = torch.cat([ahead, scores], -1).softmax(-1, dtype=torch.float32).to(v.dtype)
            of_ahead, of_own = shares.split([ahead.shape[-1], so_far], -1)
            out = torch.einsum("bghn,nge->bghe", of_ahead, self.prefix[1]) + torch.einsum("bghm,bmge->bghe", of_own, values)
            return out.flatten(1, 2)

        return one
