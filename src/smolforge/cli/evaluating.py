"""The verb `evaluate`: of a model and of somebody's predictions."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from smolforge.errors import UserError
from smolforge.evals.names import TASKS


def evaluate(options: argparse.Namespace) -> int:
    if Path(options.model).suffix in (".jsonl", ".json"):
        return _evaluate_predictions(options)
    _refuse(options, ("metrics", "references", "frequencies", "clip"), "is for a file of predictions")
    if unknown := [task for task in options.tasks if task not in TASKS]:  # before anything heavy is imported
        raise UserError(f"no task {', '.join(unknown)}", mend=f"tasks are {', '.join(TASKS)}")
    if not options.tasks:
        raise UserError("no task", where=options.model, mend="give --tasks pope,chair or others; --help lists them")
    if "preference" not in options.tasks:
        _refuse(options, ("reference", "split"), "is for the task preference")
    if "mmhal" not in options.tasks:
        _refuse(options, ("judge",), "is for the task mmhal")
    import smolforge
    from smolforge.report import table

    settings = dict(
        data=options.data, prompts=options.prompts, split=options.split or "train", limit=options.limit, fixture=options.fixture,
        judge=options.judge, dtype=options.dtype, device=options.device,
    )  # fmt: skip
    folder = _evaluation_folder(options)
    after = folder / "after" if options.before and options.out else folder
    stages = [(options.model, after, options.adapter)]
    if options.before:
        stages.insert(0, (_start_of(Path(options.model)), after.parent / "before", None))
    for model, out, adapter in stages:
        reference = options.reference if out == after else None
        tasks = smolforge.evaluate(model, options.tasks, out=out, adapter=adapter, reference=reference, **settings)
        print(table(f"{model} + {adapter}" if adapter else model, tasks.values()))
        print(f"results: {out}")
    return 0


def _refuse(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Options that would do nothing."""
    if given := [name for name in names if getattr(options, name)]:
        raise UserError(f"--{given[0]} {why}", where=options.model, mend="leave it out")


def _evaluation_folder(options: argparse.Namespace) -> Path:
    """Where results go: --out, or beside a run's model, or a folder named like the model."""
    run = Path(options.model)
    if options.out:
        return options.out
    if (run / "recipe.json").is_file():
        return run / "evaluation" / (f"after+{Path(options.adapter).name}" if options.adapter else "after")
    name = re.sub(r"[^\w.-]+", "-", str(options.model).rstrip("/")).strip("-.")
    return Path("evaluations") / (f"{name}+{Path(options.adapter).name}" if options.adapter else name)


def _start_of(run: Path) -> str:
    """The model that a run started from."""
    file = run / "recipe.json"
    if not file.is_file():
        raise UserError("no run, so nothing was before", where=run, mend="give a run's folder, or leave --before out")
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["model"]["name"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("does not say what the run started from", where=file, mend="leave --before out") from error


def _evaluate_predictions(options: argparse.Namespace) -> int:
    file = Path(options.model)
    if not file.is_file():
        raise UserError("no such file", where=file, mend="check the path")
    _refuse(
        options, ("tasks", "adapter", "data", "fixture", "before", "limit", "split", "reference", "judge", "dtype"),
        "is for a model, and this is a file of predictions",
    )  # fmt: skip
    if not options.metrics:
        raise UserError("predictions and no metric", where=file, mend="give --metrics cider,bleu or others")
    if "cider" not in options.metrics:
        _refuse(options, ("frequencies",), "is for cider")
    if "clipscore" not in options.metrics:
        _refuse(options, ("clip",), "is for clipscore")
    from smolforge.evals.predictions import score_predictions
    from smolforge.report import table

    task = score_predictions(
        file, options.metrics, references=options.references, out=options.out, frequencies=options.frequencies, clip=options.clip,
        device=options.device,
    )  # fmt: skip
    print(table(options.model, [task]))
    if options.out:
        print(f"results: {options.out}")
    return 0
