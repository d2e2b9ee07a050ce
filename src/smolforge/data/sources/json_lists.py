"""JSON files that are one long list of objects, read object by object: whole, a file takes ten times its text in memory."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from smolforge.data.sources.rows import Row
from smolforge.errors import DataError

CHUNK = 2**20  # bytes read at once
LONGEST = 64 * CHUNK  # of one object, or of what stands beside the list; more is taken for a mistake in it
NOT_UTF8, SAVE_AS_UTF8 = "not UTF-8", "save the file as UTF-8"
BOM = codecs.BOM_UTF8.decode("latin-1")
_BETWEEN = re.compile(r"[\s,]*")
_KEY = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*(?=\S)')  # of a member, with its value's beginning behind it


class JsonList:
    """A JSON file that is a long list of objects, or has one as `data`, read object by object when asked; only their places are
    kept in memory.

    Args:
        places: file in which they are kept for the next time; None keeps none.

    Raises:
        DataError: it is no list of objects, or is cut off.
    """

    def __init__(self, path: Path, places: Path | None = None) -> None:
        self.path, self.called = path, path.name
        if places and places.is_file():
            self.places = np.load(places)
            return
        with path.open("rb") as file:
            self.places = np.array(list(object_places(file, path)), np.int64).reshape(-1, 2)  # start and end in bytes of each
        if places:
            places.parent.mkdir(parents=True, exist_ok=True)
            begun = places.with_name(f"{places.name}.{os.getpid()}.npy")
            np.save(begun, self.places)
            begun.replace(places)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Row:
        start, end = map(int, self.places[index])
        with self.path.open("rb") as file:
            file.seek(start)
            return row_of(file.read(end - start), f"{self.called}, row {index}")


def row_of(text: bytes, where: str) -> Row:
    """An object's text as a row.

    Raises:
        DataError: it is none.
    """
    try:
        row = json.loads(text.decode("utf-8-sig", "surrogatepass"))
    except UnicodeDecodeError as error:
        raise DataError(NOT_UTF8, where=where, mend=SAVE_AS_UTF8) from error
    except json.JSONDecodeError as error:
        if b"\0" in text:  # UTF-16 of plain letters, which JSON never has
            raise DataError(NOT_UTF8, where=where, mend=SAVE_AS_UTF8) from error
        raise DataError("not valid JSON", where=where, mend="mend the line") from error
    if not isinstance(row, dict):
        raise DataError("not a JSON object", where=where, mend="one object a line")
    return row


def object_places(file: IO[bytes], where: object) -> Iterator[tuple[int, int]]:
    """Start and end in bytes of each object in a file's list, which is all of it or the `data` of an object around it.

    Reads no further than the objects that are asked for.

    >>> import io
    >>> list(object_places(io.BytesIO(b'{"about": "a", "data": [{"b": 1}, {}]}'), "a.json"))
    [(24, 32), (34, 36)]

    Raises:
        DataError: it is no list of objects, or is cut off.
    """
    decode = json.JSONDecoder(strict=False).raw_decode
    text, before, at = "", 0, 0  # what was read of the file and not yet passed by; bytes before it; place in it
    begun, inside = False, False  # the list; an object around it
    while True:
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        sign = text[at : at + 1]
        step: int | None = None  # to where what stands here was passed by; None: it is not whole, or none of what may stand here
        if begun and sign == "]":
            return
        if begun and sign == "{" and (step := _end(decode, text, at)):
            yield before + at, before + step
        elif not begun and sign == "[":
            begun, step = True, at + 1
        elif not (begun or inside) and sign == "{":
            inside, step = True, at + 1
        elif before + at == 0 and text.startswith(BOM):
            step = len(BOM)
        elif inside and not begun and (key := _KEY.match(text, at)):
            # Before `data` anything may stand, and is passed by.
            step = key.end() if key[1] == "data" and text[key.end()] == "[" else _end(decode, text, key.end())
        if step is not None:
            at = step
            continue
        cut = sign in ("{" if begun else '"' if inside else BOM)  # it may go on behind what was read, as does what is empty
        more = file.read(max(CHUNK, len(text) - at)) if cut and len(text) - at < LONGEST else b""
        if not more:
            what = f"not a whole list of objects (after byte {before + at})"
            mend = "download it again; a .json file holds a list of rows, as UTF-8"
            raise DataError(what, where=where, mend=mend)
        # Latin-1 has one character a byte, so that places in the text are places in the file.
        text, before, at = text[at:] + more.decode("latin-1"), before + at, 0


def _end(decode: Callable[[str, int], tuple[Any, int]], text: str, at: int) -> int | None:
    """Where a value ends; None where it is not whole. A number at the end of what was read might go on."""
    try:
        end = decode(text, at)[1]
    except json.JSONDecodeError:
        return None
    return end if end < len(text) or text[at] in '{["' else None
