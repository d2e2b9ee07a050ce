"""A prepared folder, written shard by shard so that an interrupted preparation goes on where it was.

0-rlaif_v/
  data-00000.arrow      rows of a shard, whole or absent
  videos/               files that rows name
  .shards/about.json    what the rows depend on; another recipe's folder is refused
  .shards/00000.json    what became of the shard's rows; its presence says that the shard is done
  left_out.jsonl  dataset_info.json  state.json  smolforge.json      written at the end, the last one last
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolforge.data.sources.prepared import FORMAT, MARKER, Row, is_prepared, read_marker
from smolforge.errors import DataError
from smolforge.files import write_whole
from smolforge.records import fingerprint
from smolforge.sourcing.keeping import VIDEOS

BATCH_ROWS, BATCH_BYTES = 64, 32_000_000  # of an Arrow record batch: what is held in memory before it is written
NOTES = ".shards"
LEFT_OUT = "left_out.jsonl"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What became of a shard's rows."""

    rows: int = 0  # written
    left_out: tuple[Mapping[str, Any], ...] = ()  # source, row, reason
    tokens: int = 0
    tiles: int = 0
    bytes: int = 0  # written for it, copied videos included
    videos: tuple[str, ...] = ()  # names below `videos`


def begin(folder: Path, about: Mapping[str, Any]) -> None:
    """Make the folder, or go on in one that was begun for the same rows.

    Raises:
        DataError: it holds something else.
    """
    notes = folder / NOTES
    told = json.loads(json.dumps(about))
    if is_prepared(folder):
        there = read_marker(folder)["about"]
    elif (notes / "about.json").is_file():
        there = json.loads((notes / "about.json").read_text(encoding="utf-8"))
    elif folder.exists() and any(path.name != NOTES for path in folder.iterdir()):
        raise DataError("holds something else", where=folder, mend="choose another folder")
    else:
        notes.mkdir(parents=True, exist_ok=True)
        write_whole(notes / "about.json", json.dumps(told))
        return
    if different := list(_differences(there, told)):
        changes = ", ".join(f"{key}: {_short(before)} -> {_short(now)}" for key, before, now in different)
        raise DataError(f"was prepared otherwise ({changes})", where=folder, mend="choose another folder, or delete this one")


def _differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two differ: innermost keys, where both sides have the same ones. Of the outermost those of now count.

    >>> list(_differences({"section": {"source": "a", "name": 1}, "rows": 2}, {"section": {"source": "a", "name": 3}, "rows": 2}))
    [('section.name', 1, 3)]
    """
    if isinstance(before, dict) and isinstance(now, dict) and (not key or before.keys() == now.keys()):
        for inner in now:
            yield from _differences(before.get(inner), now[inner], f"{key}.{inner}".removeprefix("."))
    elif before != now:
        yield key, before, now


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def done(folder: Path, number: int) -> Shard | None:
    """A shard that was finished before, or None."""
    note = folder / NOTES / f"{number:05d}.json"
    if not note.is_file():
        return None
    kept = json.loads(note.read_text(encoding="utf-8"))
    return Shard(**kept | {"left_out": tuple(kept["left_out"]), "videos": tuple(kept["videos"])})


def write_shard(folder: Path, number: int, rows: Iterable[Row | Mapping[str, Any]]) -> Shard:
    """Write rows as they come; those with a `reason` are left out.

    Raises:
        OSError: the disk is full; nothing stays under the shard's name.
    """
    import pyarrow as pa

    schema = features().arrow_schema
    file = _file(folder, number)
    draft = file.with_name(f".{file.name}.draft")
    left_out: list[Mapping[str, Any]] = []
    videos: set[str] = set()
    count = tokens = tiles = held = copied = 0
    batch: list[Row] = []
    try:
        with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for row in rows:
                if "reason" in row:
                    left_out.append(row)
                    continue
                copied += row["copied"]
                batch.append({name: row[name] for name in schema.names})
                count, tokens, tiles = count + 1, tokens + row["tokens"], tiles + row["tiles"]
                videos.update(name.partition("/")[2] for name in row["videos"])
                held += sum(map(len, row["images"])) + len(row["record"])
                if len(batch) >= BATCH_ROWS or held >= BATCH_BYTES:
                    writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                    batch, held = [], 0
            if batch:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
        written = draft.stat().st_size
        if count:
            draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    shard = Shard(
        rows=count, left_out=tuple(left_out), tokens=tokens, tiles=tiles, bytes=written + copied, videos=tuple(sorted(videos))
    )
    write_whole(folder / NOTES / f"{number:05d}.json", json.dumps(vars(shard)))
    return shard


def features() -> Any:
    """Columns of a prepared folder."""
    import datasets

    return datasets.Features(
        {
            "record": datasets.Value("string"),
            "images": datasets.List(datasets.Value("large_binary")),  # a list<binary> holds 2 GB a batch
            "videos": datasets.List(datasets.Value("string")),
            "tokens": datasets.Value("int32"),
            "tiles": datasets.Value("int32"),
            "row": datasets.Value("int64"),
        }
    )


def finish(folder: Path, shards: Sequence[Shard], about: Mapping[str, Any], **told: Any) -> dict[str, Any]:
    """Make the folder a whole `datasets` folder; its marker is written last.

    Args:
        told: what else the marker says.

    Returns:
        The marker.
    """
    import datasets

    kept = {name for shard in shards for name in shard.videos}
    if (folder / VIDEOS).is_dir():
        for path in (folder / VIDEOS).iterdir():  # of rows that were left out, and of what was interrupted
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    left_out = [row for shard in shards for row in shard.left_out]
    write_whole(folder / LEFT_OUT, "".join(f"{json.dumps(row)}\n" for row in left_out))
    datasets.DatasetInfo(features=features()).write_to_directory(str(folder))
    files = [{"filename": _file(folder, number).name} for number, shard in enumerate(shards) if shard.rows]
    state: dict[str, Any] = {
        "_data_files": files, "_fingerprint": fingerprint(json.dumps(about))[:16], "_format_columns": None,
        "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None,
    }  # fmt: skip
    write_whole(folder / "state.json", json.dumps(state, indent=2))
    counts = {name: sum(getattr(shard, name) for shard in shards) for name in ("rows", "tokens", "tiles", "bytes")}
    marker = {"kind": "prepared", "format": FORMAT} | told | counts | {"left_out": len(left_out), "about": about}
    write_whole(folder / MARKER, json.dumps(marker, indent=2))
    shutil.rmtree(folder / NOTES)
    return marker


def _file(folder: Path, number: int) -> Path:
    return folder / f"data-{number:05d}.arrow"
