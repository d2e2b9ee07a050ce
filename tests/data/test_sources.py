"""Every row shape the ecosystem uses, from every kind of file, as records."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from smolforge.data.sources import cauldron, files, json_lists, shapes
from smolforge.data.sources.tables import SOURCES, open_source, row_files, split_slice
from smolforge.errors import DataError
from smolforge.recipe import DataSection
from smolforge.records import Media, Message, Record, Response, Video

TURNS = [
    {"role": "user", "content": "one?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "two?"},
    {"role": "assistant", "content": "2"},
]
IMAGE, TEXT = {"type": "image"}, {"type": "text", "text": "what?"}


def read(row: dict, **options) -> Record:
    return shapes.record(row, id="7", source="s", **options)


def user(*content) -> Message:
    return Message(role="user", content=content)


def kinds(record: Record) -> list[tuple[str, str]]:
    return [(response.kind, response.text) for response in record.responses]


def test_messages_train_every_assistant_turn():
    record = read({"messages": TURNS})
    assert [message.train for message in record.messages] == [False, True, False]
    assert kinds(record) == [("target", "2")]


def test_prompt_and_completion():
    expected = ((user("one?"),), (Response(text="1"),))
    for row in (
        {"prompt": "one?", "completion": "1"},
        {"prompt": TURNS[:1], "completion": TURNS[1:2]},
    ):
        record = read(row)
        assert (record.messages, record.responses) == expected


def test_pairs_with_and_without_a_prompt():
    rows = (
        {"prompt": TURNS[:1], "chosen": TURNS[1:2], "rejected": [{"role": "assistant", "content": "x"}]},
        {"messages": TURNS[:1], "chosen": "1", "rejected": "x"},
        {"chosen": TURNS[:2], "rejected": [TURNS[0], {"role": "assistant", "content": "x"}]},
    )
    for row in rows:
        record = read(row)
        assert record.messages == (user("one?"),)
        assert kinds(record) == [("chosen", "1"), ("rejected", "x")]


def test_captions_share_their_picture():
    record = read({"image": "a.jpg", "captions": ["one", " two "]}, base=Path("/d"))
    assert record.messages == (user(Media(ref=Path("/d/a.jpg")), shapes.CAPTION_PROMPT),)
    assert kinds(record) == [("target", "one"), ("target", "two")]
    assert read({"file_name": "a.jpg", "caption": "one"}, prompt="say").messages[0].content[1] == "say"


def test_question_and_answer():
    record = read({"id": 3, "image": "https://x/a.jpg", "question": "how many?", "answer": 2})
    assert record.id == "3"
    assert record.messages == (user(Media(ref="https://x/a.jpg"), "how many?"),)
    assert kinds(record) == [("target", "2")]


def test_pictures_in_parts_and_in_a_column():
    parts = [
        {"role": "user", "content": [TEXT, IMAGE]},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
    ]
    placed = read({"messages": parts, "images": ["a.jpg"]})
    assert placed.messages[0].content == ("what?", Media(ref=Path("a.jpg")))
    own = read({"messages": [{"role": "user", "content": [{"type": "image", "path": "b.jpg"}, TEXT]}, parts[1]]})
    assert own.messages[0].content == (Media(ref=Path("b.jpg")), "what?")
    address = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    assert read({"messages": [{"role": "user", "content": [address]}, parts[1]]}).media[0].ref == "data:image/png;base64,AA"
    front = read({"messages": TURNS, "images": ["a.jpg", "b.jpg"]})
    assert [type(part) for part in front.messages[0].content] == [Media, Media, str]


def test_llava_conversations():
    turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a cat"}]
    record = read({"conversations": turns, "image": "a.jpg"})
    assert record.messages == (user(Media(ref=Path("a.jpg")), "what?"),)


@pytest.mark.parametrize(
    ("row", "videos"),
    [
        ({"video": "a.mp4"}, [Video(ref=Path("/d/a.mp4"))]),
        ({"video_path": "/e/a.mp4"}, [Video(ref=Path("/e/a.mp4"))]),
        ({"video": {"bytes": b"mp4", "path": None}}, [Video(ref=b"mp4")]),
        ({"videos": ["a.mp4", "frames"]}, [Video(ref=Path("/d/a.mp4")), Video(ref=Path("/d/frames"))]),
        ({"video": "a.mp4", "video_start": 1, "video_end": 2.5}, [Video(ref=Path("/d/a.mp4"), start=1.0, end=2.5)]),
        ({"video": "a.mp4", "end": 4.0, "start": None}, [Video(ref=Path("/d/a.mp4"), end=4.0)]),
    ],
)
def test_videos_in_a_column(row, videos):
    for words in ({"question": "what?", "answer": "a cat"}, {"prompt": "what?", "completion": "a cat"}):
        assert read(row | words, base=Path("/d")).messages == (user(*videos, "what?"),)
    assert read(row | {"caption": "a cat"}, base=Path("/d")).messages == (user(*videos, shapes.VIDEO_PROMPT),)


def test_videos_in_parts_and_at_placeholders():
    film, later = Video(ref=Path("a.mp4")), Video(ref=Path("b.mp4"), start=2.0, end=3.0)
    part = {"type": "video", "video": "b.mp4", "video_start": 2, "video_end": 3}
    rows = [
        ({"messages": [{"role": "user", "content": [part, TEXT]}, TURNS[1]]}, (later, "what?")),
        ({"messages": [{"role": "user", "content": [TEXT, {"type": "video"}]}, TURNS[1]], "video": "a.mp4"}, ("what?", film)),
        ({"prompt": "<video>\nwhat?", "completion": "1", "video": "a.mp4"}, (film, "what?")),
        ({"prompt": "<image>\nwhat?", "completion": "1", "video": "a.mp4"}, (film, "what?")),  # LLaVA's
    ]
    for row, content in rows:
        assert read(row).messages[0].content == content
    both = {
        "prompt": "First <video> then <image> and <video>?",
        "completion": "1",
        "videos": ["a.mp4", "c.mp4"],
        "image": "p.jpg",
    }
    kinds = [part if isinstance(part, str) else part.ref.name for part in read(both).messages[0].content]
    assert kinds == ["First ", "a.mp4", " then ", "p.jpg", " and ", "c.mp4", "?"]
    front = read({"prompt": "what?", "completion": "1", "video": "a.mp4", "image": "p.jpg"})
    assert front.messages[0].content == (Media(ref=Path("p.jpg")), film, "what?")


def test_trl_pairs_with_pictures():
    """rlaif-v's formatted layout: undecoded picture, content parts, text None in the image part."""
    row = {
        "images": [{"bytes": b"jpg", "path": None}],
        "prompt": [{"role": "user", "content": [{"type": "image", "text": None}, TEXT]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "c"}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "r"}]}],
    }
    record = read(row)
    assert record.messages == (user(Media(ref=b"jpg"), "what?"),)
    assert kinds(record) == [("chosen", "c"), ("rejected", "r")]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "x"}, "columns that fit no known shape; it has text; bring"),
        ({}, "columns that fit no known shape; it has none; bring"),
        ({"messages": TURNS[:3]}, "does not end with the assistant"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "a turn with an unknown role; mend 'robot': roles are"),
        ({"messages": [{"role": "user", "content": [IMAGE, TEXT]}, TURNS[1]]}, "1 image placeholders for 0 pictures: make"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}, TURNS[1]]}, "of an unknown type; mend 'audio': parts"),
        ({"chosen": "a", "rejected": "b"}, "chosen and rejected without a prompt"),
        ({"chosen": TURNS[:2], "rejected": TURNS[2:]}, "answer different prompts"),
        ({"image": "a.jpg", "captions": []}, "no answer"),
        ({"image": 5, "caption": "x"}, "a picture given as int"),
        ({"image": [["a.jpg"]], "caption": "x"}, "a picture given as list"),
        ({"video": 5, "caption": "x"}, "a video given as int"),
        ({"video": "https://x/a.mp4", "caption": "x"}, "a video given as an address"),
        ({"video": "a.mp4", "caption": "x", "start": "0:05"}, "that is no time; mend '0:05': give start and end as seconds"),
        ({"video": "a.mp4", "caption": "x", "video_start": -1}, "that is no time; mend -1: give video_start"),
        ({"video": "a.mp4", "caption": "x", "start": 3, "end": 3}, "a video that ends before it begins"),
        ({"video": "a.mp4", "prompt": "<video><video>?", "completion": "x"}, "2 video placeholders for 1 videos"),
        ({"prompt": "<video>?", "completion": "x"}, "1 video placeholders for 0 videos"),
        ({"image": "a.jpg", "prompt": "<video>?", "completion": "x"}, "0 image placeholders for 1 pictures"),
        ({"messages": [*TURNS[:3], {"role": "assistant", "content": "<video>"}]}, "a video in an assistant's turn"),
    ],
)
def test_malformed_rows_are_named(row, words):
    with pytest.raises(DataError, match=words):
        read(row)


