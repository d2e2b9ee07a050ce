"""The verbs `data dedupe` and `data decontaminate`."""

from __future__ import annotations

import argparse
import math
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolforge.cli.settings import add_settings
from smolforge.errors import UserError
from smolforge.wording import how_many

if TYPE_CHECKING:
    from smolforge.curating.dedupe import Findings
    from smolforge.curating.reading import Table
    from smolforge.recipe import DataSection

EXAMPLES = 5  # in the summary
DUPLICATES, OVERLAP = "duplicates", "overlap"  # in the names of lists


def add(verbs: Any, make: Callable[..., argparse.ArgumentParser]) -> None:
    """Both verbs below `data`."""
    verb = make(
        verbs, dedupe, "list rows whose picture and text are nearly those of an earlier row",
        "smolforge data dedupe recipes/captions.yaml data.0.source=my_pictures",
        "smolforge data dedupe my_pictures --by picture --out duplicates.jsonl",
        "smolforge train recipes/captions.yaml data.0.source=my_pictures data.0.exclude=[duplicates.jsonl]",
    )  # fmt: skip
    _what(verb)
    verb.add_argument(
        "--by", choices=("both", "picture", "text"), default="both",
        help="what has to be near; both: rows without pictures by their texts alone (default: %(default)s)",
    )  # fmt: skip
    verb.add_argument(
        "--similarity", type=_share, default=0.8, help="least Jaccard of two texts' 5-word runs (default: %(default)s)"
    )
    verb = make(
        verbs, decontaminate, "list rows that an evaluation set has too",
        "smolforge data decontaminate recipes/captions.yaml --against pope --against docvqa=my_docvqa",
        "smolforge data decontaminate pairs.jsonl --against held_out.jsonl --against photos/ --out overlap.jsonl",
    )  # fmt: skip
    _what(verb)
    verb.add_argument(
        "--against", action="append", required=True, metavar="WHAT",
        help="evaluation set, again for more: a benchmark (pope, or pope=FOLDER), a file, folder, source, folder of pictures, or "
        "a recipe, whose eval.data are meant",
    )  # fmt: skip
    verb.add_argument("--against-split", default="train", help="split of those that are sources (default: %(default)s)")
    verb.add_argument("--data", type=Path, help="folder with the benchmark's columns, as for evaluate; otherwise the Hub")
    verb.add_argument(
        "--by", choices=("either", "picture", "text"), default="either", help="what counts as overlap (default: %(default)s)"
    )


