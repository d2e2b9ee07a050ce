"""rows -> questions -> answers -> counts -> scores, read top to bottom.

Answers are kept by content (the weights, the prompt's tokens, its pictures), a group of prompts at a time. So the same command
goes on where it was killed and ends in the same results: groups are planned over all its questions. After another --limit a
group may be smaller than in a fresh run, and its numbers differ by rounding.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from smolforge.errors import DataError, ModelError
from smolforge.evals.answers import Kept, Measured, Skips, answer, rate
from smolforge.evals.benchmark import Benchmark, Given, Protocol, Question
from smolforge.evals.measures import scores
from smolforge.evals.results import Prediction, Task, measure_facts, write_task
from smolforge.evals.rows import Rows, sample
from smolforge.files import write_whole
from smolforge.machine import forget_peak, peak_memory


def run_task(
    model: Measured,
    name: str,
    benchmark: Benchmark,
    rows: Rows,
    out: Path,
    *,
    protocol: Protocol,
    limit: int | None = None,
    judge: Measured | None = None,
    console: Console | None = None,
) -> Task:
    """Ask a model a benchmark's questions, score the answers, and write both into a folder of results.

    Args:
        limit: most questions, a fixed random sample of all rows.
        judge: the model that rates answers, where the benchmark has them rated.

    Raises:
        ModelError: a text model is asked about pictures.
        DataError: two rows with one id, or no row that can be asked.
    """
    if benchmark.pictures and model.loaded.renderer.images is None:
        raise ModelError(
            "a text model, and the task is about pictures", where=f"{model.name}, {name}", mend="choose another task"
        )
    console = console or Console(stderr=True)
    began, skips = time.monotonic(), Skips()
    forget_peak(model.loaded.device)
    questions = list(ask(benchmark, rows, protocol, limit, skips))
    answers, fresh = answer(model, questions, skips, console, name, out)
    asked = [question for question in questions if question.id in answers]
    if not asked:
        raise DataError(f"no question can be asked: {skips.named[0] if skips.named else 'there are none'}", where=rows.where)
    given = [_given(answers[question.id]) for question in asked]
    if benchmark.judge and judge:
        given = rate(judge, benchmark, asked, given, skips, console)
    scored = list(benchmark.score(asked, given))
    assert len(scored) == len(asked), f"{len(scored)} scored of {len(asked)} asked"
    predictions = [
        Prediction(
            id=question.id, prompt=question.record.words, answer=got.text, tokens=got.tokens, finished=got.finished,
            facts=question.facts, sums=one.sums, read=one.read, marks=one.marks, pictures=tuple(answers[question.id].pictures),
            changes=tuple(answers[question.id].changes), options=dict(zip(question.options, got.logprobs)),
        )
        for question, got, one in zip(asked, given, scored)
    ]  # fmt: skip
    sums = [one.sums for one in scored]
    known = {key for one in sums for key in one}
    measures = {key: measure for key, measure in benchmark.measures.items() if not measure.needs or measure.needs in known}
    notes = [*benchmark.notes()]
    if benchmark.judge and judge:
        notes = [f"rated by {judge.name}"]
    task = Task(
        name=name, prompts=protocol, data=rows.where, questions=len(asked), limit=limit, skipped=dict(skips.reasons),
        named=skips.named, notes=notes, scores=scores(sums, measures), measures=measure_facts(measures),
    )  # fmt: skip
    write_task(out, model.facts, task, predictions)
    _write_cost(out, task.key, seconds=time.monotonic() - began, questions=len(asked), fresh=fresh, model=model)
    return task


# --- rows -> questions -------------------------------------------------------------------------------------------------


def ask(benchmark: Benchmark, rows: Rows, protocol: Protocol, limit: int | None, skips: Skips) -> Iterator[Question]:
    """Questions of the rows; a row that cannot be asked is counted and named.

    Raises:
        DataError: two rows with one id.
    """
    seen: dict[str, int] = {}
    for number in sample(len(rows), limit):
        try:
            row, origin = rows[number]
            question = benchmark.question(row, protocol, origin)
        except DataError as error:
            skips.add(error.what, f"{rows.name}[{number}]: {error}")
            continue
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            skips.add("a malformed row", f"{rows.name}[{number}]: a malformed row ({type(error).__name__}: {error})")
            continue
        if question.id in seen:
            where = f"{rows.where}, rows {seen[question.id]} and {number}"
            raise DataError(f"two rows with the id {question.id}", where=where, mend="give each row its own id")
        seen[question.id] = number
        yield question


def _given(kept: Kept) -> Given:
    one = kept.answer
    return Given(text=one.text, tokens=one.tokens, finished=one.finished, logprobs=one.logprobs)


# --- cost ----------------------------------------------------------------------------------------------------------------


def _write_cost(out: Path, key: str, *, seconds: float, questions: int, fresh: int, model: Measured) -> None:
    """What a task's last attempt took, beside the results: it differs from run to run."""
    file = out / "cost.json"
    try:
        costs = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError:  # a damaged note of the cost is no reason to lose a result
        costs = {}
    costs[key] = {
        "seconds": round(seconds, 3), "questions": questions, "generated": fresh, "generated/s": round(fresh / seconds, 3),
        "peak_memory_bytes": peak_memory(model.loaded.device),
    }  # fmt: skip
    write_whole(file, json.dumps(costs, indent=1) + "\n")
