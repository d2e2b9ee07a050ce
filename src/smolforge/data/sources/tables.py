"""Open anything as a table of rows: a source by name, a file, a folder, a Hub name, a stream; and read its rows as records."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from smolforge.data.exclusion import Piece, excluded
from smolforge.data.features import cache_folder
from smolforge.data.sources import clips, prepared, scenes, shapes
from smolforge.data.sources.catalog import SOURCES, NamedSource, name_of
from smolforge.data.sources.configs import each_once, is_called, is_globbed, names_in, of_config
from smolforge.data.sources.files import LISTS, READERS, annotation_table, called, local_table, table_of
from smolforge.data.sources.hub_rows import hub_configs, hub_table
from smolforge.data.sources.loose import asked_files, mixed_files
from smolforge.data.sources.rows import Chain, Row, Table, ToRecord
from smolforge.data.sources.source import Source
from smolforge.data.sources.stream import ENDLESS, StreamTable, hub_parts, local_parts
from smolforge.errors import DataError
from smolforge.recipe import SPLIT, SPLIT_MEND, DataSection
from smolforge.wording import did_you_mean

__all__ = [
    "LISTS", "READERS", "SOURCES", "NamedSource", "Row", "Table", "ToRecord", "hub_table", "local_table", "named",
    "open_source", "row_files", "split_slice",
]  # fmt: skip

DRAWN: dict[str, Callable[[str], Table]] = {
    "scenes": lambda split: scenes.SceneTable(split=split),
    "scene_pairs": lambda split: scenes.SceneTable(split=split, pairs=True),
    "clips": lambda split: clips.ClipTable(split=split),
}


def named(source: str) -> NamedSource | None:
    """What is known of a source by its name here or on the Hub; None of any other.

    >>> named("HuggingFaceM4/the_cauldron") is named("the_cauldron")
    True
    """
    name = name_of(source)
    return None if name is None else SOURCES[name]


def open_source(section: DataSection, *, seed: int = 0) -> Source:
    """Open a source of a recipe: by name, by path, or from the Hub.

    Args:
        seed: order of a stream's shards.

    Raises:
        DataError: it does not exist, cannot be read, or has no rows.
    """
    split, bounds = split_slice(section.split)
    known = named(section.source)
    opened = _opened(section, known, split, seed)
    modality = section.modality or opened.modality or (known.modality if known else None)
    opened = replace(opened, modality=modality, prompt=section.prompt)
    if opened.endless:
        if section.split != split or section.exclude:
            what = "a slice" if section.split != split else "rows to leave out"
            mend = "leave streaming out, or take the whole split"
            raise DataError(f"{what} of a stream, whose rows have no lasting numbers", where=section.source, mend=mend)
        return opened
    # A slice of a fixture's few rows would be none of them.
    rows = opened.rows if section.fixture else opened.rows[bounds(len(opened.rows))]
    if not rows:
        what = f"no rows in {section.split} of {len(opened.rows)}"
        raise DataError(what, where=section.source, mend="choose a wider split, such as train")
    if section.exclude:
        without = excluded(section.exclude, section, opened.pieces, opened.table)
        kept = [number for number in rows if number not in without]
        if not kept:
            raise DataError("every row is to be left out", where=section.source, mend="look at the lists in exclude")
        before = opened.left_out or 0  # while it was prepared
        return replace(opened, rows=kept, left_out=before + len(rows) - len(kept))
    return replace(opened, rows=rows)


def is_drawn(section: DataSection) -> bool:
    """Whether rows are drawn and not read: they are always the same."""
    return section.fixture or section.source in DRAWN


def row_files(section: DataSection) -> list[Path]:
    """Files on this disk that a source's rows are read from, sorted; none of what the Hub gives or what is drawn. Pictures and
    videos that rows name are not among them.

    Raises:
        DataError: no annotations in a named source's `dir`, no such split of it, or it is not clear which files of a folder are
            meant.
    """
    known = named(section.source)
    if section.fixture or (known and section.dir is None):
        return []
    path = (section.dir or Path(section.source)).expanduser()
    if path.is_file():
        return [path]
    split, names = split_slice(section.split)[0], _names(section, known, None)
    if known and known.annotations:
        found = (file for name in names for file in _annotation_files(path, known, name, split.split("+")))
        return sorted(set(found))
    if listed := next((path / name for name in LISTS if (path / name).is_file()), None):
        return [listed]
    splits = _published_split(section, known, split).split("+")
    if loose := asked_files(path, splits, names) or mixed_files(path, splits, names):
        return sorted(loose)
    kinds = (".parquet", ".arrow", *(READERS if section.streaming else ()))
    return sorted(file for file in path.rglob("*") if file.suffix in kinds and file.is_file()) if path.is_dir() else []


def split_slice(split: str) -> tuple[str, Callable[[int], slice]]:
    """Name of a split, and its slice as a function of the number of rows.

    >>> name, bounds = split_slice("train[:6%]")
    >>> name, bounds(78975)
    ('train', slice(0, 4738, None))
    >>> split_slice("caption+open_ended[-10:]")[1](100)
    slice(90, 100, None)

    Raises:
        DataError: not of the form name, name[a:b], name[a%:b%], where name may be several joined by +.
    """
    match = re.fullmatch(SPLIT, split)
    if not match:
        raise DataError("not a split", where=split, mend=SPLIT_MEND)
    name, start, stop = match.groups()

    def place(text: str | None, rows: int, default: int) -> int:
        if text is None:
            return default
        digits = text.removeprefix("-")
        number = round(int(digits[:-1]) * rows / 100) if digits.endswith("%") else int(digits)
        # The sign as it was written: 1 % of a few rows is none of them, which from the end is their end and not their beginning.
        return max(rows - number, 0) if text.startswith("-") else min(number, rows)

    return name, lambda rows: slice(place(start, rows, 0), place(stop, rows, rows))


# --- where rows come from ------------------------------------------------------------------------------------------


def _opened(section: DataSection, known: NamedSource | None, split: str, seed: int) -> Source:
    """A source with all rows of the split."""
    source, to_record = section.source, known.record if known else shapes.record
    if section.fixture:
        _refuse_names(section, known)
        return _fixture(section, known, split)
    if source in DRAWN:
        _refuse_splits(known, split, source)
        return _whole(source, to_record, [(DRAWN[source](split), {"split": split})])
    if known:
        if known.needs_name and section.name is None:
            raise DataError("has several configurations", where=source, mend=f"give one as name; {known.about}")
        if section.dir is not None:
            return _downloaded(section, known, split, seed)
        if known.annotations:
            what = "its pictures or videos do not come with its rows"
            mend = f"`smolforge data download {source} DIR`, then give dir: DIR; {known.note}".rstrip("; ")
            raise DataError(what, where=source, mend=mend)
        assert known.hub is not None
        return _from_hub(known.hub, section, known, split, seed)
    path = Path(source).expanduser()
    on_hub = bool(re.fullmatch(r"[\w.-]+/[\w.-]+", source)) and path.suffix not in READERS
    # With `dir` it is the Hub's name, though a folder, maybe that very one, is called so.
    if path.exists() and not (on_hub and section.dir is not None):
        return _from_path(path, section, None, split, seed)
    if on_hub:
        if section.dir is not None:
            folder = section.dir.expanduser()
            return replace(_from_path(folder, section, None, split, seed), within=(folder,))
        return _from_hub(source, section, None, split, seed)
    meant = did_you_mean(source, SOURCES)
    raise DataError("no such file or source", where=source, mend=meant or "see `smolforge data list` for what is known by name")


def _refuse_names(section: DataSection, known: NamedSource | None) -> None:
    """A fixture has all configurations of its source, and none besides: trying a recipe finds their misspellings."""
    if known is None or not known.configs:
        return
    for name in (section.name,) if isinstance(section.name, str) else section.name or ():
        if name not in (*known.configs, "all"):
            mend = did_you_mean(name, known.configs) or f"it has {', '.join(known.configs)}"
            raise DataError(f"no configuration {name}", where=section.source, mend=mend)


def _whole(name: str, to_record: ToRecord, parts: Sequence[tuple[Table, dict[str, Any]]], **more: Any) -> Source:
    """Source with all rows of some tables, one behind the other.

    Args:
        parts: each table, and what calls it: settings of `Piece`.
    """
    tables = [table for table, _ in parts]
    table = tables[0] if len(tables) == 1 else Chain(tables)
    pieces = tuple(Piece(rows=len(one), **called) for one, called in parts)
    return Source(name=name, table=table, rows=range(len(table)), to_record=to_record, pieces=pieces, **more)


def _of_split(source: Source, known: NamedSource | None, split: str) -> Source:
    """The rows whose own column tells the split, where a data set is published as one."""
    if known is None or known.whole_split is None:
        return source
    asked, tables = split.split("+"), source.table.tables if isinstance(source.table, Chain) else [source.table]
    # `datasets` gives a column without the pictures beside it
    columns = (table["split"] if hasattr(table, "features") else [row["split"] for row in table] for table in tables)  # type: ignore
    splits = [value for column in columns for value in column]
    return replace(source, rows=[number for number, value in enumerate(splits) if value in asked])


def _names(section: DataSection, known: NamedSource | None, hub: str | None) -> tuple[str | None, ...]:
    """Configurations that are asked for; None is the only one."""
    if section.name is None or isinstance(section.name, tuple):
        return section.name or (None,)
    if section.name != "all" or (known and "all" in known.configs):
        return (section.name,)
    if known and known.annotations:
        return (None,)  # whatever of them was downloaded
    if known:
        return known.configs or (None,)
    return hub_configs(hub, section.revision) if hub else (None,)


def _from_hub(hub: str, section: DataSection, known: NamedSource | None, split: str, seed: int) -> Source:
    to_record, names = known.record if known else shapes.record, _names(section, known, hub)
    whole = _published_split(section, known, split)
    if section.streaming:
        parts, content = hub_parts(hub, whole, names, section.revision)
        return replace(_stream(section, to_record, parts, content, seed), within=_hub_caches())
    tables = [
        (hub_table(hub, name, one, revision=section.revision), {"name": name, "split": one})
        for name in names
        for one in whole.split("+")
    ]
    source = _whole(section.source, to_record, tables)
    return replace(_of_split(source, known, split), within=_hub_caches())


def _hub_caches() -> tuple[Path, ...]:
    """Folders that files of the Hub's data sets arrive in: tables of loose pictures name them there."""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(datasets.config.HF_DATASETS_CACHE), Path(datasets.config.DOWNLOADED_DATASETS_PATH), Path(HF_HUB_CACHE)