def test_cauldron_row():
    row = {"images": [{"bytes": b"x"}], "texts": [{"user": "a?", "assistant": "b"}, {"user": "c?", "assistant": "d"}]}
    record = cauldron.record(row, id="0", source="the_cauldron", prompt=None)
    assert record.messages[0] == user(Media(ref=b"x"), "a?")
    assert record.messages[1].train
    assert kinds(record) == [("target", "d")]


# --- tables --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (20, 10), colour).save(tmp_path / name)
    return tmp_path


def rows_of(source: str | Path, **options) -> list[Record]:
    opened = open_source(DataSection(source=str(source), **options))
    return [opened.record(number) for number in range(len(opened))]


def test_folder_of_pictures_with_captions_jsonl(folder):
    lines = [{"image": "a.png", "captions": ["red", "all red"]}, {"image": "b.png", "captions": ["blue"]}]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    records = rows_of(folder)
    assert [len(record.responses) for record in records] == [2, 1]
    assert records[0].media[0].ref == folder / "a.png"


def test_folder_of_pictures_with_metadata_csv(folder):
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "text"], ["a.png", "red, all of it"], ["b.png", "blue"]])
    assert [record.responses[0].text for record in rows_of(folder)] == ["red, all of it", "blue"]


def test_a_comma_without_quotes_does_not_cut_a_caption(folder):
    lines = ("file_name,text", 'a.png,"red,\nall of it"', "b.png,A dog, brown, and wet", "b.png,blue")
    (folder / "metadata.csv").write_text("\n".join(lines))
    source = open_source(DataSection(source=str(folder)))
    assert len(source) == 3
    assert [source.record(number).responses[0].text for number in (0, 2)] == ["red,\nall of it", "blue"]
    with pytest.raises(DataError, match=r"metadata\.csv, line 4: 4 fields for 2 columns; put a text with commas in quotes"):
        source.record(1)


def lay_out(folder: Path, **files: list[dict] | dict | str) -> None:
    """Files below a folder: "data__train_jsonl" is data/train.jsonl."""
    for name, content in files.items():
        file = folder / ".".join(name.replace("__", "/").rsplit("_", 1))
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list) and file.suffix == ".jsonl":
            content = "".join(json.dumps(row) + "\n" for row in content)
        elif isinstance(content, list) and file.suffix == ".csv":
            content = "\n".join([",".join(content[0]), *(",".join(row.values()) for row in content)])
        file.write_text(content if isinstance(content, str) else json.dumps(content))


def asked(*numbers: int) -> list[dict]:
    return [{"prompt": str(number), "completion": f"is {number}"} for number in numbers]


def told(folder: Path, **options) -> list[str]:
    """Answers that a folder's rows teach, as a repository of the Hub's and as a folder of one's own."""
    records = rows_of("someone/things", dir=folder, **options)
    assert [one.responses for one in rows_of(folder, **options)] == [one.responses for one in records]
    return [record.responses[0].text.removeprefix("is ") for record in records]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
