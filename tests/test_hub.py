"""Datasets whose videos lie in archives: unpacked once, inside their folder, and a damaged one is one line. And the Hub without a
network: one line too."""

from __future__ import annotations

import io
import logging
import random
import tarfile
import zipfile
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import _http, http_backoff

from smolforge.errors import DataError, ModelError
from smolforge.hub import attempts_held, dataset_folder, last_attempt, local_folder, unpack

KINDS = ("zip", "tar", "tar.gz")


def archive(file: Path, members: dict[str, bytes]) -> Path:
    """An archive of the kind that its name says."""
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in members.items():
                packed.writestr(name, content)
        return file
    with tarfile.open(file, "w:gz" if file.suffix == ".gz" else "w") as packed:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return file


def noise(size: int) -> bytes:
    """Bytes that no archive makes smaller."""
    return random.Random(0).randbytes(size)


@pytest.mark.parametrize("kind", KINDS)
def test_archives_are_unpacked_beside_themselves_and_once(tmp_path, kind):
    (tmp_path / "part").mkdir()
    archive(tmp_path / "part" / f"videos.{kind}", {"clips/a.mp4": b"film"})
    unpack(tmp_path)
    film = tmp_path / "part" / "clips" / "a.mp4"
    assert film.read_bytes() == b"film"
    film.write_bytes(b"other")  # unpacked again, it would be the film
    unpack(tmp_path)
    assert film.read_bytes() == b"other"


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_was_cut_off(tmp_path, kind):
    file = archive(tmp_path / f"videos.{kind}", {"a.mp4": noise(50_000), "b.mp4": noise(50_000)})
    file.write_bytes(file.read_bytes()[:60_000])
    with pytest.raises(DataError, match=r"videos\..*: a damaged archive .*; delete it and run again"):
        unpack(tmp_path)
    assert not list(tmp_path.glob("*.unpacked")), "the next run must try again"


def test_a_zip_with_changed_bytes(tmp_path):
    """Its checksums find it; tar has none of contents, and gzip's stands behind where reading ends."""
    file = archive(tmp_path / "videos.zip", {"a.mp4": noise(50_000)})
    content = bytearray(file.read_bytes())
    content[20_000:20_100] = bytes(100)
    file.write_bytes(content)
    with pytest.raises(DataError, match="a damaged archive"):
        unpack(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_something_else_under_an_archives_name(tmp_path, kind):
    (tmp_path / f"videos.{kind}").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match="a damaged archive"):
        unpack(tmp_path)


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_tar_with_a_member_outside(tmp_path, kind):
    (tmp_path / "data").mkdir()
    archive(tmp_path / "data" / f"videos.{kind}", {"a.mp4": b"film", "../escaped.mp4": b"film"})
    with pytest.raises(DataError, match=r"videos\.tar.*: .*escaped.mp4"):
        unpack(tmp_path / "data")
    assert not (tmp_path / "escaped.mp4").exists()


def test_a_zips_members_outside_are_left_out(tmp_path):
    (tmp_path / "data").mkdir()
    archive(tmp_path / "data" / "videos.zip", {"a.mp4": b"film", "../escaped.mp4": b"film", f"{tmp_path}/escaped.mp4": b"film"})
    unpack(tmp_path / "data")
    assert (tmp_path / "data" / "a.mp4").exists()
    assert not (tmp_path / "escaped.mp4").exists()


def test_a_folder_of_the_hub_comes_unpacked(tmp_path, monkeypatch):
    asked = []

    def local(name: str, **settings: object) -> str:
        asked.append((name, settings["repo_type"], settings["allow_patterns"]))
        return str(tmp_path)

    archive(tmp_path / "videos.zip", {"a.mp4": b"film"})
    monkeypatch.setattr(huggingface_hub, "snapshot_download", local)
    assert dataset_folder("someone/videos", ("*.zip",)) == tmp_path
    assert (tmp_path / "a.mp4").read_bytes() == b"film"
    assert asked == [("someone/videos", "dataset", ["*.zip"])]


def test_a_hub_that_gives_nothing(monkeypatch):
    def gone(name: str, **settings: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gone)
    with pytest.raises(DataError, match=r"someone/videos: the Hub did not give its files .*or give a folder with --data"):
        dataset_folder("someone/videos", ("*.zip",))


# --- without a network ---------------------------------------------------------------------------------------------

GONE = "[Errno -2] Name or service not known"
URL = "https://huggingface.co/api/models/owner/name"


@pytest.fixture
def network(monkeypatch):
    """A network that fails so many times; huggingface_hub's own retries, without their waits."""

    def fail(times: int) -> None:
        class Client:
            def request(self, **asked: object) -> _http.httpx2.Response:
                nonlocal times
                times -= 1
                if times >= 0:
                    raise _http.httpx2.ConnectError(GONE)
                return _http.httpx2.Response(200)

        monkeypatch.setattr(_http, "get_session", Client)
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)

    return fail


@pytest.fixture
def warned(monkeypatch) -> list[str]:
    """What huggingface_hub puts on the screen."""
    said: list[str] = []

    class Screen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "handlers", [Screen()])
    return said


def test_failed_attempts_stand_in_our_line_alone(network, warned):
    network(6)
    with pytest.raises(_http.httpx2.ConnectError) as caught, attempts_held():
        http_backoff("GET", URL)
    assert warned == []
    assert last_attempt(caught.value) == f"; tried 6 times, last: '{GONE}' thrown while requesting GET {URL}"
    assert last_attempt(ValueError("another")) == ""


def test_attempts_of_what_went_well_in_the_end_are_told_behind_it(network, warned):
    network(2)
    with attempts_held():
        http_backoff("GET", URL)
        logging.getLogger(_http.__name__).warning("use a newer version")
        assert warned == ["use a newer version"]
    assert [line.split(" ")[0] for line in warned[1:]] == ["'[Errno", "Retrying", "'[Errno", "Retrying"]


def test_attempts_behind_a_line_that_does_not_say_them_are_told(network, warned):
    def read() -> None:
        http_backoff("GET", URL)
        raise DataError("a row that nobody can read")

    network(1)
    with pytest.raises(DataError), attempts_held():
        read()
    assert len(warned) == 2


def test_calls_of_others_are_told_as_ever(network, warned):
    with attempts_held():
        pass
    network(1)
    http_backoff("GET", URL)
    assert len(warned) == 2


def test_a_call_within_another_has_its_own_attempts(network, warned):
    def ask() -> None:
        try:
            with attempts_held():
                http_backoff("GET", URL)
        except _http.httpx2.ConnectError as error:
            raise DataError(f"not given{last_attempt(error)}") from error

    network(6)
    with pytest.raises(DataError, match="tried 6 times"), attempts_held():
        ask()
    assert warned == []


def test_a_model_that_the_hub_does_not_give_is_one_line(network, warned, monkeypatch):
    def ask(*args: object, **options: object) -> str:
        try:
            http_backoff("GET", URL)
        except _http.httpx2.ConnectError as error:
            raise LocalEntryNotFoundError("neither here nor there") from error
        raise AssertionError

    network(6)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", ask)
    with pytest.raises(ModelError) as caught:
        local_folder("owner/name")
    assert "(LocalEntryNotFoundError; tried 6 times, last: '[Errno -2] Name" in str(caught.value)
    assert warned == []
