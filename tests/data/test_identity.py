"""What tells a source's rows from others: numbers and content, never places and times."""

from __future__ import annotations

import json
import os
import shutil

import datasets
import pytest

from smolforge.data import identity
from smolforge.data.identity import changes, identities
from smolforge.data.sources import tables
from smolforge.data.sources.tables import open_source
from smolforge.recipe import DataSection


def written(path, count: int, word: str = "yes"):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": f"row {n}", "completion": word}) + "\n" for n in range(count)))
    return path


def of(source, **more) -> dict:
    section = DataSection(source=str(source), **more)
    return identities([section], [open_source(section)])[0]


def differ(before: dict, now: dict) -> list[str]:
    return changes([before], [now], "data")


def test_a_folder_may_be_copied_and_touched(tmp_path):
    file = written(tmp_path / "a" / "captions.jsonl", 10)
    before = of(file.parent)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    os.utime(tmp_path / "b" / "captions.jsonl", (1, 1))
    assert differ(before, of(tmp_path / "b")) == []


def test_more_rows_other_rows_and_other_words_are_told_apart(tmp_path):
    file = written(tmp_path / "my.jsonl", 10)
    before = of(file)
    assert before["numbers"] == "0 to 9"
    (found,) = differ(before, of(written(file, 25)))
    assert found.endswith("had 10 rows and has 25 rows")
    (found,) = differ(before, of(written(file, 10, "nay")))
    assert found.endswith("has other content")


def test_a_list_counts_by_what_it_leaves_out(tmp_path):
    """Two lists of one row each leave nine rows, but not the same ones; another reason beside the same row is no difference."""
    file = written(tmp_path / "my.jsonl", 10)

    def left(row: int, reason: str) -> dict:
        listed = tmp_path / "list.jsonl"
        listed.write_text(json.dumps({"source": str(file), "split": "train", "row": row, "rows": 10, "reason": reason}) + "\n")
        return of(file, exclude=(listed,))

    before = left(3, "seen twice")
    assert differ(before, left(3, "said twice")) == []
    (found,) = differ(before, left(4, "seen twice"))
    assert found.endswith("leaves other rows out, by exclude or in the cleaning of pairs")


def test_of_a_large_file_beginning_middle_and_end_are_read(tmp_path, monkeypatch):
    """Of 30 bytes that may be read of this file of about 380, ten each; its length counts in any case."""
    monkeypatch.setattr(identity, "WHOLE", 30)
    file = written(tmp_path / "my.jsonl", 10)
    before, text = of(file), file.read_bytes()
    places = {0: True, len(text) // 2: True, len(text) - 1: True, len(text) // 4: False}  # of a byte -> whether it is read
    for place, read in places.items():
        other = bytearray(text)
        other[place] ^= 1
        file.write_bytes(other)
        assert (identity._of_files([file]) != before["content"]) == read, place
    file.write_bytes(text + b"\n")
    assert len(differ(before, of(file))) == 1


def test_rows_of_the_hub_are_compared_by_a_few_of_them(tmp_path, monkeypatch):
    """Wherever they lie here: a machine's folders are none of their content."""

    def table(folder: str, word: str) -> datasets.Dataset:
        images = [{"bytes": None, "path": f"{folder}/{n}.png"} for n in range(40)]
        rows = {"image": images, "caption": [word] * 40}
        return datasets.Dataset.from_dict(rows, features=datasets.Features(
            {"image": datasets.Image(decode=False), "caption": datasets.Value("string")}
        ))  # fmt: skip

    def opened(folder: str, word: str) -> dict:
        monkeypatch.setattr(tables, "hub_table", lambda *args, **more: table(folder, word))
        return of("someone/photos")

    before = opened("/here", "a cat")
    assert differ(before, opened("/there", "a cat")) == []
    assert len(differ(before, opened("/here", "a dog"))) == 1


def test_drawn_rows_have_no_files(tmp_path):
    assert of("scenes")["content"] == ""


@pytest.mark.parametrize("commits", [("aaa", "aaa"), ("aaa", "bbb")])
def test_a_stream_from_the_hub_is_its_commit(monkeypatch, commits, tmp_path):
    from smolforge.data.sources import stream

    def opened(commit: str) -> dict:
        written(tmp_path / "my.jsonl", 3)
        part = {"path": "json", "data_files": {"train": [str(tmp_path / "my.jsonl")]}, "split": "train", "revision": commit}
        monkeypatch.setattr(tables, "hub_parts", lambda *args: ([part], commit))
        return of("someone/photos", streaming=True)

    monkeypatch.setattr(stream.StreamTable, "_open", lambda self, part: None)
    before, now = map(opened, commits)
    assert before["rows"] is None
    assert bool(differ(before, now)) == (commits[0] != commits[1])