@pytest.mark.parametrize(
    "places",
    [
        ("data__train", "data__test"), ("train", "test"), ("train__a", "test__a"), ("data__my-train-set", "data__my-test-set"),
        ("data__train-00000-of-00001", "data__test-00000-of-00001"), ("annotations__a", "annotations__eval"),
    ],
)  # fmt: skip
def test_rows_in_subfolders_are_found_as_datasets_finds_them(tmp_path, monkeypatch, kind, places):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "things"
    lay_out(folder, **{f"{place}_{kind}": asked(*numbers) for place, numbers in zip(places, ((1, 2, 3), (4, 5)))})
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Things\n")
    (folder / ".smolforge").mkdir()
    lay_out(folder / ".smolforge", download_json={"commit": "1"}, files_jsonl=[{"path": "a"}])
    (folder / "images.zip.unpacked").write_text('{"hash": "1"}')
    assert (told(folder), told(folder, split="test"), told(folder, split="test+train")) == (
        ["1", "2", "3"], ["4", "5"], ["4", "5", "1", "2", "3"],
    )  # fmt: skip
    if places[0] != "annotations__a":  # whose training rows have no word for it, and are none to `datasets`
        for split in ("train", "test"):
            theirs = datasets.load_dataset(str(folder), split=split)["completion"]
            assert [text.removeprefix("is ") for text in theirs] == told(folder, split=split)
    with pytest.raises(DataError, match="no split validation; it has test, train"):
        told(folder, split="validation")


def test_what_is_no_rows_is_not_taken_for_them(tmp_path):
    row = asked(9)
    lay_out(
        tmp_path, rows__b_jsonl=asked(3), rows__a_jsonl=asked(1, 2), dataset_infos_json=row, rows__config_json=row,
        stats_json={"rows": 3}, names_json=["a", "b"], _hidden__x_json="{", none_jsonl="", rows__dataset_info_json=row,
    )  # fmt: skip
    (tmp_path / "_hidden").rename(tmp_path / ".hidden")
    assert told(tmp_path) == ["1", "2", "3"]
    (tmp_path / "rows" / "b.jsonl").write_text("{\n")
    source = open_source(DataSection(source="someone/things", dir=tmp_path))
    assert len(source) == 3
    with pytest.raises(DataError, match=r"b\.jsonl, row 0: not valid JSON"):
        source.record(2)
    lay_out(tmp_path / "rows", b_jsonl=asked(3))
    lay_out(tmp_path, rows__c_json="[{")
    with pytest.raises(DataError, match=r"rows/a\.jsonl and 1 more \(completion, prompt\); rows/c\.json \(no readable row\)"):
        told(tmp_path)
    for file in tmp_path.rglob("*.jsonl"):
        file.unlink()
    with pytest.raises(DataError, match=r"c\.json: not valid JSON"):
        told(tmp_path)
    (tmp_path / "rows" / "c.json").unlink()
    with pytest.raises(DataError, match=r"no rows in names\.json, stats\.json; a \.json file of rows is a list"):
        told(tmp_path)


def test_several_tables_are_not_guessed_from(tmp_path):
    captions = [{"prompt": "p", "caption": "c"}]
    lay_out(
        tmp_path, vqa__train_1_jsonl=asked(1), vqa__train_2_jsonl=[asked(2)[0] | {"note": "n"}], captions__train_jsonl=captions
    )
    with pytest.raises(DataError) as error:
        told(tmp_path)
    assert error.value.what == (
        "2 tables that do not fit together: captions/train.jsonl (caption, prompt); "
        "vqa/train_1.jsonl and 1 more (completion, note, prompt)"
    )
    assert error.value.mend == "give a folder or file of one as name, such as name: captions"
    assert told(tmp_path, name="vqa") == ["1", "2"]
    assert told(tmp_path, name=("train_2", "train_1")) == ["2", "1"]
    with pytest.raises(DataError, match=r"no configuration dogs; it has captions/train\.jsonl, vqa/train_1\.jsonl"):
        told(tmp_path, name="dogs")
    lay_out(tmp_path, vqa__train_csv=asked(1))
    with pytest.raises(DataError, match=r"2 tables .*vqa/train\.csv .*; vqa/train_1\.jsonl and 1 more"):
        told(tmp_path, name="vqa")
    assert told(tmp_path, name="train.csv") == ["1"]


def test_the_card_s_configurations_count(tmp_path):
    lay_out(tmp_path, a__x_jsonl=asked(1), a__y_jsonl=asked(2), b__x_jsonl=asked(3))
    configs = (("one", "train", "a/x.jsonl"), ("one", "held", "a/y.jsonl"), ("two", "train", "b/*"))
    card = "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {path}\n" for one, split, path in configs if one == name)
        for name in ("one", "two")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{card}---\n")
    assert [told(tmp_path, name="one"), told(tmp_path, name="one", split="held"), told(tmp_path, name="two")] == [
        ["1"],
        ["2"],
        ["3"],
    ]
    with pytest.raises(DataError, match="no split held; it has train"):
        told(tmp_path, name="two", split="held")
    with pytest.raises(DataError, match=r"Config name is missing\. Please pick one among .*one.*two") as error:
        told(tmp_path)
    assert "\n" not in str(error.value)


def carded(folder: Path, configs: str) -> Path:
    """A folder whose card says where its rows are."""
    lay_out(folder, a__x_jsonl=asked(1), a__y_jsonl=asked(2))
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}\n---\n")
    return folder


@pytest.mark.parametrize("place", ["b", "./b", "linked", "csv"])
def test_a_card_counts_wherever_its_folder_is_named_from(tmp_path, monkeypatch, place):
    """By a relative path, through a link, and where the folder is called as one of `datasets`' own builders."""
    carded(tmp_path / "b", "- config_name: one\n  data_files: a/x.jsonl")
    (tmp_path / "linked").symlink_to("b")
    if place == "csv":
        (tmp_path / "b").rename(tmp_path / place)
    monkeypatch.chdir(tmp_path)
    assert told(Path(place)) == ["1"]
    section = DataSection(source="someone/things", dir=place)
    assert row_files(section) == [Path(place) / "a" / "x.jsonl"]
    assert open_source(section).pieces[0].file == "a/x.jsonl"


