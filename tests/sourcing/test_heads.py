"""A preview of rows that lie in files of annotations on the Hub: the heads of these files, and nothing of what they name."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from local_hub import Hub
from rich.console import Console

from smolforge.data.sources.catalog import SOURCES
from smolforge.data.sources.tables import open_source
from smolforge.errors import DataError
from smolforge.recipe import DataSection
from smolforge.sourcing.preview import Look, look, shown
from smolforge.sourcing.preview_page import write_page

# Source -> file of its rows, as it is called on the Hub, and what chooses it.
FILES: dict[str, tuple[str, dict[str, str]]] = {
    "mammoth_vl": ("mammoth_si_10M.json", {"name": "mammoth_si_10M"}),
    "m4_instruct": ("m4_instruct_annotations.json", {}),
    "llava_instruct_150k": ("llava_instruct_150k.json", {}),
    "m3it": ("data/captioning/coco/train.jsonl", {"name": "coco"}),
    "llava_video_178k": ("0_30_s_nextqa/0_30_s_nextqa_oe_qa.json", {"name": "0_30_s_nextqa", "split": "open_ended"}),
    "video_star": ("ft_json/kinetics700_tune_.json", {"name": "Kinetics700"}),
    "vript": ("vript_captions/vript_short_videos_captions.jsonl", {"name": "vript_short"}),
    "vista_400k": ("temporal_niah_qa/temporal_niah_qa.json", {"name": "temporal_niah_qa"}),
    "moviechat": ("jsons/1.json", {}),
    "sharegpt4video": ("sharegpt4video_40k.jsonl", {}),
    "povid": ("preference_data.json", {}),
}
NEIGHBOURS = ("README.md", "other/rows.txt", "videos/1.tar.gz", "a/b/train.parquet")  # that nobody asks for


def words_of(found: Look) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(shown(found))
    return console.file.getvalue()


def as_file(name: str, path: str, rows: list[dict[str, Any]]) -> bytes:
    if name == "moviechat":  # a film's file is its row
        return json.dumps(rows[0]).encode()
    return ("\n".join(map(json.dumps, rows)) if path.endswith(".jsonl") else json.dumps(rows)).encode()


def fetched(hub: Hub) -> int:
    """Bytes of all ranges that were asked for."""
    spans = [re.fullmatch(r"bytes=(\d+)-(\d+)", asked) for _, asked in hub.asked]
    return sum(int(span[2]) - int(span[1]) + 1 for span in spans)


def test_each_source_is_tried():
    assert set(FILES) == {name for name, known in SOURCES.items() if known.annotations}


@pytest.mark.parametrize("name", FILES)
def test_rows_are_shown_without_what_they_name(hub, tmp_path, name):
    """As they would be read of a folder, but for pictures and videos, of which none is looked for or fetched."""
    known, (path, chosen) = SOURCES[name], FILES[name]
    rows = known.fixture(tmp_path / "drawn")[:2]
    hub.repos[known.hub] = dict.fromkeys(NEIGHBOURS, b"-" * 1000) | {path: as_file(name, path, rows)}
    found = look(DataSection(source=name, **chosen), rows=1)
    file = tmp_path / "dir" / path
    file.parent.mkdir(parents=True)
    file.write_bytes(hub.repos[known.hub][path])
    read = open_source(DataSection(source=name, dir=tmp_path / "dir", **chosen)).record(0)
    (seen,) = found.rows
    assert (seen.error, seen.record.words, seen.record.responses) == ("", read.words, read.responses)
    assert (found.heads, found.total) == ((path,), None)
    assert {asked for asked, _ in hub.asked} == {path}
    words = words_of(found)
    assert f"the first rows of {path}; what they name by path was not fetched" in words
    named = [part for part in (*seen.record.media, *seen.record.videos) if isinstance(part.ref, Path)]
    assert words.count(", not here: ") == len(named)
    assert bool(named) == (name != "m3it"), "its pictures are in its rows"
    page = write_page(found, tmp_path / "page.html").read_text()
    assert page.count(", not here: ") == len(named)


@pytest.mark.parametrize("kind", ["json", "jsonl", "data"])
def test_of_a_long_file_the_head_alone_is_fetched(hub, kind):
    rows = [{"id": n, "image": f"{n}.jpg", "conversations": [{"from": "human", "value": "<image>\n" + "Why? " * 400},
             {"from": "gpt", "value": f"answer {n}"}]} for n in range(10_000)]  # fmt: skip
    name, path, chosen = ("llava_instruct_150k", "llava_instruct_150k.json", {})
    if kind == "jsonl":
        name, path, chosen = "vista_400k", "temporal_niah_qa/rows.jsonl", {"name": "temporal_niah_qa"}
    content = json.dumps({"about": "it", "data": rows}).encode() if kind == "data" else as_file(name, path, rows)
    assert len(content) > 20_000_000
    hub.repos[SOURCES[name].hub] = {path: content}
    found = look(DataSection(source=name, **chosen), rows=5)
    assert [seen.record.responses[0].text for seen in found.rows if seen.record] == [f"answer {n}" for n in range(5)]
    assert fetched(hub) <= 2**20 + 2**18  # a piece in which rows are looked for, and one with theirs


def test_files_of_one_row_each(hub, tmp_path):
    (first, *_), hub_name = SOURCES["moviechat"].fixture(tmp_path), SOURCES["moviechat"].hub
    films = {f"jsons/{n}.json": json.dumps(first | {"info": {"video_path": f"{n}.mp4"}}).encode() for n in range(5)}
    hub.repos[hub_name] = films | {"raw_videos/0.mp4": b"film"}
    found = look(DataSection(source="moviechat"), rows=3)
    assert [seen.record.videos[0].ref for seen in found.rows] == [Path(f"{n}.mp4") for n in range(3)]
    assert found.heads == ("jsons/0.json", "jsons/1.json", "jsons/2.json")
    assert "the first rows of jsons/0.json and 2 more files" in words_of(found)
    assert {name for name, _ in hub.asked} == set(found.heads)


def test_annotations_in_a_zip(hub, tmp_path):
    """Vript's captions: of the zip its list of members, and the first of them; a video's clips are by their names in `data`."""
    rows, known = SOURCES["vript"].fixture(tmp_path), SOURCES["vript"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for n in range(500):
            clips = {"data": {row["clip_id"]: row for row in rows}} if n else {"data": {rows[0]["clip_id"]: rows[0]}}
            padded = json.dumps(clips | {"padding": "x" * 10_000})
            archive.writestr(f"vript_short_videos_captions/{n:03}/{n:03}_caption.json", padded)
    hub.repos[known.hub] = {
        "vript_captions/vript_short_videos_captions.zip": buffer.getvalue(),
        "vript_captions/vript_long_videos_captions.zip": zipfile_of("vript_long_videos_captions/1/1_caption.json"),
        "vript_short_videos_clips/clips_1.zip": b"large",
    }
    found = look(DataSection(source="vript", name="vript_short"), rows=2)
    assert [seen.record.words for seen in found.rows] == [
        known.record(row, id="0", source="vript").words for row in (rows[0], rows[0])
    ]
    assert found.heads[0] == "vript_captions/vript_short_videos_captions/000/000_caption.json"
    assert "vript_short_videos_clips/clips_1.zip" not in {name for name, _ in hub.asked}
    assert fetched(hub) < len(buffer.getvalue()) / 3


def zipfile_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "{}")
    return buffer.getvalue()


def test_a_row_of_strangers_opens_nothing_here(hub, tmp_path):
    (tmp_path / "private.png").write_bytes(b"no picture")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
    rows = [{"id": 1, "image": str(tmp_path / "private.png"), "conversations": turns}, {"id": 2, "image": "a.png"}]
    hub.repos[SOURCES["llava_instruct_150k"].hub] = {"llava_instruct_150k.json": json.dumps(rows).encode()}
    found = look(DataSection(source="llava_instruct_150k"))
    assert [bool(seen.error) for seen in found.rows] == [False, True]
    assert "a malformed row" in found.rows[1].error
    assert f"[picture, not here: {tmp_path / 'private.png'}]" in words_of(found).replace("\n", "")


@pytest.mark.parametrize(
    ("section", "files", "words"),
    [
        ({"split": "train[:5]"}, {}, "a slice of rows that are not here; leave the slice out, or download them"),
        ({"split": "test"}, {}, "no split test; it has train"),
        ({}, {"other.json": b"[]"}, r"no annotations of train;.*data download llava_instruct_150k DIR --include "
         r'"llava_instruct_150k\.json"` fetches the rows alone; --fixture'),
        ({}, {"llava_instruct_150k.json": b"[]"}, r"llava_instruct_150k\.json: no rows"),
        ({}, {"llava_instruct_150k.json": b"[{]"}, r"llava_instruct_150k\.json: not valid JSON"),
        ({}, {"llava_instruct_150k.json": b"x" * (2**22 + 9)}, r"llava_instruct_150k\.json: not a whole list of objects"),
    ],
)  # fmt: skip
def test_trouble_ends_in_one_line(hub, section, files, words):
    hub.repos[SOURCES["llava_instruct_150k"].hub] = files
    with pytest.raises(DataError, match=words) as error:
        look(DataSection(source="llava_instruct_150k", **section))
    assert "\n" not in str(error.value)


def test_gated_rows(hub):
    hub.repos[SOURCES["moviechat"].hub] = {"jsons/1.json": b"{}"}
    hub.gated.add(SOURCES["moviechat"].hub)
    with pytest.raises(DataError, match=r"only to those who accepted its terms .*hf auth login"):
        look(DataSection(source="moviechat"))
