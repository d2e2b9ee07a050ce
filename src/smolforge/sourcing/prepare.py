"""Read a recipe's sources once, so that every later run opens them at once, on machines without a network too.

recipe -> sources -> records -> rows with their media -> a folder a source, and the recipe that reads them

What can be met before training is met here: rows that do not read, pictures that do not decode, examples that do not fit. Each is
left out and listed with its reason.
"""

from __future__ import annotations

import json
import os
import re
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from smolforge.data.exclusion import check_lists
from smolforge.data.media import ImageSpec
from smolforge.data.pipeline import Shaping
from smolforge.data.render import Renderer
from smolforge.data.sources.prepared import SLOT, Row, is_prepared, read_marker, record
from smolforge.data.sources.source import Source
from smolforge.data.sources.stream import StreamTable
from smolforge.data.sources.tables import open_source, row_files
from smolforge.errors import DataError
from smolforge.files import write_whole
from smolforge.folders import make, refuse_others
from smolforge.hub import local_folder
from smolforge.loading import base_folder, run_renderer
from smolforge.lock import alone
from smolforge.objectives import objective_of
from smolforge.recipe import DataSection, Recipe
from smolforge.records import Record, fingerprint
from smolforge.sourcing.disk import RESERVE, Free, free_bytes, full_disk, size
from smolforge.sourcing.keeping import Keeper
from smolforge.sourcing.shards import LEFT_OUT, NOTES, Shard, begin, done, finish, write_shard
from smolforge.wording import how_many

PROCESSOR = ("*.json", "*.txt", "*.jinja")  # of the model only what turns records into tokens
SHARD_ROWS = 512
WORKERS = 4  # threads; decoding gives way to others
APPLIED = ("name", "dir", "fixture", "streaming", "split", "exclude", "revision")  # settings that the rows are the result of
RECIPE = "recipe.yaml"
LOCK = ".lock"
SAY_SECONDS = 60  # between lines where there is no terminal
COLUMNS = ("[progress.description]{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[size]}"),
           TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, kw_only=True)
