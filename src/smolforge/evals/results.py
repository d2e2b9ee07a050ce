"""A folder of results: what `smolforge evaluate` leaves, and `compare` and `report` read.

results.json                       every task's scores with intervals, what was skipped, the model, versions
predictions/pope.lmms-eval.jsonl   one line a question: answer, what was understood, what it adds to the scores
pictures/                          small copies of the pictures that were asked about
cost.json                          of each task's last attempt: seconds, answers generated, peak memory; differs from run to run
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smolforge.errors import DataError
from smolforge.evals.measures import Measure, Score, Sums
from smolforge.files import write_whole

FORMAT = 1
OURS = ("results.json", "predictions", "pictures", "cost.json", "fixture", "comparison.html")
AGAIN = "delete it and evaluate again"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A question, what was answered, and how it counts."""

    id: str
    prompt: str  # what was asked, pictures left out
    answer: str
    tokens: int
    finished: bool
    facts: dict[str, Any]  # references and kind of the question
    sums: Sums
    read: str = ""  # how the answer was understood
    marks: tuple[tuple[int, int, str], ...] = ()  # [start, end) of the answer: "right" or "hallucinated"
    pictures: tuple[str, ...] = ()  # files below the folder
    changes: tuple[str, ...] = ()  # what the prompt had to give up to fit
    options: dict[str, float] = field(default_factory=dict)  # log-prob of each option, nats


@dataclass(frozen=True, kw_only=True)
class Task:
    """Scores of one benchmark under one set of prompts."""

    name: str
    prompts: str  # protocol: lmms-eval or vlmevalkit
    data: str  # where the rows came from
    questions: int  # that were answered
    limit: int | None
    skipped: dict[str, int]  # reason -> rows
    named: list[str]  # the first skipped or changed rows
    notes: list[str]  # what a reader of the scores must know
    scores: dict[str, Score | None]  # None: cannot be said of these questions
    measures: dict[str, dict[str, Any]]  # about, better, percent of each score

    @property
    def key(self) -> str:
        return f"{self.name}.{self.prompts}"


def measure_facts(measures: Mapping[str, Measure]) -> dict[str, dict[str, Any]]:
    """What a table must know of measures, as JSON."""
    return {name: {"about": m.about, "better": m.better, "percent": m.percent} for name, m in measures.items()}


def write_task(folder: Path, model: dict[str, Any], task: Task, predictions: Sequence[Prediction]) -> None:
    """Add a task to a folder of results, or put it in the place of an older one.

    Args:
        model: name, fingerprint of the weights and dtype of what was measured.

    Raises:
        DataError: the folder holds results of another model.
    """
    (folder / "predictions").mkdir(parents=True, exist_ok=True)
    held = refuse_others(folder, model)
    lines = (json.dumps(_plain(asdict(prediction)), ensure_ascii=False) for prediction in predictions)
    write_whole(folder / "predictions" / f"{task.key}.jsonl", "".join(f"{line}\n" for line in lines))
    tasks = {**held.get("tasks", {}), task.key: _plain(asdict(task))}
    content = {"format": FORMAT, "model": model, "tasks": dict(sorted(tasks.items()))}
    write_whole(folder / "results.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def refuse_others(folder: Path, model: dict[str, Any]) -> dict[str, Any]:
    """What the folder holds of this model.

    Raises:
        DataError: results of another model.
    """
    held = _read(folder / "results.json") if (folder / "results.json").is_file() else {}
    if held and held["model"]["weights"] != model["weights"]:
        mend = "choose another folder with --out, or delete this one"
        was = " in ".join(str(held["model"][name]) for name in ("name", "dtype") if name in held["model"])
        raise DataError(f"holds results of another model, {was}", where=folder, mend=mend)
    return held


def refuse_foreign(folder: Path) -> None:
    """Raises DataError for a folder with other things than results."""
    names = [one.name for one in folder.iterdir()] if folder.is_dir() else []
    others = sorted(name for name in names if name not in OURS and not name.endswith(".draft"))  # a kill may leave a draft
    if others:
        raise DataError(f"holds other things, such as {others[0]}", where=folder, mend="choose a folder of its own with --out")


def read_results(folder: Path) -> dict[str, Any]:
    """results.json, its tasks as `Task`.

    Raises:
        DataError: no results there.
    """
    file = folder / "results.json"
    if not file.is_file():
        below = sorted(str(one.parent) for one in (folder / "evaluation").glob("*/results.json"))  # a run was given
        mend = f"give one of {', '.join(below)}" if below else "give a folder that `smolforge evaluate` wrote"
        raise DataError("no results there", where=folder, mend=mend)
    content = _read(file)
    try:
        content["tasks"] = {key: _task(task) for key, task in content["tasks"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not a file of results ({type(error).__name__}: {error})", where=file, mend=AGAIN) from error
    return content


def _read(file: Path) -> dict[str, Any]:
    """Raises DataError for what is no file of results."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content["tasks"], dict) or not isinstance(content["model"]["weights"], str):
            raise TypeError("other types")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"not a file of results ({type(error).__name__}: {error})", where=file, mend=AGAIN) from error
    return content


def read_predictions(folder: Path, key: str) -> list[Prediction]:
    """Every answer of a task, in the order of its questions."""
    file = folder / "predictions" / f"{key}.jsonl"
    if not file.is_file():
        raise DataError("no predictions there", where=file, mend="evaluate again")
    return list(_predictions(file))


def _predictions(file: Path) -> Iterator[Prediction]:
    try:
        # Not splitlines(): U+2028 and its like may stand inside a string.
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"not predictions ({error})", where=file, mend=AGAIN) from error
    for number, line in enumerate(lines):
        if not line:
            continue
        try:
            values = json.loads(line)
            values |= {name: tuple(values[name]) for name in ("pictures", "changes")}
            yield Prediction(**values | {"marks": tuple((int(a), int(b), str(kind)) for a, b, kind in values["marks"])})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"not a prediction ({error})", where=f"{file}, line {number + 1}", mend=AGAIN) from error


def _task(values: dict[str, Any]) -> Task:
    scores = {
        name: None if score is None else Score(**{key: math.nan if v is None else v for key, v in score.items()})
        for name, score in values.pop("scores").items()
    }
    return Task(**values, scores=scores)


def _plain(value: Any) -> Any:
    """JSON without NaN: a bound that cannot be said is null."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
