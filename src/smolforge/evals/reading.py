"""Files of rows, and columns of rows, as people have them: what is wrong is said in one line, with the place to mend.

A column of another kind is refused, never converted: `list("abc")` would be three answers, and `str(None)` an answer as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from smolforge.data.sources.tables import local_table
from smolforge.errors import DataError
from smolforge.evals.benchmark import Row

# --- files -------------------------------------------------------------------------------------------------------


def read_rows(file: Path) -> list[Row]:
    """Objects of a file: a line each of JSON Lines (.jsonl), else those of a JSON list.

    Raises:
        DataError: it cannot be read, is not UTF-8, not JSON, or has something else than objects; it names the line.
    """
    if file.suffix != ".jsonl":
        return as_rows(read_json(file), file)
    found = []
    # Not splitlines(): U+2028 and its like may stand inside a string.
    for number, line in enumerate(_content(file).split("\n"), start=1):
        if line.strip():
            row = _parsed(line, file, above=number - 1)
            if not isinstance(row, dict):
                raise DataError("not a JSON object", where=f"{file}, line {number}", mend="give one object a line")
            found.append(row)
    return found


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it cannot be read, is not UTF-8 or not JSON.
    """
    return _parsed(_content(file), file)


def as_rows(content: Any, where: object) -> list[Row]:
    """A list of objects as it is.

    Raises:
        DataError: it is something else, or a row is.
    """
    if not isinstance(content, list):
        raise DataError("not a list of objects", where=where, mend="give a list with an object a row")
    for number, row in enumerate(content, start=1):
        if not isinstance(row, dict):
            raise DataError("not a JSON object", where=f"{where}, row {number}", mend="give a list with an object a row")
    return content


def stored(folder: Path, split: str) -> Sequence[Row]:
    """Rows of a folder that has the Hub's columns.

    Raises:
        DataError: it has neither these nor a benchmark's own layout.
    """
    try:
        # A table has a length and rows by number, which is all that is asked of it.
        return cast(Sequence[Row], local_table(folder, split))
    except DataError as error:
        mend = "give the benchmark's own files, or the Hub's as Parquet, JSON Lines or a saved dataset"
        raise DataError(f"no rows of this benchmark ({error.what})", where=folder, mend=mend) from error


def _content(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=file, mend="look at the file") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError("not UTF-8", where=f"{file}, line {line}", mend="save it as UTF-8") from error


def _parsed(text: str, file: Path, *, above: int = 0) -> Any:
    """JSON of a whole file, or of a line with some lines `above` it."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError("not valid JSON", where=f"{file}, line {above + error.lineno}", mend="mend the line") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists of thousands of levels
        raise DataError("not valid JSON", where=file, mend="look at the file") from error


# --- columns -----------------------------------------------------------------------------------------------------


def text(row: Mapping[str, Any], column: str, where: object) -> str:
    """A column's text. Raises DataError for anything else.

    >>> text({"question": "Is there a dog?"}, "question", "pope[0]")
    'Is there a dog?'
    """
    value = _there(row, column, where)
    if not isinstance(value, str):
        raise DataError(f"`{column}` is {_kind(value)}, not text", where=where, mend="write it in quotes")
    return value


def texts(row: Mapping[str, Any], column: str, where: object) -> list[str]:
    """A column's texts, also none. Raises DataError for anything but a list of them; a text alone is not one.

    >>> texts({"answers": ["0.28"]}, "answers", "docvqa[0]")
    ['0.28']
    """
    value = _there(row, column, where)
    if not isinstance(value, list | tuple):
        mend = "give a list, of a single text too"
        raise DataError(f"`{column}` is {_kind(value)}, not a list of texts", where=where, mend=mend)
    for one in value:
        if not isinstance(one, str):
            raise DataError(f"`{column}` has {_kind(one)} among its texts", where=where, mend="give texts only")
    return list(value)


def identifier(row: Mapping[str, Any], column: str, where: object) -> str:
    """A column that names the row, a text or a whole number, as text. Raises DataError for anything else.

    >>> identifier({"question_id": 34602}, "question_id", "textvqa[0]")
    '34602'
    """
    value = _there(row, column, where)
    if not isinstance(value, str | int) or isinstance(value, bool):
        what = f"`{column}` is {_kind(value)}, neither text nor a whole number"
        raise DataError(what, where=where, mend="give each row its own")
    return str(value)


def _there(row: Mapping[str, Any], column: str, where: object) -> Any:
    if (value := row.get(column)) is None:
        raise DataError(f"no `{column}`", where=where, mend="give it in every row")
    return value


def _kind(value: Any) -> str:
    return type(value).__name__
