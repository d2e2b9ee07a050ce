"""What must not be learnt, as rows: benchmarks by name, files and folders with their columns, folders of pictures, recipes' own
evaluation sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smolforge.curating.reading import UNOPENED, Readable, Table, open_entries, told_apart
from smolforge.data.sources.files import LISTS
from smolforge.data.sources.loose import holds_rows
from smolforge.data.sources.source import Source
from smolforge.data.sources.tables import SOURCES
from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark
from smolforge.evals.names import TASKS
from smolforge.evals.rows import Rows, open_rows
from smolforge.recipe import DataSection, load_recipe
from smolforge.records import Media, Message, Part, Record, Response
from smolforge.wording import did_you_mean

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
TABLES = (*LISTS, "dataset_info.json", "dataset_dict.json")
ROWS = (".parquet", ".arrow")  # beside what `holds_rows` finds; refused where they cannot be read, never passed over
FIRST = 5  # rows, of which one has to be readable where pictures lie beside
# Where benchmarks' `facts` keep what is asked and what is right.
QUESTIONS, ANSWERS = ("question",), ("answer", "answers", "references", "captions")


@dataclass(frozen=True, kw_only=True)
class Benchmarked:
    """A benchmark's rows, each with its right answers; videos are not opened, for they would be decoded whole."""

    name: str
    rows: Sequence[int]
    table: Rows
    benchmark: Benchmark

    def record(self, index: int) -> Record:
        row, origin = self.table[index]
        asked = self.benchmark.question(row, "lmms-eval", origin)
        facts = asked.facts
        question = next((str(facts[key]) for key in QUESTIONS if facts.get(key)), None)
        right = next((_texts(facts[key]) for key in ANSWERS if facts.get(key)), [])
        media: list[Part] = [UNOPENED] if self.benchmark.videos else list(asked.record.media)
        turn = Message(role="user", content=(*media, question or asked.record.words))
        return replace(asked.record, messages=(turn,), responses=tuple(Response(text=text) for text in right))


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of pictures and nothing else."""

    name: str
    rows: Sequence[int]
    files: Sequence[Path]

    def record(self, index: int) -> Record:
        turn = Message(role="user", content=(Media(ref=self.files[index]),))
        return Record(id=str(index), source=self.name, messages=(turn,), responses=())


def open_against(*wanted: str, split: str = "train", data: Path | None = None, beside: Sequence[Table] = ()) -> list[Readable]:
    """Rows of every `--against`, in their order.

    Args:
        wanted: each a benchmark (`pope`, or `pope=FOLDER` with the same columns as on the Hub), a recipe, whose eval.data are
            meant, a source by name, file, folder or Hub name, or a folder of pictures.
        split: of a source.
        data: of a benchmark without a folder of its own; None asks the Hub.
        beside: entries that are compared with them, whose rows must not be called the same.

    Raises:
        DataError: nothing there, or nothing that can be compared.
        RecipeError: not a readable recipe.
    """
    opened = [one for what in wanted for one in _open(what, split, data)]
    tables = [one for one in opened if isinstance(one, Table)]
    told = iter(told_apart([*beside, *tables])[len(beside) :])
    return [next(told).source if isinstance(one, Table) else one for one in opened]


def _open(wanted: str, split: str, data: Path | None) -> Sequence[Table | Benchmarked | Folder]:
    """One `--against`."""
    task, _, folder = wanted.partition("=")
    if task in TASKS and not Path(wanted).exists():
        return [_benchmark(task, Path(folder).expanduser() if folder else data)]
    path = Path(wanted).expanduser()
    if path.suffix in (".yaml", ".yml"):
        recipe = load_recipe(path)
        if recipe.eval is None or not recipe.eval.data:
            raise DataError("has no eval.data to compare with", where=path, mend="give the evaluation set itself")
        return open_entries(recipe.eval.data)
    if path.is_dir():
        return [_rows(wanted, path, split) if _has_rows(path) else _pictures(wanted, path, split)]
    if not path.exists() and task not in SOURCES and (meant := did_you_mean(task, TASKS)):
        raise DataError("no such benchmark, file or source", where=wanted, mend=meant)
    return open_entries([DataSection(source=wanted, split=split)])


def _has_rows(folder: Path) -> bool:
    """Whether a folder is to be opened as a source of rows, of which pictures may lie beside."""
    known = any((folder / name).is_file() for name in TABLES) or any(file.suffix in ROWS for file in folder.rglob("*"))
    return known or holds_rows(folder)


def _rows(name: str, folder: Path, split: str) -> Table:
    """A folder as a source of rows.

    Raises:
        DataError: it cannot be opened; or pictures lie beside, and rows that say nothing to compare would stand for them.
    """
    pictures = _pictures_below(folder)
    try:
        (table,) = open_entries([DataSection(source=name, split=split)])
        if pictures:
            _refuse_unreadable(table.source)
    except DataError as error:
        if not pictures:
            raise
        alone = "give the pictures in a folder without those files"
        mend = f"{error.mend}; or {alone}" if error.mend else alone
        raise DataError(error.what, where=error.where, mend=mend) from error
    return table


def _refuse_unreadable(source: Source) -> None:
    """Raises DataError: none of the first rows can be read, as where they have other columns. Of single ones `Skips` tells."""
    failed: list[DataError] = []
    for index in range(min(FIRST, len(source.rows))):
        try:
            source.record(index)
        except DataError as error:
            failed.append(error)
        else:
            return
    raise failed[0]  # an opened source has rows


def _pictures(name: str, folder: Path, split: str) -> Folder:
    files = _pictures_below(folder)
    if not files:
        mend = "check the path; rows lie in Parquet, CSV and JSON Lines files, and a .json file of rows is a list of objects"
        raise DataError("a folder without pictures or a table", where=folder, mend=mend)
    if split != "train":
        mend = "leave --against-split out, or compare with it in a command of its own"
        raise DataError(f"no split {split}: a folder of pictures has none", where=folder, mend=mend)
    return Folder(name=name, rows=range(len(files)), files=files)


def _pictures_below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)


def _benchmark(task: str, data: Path | None) -> Benchmarked:
    from smolforge.evals.benchmarks import BENCHMARKS

    if task not in BENCHMARKS:
        raise DataError("is no set of questions of its own", where=task, mend="give its file or source instead of its name")
    table = open_rows(task, BENCHMARKS[task], data)
    return Benchmarked(name=task, rows=range(len(table)), table=table, benchmark=BENCHMARKS[task])


def _texts(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
