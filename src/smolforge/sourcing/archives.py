"""Unpack what strangers packed: nothing outside of the folder, no links, no devices, no more than the disk holds.

Every member is written beside its name and renamed, so that an interrupted unpacking leaves whole files only; a marker beside the
archive says that all of it is there, the same that `smolforge.hub.unpack` looks for, and names the files that are the archive's.

    a.zip.unpacked     {"hash": "...", "files": 2, "bytes": 12, "holds": ["rows/0.txt", "rows/1.txt"]}
    a.zip.unpacking    while it is unpacked, a line each: first what an older version held, then each name before it is written

Only what an archive held may be replaced by its newer version: a file of the same name may be another archive's, or the user's.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, Any

from smolforge.errors import DataError
from smolforge.files import write_whole
from smolforge.records import fingerprint
from smolforge.sourcing.disk import RESERVE, Free, free_bytes, size
from smolforge.sourcing.hub_files import OURS

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
MEMBERS = 10_000_000  # most files in one archive
RATIO, SMALL = 100, 1_000_000_000  # no picture or video shrinks so much: more than this, and more than SMALL bytes, is a bomb
LOOK = 64_000_000  # bytes between looks at the disk
CHUNK = 1 << 20
CLASHES = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """What became of an archive."""

    files: int = 0
    bytes: int = 0
    kept: int = 0  # files of the same name with another content that were not this archive's and stayed
    removed: int = 0  # files of the archive's older version that it no longer holds


@dataclass(frozen=True, kw_only=True)
class _Member:
    name: str
    size: int  # as the archive claims
    open: Callable[[], IO[bytes]]
    crc: int | None = None  # of its content, where the archive tells it


def is_archive(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


def marker_of(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.unpacked")


def note_of(archive: Path) -> Path:
    """Stands beside an archive from the first member to the last."""
    return archive.with_name(f"{archive.name}.unpacking")


def is_unpacked(archive: Path, hash: str) -> bool:
    """Whether all of the archive with this hash lies beside it."""
    return bool(_told(marker_of(archive)).get("hash") == hash)


def unpack(
    archive: Path,
    hash: str,
    *,
    protected: Collection[Path] = (),
    free: Free = free_bytes,
    tick: Callable[[int], None] = lambda count: None,
) -> Unpacked:
    """Unpack an archive beside itself.

    Args:
        hash: of the archive's content, for the marker.
        protected: files that were downloaded, which no member may replace; what those of them that are archives hold is theirs.
        tick: told the bytes written.

    Raises:
        DataError: damaged, malicious, more than the disk holds, or with names that it cannot hold.
    """
    folder = archive.parent
    most = max(SMALL, RATIO * archive.stat().st_size)
    ours = _begin(archive)
    holds: set[str] = set()
    others = _Others(archive, protected)
    files = written = kept = looked = 0
    with _mended(archive), _members(archive) as members, note_of(archive).open("a", encoding="utf-8") as note:
        for number, member in enumerate(members):
            if number >= MEMBERS:
                raise DataError(f"more than {MEMBERS:,} files", where=archive, mend="unpack it yourself if you trust it")
            name = _harmless(member.name, archive)
            place = folder / name
            if place in protected:
                raise DataError(f"would replace {place.name}, which was downloaded", where=archive, mend="do not use it")
            if place.is_file():
                if _is_same(member, place):
                    holds.add(name)
                    continue
                if not (name in ours or name in holds) or place in others:
                    kept += 1
                    continue
            place.parent.mkdir(parents=True, exist_ok=True)
            draft = place.with_name(f".{fingerprint(place.name)[:24]}.draft")  # a name of 255 bytes has no room for more
            try:
                with member.open() as source, draft.open("wb") as target:
                    while chunk := source.read(CHUNK):
                        written += len(chunk)
                        if written > most:
                            raise DataError(
                                f"unpacks to more than {size(most)}, {RATIO} times its own size", where=archive,
                                mend="it may be a bomb: unpack it yourself if you trust it",
                            )  # fmt: skip
                        if written - looked >= LOOK:
                            looked = written
                            _check_disk(archive, free)
                        target.write(chunk)
                        tick(len(chunk))
                note.write(f"{json.dumps(name)}\n")
                note.flush()
                draft.replace(place)
            finally:
                draft.unlink(missing_ok=True)
            holds.add(name)
            files += 1
    removed = _remove(folder, ours - holds, others)
    told = {"hash": hash, "files": files, "bytes": written, "holds": sorted(holds)}
    write_whole(marker_of(archive), json.dumps(told))
    note_of(archive).unlink()
    return Unpacked(files=files, bytes=written, kept=kept, removed=removed)


def remove(archive: Path, protected: Collection[Path] = ()) -> int:
    """Remove an archive, what only it holds, and its marker. Returns how many files it held.

    Args:
        protected: as of `unpack`.
    """
    ours = _begin(archive)  # an interrupted removal goes on
    removed = _remove(archive.parent, ours, _Others(archive, protected))
    archive.unlink(missing_ok=True)
    note_of(archive).unlink()
    return removed


def _remove(folder: Path, names: Collection[str], others: _Others) -> int:
    there = [place for place in map(folder.joinpath, names) if place.is_file() and place not in others]
    for place in there:
        place.unlink()
    return len(there)


def _begin(archive: Path) -> set[str]:
    """Names of what is the archive's by an older version of it, less what was changed here since, or by an interrupted unpacking.
    The note has them before the marker of the older version goes."""
    marker = marker_of(archive)
    ours = _noted(archive)
    if marker.exists():
        until = marker.stat().st_mtime_ns
        ours |= {name for name in _held(archive) if _changed(archive.parent / name) <= until}
    write_whole(note_of(archive), "".join(f"{json.dumps(line)}\n" for line in sorted(ours)))
    marker.unlink(missing_ok=True)
    return ours


def _changed(place: Path) -> int:
    return place.stat().st_mtime_ns if place.is_file() else 0


def _held(archive: Path) -> list[str]:
    """What the marker of an archive names; nothing where there is none, or one of `smolforge.hub.unpack`."""
    return list(_told(marker_of(archive)).get("holds", ()))


def _noted(archive: Path) -> set[str]:
    """What the note of an archive names."""
    names: set[str] = set()
    if note_of(archive).is_file():
        for line in note_of(archive).read_text(encoding="utf-8").splitlines():
            try:
                told = json.loads(line)
            except ValueError:  # half a line of a process that was killed
                continue
            names |= {told} if isinstance(told, str) else set()
    return names


class _Others:
    """Files that other archives hold; looked up when first asked for, as the names may be millions."""

    def __init__(self, archive: Path, downloaded: Collection[Path]) -> None:
        self.archives = [one for one in downloaded if is_archive(one.name) and one != archive]
        self.places: set[Path] | None = None

    def __contains__(self, place: Path) -> bool:
        if self.places is None:
            self.places = {one.parent / name for one in self.archives for name in (*_held(one), *_noted(one))}
        return place in self.places


def _is_same(member: _Member, place: Path) -> bool:
    """Whether a file has a member's content."""
    if place.stat().st_size != member.size:
        return False
    with place.open("rb") as file:
        if member.crc is not None:
            crc = 0
            while chunk := file.read(CHUNK):
                crc = zlib.crc32(chunk, crc)
            return crc == member.crc
        with member.open() as source:
            while chunk := source.read(CHUNK):
                if chunk != file.read(len(chunk)):
                    return False
    return True