STRAYS = (
    "  data_files: https://example.org/x.jsonl", "  data_files: zip://x.jsonl::https://example.org/x.zip",
    "  data_files: ../secret.jsonl", "  data_files: [a/x.jsonl, a/../../secret.jsonl]", "  data_files: '../*'", "  data_dir: ..",
    "  data_files:\n  - {split: train, path: [{tmp}/secret.jsonl]}", "  data_files: data:text/plain;x",
    "  data_files: a/x.jsonl\n- config_name: two\n  data_files: ../secret.jsonl",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "stream", "settings"])
@pytest.mark.parametrize("stray", STRAYS)
def test_a_card_names_files_of_its_own_folder_only(tmp_path, monkeypatch, kind, stray):
    """Whatever else would be fetched, or copied by `prepare` into a folder to be shared."""
    import datasets

    lay_out(tmp_path, secret_jsonl=asked(9))
    card = "- config_name: one\n" + stray.replace("{tmp}", str(tmp_path))
    folder = carded(tmp_path / "b", card)
    if kind != "jsonl":
        datasets.Dataset.from_list(asked(1)).to_parquet(folder / "a" / "z.parquet")
    if kind == "settings":  # which count for `datasets` as the card's do
        (folder / "README.md").rename(folder / ".huggingface.yaml")
        (folder / ".huggingface.yaml").write_text(f"configs:\n{card}\n")
    for name in ("load_dataset", "load_dataset_builder"):
        monkeypatch.setattr(datasets, name, lambda *args, **more: pytest.fail("was asked for it"))
    name = None if kind == "settings" else "one"
    with pytest.raises(DataError, match=r"its card names files that are not below it: '"):
        open_source(DataSection(source="someone/things", dir=folder, name=name, streaming=kind == "stream"))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_card_is_read_as_datasets_reads_it(tmp_path, kind, streaming):
    """A lone carriage return hides its head from other readers."""
    import datasets

    lay_out(tmp_path, secret_jsonl=asked(9))
    folder = carded(tmp_path / "b", "")
    if kind == "parquet":
        datasets.Dataset.from_list(asked(9)).to_parquet(tmp_path / "secret.parquet")
        datasets.Dataset.from_list(asked(1)).to_parquet(folder / "a" / "z.parquet")
    card = f"---\n\r---\rconfigs:\n- config_name: default\n  data_files: ../secret.{kind}\n---\n"
    (folder / "README.md").write_bytes(card.encode())
    with pytest.raises(DataError, match=r"its card names files that are not below it: '\.\./secret"):
        open_source(DataSection(source="someone/things", dir=folder, streaming=streaming))


def test_a_saved_dataset_names_files_of_its_own_folder_only(tmp_path):
    import datasets

    for name, prompt in (("mine", 1), ("secret", 9)):
        datasets.Dataset.from_list(asked(prompt)).save_to_disk(tmp_path / name)
    assert told(tmp_path / "mine") == ["1"]
    state = tmp_path / "mine" / "state.json"
    held = json.loads(state.read_text())
    held["_data_files"] = [{"filename": f"../secret/{one['filename']}"} for one in held["_data_files"]]
    state.write_text(json.dumps(held))
    with pytest.raises(DataError, match=r"state\.json: names files that are not below it: '\.\./secret/"):
        open_source(DataSection(source=str(tmp_path / "mine")))


@pytest.mark.parametrize("files", ["&a [*a]", "*a7", "[{split: train, path: [[x]]}]", "{train: x}"])
def test_a_swollen_card_is_refused_at_once(tmp_path, files):
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" if n else "a0: &a0 [x]" for n in range(8)]
    carded(tmp_path, f"- config_name: one\n  data_files: {files}")
    if files == "*a7":
        text = (tmp_path / "README.md").read_text()
        (tmp_path / "README.md").write_text(text.replace("configs:", "\n".join(levels) + "\nconfigs:"))
    with pytest.raises(DataError, match="not a readable card") as error:
        open_source(DataSection(source=str(tmp_path)))
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("names", [("a[1]", "a1"), ("b*", "bb"), ("a[1]",), ("[x]/c",)])
def test_streams_read_files_whose_names_are_patterns(tmp_path, names):
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(asked(number)[0]) + "\n")
    source = open_source(DataSection(source=str(tmp_path), streaming=True))
    assert sorted(source.record(row).words for row in range(len(names))) == [str(number) for number in range(len(names))]


def test_a_stream_reads_rows_that_are_called_data(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"data": asked(1, 2)}))
    (tmp_path / "b.json").write_text(json.dumps(asked(3)))
    source = open_source(DataSection(source=str(tmp_path), streaming=True))
    assert sorted(source.record(row).words for row in range(3)) == ["1", "2", "3"]


def test_a_stream_of_many_files_is_few_parts(tmp_path):
    """Each part is opened anew in every epoch."""
    for number in range(30):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(asked(number)[0]) + "\n")
    source = open_source(DataSection(source=str(tmp_path), streaming=True))
    assert len(source.table.parts) == 1
    assert {source.record(row).words for row in range(30)} == {str(number) for number in range(30)}


def test_parquet_in_a_folder_called_as_a_builder(tmp_path, monkeypatch):
    import datasets

    (tmp_path / "csv").mkdir()
    datasets.Dataset.from_list(asked(1)).to_parquet(tmp_path / "csv" / "a.parquet")
    monkeypatch.chdir(tmp_path)
    for streaming in (False, True):
        assert open_source(DataSection(source="csv", streaming=streaming)).record(0).words == "1"


