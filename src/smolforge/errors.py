"""What went wrong, where, and what to change.

Everything a user can mend is a `UserError`; the command line prints it as one line and exits with 1.
What only a programming mistake can cause stays an `assert`.
"""

from __future__ import annotations


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