class PreparedSource:
    """A source that is ready."""

    folder: Path
    source: str  # as the recipe called it
    rows: int
    tokens: int
    tiles: int
    bytes: int
    left_out: Counter[str]  # reason -> rows
    fresh: bool  # False: it was there already


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What `prepare` made."""

    recipe: Path
    left_out: Path
    sources: tuple[PreparedSource, ...]


def prepare(
    recipe: Recipe,
    out: Path,
    *,
    rows: int | None = None,
    shard_rows: int = SHARD_ROWS,
    workers: int | None = None,
    console: Console | None = None,
    free: Free = free_bytes,
) -> Prepared:
    """Write a recipe's sources into a folder, and the recipe that reads them there.

    Started again after an interruption it goes on from the last whole shard.

    Args:
        rows: most rows of each source, from its first one on; needed for streams, which have no end.
        shard_rows: rows that are lost at most by an interruption.
        workers: threads that decode and render.
        free: bytes that may still be written below a folder.

    Raises:
        ModelError: the recipe's model has no tokenizer here or on the Hub.
        CheckpointError: the folder holds other files.
        UserError: it cannot be made.
        DataError: a source cannot be opened, no row of it can be used, or the disk will not hold it.
    """
    console = console or Console(stderr=True)
    begun = any((one / NOTES).is_dir() or is_prepared(one) for one in out.glob("*"))
    if not begun:  # a preparation's folder stays one, whatever else a person has put there
        refuse_others(out, lambda name: name.startswith(".") or re.fullmatch(r"(data|eval)-\d+-.+", name) is not None)
    make(out)
    check_lists(recipe.data)
    check_lists(recipe.eval.data)
    renderer = _renderer(recipe)
    work = _Work(
        renderer=renderer, shaping=objective_of(recipe.objective).shaping, rows=rows, shard_rows=shard_rows,
        workers=workers or min(WORKERS, os.cpu_count() or 1), console=console, free=free,
        about=_about_model(recipe),
    )  # fmt: skip
    with alone(out / LOCK, "preparation"):
        return _prepare_all(recipe, out, work)


def _prepare_all(recipe: Recipe, out: Path, work: _Work) -> Prepared:
    groups = {
        "data": (recipe.data, recipe.run.seed),
        "eval": (recipe.eval.data, 0),
    }  # and the seed of each
    sources: list[PreparedSource] = []
    trees: dict[str, list[dict[str, Any]]] = {}
    for group, (sections, seed) in groups.items():
        trees[group] = []
        for number, section in enumerate(sections):
            folder = out / f"{group}-{number}-{_slug(section.source)}"
            sources.append(_prepare_source(section, folder, work, seed=seed))
            trees[group].append(_section(section, folder))
    tree = recipe.model_dump(mode="json", exclude_unset=True)
    tree["data"] = trees["data"]
    if trees["eval"]:
        tree["eval"]["data"] = trees["eval"]
    run = recipe.run.dir
    tree["run"]["dir"] = str(run.with_name(f"{run.name}-prepared"))  # of its own: that one may hold the run of the other sources
    listed = "".join((one.folder / LEFT_OUT).read_text(encoding="utf-8") for one in sources)
    write_whole(out / LEFT_OUT, listed)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    write_whole(out / RECIPE, f"# The same recipe with its sources as `smolforge data prepare` wrote them.\n{text}")
    return Prepared(recipe=out / RECIPE, left_out=out / LEFT_OUT, sources=tuple(sources))


@dataclass(frozen=True, kw_only=True)
class _Work:
    """How every source is prepared."""

    renderer: Renderer
    shaping: Shaping
    rows: int | None
    shard_rows: int
    workers: int
    console: Console
    free: Free
    about: Mapping[str, Any]


def _renderer(recipe: Recipe) -> Renderer:
    folder = local_folder(recipe.model.name, recipe.model.revision, files=PROCESSOR)
    renderer = run_renderer(recipe, base_folder(folder, files=PROCESSOR))
    return replace(renderer, max_tiles=None)  # of drawn sizes a row may have fewer: each run refuses its own


def _about_model(recipe: Recipe) -> dict[str, Any]:
    """Settings beside the source's own that decide which rows can be used."""
    return {
        "model": recipe.model.name, "revision": recipe.model.revision, "row_tokens": recipe.batch.row_tokens,
        "images": recipe.images.model_dump(mode="json", exclude={"random_edge", "max_tiles"}),  # rows are tried at their largest
        "video": recipe.video.model_dump(mode="json", exclude={"cache", "backend"}),
        "objective": recipe.objective.model_dump(mode="json"),
    }  # fmt: skip


def _about(section: DataSection, source: Source, work: _Work) -> dict[str, Any]:
    """What the rows depend on."""
    path = Path(section.source).expanduser()
    states = [(file, file.stat()) for file in row_files(section)]
    listed = [(str(file), state.st_mtime_ns, state.st_size) for file, state in states]
    kept = section.model_dump(mode="json", include={"source", "prompt", *APPLIED})
    about: dict[str, Any] = {
        "section": kept | {"exclude": {str(file): fingerprint(file.expanduser().read_bytes()) for file in section.exclude}},
        "rows": work.rows,
        "available": None if source.endless else len(source),
        "shard_rows": work.shard_rows,
        "file": listed[0][1:] if listed and path.is_file() else None,
        # of a folder there may be thousands
        "files": [len(listed), fingerprint(listed)] if listed and not path.is_file() else None,
    }
    return about | _order(source) | dict(work.about)


def _order(source: Source) -> dict[str, Any]:
    """What decides which rows of a stream are its first ones."""
    if not isinstance(source.table, StreamTable):
        return {}
    parts = [dict(part) for part in source.table.parts]
    commits = [part.pop("revision", None) for part in parts]
    return {"seed": source.table.seed, "commit": sorted({commit for commit in commits if commit}), "parts": parts}