def _what(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("what", metavar="RECIPE_OR_SOURCE", help="YAML recipe, or a source by name, file, folder or Hub name")
    add_settings(verb)
    verb.add_argument("--split", default="train", help="split and slice of a source, such as train[:10%%] (default: %(default)s)")
    verb.add_argument("--name", help="configuration of a source that has several")
    verb.add_argument("--out", type=Path, metavar="LIST", help="the list, JSON Lines; a page is written beside it")
    verb.add_argument("--distance", type=_bits, default=10, help="most bits of 64 that differ, 0 to 15 (default: %(default)s)")
    verb.add_argument(
        "--cache", type=Path, help="folder of computed marks (default: the recipe's cache.dir, or ~/.cache/smolforge)"
    )


def dedupe(options: argparse.Namespace) -> int:
    from smolforge.curating.dedupe import find_duplicates
    from smolforge.curating.lists import claim_list
    from smolforge.curating.reading import open_tables, picture_store

    sections, cache, max_pixels = _sections(options)
    claim_list(_list_of(options, DUPLICATES), sections)
    tables = open_tables(sections)
    with _Progress("comparing", sum(len(table.source.rows) for table in tables)) as tick:
        findings = find_duplicates(
            tables, by=options.by, distance=options.distance, similarity=options.similarity, store=picture_store(cache),
            max_pixels=max_pixels, tick=tick,
        )  # fmt: skip
    settings = [("by", options.by), ("bits", str(options.distance)), ("similarity", str(options.similarity))]
    _show(options, findings, tables, DUPLICATES, settings)
    return 0


def decontaminate(options: argparse.Namespace) -> int:
    from smolforge.curating.against import open_against
    from smolforge.curating.decontaminate import find_overlaps
    from smolforge.curating.lists import claim_list
    from smolforge.curating.reading import called, open_tables, picture_store

    sections, cache, max_pixels = _sections(options)
    claim_list(_list_of(options, OVERLAP), sections)
    tables = open_tables(sections)
    against = open_against(*options.against, split=options.against_split, data=options.data, beside=tables)
    total = sum(len(table.source.rows) for table in tables) + sum(len(one.rows) for one in against)
    with _Progress("comparing", total) as tick:
        findings = find_overlaps(
            tables,
            against,
            by=options.by,
            distance=options.distance,
            store=picture_store(cache),
            max_pixels=max_pixels,
            tick=tick,
        )
    compared = ", ".join(f"{called(one)} ({how_many(len(one.rows), 'row')})" for one in against)
    settings = [("against", compared), ("by", options.by)]
    _show(options, findings, tables, OVERLAP, settings)
    return 0


def _sections(options: argparse.Namespace) -> tuple[tuple[DataSection, ...], Path | None, int]:
    """What is read, where marks are kept, and the largest picture."""
    from smolforge.recipe import DataSection, ImagesSection, load_recipe

    if Path(options.what).suffix in (".yaml", ".yml"):
        if options.split != "train" or options.name:
            raise UserError("--split and --name are for a source", where=options.what, mend="write data.0.split=... instead")
        recipe = load_recipe(options.what, options.overrides)
        return recipe.data, options.cache or recipe.cache.dir, recipe.images.max_pixels
    if options.overrides:
        raise UserError("key=value is for a recipe", where=options.what, mend="use --split and --name")
    return (
        (DataSection(source=options.what, split=options.split, name=options.name),),
        options.cache,
        ImagesSection().max_pixels,
    )


def _name(options: argparse.Namespace) -> str:
    return Path(options.what.rstrip("/")).stem or "data"


def _list_of(options: argparse.Namespace, kind: str) -> Path:
    return options.out or Path(f"{_name(options)}.{kind}.jsonl")


def _show(
    options: argparse.Namespace, findings: Findings, tables: list[Table], kind: str, settings: list[tuple[str, str]]
) -> None:
    """Write list and page, and say on the screen what they hold."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Grid

    from smolforge.curating.lists import entry, readers, write_list
    from smolforge.curating.page import findings_page
    from smolforge.curating.reading import row_name
    from smolforge.report.page import save

    name = _name(options)
    out = write_list(_list_of(options, kind), findings.removals, tables)
    title = {DUPLICATES: f"Near-duplicates in {name}", OVERLAP: f"Overlap of {name} with evaluations"}[kind]
    shown = save(out.with_suffix(".html"), findings_page(title, findings, tables, [("list", str(out)), *settings]))

    console, gone = Console(), Counter(one.source for one in findings.removals)
    grid = Grid("source", "rows", "left out", "share", title=title, title_justify="left")
    for number, (table, rows) in enumerate(zip(tables, findings.rows, strict=True)):
        grid.add_row(escape(table.title), f"{rows:,}", f"{gone[number]:,}", f"{gone[number] / rows:.1%}" if rows else "-")
    console.print(grid)
    lines = [f"pictures: {findings.pictures:,}, {findings.different_pictures:,} of them different"] if findings.pictures else []
    if findings.clusters:
        largest = how_many(findings.clusters[0], "row")
        lines.append(f"groups of which one row stays: {len(findings.clusters):,}, the largest of {largest}")
    reasons = Counter(one.reason for one in findings.removals)
    lines += [f"{reason}: {count:,}" for reason, count in reasons.most_common()]
    for one in findings.removals[:EXAMPLES]:
        told = entry(one, tables[one.source])
        near = [f"{key} {told[key]}" for key in ("distance", "similarity") if told[key] is not None]
        lines.append(f"  {row_name(tables[one.source].source, one.index)} is {told['of']} ({', '.join(near)})")
    skips = findings.skips
    lines += [f"{why}: {count:,}, such as {'; '.join(skips.names[why])}" for why, count in skips.counts.items()]
    lines += [f"list: {out}", f"page: {shown}"]
    if gone:
        reading = readers(findings.removals, tables)
        settings_ = " ".join(_setting(number, [*tables[number].section.exclude, out]) for number in reading)
        lines.append(f"to leave these rows out: smolforge train RECIPE {settings_}")
    else:
        lines.append("nothing to leave out")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _setting(number: int, lists: list[Path]) -> str:
    """An entry's lists as they are typed: all of them, as the setting takes the place of the recipe's.

    >>> _setting(0, [Path("old.jsonl"), Path("new.jsonl"), Path("old.jsonl")])
    "'data.0.exclude=[old.jsonl, new.jsonl]'"
    """
    import yaml

    names = list(dict.fromkeys(map(str, lists)))
    value = yaml.safe_dump(names, default_flow_style=True, allow_unicode=True, width=math.inf).strip()
    return shlex.quote(f"data.{number}.exclude={value}")


class _Progress:
    """A bar on a terminal; elsewhere a line every half minute."""

    def __init__(self, what: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=self._console, transient=True, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(what, total=total)
        self._what, self._total, self._done, self._told = what, total, 0, 0.0

    def __enter__(self) -> Callable[[], None]:
        import time

        self._told = time.monotonic()
        self._bar.start()

        def tick() -> None:
            self._done += 1
            self._bar.advance(self._task)
            if not self._console.is_terminal and time.monotonic() - self._told > 30:
                self._told = time.monotonic()
                of = how_many(self._total, "row")
                self._console.print(f"{self._what}: {self._done:,} of {of}", highlight=False, soft_wrap=True)

        return tick

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError("above 0 and at most 1")
    return value


def _bits(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 15:
        raise argparse.ArgumentTypeError("0 to 15")
    return value
