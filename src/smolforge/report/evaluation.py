"""What a run's evaluations say: a headline, a table a task, pictures with every stage's answer, and the worst regressions.

RUN/evaluation/before/results.json      a folder of results (evals/results.py) a stage: before, sft, dpo, after, ...
RUN/evaluation/sft/results.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolforge.errors import DataError
from smolforge.evals.comparing import Change, Compared, compare
from smolforge.evals.measures import Measure, Score
from smolforge.evals.results import Task, read_predictions, read_results
from smolforge.report.answers import card, legend
from smolforge.report.page import Html, facts, join, read_json, section, table, tag
from smolforge.report.words import (
    COLOURS,
    FEW,
    TOLD,
    difference,
    finding,
    interval,
    number,
    sentences,
    tally,
    these,
    verdict,
    verdicts,
)
from smolforge.wording import how_many

Measures = Mapping[str, Mapping[str, Measure]]  # of each task, by its name
SHOWN = 8  # questions of a task, of each kind
NOTE = (
    "In brackets 95 % bootstrap intervals; those of differences are paired, question by question. Differences of percentages are "
    "points. Green and red only where the interval leaves out 0, which one in twenty does by chance where nothing changed."
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One evaluation of a run."""

    name: str
    folder: Path
    model: str  # as it was named
    tasks: dict[str, Task]  # by key


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One task at the stages that have it."""

    key: str
    stages: list[Stage]  # in order, at least one
    base: Stage  # that the last one is compared with
    compared: Compared | None
    refused: str = ""  # why they could not be compared

    @property
    def tasks(self) -> dict[str, Task]:
        return {stage.name: stage.tasks[self.key] for stage in self.stages}

    @property
    def task(self) -> Task:
        """As it was last."""
        return self.stages[-1].tasks[self.key]

    @property
    def drawn(self) -> bool:
        """Whether the rows are `--fixture`'s, which are made up and say nothing about a model."""
        place = Path(self.task.data)
        return (place.parent.name, place.name) == ("fixture", self.task.name)

    @property
    def questions(self) -> int:
        """That the comparison rests on."""
        return len(self.compared.pairs) if self.compared else self.task.questions


def known_measures() -> Measures:
    """How the scores of every task are computed. Benchmarks are imported here, for they bring their metrics along."""
    from smolforge.evals.benchmarks import MEASURES

    return MEASURES


def stages(run: Path) -> list[Stage]:
    """Evaluations of a run: before, then those of stages.json in its order, then others by name, and after."""
    folders = [file.parent for file in (run / "evaluation").glob("*/results.json")]
    listed = [*read_json(run / "stages.json")]
    names = {folder: next((name for name in listed if name.lower() == folder.name.lower()), folder.name) for folder in folders}

    def rank(folder: Path) -> tuple[int, int, str]:
        name = names[folder]
        place = {"before": 0, "after": 3}.get(name.lower(), 1 if name in listed else 2)
        return place, listed.index(name) if place == 1 else 0, name

    found = ((one, read_results(one)) for one in sorted(folders, key=rank))
    return [Stage(name=names[one], folder=one, model=str(held["model"]["name"]), tasks=held["tasks"]) for one, held in found]


def measured(found: Sequence[Stage], measures: Measures, start: str | None = None) -> list[Measured]:
    """Every task of the stages, the last stage that has it compared with what the run started from, else with the first.

    Args:
        start: name of that model.
    """
    keys = list(dict.fromkeys(key for stage in found for key in stage.tasks))
    pairs: dict[tuple[Path, Path], dict[str, Compared] | str] = {}
    tasks = []
    for key in keys:
        having = [stage for stage in found if key in stage.tasks]
        last = having[-1]
        first = next((stage for stage in having[:-1] if stage.model == start), having[0])
        if first is last:
            tasks.append(Measured(key=key, stages=having, base=first, compared=None))
            continue
        place = first.folder, last.folder
        if place not in pairs:
            pairs[place] = _compared(first.folder, last.folder, measures)
        result = pairs[place]
        compared = None if isinstance(result, str) else result.get(key)
        refused = result if isinstance(result, str) else "" if compared else "they share no question"
        tasks.append(Measured(key=key, stages=having, base=first, compared=compared, refused=refused))
    return tasks


def _compared(first: Path, last: Path, measures: Measures) -> dict[str, Compared] | str:
    """Or why not: scores can be shown all the same."""
    try:
        return compare_known(first, last, measures)
    except DataError as error:
        return error.what


