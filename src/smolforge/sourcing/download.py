"""A dataset of the Hub as a folder here: its size first, then its files, each whole or absent, then its archives unpacked.

    DIR/...                         the repository's files under their own names, what archives held beside them
    DIR/.smolforge/download.json    which commit, and the list of its files: a second run needs no network to check them
    DIR/.smolforge/files.jsonl      files that were found right, with size and time, so that they are not hashed again
    DIR/.smolforge/incoming/        beginnings of files; an interrupted one goes on where it was

The transfer is huggingface_hub's `http_get`: its `hf_hub_download` (2.4) begins an interrupted file anew.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from smolforge.data.sources.catalog import NamedSource
from smolforge.data.sources.tables import named
from smolforge.errors import DataError
from smolforge.files import write_whole
from smolforge.lock import alone
from smolforge.records import fingerprint
from smolforge.sourcing.archives import Unpacked, is_archive, is_unpacked, remove, unpack, unpacked_size
from smolforge.sourcing.disk import RESERVE, Free, free_bytes, full_disk, size
from smolforge.sourcing.hub_files import OURS, Listing, RemoteFile, is_whole, list_files, one_line, wanted

AT_ONCE = 4  # files that are fetched side by side
PARTS = re.compile(r"\.(tar|zip|tgz|tar\.gz)[._-]?(part[\w.-]*|\d{2,3}|a[a-z])$", re.I)  # of one archive in several files
Tick = Callable[[int], None]


def nothing(count: int) -> None:
    """Told of bytes, tells nobody."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a download would do."""

    folder: Path
    listing: Listing
    known: NamedSource | None
    files: tuple[RemoteFile, ...]  # all that are wanted
    missing: tuple[RemoteFile, ...]  # of these, what must be fetched
    damaged: tuple[str, ...]  # of these, what is here with another content
    unpack: tuple[RemoteFile, ...]  # archives that must be unpacked
    gone: tuple[str, ...]  # files of an older commit that this one does not have, which are removed: they would be read with it
    to_fetch: int  # bytes
    to_unpack: int  # bytes, roughly: an archive that is not here yet counts with its own size
    free: int  # bytes on the disk

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def split_archives(self) -> list[str]:
        """Files that are parts of one archive, which nobody joins here."""
        return [file.path for file in self.files if PARTS.search(file.path)]


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a download did."""

    files: int
    bytes: int
    unpacked: Mapping[str, Unpacked]
    removed: int  # files that this commit does not have, and what archives among them held
    seconds: float


def repository(source: str) -> tuple[str, NamedSource | None]:
    """(owner/name on the Hub, what is known of it) of a source's name.

    Raises:
        DataError: not on the Hub.
    """
    known = named(source)
    if known and known.hub is None:
        mend = "it is drawn by smolforge: use it by its name"
        raise DataError("is not on the Hub", where=source, mend=mend)
    if not known and not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise DataError(
            "neither a known source nor a name on the Hub", where=source, mend="see `smolforge data list`, or give owner/name"
        )
    return (known.hub if known and known.hub else source), known


def plan_download(
    source: str,
    folder: Path,
    *,
    names: Sequence[str] = (),
    include: Sequence[str] = (),
    revision: str | None = None,
    update: bool = False,
    unpacking: bool = True,
    verify: bool = False,
    tick: Tick = nothing,
    free: Free = free_bytes,
) -> Plan:
    """Look at the repository and at the folder; nothing is written.

    Args:
        names: configurations; all when left out.
        include: patterns of files, instead of those that the source is known to need.
        revision: branch, tag or commit; what the folder was begun with, or the newest of the default branch.
        update: take the newest commit, though the folder holds an older one.
        verify: hash every file that is here, also those that were found right before.
        tick: told the bytes that were hashed.

    Raises:
        DataError: the Hub does not give it, or the folder holds something else.
    """
    repo, known = repository(source)
    listing = _known_listing(folder, repo, revision, update) or list_files(repo, revision)
    files = wanted(listing, known, names=names, include=include)
    ledger = _Ledger(folder)
    missing, damaged, gone = [], [], ledger.gone(listing)
    for file in files:
        state = ledger.state(file, full=verify)
        if state == "foreign":
            mend = "move it away, or choose another folder"
            raise DataError(
                "is another file than the dataset's of that name, and was not downloaded", where=folder / file.path, mend=mend
            )
        if state != "here":
            missing.append(file)
        if state == "damaged":
            damaged.append(file.path)
        tick(file.size)
    absent = {file.path for file in missing}
    archives = [file for file in files if unpacking and is_archive(file.path)]
    to_unpack = [file for file in archives if file.path in absent or not is_unpacked(folder / file.path, file.hash)]
    partly = sum(min(_part(folder, file).stat().st_size, file.size) for file in missing if _part(folder, file).is_file())
    return Plan(
        folder=folder, listing=listing, known=known, files=files, missing=tuple(missing), damaged=tuple(damaged),
        unpack=tuple(to_unpack), gone=gone, to_fetch=sum(file.size for file in missing) - partly,
        to_unpack=sum(_unpacks_to(folder, file, file.path in absent) for file in to_unpack), free=free(folder),
    )  # fmt: skip


def _unpacks_to(folder: Path, file: RemoteFile, absent: bool) -> int:
    """Bytes, roughly: photos and videos do not shrink in an archive."""
    return file.size if absent else unpacked_size(folder / file.path) or file.size


def download(
    plan: Plan, *, tick: Tick = nothing, told: Callable[[str], None] = lambda line: None, free: Free = free_bytes
) -> Fetched:
    """Carry out a plan.

    Args:
        tick: told the bytes that arrived or were unpacked.
        told: told in words what is being done.

    Raises:
        DataError: the disk is too small, the network fails, a file arrives damaged twice, an archive is malicious.
    """
    need = plan.to_fetch + plan.to_unpack
    if (plan.missing or plan.unpack) and need + RESERVE > plan.free:
        parts = f"{size(plan.to_fetch)} to fetch, {size(plan.to_unpack)} unpacked"
        what = f"needs {size(need)} ({parts}), and the disk has {size(plan.free)} free"
        raise DataError(what, where=plan.folder, mend="choose another disk, or less of it with --name or --include")
    began = time.monotonic()
    (plan.folder / OURS).mkdir(parents=True, exist_ok=True)
    room = full_disk(plan.folder, "free some space and run it again: what arrived stays")
    with alone(plan.folder / OURS / "lock", "download"), room:
        write_whole(_listing_file(plan.folder), json.dumps(asdict(plan.listing)))
        ledger = _Ledger(plan.folder)
        _fetch_all(plan, ledger, tick)
        protected = {plan.folder / path for path in (*(file.path for file in plan.files), *ledger.known)}
        removed = sum(_remove(plan.folder, path, protected, ledger) for path in plan.gone)
        unpacked: dict[str, Unpacked] = {}
        for file in (*plan.unpack, *plan.unpack):
            # A second time where the file of another archive stood in the way of one that then went.
            if file.path not in unpacked or (unpacked[file.path].kept and any(one.removed for one in unpacked.values())):
                told(f"unpacking {file.path}")
                archive = plan.folder / file.path
                unpacked[file.path] = unpack(archive, file.hash, protected=protected, free=free, tick=tick)
    return Fetched(
        files=len(plan.missing), bytes=plan.to_fetch, unpacked=unpacked, removed=removed, seconds=time.monotonic() - began
    )  # fmt: skip


def _remove(folder: Path, path: str, protected: set[Path], ledger: _Ledger) -> int:
    """Remove a file that was downloaded, with what it holds if it is an archive. Returns how many files went."""
    place, held = folder / path, 0
    if is_archive(path):
        held = remove(place, protected)
    place.unlink(missing_ok=True)
    protected.discard(place)
    ledger.forget(path)
    return 1 + held


# --- the transfer ------------------------------------------------------------------------------------------------


def _fetch_all(plan: Plan, ledger: _Ledger, tick: Tick) -> None:
    stop = threading.Event()

    def count(number: int) -> None:
        if stop.is_set():
            raise _Stopped
        tick(number)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="download") as pool:
        waiting = [pool.submit(_fetch, plan, file, ledger, count, stop) for file in plan.missing]
        try:
            for one in as_completed(waiting):
                one.result()
        except BaseException:  # the first error, or Ctrl-C: the other files stop where they are, and go on next time
            stop.set()
            raise


class _Stopped(Exception):
    """Another file failed."""


def _fetch(plan: Plan, file: RemoteFile, ledger: _Ledger, tick: Tick, stop: threading.Event) -> None:
    if stop.is_set():
        return
    part = _part(plan.folder, file)
    part.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):  # a beginning that was damaged is told by the hash at the end, and fetched once more from its first byte
        _transfer(plan.listing, file, part, tick)
        if is_whole(part, file):
            place = plan.folder / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            part.replace(place)
            ledger.add(file)
            return
        part.unlink()
    raise DataError(
        "arrived twice with another content than the Hub lists", where=f"{plan.listing.repo}/{file.path}",
        mend="run it again; if it stays so, the network changes it or the repository is damaged",
    )  # fmt: skip


def _transfer(listing: Listing, file: RemoteFile, part: Path, tick: Tick) -> None:
    """Bring a beginning to its full length."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(listing.repo, file.path, repo_type="dataset", revision=listing.commit)
    headers = build_hf_headers(library_name="smolforge") | {"Accept-Encoding": "identity"}
    with part.open("ab") as handle:
        if handle.tell() > file.size:
            handle.truncate(0)
        with one_line(listing.repo), _cut_short(listing.repo):
            http_get(
                url, handle, resume_size=handle.tell(), headers=headers, expected_size=file.size,
                displayed_filename=file.path, tqdm_class=cast(Any, _bar(tick)),
            )  # fmt: skip


