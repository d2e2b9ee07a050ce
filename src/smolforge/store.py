"""What was computed once and is found by its content: keys and values in an SQLite file that processes share.

Interrupted, it keeps what was committed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smolforge.errors import CheckpointError

WAIT_SECONDS = 60  # for another process that writes


class Store:
    """Bytes by key.

    Args:
        file: made when absent.
        about: what all values depend on, such as the model's weights; a file about something else is refused.
        what: what it keeps, for messages.
        mend: what to do when the file is about something else.

    Raises:
        CheckpointError: the file is about something else, or no store.
    """

    def __init__(self, file: Path, *, about: Mapping[str, str], what: str, mend: str = "choose another file") -> None:
        self.file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(file, timeout=WAIT_SECONDS)
            with self._db:
                self._db.execute("create table if not exists about (name text primary key, value text)")
                self._db.execute("create table if not exists kept (key text primary key, value blob)")
                self._db.executemany("insert or ignore into about values (?, ?)", about.items())
            found = dict(self._db.execute("select name, value from about"))
        except (OSError, sqlite3.Error) as error:
            raise CheckpointError(
                f"not a usable store of {what} ({error})", where=file, mend="delete it, or choose another"
            ) from error
        if different := [name for name in about if found[name] != about[name]]:
            raise CheckpointError(f"holds {what} of another model (other {' and '.join(different)})", where=file, mend=mend)

    def __len__(self) -> int:
        return int(self._db.execute("select count(*) from kept").fetchone()[0])

    def get(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Kept values by key; absent keys are left out."""
        values = ((key, self._one("select value from kept where key = ?", key)) for key in keys)
        return {key: value for key, value in values if value is not None}

    def missing(self, keys: Sequence[str]) -> set[str]:
        """Keys that are not kept yet."""
        return {key for key in keys if self._one("select 1 from kept where key = ?", key) is None}

    def put(self, values: Mapping[str, bytes]) -> None:
        """Keep values, all or none of these.

        Raises:
            CheckpointError: the disk is full or the file is locked.
        """
        try:
            with self._db:
                self._db.executemany("insert or ignore into kept values (?, ?)", values.items())
        except sqlite3.Error as error:
            raise CheckpointError(
                f"cannot be written ({error})", where=self.file, mend="free some space and run again"
            ) from error

    def _one(self, question: str, key: str) -> Any:
        try:
            row = self._db.execute(question, (key,)).fetchone()
        except sqlite3.Error as error:
            raise CheckpointError(f"cannot be read ({error})", where=self.file, mend="delete it: it is computed anew") from error
        return None if row is None else row[0]
