"""Preference accuracy of a model on pairs: by summed log-prob, by log-prob a token, and by implicit reward where there is a
reference (the model without its adapters, or another model)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from smolforge.data.pipeline import Tally, open_stream
from smolforge.errors import DataError
from smolforge.loading import Loaded, same_tokenizer
from smolforge.objectives import objective_of
from smolforge.objectives.comparison import Comparison
from smolforge.objectives.reference import Reference, frozen, without_adapters
from smolforge.recipe import DataSection, PreferenceSection

CHUNK = 32  # pairs scored at a time


@dataclass(frozen=True, kw_only=True)
class PreferenceResult:
    """Pairs of all sources, scored, and what happened to the others."""

    comparisons: list[Comparison]
    tally: Tally
    notes: list[str]  # what cleaning found


@torch.no_grad()
def preference(
    loaded: Loaded, sections: Iterable[DataSection], *, reference: Loaded | None = None, limit: int | None = None
) -> PreferenceResult:
    """Score every pair of some sources.

    Args:
        reference: what implicit rewards are measured against; without it the model's own base, when it has adapters.
        limit: most pairs of each source.

    Raises:
        DataError: a source cannot be opened, or has no pair that can be used.
        ModelError: the reference has another tokenizer.
    """
    objective = objective_of(PreferenceSection(kind="dpo"))
    assert objective.compare is not None
    against = _reference(loaded, reference)
    result = PreferenceResult(comparisons=[], tally=Tally(), notes=[])
    for section in sections:
        stream = open_stream([section], loaded.renderer, shaping=objective.shaping, seed=0)
        result.notes.extend(line for findings in stream.findings for line in findings.lines())
        number = min(limit or stream.num_rows, stream.num_rows)
        for first in range(0, number, CHUNK):
            step = stream.step(range(first, min(first + CHUNK, number)))
            result.tally.add(step.tally)
            for row in step.rows:
                row = row.to(loaded.device)
                row = replace(row, reference=against(row)) if against else row
                result.comparisons.extend(objective.compare(loaded.model(row), row))
    if not result.comparisons:
        why = result.tally.named[0] if result.tally.named else "there are none"
        raise DataError(f"no pair can be used: {why}")
    return result


def _reference(loaded: Loaded, other: Loaded | None) -> Reference | None:
    if other is None:
        return without_adapters(loaded.model) if loaded.model.adapters else None
    same_tokenizer(loaded.renderer, other.renderer, other.folder)
    return frozen(other.model)
