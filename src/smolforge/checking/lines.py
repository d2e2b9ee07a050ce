"""A check for a terminal: the mixture, each source, one example a modality with its loss mask, and last what to mend."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from smolforge.checking import Check
from smolforge.checking.findings import Known
from smolforge.checking.looking import PARTS
from smolforge.checking.mask import Kind, Shown
from smolforge.checking.measures import SourceFacts, held_shares, scored_shares
from smolforge.terminal import printable
from smolforge.wording import how_many

# What is learnt stands between marks too, for screens without colour.
STYLES: dict[Kind, str] = {"context": "dim", "picture": "cyan", "learnt": "bold green", "rejected": "bold red"}
MARKS: dict[Kind, tuple[str, str]] = {"context": ("", ""), "picture": ("", ""), "learnt": ("«", "»"), "rejected": ("»", "«")}
COLUMNS = ("min", "p5", "median", "p95", "max")


def lines(check: Check) -> list[Text]:
    """A line each."""
    found = [Text(line) for line in (_known(check, check.known) if check.known else ())]
    found += [Text(f"{'  ' if number else ''}{line}", "dim") for number, line in enumerate(_named(check))]
    for one in check.shown:
        found += [Text(), *_shown(one)]
    found += [Text(f"note: {note}", "dim") for note in check.notes]
    found.append(Text())
    found += [Text.assemble(("error: ", "bold red"), str(one)) for one in check.errors]
    found += [Text.assemble(("warning: ", "bold yellow"), str(one)) for one in check.warnings]
    for line in found:
        line.plain = printable(line.plain)  # rows and their names are in it; colours stay, as it is no longer and no shorter
    return found


def verdict(check: Check) -> str:
    """One line."""
    errors, warnings = len(check.errors), len(check.warnings)
    if not errors and not warnings:
        return "nothing to mend"
    return f"{how_many(errors, 'error')}, {how_many(warnings, 'warning')}"


def facts(known: Known) -> list[str]:
    """The run in a few lines: its length, what a step holds, what the rows are full of."""
    told = [f"{how_many(known.steps, 'step')} of {how_many(known.examples, 'example')}"]
    if known.packed:
        one = known.packed
        told.append(
            f"a step: {one.tokens:,.0f} tokens and {one.tiles:,.0f} tiles (most {one.most_tiles:,}) in {one.rows:.1f} rows, "
            f"{one.full:.0%} full, over {how_many(one.steps, 'step')}"
        )
    tokens, name = known.longest
    if tokens:
        told.append(f"longest example: {tokens:,} tokens ({name}); rows have {known.row_tokens:,}, the model {known.context:,}")
    held = ", ".join(f"{modality} {share:.1%}" for modality, share in held_shares(known.sources).items())
    return [*told, f"what the rows hold: {held}"] if held else told


def happened(one: SourceFacts) -> str:
    """What becomes of a source's rows, in words."""
    parts = [f"{how_many(one.looked, 'row')} looked at"]
    parts += [f"{sum(one.dropped.values()):,} dropped"] if one.dropped else []
    parts += [f"{one.unreadable:,} of them unreadable"] if one.unreadable else []
    parts += [f"{one.reduced:,} with fewer tiles or frames"] if one.reduced else []
    parts += [f"{one.cut:,} with prompt text cut"] if one.cut else []
    parts += [f"{one.repeated:,} with a picture of another row"] if one.repeated else []
    parts += [f"{one.echoes:,} with an answer that stands in its prompt"] if one.echoes else []
    return ", ".join(parts)


def shares(one: SourceFacts, scored: float) -> str:
    """How much of the run a source is, in words."""
    size = "a stream" if one.rows is None else f"{how_many(one.rows, 'row')}{by_lists(one)}"
    passes = "" if one.epochs is None else f", {one.epochs:,.1f} epochs"
    return f"{one.share:.1%} of the examples (first ones {one.came:.1%}), {scored:.1%} of what is supervised, {size}{passes}"


def by_lists(one: SourceFacts) -> str:
    """How many rows the recipe's lists leave out, behind other words; nothing where it names none."""
    return "" if one.left_out is None else f" ({one.left_out:,} left out by exclude)"


def _known(check: Check, known: Known) -> Iterator[str]:
    yield from facts(known)
    yield ""
    yield from check.tree
    for one, scored in zip(known.sources, scored_shares(known.sources)):
        yield ""
        yield f"{one.label}: {shares(one, scored)}"
        yield from _source(one)
    for one in known.held_out:
        yield ""
        yield f"held out: {one.label}{by_lists(one)}"
        yield from _source(one)
    if check.cleaning:
        yield ""
        yield from check.cleaning


def _source(one: SourceFacts) -> Iterator[str]:
    yield f"  {happened(one)}"
    yield from (f"    dropped {rows:,}: {reason}" for reason, rows in one.dropped.items())
    if not one.used:
        return
    yield f"  {'tokens':<10}" + "".join(f"{column:>9}" for column in COLUMNS)
    for part in ("all", *PARTS):
        numbers = one.tokens[part]
        if numbers.max:
            yield f"  {part:<10}" + "".join(f"{getattr(numbers, column):>9,}" for column in COLUMNS)
    yield f"  {one.scored_share:.1%} of the tokens are supervised; {one.mean_tiles:.1f} tiles an example"


def _named(check: Check) -> list[str]:
    return ["", "examples that are dropped or changed:", *check.named] if check.named else []


def _shown(one: Shown) -> Iterator[Text]:
    yield Text(f"{one.modality}: {one.name}, {one.tokens:,} tokens, {one.scored:,} supervised: «so» (pushed down: »so«)", "bold")
    for passage in one.passages:
        text = Text(f"  {passage.label}: ")
        for run in passage.runs:
            before, after = MARKS[run.kind]
            text.append(f"{before}{run.text}{after}", STYLES[run.kind])
        yield text