@pytest.mark.parametrize(
    "configs",
    [
        "- config_name: [", "- config_name: one\n  data_files: 3", "  - 3",
        "- config_name: one\n  data_files: [{split: 1, path: a/x.jsonl}]",
    ],
)  # fmt: skip
@pytest.mark.parametrize("streaming", [False, True])
def test_a_broken_card_is_one_line(tmp_path, configs, streaming):
    folder = carded(tmp_path, configs)
    with pytest.raises(DataError, match=r"not a readable (dataset|stream|card) ") as error:
        open_source(DataSection(source=str(folder), streaming=streaming))
    assert "README.md" in str(error.value)
    assert "\n" not in str(error.value)


def test_links_in_a_carded_folder_are_followed(tmp_path):
    lay_out(tmp_path, elsewhere__x_jsonl=asked(7))
    folder = carded(tmp_path / "b", "- config_name: one\n  data_files: [linked/x.jsonl, a/x.jsonl]")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    assert told(folder) == ["7", "1"]


def test_files_of_a_source_that_is_published_as_one_split(tmp_path):
    """Whichever of its splits is asked for, the same file is read."""
    from smolforge.data.identity import identities

    rows = [{"image": "a.png", "caption": f"['{split}']", "split": split} for split in ("train", "val", "test")]
    text = "".join(",".join(row.values()) + "\n" for row in rows)
    (tmp_path / "flickr_test.csv").write_text(f"image,caption,split\n{text}")
    for split in ("train", "val"):
        section = DataSection(source="flickr30k", dir=tmp_path, split=split)
        source = open_source(section)
        assert len(source) == 1
        assert row_files(section) == [tmp_path / "flickr_test.csv"]
        assert identities([section], [source])[0]["content"]


@pytest.mark.parametrize("word", ["val", "dev", "valid"])
@pytest.mark.parametrize("place", ["", "data", "rows"])
def test_shards_are_called_by_their_own_word_and_by_their_split(tmp_path, monkeypatch, word, place):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "things"
    below = folder / place
    lay_out(below, **{"train-00000-of-00001_jsonl": asked(1), f"{word}-00000-of-00001_jsonl": asked(2)})
    theirs = datasets.load_dataset(str(folder))
    assert set(theirs) == {"train", word if place == "data" else "validation"}
    for split in {*theirs, word, "validation"}:
        assert told(folder, split=split) == ["1" if split == "train" else "2"]
    lay_out(below, **{"validation-00000-of-00001_jsonl": asked(3)})  # which is a split of its own in data/
    assert [told(folder, split=word), told(folder, split="train")] == [["2"], ["1"]]
    both = datasets.load_dataset(str(folder), split="validation")["completion"]
    assert told(folder, split="validation") == sorted(text.removeprefix("is ") for text in both)
    assert len(both) == (1 if place == "data" else 2)


def test_a_stray_arrow_file_hides_no_rows(tmp_path):
    lay_out(tmp_path, train_jsonl=asked(1))
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "data-00000-of-00001.arrow").write_bytes(b"old")
    for section in (DataSection(source=str(tmp_path)), DataSection(source="someone/things", dir=tmp_path)):
        assert len(open_source(section)) == 1
        assert row_files(section) == [tmp_path / "train.jsonl"]


