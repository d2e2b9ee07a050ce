"""Before against after: the held-out loss, and answers to a few held-out prompts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from smolforge.data.batch import PackedBatch
from smolforge.data.pipeline import Stream, Tally, prepare
from smolforge.errors import DataError, TrainingError
from smolforge.files import write_whole
from smolforge.generation import Sampling, generate
from smolforge.model.tree import TreeModel
from smolforge.objectives import LossOutput, Sums
from smolforge.objectives.comparison import Comparison
from smolforge.recipe import EvalSection
from smolforge.records import Media, Record
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


def write_samples(folder: Path, when: str, model: TreeModel, stream: Stream, section: EvalSection) -> list[dict[str, Any]]:
    """Answer the first held-out prompts and write them, with their pictures, for the report.

    Args:
        when: "before" or "after".
    """
    picked = list(_pick(stream, section.samples))
    prompts = []
    for record in picked:
        prompts.append(prepare(record.prompt, stream.renderer, reserve=section.max_new_tokens))
    model.eval()
    answers = generate(model, stream.renderer, prompts, Sampling(max_new_tokens=section.max_new_tokens))
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (record, example, answer) in enumerate(zip(picked, prompts, answers)):
        pictures = []
        for place, image in enumerate(example.images):
            name = f"{number}-{place}.jpg"
            thumbnail = image.picture.pixels()
            thumbnail.thumbnail((384, 384))
            thumbnail.save(folder / name, quality=90)
            pictures.append(name)
        text = "\n".join(p for m in record.messages for p in m.content if not isinstance(p, Media))
        references = [response.text for response in record.responses]
        kinds = [response.kind for response in record.responses]
        line = {"id": record.name, "prompt": text, "pictures": pictures, "references": references, "kinds": kinds}
        lines.append(line | {"answer": answer.text, "tokens": answer.tokens})
    content = "".join(json.dumps(line) + "\n" for line in lines)
    write_whole(folder / f"{when}.jsonl", content)
    return lines


def _pick(stream: Stream, number: int) -> Iterator[Record]:
    """The first records of the stream that can be rendered; measuring the loss has told of the others."""
    found = 0
    for index in range(stream.num_rows):
        if found == number:
            return
        try:
            record = stream.record(index)
            prepare(record, stream.renderer)
        except DataError:
            continue
        found += 1
        yield record
