"""Streams: the same row for the same number, whoever asks and whenever."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from smolforge.data.ahead import prepared
from smolforge.data.sources import stream
from smolforge.data.sources.fixtures.drawn import picture
from smolforge.data.sources.source import Source
from smolforge.data.sources.stream import StreamTable, local_parts
from smolforge.data.sources.tables import open_source
from smolforge.errors import DataError, UserError
from smolforge.recipe import DataSection

ROWS, SHARDS = 70, 5  # of the whole stream; a shard has 14


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    import datasets

    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(SHARDS):
        rows = [{"prompt": f"{number * 14 + row}", "completion": "yes"} for row in range(14)]
        datasets.Dataset.from_list(rows).to_parquet(folder / f"train-{number:05}-of-{SHARDS:05}.parquet")
    return folder


def opened(source: Path, seed: int = 0, **options) -> Source:
    return open_source(DataSection(source=str(source), streaming=True, **options), seed=seed)


def asked(source: Source, numbers) -> list[str]:
    return [source.record(number).words for number in numbers]


def table_of(folder: Path, places: Path | None, seed: int = 0) -> StreamTable:
    parts, content = local_parts(folder, "train", [None])
    return StreamTable(parts, seed=seed, where="shards", content=content, places=places)


def test_every_row_once_an_epoch_and_shards_in_another_order(shards):
    source = opened(shards)
    assert source.endless
    assert len(source) == 2**62
    epochs = [asked(source, range(epoch * ROWS, (epoch + 1) * ROWS)) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(map(int, epoch)) == list(range(ROWS))
        # whole shards, each from its first row to its last
        assert all(int(epoch[at]) == int(epoch[at - 1]) + 1 for at in range(1, ROWS) if at % 14)
    firsts = [tuple(int(epoch[at]) // 14 for at in range(0, ROWS, 14)) for epoch in epochs]
    assert len(set(firsts)) == 3
    other = asked(opened(shards, seed=1), range(ROWS))
    assert other != epochs[0]
    assert sorted(other) == sorted(epochs[0])


def test_a_row_is_the_same_in_any_order_of_asking(shards, monkeypatch):
    monkeypatch.setattr(stream, "EVERY", 10)
    expected = asked(opened(shards), range(200))
    source = opened(shards)
    for number in (150, 3, 199, 80, 81, 79, 0, 140, 139):
        assert asked(source, [number]) == [expected[number]], number


def test_a_new_process_goes_on_from_a_kept_place(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "EVERY", 10)
    first = table_of(shards, tmp_path / "places")
    expected = [first[number]["prompt"] for number in range(100)]
    second = table_of(shards, tmp_path / "places")
    read = 0
    begin = StreamTable._next

    def counted(self):
        nonlocal read
        read += 1
        return begin(self)

    monkeypatch.setattr(StreamTable, "_next", counted)
    assert second[97]["prompt"] == expected[97]
    assert read == 8  # 90 to 97
    assert [second[number]["prompt"] for number in range(60, 100)] == expected[60:]
    # another seed, and other data under the same name, take no place of these
    assert len(table_of(shards, tmp_path / "places", seed=1)._known) == 1
    (shards / "train-00000-of-00005.parquet").write_bytes((shards / "train-00001-of-00005.parquet").read_bytes())
    assert len(table_of(shards, tmp_path / "places")._known) == 1


def test_other_processes_read_their_own_stream(shards):
    """A forked process must not move the files that its parent reads from, and a pickled table begins anew."""
    source = opened(shards)
    expected = asked(opened(shards), range(60))
    assert asked(source, range(20)) == expected[:20]
    parts, write = os.pipe()
    if not (child := os.fork()):
        os.write(write, json.dumps(asked(source, range(15, 60))).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert json.loads(os.read(parts, 1_000_000)) == expected[15:]
    assert asked(source, range(20, 60)) == expected[20:]
    assert pickle.loads(pickle.dumps(source)).record(41).words == expected[41]


@pytest.mark.parametrize("sizes", [(14,), (14, 3, 9), (5, 5, 5, 5)], ids=str)
def test_processes_that_prepare_steps_read_all_shards(tmp_path, monkeypatch, sizes):
    """`datasets` gives each of a loader's processes some of the shards; row n must be row n in each of them all the same."""
    import datasets

    monkeypatch.setattr(stream, "EVERY", 10)
    folder, places = tmp_path / "shards", tmp_path / "places"
    folder.mkdir()
    for number, size in enumerate(sizes):
        rows = [{"prompt": f"{number}-{row}"} for row in range(size)]
        datasets.Dataset.from_list(rows).to_parquet(folder / f"train-{number:05}-of-{len(sizes):05}.parquet")
    alone = table_of(folder, None)
    expected = [alone[number] for number in range(60)]
    ahead = prepared(table_of(folder, places).__getitem__, range(60), workers=2)
    assert [row for row, _ in ahead] == expected
    # what those processes kept is true in another
    later = table_of(folder, places)
    assert set(later._known) == set(range(0, 60, 10))
    assert [later[number] for number in range(59, 0, -7)] == expected[59:0:-7]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "folder/captions.jsonl"])
