"""`data prepare`: training from the folder is training from the sources, and what cannot be used is listed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from smolforge.checking import check
from smolforge.data.pipeline import Stream, open_stream
from smolforge.data.processor import load_renderer
from smolforge.data.sources.prepared import MARKER
from smolforge.data.sources.tables import SOURCES, open_source
from smolforge.errors import CheckpointError, DataError
from smolforge.objectives import objective_of
from smolforge.recipe import DataSection, Recipe, load_recipe, parse_recipe
from smolforge.sourcing.disk import full_disk
from smolforge.sourcing.prepare import Prepared, prepare
from smolforge.training.chores import about_data
from smolforge.training.loop import train


def recipe(model: Path, data: list[dict[str, Any]], **more: Any) -> Recipe:
    run = {"dir": str(model.parent / "run"), "steps": 2, "device": "cpu", "trackers": [], "workers": 0, "seed": 3}
    tree = {"model": {"name": str(model)}, "data": data, "run": run, "batch": {"examples": 4, "row_tokens": 2048}}
    return parse_recipe(tree | more)


def stream(one: Recipe) -> Stream:
    renderer = load_renderer(Path(one.model.name), images=one.images, video=one.video, row_tokens=one.batch.row_tokens)
    shaping = objective_of(one.objective).shaping
    return open_stream(one.data, renderer, shaping=shaping, seed=one.run.seed, mixture=one.mixture, examples=one.batch.examples)


def keys(one: Recipe, count: int) -> list[str | None]:
    """Names of the examples at the first places: equal for equal tokens, pictures and frames."""
    opened = stream(one)
    return [opened.key(index) for index in range(count)]


def left_out(done: Prepared) -> list[tuple[int, str]]:
    return [(row["row"], row["reason"]) for row in map(json.loads, done.left_out.read_text().splitlines())]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten photos of which some are no good."""
    folder = tmp_path / "my photos"
    folder.mkdir()
    rows = [{"image": f"{n}.jpg", "captions": [f"photo {n}", f"again {n}"]} for n in range(10)]
    for n, row in enumerate(rows):
        noise = np.random.default_rng(n).integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(noise).save(folder / row["image"], quality=70 + n)
    (folder / "2.jpg").unlink()
    (folder / "4.jpg").write_bytes((folder / "4.jpg").read_bytes()[:2000])  # its header is whole
    rows[6]["captions"] = [""]
    lines = [json.dumps(row) for row in rows]
    lines[8] = lines[8][:-3]
    (folder / "captions.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


# --- the same examples -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_examples(tiny, tmp_path, name):
    pairs = "rejected" in {
        one.kind for one in open_source(DataSection(source=name, fixture=True, split=split_of(name))).record(0).responses
    }
    more = {"objective": {"kind": "dpo", "beta": 0.1}} if pairs else {}
    one = recipe(tiny, [{"source": name, "fixture": True, "split": split_of(name)}], **more)
    done = prepare(one, tmp_path / "out")
    assert not left_out(done)
    assert done.sources[0].rows == len(open_source(one.data[0]))
    again = load_recipe(done.recipe)
    expected = keys(one, 12)
    assert None not in expected
    assert keys(again, 12) == expected


def split_of(name: str) -> str:
    return SOURCES[name].splits[0]


def test_a_mixture_with_prompts_gives_the_same_examples(tiny, tmp_path):
    """By modality, with a curriculum of drawn instructions: what the recipe decides step by step stays its to decide."""
    data: list[dict[str, Any]] = [
        {"source": "scenes", "split": "train[:70]", "prompt": {0: ["Name it.", "Say it."], 5: "Describe the scene."}},
        {"source": "coco_captions", "fixture": True, "prompt": ["A caption?", "Look:"]},
        {"source": "clips", "split": "train[10:30]"}, {"source": "smoltalk", "fixture": True, "name": "all"},
    ]  # fmt: skip
    one = recipe(tiny, data, mixture={"image": 34.4, "video": 33.0, "text": 20.2})
    again = load_recipe(prepare(one, tmp_path / "out", shard_rows=16).recipe)
    assert keys(again, 150) == keys(one, 150)
    assert again.data[0].prompt == one.data[0].prompt
    texts = {
        part for index in range(40) for m in stream(again).record(index).messages for part in m.content if isinstance(part, str)
    }
    assert {"Describe the scene.", "Name it.", "Say it.", "A caption?", "Look:"} <= texts


def test_tiles_and_frames_are_counted(tiny_split, tmp_path):
    data = [{"source": "scenes", "split": "train[:5]"}, {"source": "clips", "split": "train[:5]"}]
    one = recipe(tiny_split, data)
    opened = stream(one)
    done = prepare(one, tmp_path / "out")
    for number, source in enumerate(done.sources):
        rows = [opened.example(index) for index in range(40) if opened.mixture(index)[0] == number][:5]
        assert source.tokens == sum(example.num_tokens for example in rows)
        assert source.tiles == sum(len(image.starts) for example in rows for image in example.images)


def test_the_recipe_says_the_rest_as_it_was(tiny, tmp_path):
    data = [{"source": "scene_pairs", "split": "train[:6]", "weight": 2.0, "max_chars": 500, "prompt": "Look."}]
    held = {"data": [{"source": "scene_pairs", "split": "test[:3]"}], "samples": 2}
    dpo = {"kind": "dpo", "beta": 0.3, "reference": {"kind": "copy"}}
    one = recipe(
        tiny,
        data,
        eval=held,
        objective=dpo,
        optim={"lr": {"decoder": 1e-4, "connector": 1e-3}},
        freeze={"vision": True, "connector": 5},
    )
    done = prepare(one, tmp_path / "out")
    again = load_recipe(done.recipe)
    (section,), (held_out,) = again.data, again.eval.data
    assert (section.source, section.split) == (str(tmp_path / "out" / "data-0-scene_pairs"), "train")
    assert (section.weight, section.max_chars, section.prompt) == (2.0, 500, "Look.")
    assert held_out.source == str(tmp_path / "out" / "eval-0-scene_pairs")
    assert again.model_copy(update={"data": one.data, "eval": one.eval, "run": one.run}) == one
    assert again.run.model_copy(update={"dir": one.run.dir}) == one.run
    assert again.eval.model_copy(update={"data": one.eval.data}) == one.eval


def test_training_from_it_ends_in_the_same_weights(tiny, tmp_path):
    one = recipe(tiny, [{"source": "scenes", "split": "train[:9]"}], eval={"samples": 0})
    again = load_recipe(prepare(one, tmp_path / "out").recipe)
    weights = []
    for number, each in enumerate((one, again)):
        run = each.run.model_copy(update={"dir": tmp_path / f"run{number}"})
        folder = train(each.model_copy(update={"run": run}))
        weights.append((folder / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_pictures_are_the_bytes_of_their_files(tiny, tmp_path, photos):
    done = prepare(recipe(tiny, [{"source": str(photos), "split": "train[:2]"}]), tmp_path / "out")
    rows = open_source(load_recipe(done.recipe).data[0])
    assert [rows.table[n]["images"] for n in range(2)] == [[(photos / f"{n}.jpg").read_bytes()] for n in range(2)]


def test_videos_are_linked(tiny, tmp_path):
    """LLaVA-Video's rows name files, FineVideo's hold bytes."""
    split = split_of("llava_video_178k")
    one = recipe(
        tiny, [{"source": "llava_video_178k", "fixture": True, "split": split}, {"source": "finevideo", "fixture": True}]
    )
    done = prepare(one, tmp_path / "out")
    files, held = (open_source(section) for section in load_recipe(done.recipe).data)
    original = open_source(one.data[0]).record(0).videos[0].ref
    kept = files.record(0).videos[0].ref
    assert kept.is_relative_to(tmp_path / "out")
    assert kept.samefile(original)
    assert held.record(0).videos[0].ref.read_bytes() == open_source(one.data[1]).record(0).videos[0].ref


# --- what is left out --------------------------------------------------------------------------------------------


def test_rows_that_cannot_be_used_are_listed(tiny, tmp_path, photos):
    done = prepare(recipe(tiny, [{"source": str(photos), "split": "train[1:]"}]), tmp_path / "out")
    assert left_out(done) == [
        (2, "no such picture"), (4, "damaged picture"), (6, "empty answer"), (8, "not valid JSON"),
    ]  # fmt: skip
    entry = json.loads(done.left_out.read_text().splitlines()[1])
    assert entry["source"] == str(photos)
    assert "4.jpg" in entry["where"]
    (source,) = done.sources
    assert (source.rows, sum(source.left_out.values())) == (5, 4)
    opened = open_source(load_recipe(done.recipe).data[0])
    assert [opened.table[n]["row"] for n in range(5)] == [1, 3, 5, 7, 9]
    assert {opened.record(n).responses[0].text for n in range(5)} == {f"photo {n}" for n in (1, 3, 5, 7, 9)}


def test_lists_of_rows_to_leave_out_are_applied(tiny, tmp_path):
    listed = tmp_path / "list.jsonl"
    entry = {"source": "scenes", "name": None, "split": "train", "row": 1, "reason": "near-duplicate", "of": "scenes[0]"}
    listed.write_text(json.dumps(entry) + "\n")
    one = recipe(tiny, [{"source": "scenes", "split": "train[:4]", "exclude": [str(listed)]}])
    done = prepare(one, tmp_path / "out")
    again = load_recipe(done.recipe)
    assert again.data[0].exclude == ()
    opened = open_source(again.data[0])
    assert [opened.table[n]["row"] for n in range(3)] == [0, 2, 3]
    assert keys(again, 9) == keys(one, 9)


def test_what_lists_left_out_is_still_told(tiny, tmp_path):
    """As of the sources themselves: at the beginning of a run, in check, and of held-out rows; of `--rows` up to its last row."""
    listed = tmp_path / "list.jsonl"
    lines = [{"source": "scenes", "name": None, "split": "train", "row": row, "reason": "any", "of": "x"} for row in (1, 3, 6)]
    listed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    section = {"source": "scenes", "split": "train[:8]", "exclude": [str(listed)]}
    held = {"data": [{"source": "scenes", "split": "train[2:6]", "exclude": [str(listed)]}]}
    one = recipe(tiny, [section, {"source": "scene_pairs", "split": "train[:4]"}], eval=held)
    again = load_recipe(prepare(one, tmp_path / "out").recipe)
    assert [open_source(entry).left_out for entry in (*again.data, *again.eval.data)] == [3, None, 1]
    found = check(again, sample=2).known
    assert [entry.left_out for entry in (*found.sources, *found.held_out)] == [3, None, 1]
    opened = stream(again)
    assert "5 rows (3 left out by exclude), " in next(about_data(again, opened, opened, steps=1, devices=1))
    few = load_recipe(prepare(one, tmp_path / "few", rows=3).recipe)
    assert [open_source(entry).size for entry in few.data] == ["3 rows (2 left out by exclude)", "3 rows"]  # 0, 2, 4

    folder = Path(again.data[0].source)
    listed.write_text(json.dumps(lines[0] | {"source": str(folder), "row": 0}) + "\n")
    more = again.data[0].model_copy(update={"exclude": (listed,)})
    assert open_source(more).size == "4 rows (4 left out by exclude)"
    further = one.model_copy(update={"data": (more,), "eval": one.eval.model_copy(update={"data": ()})})
    for rows, size in ((None, "4 rows (4 left out by exclude)"), (3, "3 rows (4 left out by exclude)")):
        last = load_recipe(prepare(further, tmp_path / f"again-{rows}", rows=rows).recipe)
        assert open_source(last.data[0]).size == size, "those that were left out before are still told"
    plain = again.model_copy(update={"data": again.data[:1], "eval": further.eval})
    last = load_recipe(prepare(plain, tmp_path / "plain", rows=2).recipe)
    assert open_source(last.data[0]).size == "2 rows (3 left out by exclude)"
    marker = folder / MARKER
    marker.write_text(json.dumps({key: told for key, told in json.loads(marker.read_text()).items() if key != "excluded"}))
    assert open_source(again.data[0]).left_out is None, "a folder of an earlier version, which does not say"


def test_nothing_left_is_an_error(tiny, tmp_path, photos):
    with pytest.raises(DataError, match=r"none of its 1 row can be used \(1 no such picture\)"):
        prepare(recipe(tiny, [{"source": str(photos), "split": "train[2:3]"}]), tmp_path / "out")


def test_streams_need_a_number_of_rows(tiny, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "shards").mkdir()
    rows = [{"prompt": f"What is {n}?", "completion": f"{n}."} for n in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "shards" / "train-0.parquet")
    one = recipe(tiny, [{"source": str(tmp_path / "shards"), "streaming": True}])
    with pytest.raises(DataError, match="a stream has no end; say how many rows with --rows"):
        prepare(one, tmp_path / "out")
    done = prepare(one, tmp_path / "out", rows=4)
    opened = open_source(load_recipe(done.recipe).data[0])
    before = open_source(one.data[0], seed=one.run.seed)
    assert [opened.record(n).responses for n in range(4)] == [before.record(n).responses for n in range(4)]


def shards(folder: Path, *counts: int) -> Path:
    """Parquet files with so many rows each, numbered through."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    numbers = iter(range(sum(counts)))
    for number, count in enumerate(counts):
        rows = [{"prompt": f"What is {n}?", "completion": f"{n}."} for _, n in zip(range(count), numbers)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"train-{number}.parquet")
    return folder


def seeded(one: Recipe, seed: int) -> Recipe:
    return one.model_copy(update={"run": one.run.model_copy(update={"seed": seed})})


def test_a_stream_prepared_with_another_seed_is_refused(tiny, tmp_path):
    """The seed decides the order of the shards: the rows of half a preparation and of its continuation would overlap."""
    one = recipe(tiny, [{"source": str(shards(tmp_path / "shards", 3, 3)), "streaming": True}])
    prepare(one, tmp_path / "out", rows=4)
    assert not prepare(one, tmp_path / "out", rows=4).sources[0].fresh
    with pytest.raises(DataError, match=r"was prepared otherwise \(seed: 3 -> 4\)"):
        prepare(seeded(one, 4), tmp_path / "out", rows=4)
    whole = recipe(tiny, [{"source": "scenes", "split": "train[:4]"}])
    prepare(whole, tmp_path / "whole")
    assert not prepare(seeded(whole, 4), tmp_path / "whole").sources[0].fresh, "a table's rows are in one order"


def test_a_stream_prepared_from_another_commit_is_refused(tiny, tmp_path, monkeypatch):
    from smolforge.data.sources import tables

    folder = shards(tmp_path / "shards", 3)
    one = recipe(tiny, [{"source": "someone/numbers", "streaming": True}])
    part = {"path": "parquet", "data_files": {"train": [str(folder / "train-0.parquet")]}, "split": "train"}
    for commit in ("aaa", "bbb"):
        monkeypatch.setattr(tables, "hub_parts", lambda *asked, commit=commit: ([part | {"revision": commit}], commit))
        if commit == "aaa":
            monkeypatch.setattr("smolforge.data.sources.stream.StreamTable._open", unpinned)
            prepare(one, tmp_path / "out", rows=2)
    with pytest.raises(DataError, match=r"was prepared otherwise \(commit: \[\"aaa\"\] -> \[\"bbb\"\]\)"):
        prepare(one, tmp_path / "out", rows=2)


def unpinned(table: Any, part: int) -> Any:
    """A local file has no commits."""
    import datasets

    asked = {name: value for name, value in table.parts[part].items() if name != "revision"}
    return datasets.load_dataset(**asked, streaming=True)


def test_a_stream_ends_where_its_rows_begin_again(tiny, tmp_path, capsys):
    one = recipe(tiny, [{"source": str(shards(tmp_path / "shards", 3)), "streaming": True}])
    done = prepare(one, tmp_path / "out", rows=7)
    assert done.sources[0].rows == 3
    opened = open_source(load_recipe(done.recipe).data[0])
    assert [opened.record(n).responses[0].text for n in range(len(opened))] == ["0.", "1.", "2."]
    assert "the stream has 3 rows" in " ".join(capsys.readouterr().err.split())
    assert prepare(one, tmp_path / "exact", rows=3).sources[0].rows == 3
    assert "the stream has" not in capsys.readouterr().err


@pytest.mark.parametrize("shard_rows", [2, 3])
def test_the_end_of_a_stream_is_found_again_after_an_interruption(tiny, tmp_path, monkeypatch, shard_rows):
    """Stopped before the folder is finished, with the last row in the middle of a piece or at its end."""
    one = recipe(tiny, [{"source": str(shards(tmp_path / "shards", 3)), "streaming": True}])
    with monkeypatch.context() as broken:
        broken.setattr("smolforge.sourcing.prepare.finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(one, tmp_path / "out", rows=70, shard_rows=shard_rows)
    done = prepare(one, tmp_path / "out", rows=70, shard_rows=shard_rows)
    assert done.sources[0].rows == 3


def test_a_stream_of_files_in_a_folder_keeps_their_pictures(tiny, tmp_path):
    """Each is looked for beside its own file."""
    data = tmp_path / "data"
    for place, colour in (("a", "red"), ("b", "blue")):
        (data / place).mkdir(parents=True)
        Image.new("RGB", (20, 10), colour).save(data / place / "1.png")
        (data / place / "rows.jsonl").write_text(json.dumps({"image": "1.png", "caption": place}) + "\n")
    done = prepare(recipe(tiny, [{"source": str(data), "streaming": True}]), tmp_path / "out", rows=2)
    opened = open_source(load_recipe(done.recipe).data[0])
    seen = {record.responses[0].text: record.media[0].ref for record in map(opened.record, range(len(opened)))}
    assert seen == {place: (data / place / "1.png").read_bytes() for place in ("a", "b")}


def interrupted(*anything: Any, **more: Any) -> None:
    raise KeyboardInterrupt


def test_a_list_below_the_home_folder(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "list.jsonl").write_text(json.dumps({"source": "scenes", "name": None, "split": "train", "row": 1}) + "\n")
    one = recipe(tiny, [{"source": "scenes", "split": "train[:4]", "exclude": ["~/list.jsonl"]}])
    assert prepare(one, tmp_path / "out").sources[0].rows == 3


# --- interrupted, again, otherwise -------------------------------------------------------------------------------


CHILD = """
import os, signal, sys
from pathlib import Path
from smolforge.recipe import load_recipe
def die(event, arguments):  # before the note of the third shard is written
    if event == "open" and "/.shards/00002.json" in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
from smolforge.sourcing.prepare import prepare
prepare(load_recipe(sys.argv[1]), Path(sys.argv[2]), shard_rows=8)
"""


def test_killed_it_goes_on_from_the_last_whole_shard(tiny, tmp_path):
    one = recipe(tiny, [{"source": "scenes", "split": "train[:240]"}])
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(one.model_dump(mode="json", exclude_unset=True)))
    out = tmp_path / "out"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(file), str(out)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert child.wait(600) == -signal.SIGKILL
    assert not (out / "recipe.yaml").exists()
    assert not (out / "data-0-scenes" / "smolforge.json").exists()
    shards = {path: path.stat().st_mtime_ns for path in out.glob("data-0-scenes/data-*.arrow")}
    finished = len(list(out.glob("data-0-scenes/.shards/0*.json")))
    assert finished == 2
    done = prepare(load_recipe(file), out, shard_rows=8)
    assert done.sources[0].rows == 240
    kept = [path for path, changed in shards.items() if path.stat().st_mtime_ns == changed]
    assert len(kept) >= finished
    assert keys(load_recipe(done.recipe), 20) == keys(one, 20)


def test_a_second_run_writes_nothing(tiny, tmp_path):
    one = recipe(tiny, [{"source": "scenes", "split": "train[:4]"}])
    first = prepare(one, tmp_path / "out")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if "data-0" in str(path)}
    second = prepare(one, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert (first.sources[0].fresh, second.sources[0].fresh) == (True, False)
    assert second.sources[0].rows == 4


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"data": [{"source": "scenes", "split": "train[:5]"}]},
            r"section\.split: \"train\[:4\]\" -> \"train\[:5\]\", .*available: 4 -> 5",
        ),
        ({"batch": {"examples": 4, "row_tokens": 64}}, "row_tokens: 2048 -> 64"),
        ({"objective": {"kind": "dpo", "beta": 0.1}}, "objective"),
    ],
)
def test_another_recipe_is_refused(tiny, tmp_path, changed, words):
    prepare(recipe(tiny, [{"source": "scenes", "split": "train[:4]"}]), tmp_path / "out")
    other = recipe(tiny, [{"source": "scenes", "split": "train[:4]"}]).model_dump(mode="json", exclude_unset=True)
    with pytest.raises(DataError, match=f"was prepared otherwise .*{words}"):
        prepare(parse_recipe(other | changed), tmp_path / "out")


@pytest.mark.parametrize("layout", ["captions", "parquet", "annotations"])
def test_a_folder_whose_rows_were_written_anew_is_refused(tiny, tmp_path, layout):
    """As many rows as before, of the same number of bytes."""
    data = tmp_path / "data"
    data.mkdir()
    section = {"source": "llava_instruct_150k", "dir": str(data)} if layout == "annotations" else {"source": str(data)}

    def write(word: str) -> None:
        from datasets import Dataset

        if layout == "parquet":
            Dataset.from_list([{"prompt": "What?", "completion": word}]).to_parquet(data / "train.parquet")
        elif layout == "captions":
            (data / "captions.jsonl").write_text(json.dumps({"prompt": "What?", "completion": word}) + "\n")
        else:
            turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": word}]
            (data / "llava_instruct_150k.json").write_text(json.dumps([{"id": "1", "conversations": turns}]))

    write("red")
    one = recipe(tiny, [section])
    assert prepare(one, tmp_path / "out").sources[0].fresh
    assert not prepare(one, tmp_path / "out").sources[0].fresh
    write("tan")
    with pytest.raises(DataError, match=r"was prepared otherwise .*files: "):
        prepare(one, tmp_path / "out")


def test_a_list_more_is_told_by_its_name(tiny, tmp_path):
    (tmp_path / "dup.jsonl").write_text("")
    data = [{"source": "scenes", "split": "train[:4]"}]
    prepare(recipe(tiny, data), tmp_path / "out")
    with pytest.raises(DataError, match=r'was prepared otherwise \(section\.exclude: {} -> {".*'):
        prepare(recipe(tiny, [data[0] | {"exclude": [str(tmp_path / "dup.jsonl")]}]), tmp_path / "out")


def test_a_list_for_another_source_is_refused(tiny, tmp_path):
    listed = tmp_path / "list.jsonl"
    listed.write_text(json.dumps({"source": "clips", "name": None, "split": "train", "row": 1}) + "\n")
    with pytest.raises(DataError, match="names no row of scenes, only of clips"):
        prepare(recipe(tiny, [{"source": "scenes", "split": "train[:4]", "exclude": [str(listed)]}]), tmp_path / "out")


def test_what_is_not_ours_is_left_alone(tiny, tmp_path):
    folder = tmp_path / "out" / "data-0-scenes"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    (tmp_path / "out" / ".lock").touch()  # of a preparation
    with pytest.raises(DataError, match="data-0-scenes: holds something else; choose another folder"):
        prepare(recipe(tiny, [{"source": "scenes", "split": "train[:4]"}]), tmp_path / "out")


def test_two_at_once_are_refused(tiny, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="out: another preparation works in it"):
            prepare(recipe(tiny, [{"source": "scenes", "split": "train[:4]"}]), out)


def test_the_disk_must_hold_it(tiny, tmp_path):
    """Known after the first shard; what was written stays, and with space it goes on."""
    one = recipe(tiny, [{"source": "scenes", "split": "train[:24]"}])
    answers = iter([10**12, 0])
    with pytest.raises(DataError, match=r"the disk has 0 B free; 16 more rows take about \d+\.\d kB, and 500\.0 MB stay free"):
        prepare(one, tmp_path / "out", shard_rows=8, free=lambda folder: next(answers))
    assert len(list((tmp_path / "out").rglob("data-*.arrow"))) == 1
    assert prepare(one, tmp_path / "out", shard_rows=8).sources[0].rows == 24


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_is_one_line(tmp_path, code):
    with pytest.raises(DataError, match=f"{tmp_path}: the disk is full; free some space"), full_disk(tmp_path, "free some space"):
        raise OSError(code, "no space")
    with pytest.raises(PermissionError), full_disk(tmp_path, "free some space"):
        raise PermissionError(errno.EACCES, "not yours")


def test_the_folder_is_one_that_datasets_reads(tiny, tmp_path):
    import datasets

    done = prepare(recipe(tiny, [{"source": "scenes", "split": "train[:4]"}]), tmp_path / "out")
    rows = datasets.load_from_disk(str(done.sources[0].folder))
    assert (len(rows), set(rows.column_names)) == (4, {"record", "images", "videos", "tokens", "tiles", "row"})


def test_the_prepared_recipe_has_a_run_folder_of_its_own(tiny, tmp_path):
    tree = {
        "model": {"name": str(tiny)},
        "data": [{"source": "scenes", "split": "train[:2]"}],
        "run": {"dir": "runs/r", "steps": 1},
    }
    done = prepare(parse_recipe(tree), tmp_path / "out")
    assert str(load_recipe(done.recipe).run.dir) == "runs/r-prepared"
    assert not any(one.fresh for one in prepare(parse_recipe(tree), tmp_path / "out").sources)  # and goes on there


def test_a_run_s_folder_is_no_place_for_prepared_rows(tiny, tmp_path):
    (tmp_path / "run").mkdir()
    for name in (".lock", "recipe.json"):
        (tmp_path / "run" / name).write_text("{}")
    tree = {"model": {"name": "no/such/model"}, "data": [{"source": "scenes"}], "run": {"dir": "r", "steps": 1}}
    with pytest.raises(CheckpointError, match=r"run: holds other files \(recipe.json\); choose an empty folder"):
        prepare(parse_recipe(tree), tmp_path / "run")


def test_a_folder_of_somebody_s_is_left_alone(tiny, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "recipe.yaml").write_text("# my own\n")
    tree = {"model": {"name": str(tiny)}, "data": [{"source": "scenes", "split": "train[:2]"}], "run": {"dir": "r", "steps": 1}}
    with pytest.raises(CheckpointError, match=r"own: holds other files \(recipe.yaml\); choose an empty folder"):
        prepare(parse_recipe(tree), tmp_path / "own")
    assert (tmp_path / "own" / "recipe.yaml").read_text() == "# my own\n"
