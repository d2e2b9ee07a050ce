"""Folders of runs and of results, written by hand: no model answers here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from smolforge.evals.benchmarks import scenes
from smolforge.evals.measures import scores
from smolforge.evals.results import Prediction, Task, measure_facts, write_task
from smolforge.evals.scenes import scene_sums
from smolforge.recipe import parse_recipe

MEASURES = scenes.BENCHMARK.measures
TRUTHS = {  # id -> caption of the scene
    "0": "a red circle at the top and a blue star in the middle",
    "1": "a green square at the left",
    "2": "a pink star at the right",
    "3": "a yellow diamond at the bottom",
}


@pytest.fixture
def write_results() -> Callable[..., Path]:
    """Results of the task `scenes` from answers to some of TRUTHS; `times` repeats the questions."""

    def write(folder: Path, answers: Mapping[str, str], *, times: int = 1, model: str = "tiny", **changes: Any) -> Path:
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        predictions = []
        for n in range(times):
            for id, answer in answers.items():
                Image.new("RGB", (4, 4), "red").save(folder / "pictures" / f"{id}.png")
                sums, marks = scene_sums(answer, TRUTHS[id])
                predictions.append(Prediction(
                    id=id if times == 1 else f"{id}/{n}", prompt="Describe the picture.", answer=answer, tokens=7, finished=True,
                    facts={"caption": TRUTHS[id]}, sums={**sums, "tokens": 7}, marks=marks, pictures=(f"pictures/{id}.png",),
                ))  # fmt: skip
        known = scores([one.sums for one in predictions], MEASURES)
        values = {
            "name": "scenes", "prompts": "lmms-eval", "data": "drawn", "questions": len(predictions), "limit": None,
            "skipped": {}, "named": [], "notes": [], "scores": known, "measures": measure_facts(MEASURES),
        }  # fmt: skip
        write_task(folder, {"name": model, "weights": model, "dtype": "float32"}, Task(**values | changes), predictions)
        return folder

    return write


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """A run's folder as `train` leaves it: recipe, log, summary; no samples, no evaluation."""

    def write(folder: Path, *, finished: bool = True, **sections: Any) -> Path:
        tree = {
            "model": {"name": "org/tiny"},
            "data": [{"source": "scenes"}],
            "eval": {"data": [{"source": "scenes", "split": "test[:9]"}]},
            "run": {"dir": str(folder), "steps": 2},
        }
        recipe = parse_recipe(tree | sections)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json")))
        (folder / "recipe.yaml").write_text("model: {name: org/tiny} # <kept>\n")
        rates = {"examples/s": 8.0, "tokens/s": 99.0}
        log = [{"kind": "eval", "step": 0, "loss": 2.5}]
        log += [{"kind": "train", "step": n, "loss": 2.0 / n, "rewards/chosen": 0.1 * n, **rates} for n in (1, 2)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
        summary = {
            "before": {"loss": 2.5}, "after": {"loss": 1.25}, "measured_on": "held-out examples", "preferences": {}, "steps": 2,
            "seconds": 61.0, "prepare_seconds": 3.0, "peak_memory_bytes": 2**30, "notes": [], "versions": {"torch": "2.13"},
        }  # fmt: skip
        if finished:
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return write