@pytest.mark.parametrize(("names", "read"), [(("train",), "jsonl"), (("a", "b"), "jsonl"), (("notes__x",), "parquet")])
def test_parquet_beside_other_files_hides_no_rows(tmp_path, monkeypatch, names, read):
    """`datasets` takes the kind that most files have, of those that are called as the split."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "things"
    lay_out(folder, **{f"{name}_jsonl": asked(1) for name in names})
    parquet = [folder / "old" / f"{'train' if read == 'parquet' else 'x'}.parquet"]
    parquet[0].parent.mkdir()
    datasets.Dataset.from_list(asked(2)).to_parquet(parquet[0])
    section = DataSection(source=str(folder))
    source = open_source(section)
    assert {source.record(number).responses[0].text for number in range(len(source))} == {"is 1" if read == "jsonl" else "is 2"}
    assert row_files(section) == (parquet if read == "parquet" else sorted(folder.rglob("*.jsonl")))


@pytest.mark.parametrize(
    "layout",
    [
        {"a__train_jsonl": "a", "a__vqa__train_jsonl": "b"},
        {"a__train_1_jsonl": "a", "a__train_2_jsonl": "a", "a__vqa__train_1_jsonl": "b", "a__vqa__train_2_jsonl": "b"},
        {"a__x__train_jsonl": "a", "b__y__train_jsonl": "a", "a__y__train_jsonl": "b", "b__x__train_jsonl": "b"},
        {"vqa__train_1_jsonl": "a", "vqa__train_csv": "b", "captions__train_csv": "b"},
        {"train_jsonl": "a", "a__train_jsonl": "b", "a__test_jsonl": "b"},
    ],
    ids=lambda layout: " ".join(layout),
)  # fmt: skip
def test_the_name_that_is_proposed_helps(tmp_path, layout):
    import yaml

    columns = {"a": asked(1)[0], "b": {"prompt": "1", "caption": "is 1"}}
    lay_out(
        tmp_path, **{name: [columns[kind], columns[kind]][: 2 if name.endswith("csv") else 1] for name, kind in layout.items()}
    )
    with pytest.raises(DataError, match="tables that do not fit together") as error:
        told(tmp_path)
    proposed = yaml.safe_load(error.value.mend.partition("such as ")[2])["name"]
    name = tuple(proposed) if isinstance(proposed, list) else proposed
    assert row_files(DataSection(source=str(tmp_path), name=name))
    assert row_files(DataSection(source="someone/things", dir=tmp_path, name=name))


def test_a_path_below_the_folder_is_a_name(tmp_path):
    lay_out(
        tmp_path, a__train_jsonl=asked(1), a__vqa__train_jsonl=[{"prompt": "p", "caption": "c"}], b__vqa__train_jsonl=asked(3)
    )
    assert told(tmp_path, name="a/train.jsonl") == told(tmp_path, name="./a/train.jsonl") == ["1"]
    assert told(tmp_path, name="b/vqa") == told(tmp_path, name="b/vqa/") == ["3"]


@pytest.mark.parametrize(
    ("asked_for", "words"),
    [
        ({"name": ("vqa", "train")}, r"vqa/train\.jsonl is asked for twice, as train of vqa and as train of train"),
        ({"name": ("vqa", "vqa/train.jsonl")}, r"vqa/train\.jsonl is asked for twice"),
        ({"split": "val+validation"}, r"vqa/val\.jsonl is asked for twice, as val and as validation"),
    ],
)
def test_no_file_is_read_twice(tmp_path, asked_for, words):
    lay_out(tmp_path, vqa__train_jsonl=asked(1), vqa__val_jsonl=asked(2))
    for section in (
        DataSection(source=str(tmp_path), **asked_for),
        DataSection(source="someone/things", dir=tmp_path, **asked_for),
    ):
        for look in (open_source, row_files):
            with pytest.raises(DataError, match=words):
                look(section)


def test_no_file_of_annotations_is_read_twice(tmp_path):
    row = {"instruction": "What?", "inputs": "", "outputs": "It.", "image_base64_str": []}
    lay_out(tmp_path, data__vqa__coco__train_jsonl=[row])
    section = DataSection(source="m3it", dir=tmp_path, name=("coco", "vqa"))
    with pytest.raises(DataError, match=r"coco/train\.jsonl is asked for twice, as coco and as vqa"):
        open_source(section)


def test_a_long_file_that_is_no_list_is_not_passed_over(tmp_path, monkeypatch):
    """Whether it is settings, or rows that are broken, would take all of it in memory."""
    from smolforge.data.sources import loose

    lay_out(tmp_path, train_jsonl=asked(1), train_more_json={"rows": "x" * 100})
    assert told(tmp_path) == ["1"]
    monkeypatch.setattr(loose, "LARGE", 90)
    with pytest.raises(DataError, match=r"2 tables .*train_more\.json \(no readable row\)"):
        told(tmp_path)
    assert told(tmp_path, name="train.jsonl") == ["1"]


@pytest.mark.parametrize("stream", [False, True])
def test_pictures_of_rows_in_subfolders(tmp_path, stream):
    """Beside their own file, else below the folder; and nowhere else, of strangers' rows."""
    for place, colour in (("a/1.png", "red"), ("b/1.png", "blue"), ("images/2.png", "green")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 10), colour).save(tmp_path / place)
    rows = [{"image": image, "caption": "c"} for image in ("1.png", "images/2.png")]
    lay_out(tmp_path, a__rows_jsonl=rows, b__rows_jsonl=[*rows, {"image": "../../x.png", "caption": "c"}])
    section = DataSection(source="someone/things", dir=tmp_path, streaming=stream)
    source = open_source(section)
    # The seed of a stream may put the second file first.
    first, second = ((3, 4), (0, 1)) if source.table[2]["image"] == "../../x.png" else ((0, 1), (2, 3))
    found = [source.record(number).media[0].ref.relative_to(tmp_path).as_posix() for number in (*first, *second)]
    assert found == ["a/1.png", "images/2.png", "b/1.png", "images/2.png"]
    with pytest.raises(DataError, match="names a file outside of its folder"):
        source.record(second[1] + 1)
    assert row_files(section) == [tmp_path / "a" / "rows.jsonl", tmp_path / "b" / "rows.jsonl"]


def test_a_stream_of_a_folder_reads_the_files_that_the_table_has(tmp_path):
    captions = [{"prompt": "p", "caption": "c"}]
    lay_out(tmp_path, vqa__train_jsonl=asked(1, 2), vqa__val_jsonl=asked(3), captions__train_jsonl=captions, notes_json={"a": 1})

    def streamed(number: int, **options) -> list[str]:
        source = open_source(DataSection(source=str(tmp_path), streaming=True, **options))
        return sorted(source.record(row).responses[0].text.removeprefix("is ") for row in range(number))

    with pytest.raises(DataError, match="2 tables that do not fit together"):
        streamed(1)
    assert streamed(2, name="vqa") == ["1", "2"]
    assert streamed(3, name="vqa", split="train+validation") == ["1", "2", "3"]
    assert row_files(DataSection(source=str(tmp_path), streaming=True, name="vqa", split="val")) == [
        tmp_path / "vqa" / "val.jsonl"
    ]


def test_json_and_slices(tmp_path):
    rows = [{"prompt": str(n), "completion": str(n)} for n in range(10)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert [record.id for record in rows_of(tmp_path / "rows.json", split="train[20%:50%]")] == ["2", "3", "4"]
    assert [record.id for record in rows_of(tmp_path / "rows.json", split="train[-2:]")] == ["8", "9"]


def test_parquet_and_datasets_folders_keep_pictures_undecoded(folder):
    import datasets

    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "prompt": datasets.Value("string"),
            "completion": datasets.Value("string"),
        }
    )
    rows = {"images": [[str(folder / "a.png")]], "prompt": ["what?"], "completion": ["red"]}
    table = datasets.Dataset.from_dict(rows, features=features)
    table.to_parquet(folder / "rows.parquet")
    table.save_to_disk(folder / "saved")
    datasets.DatasetDict({"train": table}).save_to_disk(folder / "split")
    for source in ("rows.parquet", "saved", "split"):
        (record,) = rows_of(folder / source)
        assert isinstance(record.media[0].ref, bytes | Path), source
        assert kinds(record) == [("target", "red")]
    with pytest.raises(DataError, match="no split test"):
        rows_of(folder / "split", split="test")


