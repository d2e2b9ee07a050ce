"""What a person who wrote the rows is told of them: not UTF-8, an empty file, a value of another type than is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolforge.data.sources import shapes
from smolforge.data.sources.tables import open_source
from smolforge.errors import DataError
from smolforge.recipe import DataSection

LINE = '{"prompt": "Où?", "completion": "Là."}\n'


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["rows.jsonl", "captions.jsonl"])
def test_lines_in_another_encoding_than_utf_8_are_told(encoding: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes((LINE + LINE).encode(encoding))
    source = open_source(DataSection(source=str(tmp_path if name == "captions.jsonl" else tmp_path / name)))
    with pytest.raises(DataError, match=rf"{name}, row 0: not UTF-8; save the file as UTF-8"):
        source.record(0)


def test_a_json_file_in_latin_1_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(f"[{LINE}]".encode("latin-1"))
    with pytest.raises(DataError, match=r"rows.json: not UTF-8; save the file as UTF-8"):
        open_source(DataSection(source=str(tmp_path / "rows.json")))


def test_utf_8_with_its_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(LINE, encoding="utf-8-sig")
    assert open_source(DataSection(source=str(tmp_path / "rows.jsonl"))).record(0).responses[0].text == "Là."


@pytest.mark.parametrize("content", ["", "\n \n\n"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "captions.jsonl"])
def test_an_empty_file_is_called_empty(content: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    source = tmp_path if name == "captions.jsonl" else tmp_path / name
    with pytest.raises(DataError, match=rf"{name}: the file is empty; give one with rows"):
        open_source(DataSection(source=str(source)))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": 5, "completion": "x"}, "a prompt given as int; give it as text or messages"),
        ({"prompt": "5", "completion": ["x"]}, "a completion given as a list of str; give it as text or messages"),
        ({"prompt": "5", "completion": 7}, "a completion given as int; give it as text or messages"),
        ({"prompt": ["x"], "completion": "x"}, "a prompt given as a list of str; give it as text or messages"),
        ({"prompt": "5", "chosen": 3, "rejected": "x"}, "a chosen answer given as int; give it as text or messages"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "a turn with an unknown role; mend 'bot'"),
    ],
)
def test_values_of_another_type_are_named(row: dict, said: str) -> None:
    with pytest.raises(DataError) as raised:
        shapes.record(row, id="0", source="rows")
    assert said in str(raised.value)


def test_an_unknown_source_is_answered_in_few_words() -> None:
    with pytest.raises(DataError) as raised:
        open_source(DataSection(source="nodir"))
    assert str(raised.value) == "nodir: no such file or source; see `smolforge data list` for what is known by name"
