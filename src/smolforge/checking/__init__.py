"""What a recipe's data will do to a run, before it costs anything: no weights, no GPU.

A sample of every source is read, rendered and decoded as the run would; `findings` says what of it would waste the run.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from smolforge.checking.findings import Finding, Known, findings_of, unopened
from smolforge.checking.mask import Shown
from smolforge.checking.measures import SourceFacts, cleaned, held_shares, packed, source_facts
from smolforge.checking.overlap import doubled, label, overlaps
from smolforge.checking.sampling import Sample, Tell, draw, first_steps
from smolforge.data.pack import refuse_repeated
from smolforge.data.pipeline import Stream, open_stream
from smolforge.data.render import Renderer
from smolforge.data.shares import numbered
from smolforge.errors import DataError, RecipeError
from smolforge.hub import local_folder
from smolforge.loading import base_folder, run_renderer
from smolforge.model.presets import PRESETS
from smolforge.objectives import objective_of
from smolforge.recipe import DataSection, Recipe

FILES = ("*.json", "*.txt", "*.jinja")  # of a model: all but its weights
NAMED = 40  # examples that are named; all are counted
OF_A_KIND = 3  # of them, of one source and for one reason


@dataclass(frozen=True, kw_only=True)
class Check:
    """What came of a check. `known` is None where the data could not be opened."""

    recipe: Recipe
    findings: tuple[Finding, ...]
    known: Known | None = None
    tree: tuple[str, ...] = ()  # the mixture as lines
    cleaning: tuple[str, ...] = ()  # what was found in preference pairs, over all rows
    named: tuple[str, ...] = ()  # examples that are dropped or changed
    shown: tuple[Shown, ...] = ()  # one a modality
    notes: tuple[str, ...] = ()  # what the sample cannot tell

    @property
    def errors(self) -> list[Finding]:
        return [one for one in self.findings if one.error]

    @property
    def warnings(self) -> list[Finding]:
        return [one for one in self.findings if not one.error]

    def to_json(self) -> dict[str, Any]:
        """Everything but the examples with their pictures."""
        return {
            "run": str(self.recipe.run.dir),
            "errors": [asdict(one) for one in self.errors],
            "warnings": [asdict(one) for one in self.warnings],
            "known": asdict(self.known) if self.known else None,
            "held": held_shares(self.known.sources) if self.known else {},
            "cleaning": list(self.cleaning),
            "named": list(self.named),
            "notes": list(self.notes),
        }


def check(recipe: Recipe, *, sample: int = 200, seconds: float = 120.0, tell: Tell | None = None) -> Check:
    """Look at a recipe's data as its run would.

    Args:
        sample: rows of each source that are read, rendered and decoded.
        seconds: about how long that may take; a half of it for the held-out data and the packing of whole steps besides.
        tell: hears what is done, how much of it, of how much.

    Raises:
        UserError: the model has no readable tokenizer.
    """
    heard: Tell = tell or _nothing
    renderer = renderer_of(recipe)
    shaping, edges = objective_of(recipe.objective).shaping, recipe.images.random_edge

    def opened(sections: Sequence[DataSection], **options: Any) -> Stream:
        return open_stream(sections, renderer, shaping=shaping, **options)

    def alone(section: DataSection) -> None:
        opened([section], seed=0)

    stream = held_stream = None
    faults: list[Finding] = []
    try:
        stream = opened(recipe.data, seed=recipe.run.seed, mixture=recipe.mixture, examples=recipe.batch.examples, edges=edges)
        steps = num_steps(recipe, stream)
        refuse_repeated(recipe.batch.examples, stream.num_known)
    except DataError as error:
        faults += unopened(recipe.data, alone, error, key="data")
    try:
        held_stream = opened(recipe.eval.data, seed=0) if recipe.eval.data else None
    except DataError as error:
        faults += unopened(recipe.eval.data, alone, error, key="eval.data")
    if faults or stream is None:
        return Check(recipe=recipe, findings=tuple(faults))

    last = steps * recipe.batch.examples
    begun = time.monotonic()
    looked = draw(stream, rows=sample, last=last, until=begun + seconds, tell=heard, doing="training data")
    step_looks = first_steps(
        stream, looked, examples=recipe.batch.examples, steps=steps, until=time.monotonic() + seconds / 4, tell=heard
    )
    held = Sample()
    if held_stream:
        rows = min(sample, recipe.eval.examples)
        places = min(held_stream.num_rows, recipe.eval.examples)
        held = draw(held_stream, rows=rows, last=places, until=time.monotonic() + seconds / 4, tell=heard, doing="held-out data")
    known = Known(
        steps=steps,
        examples=recipe.batch.examples,
        row_tokens=recipe.batch.row_tokens,
        context=renderer.context,
        upscale=renderer.images is not None and renderer.images.upscale,
        longest_edge=(max(edges) if edges else renderer.images.longest_edge) if renderer.images else None,
        drawn_edge=bool(edges),
        sources=_facts(stream, looked, recipe.data, last=last),
        held_out=_facts(held_stream, held, recipe.eval.data, last=held.walked) if held_stream else (),
        overlaps=overlaps(recipe, stream, held_stream, looked, held) if held_stream else (),
        doubled=doubled(recipe.data, stream.sources),
        cleaned=tuple(cleaned(one, label(section)) for one, section in zip(stream.findings, recipe.data)),
        packed=packed(step_looks, recipe.batch.row_tokens),
        longest=_longest(looked),
        mixed=recipe.mixture is not None,
    )
    return Check(
        recipe=recipe,
        findings=tuple(findings_of(known)),
        known=known,
        tree=tuple(stream.tree(steps)),
        cleaning=tuple(line for one in stream.findings for line in one.lines()),
        named=_named(looked, held),
        shown=tuple(looked.shown.values()),
        notes=tuple(_notes(recipe, looked, held, sample, seconds)),
    )


def renderer_of(recipe: Recipe) -> Renderer:
    """The renderer that the recipe's run would have. Reads tokenizer and configuration, no weights.

    Raises:
        UserError: a preset, which has no tokenizer, or not a model of the family.
    """
    name = recipe.model.name
    if name in PRESETS and not Path(name).exists():
        raise RecipeError(
            "a preset has no tokenizer to read data with", where=f"model.name {name}",
            mend="give a checkpoint's folder or Hub name, or make one with `smolforge build`",
        )  # fmt: skip
    folder = base_folder(local_folder(name, recipe.model.revision, files=FILES), files=FILES)
    return run_renderer(recipe, folder)


def num_steps(recipe: Recipe, stream: Stream) -> int:
    """Optimiser steps of the run.

    Raises:
        DataError: epochs over a stream, which has no end.
    """
    if recipe.run.steps:
        return recipe.run.steps
    if any(source.endless for source in stream.sources):
        raise DataError("passes over a stream, which has no end", where="run.epochs", mend="give run.steps")
    return math.ceil((recipe.run.epochs or 0) * stream.num_rows / recipe.batch.examples)


def _facts(stream: Stream, sample: Sample, sections: Sequence[DataSection], *, last: int) -> tuple[SourceFacts, ...]:
    shares = stream.mixture.shares.tolist()
    names = numbered([label(section) for section in sections])
    found = []
    for number, source in enumerate(stream.sources):
        facts = source_facts(
            *sample.of(number),
            label=names[number],
            modality=source.modality,
            rows=None if source.endless else len(source),
            share=shares[number],
            came=sample.came[number],
            examples=shares[number] * last,
        )
        found.append(replace(facts, drawn=sections[number].fixture, left_out=source.left_out))
    return tuple(found)


def _named(*samples: Sample) -> tuple[str, ...]:
    """Some examples of each thing that happens, so that a common fault does not hide a rare one."""
    kinds: Counter[tuple[int, int, str]] = Counter()
    lines = []
    for number, sample in enumerate(samples):
        happened = [(one.source, one.reason, one.line) for one in sample.refusals]
        happened += [(one.source, c.split(":")[0], f"{one.name}: {c}") for one in sample.looks for c in one.changes]
        for source, reason, line in happened:
            kinds[number, source, reason] += 1
            if kinds[number, source, reason] <= OF_A_KIND:
                lines.append(line)
    return tuple(lines[:NAMED])


def _notes(recipe: Recipe, looked: Sample, held: Sample, sample: int, seconds: float) -> list[str]:
    notes = []
    if looked.late or held.late:
        notes.append(f"the time, {seconds:.0f} s, was up before {sample} rows of each source were looked at; raise --seconds")
    if any(one.modality == "video" for one in (*looked.looks, *held.looks)):
        notes.append("of a few videos of each source three frames were decoded; of the others only their index was read")
    if recipe.images.random_edge:
        notes.append("each picture's size is drawn (images.random_edge): tokens and tiles are those of the run's own first draws")
    if any(section.fixture for section in (*recipe.data, *recipe.eval.data)):
        notes.append("a few drawn rows stand for a source (fixture: true), also for what is held out; numbers are not its own")
    return notes


def _longest(sample: Sample) -> tuple[int, str]:
    """Tokens of the longest example, were it not reduced, and its name."""
    sizes = [(one.needs, one.name) for one in sample.looks] + [(one.needs, one.name) for one in sample.refusals]
    return max(sizes, default=(0, ""))


def _nothing(doing: str, done: int, of: int) -> None:
    pass


__all__ = ["Check", "check"]
