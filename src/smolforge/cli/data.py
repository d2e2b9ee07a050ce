"""The verb `data`: sources before they are trained on. Its own verbs come from their modules."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from smolforge.cli.curating import add as add_curating
from smolforge.cli.sourcing import add as add_sourcing

EXAMPLES = (
    "smolforge data list", "smolforge data preview vript --fixture", "smolforge data download vript data/vript",
    "smolforge data prepare recipes/mixture.yaml prepared", "smolforge data dedupe recipes/mixture.yaml",
)  # fmt: skip


def add(verbs: argparse._SubParsersAction, make: Callable[..., argparse.ArgumentParser]) -> None:
    """`data` and what stands below it."""
    about = "look at sources, fetch them, make them ready, list doubles"
    data = verbs.add_parser(
        "data", help=about, description=about[0].upper() + about[1:] + ".", epilog="examples:\n  " + "\n  ".join(EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    below = data.add_subparsers(title="verbs of data", metavar="VERB", required=True)
    add_sourcing(below, make)
    add_curating(below, make)
