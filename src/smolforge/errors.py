"""What went wrong, where, and what to change.

Everything a user can mend is a `UserError`; the command line prints it as one line and exits with 1.
What only a programming mistake can cause stays an `assert`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Something the user can mend.

    Args:
        what: what went wrong, one clause.
        where: the file, key, row or module it concerns.
        mend: what to change.
    """

    def __init__(self, what: str, *, where: object = None, mend: str | None = None) -> None:
        self.what, self.where, self.mend = what, None if where is None else str(where), mend
        super().__init__(what)

    def __str__(self) -> str:
        """One line: `where: what; mend`.

        >>> str(UserError("no such file", where="a.jsonl", mend="check the path"))
        'a.jsonl: no such file; check the path'
        """
        line = f"{self.where}: {self.what}" if self.where else self.what
        line = f"{line}; {self.mend}" if self.mend else line
        return " ".join(line.split())


class RecipeError(UserError):
    """A recipe that cannot be run as written."""


class DataError(UserError):
    """A row or a source that cannot be used."""


class MediaError(DataError):
    """A picture that cannot be opened safely."""


class ModelError(UserError):
    """A checkpoint that cannot be loaded, or parts that do not fit together."""


class CheckpointError(UserError):
    """A folder that cannot be resumed or written."""


class TrainingError(UserError):
    """A run that must not go on: a loss that is not finite, a part that should train and received no gradient."""


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.7) -> str:
    """The nearest of some names, for a message; empty where none is near.

    Args:
        cutoff: how near, from 0 to 1 (equal).

    >>> did_you_mean("popo", ["pope", "chair"]), did_you_mean("x", ["pope"])
    ('did you mean pope?', '')
    """
    near = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f"did you mean {near[0]}?" if near else ""


def some(words: Sequence[str], most: int, *, between: str = ", ") -> str:
    """The first of some words, and how many more there are.

    >>> some(["a", "b", "c"], 3), some(["a", "b", "c"], 1)
    ('a, b, c', 'a and 2 more')
    """
    more = len(words) - most
    return between.join(words[:most]) + (f" and {more:,} more" if more > 0 else "")
