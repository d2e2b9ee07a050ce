"""A source that is open: its rows, and the way to read one as a record."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from smolforge.data.exclusion import Piece
from smolforge.data.prompts import Prompt, first_prompt
from smolforge.data.sources.rows import Table, ToRecord
from smolforge.errors import DataError
from smolforge.recipe import Modality
from smolforge.records import Media, Message, Part, Record, Video
from smolforge.wording import how_many


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened source: rows and the way to read them as records."""

    name: str
    table: Table
    rows: Sequence[int]  # numbers of the rows that the split slice and the lists of rows to leave out leave
    to_record: ToRecord
    options: dict[str, Any] = field(default_factory=dict)
    title: str | None = None  # what tells it from a recipe's other entries of its name; None: it stands alone
    modality: Modality | None = None  # what most rows hold; None: not said
    prompt: Prompt = None  # the recipe's
    endless: bool = False  # a stream
    pieces: tuple[Piece, ...] = ()  # the tables that `table` has one behind the other; none of a stream
    left_out: int | None = None  # rows of the split slice that lists leave out; None where the recipe names no list
    roots: tuple[Path, ...] = ()  # folders that relative paths start from: the first that has the file
    beside: Path | None = (
        None  # folder of the pieces' files, where relative paths start beside the row's own file, then at `roots`
    )
    folder_of: Callable[[int], Path] | None = None  # of a stream: the folder of a row's file, which stands for `beside`
    within: tuple[Path, ...] = ()  # folders that strangers' rows may name files in; none: a user's own rows, which may name any

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def called(self) -> str:
        """How it is called beside the other sources of a recipe; its rows go by `name`."""
        return self.title or self.name

    @property
    def size(self) -> str:
        """Its number of rows in words, and how many lists leave out."""
        if self.endless:
            return "stream"
        return how_many(len(self), "row") + ("" if self.left_out is None else f" ({self.left_out:,} left out by exclude)")

    def piece(self, index: int) -> tuple[Piece, int]:
        """The table that a row is of, and its number there."""
        return _in_pieces(self.pieces, self.rows[index])

    def record(self, index: int, *, prompt: str | None = None) -> Record:
        """Record of a row.

        Args:
            prompt: instruction for a row that brings none; the recipe's, of several the first, when left out.

        Raises:
            DataError: the row cannot be read, or has no known shape.
        """
        number = self.rows[index]
        asked = first_prompt(self.prompt) if prompt is None else prompt
        try:
            record = self.to_record(self.table[number], id=str(number), source=self.name, prompt=asked, **self.options)
        except DataError as error:
            raise DataError(error.what, where=error.where or f"{self.name}[{number}]", mend=error.mend) from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                "a malformed row",
                where=f"{self.name}[{number}] ({type(error).__name__}: {error})",
                mend="compare it with the shapes in the documentation",
            ) from error
        roots = self.roots if (folder := self._folder(index)) is None else (folder, *self.roots)
        return _found(record, roots, self.within) if roots or self.within else record

    def _folder(self, index: int) -> Path | None:
        """The folder of a row's file, where relative paths start beside it."""
        if self.folder_of is not None:
            return self.folder_of(self.rows[index])
        file = None if self.beside is None else self.piece(index)[0].file
        return (self.beside / file).parent if self.beside is not None and file is not None else None


def _in_pieces(pieces: Sequence[Piece], number: int) -> tuple[Piece, int]:
    """
    >>> _in_pieces((Piece(name="a", rows=3), Piece(name="b", rows=2)), 4)
    (Piece(rows=2, name='b', split='', file=None), 1)
    """
    for piece in pieces:
        if number < piece.rows:
            return piece, number
        number -= piece.rows
    raise IndexError(number)


def _found(record: Record, roots: tuple[Path, ...], within: tuple[Path, ...]) -> Record:
    """The record with relative paths where their files are: below the first root that has them, else the first of all.

    Raises:
        DataError: a path outside of the folders that rows may name files in: a row of strangers could have any file here copied
            into what is shared.
    """
    allowed = [os.path.abspath(folder) for folder in within]

    def placed(part: Part) -> Part:
        if not isinstance(part, Media | Video) or not isinstance(part.ref, Path):
            return part
        ref = part.ref
        if roots and not ref.is_absolute():
            ref = next((root / ref for root in roots if (root / ref).exists()), roots[0] / ref)
        if not allowed:
            return replace(part, ref=ref)
        # Without following links, which only the user can have put here: `train2017` may be one. Paths that climb are opened as
        # they were checked, for `link/..` is another folder on the disk than in words.
        plain = Path(os.path.abspath(ref))
        if not any(plain.is_relative_to(folder) for folder in allowed):
            mend = "put the file into `dir` and name it from there; a table of your own, opened by its path, may name any file"
            raise DataError("a row that names a file outside of its folder", where=f"{record.name}: {str(part.ref)!a}", mend=mend)
        return replace(part, ref=plain if ".." in ref.parts else ref)

    messages = tuple(
        Message(role=message.role, content=tuple(map(placed, message.content)), train=message.train)
        for message in record.messages
    )
    return replace(record, messages=messages)
