"""Several runs on one page: a table that sets them side by side, then each run as its own page would tell it."""

from __future__ import annotations

from collections.abc import Sequence

from smolforge.evals.results import Task
from smolforge.report.evaluation import measure_cell, score_cell
from smolforge.report.page import Html, join, table, tag
from smolforge.report.run import Run, run_sections

NOTE = (
    "Losses can be compared only between runs of one objective on the same held-out data. Scores are those of each run's last "
    "stage, with 95 % bootstrap intervals; for a paired difference between two of them use `smolforge compare`."
)


def runs_page(runs: Sequence[Run]) -> Html:
    """The body of a page of several runs."""
    each = [tag("section", run_sections(run), class_="run", id=f"run-{n}") for n, run in enumerate(runs, start=1)]
    return join((tag("h1", f"{len(runs)} runs side by side"), side_by_side(runs), tag("p", NOTE, class_="dim small"), *each))


def side_by_side(runs: Sequence[Run]) -> Html:
    """Columns are runs; rows are what they are, their losses, and every score that one of them has."""
    names = [tag("a", name, href=f"#run-{n}") for n, name in enumerate(distinct(runs), start=1)]
    rows: list[list[object]] = [
        ["objective", *(run.recipe["objective"]["kind"].upper() for run in runs)],
        ["model", *(run.recipe["model"]["name"] for run in runs)],
        ["data", *(run.sources for run in runs)],
        ["loss before", *(_loss(run, "before") for run in runs)],
        ["loss after", *(_loss(run, "after") for run in runs)],
    ]
    for key in dict.fromkeys(one.key for run in runs for one in run.tasks):
        rows += _scores(key, [next((one.task for one in run.tasks if one.key == key), None) for run in runs])
    return table(["", *names], rows)


def _scores(key: str, tasks: Sequence[Task | None]) -> list[list[object]]:
    """A task's rows: how many questions, and its scores; None for a run that was not evaluated by it."""
    rows: list[list[object]] = [
        [
            tag("td", tag("b", key), tag("small", "questions", class_="dim")),
            *(f"{one.questions:,}" if one else "–" for one in tasks),
        ]
    ]
    measures = {name: about for one in tasks if one for name, about in one.measures.items()}
    for name, about in measures.items():
        rows.append([measure_cell(name, about), *(score_cell(one.scores.get(name) if one else None, about) for one in tasks)])
    return rows


def _loss(run: Run, when: str) -> str:
    loss = run.summary.get(when, {}).get("loss")
    return "–" if loss is None else f"{loss:.4f}"


def distinct(runs: Sequence[Run]) -> list[str]:
    """Names of the runs, or where they stand, if two are called the same."""
    names = [run.name for run in runs]
    return [run.name if names.count(run.name) == 1 else str(run.folder) for run in runs]