def _section(section: DataSection, folder: Path) -> dict[str, Any]:
    """The section that reads the folder instead: what was applied is gone, all else is as it was."""
    tree = section.model_dump(mode="json", exclude_unset=True, exclude=set(APPLIED))
    return tree | {"source": str(folder)}


def _slug(source: str) -> str:
    """
    >>> _slug("HuggingFaceM4/the_cauldron"), _slug("../my pets/captions.jsonl")
    ('the_cauldron', 'captions.jsonl')
    """
    return re.sub(r"[^\w.-]+", "-", Path(source).name).strip(".-") or "source"


# --- one source --------------------------------------------------------------------------------------------------


def _prepare_source(section: DataSection, folder: Path, work: _Work, *, seed: int) -> PreparedSource:
    source = open_source(section, seed=seed)
    if source.endless and work.rows is None:
        raise DataError("a stream has no end", where=section.source, mend="say how many rows with --rows")
    count = work.rows if source.endless else min(len(source), work.rows or len(source))
    assert count is not None
    about = _about(section, source, work)
    begin(folder, about)
    if is_prepared(folder):
        return _told(section, folder, read_marker(folder), fresh=False)
    with full_disk(folder, "free some space; what is written stays, the same command goes on"):
        shards = _write(source, count, folder, work)
    left_out = Counter(str(row["reason"]) for shard in shards for row in shard.left_out)
    if not any(shard.rows for shard in shards):
        reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.most_common(3))
        what = f"none of its {how_many(left_out.total(), 'row')} can be used ({reasons})"
        raise DataError(what, where=section.source, mend="look at its rows")
    modality = section.modality or source.modality
    excluded = _excluded(section, source, count, seed)
    marker = finish(folder, shards, about, source=section.source, modality=modality, excluded=excluded)
    return _told(section, folder, marker, fresh=True)


def _excluded(section: DataSection, source: Source, count: int, seed: int) -> int | None:
    """How many rows the recipe's lists leave out up to the last one that is prepared, and all that lists left out while the
    source itself was prepared; None where there are no lists."""
    if source.left_out is None or count == len(source):
        return source.left_out
    every = open_source(section.model_copy(update={"exclude": ()}), seed=seed)
    return (every.left_out or 0) + bisect_right(every.rows, source.rows[count - 1]) - count


def _told(section: DataSection, folder: Path, marker: Mapping[str, Any], *, fresh: bool) -> PreparedSource:
    listed = (folder / LEFT_OUT).read_text(encoding="utf-8").splitlines()
    reasons = Counter(str(json.loads(line)["reason"]) for line in listed)
    counts = {name: marker[name] for name in ("rows", "tokens", "tiles", "bytes")}
    return PreparedSource(folder=folder, source=section.source, left_out=reasons, fresh=fresh, **counts)


