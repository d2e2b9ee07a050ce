"""Every method side by side on one recipe: what trains, what it takes, whether it fits, how long a row may be.

Each method is put on the recipe's model and rehearsed as the recipe itself would be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from smolforge.errors import RecipeError
from smolforge.estimating import Device, Estimate, configuration, device_for, estimated
from smolforge.estimating.layout import Layout, layout_of
from smolforge.recipe import METHODS, AdapterSection, BottleneckSection, FreezeSection, RatesSection, Recipe
from smolforge.recipe.base import Section

KINDS = ("nf4", "int8")
QUANTISED = ("lora", "dora")  # methods that are shown with quantised weights besides
SECTIONS = {name: kind for kind in get_args(AdapterSection) for name in get_args(kind.model_fields["method"].annotation)}
ATTEMPTS = 3  # rehearsals to find the longest row


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A method on the recipe."""

    estimate: Estimate | None
    name: str
    refused: str = ""  # why it cannot be had
    row_tokens: int | None = None  # the longest row that fits; None where none does, or nobody asked
    examples: float = 0.0  # on average in such a row
    whole: bool = False  # a whole step's examples fit into it


def compare(
    recipe: Recipe, *, gpu: str | None = None, rows: bool = True, say: Callable[[str], None] = lambda name: None
) -> Iterator[Compared]:
    """The recipe's own method first, then all others with the settings they have by default, each as soon as it is known.

    Args:
        gpu: as `estimate`.
        rows: look for the longest row that fits, which rehearses each method a few times more.
        say: is told each method's name before it is rehearsed.

    Raises:
        UserError: as `estimate`, of the recipe itself.
    """
    config, folder = configuration(recipe)
    layout, device = layout_of(recipe, config, folder), device_for(recipe, gpu)
    for name, variant in variants(recipe):
        say(name)
        if isinstance(variant, str):
            yield Compared(estimate=None, name=name, refused=variant)
            continue
        try:
            made = _one(name, variant, config, layout, device, rows=rows)
        except RecipeError as error:
            if variant is recipe:
                raise
            made = Compared(estimate=None, name=name, refused=error.what)
        yield made


def variants(recipe: Recipe) -> Iterator[tuple[str, Recipe | str]]:
    """(name, the recipe with that method, or why it cannot be had): the recipe itself, full, every adapter, some quantised."""
    yield "as written", recipe
    for method in ("full", *METHODS):
        for kind in (None, *(KINDS if method in QUANTISED else ())):
            name = f"{method} + {kind}" if kind else method
            try:
                yield name, _variant(recipe, method, kind)
            except ValidationError as error:
                yield name, error.errors()[0]["msg"].removeprefix("Value error, ")


def _variant(recipe: Recipe, method: str, kind: str | None) -> Recipe:
    """The recipe with another method, on the parts that the recipe's own is on, as far as the other knows them."""
    tree = recipe.model_dump()
    tree |= {"adapters": None, "quantize": {"kind": kind} if kind else None}
    if method != "full":
        tree["adapters"] = {"method": method} | _parts(recipe, SECTIONS[method])
        tree["freeze"] = FreezeSection().model_dump()
    if isinstance(recipe.optim.lr, RatesSection):
        # parts may train here that have no rate in the recipe; neither memory nor time depends on it
        tree["optim"]["lr"] = max(rate for rate in tree["optim"]["lr"].values() if rate is not None)
    if tree["objective"].get("reference", {}).get("kind") == "adapters_off" and method == "full":
        tree["objective"]["reference"]["kind"] = "precomputed"
    return Recipe.model_validate(tree)


def _parts(recipe: Recipe, section: type[Section]) -> dict[str, Sequence[str]]:
    """`on` and `train` of a recipe's adapters, where a method has such settings."""
    on, train = getattr(recipe.adapters, "on", ("text",)), getattr(recipe.adapters, "train", ())
    kept: dict[str, Sequence[str]] = {}
    if "on" in section.model_fields:
        kept["on"] = [part for part in on if section is not BottleneckSection or part != "connector"] or ["text"]
    if "train" in section.model_fields:
        kept["train"] = train
    return kept


def _one(name: str, recipe: Recipe, config: Any, layout: Layout, device: Device, *, rows: bool) -> Compared:
    made = estimated(recipe, config, layout, device)
    if not rows:
        return Compared(estimate=made, name=name)
    longest = longest_row(lambda one: estimated(recipe, config, one, device).peak, layout, device.memory, first=made.peak)
    if longest is None:
        return Compared(estimate=made, name=name)
    fitting = layout.at(longest)
    whole = longest >= layout.most
    return Compared(estimate=made, name=name, row_tokens=longest, examples=fitting.examples_per_row, whole=whole)


def longest_row(peak: Callable[[Layout], int], layout: Layout, memory: int, *, first: int) -> int | None:
    """Largest batch.row_tokens whose peak fits into `memory` bytes, by the secant method, rounded down to 64; None where not even
    the longest example does.

    Args:
        first: the peak in rows as `layout` has them.
    """
    known = {max(layout.row_tokens, layout.longest): first}
    low, high = layout.longest, max(layout.longest, layout.most)
    best = max((tokens for tokens, size in known.items() if size <= memory), default=None)
    guess = high if best is not None else low
    for _ in range(ATTEMPTS):
        guess = min(max(guess, low), high)
        if guess in known:
            break
        known[guess] = peak(layout.at(guess))
        fitting = [tokens for tokens, size in known.items() if size <= memory]
        over = [tokens for tokens, size in known.items() if size > memory]
        best = max(fitting, default=None)
        if best == high or (best is None and guess == low):
            break
        below, above = max(fitting, default=low), min(over, default=high)
        rise = (known[above] - known[below]) / max(1, above - below)
        step = (memory - known[below]) / rise if rise > 0 else (above - below) / 2
        guess = below + int(min(0.95 * step, 0.95 * (above - below))) // 64 * 64
    return best