@pytest.mark.parametrize(
    ("name", "broken", "good"),
    [("x.jsonl", '{"a', '{"prompt": "a", "completion": "b"}'), ("x.csv", "a,b,c", "prompt,completion\na,b")],
)
def test_a_broken_row_below_a_folder_is_told_by_its_file_s_path(tmp_path, name, broken, good):
    for part, more in (("a", ""), ("b", f"\n{broken}\n")):
        (tmp_path / part).mkdir()
        (tmp_path / part / name).write_text(good + more)
    source = open_source(DataSection(source=str(tmp_path)))
    assert len(source) == 3
    with pytest.raises(DataError, match=rf"^b/{name}, "):
        source.record(2)


def test_a_broken_line_is_met_when_it_is_read(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n[1]\n')
    source = open_source(DataSection(source=str(tmp_path / "rows.jsonl")))
    assert len(source) == 3
    assert source.record(0).id == "0"
    for number, words in ((1, "not valid JSON"), (2, "not a JSON object")):
        with pytest.raises(DataError, match=words):
            source.record(number)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"source": "nowhere.jsonl"}, "no such file or source"),
        ({"source": "the_cauldron"}, "give one as name"),
        ({"source": "scenes", "split": "train[5:5]"}, "no rows in train"),
        ({"source": "scenes", "split": "train[:x]"}, "not a split"),
        ({"source": "scenes", "split": "validation"}, "no split validation"),
        ({"source": __file__[:-3] + ".json", "split": "test"}, "no such file or source"),
    ],
)
def test_sources_that_cannot_be_opened(section, words):
    with pytest.raises(DataError, match=words):
        open_source(DataSection(**section))


def test_a_long_json_list_is_read_object_by_object(tmp_path, monkeypatch):
    rows = [{"prompt": f'{n} ]}}"', "completion": "\\", "more": [{"a": [n, "é\n"]}, "[{"]} for n in range(50)]
    for indent in (None, 2):
        (tmp_path / "rows.json").write_text(json.dumps(rows, indent=indent, ensure_ascii=indent is None))
        table = files.JsonList(tmp_path / "rows.json")
        assert [table[number] for number in range(len(table))] == rows
    monkeypatch.setattr(json_lists, "CHUNK", 16)  # objects longer than what is read at once, cut anywhere
    assert [files.JsonList(tmp_path / "rows.json")[number] for number in range(50)] == rows
    content = (tmp_path / "rows.json").read_bytes()
    for cut in (
        content[:-1],
        content[: len(content) // 2],
        b'{"rows": []}',
        b'{"data": {"a": 1}}',
        b'{"about": [1, "data": []}',
        b'{"data"',
        "[]".encode("utf-16"),
        b"true",
        b'[{"a": "',
        b'[{"a": 1}, 5]',
        b'[{"a" 2}]',
        b"",
    ):
        (tmp_path / "rows.json").write_bytes(cut)
        with pytest.raises(DataError, match="not a whole list of objects"):
            files.JsonList(tmp_path / "rows.json")


@pytest.mark.parametrize("chunk", [1, 16, 2**20])
def test_a_long_json_file_is_read_as_a_short_one(tmp_path, monkeypatch, chunk):
    """With a byte order mark, and with its rows as `data` among other things, whose own lists are none."""
    monkeypatch.setattr(json_lists, "CHUNK", chunk)
    rows = [{"prompt": f"é {n}", "data": [{"not": "a row"}]} for n in range(5)]
    about = {"info": {"data": [{"a": 1}]}, "dat": [{}], 'a "data": [': [], "number": 1234567, "none": None, "text": '"data": [{'}
    for content in (rows, about | {"data": rows} | {"behind": [{"b": 2}]}, {"data": rows}, {"data": []}):
        for mark in ("utf-8", "utf-8-sig"):
            (tmp_path / "rows.json").write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding=mark)
            short = list(files.table_of(tmp_path / "rows.json", "train"))
            table = files.JsonList(tmp_path / "rows.json")
            assert [table[number] for number in range(len(table))] == short


def test_places_in_a_long_list_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGE", 10)
    (tmp_path / "rows.json").write_text('[{"prompt": "a", "completion": "b"}]')
    assert rows_of(tmp_path / "rows.json")[0].words == "a"
    monkeypatch.setattr(json_lists, "object_places", lambda file, where: [])  # a second look finds them without searching
    assert rows_of(tmp_path / "rows.json")[0].words == "a"
    (tmp_path / "rows.json").write_text('[{"prompt": "another", "completion": "b"}]')
    with pytest.raises(DataError, match="no rows"):  # it is another file now
        rows_of(tmp_path / "rows.json")


def test_unknown_files_and_folders(tmp_path):
    (tmp_path / "rows.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 cut")
    (tmp_path / "bad.json").write_text('{"rows": 1}')
    for name in ("rows.txt", "empty", "bad.parquet", "bad.json"):
        with pytest.raises(DataError) as caught:
            open_source(DataSection(source=str(tmp_path / name)))
        assert "\n" not in str(caught.value)


def test_hub_is_asked_for_names():
    """The real loading code, without a network: the Hub's refusal is one line."""
    with pytest.raises(DataError, match="the Hub did not give HuggingFaceM4/the_cauldron") as caught:
        open_source(DataSection(source="the_cauldron", name="ai2d"))
    assert "\n" not in str(caught.value)


def test_a_folder_with_a_hub_name_is_that_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openbmb" / "RLHF-V-Dataset").mkdir(parents=True)
    (tmp_path / "openbmb" / "RLHF-V-Dataset" / "metadata.jsonl").write_text('{"prompt": "a", "completion": "b"}')
    assert rows_of("openbmb/RLHF-V-Dataset")[0].responses[0].text == "b"
    with pytest.raises(DataError, match="give one as name"):
        open_source(DataSection(source="HuggingFaceM4/the_cauldron"))  # known by its Hub name too


def test_named_sources_say_what_they_are():
    assert all(source.about for source in SOURCES.values())


