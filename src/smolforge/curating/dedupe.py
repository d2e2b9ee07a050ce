"""Rows of a recipe that say what an earlier row says: a photo saved twice teaches its captions twice and wastes its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smolforge.curating.conversation import answers, whole
from smolforge.curating.hashing import DISTANCE
from smolforge.curating.leaders import By, Comparison
from smolforge.curating.lists import Removal
from smolforge.curating.pictures import Marks, neighbours
from smolforge.curating.reading import Skips, Table, read_tables
from smolforge.curating.shingles import SIMILARITY, shingles
from smolforge.store import Store

REASONS: dict[tuple[bool, bool], str] = {  # (a picture was compared, a text was compared)
    (True, True): "near-duplicate picture and text",
    (True, False): "near-duplicate picture",
    (False, True): "near-duplicate text",
}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What to leave out and what was looked at."""

    removals: tuple[Removal, ...]
    rows: tuple[int, ...]  # compared, by source
    pictures: int  # compared, frames of videos among them
    different_pictures: int  # by their marks
    clusters: tuple[int, ...]  # sizes of the groups of which one row stays, largest first
    skips: Skips


def find_duplicates(
    tables: Sequence[Table],
    *,
    by: By = "both",
    distance: int = DISTANCE,
    similarity: float = SIMILARITY,
    store: Store,
    max_pixels: int = 100_000_000,
    tick: Callable[[], object] = lambda: None,
) -> Findings:
    """Rows that are near an earlier one that stays. The order of entries and rows decides which stays.

    Args:
        by: what has to be near: "both" (texts alone for rows without pictures), "picture" or "text".
        distance: most bits of 64 in which near pictures differ, 0 to 15.
        similarity: least Jaccard of near texts, above 0, at most 1.
        store: of marks that are known already; takes the new ones.
        tick: called after each row.
    """
    skips, marks, comparison = Skips(), Marks(), Comparison(by, similarity)
    places: list[tuple[int, int]] = []
    counts, pictures = [0] * len(tables), 0
    read = read_tables(tables, None if by == "text" else store, skips, max_pixels=max_pixels, tick=tick)
    for one in read:
        places.append((one.source, one.index))
        counts[one.source] += 1
        pictures += len(one.marks)
        texts = ("", "") if by == "picture" else (whole(one.record), answers(one.record))
        comparison.add([marks.number(data) for data in one.marks], *map(shingles, texts))
    near = {} if by == "text" else neighbours(marks, distance)
    removals: list[Removal] = []
    sizes: dict[int, int] = {}
    for found in comparison.duplicates(near):
        if found is None:
            continue
        (source, index), (other, other_index) = places[found.row], places[found.of]
        sizes[found.of] = sizes.get(found.of, 1) + 1
        removals.append(
            Removal(
                source=source, index=index, reason=REASONS[found.distance is not None, found.similarity is not None],
                other=tables[other].source, other_index=other_index, distance=found.distance, similarity=found.similarity,
            )
        )  # fmt: skip
    return Findings(
        removals=tuple(removals), rows=tuple(counts), pictures=pictures, different_pictures=len(marks),
        clusters=tuple(sorted(sizes.values(), reverse=True)), skips=skips,
    )  # fmt: skip
