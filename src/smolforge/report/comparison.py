"""Two evaluations compared: the page and the lines of `smolforge compare`. What got worse stands first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smolforge.evals.comparing import Compared, Pair
from smolforge.evals.results import read_results
from smolforge.report.answers import legend, side_by_side
from smolforge.report.evaluation import (
    NOTE,
    asked_of,
    change_cell,
    compare_known,
    counted,
    few,
    finding_cell,
    gained,
    known_measures,
    main_measure,
    measure_cell,
    score_cell,
)
from smolforge.report.page import Html, facts, join, page, save, section, table, tag
from smolforge.report.words import FEW, Verdict, difference, interval, number, sentences, tally, these, verdict, verdicts

WORSE, BETTER = 40, 12  # examples of a task on the page
TERSE: dict[Verdict, str] = {"same": "no difference", "": "cannot be compared"}
LINES, CUT = 5, 80  # examples of a task in the terminal, and characters of an answer


def compare_folders(before: Path, after: Path) -> dict[str, Compared]:
    """The tasks that two folders of results share, by this version's measures.

    Raises:
        DataError: as `evals.comparing.compare`, and a benchmark that this version does not have.
    """
    return compare_known(before, after, known_measures())


def write_comparison(
    before: Path, after: Path, out: Path | None = None, *, compared: Mapping[str, Compared] | None = None
) -> Path:
    """One page that compares two folders of results.

    Args:
        out: comparison.html in the current folder when left out.
        compared: what `compare_folders` gave for them, if it is at hand.

    Raises:
        DataError: as `compare_folders`.
    """
    tasks = compare_folders(before, after) if compared is None else compared
    models = {place: read_results(place)["model"] for place in (before, after)}
    body = (
        tag("h1", "What changed"), _models(models, before, after), _headline(tasks),
        *(_task(one, (after, before)) for one in tasks.values()),
        tag("p", NOTE, class_="dim small"),
    )  # fmt: skip
    return save(out or Path("comparison.html"), page(f"{before.name} against {after.name}", *body))


def _models(models: Mapping[Path, Mapping[str, Any]], before: Path, after: Path) -> Html:
    named = [(when, f"{models[place]['name']} ({place})") for when, place in (("before", before), ("after", after))]
    same = models[before]["weights"] == models[after]["weights"]
    return join((facts(named), tag("p", tag("b", "Both folders measured the same weights.")) if same else Html()))


def _headline(tasks: Mapping[str, Compared]) -> Html:
    sided = [found for one in tasks.values() for found in verdicts(one.changes, one.after.measures)]
    lines = [
        tag("p", tag("b", one.after.name), ": ", sentences(one.changes, one.after.measures, len(one.pairs)))
        for one in tasks.values()
    ]
    return tag("div", tag("p", tag("b", tally(sided))), *lines, class_="lead")


def _task(one: Compared, folders: tuple[Path, ...]) -> Html:
    worse = [pair for pair in one.pairs if pair.gain < 0]
    better = [pair for pair in reversed(one.pairs) if pair.gain > 0]
    remarks = [few(len(one.pairs))] if len(one.pairs) < FEW else []
    if any(one.alone):
        before, after = one.alone
        remarks.append(f"Compared over {these(len(one.pairs))}; asked only before: {before:,}, only after: {after:,}.")
    return section(
        one.after.name,
        asked_of({"before": one.before, "after": one.after}),
        _table(one),
        *(tag("p", remark, class_="small") for remark in remarks),
        tag("p", counted(one)),
        _pairs("Worse, the worst first", worse, WORSE, one, folders) or tag("p", "No answer got worse.", class_="dim"),
        _pairs("Better, the best first", better, BETTER, one, folders),
    )


def _table(one: Compared) -> Html:
    rows = []
    for name, change in one.changes.items():
        about = one.after.measures[name]
        cells = [score_cell(score, about) for score in (change.before, change.after)]
        rows.append([measure_cell(name, about), *cells, change_cell(change, about), finding_cell(change, about, len(one.pairs))])
    return table(["", "before", "after", "difference", ""], rows)


def _pairs(title: str, pairs: list[Pair], most: int, one: Compared, folders: tuple[Path, ...]) -> Html:
    if not pairs:
        return Html()
    about, name = main_measure(one)
    cards = [side_by_side(p.before, p.after, folders, note=f"{p.after.id} · {gained(p.gain, name, about)}") for p in pairs[:most]]
    count = f" {len(cards)} of {len(pairs):,}"
    return join((tag("h3", title, tag("small", count, class_="dim")), legend(cards), *cards))


# --- the terminal ----------------------------------------------------------------------------------------------------


def comparison_lines(compared: Mapping[str, Compared]) -> list[str]:
    """The tables as aligned text, and under each the worst examples, one line each.

    "no difference" stands for: none that so many questions can show.
    """
    lines: list[str] = []
    for key, one in compared.items():
        lines += [*([""] if lines else []), f"{key}, questions: {len(one.pairs):,}", *_aligned(_rows(one))]
        lines += ["  " + counted(one)] + [_line(pair, one) for pair in one.pairs[:LINES] if pair.gain < 0]
    return lines


def _rows(one: Compared) -> list[list[str]]:
    rows = []
    for name, change in one.changes.items():
        about = one.after.measures[name]
        percent, by = about["percent"], change.difference
        cells = [
            f"{number(score.value, percent)} {interval(score, percent)}".rstrip() if score else "-"
            for score in (change.before, change.after)
        ]
        changed = f"{difference(by, percent)} {interval(by, percent, sign=True)}".rstrip() if by else "-"
        rows.append([name, *cells, changed, TERSE.get(found := verdict(change, about["better"]), found)])
    return [["", "before", "after", "difference", ""], *rows]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _line(pair: Pair, one: Compared) -> str:
    about, name = main_measure(one)
    answers = f"{_plain(pair.before.answer, CUT)} -> {_plain(pair.after.answer, CUT)}"
    return f"    {_plain(pair.after.id, 24)}, {gained(pair.gain, name, about)}: {answers}"


def _plain(text: str, most: int) -> str:
    """On one line, without what could move a terminal's cursor, and cut."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    bare = " ".join(clean.split()) or "(nothing)"
    return bare if len(bare) <= most else f"{bare[: most - 1]}…"
