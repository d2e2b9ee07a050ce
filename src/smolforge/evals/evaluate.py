"""Several tasks on one model, into one folder of results: what `smolforge evaluate` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from smolforge.errors import DataError
from smolforge.evals.answers import Measured, measured
from smolforge.evals.benchmark import PROTOCOLS, Protocol
from smolforge.evals.benchmarks import BENCHMARKS
from smolforge.evals.fixtures import write_fixture
from smolforge.evals.names import TASKS
from smolforge.evals.preference import preference, write_preference
from smolforge.evals.results import Task, refuse_foreign, refuse_others
from smolforge.evals.rows import findable, open_rows
from smolforge.evals.runner import run_task
from smolforge.loading import Loaded
from smolforge.objectives.comparison import by_source, lines
from smolforge.recipe import DataSection
from smolforge.wording import how_many


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to measure."""

    tasks: tuple[str, ...]
    data: tuple[str, ...] = ()  # folders or files; of several tasks a folder with one named like each; none asks the Hub
    prompts: tuple[Protocol, ...] = ("lmms-eval",)
    split: str = "train"  # of preference pairs
    limit: int | None = None  # most questions a task
    fixture: bool = False  # a few drawn rows instead of the benchmark's own


def evaluate(
    name: str,
    loaded: Loaded,
    wanted: Wanted,
    out: Path,
    *,
    reference: Loaded | None = None,
    judge: tuple[str, Loaded] | None = None,
    console: Console | None = None,
) -> list[Task]:
    """Measure a model; answers that it gave before are kept and not generated again.

    Args:
        out: folder of results; tasks that it has of the same model stay.
        reference: what implicit rewards of preference pairs are measured against.
        judge: name and model that rates answers, where a task has them rated.

    Raises:
        DataError: unknown tasks, data that cannot be used, or a folder with another model's results.
        ModelError: a text model is asked about pictures.
    """
    check(wanted)
    model = measured(name, loaded)
    rater = measured(*judge) if judge else None
    refuse_others(out, model.facts)
    refuse_foreign(out)
    console = console or Console(stderr=True)
    for note in loaded.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    done = []
    for task in dict.fromkeys(wanted.tasks):
        data = fixture(out / "fixture", task) if wanted.fixture else wanted.data
        if task == "preference":
            done.append(_preference(model, wanted, data, out, reference, console))
            continue
        benchmark = BENCHMARKS[task]
        rows = open_rows(task, benchmark, None if benchmark.drawn else place_of(task, data, wanted.tasks))
        for protocol in wanted.prompts:
            console.print(
                f"{task}: {benchmark.about}; {protocol}'s prompts, {how_many(len(rows), 'row')} of {rows.where}",
                highlight=False,
                soft_wrap=True,
            )
            one = run_task(
                model, task, benchmark, rows, out, protocol=protocol, limit=wanted.limit, judge=rater, console=console
            )  # fmt: skip
            done.append(one)
    return done


def check(wanted: Wanted) -> None:
    """Before anything is loaded or asked: what can be known to fail. Raises DataError."""
    if unknown := [task for task in wanted.tasks if task not in TASKS]:
        raise DataError(f"no task {', '.join(unknown)}", mend=f"tasks are {', '.join(TASKS)}")
    if not wanted.tasks:
        raise DataError("no task", mend=f"tasks are {', '.join(TASKS)}")
    if not wanted.prompts:
        raise DataError("no prompts", mend=f"there are {', '.join(PROTOCOLS)}")
    if unknown := [prompts for prompts in wanted.prompts if prompts not in PROTOCOLS]:
        raise DataError(f"no prompts {', '.join(unknown)}", mend=f"there are {', '.join(PROTOCOLS)}")
    if wanted.fixture:
        if wanted.data:
            raise DataError("data and fixture", mend="give one of them")
        return
    if "preference" in wanted.tasks and not wanted.data:
        raise DataError("preference needs pairs", mend="give a file, folder, source or Hub name with --data")
    if wanted.data and all(task in BENCHMARKS and BENCHMARKS[task].drawn for task in wanted.tasks):
        raise DataError(f"{', '.join(wanted.tasks)} is drawn and takes no data", mend="leave --data out")
    for task in wanted.tasks:
        if task in BENCHMARKS and not BENCHMARKS[task].drawn:
            findable(task, BENCHMARKS[task], place_of(task, wanted.data, wanted.tasks))


def place_of(task: str, data: Sequence[str], tasks: Sequence[str]) -> Path | None:
    """Folder or file of a task's rows: below one of `data` under the task's name, or the only one itself; None asks the Hub.

    Raises:
        DataError: several tasks, and none of `data` has a folder for this one.
    """
    for one in data:
        if (below := Path(one) / task).is_dir():
            return below
    if not data:
        return None
    if len(data) == len(tasks) == 1:
        return Path(data[0])
    raise DataError(
        f"no folder {task}", where=", ".join(data), mend="of several tasks, give a folder with one named like each task"
    )


def fixture(folder: Path, task: str) -> tuple[str, ...]:
    """A few drawn rows of a task, kept for a person to look at."""
    write_fixture(folder / task, task)
    return (str(folder),)


def _preference(
    model: Measured, wanted: Wanted, data: Sequence[str], out: Path, reference: Loaded | None, console: Console
) -> Task:
    below = [str(Path(one) / "preference") for one in data if (Path(one) / "preference").is_dir()]
    split = "train" if wanted.fixture else wanted.split
    sections = [DataSection(source=one, split=split) for one in below or data]
    result = preference(model.loaded, sections, reference=reference, limit=wanted.limit)
    by = by_source(result.comparisons)
    for line in result.notes + result.tally.lines() + (lines(by) if len(by) > 1 else []):
        console.print(f"preference: {line}", highlight=False, soft_wrap=True)
    return write_preference(out, model.facts, result, sections, wanted.limit)
