"""Before against after: the held-out loss, and pairs as they are scored."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from smolforge.data.batch import PackedBatch
from smolforge.data.pipeline import Stream
from smolforge.data.tally import Tally
from smolforge.errors import TrainingError
from smolforge.objectives import LossOutput, Sums
from smolforge.objectives.comparison import Comparison
from smolforge.recipe import EvalSection
from smolforge.training.fixed import Fixed
from smolforge.training.runtime import Runtime

CHUNK = 32  # examples measured at a time


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What held-out examples gave."""

    means: dict[str, float]
    tally: Tally
    comparisons: list[Comparison]  # chosen against rejected, where the objective compares


@torch.no_grad()
def held_out(fixed: Fixed, stream: Stream, section: EvalSection, runtime: Runtime, *, at_start: bool = False) -> Measured:
    """Metrics over the first `section.examples` of a stream, divided once by their counts.

    Args:
        at_start: the model is what the run starts from, and so, by definition, its own reference.
    """
    model, objective = fixed.model, fixed.objective
    examples = min(section.examples, stream.num_rows)
    counts = dict.fromkeys(objective.units, 0.0)
    outputs: list[LossOutput] = []
    comparisons: list[Comparison] = []
    tally = Tally()
    model.eval()
    for first in range(0, examples, CHUNK):
        indices = range(first + runtime.rank, min(first + CHUNK, examples), runtime.world)
        step = stream.step(indices)
        for one in runtime.gather(step.tally):
            tally.add(one)
        scored: list[tuple[torch.Tensor, PackedBatch]] = []
        looked = dict.fromkeys(objective.looked, 0.0)
        for row in step.rows:
            own = at_start and fixed.own_start
            row = fixed.add(row.to(runtime.device), compare=not own)
            log_probs = model(row)
            row = replace(row, reference=log_probs) if own else row
            scored.append((log_probs, row))
            for name, value in objective.look(log_probs, row).items() if objective.look else ():
                looked[name] += value
        shared = objective.share(dict(zip(looked, runtime.sum([*looked.values()]))))
        for log_probs, row in scored:
            outputs.append(objective.loss(log_probs, row, shared))
            for unit, count in objective.counts(row).items():
                counts[unit] += count
            comparisons += objective.compare(log_probs, row) if objective.compare else []
    counts = dict(zip(counts, runtime.sum([*counts.values()])))
    if not any(counts.values()):
        raise TrainingError("no held-out example could be used", mend="see why with `smolforge score`, or change eval.data")
    sums = Sums(objective, compared=at_start or fixed.reference is not None)
    for output in outputs:
        sums.add(output, output.loss(counts))
    if not math.isfinite(sums.loss):
        raise TrainingError(f"the held-out loss is {sums.loss}", mend="start from another model, or look at eval.data")
    everyone = [one for part in runtime.gather(comparisons) for one in part]
    return Measured(means=sums.means(counts, runtime.sum), tally=tally, comparisons=everyone)


def read_comparisons(folder: Path) -> list[Comparison]:
    """The pairs as they were scored before the run."""
    file = folder / "preferences" / "before.jsonl"
    if not file.is_file():
        return []
    return [Comparison(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