def compare_known(first: Path, last: Path, measures: Measures) -> dict[str, Compared]:
    """`compare`, refusing tasks whose measures are not known.

    Raises:
        DataError: as `compare`, and a benchmark that this version does not have.
    """
    old, new = read_results(first)["tasks"], read_results(last)["tasks"]
    unknown = sorted({task.name for key, task in old.items() if key in new} - set(measures))
    if unknown:
        raise DataError(f"results of an unknown benchmark, {unknown[0]}", where=last, mend="evaluate again with this version")
    return compare(first, last, measures)


# --- the headline ----------------------------------------------------------------------------------------------------


def headline(tasks: Sequence[Measured]) -> Html:
    """Whether the model got better, task by task, in what the intervals support; scores alone where nothing is compared."""
    tasks = [one for one in tasks if not one.drawn]
    if not tasks:
        return Html()
    sided = [found for one in tasks if one.compared for found in verdicts(one.compared.changes, one.task.measures)]
    ends = dict.fromkeys((task.base.name, task.stages[-1].name) for task in tasks if task.compared)
    total = [tag("p", tag("b", f"{' and '.join(f'{a} → {b}' for a, b in ends)}: {tally(sided)}"))] if sided else []
    return tag("div", *total, *map(_headline, tasks), class_="lead")


def _headline(one: Measured) -> Html:
    task, compared = one.task, one.compared
    if compared:
        return tag("p", tag("b", task.name), ": ", sentences(compared.changes, task.measures, one.questions))
    words = [f"{name} {_score(score, task.measures[name])}" for name, score in task.scores.items() if score][:TOLD]
    once = [] if len(one.stages) > 1 else [f"measured at one stage only, {one.stages[0].name}"]
    return tag("p", tag("b", task.name), f": {'; '.join(words + once)}.")


def _score(score: Score, about: Mapping[str, Any]) -> str:
    return f"{number(score.value, about['percent'])} {interval(score, about['percent'])}".strip()


# --- tables ----------------------------------------------------------------------------------------------------------


def score_tables(tasks: Sequence[Measured]) -> Html:
    """The section of scores."""
    parts = [join((_title(one), asked_of(one.tasks), _table(one), _remarks(one))) for one in tasks]
    return section("Scores", *parts, tag("p", NOTE, class_="dim small")) if parts else Html()


def _title(one: Measured) -> Html:
    made_up = (
        [tag("p", "Made-up rows, to try the task: these scores say nothing about a model.", class_="dim")] if one.drawn else []
    )
    return join((tag("h3", one.task.name), *made_up))


def _table(one: Measured) -> Html:
    """Rows are measures, in the benchmark's order: what is invented stands beside what is left out."""
    about, compared = one.task.measures, one.compared
    ends = tag("small", f"{one.stages[-1].name} − {one.base.name}", class_="dim")
    head = ["", *one.tasks, *([join(("difference ", ends))] if compared else [])]
    rows = []
    for name in about:
        cells = [score_cell(task.scores.get(name), about[name]) for task in one.tasks.values()]
        if compared:
            cells.append(change_cell(compared.changes.get(name), about[name]))
        rows.append([measure_cell(name, about[name]), *cells])
    return table(head, rows)


def measure_cell(name: str, about: Mapping[str, Any]) -> Html:
    better = f"; {about['better']} is better" if about["better"] else ""
    return tag("td", name, tag("small", about["about"], better, class_="dim"))


def score_cell(score: Score | None, about: Mapping[str, Any]) -> Html:
    if score is None:
        return tag("td", "–")
    return tag("td", number(score.value, about["percent"]), tag("small", interval(score, about["percent"]), class_="dim"))


def change_cell(change: Change | None, about: Mapping[str, Any]) -> Html:
    """A difference with its interval, coloured where the interval leaves out 0."""
    if change is None or change.difference is None:
        return tag("td", "–")
    found, percent = verdict(change, about["better"]), about["percent"]
    by = tag("span", difference(change.difference, percent), class_=COLOURS.get(found))
    return tag("td", by, tag("small", interval(change.difference, percent, sign=True), class_="dim"))


def finding_cell(change: Change, about: Mapping[str, Any], questions: int) -> Html:
    """The verdict in words."""
    colour = COLOURS.get(verdict(change, about["better"]), "")
    return tag("td", finding(change, about["better"], questions), class_=f"words {colour}".strip())


def asked_of(tasks: Mapping[str, Task]) -> Html:
    """What was asked at the stages: prompts, data, how many questions, what was skipped, and the benchmark's notes."""
    notes = list(dict.fromkeys(note for task in tasks.values() for note in task.notes))
    named = list(dict.fromkeys(line for task in tasks.values() for line in task.named))
    listed = [
        ("prompts", _said({stage: task.prompts for stage, task in tasks.items()})),
        ("data", _said({stage: task.data for stage, task in tasks.items()})),
        ("questions", _said({stage: _questions(task) for stage, task in tasks.items()})),
        (
            "skipped",
            _said({stage: ", ".join(f"{n:,} {why}" for why, n in task.skipped.items()) for stage, task in tasks.items()}),
        ),
        ("notes", "; ".join(notes)),
    ]
    lines = [tag("li", line) for line in named]
    rows = (
        [tag("details", tag("summary", "the first skipped or changed rows"), tag("ul", *lines), class_="small")] if lines else []
    )
    return join([tag("div", facts(listed), class_="small"), *rows])


