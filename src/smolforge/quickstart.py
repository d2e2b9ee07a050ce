"""The quickstart: assemble a tiny SmolVLM, teach it to describe drawn scenes, align it with pairs, and show before, SFT and DPO.

runs/quickstart/start/   the tiny model, untrained
runs/quickstart/sft/     the supervised run, stopped early enough to leave something to align
runs/quickstart/         the preference run that goes on from it, its scores on held-out scenes, and the report of both
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from smolforge.errors import UserError
from smolforge.evals.evaluate import Wanted, evaluate
from smolforge.files import write_whole
from smolforge.loading import load
from smolforge.recipe import Recipe, parse_recipe
from smolforge.tiny import assemble_tiny
from smolforge.training.loop import train
from smolforge.training.place import claim

HELD_OUT = 200  # captions that are scored
LONGEST = 64  # tokens of a caption, with room to spare: three objects take 34
SFT_STEPS, DPO_STEPS = 240, 80
KEPT = ("start", "sft", "evaluation")  # in the folder of the second run


def quickstart(folder: Path, *, steps: int = SFT_STEPS, dpo_steps: int = DPO_STEPS) -> dict[str, Any]:
    """Run it; writes both runs, `metrics.json` and the caption samples into `folder`.

    Args:
        steps, dpo_steps: optimiser steps of the supervised and of the preference stage.

    Returns:
        {"before": scores, "sft": scores, "dpo": scores}, each with exact, recall, hallucination (None of a model that names no
        object) and seconds.
    """
    start = folder / "start"
    claim(dpo_recipe(folder, steps=dpo_steps), KEPT)  # both runs are written there: known before the first
    if not start.is_dir():
        assemble_tiny(start)
    results = folder / "evaluation"
    metrics = {"before": measure(start, results / "untrained") | {"seconds": 0.0}}
    for stage, recipe in (("sft", sft_recipe(folder, steps=steps)), ("dpo", dpo_recipe(folder, steps=dpo_steps))):
        run = train(recipe, beside=KEPT)
        if not (run / "summary.json").is_file():
            raise UserError("stopped before its end", where=run, mend="the same command goes on from there")
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        metrics[stage] = measure(run / "model", results / stage.upper()) | {
            "seconds": round(summary["seconds"] + summary["prepare_seconds"], 1)
        }
    write_whole(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    stages = {"untrained": "sft/samples/before.jsonl", "SFT": "sft/samples/after.jsonl", "DPO": "samples/after.jsonl"}
    write_whole(folder / "stages.json", json.dumps(stages, indent=1) + "\n")
    return metrics


def sft_recipe(folder: Path, *, steps: int = SFT_STEPS) -> Recipe:
    """The supervised stage, as a recipe like any other."""
    return parse_recipe(
        {
            "model": {"name": str(folder / "start")},
            "data": [{"source": "scenes"}],
            "eval": held_out("scenes"),
            "objective": {"kind": "sft"},
            "optim": {"lr": 2e-3, "warmup": 0.05, "betas": [0.9, 0.98]},
            "batch": {"examples": 64, "row_tokens": 4096},
            "run": {"dir": str(folder / "sft"), "steps": steps, "eval_every": 50, "save_every": 100},
        }
    )


def dpo_recipe(folder: Path, *, steps: int = DPO_STEPS) -> Recipe:
    """The preference stage: false captions of the same scenes are rejected. APO-zero, because the true captions are better than
    the model's own; plain DPO makes both unlikely here (docs/log.md)."""
    return parse_recipe(
        {
            "model": {"name": str(folder / "sft" / "model")},
            "data": [{"source": "scene_pairs", "split": f"train[:{64 * steps}]"}],
            "eval": held_out("scene_pairs"),
            "objective": {"kind": "dpo", "loss": "apo_zero", "beta": 0.5},
            "optim": {"lr": 6e-4, "warmup": 0.05, "betas": [0.9, 0.98]},
            "batch": {"examples": 64, "row_tokens": 4096},
            "run": {"dir": str(folder), "steps": steps, "save_every": 100},
        }
    )


def held_out(source: str) -> dict[str, Any]:
    """Scenes that neither stage learns from, the same in both."""
    return {"data": [{"source": source, "split": f"test[:{HELD_OUT}]"}], "samples": 12, "max_new_tokens": LONGEST}


def measure(model: Path, out: Path) -> dict[str, float | None]:
    """Caption the held-out scenes, greedily, and score them; answers, pictures and intervals go to `out`, for the report."""
    name = str(model)
    (task,) = evaluate(
        name, load(name, dtype="float32"), Wanted(tasks=("scenes",)), out, console=Console(stderr=True, quiet=True)
    )
    found = {name: task.scores[name] for name in ("exact", "recall", "hallucination")}
    return {name: score.value if score else None for name, score in found.items()}
