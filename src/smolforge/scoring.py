"""How likely a model finds each response: the engine's plainest use."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from smolforge.data.pipeline import pack_rows, prepare
from smolforge.data.render import Example
from smolforge.data.sources.source import Source
from smolforge.errors import DataError
from smolforge.loading import Loaded

CHUNK = 32  # records scored at a time


def score(loaded: Loaded, source: Source) -> Iterator[dict[str, Any]]:
    """One result a record, in the source's order.

    Yields:
        {"id": .., "responses": [{"kind": .., "logprob": sum in nats, "tokens": n}, ..]}, with "changes": [..] when the record had
        to give up tiles or text to fit; or {"id": .., "error": ..} for a record that cannot be used. `tokens` counts the
        response's tokens with its closing token. A chat's earlier assistant turns are responses too.
    """
    numbers = iter(range(len(source)))
    while chunk := list(islice(numbers, CHUNK)):
        results: list[dict[str, Any]] = []
        examples: list[Example] = []
        places: list[int] = []  # of each example in the results
        for number in chunk:
            name = str(source.rows[number])
            try:
                record = source.record(number)
                name = record.id
                examples.append(prepare(record, loaded.renderer))
            except DataError as error:
                results.append({"id": name, "error": str(error)})
                continue
            places.append(len(results))
            changes = {"changes": list(examples[-1].changes)} if examples[-1].changes else {}
            results.append({"id": name, "responses": []} | changes)
        for place, responses in zip(places, _responses(loaded, examples)):
            results[place]["responses"] = responses
        yield from results


@torch.no_grad()
def _responses(loaded: Loaded, examples: list[Example]) -> list[list[dict[str, Any]]]:
    """Scores of each example's responses."""
    scored: list[list[dict[str, Any]]] = [[] for _ in examples]
    for numbers, row in pack_rows(examples, loaded.renderer.row_tokens):
        log_probs = loaded.model(row.to(loaded.device)).cpu().double()  # (K,)
        sums = log_probs.new_zeros(len(row.responses)).index_add(0, row.response_ids, log_probs).tolist()
        counts = torch.bincount(row.response_ids, minlength=len(row.responses)).tolist()
        for response, total, tokens in zip(row.responses, sums, counts):
            scored[numbers[response.example]].append({"kind": response.kind, "logprob": total, "tokens": tokens})
    return scored