def _published_split(section: DataSection, known: NamedSource | None, split: str) -> str:
    """The split to ask for, of which `_of_split` then takes its part."""
    if known is None or known.whole_split is None:
        return split
    _refuse_splits(known, split, section.source)
    if section.streaming:
        mend = "leave streaming out"
        raise DataError("a stream of a data set whose splits are not published apart", where=section.source, mend=mend)
    return known.whole_split


def _from_path(path: Path, section: DataSection, known: NamedSource | None, split: str, seed: int) -> Source:
    """A file or folder of rows; what they name by path lies beside."""
    to_record = known.record if known else shapes.record
    if not path.exists():
        raise DataError(
            "no such folder", where=path, mend=f"`smolforge data download {section.source} {path}`, or give another dir"
        )
    options = {"base": path if path.is_dir() else path.parent}
    if path.is_dir() and prepared.is_prepared(path):
        rows, marker = prepared.open_prepared(path, split), prepared.read_marker(path)
        told = {"modality": marker.get("modality"), "left_out": marker.get("excluded")}
        return _whole(section.source, prepared.record, [(rows, {"split": split})], options=options, **told)
    names = _names(section, known, None)
    if section.streaming:
        parts, content = local_parts(path, split, names)
        streamed = _stream(section, to_record, parts, content, seed)
        if "data_files" not in parts[0]:
            return replace(streamed, options=options)
        assert isinstance(streamed.table, StreamTable)
        return replace(streamed, roots=(options["base"],), folder_of=streamed.table.folder)
    asked = [(name, one) for name in names for one in split.split("+")]
    if files := asked_files(path, split.split("+"), names):
        places = {file.relative_to(path).as_posix(): file for file in files}
        loose = [(called(table_of(file, "train"), place), {"file": place}) for place, file in places.items()]
        return _whole(section.source, to_record, loose, roots=(path,), beside=path)
    tables = [(table_of(path, one, name), {"name": name, "split": one}) for name, one in asked]
    return _whole(section.source, to_record, tables, options=options)


