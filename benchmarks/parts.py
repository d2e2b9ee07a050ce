"""What `sft.py` runs in processes of their own: `python parts.py PART JOB`, the answer is the last line of stdout.

The two sides see the same examples in the same order: smolforge's mixed stream decides it, TRL's dataset is written in it.
Neither side prepares data in other workers or threads, saves during the timed steps or reports anywhere.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from side import PRESET, answer, matrix_rate, peak_memory, photos, time_trl, trl_arguments, trl_processor

LR = 2e-5
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a part is told."""

    folder: Path
    images: int  # pictures an optimiser step
    steps: int
    dtype: str  # bfloat16 or float32
    shared: Path | None = None  # real processor files, photos and captions

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def captions(self) -> Path:
        return self.folder / "captions.jsonl"


def make_checkpoint(job: Job) -> dict[str, Any]:
    """Random weights with the real processor files beside them, and the captions as JSON Lines."""
    from smolforge.model.build import assemble
    from smolforge.model.presets import PRESETS

    assert job.shared is not None
    shutil.copytree(job.shared / "smolvlm-256m-processor", job.checkpoint, copy_function=shutil.copyfile)
    assemble(PRESETS[PRESET], seed=SEED).save_pretrained(job.checkpoint)
    lines = [json.dumps({"image": photo, "captions": captions}) + "\n" for photo, captions in photos(job.shared)]
    job.captions.write_text("".join(lines))
    return {}


# --- smolforge -----------------------------------------------------------------------------------------------------


def run_smolforge(job: Job) -> dict[str, Any]:
    """`smolforge.training.loop.train`, as a user's recipe would run it."""
    from smolforge.recipe import Recipe
    from smolforge.training.loop import train
    from smolforge.training.tracking import read_metrics

    settings = {
        "model": {"name": str(job.checkpoint), "dtype": job.dtype},
        "freeze": {"vision": True},
        "data": [{"source": str(job.captions)}],
        "images": {"split": False, "longest_edge": 512},
        "optim": {"lr": LR, "schedule": "constant", "warmup": 0},
        "batch": {"examples": job.images},
        "eval": {"examples": 1, "samples": 0},
        "run": {
            "dir": str(job.folder / f"run-{time.time_ns()}"), "steps": job.steps, "save_every": job.steps + 1, "seed": SEED,
            "device": "cpu", "trackers": [], "workers": 0,
        },
    }  # fmt: skip
    recipe = Recipe.model_validate(settings)
    folder = train(recipe)
    entries = [entry for entry in read_metrics(folder) if entry["kind"] == "train"]
    shutil.rmtree(folder)
    return {
        "seconds": [job.images / entry["examples/s"] for entry in entries],
        "losses": [entry["loss"] for entry in entries],
        "memory_bytes": peak_memory(),
        "flops": [step_flops(recipe, step) for step in range(job.steps)],
    }


def step_flops(recipe: Any, step: int) -> float:
    """Floating-point operations that a smolforge step cannot do without, counted from shapes.

    A matrix product of n tokens with p weights is 2np forward, as much again for its weights' gradient and for its inputs'.
    The frozen tower needs the first, the connector above it the first two, the decoder all three. The first layer's input
    leads to the embeddings, which train. Attention counts the (query, key) pairs that its mask allows.
    """
    from smolforge.data.pipeline import open_stream
    from smolforge.data.processor import load_renderer
    from smolforge.model.attention import tree_mask
    from smolforge.model.presets import PRESETS
    from smolforge.objectives import objective_of

    renderer = load_renderer(Path(recipe.model.name), images=recipe.images, row_tokens=recipe.batch.row_tokens)
    stream = open_stream(recipe.data, renderer, kinds=objective_of(recipe.objective).kinds, seed=recipe.run.seed)
    size, shape = recipe.batch.examples, PRESETS[PRESET]
    rows = stream.step(range(step * size, (step + 1) * size)).rows
    tiles = sum(len(row.tiles) for row in rows)
    tokens = sum(row.num_tokens for row in rows)
    scored = sum(len(row.targets) for row in rows)
    pairs = sum(int(tree_mask(row.node_ids, row.ancestry).sum()) for row in rows)

    d, patches = shape.vision_hidden, (shape.image_size // shape.patch) ** 2
    per_patch = 3 * shape.patch**2 * d + shape.vision_layers * (4 * d * d + 2 * d * shape.vision_ff)
    vision = tiles * (2 * patches * per_patch + 4 * shape.vision_layers * patches**2 * d)
    connector = 2 * tiles * shape.image_tokens * d * shape.shuffle**2 * shape.hidden
    d, keys = shape.hidden, shape.hidden // shape.heads * shape.kv_heads
    decoder = 2 * tokens * shape.layers * (2 * d * d + 2 * d * keys + 3 * d * shape.ff) + 4 * shape.layers * pairs * d
    head = 2 * scored * d * shape.vocab
    return vision + 2 * connector + 3 * (decoder + head)


# --- TRL -----------------------------------------------------------------------------------------------------------


def run_trl(job: Job) -> dict[str, Any]:
    """`trl.SFTTrainer` with its own collator, set as fast as its options allow for this work on a CPU."""
    import torch
    from datasets import Dataset, Image, List
    from transformers import Idefics3ForConditionalGeneration
    from trl import SFTConfig, SFTTrainer

    from smolforge.data.mix import Mixture
    from smolforge.data.sources.shapes import CAPTION_PROMPT

    # One tile a picture, no detour over 2048 pixels: as in the recipe above.
    processor = trl_processor(job.checkpoint, split=False, longest_edge=512)
    captions = [json.loads(line) for line in job.captions.read_text().splitlines()]
    mixture = Mixture([len(captions)], seed=SEED)
    rows = [
        {
            "images": [row["image"]],
            "prompt": [{"role": "user", "content": CAPTION_PROMPT}],
            "completion": [{"role": "assistant", "content": caption.strip()}],
        }
        # One step more than is run: the data loader prepares a batch ahead, and so each step prepares one.
        for row in (captions[mixture(index)[1]] for index in range((job.steps + 1) * job.images))
        for caption in row["captions"]
    ]
    dataset = Dataset.from_list(rows).cast_column("images", List(Image()))

    # float32 weights under bf16 autocast: TRL's own default, and what smolforge's float32 masters correspond to.
    model = Idefics3ForConditionalGeneration.from_pretrained(job.checkpoint, dtype=torch.float32)
    model.model.vision_model.requires_grad_(False)
    arguments = SFTConfig(
        **trl_arguments(folder=job.folder, steps=job.steps, rows=job.images * 5, lr=LR, seed=SEED, dtype=job.dtype),
        completion_only_loss=True,
    )
    seconds, entries = time_trl(
        partial(SFTTrainer, model=model, args=arguments, train_dataset=dataset, processing_class=processor)
    )
    return {"seconds": seconds, "losses": [entry["loss"] for entry in entries], "memory_bytes": peak_memory()}


PARTS = {"checkpoint": make_checkpoint, "smolforge": run_smolforge, "trl": run_trl, "matrix": matrix_rate}

if __name__ == "__main__":
    answer(PARTS, Job)