@pytest.mark.parametrize("percent", [1, 2, 50, 99])
def test_a_slice_from_the_end_and_the_rest_are_the_whole(percent):
    """1 % of 40 rows rounds to none of them, from the end too."""
    last, rest = (split_slice(f"train[{part}]")[1](40) for part in (f"-{percent}%:", f":-{percent}%"))
    number = {1: 0, 2: 1, 50: 20, 99: 40}[percent]
    assert (last, rest) == (slice(40 - number, 40), slice(0, 40 - number))


def test_a_broken_picture_anywhere_in_a_row_costs_that_row_alone(folder):
    """Pictures inside chats, lists of lists and structures stay bytes until they are needed."""
    import datasets

    part = {"type": datasets.Value("string"), "text": datasets.Value("string"), "image": datasets.Image()}
    features = datasets.Features(
        {
            "messages": datasets.List({"role": datasets.Value("string"), "content": datasets.List(part)}),
            "more": {"large": datasets.LargeList(datasets.List(datasets.Image()))},
        }
    )
    good, broken = (folder / "a.png").read_bytes(), b"no picture"
    rows = [
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "text": None, "image": {"bytes": picture, "path": None}},
                        {"type": "text", "text": "what?", "image": None},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "red", "image": None}]},
            ],
            "more": {"large": [[{"bytes": picture, "path": None}]]},
        }
        for picture in (good, broken)
    ]
    table = datasets.Dataset.from_list(rows, features=features)
    table.to_parquet(folder / "rows.parquet")
    table.save_to_disk(folder / "saved")
    (folder / "apart").mkdir()
    table.to_parquet(folder / "apart" / "train.parquet")
    for source in ("rows.parquet", "saved", "apart"):
        assert [record.media[0].ref for record in rows_of(folder / source)] == [good, broken], source
    opened = open_source(DataSection(source=str(folder / "rows.parquet"))).table[1]
    assert opened["more"]["large"][0][0]["bytes"] == broken


def test_opening_a_table_of_pictures_writes_no_copy_of_it(folder):
    import datasets

    features = datasets.Features({"images": datasets.List(datasets.Image()), "prompt": datasets.Value("string")})
    rows = {"images": [[str(folder / "a.png")]] * 3, "prompt": ["what?"] * 3}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(folder / "saved")
    before = sorted(folder.rglob("*"))
    opened = files.undecoded(datasets.load_from_disk(str(folder / "saved")))
    assert opened[0]["images"][0]["bytes"] == (folder / "a.png").read_bytes()
    assert sorted(folder.rglob("*")) == before


def test_split_percentages_round_as_datasets_does():
    assert split_slice("train[:6%]")[1](78975) == slice(0, 4738)
    assert split_slice("test[:1%]")[1](4157) == slice(0, 42)


def test_scenes_of_the_splits_never_coincide():
    train, test = (open_source(DataSection(source="scenes", split=split)) for split in ("train[:300]", "test[:300]"))
    captions = [{source.record(n).responses[0].text for n in range(300)} for source in (train, test)]
    assert not captions[0] & captions[1]


def test_a_file_has_one_split(tmp_path):
    """Asking a file for its validation split must not hand out the training rows."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(DataError, match="no split validation: a file is one split"):
        open_source(DataSection(source=str(tmp_path / "rows.jsonl"), split="validation[:5]"))


def test_a_picture_in_two_columns_is_one(tmp_path):
    assert len(read({"image": "a.jpg", "file_name": "a.jpg", "text": "x"}).media) == 1


@pytest.mark.parametrize("key", ["image", "video"])
def test_an_empty_path_is_no_picture_and_no_video(tmp_path, key):
    """The folder of the rows is not the video, whatever pictures lie in it."""
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    row = {key: "", "prompt": "What?", "completion": "That."}
    found = shapes.record(row, id="0", source="s", base=tmp_path)
    assert (found.media, found.videos) == ((), ())
    beside = shapes.record(row | {f"{key}_path": "0.png"}, id="0", source="s", base=tmp_path)
    assert [part.ref for part in (*beside.media, *beside.videos)] == [tmp_path / "0.png"]
    with pytest.raises(DataError, match=f"1 {key} placeholders for 0"):
        shapes.record(row | {"prompt": f"<{key}> What?"}, id="0", source="s", base=tmp_path)
    for empty in ({f"{key}s": ["0.png", ""]}, {key: {"bytes": None, "path": ""}}, {key: "."}):
        with pytest.raises(DataError, match="with an empty path"):
            shapes.record(row | empty, id="0", source="s", base=tmp_path)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"question": "what?", "answer": {"text": "a dog"}}, "an answer given as dict"),
        ({"question": "what?", "answer": ["a dog", None]}, "an answer given as nothing"),
        ({"question": "what?", "answer": float("nan")}, "an answer given as nan"),
        ({"question": ["what?"], "answer": "a dog"}, "a question given as list"),
        ({"image": "a.jpg", "captions": ["a dog", None]}, "a caption given as nothing"),
        ({"image": "a.jpg", "captions": [{"text": "a dog"}]}, "a caption given as dict"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}, TURNS[1]]}, "a text part given as nothing"),
    ],
)
def test_what_is_no_text_is_not_learnt_as_python_spells_it(row, what):
    with pytest.raises(DataError, match=what):
        read(row)


def test_several_answers_to_a_question_are_branches():
    assert kinds(read({"question": "how many?", "answer": ["2", 2]})) == [("target", "2"), ("target", "2")]


def test_a_filled_column_beside_an_empty_one():
    row = {"images": [], "image": "a.jpg", "videos": [], "question": "what?", "answer": "a dog"}
    assert read(row).messages == (user(Media(ref=Path("a.jpg")), "what?"),)


def test_an_answer_may_speak_of_marks():
    turns = [{"role": "user", "content": "How do I show a film?"}, {"role": "assistant", "content": "Use <video></video>."}]
    assert read({"messages": turns}).responses == (Response(text="Use <video></video>."),)
    with pytest.raises(DataError, match="1 image placeholders for 0 pictures"):  # in a question it stands for a picture
        read({"messages": [{"role": "user", "content": "<image> What is it?"}, turns[1]]})
