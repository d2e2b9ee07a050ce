"""`smolforge check`: what a recipe's data will do to its run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from smolforge.cli.settings import add_settings


def add(verbs: argparse._SubParsersAction, make: Callable[..., argparse.ArgumentParser]) -> None:
    """Build the verb's arguments."""
    verb = make(
        verbs, check, "look at a recipe's data before it runs: no weights, no GPU; exit code 1 for what would waste the run",
        "smolforge check recipes/captions.yaml data.0.source=my_pictures",
        "smolforge check recipes/mixture.yaml --sample 50 --out check.html", "smolforge check recipes/scenes.yaml --json",
    )  # fmt: skip
    verb.add_argument("recipe", help="YAML file; its model needs its tokenizer, no weights")
    add_settings(verb)
    verb.add_argument("--tiny", action="store_true", help="with a tiny model on a few drawn rows of each source")
    verb.add_argument("--sample", type=_above_zero, default=200, help="rows of each source (default: %(default)s)")
    verb.add_argument(
        "--seconds", type=_above_zero, default=120, help="about how long it may look at the training data (default: %(default)s)"
    )
    verb.add_argument("--out", type=Path, metavar="FILE", help="the page (default: RUN.check.html beside the run's folder)")
    verb.add_argument("--json", action="store_true", help="print what was found as JSON")


def check(options: argparse.Namespace) -> int:
    from smolforge.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)  # before torch is imported: a misspelt key answers at once
    if options.tiny:
        from smolforge.tiny import shrink

        steps = [f"run.steps={recipe.run.steps}"] if recipe.run.steps else []  # in 20 steps no rare source comes up
        recipe = shrink(options.recipe, [*options.overrides, *steps])
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from smolforge.checking import check
    from smolforge.checking.lines import lines, verdict
    from smolforge.checking.page import default_page, write_page
    from smolforge.report.page import claim_page

    out = options.out or default_page(recipe)
    claim_page(out)
    screen = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("opening the data", total=None)

        def tell(doing: str, done: int, of: int) -> None:
            bar.update(task, description=doing, completed=done, total=of)

        found = check(recipe, sample=options.sample, seconds=options.seconds, tell=tell)
    page = write_page(found, out)
    if options.json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for line in lines(found):
            console.print(line)
        print(verdict(found))
    print(f"page: {page}", file=sys.stderr if options.json else sys.stdout)
    return 1 if found.errors else 0


def _above_zero(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number