def _downloaded(section: DataSection, known: NamedSource, split: str, seed: int) -> Source:
    """A named source in a folder."""
    assert section.dir is not None
    folder = section.dir.expanduser()
    if not known.annotations:
        source = _from_path(folder, section, known, _published_split(section, known, split), seed)
        below = tuple(folder / root for root in known.roots)
        return replace(_of_split(source, known, split), options={}, roots=below, within=(folder,))
    if section.streaming:
        mend = "leave streaming out: rows of files are read one by one anyway"
        raise DataError("streaming of annotations in a folder", where=section.source, mend=mend)
    _refuse_splits(known, split, section.source)
    names, splits = _names(section, known, None), split.split("+")
    files = each_once(((name or split, _annotation_files(folder, known, name, splits)) for name in names), folder)
    roots = dict.fromkeys([folder / root for root in known.roots] + [file.parent for file in files])
    places = {file.relative_to(folder).as_posix(): file for file in files}
    tables = [(called(annotation_table(file), place), {"file": place}) for place, file in places.items()]
    return _whole(section.source, known.record, tables, roots=tuple(roots), within=(folder,))


def annotations_among(section: DataSection, known: NamedSource, paths: Sequence[str]) -> list[str]:
    """Of a repository's files those with the rows that a section asks for: what it would read of a folder that has them all.

    Raises:
        DataError: none of them has.
    """
    split = split_slice(section.split)[0]
    _refuse_splits(known, split, section.source)
    by_pattern = ([path for path in paths if is_globbed(path, pattern)] for pattern in known.annotations)
    every = sorted(next(filter(None, by_pattern), []), key=PurePosixPath)
    names = _names(section, known, None)
    return [path for name in names for path in _annotations(every, known, name, split.split("+"), where=section.source)]


