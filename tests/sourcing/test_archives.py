"""Archives of strangers: what is inside comes out, what would lie outside does not."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from smolforge.errors import DataError
from smolforge.sourcing import archives
from smolforge.sourcing.archives import is_unpacked, marker_of, note_of, remove, unpack, unpacked_size


def tar(file: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(file, "w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("evil", "words"),
    [
        (member("../outside"), "'../outside', which would lie outside"),
        (member("/etc/passwd"), "'/etc/passwd', which would lie outside"),
        (member("a/../../outside"), "which would lie outside"),
        (member("C:\\outside"), "which would lie outside"),
        (member(".smolforge/files.jsonl"), "which would lie outside"),
        (member("out", tarfile.SYMTYPE, "../../etc/passwd"), "the link 'out', which leads outside"),
        (member("out", tarfile.SYMTYPE, "/etc/passwd"), "the link 'out', which leads outside"),
        (member("out", tarfile.LNKTYPE, "/etc/passwd"), "the link 'out', which leads outside"),
        (member("self", tarfile.SYMTYPE, "self"), "the link 'self', which leads outside"),
        (member("null", tarfile.CHRTYPE), "'null', which is neither a file nor a folder"),
        (member("disk", tarfile.BLKTYPE), "'disk', which is neither"),
        (member("pipe", tarfile.FIFOTYPE), "'pipe', which is neither"),
    ],
)
def test_evil_members_are_refused(tmp_path, evil, words):
    folder = tmp_path / "here"
    folder.mkdir()
    archive = tar(folder / "a.tar", (member("good.txt"), b"good"), (evil, b""))
    with pytest.raises(DataError, match=words):
        unpack(archive, "hash")
    assert {path.name for path in tmp_path.rglob("*")} == {"here", "a.tar", "good.txt", "a.tar.unpacking"}
    assert not is_unpacked(archive, "hash")


def test_links_inside_become_copies(tmp_path):
    archive = tar(
        tmp_path / "a.tar", (member("one/a.txt"), b"content"), (member("two/b.txt", tarfile.SYMTYPE, "../one/a.txt"), b""),
        (member("c.txt", tarfile.LNKTYPE, "one/a.txt"), b""), (member("d.txt", tarfile.SYMTYPE, "c.txt"), b""),
    )  # fmt: skip
    assert unpack(archive, "hash").files == 4
    for name in ("one/a.txt", "two/b.txt", "c.txt", "d.txt"):
        assert (tmp_path / name).read_bytes() == b"content"
        assert not (tmp_path / name).is_symlink()


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_evil_names_in_a_zip(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(DataError, match="which would lie outside"):
        unpack(tmp_path / "a.zip", "hash")
    assert not (tmp_path.parent / "outside").exists()


def test_a_link_in_a_zip(tmp_path):
    info = zipfile.ZipInfo("out")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        unpack(tmp_path / "a.zip", "hash")


def test_a_bomb_is_stopped(tmp_path, monkeypatch):
    """10 MB of zeros in 10 kB: about 1000 to 1."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    assert unpacked_size(tmp_path / "a.zip") == 10_000_000
    monkeypatch.setattr(archives, "SMALL", 1000)
    with pytest.raises(DataError, match="it may be a bomb"):
        unpack(tmp_path / "a.zip", "hash")
    assert not (tmp_path / "zeros").exists()
    assert not list(tmp_path.glob(".*"))


def test_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MEMBERS", 2)
    archive = tar(tmp_path / "a.tar", *((member(f"{n}.txt"), b"") for n in range(3)))
    with pytest.raises(DataError, match="more than 2 files"):
        unpack(archive, "hash")


def test_the_disk_is_watched_while_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LOOK", 1)
    archive = tar(tmp_path / "a.tar", (member("a"), b"content"))
    with pytest.raises(DataError, match="only 10 B are free while it is unpacked"):
        unpack(archive, "hash", free=lambda folder: 10)


