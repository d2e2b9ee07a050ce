"""What `sft.py` runs in processes of their own: `python parts.py PART JOB`, the answer is the last line of stdout.

The two sides see the same examples in the same order: smolforge's mixed stream decides it, TRL's dataset is written in it.
Neither side prepares data in other workers or threads, saves during the timed steps or reports anywhere.
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

PRESET = "smolvlm-256m"
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
    photos = job.shared / "coco_mini"
    rows = [row for split in ("train", "val") for row in json.loads((photos / f"annotations_{split}2017.json").read_text())]
    lines = [json.dumps({"image": str(photos / row["file"]), "captions": row["captions"][:5]}) + "\n" for row in rows]
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
    from transformers import Idefics3ForConditionalGeneration, Idefics3Processor, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from smolforge.data.mix import Mixture
    from smolforge.data.sources.shapes import CAPTION_PROMPT

    processor = Idefics3Processor.from_pretrained(job.checkpoint)
    processor.image_processor.do_image_splitting = False  # one tile a picture
    processor.image_processor.size = {"longest_edge": 512}  # no detour over 2048 pixels, as in the recipe above
    # The last assistant turn ends with its closing token, so that the newline after it is not scored.
    turn_end = "<end_of_utterance>\n{% endfor %}"
    assert turn_end in processor.chat_template
    once = "<end_of_utterance>{{ '' if loop.last and message['role'] == 'assistant' else '\n' }}{% endfor %}"
    processor.chat_template = processor.chat_template.replace(turn_end, once)

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
        output_dir=str(job.folder / "trl"),
        max_steps=job.steps,
        per_device_train_batch_size=job.images * 5,  # a row a caption; a step's rows in one batch, no accumulation
        gradient_accumulation_steps=1,
        learning_rate=LR,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,  # as smolforge clips
        optim="adamw_torch",
        use_cpu=True,
        bf16=job.dtype == "bfloat16",
        gradient_checkpointing=False,  # its default saves memory and costs a second forward pass
        completion_only_loss=True,
        max_length=None,  # nothing is cut
        train_sampling_strategy="sequential",  # the order of smolforge's stream
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=SEED,
    )
    clock: list[float] = []
    losses: list[float] = []

    class Timer(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:  # from one to the next: data, step and log
            clock.append(time.perf_counter())

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                losses.append(logs["loss"])

    trainer = SFTTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=processor, callbacks=[Timer()])
    trainer.train()
    return {
        "seconds": [after - before for before, after in pairwise(clock)],
        "losses": losses,
        "memory_bytes": peak_memory(),
    }


# --- the machine ---------------------------------------------------------------------------------------------------


def matrix_rate(job: Job) -> dict[str, Any]:
    """What a 2048-cubed matrix product in the job's dtype reaches here, in TFLOP/s."""
    import torch

    a, b = torch.randn(2, 2048, 2048, dtype=getattr(torch, job.dtype))
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - began)
    return {"tflops": 2 * 2048**3 / statistics.median(seconds[5:]) / 1e12}


def peak_memory() -> int:
    """Most bytes this process had in memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


PARTS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "checkpoint": make_checkpoint,
    "smolforge": run_smolforge,
    "trl": run_trl,
    "matrix": matrix_rate,
}

if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    given |= {name: Path(given[name]) for name in ("folder", "shared") if name in given}
    print(json.dumps(PARTS[sys.argv[1]](Job(**given))))
