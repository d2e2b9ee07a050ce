"""Open anything as a table of rows: a JSON Lines, JSON or Parquet file, a folder of pictures, a `datasets` folder, a Hub name."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from smolforge.data.sources import cauldron, scenes, shapes
from smolforge.errors import DataError
from smolforge.recipe import DataSection
from smolforge.records import Record

LISTS = ("captions.jsonl", "metadata.jsonl", "metadata.csv")  # a folder of pictures has one of these

Row = dict[str, Any]
ToRecord = Callable[..., Record]


class Table(Protocol):
    """Rows by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


@dataclass(frozen=True, kw_only=True)
class NamedSource:
    """A data set that smolforge knows by name."""

    about: str
    record: ToRecord
    hub: str | None = None  # its name on the Hub
    needs_name: bool = False  # has configurations and no default


SOURCES: dict[str, NamedSource] = {
    "scenes": NamedSource(about="drawn scenes of one to three coloured shapes, made on demand", record=scenes.record),
    "scene_pairs": NamedSource(about="the same with a false caption as rejected", record=scenes.record),
    "the_cauldron": NamedSource(
        about="50 collections of pictures with questions and answers (name: ai2d, vqav2, ...)",
        record=cauldron.record, hub="HuggingFaceM4/the_cauldron", needs_name=True,
    ),
    "coco_captions": NamedSource(
        about="COCO photos, one row a caption", record=shapes.record, hub="jxie/coco_captions",
    ),
    "smoltalk": NamedSource(
        about="instructions and answers, text only (name: all, smol-magpie-ultra, ...)",
        record=shapes.record, hub="HuggingFaceTB/smoltalk", needs_name=True,
    ),
    "rlaif_v": NamedSource(
        about="79k pairs of answers about pictures, ranked by an open model", record=shapes.record,
        hub="HuggingFaceH4/rlaif-v_formatted",
    ),
    "rlhf_v": NamedSource(
        about="5.7k pairs about pictures whose chosen answer a human corrected", record=shapes.record,
        hub="openbmb/RLHF-V-Dataset",
    ),
    "povid": NamedSource(
        about="17k pairs with hallucinations put in by GPT-4V; COCO's pictures are not included: save its file beside them",
        record=shapes.record, hub="YiyangAiLab/POVID_preference_data_for_VLLMs",
    ),
    "ultrafeedback_binarized": NamedSource(
        about="62k pairs ranked by GPT-4, text only", record=shapes.record, hub="trl-lib/ultrafeedback_binarized",
    ),
    "ultrafeedback_cleaned": NamedSource(
        about="61k pairs ranked by GPT-4, text only, without TruthfulQA's prompts", record=shapes.record,
        hub="argilla/ultrafeedback-binarized-preferences-cleaned",
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened source: rows and the way to read them as records."""

    name: str
    table: Table
    rows: Sequence[int]  # numbers of the rows that the split slice leaves
    to_record: ToRecord
    options: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def record(self, index: int) -> Record:
        """Record of a row.

        Raises:
            DataError: the row cannot be read, or has no known shape.
        """
        number = self.rows[index]
        try:
            return self.to_record(self.table[number], id=str(number), source=self.name, **self.options)
        except DataError as error:
            raise DataError(error.what, where=error.where or f"{self.name}[{number}]", mend=error.mend) from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                "a malformed row",
                where=f"{self.name}[{number}] ({type(error).__name__}: {error})",
                mend="compare it with the shapes in the documentation",
            ) from error


def open_source(section: DataSection) -> Source:
    """Open a source of a recipe: by name, by path, or from the Hub.

    Raises:
        DataError: it does not exist, cannot be read, or has no rows.
    """
    name, bounds = split_slice(section.split)
    known = SOURCES.get(section.source)
    options: dict[str, Any] = {"prompt": section.prompt}
    to_record: ToRecord = known.record if known else shapes.record
    path = Path(section.source).expanduser()
    table: Table
    if section.source in ("scenes", "scene_pairs"):
        if name not in ("train", "test"):
            raise DataError(f"no split {name}", where=section.source, mend="it has train and test")
        table = scenes.SceneTable(split=name, pairs=section.source == "scene_pairs")
    elif known and known.hub:
        if known.needs_name and section.name is None:
            raise DataError("has several configurations", where=section.source, mend=f"give one as name; {known.about}")
        table = _from_hub(known.hub, section, name)
    elif path.exists():
        table = _from_path(path, name)
        options["base"] = path if path.is_dir() else path.parent
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", section.source) and path.suffix not in READERS:
        table = _from_hub(section.source, section, name)
    else:
        raise DataError("no such file or source", where=section.source, mend=f"known by name: {', '.join(SOURCES)}")
    rows = range(len(table))[bounds(len(table))]
    if not rows:
        raise DataError(
            f"no rows in {section.split} of {len(table)}", where=section.source, mend="choose a wider split, such as train"
        )
    return Source(name=section.source, table=table, rows=rows, to_record=to_record, options=options)


def split_slice(split: str) -> tuple[str, Callable[[int], slice]]:
    """Name of a split, and its slice as a function of the number of rows.

    >>> name, bounds = split_slice("train[:6%]")
    >>> name, bounds(78975)
    ('train', slice(0, 4738, None))
    >>> split_slice("test[-10:]")[1](100)
    slice(90, 100, None)

    Raises:
        DataError: not of the form name, name[a:b], name[a%:b%].
    """
    match = re.fullmatch(r"([\w.-]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    if not match:
        raise DataError("not a split", where=split, mend="write train, train[:6%] or train[100:200]")
    name, start, stop = match.groups()

    def place(text: str | None, rows: int, default: int) -> int:
        if text is None:
            return default
        number = round(int(text[:-1]) * rows / 100) if text.endswith("%") else int(text)
        return min(max(number + rows if number < 0 else number, 0), rows)

    return name, lambda rows: slice(place(start, rows, 0), place(stop, rows, rows))


# --- files ---------------------------------------------------------------------------------------------------------


def local_table(path: Path, split: str) -> Table:
    """A file or folder as a table. A file is one split, whatever it is called.

    Raises:
        DataError: it cannot be read.
    """
    lone = path.is_file() or any((path / name).is_file() for name in LISTS)
    return _from_path(path, "train" if lone else split)


def _from_path(path: Path, split: str) -> Table:
    if path.is_dir():
        return _from_folder(path, split)
    if path.suffix not in READERS:
        raise DataError(f"a {path.suffix or 'nameless'} file", where=path, mend=f"give one of {', '.join(READERS)}")
    if split != "train":
        raise DataError(
            f"no split {split}: a file is one split, train", where=path, mend="write train[90%:], or give another file"
        )
    return READERS[path.suffix](path)


def _from_folder(folder: Path, split: str) -> Table:
    for name in LISTS:
        if (folder / name).is_file():
            return _from_path(folder / name, split)
    import datasets

    if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
        try:
            saved = datasets.load_from_disk(str(folder))
        except (OSError, ValueError) as error:
            raise DataError(f"not a readable dataset ({error})", where=folder, mend="save it again") from error
        if isinstance(saved, datasets.DatasetDict):
            if split not in saved:
                raise DataError(f"no split {split}", where=folder, mend=f"it has {', '.join(saved)}")
            saved = saved[split]
        return _undecoded(saved)
    if any(folder.rglob("*.parquet")):
        try:
            return _undecoded(datasets.load_dataset(str(folder), split=split))
        except (OSError, ValueError) as error:
            raise DataError(f"not a readable dataset ({error})", where=folder, mend="check its files and split") from error
    raise DataError(
        "a folder without captions.jsonl, metadata.jsonl, metadata.csv or Parquet files",
        where=folder,
        mend='add captions.jsonl with lines like {"image": "a.jpg", "captions": ["..."]}',
    )


class JsonLines:
    """A JSON Lines file, read line by line when asked; only line offsets are kept in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets: list[int] = []
        with path.open("rb") as file:
            at = 0
            for line in file:
                if line.strip():
                    self.offsets.append(at)
                at += len(line)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Row:
        with self.path.open("rb") as file:
            file.seek(self.offsets[index])
            return _row(file.readline(), f"{self.path.name}, row {index}")


def _row(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError("not valid JSON", where=where, mend="mend the line") from error
    if not isinstance(row, dict):
        raise DataError("not a JSON object", where=where, mend="one object a line")
    return row


def _json_list(path: Path) -> Table:
    try:
        content = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not valid JSON ({error})", where=path, mend="mend the file") from error
    rows = content.get("data") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError("not a list of objects", where=path, mend="a .json file holds a list of rows")
    return rows


def _csv_rows(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [{key: value or None for key, value in row.items() if key} for row in csv.DictReader(file)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"not a readable table ({error})", where=path, mend="save it as UTF-8 CSV") from error
    return rows


def _parquet(path: Path) -> Table:
    import datasets
    from pyarrow import ArrowException

    try:
        return _undecoded(datasets.Dataset.from_parquet(str(path)))
    except (OSError, ValueError, ArrowException, datasets.exceptions.DatasetGenerationError) as error:
        raise DataError(f"not a readable Parquet file ({error})", where=path, mend="write it again") from error


def _from_hub(hub: str, section: DataSection, split: str) -> Table:
    return hub_table(hub, section.name, split, revision=section.revision)


def hub_table(hub: str, name: str | None, split: str, *, revision: str | None = None) -> Table:
    """A dataset of the Hub as a table, pictures as bytes.

    Raises:
        DataError: the Hub does not give it.
    """
    import datasets

    try:
        return _undecoded(datasets.load_dataset(hub, name, split=split, revision=revision))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"the Hub did not give {hub} ({type(error).__name__}: {error})",
            where=hub,
            mend="check the name, its configuration and split, the network and, for gated data, `hf auth login`",
        ) from error


def _undecoded(dataset: Any) -> Table:
    """The same rows with pictures as bytes: a damaged one is met, and counted, when it is needed."""
    import datasets

    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
            dataset = dataset.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return dataset


READERS: dict[str, Callable[[Path], Table]] = {
    ".jsonl": JsonLines, ".json": _json_list, ".parquet": _parquet, ".csv": _csv_rows
}  # fmt: skip
