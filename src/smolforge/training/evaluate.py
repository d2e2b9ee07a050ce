"""Before against after: the held-out loss, and answers to a few held-out prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from smolforge.data.pipeline import Stream, Tally, prepare
from smolforge.errors import DataError, TrainingError
from smolforge.files import write_whole
from smolforge.generation import Sampling, generate
from smolforge.model.tree import TreeModel
from smolforge.objectives import Objective
from smolforge.recipe import EvalSection
from smolforge.records import Media, Record
from smolforge.training.runtime import Runtime

CHUNK = 32  # examples measured at a time


@torch.no_grad()
def held_out(
    model: TreeModel, objective: Objective, stream: Stream, section: EvalSection, runtime: Runtime
) -> tuple[dict[str, float], Tally]:
    """Metrics over the first `section.examples` of a stream, divided once by their count."""
    examples = min(section.examples, stream.num_rows)
    sums = dict.fromkeys(objective.metrics, 0.0)
    count, tally = 0.0, Tally()
    model.eval()
    for first in range(0, examples, CHUNK):
        indices = range(first + runtime.rank, min(first + CHUNK, examples), runtime.world)
        step = stream.step(indices)
        for one in runtime.gather(step.tally):
            tally.add(one)
        for row in step.rows:
            row = row.to(runtime.device)
            output = objective.loss(model(row), row)
            count += objective.count(row)
            for name, value in output.metrics.items():
                sums[name] += float(value)
    total, *values = runtime.sum([count, *sums.values()])
    if total == 0:
        raise TrainingError("no held-out example could be used", mend="see why with `smolforge score`, or change eval.data")
    return {name: value / total for name, value in zip(sums, values)}, tally


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
        lines.append({"id": record.name, "prompt": text, "pictures": pictures, "references": references, "answer": answer.text})
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