@contextmanager
def _cut_short(repo: str) -> Iterator[None]:
    """http_get says with a bare OSError that a file ended early."""
    try:
        yield
    except OSError as error:
        if error.errno is not None or isinstance(error, ConnectionError | TimeoutError) or "Consistency check" not in str(error):
            raise
        raise DataError("a file ended early", where=repo, mend="run it again: what arrived stays") from error


def _bar(tick: Tick) -> type:
    """What http_get wants of a progress bar, which passes the bytes on."""

    class Bar:
        def __init__(self, **about: object) -> None:
            pass

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def update(self, count: int) -> None:
            tick(count)

    return Bar


# --- what is here ------------------------------------------------------------------------------------------------


class _Ledger:
    """Files of a folder that were found right, with the size and time that they had then."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file, self.lock = folder, folder / OURS / "files.jsonl", threading.Lock()
        self.known: dict[str, dict[str, Any]] = {}
        if self.file.is_file():
            for line in self.file.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:  # empty, or half a line of a process that was killed
                    continue
                if entry.get("gone"):
                    self.known.pop(entry["path"], None)
                else:
                    self.known[entry["path"]] = entry

    def state(self, file: RemoteFile, *, full: bool) -> str:
        """here, absent, outdated (of another commit), damaged, or foreign (not ours)."""
        place = self.folder / file.path
        if not place.exists():
            return "absent"
        entry = self.known.get(file.path)
        untouched = entry is not None and self._untouched(entry)
        if entry and untouched and entry["hash"] != file.hash:
            return "outdated"
        if (untouched and not full) or is_whole(place, file):
            return "here"
        return "damaged" if entry else "foreign"

    def gone(self, listing: Listing) -> tuple[str, ...]:
        """Files that a commit does not have, by name: they arrive in any order.

        Raises:
            DataError: one of them was changed here.
        """
        there = {file.path for file in listing.files}
        gone = tuple(path for path in sorted(self.known) if path not in there and (self.folder / path).exists())
        for path in gone:
            if not self._untouched(self.known[path]):
                what = f"was changed here, and commit {listing.commit[:12]} no longer has it: it would be read with its files"
                raise DataError(what, where=self.folder / path, mend="move it away")
        return gone

    def _untouched(self, entry: dict[str, Any]) -> bool:
        return [entry["size"], entry["mtime_ns"]] == _stamp(self.folder / entry["path"])

    def add(self, file: RemoteFile) -> None:
        size, mtime = _stamp(self.folder / file.path)
        self._write({"path": file.path, "hash": file.hash, "size": size, "mtime_ns": mtime})

    def forget(self, path: str) -> None:
        self._write({"path": path, "gone": True})

    def _write(self, entry: dict[str, Any]) -> None:
        with self.lock, self.file.open("a", encoding="utf-8") as handle:
            handle.write(f"\n{json.dumps(entry)}")  # the line before may be half of one


def _stamp(place: Path) -> list[int]:
    state = place.stat()
    return [state.st_size, state.st_mtime_ns]


def _part(folder: Path, file: RemoteFile) -> Path:
    return folder / OURS / "incoming" / f"{fingerprint(file.path, file.hash)}.part"


def _listing_file(folder: Path) -> Path:
    return folder / OURS / "download.json"


def _known_listing(folder: Path, repo: str, revision: str | None, update: bool) -> Listing | None:
    """What the folder was begun with, so that it stays one commit; None to ask the Hub."""
    file = _listing_file(folder)
    if not file.is_file():
        return None
    kept = json.loads(file.read_text(encoding="utf-8"))
    if kept["repo"] != repo:
        raise DataError(f"holds {kept['repo']}", where=folder, mend=f"choose another folder for {repo}")
    if update or (revision and revision != kept["commit"]):
        return None
    configs = {name: tuple(patterns) for name, patterns in kept["configs"].items()}
    return Listing(**kept | {"files": tuple(RemoteFile(**file) for file in kept["files"]), "configs": configs})
