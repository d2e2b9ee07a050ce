"""The first rows of a data set whose rows lie in files of annotations on the Hub: of these, up to 22 GB each, the heads alone.

Ranges of bytes are asked for, also of a zip with annotations: its list of members at the end, then the first of them.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any

from smolforge.data.sources.catalog import NamedSource
from smolforge.data.sources.configs import is_globbed
from smolforge.data.sources.files import annotation_table
from smolforge.data.sources.json_lists import LONGEST, object_places, row_of
from smolforge.data.sources.rows import Row
from smolforge.data.sources.source import Source
from smolforge.data.sources.tables import annotations_among, split_slice
from smolforge.errors import DataError
from smolforge.recipe import DataSection
from smolforge.sourcing.hub_files import Listing, RemoteFile, fits, list_files

PIECE = 2**18  # bytes of a range, where not more are asked for at once
SMALL = 2**22  # bytes; a JSON file up to this is fetched whole, as it may be one row itself


@dataclass(frozen=True, kw_only=True)
class HeadTable:
    """Rows, or their texts in JSON: a bad one is met when it is asked for."""

    rows: tuple[Row | bytes, ...]
    where: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        row = self.rows[index]
        return row_of(row, f"{self.where}, row {index}") if isinstance(row, bytes) else row


def open_heads(section: DataSection, known: NamedSource, rows: int) -> tuple[Source, tuple[str, ...]]:
    """The first rows that a section would read, and the files that they are from. What they name by path is not there.

    Raises:
        DataError: the Hub does not give them, or they are not as they should be.
    """
    assert known.hub is not None
    if split_slice(section.split)[0] != section.split:
        raise DataError("a slice of rows that are not here", where=section.source, mend="leave the slice out, or download them")
    listing = list_files(known.hub, section.revision)
    found: list[Row | bytes] = []
    files = []
    with ExitStack() as stack:
        there = {file.path: _Elsewhere(size=file.size, open=partial(_remote, listing, file)) for file in listing.files}
        if not any(is_globbed(path, pattern) for path in there for pattern in known.annotations):
            there |= dict(_packed(listing, known, stack))
        try:
            paths = annotations_among(section, known, list(there))
        except DataError as error:
            patterns = " ".join(f'--include "{pattern}"' for pattern in known.annotations)
            mend = f"{error.mend}; `smolforge data download {section.source} DIR {patterns}` fetches the rows alone"
            raise DataError(error.what, where=error.where, mend=mend) from error
        for path in paths:
            with there[path].open() as file:
                found += _first(file, there[path].size, path, rows - len(found))
            files.append(path)
            if len(found) >= rows:
                break
    table = HeadTable(rows=tuple(found), where=files[0] if len(files) == 1 else section.source)
    if not found:
        raise DataError("no rows", where=files[0], mend="look at the file on the dataset's page")
    source = Source(
        name=section.source, table=table, rows=range(len(found)), to_record=known.record, modality=known.modality,
        prompt=section.prompt,
    )  # fmt: skip
    return source, tuple(files)


def _first(file: IO[bytes], size: int, path: str, rows: int) -> list[Row | bytes]:
    """The first rows of a file, whose beginning alone is read."""
    if path.endswith(".jsonl"):
        lines = (line for line in iter(partial(file.readline, LONGEST), b"") if line.strip())
        return list(islice(lines, rows))
    if size <= SMALL:
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / PurePosixPath(path).name
            whole.write_bytes(file.read())
            try:
                table = annotation_table(whole)
                return [table[number] for number in range(min(rows, len(table)))]
            except DataError as error:
                raise DataError(error.what, where=path, mend=error.mend) from error
    places = list(islice(object_places(file, path), rows))
    texts: list[Row | bytes] = []
    for start, end in places:
        file.seek(start)
        texts.append(file.read(end - start))
    return texts


# --- files that are elsewhere ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Elsewhere:
    size: int  # bytes
    open: Callable[[], IO[bytes]]


def _remote(listing: Listing, file: RemoteFile) -> IO[bytes]:
    return io.BufferedReader(RemoteBytes(listing, file), PIECE)


def _packed(listing: Listing, known: NamedSource, stack: ExitStack) -> Iterator[tuple[str, _Elsewhere]]:
    """What zips with annotations hold, under the names that it has when it is unpacked beside them."""
    folders = {PurePosixPath(pattern).parts[0] for pattern in known.annotations}
    for file in listing.files:
        path = PurePosixPath(file.path)
        packed = path.suffix == ".zip" and any(fits(file.path, pattern) for pattern in known.archives)
        if packed and path.parts[0] in folders and len(path.parts) > 1:
            try:
                opened = stack.enter_context(zipfile.ZipFile(_remote(listing, file)))
            except zipfile.BadZipFile as error:
                raise DataError(f"a damaged archive ({error})", where=file.path, mend="look at the dataset's page") from error
            for info in opened.infolist():
                yield str(path.parent / info.filename), _Elsewhere(size=info.file_size, open=partial(opened.open, info))


class RemoteBytes(io.RawIOBase):
    """A file of a repository as if it were open here: what is read is fetched, and nothing else."""

    def __init__(self, listing: Listing, file: RemoteFile) -> None:
        self.listing, self.file, self.at = listing, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.file.size}[whence]
        return self.at

    def readinto(self, into: Any) -> int:
        view = memoryview(into)
        content = self._fetch(min(len(view), self.file.size - self.at))
        view[: len(content)] = content
        self.at += len(content)
        return len(content)

    def _fetch(self, count: int) -> bytes:
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

        if count <= 0:
            return b""
        url = hf_hub_url(self.listing.repo, self.file.path, repo_type="dataset", revision=self.listing.commit)
        asked = {"Accept-Encoding": "identity", "Range": f"bytes={self.at}-{self.at + count - 1}"}
        headers = build_hf_headers(library_name="smolforge") | asked
        with http_stream_backoff("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            hf_raise_for_status(response)
            if response.status_code != 206 and self.at:  # the file from its beginning on, which is not read to here
                raise DataError("the Hub gives it as a whole only", where=self.file.path, mend="download it first")
            content = b""
            for piece in response.iter_bytes():
                content += piece
                if len(content) >= count:
                    break
        return content[:count]
