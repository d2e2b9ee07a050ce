"""Files and columns that are not what they should be: one line that says where, and nothing that Python makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smolforge.errors import DataError
from smolforge.evals.reading import identifier, read_json, read_rows, stored, text, texts


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.jsonl", b'{"a": 1}\n\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ("rows.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}', [{"a": 1}, {"a": 2}]),
        ("rows.json", b'[{"a": 1},\n{"a": 2}]', [{"a": 1}, {"a": 2}]),
        ("rows.jsonl", b"", []),
        ("rows.json", b"[]", []),
        ("rows.jsonl", b'{"a": 1}\n[1]\n', "rows.jsonl, line 2: not a JSON object"),
        ("rows.jsonl", b'{"a": 1}\n\n5\n', "rows.jsonl, line 3: not a JSON object"),
        ("rows.jsonl", b'{"a": 1}\n{"a": \n', "rows.jsonl, line 2: not valid JSON"),
        ("rows.jsonl", b'{"a": 1}\n\n{"a": "\xff"}\n', "rows.jsonl, line 3: not UTF-8"),
        ("rows.json", b"\xff", "rows.json, line 1: not UTF-8"),
        ("rows.json", b'[{"a": 1},\n{"a": }]', "rows.json, line 2: not valid JSON"),
        ("rows.json", b'[{"a": 1}, [1]]', "rows.json, row 2: not a JSON object"),
        ("rows.json", b'{"a": 1}', "rows.json: not a list of objects"),
        ("rows.json", b"", "rows.json, line 1: not valid JSON"),
        ("rows.json", b"[" * 100_000, "rows.json: not valid JSON"),
        ("rows.json", b"[" + b"1" * 5_000 + b"]", "rows.json: not valid JSON"),
    ],
)
def test_rows_of_a_file(tmp_path: Path, name: str, content: bytes, says: object) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    if isinstance(says, list):
        assert read_rows(file) == says
        return
    with pytest.raises(DataError) as error:
        read_rows(file)
    assert str(error.value).startswith(f"{tmp_path}/{says}; ")


@pytest.mark.parametrize("sign", ["\u2028", "\u0085", "\x1c", "\x0c"])
def test_a_line_ends_at_a_newline_only(tmp_path: Path, sign: str) -> None:
    """Signs that Python's splitlines takes for an end are allowed inside JSON's strings; below a space they are escaped."""
    file = tmp_path / "rows.jsonl"
    rows = [{"question": f"What{sign}now?"}, {"question": "And now?"}]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert read_rows(file) == rows


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "rows.json").mkdir()
    with pytest.raises(DataError, match=r"rows\.json: cannot be read"):
        read_rows(tmp_path / "rows.json")


def test_json_of_any_kind(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"images": [1]}')
    assert read_json(file) == {"images": [1]}


def test_a_folder_without_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows of this benchmark"):
        stored(tmp_path, "test")


ROW = {
    "one": "yes",
    "some": ["a", "b"],
    "none": [],
    "null": None,
    "number": 3,
    "flag": True,
    "mixed": ["a", None],
    "map": {"a": 1},
}


def test_columns_of_the_right_kind() -> None:
    assert text(ROW, "one", "there") == "yes"
    assert texts(ROW, "some", "there") == ["a", "b"]
    assert texts({"some": ("a",)}, "some", "there") == ["a"]
    assert texts(ROW, "none", "there") == []
    assert (identifier(ROW, "one", "there"), identifier(ROW, "number", "there")) == ("yes", "3")


@pytest.mark.parametrize(
    ("read", "column", "says"),
    [
        (text, "some", "there: `some` is list, not text; write it in quotes"),
        (text, "number", "there: `number` is int, not text; write it in quotes"),
        (text, "null", "there: no `null`; give it in every row"),
        (text, "absent", "there: no `absent`; give it in every row"),
        (texts, "one", "there: `one` is str, not a list of texts; give a list, of a single text too"),
        (texts, "map", "there: `map` is dict, not a list of texts; give a list, of a single text too"),
        (texts, "mixed", "there: `mixed` has NoneType among its texts; give texts only"),
        (texts, "null", "there: no `null`; give it in every row"),
        (identifier, "flag", "there: `flag` is bool, neither text nor a whole number; give each row its own"),
        (identifier, "map", "there: `map` is dict, neither text nor a whole number; give each row its own"),
        (identifier, "null", "there: no `null`; give it in every row"),
    ],
)
def test_columns_of_another_kind(read, column: str, says: str) -> None:
    with pytest.raises(DataError) as error:
        read(ROW, column, "there")
    assert str(error.value) == says
