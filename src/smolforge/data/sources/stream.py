"""A dataset as a stream, row by row while training, without downloading it first.

Rows are numbered in the order in which they come: shards in an order that seed and epoch decide, each from its first row to its
last, with no shuffle buffer, whose content no state could bring back. Then the next epoch begins, its shards in another order.

    rows       0 1 2 3 4 5 6 7 8 9 ...      three shards a b c of three rows, seed 0
    shard      b b b a a a c c c | c ...    | the second epoch

Row n is the same row each time it is asked for, also in another process and after an interruption, while the data, the seed and
the version of `datasets` are the same. A Hub dataset is pinned to the commit that its revision meant when it was opened; give a
commit as revision where a run is to go on weeks later. Asking for rows in order is what is fast. Going back, or beginning in the
middle, starts from the nearest place that was passed before (kept on the disk, every `EVERY` rows) and reads from there; where no
such place is known, from the beginning.
"""

from __future__ import annotations

import atexit
import glob
import json
import os
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smolforge.data.sources.cards import refuse_strays
from smolforge.data.sources.files import LISTS, configuration, is_lone
from smolforge.data.sources.hub_rows import refusal
from smolforge.data.sources.loose import asked_files
from smolforge.data.sources.rows import Row
from smolforge.errors import DataError, UserError
from smolforge.hub import attempts_held
from smolforge.records import fingerprint

ENDLESS = 2**62  # what stands for the number of a stream's rows
EVERY = 1000  # rows between kept places
RECENT = 32  # rows kept in memory: what is next to each other is asked for slightly out of order
BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
BESIDE = "beside"
LOOKED = 4096  # first bytes of a JSON file, in which its rows begin