def test_downloads_are_not_replaced(tmp_path):
    archive = tar(tmp_path / "a.tar", (member("rows.json"), b"other"))
    with pytest.raises(DataError, match=r"would replace rows\.json, which was downloaded"):
        unpack(archive, "hash", protected={tmp_path / "rows.json"})


def test_files_of_another_archive_stay_and_are_counted(tmp_path):
    (tmp_path / "same.txt").write_bytes(b"1234")
    (tmp_path / "other.txt").write_bytes(b"another length")
    archive = tar(tmp_path / "a.tar", (member("same.txt"), b"1234"), (member("other.txt"), b"1"), (member("new.txt"), b"2"))
    done = unpack(archive, "hash")
    assert (done.files, done.kept) == (1, 1)
    assert (tmp_path / "other.txt").read_bytes() == b"another length"


def packed(file: Path, files: dict[str, str]) -> Path:
    """A tar or zip of some files."""
    if file.suffix == ".tar":
        return tar(file, *((member(name), content.encode()) for name, content in files.items()))
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file


def there(folder: Path) -> dict[str, str]:
    """Files beside the archives."""
    return {file.name: file.read_text() for file in sorted(folder.glob("*.txt"))}


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_another_content_of_the_same_length_is_counted(tmp_path, kind):
    unpack(packed(tmp_path / f"a.{kind}", {"0.txt": "1234", "1.txt": "same"}), "a")
    done = unpack(packed(tmp_path / f"b.{kind}", {"0.txt": "5678", "1.txt": "same", "2.txt": "b"}), "b")
    assert (done.files, done.kept) == (1, 1)
    assert there(tmp_path) == {"0.txt": "1234", "1.txt": "same", "2.txt": "b"}


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_newer_archive_replaces_nothing_that_is_not_its_own(tmp_path, kind):
    """What another archive wrote, what it holds as well, what the user put there or changed; what is in none any more goes."""
    a, b = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
    both = {a, b}
    unpack(packed(a, {"0.txt": "old0", "2.txt": "both", "4.txt": "old4", "5.txt": "old5", "6.txt": "old6"}), "a", protected=both)
    unpack(packed(b, {"1.txt": "of b", "2.txt": "both"}), "b", protected=both)
    (tmp_path / "3.txt").write_text("user")
    state = marker_of(a).stat()
    for name in ("4.txt", "6.txt"):
        (tmp_path / name).write_text("mine")
        os.utime(tmp_path / name, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))
    newer = {"0.txt": "new0", "1.txt": "of a", "2.txt": "of a", "3.txt": "of a", "4.txt": "new4"}
    done = unpack(packed(a, newer), "newer", protected=both)
    assert there(tmp_path) == {
        "0.txt": "new0", "1.txt": "of b", "2.txt": "both", "3.txt": "user", "4.txt": "mine", "6.txt": "mine",
    }  # fmt: skip
    assert (done.files, done.kept, done.removed) == (1, 4, 1)
    assert is_unpacked(b, "b")


def test_a_removed_archive_takes_along_what_only_it_holds(tmp_path):
    a, b = tmp_path / "a.zip", tmp_path / "b.zip"
    unpack(packed(a, {"0.txt": "a", "1.txt": "both"}), "a")
    unpack(packed(b, {"1.txt": "both"}), "b", protected={a, b})
    assert remove(a, {a, b}) == 1
    assert {file.name for file in tmp_path.iterdir()} == {"1.txt", "b.zip", "b.zip.unpacked"}


def test_what_came_back_after_its_marker_was_deleted_is_the_archives_own(tmp_path):
    archive = packed(tmp_path / "a.zip", {"0.txt": "old0", "1.txt": "old1"})
    unpack(archive, "old")
    (tmp_path / "0.txt").unlink()
    marker_of(archive).unlink()
    assert unpack(archive, "old").files == 1
    assert unpack(packed(archive, {"0.txt": "new0", "1.txt": "new1"}), "new").files == 2
    assert there(tmp_path) == {"0.txt": "new0", "1.txt": "new1"}


