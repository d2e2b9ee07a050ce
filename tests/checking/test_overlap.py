"""Two entries that read the same rows are told, however they are spelt."""

from __future__ import annotations

import pytest

from smolforge.checking.overlap import doubled, same_table
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
        ({"source": "the_cauldron", "name": "ai2d"}, {"source": "the_cauldron", "name": ("ai2d", "vqav2")}, False),
        ({"source": "flickr8k", "dir": "a/../b"}, {"source": "flickr8k", "dir": "b"}, True),
        ({"source": "flickr8k", "dir": "a"}, {"source": "flickr8k", "dir": "b"}, False),
        ({"source": "flickr8k", "split": "train[:5]"}, {"source": "flickr8k", "split": "train[5:]"}, True),
        ({"source": "flickr8k"}, {"source": "flickr8k", "split": "test"}, False),
    ],
)
def test_names_of_one_table(one, other, same):
    assert same_table(DataSection(**one), DataSection(**other)) is same
