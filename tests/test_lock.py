"""Who holds a folder, and a disk that cannot say."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

from smolforge import lock
from smolforge.errors import DataError
from smolforge.lock import alone


def fails(monkeypatch, number):
    """As the system answers on such a disk."""

    def flock(handle, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_who_holds_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    told = f"another run works in it; wait for process {os.getpid()}, or end it"
    with alone(tmp_path / "lock", "run"), pytest.raises(DataError, match=told):
        alone(tmp_path / "lock", "run").__enter__()
    with alone(tmp_path / "lock", "run"):
        pass


@pytest.mark.parametrize("name", ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "ENOTSUP"])
def test_a_disk_without_locks_is_told_in_one_line(name, tmp_path, monkeypatch, capsys):
    """Lustre without `-o flock`, some network disks: the work goes on, and nobody is kept out."""
    fails(monkeypatch, getattr(errno, name))
    done = []
    with alone(tmp_path / "lock", "run"):
        done.append("first")
        with alone(tmp_path / "lock", "run"):
            done.append("second")
    assert done == ["first", "second"]
    why = os.strerror(getattr(errno, name))
    line = f"{tmp_path}: this disk has no locks ({why}), so nothing keeps another run out: start only one in this folder"
    assert capsys.readouterr().err.splitlines() == [line] * 2


def test_what_else_a_disk_answers_is_an_error(tmp_path, monkeypatch):
    fails(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
        alone(tmp_path / "lock", "run").__enter__()
    assert caught.value.filename == str(tmp_path / "lock")
