"""The way of the data on real photos, and what becomes of bad ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smolforge.data.pipeline import open_stream, prepare
from smolforge.data.processor import load_renderer
from smolforge.data.sources.fixtures.drawn import clip
from smolforge.data.tally import Tally
from smolforge.errors import DataError
from smolforge.recipe import DataSection, ImagesSection


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:9000])
    (tmp_path / "text.jpg").write_text("not a picture")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    names = ("good.jpg", "cut.jpg", "text.jpg", "huge.png", "missing.jpg", "good.jpg")
    lines = [json.dumps({"image": name, "captions": ["a", "b", "c", "d", "e"]}) for name in names]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_bad_pictures_are_skipped_counted_and_named(tiny_split, photos):
    stream = open_stream([DataSection(source=str(photos))], load_renderer(tiny_split), kinds={"target"}, seed=0)
    step = stream.step(range(6))
    assert step.tally.examples == 2
    assert sum(step.tally.dropped.values()) == 4
    lines = "\n".join(step.tally.lines())
    for name in ("cut.jpg", "text.jpg", "huge.png", "missing.jpg"):
        assert name in lines
    (row,) = step.rows
    assert len(row.tiles) * 2 == len(row.run_tiles), "the same picture twice is there, and encoded, once"
    assert len(row.responses) == 10


def test_five_captions_cost_their_own_tokens_only(tiny, photos):
    stream = open_stream([DataSection(source=str(photos), split="train[:1]")], load_renderer(tiny), kinds={"target"}, seed=0)
    record = stream.record(0)
    five = prepare(record, stream.renderer).num_tokens
    one = prepare(replace(record, responses=record.responses[:1]), stream.renderer).num_tokens
    answers = [stream.renderer.encode(stream.renderer.chat.answer(response.text)) for response in record.responses]
    assert five - one == sum(map(len, answers[1:]))


def test_upscale_false_says_what_it_saves(tiny_split, photos):
    renderer = load_renderer(tiny_split, images=ImagesSection(upscale=False))
    Image.new("RGB", (90, 60)).save(photos / "good.jpg")
    stream = open_stream([DataSection(source=str(photos), split="train[:1]")], renderer, kinds={"target"}, seed=0)
    tally = stream.step(range(1)).tally
    assert (tally.tiles, tally.tiles_upscaled) == (1, 13)
    assert "upscale: false saved 92% of the tiles (13 -> 1)" in tally.lines()


def test_objective_chooses_the_responses(tiny, tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "good", "rejected": "bad"}\n')
    stream = open_stream(
        [DataSection(source=str(tmp_path / "pairs.jsonl"))], load_renderer(tiny), kinds={"target", "chosen"}, seed=0
    )
    (row,) = stream.step(range(1)).rows
    assert [response.kind for response in row.responses] == ["chosen"]


def test_changes_are_told(tiny, tmp_path):
    long = " ".join(str(n) for n in range(4000))
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": f"add {long} now", "completion": "no"}))
    stream = open_stream([DataSection(source=str(tmp_path / "long.jsonl"))], load_renderer(tiny), kinds={"target"}, seed=0)
    step = stream.step(range(1))
    assert step.tally.changed == {"prompt text cut": 1}
    assert step.rows[0].num_tokens <= stream.renderer.context


def test_tally_adds_up():
    a, b = Tally(examples=1, tokens=5), Tally(examples=2)
    b.drop(DataError("empty answer", where="s[1]"), "s[1]")
    a.add(b)
    assert (a.examples, a.tokens, dict(a.dropped), a.named) == (3, 5, {"empty answer": 1}, ["s[1]: empty answer"])


ASKED = {"question": "What?", "answer": "a dog"}
FAULTS = {  # row n of thirty that all have one fault, each with a number of its own
    "a clip behind the end": lambda n: {"video": "clip.mp4", "start": 20 + n / 7} | ASKED,
    "a clip between two frames": lambda n: {"video": "clip.mp4", "start": (n + 0.1) / 1e3, "end": (n + 0.2) / 1e3} | ASKED,
    "a cut that is no time": lambda n: {"video": "clip.mp4", "start": -1 - n} | ASKED,
    "a role": lambda n: {"messages": [{"role": f"speaker {n}", "content": "a"}]},
    "a part": lambda n: {"messages": [{"role": "user", "content": [{"type": f"part {n}"}]}]},
    "columns": lambda n: {f"column {n}": 1},
    "placeholders": lambda n: {"prompt": "<image>" * (1 + n), "completion": "a dog"},
}


@pytest.mark.parametrize("kind", FAULTS)
def test_one_fault_is_one_reason_whatever_its_numbers(kind, tiny, tmp_path):
    """What a run keeps of it does not grow with its rows; the numbers stand beside the rows that are named."""
    (tmp_path / "clip.mp4").write_bytes(clip(0))
    lines = [json.dumps(FAULTS[kind](number)) for number in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    stream = open_stream([DataSection(source=str(tmp_path / "rows.jsonl"))], load_renderer(tiny), kinds={"target"}, seed=0)
    tally = stream.step(range(30)).tally
    assert list(tally.dropped.values()) == [30], tally.dropped
    (reason,) = tally.dropped
    assert not any(letter.isdigit() for letter in reason)
    assert len(set(tally.named)) == 30
    assert all(str(tmp_path / "rows.jsonl") in line for line in tally.named)


def test_the_end_of_a_run_names_twenty_reasons():
    tally = Tally()
    for number in range(23):
        for _ in range(30 - number):
            tally.drop(DataError(f"reason {number}"), "s[1]")
    whole = Tally()
    whole.add(tally)
    told = [line for line in whole.lines() if line.startswith("dropped")]
    assert told[:2] == ["dropped 30 examples: reason 0", "dropped 29 examples: reason 1"]
    assert told[19:] == ["dropped 11 examples: reason 19", "dropped 27 examples for 3 other reasons"]  # 10 + 9 + 8
    assert len(whole.lines()) == 21 + 20


def test_real_photos(tiny, shared):
    source = DataSection(source=str(shared / "coco_mini" / "annotations_val2017.json"))
    stream = open_stream([source], load_renderer(tiny), kinds={"target"}, seed=0)
    step = stream.step(range(stream.num_rows))
    assert step.tally.examples == stream.num_rows
    assert sum(len(row.responses) for row in step.rows) >= 5 * stream.num_rows