def _questions(task: Task) -> str:
    return f"{task.questions:,}" + (f", limited to {task.limit:,}" if task.limit is not None else "")


def _said(words: Mapping[str, str]) -> str:
    """Once, where all stages say the same."""
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return "; ".join(f"{stage}: {said or 'none'}" for stage, said in words.items())


def _remarks(one: Measured) -> Html:
    lines = []
    if one.refused:
        lines.append(f"The stages cannot be compared question by question: {one.refused}.")
    if one.compared and any(one.compared.alone):
        lines.append(f"Differences are over {these(one.questions)}, which both stages answered.")
    if one.questions < FEW:
        lines.append(few(one.questions))
    return join(tag("p", line, class_="small") for line in lines)


def few(questions: int) -> str:
    """What a reader must know of a small sample."""
    return f"Few questions ({questions:,}): the intervals are too narrow, and one answer more or less changes the scores much."


# --- questions -------------------------------------------------------------------------------------------------------


def spread(count: int, most: int = SHOWN) -> list[int]:
    """Up to `most` of `count` places, evenly spread: benchmarks put questions of a kind together.

    >>> spread(3), spread(100, 4)
    ([0, 1, 2], [0, 25, 50, 75])
    """
    return [n * count // most for n in range(most)] if count > most else list(range(count))


def pictures_with_answers(tasks: Sequence[Measured]) -> Html:
    """Some questions of every task with each stage's answer, whatever these are like."""
    parts = []
    for one in tasks:
        found = {stage.name: {p.id: p for p in read_predictions(stage.folder, one.key)} for stage in one.stages}
        everywhere = [id for id in found[one.stages[0].name] if all(id in by_id for by_id in found.values())]
        folders = [stage.folder for stage in one.stages]
        picked = [everywhere[n] for n in spread(len(everywhere))]
        cards = [card({stage: by_id[id] for stage, by_id in found.items()}, folders) for id in picked]
        if cards:
            count = f" {len(cards)} of {how_many(len(everywhere), 'question')}, evenly spread"
            parts.append(
                join(
                    (
                        tag("h3", one.task.name, tag("small", count, class_="dim")),
                        legend(cards),
                        tag("div", *cards, class_="cards"),
                    )
                )
            )
    stages = max((len(one.stages) for one in tasks), default=0)
    return section({1: "Pictures with answers", 2: "Pictures with both answers"}.get(stages, "Pictures with all answers"), *parts)


def regressions(tasks: Sequence[Measured]) -> Html:
    """Of every compared task, the questions whose answers lost most."""
    return section("Worst regressions", *(_regressions(one, one.compared) for one in tasks if one.compared))


def _regressions(one: Measured, compared: Compared) -> Html:
    worst = [pair for pair in compared.pairs if pair.gain < 0][:SHOWN]
    about, name = main_measure(compared)
    names = one.base.name, one.stages[-1].name
    folders = [one.stages[-1].folder, one.base.folder]
    cards = [card(dict(zip(names, (p.before, p.after))), folders, note=gained(p.gain, name, about)) for p in worst]
    return join((
        tag("h3", one.task.name), tag("p", counted(compared)), legend(cards),
        tag("div", *cards, class_="cards") if cards else tag("p", "No answer got worse.", class_="dim"),
    ))  # fmt: skip


def main_measure(compared: Compared) -> tuple[dict[str, Any], str]:
    """What a question's gain is counted in, and its name: the task's first measure."""
    name = next(iter(compared.changes))
    return compared.after.measures[name], name


def gained(gain: float, name: str, about: Mapping[str, Any]) -> str:
    """A question's gain in words.

    >>> gained(-0.5, "hallucination", {"better": "lower", "percent": True})
    'worse by 50 points of hallucination'
    """
    points = f"{abs(gain) * 100:.3g} points of" if about["percent"] else f"{number(abs(gain), False)} of"
    return f"{'better' if gain > 0 else 'worse'} by {points} {name}"


def counted(compared: Compared) -> str:
    """How many questions are answered better, worse, as well."""
    gains = [pair.gain for pair in compared.pairs]
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    name = main_measure(compared)[1]
    return (
        f"By {name}, of {these(len(gains))} {better:,} {'is' if better == 1 else 'are'} answered better, {worse:,} worse and "
        f"{len(gains) - better - worse:,} as well as before."
    )
