"""Estimates as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from smolforge.estimating import PARTS, Estimate
from smolforge.estimating.comparing import Compared

UNITS = ((2**30, "GiB", 1), (2**20, "MiB", 0), (2**10, "KiB", 0))


def size(number: float) -> str:
    """
    >>> size(26 * 2**30), size(3.5 * 2**20), size(4)
    ('26.0 GiB', '4 MiB', '4 bytes')
    """
    for unit, name, digits in UNITS:
        if number >= unit:
            return f"{number / unit:.{digits}f} {name}"
    return f"{number:.0f} bytes"


def duration(seconds: float) -> str:
    """
    >>> duration(0.25), duration(90), duration(7200)
    ('0.25 s', '90 s', '2.0 h')
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    return f"{seconds:.0f} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def lines(made: Estimate, *, steps: int | None) -> list[str]:
    """One estimate: what a step holds, its memory part by part, whether it fits, its time.

    Args:
        steps: of the run, for its time; None where the recipe gives epochs.
    """
    row, layout, device = made.layout.largest, made.layout, made.device
    share = 100 * made.trainable / made.total
    found = [
        f"{made.model}, {made.name}: {made.trainable:,} of {made.total:,} parameters train ({share:.3g} %)",
        f"rows {layout.source}: {layout.rows_per_step:.3g} a step, {layout.examples_per_row:.3g} examples a row; the largest has "
        f"{row.tokens:,} tokens in {len(row.trees)} trees, {row.tiles} tiles, {row.scored:,} scored tokens",
        "",
    ]
    found += [f"  {PARTS[part]:<26}{size(made.parts[part]):>10}" for part in PARTS if made.parts.get(part)]
    verdict = "fits" if made.fits else "does not fit"
    found += [
        f"  {'peak':<26}{size(made.peak):>10}   {verdict} into {size(device.memory)} of {device.name}",
        "",
        f"time a step: about {duration(made.seconds)} for {made.flops / 1e12:.3g} TFLOP, at {device.about}",
    ]
    if steps:
        found.append(f"{steps} steps: about {duration(steps * made.seconds)}, without measuring, answering and saving")
    return found + [f"note: {note}" for note in made.notes]


def table(compared: Sequence[Compared]) -> list[str]:
    """All methods, one a line. Weights hold quantisation constants; activations all that a step computes."""
    names = ("trained", "weights", "gradients", "optimiser", "activations", "peak")
    found = [f"{'method':<14}" + "".join(f"{name:>12}" for name in names) + "   fits   longest row"]
    for one in compared:
        made = one.estimate
        if made is None:
            found.append(f"{one.name:<14}   –  {one.refused}")
            continue
        states = made.states
        cells = [f"{made.trainable:,}"] + [
            size(number)
            for number in (
                states["weights"] + states["constants"], states["gradients"], states["optimiser"], made.activations, made.peak
            )
        ]  # fmt: skip
        longest = "–" if one.row_tokens is None else f"{one.row_tokens:,} tokens, {one.examples:.3g} examples"
        longest += ", a whole step" if one.whole else ""
        found.append(
            f"{one.name:<14}" + "".join(f"{cell:>12}" for cell in cells) + f"   {'yes' if made.fits else 'no':<6} {longest}"
        )
    return found
