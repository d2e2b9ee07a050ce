"""Whether held-out data is trained on: row by row where two sources read the same table, by content of the samples elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smolforge.checking.looking import Look
from smolforge.checking.measures import Overlap, same_content
from smolforge.checking.sampling import Sample
from smolforge.data.exclusion import place
from smolforge.data.pipeline import Stream
from smolforge.data.sources.tables import Source
from smolforge.recipe import DataSection, Recipe


def label(section: DataSection) -> str:
    """How a source is called where a recipe has several of the same name.

    >>> label(DataSection(source="the_cauldron", name="vqav2", split="train[:90%]"))
    'the_cauldron vqav2 train[:90%]'
    >>> label(DataSection(source="/data/pets/pairs.jsonl"))
    'pairs.jsonl'
    """
    path = Path(section.source)
    source = path.name if path.is_absolute() else section.source
    name = section.name if isinstance(section.name, str | None) else ",".join(section.name)
    return " ".join(filter(None, (source, name, section.split if section.split != "train" else "")))


def overlaps(recipe: Recipe, stream: Stream, held_stream: Stream, looked: Sample, held: Sample) -> tuple[Overlap, ...]:
    """Between each held-out source and each of the training data: by row where they read the same table, else by content."""
    found = []
    for number, (section, source) in enumerate(zip(recipe.eval.data, held_stream.sources)):
        looks: Sequence[Look] = held.of(number)[0]
        for other, (theirs, trained) in enumerate(zip(recipe.data, stream.sources)):
            if section.fixture or theirs.fixture:  # a few drawn rows stand for every split
                continue
            exact = same_table(section, theirs) and not (source.endless or trained.endless)
            shared = shared_rows(source, trained) if exact else same_content(looks, looked.of(other)[0])
            of = len(source) if exact else len(looks)
            if exact and not shared:  # other rows of the same table, which may hold the same pictures
                exact, shared, of = False, same_content(looks, looked.of(other)[0]), len(looks)
            found.append(Overlap(held_out=label(section), source=label(theirs), shared=shared, of=of, exact=exact))
    return tuple(one for one in found if one.shared)


def doubled(sections: Sequence[DataSection], sources: Sequence[Source]) -> tuple[Overlap, ...]:
    """Rows that two sources of the training data share."""
    found = []
    for number, (section, source) in enumerate(zip(sections, sources)):
        for theirs, other in zip(sections[:number], sources[:number]):
            if same_table(section, theirs) and not (source.endless or other.endless) and (rows := shared_rows(source, other)):
                found.append(Overlap(held_out=label(section), source=label(theirs), shared=rows, of=len(source), exact=True))
    return tuple(found)


def same_table(a: DataSection, b: DataSection) -> bool:
    """Whether two sections read the same table, so that equal row numbers are equal rows."""
    return _table(a) == _table(b)


def _table(section: DataSection) -> tuple[Any, ...]:
    folder = None if section.dir is None else section.dir.expanduser().resolve()
    return *place(section), folder, section.streaming, section.revision


def shared_rows(a: Source, b: Source) -> int:
    """Rows of `a` that `b` has too, of the same table."""
    if isinstance(a.rows, range) and isinstance(b.rows, range):
        return max(0, min(a.rows.stop, b.rows.stop) - max(a.rows.start, b.rows.start))  # of step 1, as slices of a split are
    theirs = frozenset(b.rows)
    return sum(row in theirs for row in a.rows)
