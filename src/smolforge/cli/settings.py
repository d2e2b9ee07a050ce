"""Settings of a recipe on the command line: key=value behind the recipe, behind --set, or behind any other option."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

_SETTING = re.compile(r"[A-Za-z][\w.]*=.*", re.DOTALL)


def add_settings(verb: argparse.ArgumentParser) -> None:
    """`options.overrides` of a verb that reads a recipe."""
    words = "settings of the recipe to change, such as run.dir=runs/mine"
    verb.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=words)
    verb.add_argument("--set", nargs="+", action="extend", default=[], metavar="key=value", help="the same")


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options, all settings together in `overrides`: argparse ends a list of words at the first option and knows none behind."""
    options, rest = parser.parse_known_args(arguments)
    if rest and not (hasattr(options, "overrides") and all(map(_SETTING.fullmatch, rest))):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if hasattr(options, "overrides"):
        options.overrides = [*options.overrides, *options.set, *rest]
    return options
