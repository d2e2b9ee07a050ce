"""Which rows a run reads, in so few words that a continuation can tell whether it reads the same.

The order of a source hangs on its number of rows, so a run that goes on with another file sees some rows again and others never.
A checkpoint keeps of each source:

    {"source": "my.jsonl", "rows": 10, "numbers": "0 to 9", "content": "5d41402abc4b2a76b9719d911017c592"}

`numbers` are those of the rows that the split, `exclude` and the cleaning of pairs leave. `content` stands for the bytes of the
files that rows are read from, whatever their places and times, so that a folder may be moved or copied: all of them up to `WHOLE`
bytes a source, else beginning, middle and end of each file with its size. Of the Hub's tables it is that of a few rows, of
a stream from there the commit. Rows that are drawn have none, and pictures and videos that rows name are not looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smolforge.data.sources.rows import Chain, placeless
from smolforge.data.sources.source import Source
from smolforge.data.sources.stream import StreamTable
from smolforge.data.sources.tables import row_files
from smolforge.errors import DataError
from smolforge.recipe import DataSection
from smolforge.records import fingerprint
from smolforge.wording import how_many

Identity = dict[str, Any]
WHOLE = 64 * 2**20  # bytes of a source's files that are read; of larger ones three pieces each
SAMPLE = 16  # rows of a table of the Hub
CACHE = "cache-"  # how files begin that `datasets` puts beside a saved folder's


def identities(sections: Sequence[DataSection], sources: Sequence[Source]) -> list[Identity]:
    """What tells each source of a recipe from another. Raises DataError as `row_files`."""
    return [
        {
            "source": source.name,
            "rows": None if source.endless else len(source),
            "numbers": "" if source.endless else _numbers(source.rows),
            "content": _content(section, source),
        }
        for section, source in zip(sections, sources)
    ]


def unchanged(sections: Sequence[DataSection], before: Sequence[Identity]) -> bool:
    """Whether sources are still what a checkpoint keeps of them, as far as their files tell without being opened.

    False, too, where they do not tell: of what the Hub gives, and where lists leave rows out.
    """
    return len(sections) == len(before) and all(map(_is_unchanged, sections, before))


def _is_unchanged(section: DataSection, before: Identity) -> bool:
    try:
        files = [] if section.exclude else _files(section)
    except DataError:  # whoever opens it says it better
        return False
    return not section.exclude and before["content"] == (_of_files(files) if files else "")


def changes(before: Sequence[Identity], now: Sequence[Identity], where: str) -> list[str]:
    """What is not as it was, a source at a time.

    Args:
        where: the sources' place in the recipe.

    >>> old = {"source": "my.jsonl", "rows": 10, "numbers": "0 to 9", "content": "5d41"}
    >>> changes([old], [old | {"rows": 25, "numbers": "0 to 24", "content": "77aa"}], "data")
    ['data.0 (my.jsonl) had 10 rows and has 25 rows']
    """
    found = []
    for number, (old, new) in enumerate(zip(before, now)):
        named = f"{where}.{number} ({new['source']})"
        if old["rows"] != new["rows"]:
            counts = ["no end" if one["rows"] is None else how_many(one["rows"], "row") for one in (old, new)]
            found.append(f"{named} had {counts[0]} and has {counts[1]}")
        elif old["numbers"] != new["numbers"]:
            found.append(f"{named} leaves other rows out, by exclude or in the cleaning of pairs")
        elif old["content"] != new["content"]:
            found.append(f"{named} has other content")
    return found


def _numbers(rows: Sequence[int]) -> str:
    """Ascending numbers of rows as one word.

    >>> _numbers(range(3, 9)), _numbers([3, 4, 5]), len(_numbers([3, 4, 6]))
    ('3 to 8', '3 to 5', 32)
    """
    first, last = rows[0], rows[-1]
    if last - first + 1 == len(rows):
        return f"{first} to {last}"
    return fingerprint(np.asarray(rows, np.int64).tobytes())


def _content(section: DataSection, source: Source) -> str:
    if files := _files(section):
        return _of_files(files)
    if isinstance(source.table, StreamTable):
        return fingerprint([part.get("revision") for part in source.table.parts])
    tables = source.table.tables if isinstance(source.table, Chain) else (source.table,)
    if not all(hasattr(table, "features") for table in tables):  # drawn
        return ""
    places = sorted({int(place) for place in np.linspace(0, len(source.table) - 1, SAMPLE)})
    return fingerprint(*(placeless(source.table[place]) for place in places))


def _files(section: DataSection) -> list[Path]:
    return [file for file in row_files(section) if not file.name.startswith(CACHE)]


def _of_files(files: Sequence[Path]) -> str:
    """Content of files in their order."""
    share = WHOLE // len(files)
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            for start, length in _pieces(size, share):
                file.seek(start)
                digest.update(file.read(length))
    return digest.hexdigest()


def _pieces(size: int, share: int) -> Iterable[tuple[int, int]]:
    """(start, bytes) of what is read of a file.

    >>> _pieces(100, 100), _pieces(100, 30)
    ([(0, 100)], [(0, 10), (45, 10), (90, 10)])
    """
    if size <= share:
        return [(0, size)]
    length = max(1, share // 3)
    return [(start, length) for start in (0, (size - length) // 2, size - length)]