def _annotation_files(folder: Path, known: NamedSource, name: str | None, splits: Sequence[str]) -> list[Path]:
    """Files with the rows of a configuration and its splits, in the order of the splits and of their names."""
    by_pattern = ([file for file in folder.glob(pattern) if _is_rows(file, folder)] for pattern in known.annotations)
    every = {file.relative_to(folder).as_posix(): file for file in sorted(next(filter(None, by_pattern), []))}
    return [every[path] for path in _annotations(list(every), known, name, splits, where=folder)]


def _annotations(every: list[str], known: NamedSource, name: str | None, splits: Sequence[str], *, where: object) -> list[str]:
    """The same, of files that all have rows."""
    named = every if name is None else of_config(every, name, known, where=where)
    # A source that does not say what its splits are called has one.
    called = {split: known.called.get(split, "*") for split in splits}
    found = [path for split in splits for path in named if is_called(Path(path).name, called[split])]
    if not found:
        asked = " of ".join(filter(None, ("+".join(splits), name)))
        near = sorted({one for path in every for one in names_in(path) if name and name in one}) if not named else []
        narrower = [pattern for pattern in called.values() if pattern != "*"]
        looked = ", ".join(known.annotations) + (f" called {' or '.join(narrower)}" if narrower else "")
        mend = f"did you mean {_either(near)}?" if near else f"looked for {looked}; {known.note}".rstrip("; ")
        raise DataError(f"no annotations of {asked}", where=where, mend=mend)
    return found


def _either(words: Sequence[str]) -> str:
    """
    >>> _either(["coco", "coco-goi", "coco-text"])
    'coco, coco-goi or coco-text'
    """
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _is_rows(file: Path, folder: Path) -> bool:
    """Not the bookkeeping of a download, which lies in hidden folders."""
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)


def _fixture(section: DataSection, known: NamedSource | None, split: str) -> Source:
    if known is None:
        raise DataError("a fixture of a source that has none", where=section.source, mend=f"they are {', '.join(SOURCES)}")
    if split != "train":  # which recipes mean where nothing is said
        _refuse_splits(known, split, section.source)
    folder = cache_folder(None) / "fixtures" / section.source.replace("/", "--")
    roots = tuple(folder / root for root in known.roots)
    source = _whole(section.source, known.record, [(known.fixture(folder), {"split": split})], roots=roots, within=(folder,))
    return _of_split(source, known, split)


def _refuse_splits(known: NamedSource | None, split: str, source: str) -> None:
    for one in split.split("+"):
        if known and one not in known.splits:
            mend = f"it has {' and '.join(known.splits)}" + (f"; join several with +: {'+'.join(known.splits)}")
            raise DataError(f"no split {one}", where=source, mend=mend)


def _stream(section: DataSection, to_record: ToRecord, parts: list[dict[str, Any]], content: str, seed: int) -> Source:
    places = cache_folder(None) / "streams"
    table = StreamTable(parts, seed=seed, where=section.source, content=content, places=places)
    return Source(name=section.source, table=table, rows=range(ENDLESS), to_record=to_record, endless=True)