def _write(source: Source, count: int, folder: Path, work: _Work) -> list[Shard]:
    """All shards, those that were written before included."""
    starts = range(0, count, work.shard_rows)
    shards: list[Shard] = []
    console = work.console
    told = time.monotonic()
    with Progress(*COLUMNS, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task(source.name, total=count, size="")
        with ThreadPoolExecutor(work.workers, thread_name_prefix="prepare") as pool:
            for number, start in enumerate(starts):
                places = range(start, min(start + work.shard_rows, count))
                shard = done(folder, number)
                if shard is None:
                    _check_disk(shards, starts.step, count - start, folder, work.free)
                    made = _ahead(pool, lambda found: _row(found, folder, work), _records(source, places), 2 * work.workers)
                    shard = write_shard(folder, number, _named(made, source.name, lambda: bar.advance(shown)))
                shards.append(shard)
                if source.endless and (read := shard.rows + len(shard.left_out)) < len(places):
                    console.print(f"{source.name}: the stream has {start + read:,} rows", highlight=False, markup=False)
                    break
                written = sum(one.bytes for one in shards)
                bar.update(shown, completed=places.stop, size=size(written))
                if not console.is_terminal and time.monotonic() - told > SAY_SECONDS:
                    told = time.monotonic()
                    console.print(f"{source.name}: {places.stop:,} of {count:,} rows, {size(written)}", highlight=False)
    return shards


def _check_disk(shards: Sequence[Shard], step: int, rows: int, folder: Path, free: Free) -> None:
    """Refuse to go on when the rows so far say that the disk will not hold the rest."""
    there = free(folder)
    a_row = sum(one.bytes for one in shards) / (len(shards) * step) if shards else 0.0
    if there < a_row * rows + RESERVE:
        rest = f"{rows:,} more rows take about {size(a_row * rows)}, and {size(RESERVE)} stay free"
        mend = "free some space, or choose another disk; what is written stays, the same command goes on"
        raise DataError(f"the disk has {size(there)} free; {rest}", where=folder, mend=mend)


class _LastRow:
    """A table that remembers the row it gave last: each is made into a record twice, and a stream only goes forward."""

    def __init__(self, source: Source) -> None:
        self.table, self.last = source.table, -1

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Row:
        if index != self.last:
            self.row, self.last = self.table[index], index
        return self.row


def _records(source: Source, places: Iterable[int]) -> Iterator[tuple[int, tuple[Record, Record] | DataError]]:
    """(row's number, its record without and with `SLOT` as the prompt, or why there is none); of a stream each row once."""
    once = replace(source, table=_LastRow(source))
    for place in places:
        if isinstance(source.table, StreamTable) and _is_over(source.table, place):
            return
        try:
            yield source.rows[place], (once.record(place), once.record(place, prompt=SLOT))
        except DataError as error:
            yield source.rows[place], error


def _is_over(table: StreamTable, place: int) -> bool:
    """Whether a row of a stream is one that came before: in the next epoch all come again."""
    table[place]
    return table.epoch > 0


def _row(made: tuple[int, tuple[Record, Record] | DataError], folder: Path, work: _Work) -> Row:
    """A row to write, or {row, reason, where, mend} of one that is left out."""
    number, found = made
    if isinstance(found, DataError):
        return {"row": number, "reason": found.what, "where": found.where, "mend": found.mend}
    one, asked = found
    limit = (work.renderer.images or ImageSpec(tile=1, longest_edge=1)).max_pixels
    keeper = Keeper(folder=folder, max_pixels=limit)
    try:
        row = keeper.row(one, asked)
        kinds = work.shaping.kinds
        again = record(row, id="", source="", base=folder)
        responses = tuple(response for response in again.responses if response.kind in kinds)
        if not responses:
            raise DataError(f"no response of kind {' or '.join(sorted(kinds))}", where=one.name, mend=work.shaping.mend)
        example = work.renderer.render(work.shaping.use(replace(again, responses=responses)))
    except DataError as error:
        return {"row": number, "reason": error.what, "where": error.where or one.name, "mend": error.mend}
    tiles = sum(len(image.starts) for image in example.images)
    return row | {"tokens": example.num_tokens, "tiles": tiles, "row": number, "copied": keeper.copied}


def _ahead(pool: ThreadPoolExecutor, work: Callable[[T], U], items: Iterable[T], depth: int) -> Iterator[U]:
    """Results in order, at most `depth` of them made ahead."""
    waiting: list[Future[U]] = []
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > depth:
            yield waiting.pop(0).result()
    for one in waiting:
        yield one.result()


def _named(rows: Iterable[Row], source: str, tick: Callable[[], None]) -> Iterator[Row]:
    """The rows as they pass, those that are left out with their source."""
    for row in rows:
        tick()
        yield {"source": source} | row if "reason" in row else row
