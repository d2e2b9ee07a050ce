"""Whether held-out data is trained on: row by row where two sources read the same table, by content of the samples elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smolforge.checking.looking import Look
from smolforge.checking.measures import Overlap, same_content
from smolforge.checking.sampling import Sample
from smolforge.data.exclusion import Place, place_of
from smolforge.data.pipeline import Stream
from smolforge.data.shares import config_words
from smolforge.data.sources.source import Source
from smolforge.recipe import DataSection, Recipe


def label(section: DataSection) -> str:
    """How a source is called where a recipe has several of the same name.

    >>> label(DataSection(source="the_cauldron", name="vqav2", split="train[:90%]"))
    'the_cauldron vqav2 train[:90%]'
    >>> label(DataSection(source="/data/pets/pairs.jsonl"))
    'pairs.jsonl'
    >>> label(DataSection(source="the_cauldron", name=("ai2d", "aokvqa", "chart2text", "chartqa")))
    'the_cauldron ai2d,aokvqa and 2 more'
    """
    path = Path(section.source)
    source = path.name if path.is_absolute() else section.source
    return " ".join(filter(None, (source, config_words(section), section.split if section.split != "train" else "")))


def overlaps(recipe: Recipe, stream: Stream, held_stream: Stream, looked: Sample, held: Sample) -> tuple[Overlap, ...]:
    """Between each held-out source and each of the training data: by row where they read the same table, else by content."""
    found = []
    for number, (section, source) in enumerate(zip(recipe.eval.data, held_stream.sources)):
        looks: Sequence[Look] = held.of(number)[0]
        for other, (theirs, trained) in enumerate(zip(recipe.data, stream.sources)):
            if section.fixture or theirs.fixture:  # a few drawn rows stand for every split
                continue
            exact = bool(common_tables(section, source, theirs, trained))
            shared = shared_rows(section, source, theirs, trained) if exact else same_content(looks, looked.of(other)[0])
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
            if rows := shared_rows(section, source, theirs, other):
                found.append(Overlap(held_out=label(section), source=label(theirs), shared=rows, of=len(source), exact=True))
    return tuple(found)


def common_tables(a: DataSection, source: Source, b: DataSection, other: Source) -> set[Place]:
    """Tables that two sources both read, so that equal row numbers are equal rows; none of streams."""
    return {place_of(a, piece) for piece in source.pieces} & {place_of(b, piece) for piece in other.pieces}


def shared_rows(a: DataSection, source: Source, b: DataSection, other: Source) -> int:
    """Rows of `source` that `other` has too."""
    mine, theirs = _rows_by_table(a, source), _rows_by_table(b, other)
    return sum(_common(mine[table], theirs[table]) for table in common_tables(a, source, b, other))


def _rows_by_table(section: DataSection, source: Source) -> dict[Place, Sequence[int]]:
    """Numbers of a source's rows in each of its tables, ascending."""
    found: dict[Place, Sequence[int]] = {}
    first = 0
    for piece in source.pieces:
        last = first + piece.rows
        if isinstance(source.rows, range):  # of step 1, as slices of a split are
            inside: Sequence[int] = range(max(source.rows.start - first, 0), max(min(source.rows.stop, last) - first, 0))
        else:
            inside = [row - first for row in source.rows if first <= row < last]
        found[place_of(section, piece)] = inside
        first = last
    return found


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """
    >>> _common(range(2, 8), range(6, 20)), _common([1, 5, 9], range(4, 9))
    (2, 1)
    """
    if isinstance(a, range) and isinstance(b, range):
        return max(0, min(a.stop, b.stop) - max(a.start, b.start))
    theirs = b if isinstance(b, range) else frozenset(b)
    return sum(row in theirs for row in a)
