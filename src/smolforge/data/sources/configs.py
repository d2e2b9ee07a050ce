"""Which files of a data set are one configuration's, by their paths: one rule for what is fetched and for what is read.

Names of configurations contain each other (M3IT's `coco`, `coco-goi`, `coco-text`), so that a mere likeness of names would fetch,
or train on, another configuration's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from smolforge.data.sources.catalog import NamedSource
from smolforge.errors import DataError


def of_config(paths: Sequence[str], name: str, known: NamedSource | None, *, where: object) -> list[str]:
    """Paths, below the data set's folder, of one configuration's files; none where nothing is called so.

    A folder or file of that very name, or at that path, counts first. Where there is none, what is called so in `called`, or
    begins with the name; of a repository that is not known here also what contains it. A source that is known here has the
    configurations that it lists: one of another name must be a folder or file, and what begins with a longer name of the list is
    that one's.

    >>> of_config(["vqa/coco/a.jsonl", "vqa/coco-goi/a.jsonl", "coco.json"], "coco", None, where="jo/pets")
    ['vqa/coco/a.jsonl', 'coco.json']
    >>> of_config(["vqa/a.jsonl", "old/vqa/a.jsonl"], "old/vqa", None, where="jo/pets")
    ['old/vqa/a.jsonl']
    >>> of_config(["my-cats/a.jsonl", "dogs/a.jsonl"], "cats", None, where="jo/pets")
    ['my-cats/a.jsonl']

    Raises:
        DataError: folders of several names fit, and none is called so.
    """
    place = PurePosixPath(name).as_posix()
    exact = [path for path in paths if name in names_in(path) or place in places_in(path)]
    if exact or (known and name not in known.configs):
        return exact
    others = tuple(other for other in (known.configs if known else ()) if len(other) > len(name))
    called = known.called.get(name, "") if known else ""
    ways: list[Callable[[str], bool]] = [lambda part: is_called(part, called) if called else part.startswith(name)]
    if known is None:
        ways.append(lambda part: name in part)
    for fits in ways:
        parts = {path: [one for one in PurePosixPath(path).parts if fits(one) and not one.startswith(others)] for path in paths}
        folders = sorted({one for path, fitting in parts.items() for one in fitting if one in PurePosixPath(path).parts[:-1]})
        if len(folders) > 1:
            mend = "give each that you mean as a name, in full"
            raise DataError(f"{name} fits several folders: {', '.join(folders)}", where=where, mend=mend)
        if found := [path for path in paths if parts[path]]:
            return found
    return []


def names_in(path: str) -> set[str]:
    """What a file's path may be called by: its folders, the file, the file without its ending.

    >>> sorted(names_in("a/b.tar.gz"))
    ['a', 'b', 'b.tar.gz']
    """
    parts = PurePosixPath(path).parts
    return {*parts, PurePosixPath(parts[-1]).stem.removesuffix(".tar")}


def places_in(path: str) -> list[str]:
    """Paths of a file and of the folders around it.

    >>> places_in("old/vqa/a.jsonl")
    ['old/vqa/a.jsonl', 'old/vqa', 'old']
    """
    place = PurePosixPath(path)
    return [one.as_posix() for one in (place, *place.parents[:-1])]


def each_once(found: Iterable[tuple[str, Sequence[Path]]], folder: Path) -> list[Path]:
    """Files that were found, in their order.

    Args:
        found: what was asked for, and the files below the folder that it gave.

    Raises:
        DataError: one was found twice, so that its rows would come twice.
    """
    asked_as: dict[Path, str] = {}
    for asked, files in found:
        for file in files:
            if file in asked_as:
                what = f"{file.relative_to(folder).as_posix()} is asked for twice, as {asked_as[file]} and as {asked}"
                raise DataError(what, where=folder, mend="leave one of them out, or give files by their paths as name")
            asked_as[file] = asked
    return list(asked_as)


def is_globbed(path: str, pattern: str) -> bool:
    """Whether `Path.glob` of a folder gives a file below it, of a path that is not here.

    >>> [is_globbed("a/b/1.json", pattern) for pattern in ("*.json", "a/*.json", "*/b/1.*", "**/*.json", "a/**/b/*.json")]
    [False, False, True, True, True]
    """

    def fits(parts: Sequence[str], patterns: Sequence[str]) -> bool:
        if not patterns or not parts:
            return not patterns and not parts
        if patterns[0] == "**":
            return fits(parts, patterns[1:]) or fits(parts[1:], patterns)
        return fnmatchcase(parts[0], patterns[0]) and fits(parts[1:], patterns[1:])

    hidden = any(part.startswith(".") for part in PurePosixPath(path).parts)
    return not hidden and fits(PurePosixPath(path).parts, PurePosixPath(pattern).parts)


def is_called(part: str, patterns: str) -> bool:
    """Whether a file or folder is called as one of some patterns.

    >>> is_called("a_oe_v0.json", "*cap*|*oe*")
    True
    """
    return any(fnmatchcase(part, one) for one in patterns.split("|"))
