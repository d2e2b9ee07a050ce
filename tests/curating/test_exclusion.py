from __future__ import annotations

import json
from pathlib import Path

import pytest

from smolforge.curating.reading import open_tables
from smolforge.data.exclusion import check_lists, excluded
from smolforge.data.sources.tables import open_source
from smolforge.errors import DataError
from smolforge.recipe import DataSection

LINE = {"source": "a", "name": None, "split": "train", "row": 3, "reason": "any", "of": "a[0]", "distance": 2}


def write(folder: Path, *lines: object, name: str = "list.jsonl") -> Path:
    file = folder / name
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return file


def test_rows_of_the_source_configuration_and_split(tmp_path):
    first = write(
        tmp_path, LINE, LINE | {"row": 4, "split": "test"}, LINE | {"row": 5, "source": "b"}, LINE | {"row": 6, "name": "x"}, "",
        LINE | {"row": 7, "name": ["x", "y"]}, LINE | {"row": 8, "fixture": True},
    )  # fmt: skip
    second = write(tmp_path, LINE | {"row": 9}, name="second.jsonl")
    assert excluded([first, second], DataSection(source="a")) == {3, 9}
    assert excluded([first], DataSection(source="a", split="test[10%:]")) == {4}
    assert excluded([first], DataSection(source="a", name="x")) == {6}
    assert excluded([first], DataSection(source="a", name=("x", "y"))) == {7}
    assert excluded([first], DataSection(source="a", fixture=True)) == {8}
    assert excluded([first], DataSection(source="nowhere")) == set()
    assert excluded([], DataSection(source="a")) == set()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not a JSON object"),
        (LINE | {"row": -1}, "row is -1"),
        (LINE | {"row": True}, "row is True"),
        (LINE | {"row": "3"}, "row is '3'"),
        ({"source": "a", "split": "train"}, "row is None"),
        (LINE | {"source": 3}, "source is 3"),
        (LINE | {"split": None}, "split is None"),
        (LINE | {"name": 7}, "name is 7"),
        (LINE | {"name": [1]}, "name is \\[1\\]"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, what):
    file = write(tmp_path, LINE, line)
    with pytest.raises(DataError, match=what) as error:
        excluded([file], DataSection(source="another"))
    assert error.value.where == f"{file}, line 2"


def test_a_missing_list_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such list"):
        excluded([tmp_path / "absent.jsonl"], DataSection(source="a"))


def test_a_list_for_another_version_of_the_table_is_refused(tmp_path):
    """Its numbers would name other rows."""
    file = write(tmp_path, LINE | {"rows": 10})
    assert excluded([file], DataSection(source="a"), rows=10) == {3}
    with pytest.raises(DataError, match="for 10 rows of a, it has 11"):
        excluded([file], DataSection(source="a"), rows=11)
    with pytest.raises(DataError, match="row 3 of a, which has 3"):
        excluded([write(tmp_path, LINE)], DataSection(source="a"), rows=3)
    file = write(tmp_path, LINE | {"revision": "v1"})
    assert excluded([file], DataSection(source="a", revision="v1")) == {3}
    with pytest.raises(DataError, match="for revision v1 of a, the recipe reads v2"):
        excluded([file], DataSection(source="a", revision="v2"))


def test_a_recipe_leaves_the_rows_out_whatever_its_slice(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": "p", "completion": str(n)}) + "\n" for n in range(10)))
    file = write(tmp_path, *(LINE | {"source": str(rows), "row": row, "rows": 10} for row in (0, 4, 7)))
    assert list(open_source(DataSection(source=str(rows), exclude=(file,))).rows) == [1, 2, 3, 5, 6, 8, 9]
    sliced = open_source(DataSection(source=str(rows), split="train[50%:]", exclude=(file,)))
    assert list(sliced.rows) == [5, 6, 8, 9]
    assert [response.text for response in sliced.record(2).responses] == ["8"]


def test_one_table_in_several_spellings(tmp_path, monkeypatch):
    """A list that was written for the absolute path serves the relative one."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n" * 10)
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path, LINE | {"source": str(rows)})
    for spelt in ("rows.jsonl", "./rows.jsonl", f"../{tmp_path.name}/rows.jsonl", str(rows)):
        assert excluded([file], DataSection(source=spelt)) == {3}
    file = write(tmp_path, LINE | {"source": "flickr8k"})
    assert excluded([file], DataSection(source="jxie/flickr8k")) == {3}
    file = write(tmp_path, LINE | {"source": "HuggingFaceM4/the_cauldron", "name": "ai2d"})
    assert excluded([file], DataSection(source="the_cauldron", name=("ai2d",))) == {3}


def test_a_list_for_other_configurations_or_splits_is_refused(tmp_path):
    file = write(tmp_path, LINE | {"name": ["x", "y"]}, LINE | {"source": "b"})
    with pytest.raises(DataError, match=r"names rows of a \(name x,y, split train\), none of name x, split train"):
        excluded([file], DataSection(source="a", name="x"))
    assert excluded([file], DataSection(source="a", fixture=True)) == set()
    assert excluded([write(tmp_path)], DataSection(source="a")) == set()


def test_a_list_that_serves_no_entry_is_refused(tmp_path):
    file, empty = write(tmp_path, LINE), write(tmp_path, name="empty.jsonl")
    one, other = DataSection(source="a", exclude=(file, empty)), DataSection(source="b", exclude=(file,))
    check_lists([one, other])
    with pytest.raises(DataError, match=r"names no row of b, only of a") as error:
        check_lists([other, DataSection(source="a", exclude=(empty,))])
    assert error.value.where == str(file)
    check_lists([DataSection(source="b", fixture=True, exclude=(file,))])


def test_curating_refuses_a_list_that_serves_no_entry(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "p", "completion": "c"}) + "\n")
    with pytest.raises(DataError, match="names no row of"):
        open_tables([DataSection(source=str(rows), exclude=(write(tmp_path, LINE),))])