class StreamTable:
    """Rows of a stream by number.

    Args:
        parts: what `datasets.load_dataset` is asked for, once each in an epoch; as `BESIDE` the folder of a part's files, where
            they are in one.
        seed: decides the order of parts and of shards in each epoch.
        where: what it is called in errors.
        content: names the data, so that kept places of other data are not taken.
        places: folder for kept places; None keeps them in memory only.

    Raises:
        DataError: it cannot be opened.
    """

    def __init__(
        self, parts: Sequence[Mapping[str, Any]], *, seed: int, where: str, content: str, places: Path | None = None
    ) -> None:
        import datasets

        self.parts, self.seed, self.where = tuple(dict(part) for part in parts), seed, where
        key = fingerprint(content, self.parts, seed, datasets.__version__, "all shards in every process")
        self.places = places / key if places else None
        self._known: dict[int, dict[str, Any]] = {0: {"row": 0, "epoch": 0, "turn": 0, "state": None}}
        if self.places and self.places.is_dir():
            self._known |= {int(file.stem): {"file": str(file)} for file in self.places.glob("*.json")}
        self._reset()
        _OPEN.add(self)
        for number in range(len(self.parts)):
            self._open(number)

    def __len__(self) -> int:
        return ENDLESS

    @property
    def epoch(self) -> int:
        """How many times the whole stream was passed before the row that was read last."""
        return self._epoch

    def __getitem__(self, index: int) -> Row:
        return self._read(index)[1]

    def folder(self, index: int) -> Path:
        """The folder that a row's file lies in, of parts that tell it."""
        return Path(self.parts[self._read(index)[0]][BESIDE])

    def _read(self, index: int) -> tuple[int, Row]:
        """Number of the part that a row is of, and the row."""
        with self._lock:
            if os.getpid() != self._process:
                self._reset()  # open files are not shared between processes
            if index in self._recent:
                return self._recent[index]
            place = max(row for row in self._known if row <= index)
            if self._rows is None or index < self._at or place > self._at:
                self._go(place)
            while self._at <= index:
                read = self._next()
            return read

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_rows", "_dataset")}
        return kept | {"_process": None, "_recent": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._reset()
        _OPEN.add(self)

    def _reset(self) -> None:
        self._lock, self._process = threading.RLock(), os.getpid()
        self._rows: Iterator[Row] | None = None
        self._dataset: Any = None
        self._recent: OrderedDict[int, tuple[int, Row]] = OrderedDict()
        self._at = self._epoch = self._turn = self._epoch_rows = self._part = 0

    def _open(self, part: int) -> Any:
        import datasets

        asked = {key: value for key, value in self.parts[part].items() if key != BESIDE}
        try:
            with attempts_held():
                opened = datasets.load_dataset(**asked, streaming=True)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            if Path(str(asked["path"])).exists() or asked["path"] in BUILDERS.values():
                mend = "check its files and split"
                raise DataError(f"not a readable stream ({error})", where=self.where, mend=mend) from error
            raise refusal(str(asked["path"]), asked.get("name"), error) from error
        # Pictures as bytes: a damaged one is met when it is needed. JSON has no features before it is read, nor pictures in it.
        return opened.decode(False) if opened.features else opened

    def _go(self, place: int) -> None:
        """Begin at a kept place."""
        kept = self._known[place]
        if "file" in kept:
            kept = self._known[place] = json.loads(Path(kept["file"]).read_bytes())
        self._at, self._epoch, self._turn = kept["row"], kept["epoch"], kept["turn"]
        self._epoch_rows = kept.get("epoch_rows", 0)
        self._begin(kept["state"])

    def _begin(self, state: dict[str, Any] | None) -> None:
        order = np.random.default_rng([self.seed, 5, self._epoch]).permutation(len(self.parts))
        self._part = int(order[self._turn])
        self._dataset = self._open(self._part)
        # An epoch that is not 0 alone makes `datasets` shuffle the shards, by a generator seeded with it, and nothing else.
        self._dataset.set_epoch(1 + int(fingerprint(self.seed, self._epoch)[:12], 16))
        if state is not None:
            self._dataset.load_state_dict(state)
        # Not `iter(self._dataset)`, which in a process of a DataLoader reads that process's share of the shards alone.
        self._rows = ({name: values[0] for name, values in batch.items()} for batch in self._dataset.iter(batch_size=1))

    def _next(self) -> tuple[int, Row]:
        if self._at % EVERY == 0 and self._at not in self._known:
            self._keep()
        while True:
            try:
                assert self._rows is not None
                row = next(self._rows)
                break
            except StopIteration:
                self._turn += 1
            except _broken() as error:
                self._rows = None
                mend = "run the command again when the cause is mended; it goes on from the last checkpoint"
                raise UserError(f"the stream broke off ({type(error).__name__}: {error})", where=self.where, mend=mend) from error
            if self._turn == len(self.parts):
                if not self._epoch_rows:
                    raise UserError("a stream without rows", where=self.where, mend="check its split")
                self._turn, self._epoch, self._epoch_rows = 0, self._epoch + 1, 0
            self._begin(None)
        self._recent[self._at] = self._part, row
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        self._at += 1
        self._epoch_rows += 1
        return self._part, row

    def _keep(self) -> None:
        kept = {
            "row": self._at, "epoch": self._epoch, "turn": self._turn, "epoch_rows": self._epoch_rows,
            "state": self._dataset.state_dict(),
        }  # fmt: skip
        self._known[self._at] = kept
        if self.places:
            self.places.mkdir(parents=True, exist_ok=True)
            begun = self.places / f"{self._at}.{os.getpid()}"
            begun.write_text(json.dumps(kept))
            begun.replace(self.places / f"{self._at}.json")


_OPEN: weakref.WeakSet[StreamTable] = weakref.WeakSet()


@atexit.register
def _close() -> None:
    """Let go of what is half read while the modules that read it are still there: later they complain."""
    for table in _OPEN:
        table._rows = None


def _broken() -> tuple[type[BaseException], ...]:
    import datasets
    from pyarrow import ArrowException

    return OSError, ValueError, RuntimeError, ArrowException, datasets.exceptions.DatasetsError


def local_parts(path: Path, split: str, names: Sequence[str | None]) -> tuple[list[dict[str, Any]], str]:
    """What to ask `datasets` for to stream a file or folder, and the name of its content.

    Raises:
        DataError: nothing there to stream.
    """
    file = path if path.is_file() else next((path / name for name in LISTS if (path / name).is_file()), None)
    if file is not None:
        if file.suffix not in BUILDERS:
            raise DataError(f"a {file.suffix or 'nameless'} file", where=path, mend=f"give one of {', '.join(BUILDERS)}")
        if split != "train":
            raise DataError(f"no split {split}: a file is one split, train", where=path, mend="give another file")
        return _file_parts([file]), _content([file])
    assert not is_lone(path)
    if files := asked_files(path, split.split("+"), names):
        return _file_parts(files), _content(files)
    parts = []
    for name in names:
        folder, asked = configuration(path, name)
        refuse_strays(folder)
        parts.append({"path": str(folder.resolve()), "name": asked, "split": split})  # `csv` alone would be a builder
    return parts, _content(sorted(one for one in path.rglob("*") if one.is_file()))


def _file_parts(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Files of one kind and folder together, so that rows tell where they lie."""
    together: dict[tuple[Path, str, str | None], list[str]] = {}
    for file in files:
        # A path with brackets, * or ? is a pattern to `datasets`.
        together.setdefault((file.parent, file.suffix, _field(file)), []).append(glob.escape(str(file)))
    return [
        {"path": BUILDERS[suffix], "data_files": {"train": names}, "split": "train", BESIDE: str(folder)}
        | ({"field": field} if field else {})
        for (folder, suffix, field), names in together.items()
    ]


def _field(file: Path) -> str | None:
    """`data`, of a JSON file whose rows are called so, as they are in a table."""
    if file.suffix != ".json":
        return None
    with file.open("rb") as content:
        return "data" if re.match(rb'(\xef\xbb\xbf)?\s*{\s*"data"\s*:\s*\[', content.read(LOOKED)) else None


def _content(files: Sequence[Path]) -> str:
    return fingerprint([(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files])


def hub_parts(hub: str, split: str, names: Sequence[str | None], revision: str | None) -> tuple[list[dict[str, Any]], str]:
    """The same for a dataset of the Hub, pinned to the commit that `revision` means now.

    Raises:
        DataError: the Hub does not give it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    try:
        with attempts_held():
            commit = HfApi().dataset_info(hub, revision=revision).sha
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise refusal(hub, None, error) from error
    parts = [{"path": hub, "name": name, "split": split, "revision": commit} for name in names]
    return parts, str(commit)
