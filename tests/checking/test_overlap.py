"""Two entries that read the same rows are told, however they are spelt."""

from __future__ import annotations

import json

import datasets
import pytest

from smolforge.checking.overlap import common_tables, doubled
from smolforge.data.exclusion import Piece
from smolforge.data.sources import shapes
from smolforge.data.sources.source import Source
from smolforge.data.sources.tables import open_source
from smolforge.recipe import DataSection


def test_spellings_of_one_table(tmp_path, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "What?", "completion": "That."}\n' * 10)
    monkeypatch.chdir(tmp_path)
    one, other = DataSection(source=str(rows), split="train[:6]"), DataSection(source="./rows.jsonl", split="train[4:]")
    (found,) = doubled([one, other], [open_source(one), open_source(other)])
    assert (found.shared, found.exact) == (2, True)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"source": "flickr8k"}, {"source": "jxie/flickr8k"}, True),
        ({"source": "the_cauldron", "name": "ai2d"}, {"source": "HuggingFaceM4/the_cauldron", "name": ("ai2d",)}, True),
        ({"source": "the_cauldron", "name": "ai2d"}, {"source": "the_cauldron", "name": ("vqav2", "ai2d")}, True),
        ({"source": "the_cauldron", "name": "ai2d"}, {"source": "the_cauldron", "name": ("vqav2", "tqa")}, False),
        ({"source": "flickr8k", "dir": "a/../b"}, {"source": "flickr8k", "dir": "b"}, True),
        ({"source": "flickr8k", "dir": "a"}, {"source": "flickr8k", "dir": "b"}, False),
        ({"source": "flickr8k", "revision": "v1"}, {"source": "flickr8k", "revision": "v2"}, False),
        ({"source": "flickr8k", "revision": "v1"}, {"source": "flickr8k"}, False),
        ({"source": "flickr8k", "dir": "a", "revision": "v1"}, {"source": "flickr8k", "dir": "a"}, True),
        ({"source": "flickr8k", "split": "train[:5]"}, {"source": "flickr8k", "split": "train[5:]"}, True),
        ({"source": "flickr8k"}, {"source": "flickr8k", "split": "test"}, False),
    ],
)
def test_names_of_one_table(one, other, same):
    one, other = DataSection(**one), DataSection(**other)
    assert bool(common_tables(one, opened(one), other, opened(other))) is same


def opened(section: DataSection, rows: range | list[int] = range(30)) -> Source:
    """As a source of ten rows a configuration would be opened."""
    names = section.name if isinstance(section.name, tuple) else (section.name,)
    pieces = tuple(Piece(name=name, split=section.split.partition("[")[0], rows=10) for name in names)
    return Source(name=section.source, table=[], rows=rows, to_record=shapes.record, pieces=pieces)


def test_rows_are_the_same_whatever_stands_before_them():
    """Rows 5 to 14 of a, b are a[5:10] and b[0:5]; of b, a they are b[5:10] and a[0:5]. b[3:10] has two of the first."""
    a_b, b_a, b = (DataSection(source="s", name=name) for name in (("a", "b"), ("b", "a"), "b"))
    middle = range(5, 15)
    assert doubled([a_b, b_a], [opened(a_b, middle), opened(b_a, middle)]) == ()
    (found,) = doubled([a_b, b], [opened(a_b, middle), opened(b, range(3, 10))])
    assert (found.shared, found.of, found.exact) == (2, 7, True)
    (found,) = doubled([a_b, b_a], [opened(a_b, [5, 9, 12]), opened(b_a, [2, 9, 19])])  # a[5], a[9], b[2]; b[2], b[9], a[9]
    assert found.shared == 2


@pytest.mark.parametrize("name", [None, "all", ("mammoth_ov_2M", "mammoth_si_10M")])
def test_rows_of_one_configuration_are_found_among_all(tmp_path, name):
    for number, stem in enumerate(("mammoth_si_10M", "mammoth_ov_2M")):
        talk = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": f"That {number}."}]
        (tmp_path / f"{stem}.json").write_text(json.dumps([{"conversations": talk}] * (2 + number)))
    every, one = (DataSection(source="mammoth_vl", name=asked, dir=tmp_path) for asked in (name, "mammoth_ov_2M"))
    (found,) = doubled([every, one], [open_source(every), open_source(one)])
    assert (found.shared, found.of, found.exact) == (3, 3, True)


def test_rows_of_one_split_are_found_among_joined_ones(tmp_path):
    for split, count in (("caption", 2), ("open_ended", 3)):
        (tmp_path / "data").mkdir(exist_ok=True)
        rows = [{"prompt": "What?", "completion": f"{split} {number}"} for number in range(count)]
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: data/{split}-*\n" for split in ("caption", "open_ended"))
        + "---\n"
    )
    joined, one = (DataSection(source=str(tmp_path), split=split) for split in ("caption+open_ended", "open_ended"))
    (found,) = doubled([joined, one], [open_source(joined), open_source(one)])
    assert (found.shared, found.of, found.exact) == (3, 3, True)