def test_files_stream_too(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    rows = [{"prompt": str(number), "completion": "yes"} for number in range(7)]
    file.write_text(json.dumps(rows) if file.suffix == ".json" else "\n".join(map(json.dumps, rows)))
    source = opened(file.parent if "captions" in name else file)
    assert asked(source, range(9)) == [*map(str, range(7)), "0", "1"]


def test_pictures_stay_undecoded(tmp_path):
    import datasets

    contents = [picture(0), b"no picture"]
    rows = {"image": [{"bytes": content, "path": None} for content in contents], "caption": ["a scene", "none"]}
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    source = opened(tmp_path)
    assert [source.record(number).media[0].ref for number in range(2)] == contents


def test_the_epoch_tells_when_rows_come_again(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": str(number)}) + "\n" for number in range(3)))
    table = table_of(tmp_path / "rows.jsonl", None)
    assert [(table[number], table.epoch)[1] for number in range(7)] == [0, 0, 0, 1, 1, 1, 2]


def test_configurations_come_one_behind_the_other(tmp_path):
    import datasets

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows = [{"prompt": f"{name}{row}", "completion": "yes"} for row in range(3)]
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / name / "train.parquet")
    epochs = ["".join(asked(opened(tmp_path, name=("a", "b"), seed=seed), range(6))) for seed in range(6)]
    assert set(epochs) == {"a0a1a2b0b1b2", "b0b1b2a0a1a2"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "train[:5]"}, "a slice of a stream"),
        ({"exclude": ("list.jsonl",)}, "rows to leave out of a stream"),
        ({"split": "test"}, "not a readable stream"),
        ({"name": "other"}, "no configuration other"),
    ],
)
def test_what_a_stream_cannot_do(shards, options, words):
    with pytest.raises(DataError, match=words) as caught:
        opened(shards, **options)
    assert "\n" not in str(caught.value)


def test_a_stream_that_breaks_off_ends_the_run(tmp_path):
    """Not a row to drop: all that follow would be dropped with it."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n')
    with pytest.raises(UserError, match="the stream broke off") as caught:
        opened(tmp_path / "rows.jsonl").record(0)
    assert not isinstance(caught.value, DataError)
    assert "\n" not in str(caught.value)


def test_the_hub_is_asked_for_a_stream():
    with pytest.raises(DataError, match="the Hub did not give HuggingFaceTB/smoltalk") as caught:
        open_source(DataSection(source="smoltalk", name="all", streaming=True))
    assert "\n" not in str(caught.value)


def test_a_half_read_stream_ends_quietly(shards):
    code = (
        "from smolforge.data.sources.tables import open_source; from smolforge.recipe import DataSection\n"
        f"source = open_source(DataSection(source={str(shards)!r}, streaming=True)); source.record(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Exception" not in done.stderr
