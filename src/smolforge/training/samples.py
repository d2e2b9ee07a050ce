"""Answers to a few held-out prompts, for people to look at: before, after, and on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from smolforge.data.pipeline import Stream, prepare
from smolforge.data.render import Example
from smolforge.errors import DataError
from smolforge.files import write_whole
from smolforge.generation import Sampling, generate
from smolforge.model.tree import TreeModel
from smolforge.recipe import EvalSection
from smolforge.records import Record
from smolforge.training.runtime import Runtime


def write_samples(folder: Path, when: str, model: TreeModel, stream: Stream, section: EvalSection) -> list[dict[str, Any]]:
    """Answer the first held-out prompts and write them, with their pictures, for the report.

    Args:
        when: names the file: "before", "after" or "step-100".
    """
    picked = list(_pick(stream, section))
    prompts = [example for _, example in picked]
    model.eval()
    answers = generate(model, stream.renderer, prompts, Sampling(max_new_tokens=section.max_new_tokens))
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, ((record, example), answer) in enumerate(zip(picked, answers)):
        pictures = []
        for place, image in enumerate(example.images):
            name = f"{number}-{place}.jpg"
            thumbnail = image.picture.pixels()
            thumbnail.thumbnail((384, 384))
            thumbnail.save(folder / name, quality=90)
            pictures.append(name)
        references = [response.text for response in record.responses]
        kinds = [response.kind for response in record.responses]
        line = {"id": record.name, "prompt": record.words, "pictures": pictures, "references": references, "kinds": kinds}
        lines.append(line | {"answer": answer.text, "tokens": answer.tokens})
    content = "".join(json.dumps(line) + "\n" for line in lines)
    write_whole(folder / f"{when}.jsonl", content)
    return lines


def _pick(stream: Stream, section: EvalSection) -> Iterator[tuple[Record, Example]]:
    """The first records that can be rendered, and their prompts, decoded; measuring the loss has told of the others."""
    found = 0
    for index in range(stream.num_rows):
        if found == section.samples:
            return
        try:
            record = stream.record(index)
            stream.renderer.render(record)
            example = prepare(record.prompt, stream.renderer, reserve=section.max_new_tokens)
        except DataError:
            continue
        found += 1
        yield record, example


def mean_answer(samples: list[dict[str, Any]]) -> dict[str, float]:
    """Mean length of the model's own answers, in tokens: preference training tends to change it."""
    return {"answer tokens": sum(line["tokens"] for line in samples) / len(samples)} if samples else {}


def show_samples(runtime: Runtime, folder: Path, samples: list[dict[str, Any]], step: int) -> None:
    """Hand the answers to TensorBoard, where it is on: the words at each step, the pictures once.

    Args:
        folder: where `write_samples` put the pictures.
    """
    board = runtime.board
    if board is None:
        return
    for number, sample in enumerate(samples):
        words = {"asked": sample["prompt"], "answered": sample["answer"], "expected": " / ".join(sample["references"])}
        board.add_text(f"samples/{number}", "\n\n".join(f"**{name}** {text}" for name, text in words.items()), step)
        for place, name in enumerate(sample["pictures"] if step == 0 else ()):
            with Image.open(folder / name) as picture:
                board.add_image(f"samples/{number}.{place}", np.asarray(picture), step, dataformats="HWC")