def _told(file: Path) -> dict[str, Any]:
    """What a marker or note says; nothing where there is none, or an empty one of `smolforge.hub.unpack`."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def unpacked_size(archive: Path) -> int | None:
    """Bytes that an archive on this disk says it unpacks to; None where only reading all of it would tell."""
    if archive.suffix.lower() == ".zip":
        with _mended(archive), zipfile.ZipFile(archive) as opened:
            return sum(one.file_size for one in opened.infolist())
    return archive.stat().st_size if archive.suffix.lower() == ".tar" else None


def _check_disk(archive: Path, free: Free) -> None:
    if (there := free(archive.parent)) < RESERVE:
        mend = "free some space and run it again: it goes on"
        raise DataError(f"only {size(there)} are free while it is unpacked", where=archive, mend=mend)


def _harmless(name: str, archive: Path) -> str:
    """A member's name, which must lie below the archive's folder."""
    path = PurePosixPath(name)
    strange = path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or re.match("[A-Za-z]:", name)
    if strange or not path.parts or OURS in path.parts:
        raise DataError(f"holds {name!a}, which would lie outside of its folder", where=archive, mend="do not use it")
    return str(path)


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    if archive.suffix.lower() == ".zip":
        with zipfile.ZipFile(archive) as opened:
            yield _zip_members(opened, archive)
    else:
        with tarfile.open(archive) as opened_tar:
            yield _tar_members(opened_tar, archive)


def _zip_members(opened: zipfile.ZipFile, archive: Path) -> Iterator[_Member]:
    for info in opened.infolist():
        if info.is_dir():
            _harmless(info.filename, archive)
            continue
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise _no_file(info.filename, archive)
        if info.flag_bits & 1:
            raise DataError("needs a password", where=archive, mend="unpack it yourself")
        yield _Member(name=info.filename, size=info.file_size, open=lambda info=info: opened.open(info), crc=info.CRC)  # type: ignore[misc]


def _tar_members(opened: tarfile.TarFile, archive: Path) -> Iterator[_Member]:
    """Files, and links inside the archive as copies of what they mean, so that none is ever made on the disk."""
    for info in opened:
        if info.isdir():
            if info.name.strip("./"):
                _harmless(info.name, archive)
            continue
        if not (info.isreg() or info.issym() or info.islnk()):
            raise _no_file(info.name, archive)
        meant = info
        if not info.isreg():
            found = _meant(opened, info)
            if found is None:
                what = f"holds the link {info.name!a}, which leads outside of it"
                raise DataError(what, where=archive, mend="do not use it")
            meant = found

        def reader(meant: tarfile.TarInfo = meant) -> IO[bytes]:
            found = opened.extractfile(meant)
            assert found is not None
            return found

        yield _Member(name=info.name, size=meant.size, open=reader)


def _meant(opened: tarfile.TarFile, link: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """The file in the archive that a link means; None when there is none."""
    seen = set()
    while not link.isreg():
        if link.name in seen or not (link.issym() or link.islnk()):
            return None
        seen.add(link.name)
        name = os.path.normpath(PurePosixPath(link.name).parent / link.linkname) if link.issym() else link.linkname
        try:
            link = opened.getmember(name)
        except KeyError:
            return None
    return link


def _no_file(name: str, archive: Path) -> DataError:
    return DataError(f"holds {name!a}, which is neither a file nor a folder", where=archive, mend="do not use it")


@contextmanager
def _mended(archive: Path) -> Iterator[None]:
    """The ways in which archives are damaged, and a full disk, as one DataError."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, LZMAError, NotImplementedError, ValueError) as error:
        mend = "fetch it again with --verify, or unpack it yourself"
        raise DataError(f"a damaged archive ({error})", where=archive, mend=mend) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError("the disk is full", where=archive, mend="free some space and run it again: it goes on") from error
        if error.errno in CLASHES:  # as a file `a` and a file `a/b`, or 300 letters
            name = ascii(Path(os.fsdecode(error.filename or "")).name)
            what = f"holds names that cannot lie beside each other on this disk ({error.strerror}: {name})"
            raise DataError(what, where=archive, mend="unpack it yourself") from error
        if error.errno is not None:
            raise
        raise DataError(f"a damaged archive ({error})", where=archive, mend="fetch it again with --verify") from error