def test_a_newer_archive_replaces_what_the_older_one_held(tmp_path):
    unpack(tar(tmp_path / "a.tar", (member("a.txt"), b"old")), "old")
    archive = tar(tmp_path / "a.tar", (member("a.txt"), b"newer"))
    assert (is_unpacked(archive, "old"), is_unpacked(archive, "new")) == (True, False)
    unpack(archive, "new")
    assert (tmp_path / "a.txt").read_bytes() == b"newer"
    assert is_unpacked(archive, "new")


@pytest.mark.parametrize("whole", [True, False])
def test_replacing_goes_on_after_an_interruption(tmp_path, whole):
    """Of an older version that had come out wholly, or in part."""

    class Stopped(BaseException):
        pass

    def stop_at(count):
        def tick(written):
            nonlocal count
            count -= 1
            if count == 0:
                raise Stopped

        return tick

    def version(word):
        return tar(tmp_path / "a.tar", *((member(f"{n}.txt"), f"{word}{n}".encode()) for n in range(3)))

    if whole:
        unpack(version("old"), "old")
    else:
        with pytest.raises(Stopped):
            unpack(version("old"), "old", tick=stop_at(3))
    with pytest.raises(Stopped):
        unpack(version("new"), "new", tick=stop_at(2))
    assert not is_unpacked(tmp_path / "a.tar", "new")
    assert (tmp_path / "1.txt").read_bytes() == b"old1"
    done = unpack(tmp_path / "a.tar", "new")
    assert [(tmp_path / f"{n}.txt").read_bytes() for n in range(3)] == [b"new0", b"new1", b"new2"]
    assert (done.files, done.kept, is_unpacked(tmp_path / "a.tar", "new")) == (2, 0, True)  # the first was there
    assert not note_of(tmp_path / "a.tar").exists()


def test_a_first_unpacking_goes_on_without_writing_twice(tmp_path):
    archive = tar(tmp_path / "a.tar", (member("a.txt"), b"a"), (member("b.txt"), b"b"), (member("null", tarfile.CHRTYPE), b""))
    with pytest.raises(DataError):
        unpack(archive, "hash")
    tar(archive, (member("a.txt"), b"a"), (member("b.txt"), b"b"), (member("c.txt"), b"c"))
    assert unpack(archive, "hash").files == 1


@pytest.mark.parametrize(
    "names", [("a", "a/b"), ("a/b", "a"), ("n" * 300,)], ids=["a file as a folder", "a folder as a file", "a long name"]
)
def test_names_that_the_disk_cannot_hold(tmp_path, names):
    archive = tar(tmp_path / "a.tar", *((member(name), b"content") for name in names))
    with pytest.raises(DataError, match="names that cannot lie beside each other on this disk"):
        unpack(archive, "hash")
    assert not is_unpacked(archive, "hash")
    assert not list(tmp_path.glob(".*"))


def test_the_longest_name_is_no_trouble(tmp_path):
    assert unpack(tar(tmp_path / "a.tar", (member("n" * 255), b"content")), "hash").files == 1


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_damaged_archives(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b not an archive" * 100)
    with pytest.raises(DataError, match="a damaged archive"):
        unpack(tmp_path / name, "hash")
    assert not marker_of(tmp_path / name).exists()


def test_a_cut_archive_leaves_whole_files_only(tmp_path):
    whole = tar(tmp_path / "whole.tar", (member("a.txt"), b"a" * 2000), (member("b.txt"), b"b" * 20000))
    (tmp_path / "here").mkdir()
    cut = tmp_path / "here" / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:8000])
    with pytest.raises(DataError, match="a damaged archive"):
        unpack(cut, "hash")
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"cut.tar", "a.txt", "cut.tar.unpacking"}
