"""Every source that is known by name: its rows in the published schema, as records, and on the way to the model."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from smolforge.data.processor import load_renderer
from smolforge.data.sources import captions, films, llava, m3it, shapes
from smolforge.data.sources.catalog import SOURCES, modality_of
from smolforge.data.sources.configs import of_config
from smolforge.data.sources.fixtures.drawn import ROWS, filmed
from smolforge.data.sources.source import Source
from smolforge.data.sources.tables import named, open_source
from smolforge.errors import DataError
from smolforge.recipe import DataSection
from smolforge.records import Media, Record, Video

# Columns as the data sets' cards list them.
COLUMNS = {
    "scenes": "image caption", "scene_pairs": "image caption rejected", "the_cauldron": "images texts",
    "docmatix": "images texts",
    "llava_onevision": "id image conversations data_source", "mammoth_vl": "id image conversations source",
    "m4_instruct": "sample_id image conversations metadata", "llava_instruct_150k": "id image conversations",
    "m3it": "instruction inputs image_base64_str outputs", "m3it_parquet": "instruction inputs image outputs",
    "vizwiz": "question_id image question answers category",
    "coco_captions": "image filename cocoid caption",
    "flickr8k": "image caption_0 caption_1 caption_2 caption_3 caption_4",
    "flickr30k": "image caption sentids split img_id filename",
    "textcaps": "question_id question image image_id caption_str reference_strs",
    "llava_video_178k": "id conversations data_source video", "clips": "video question answer",
    "finevideo": "mp4 json", "video_star": "id video conversations",
    "vript": "meta clip_id caption voiceover", "vista_400k": "id video conversations",
    "moviechat": "info caption global breakpoint",
    "sharegpt4video": "video_id video_path timestamp keyframe captions zip_folder", "smoltalk": "messages source",
    "rlaif_v": "images prompt chosen rejected",
    "rlaif_v_openbmb": "ds_name image question chosen rejected origin_dataset origin_split idx image_path",
    "rlhf_v": "ds_name image text origin_dataset origin_split idx image_path",
    "povid": "id image conversations rejected_conversations",
    "ultrafeedback_binarized": "chosen rejected score_chosen score_rejected",
    "ultrafeedback_cleaned": "source prompt chosen chosen-rating chosen-model rejected rejected-rating rejected-model",
}  # fmt: skip

# Where a downloaded data set has the file with its rows.
LAYOUTS = {
    "mammoth_vl": "mammoth_ov_2M.json", "m4_instruct": "m4_instruct_annotations.json",
    "llava_instruct_150k": "llava_instruct_150k.json", "m3it": "data/vqa/okvqa/train.jsonl",
    "llava_video_178k": "0_30_s_academic_v0_1/0_30_s_academic_v0_1_cap_processed.json",
    "video_star": "ft_json/kinetics700_tune_.json", "vript": "vript_captions/vript_long_videos_captions.jsonl",
    "vista_400k": "long_video_caption/long_video_caption.json", "moviechat": "jsons/{}.json",
    "sharegpt4video": "sharegpt4video_40k.jsonl", "povid": "povid_preference_data_for_vlls.json",
}  # fmt: skip

# Another configuration or split that lies beside it, with one row.
NEIGHBOURS = {
    "m3it": "data/vqa/a-okvqa/train.jsonl", "vista_400k": "spatiotemporal_niah_mcq/rows.json",
    "video_star": "ft_json/finediving_tune.json", "llava_video_178k": "30_60_s_academic_v0_1/30_60_s_academic_v0_1_cap.json",
    "vript": "vript_captions/vript_short_videos_captions.jsonl", "mammoth_vl": "mammoth_si_10M.json",
}  # fmt: skip
# What a recipe calls the configuration of `LAYOUTS`.
NAMES = {
    "m3it": "okvqa", "vista_400k": "long_video_caption", "video_star": "Kinetics700", "vript": "vript_long",
    "llava_video_178k": "0_30_s_academic_v0_1", "mammoth_vl": "mammoth_ov_2M",
}  # fmt: skip


def fixture(name: str, split: str | None = None) -> Source:
    known = SOURCES[name]
    return open_source(DataSection(source=name, fixture=True, split=split or known.splits[0]))


def records(source: Source) -> list[Record]:
    return [source.record(number) for number in range(len(source))]


def absent(record: Record) -> list[Path]:
    return [part.ref for part in (*record.media, *record.videos) if isinstance(part.ref, Path) and not part.ref.exists()]


def written(folder: Path, file: str, rows: list[dict]) -> None:
    """Rows as JSON Lines, as a list, or as an object a file."""
    contents = {file: rows} if "{}" not in file else {file.format(number): row for number, row in enumerate(rows)}
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(map(json.dumps, content)) if path.suffix == ".jsonl" else json.dumps(content))


@pytest.mark.parametrize("name", SOURCES)
def test_fixtures_become_examples(tiny, name):
    source = fixture(name)
    renderer = load_renderer(tiny)
    found = records(source)
    assert not any(map(absent, found))
    assert Counter(map(modality_of, found)).most_common(1)[0][0] == source.modality == SOURCES[name].modality
    for record in found:
        example = renderer.render(record)
        assert not example.changes, record.name  # whole, with nothing cut
        assert len(example.images) >= len(record.media) + len(record.videos)
    assert len({record.id for record in found}) == len(found)
    if name not in ("scenes", "scene_pairs"):  # whose pictures are functions
        assert records(fixture(name)) == found


@pytest.mark.parametrize("name", SOURCES)
def test_fixtures_have_the_published_columns(tmp_path, name):
    rows = SOURCES[name].fixture(tmp_path)
    assert 4 <= len(rows) <= 8
    if name == "mammoth_vl":  # `video` instead of `image` in rows with one
        rows = [{("image" if column == "video" else column): value for column, value in row.items()} for row in rows]
    assert [set(row) for row in rows] == [set(COLUMNS[name].split())] * len(rows)


@pytest.mark.parametrize("name", SOURCES)
def test_what_a_person_is_told(name):
    known = SOURCES[name]
    assert "\n" not in known.about + known.note + known.licence
    assert known.licence
    assert (known.hub is None) == (name in ("scenes", "scene_pairs", "clips"))
    assert len(set(known.configs)) == len(known.configs)
    assert not known.needs_name or known.configs
    assert f"`{name}`" in (Path(__file__).parents[2] / "docs" / "data.md").read_text()


def test_published_numbers_of_configurations():
    assert len(SOURCES["llava_video_178k"].configs) == 19
    assert len(SOURCES["the_cauldron"].configs) == 50
    assert len(SOURCES["llava_onevision"].configs) == 83


@pytest.mark.parametrize("name", LAYOUTS)
def test_downloaded_folders(tmp_path, name):
    """Rows, and what they name by path, where the publishers' own files and archives put them."""
    known, file = SOURCES[name], LAYOUTS[name]
    inner = tmp_path / "0_30_s_academic_v0_1" if name == "llava_video_178k" else tmp_path
    written(tmp_path, file, known.fixture(inner))
    section = DataSection(source=name, dir=tmp_path, split=known.splits[0], name=known.configs[0] if known.needs_name else None)
    found = records(open_source(section))
    assert len(found) == ROWS
    assert not any(map(absent, found))
    with pytest.raises(DataError, match=r"do not come with its rows.*smolforge data download") as caught:
        open_source(DataSection(source=name, split=known.splits[0], name=section.name))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no annotations"):
        open_source(DataSection(source=name, dir=tmp_path / "nothing", split=known.splits[0], name=section.name))


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_a_configuration_is_read_without_its_neighbours(tmp_path, name):
    known = SOURCES[name]
    rows = known.fixture(tmp_path)
    written(tmp_path, LAYOUTS[name], rows)
    written(tmp_path, NEIGHBOURS[name], rows[:1])

    def count(asked: str) -> int:
        return len(open_source(DataSection(source=name, dir=tmp_path, split=known.splits[0], name=asked)))

    assert count(NAMES[name]) == len(rows)
    assert count("all") == len(rows) + 1


def test_a_configuration_whose_name_another_contains(tmp_path):
    rows = SOURCES["vista_400k"].fixture(tmp_path)
    tasks = ("temporal_niah_mcq", "spatiotemporal_niah_mcq")
    written(tmp_path, "spatiotemporal_niah_mcq/rows.json", rows[:1])
    with pytest.raises(DataError, match="no annotations of train of temporal_niah_mcq"):  # the other is not this one
        open_source(DataSection(source="vista_400k", dir=tmp_path, name=tasks[0]))
    written(tmp_path, "temporal_niah_mcq/rows.json", rows[:3])
    counts = [len(open_source(DataSection(source="vista_400k", dir=tmp_path, name=task))) for task in tasks]
    assert counts == [3, 1]
    both = open_source(DataSection(source="vista_400k", dir=tmp_path, name=tasks))
    assert [piece.file for piece in both.pieces] == ["temporal_niah_mcq/rows.json", "spatiotemporal_niah_mcq/rows.json"]


def test_what_begins_with_a_longer_name_is_that_ones():
    known = SOURCES["llava_onevision"]
    assert of_config(["infographic_vqa_llava_format/0.parquet"], "infographic_vqa", known, where="x") == []
    paths = ["infographic_vqa_more/0.parquet", "my_infographic_vqa/0.parquet"]
    assert of_config(paths, "infographic_vqa", known, where="x") == paths[:1]
    assert of_config(paths[1:], "infographic_vqa", known, where="x") == []  # which may be another that is not listed
    assert of_config(paths[1:], "infographic_vqa", None, where="x") == paths[1:]
    assert of_config(paths, "infographic", known, where="x") == []  # no configuration of it
    assert of_config(paths, "infographic", None, where="x") == paths[:1]


def test_splits_of_annotations_are_told_apart():
    for name, known in SOURCES.items():
        if known.annotations and len(known.splits) > 1:
            assert set(known.splits) <= set(known.called), name


def test_tasks_and_splits_of_m3it(tmp_path):
    rows = SOURCES["m3it"].fixture(tmp_path)
    for number, file in enumerate(
        (
            "captioning/coco/train.jsonl", "captioning/coco/val.jsonl", "classification/coco-goi/train.jsonl",
            "classification/coco-text/train.jsonl", "vqa/gqa/train.jsonl", "vqa/gqa/validation.jsonl",
        )
    ):  # fmt: skip
        written(tmp_path, f"data/{file}", rows[: number + 1])
    written(tmp_path, "data/captioning/coco/train_v2.jsonl", rows)  # the same rows in other words
    written(tmp_path, "data/captioning/coco/train_2023-10-08.jsonl", rows)

    def count(split: str, name: object) -> int:
        return len(open_source(DataSection(source="m3it", dir=tmp_path, split=split, name=name)))

    assert [count(split, "coco") for split in ("train", "val", "train+val")] == [1, 2, 3]
    assert [count(split, "gqa") for split in ("train", "val")] == [5, 6]
    assert count("train", ("coco", "coco-goi")) == 1 + 3
    assert count("train", "all") == 1 + 3 + 4 + 5
    for split, name, words in (
        ("train", "coc", r"no annotations of train of coc; did you mean coco, coco-goi or coco-text\?"),
        ("test", "coco", "no annotations of test of coco; looked for .* called test"),
        ("validation", "coco", "no split validation; it has train and val and test"),
    ):
        with pytest.raises(DataError, match=words):
            count(split, name)


def test_a_file_that_is_not_there_is_named_where_it_was_looked_for_first(tmp_path):
    rows = SOURCES["llava_instruct_150k"].fixture(tmp_path)
    written(tmp_path, "llava_instruct_150k.json", rows)
    (tmp_path / "train2017" / rows[2]["image"]).unlink()
    found = records(open_source(DataSection(source="llava_instruct_150k", dir=tmp_path)))
    assert [absent(record) for record in found if absent(record)] == [[tmp_path / rows[2]["image"]]]


@pytest.mark.parametrize("path", ["../secret.png", "train2017/../../secret.png", "ABSOLUTE", "~/secret.png"])
def test_downloaded_rows_name_no_file_outside_of_their_folder(tmp_path, path):
    """What a stranger's row names would be copied into a prepared folder, and shared."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    folder = tmp_path / "data"
    (folder / "train2017").mkdir(parents=True)
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    row = {"id": "1", "image": path.replace("ABSOLUTE", str(secret)), "conversations": turns}
    written(folder, "llava_instruct_150k.json", [row])
    with pytest.raises(DataError, match="a row that names a file outside of its folder") as error:
        open_source(DataSection(source="llava_instruct_150k", dir=folder)).record(0)
    assert "llava_instruct_150k" in str(error.value.where)
    own = open_source(DataSection(source=str(folder / "llava_instruct_150k.json"))).record(0)  # a user's own: any file
    assert own.media[0].ref == shapes.media(row["image"], folder).ref


def test_downloaded_rows_of_videos_and_of_repositories_without_a_name_here(tmp_path):
    (tmp_path / "data").mkdir()
    clip = {"clip_id": "c", "video_id": "../..", "caption": {"content": "A."}}
    written(tmp_path / "data", "vript_captions/a.jsonl", [clip])
    with pytest.raises(DataError, match="outside of its folder"):
        open_source(DataSection(source="vript", dir=tmp_path / "data")).record(0)
    rows = [{"image": name, "caption": "x"} for name in ("a.jpg", "b/../a.jpg", "../a.jpg")]
    written(tmp_path / "data", "captions.jsonl", rows)
    source = open_source(DataSection(source="someone/pets", dir=tmp_path / "data"))
    assert [source.record(row).media[0].ref for row in (0, 1)] == [tmp_path / "data" / "a.jpg"] * 2
    with pytest.raises(DataError, match="outside of its folder"):
        source.record(2)


def test_a_linked_folder_of_pictures_may_lie_elsewhere(tmp_path):
    """COCO is large and often stands elsewhere already: a link in `dir` is the user's own."""
    rows = SOURCES["llava_instruct_150k"].fixture(tmp_path / "elsewhere")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train2017").symlink_to(tmp_path / "elsewhere" / "train2017")
    written(folder, "llava_instruct_150k.json", rows)
    assert not any(map(absent, records(open_source(DataSection(source="llava_instruct_150k", dir=folder)))))


def test_bookkeeping_of_a_download_is_no_row(tmp_path):
    rows = SOURCES["vista_400k"].fixture(tmp_path)
    written(tmp_path, "long_video_caption/rows.json", rows)
    written(tmp_path, ".smolforge/download.json", [{"files": 3}])
    assert len(open_source(DataSection(source="vista_400k", dir=tmp_path)).table) == len(rows)


def test_configurations_and_splits_of_annotations(tmp_path):
    rows = SOURCES["llava_video_178k"].fixture(tmp_path)
    for file, count in (
        ("0_30_s_academic_v0_1/0_30_s_academic_v0_1_cap_processed.json", 1),
        ("0_30_s_academic_v0_1/0_30_s_academic_mc_v0_1_qa_processed.json", 2),
        ("llava_hound/sharegptvideo_qa_255k_processed.json", 3),
    ):
        written(tmp_path, file, rows[:count])

    def count(split: str, name: object) -> int:
        return len(open_source(DataSection(source="llava_video_178k", dir=tmp_path, split=split, name=name)))

    academic, every = "0_30_s_academic_v0_1", "caption+open_ended+multi_choice"
    assert count("caption", academic) == 1
    assert count("multi_choice", academic) == 2
    assert count(every, academic) == 3
    assert count(every, "all") == 6
    assert count(every, (academic, "llava_hound")) == 6
    assert count("open_ended[:2]", "llava_hound") == 2
    with pytest.raises(DataError, match="no annotations of open_ended of 0_30_s_academic_v0_1"):
        count("open_ended", academic)
    with pytest.raises(DataError, match="no split train; it has caption and open_ended and multi_choice"):
        count("train", academic)


@pytest.fixture
def cauldron(tmp_path: Path) -> Path:
    import datasets

    rows = SOURCES["the_cauldron"].fixture(tmp_path)
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "texts": datasets.List({name: datasets.Value("string") for name in ("user", "assistant", "source")}),
        }
    )
    for name, part in (("ai2d", rows[:2]), ("vqav2", rows[2:5])):
        (tmp_path / name).mkdir()
        datasets.Dataset.from_list(part, features=features).to_parquet(tmp_path / name / "train-00000-of-00001.parquet")
    return tmp_path


def test_configurations_one_behind_the_other(cauldron, tiny):
    def section(name: object) -> DataSection:
        return DataSection(source="the_cauldron", dir=cauldron, name=name)

    both = open_source(section(("ai2d", "vqav2")))
    expected = [record.responses for name in ("ai2d", "vqav2") for record in records(open_source(section(name)))]
    assert [record.responses for record in records(both)] == expected
    assert len(expected) == 5
    assert load_renderer(tiny).render(both.record(4)).images
    with pytest.raises(DataError, match="no configuration aokvqa"):
        open_source(section("all"))  # the first that is not there
    with pytest.raises(DataError, match="no configuration tqa"):
        open_source(section(("ai2d", "tqa", "vsr")))


def test_a_card_with_configurations_decides(cauldron):
    (cauldron / "README.md").write_text(
        "---\nconfigs:\n- config_name: both\n  data_files:\n  - split: train\n    path: '*/train-*'\n---\n"
    )
    assert len(open_source(DataSection(source="the_cauldron", dir=cauldron, name="both"))) == 5


def test_videos_in_a_parquet_table(tmp_path):
    import datasets

    rows = SOURCES["finevideo"].fixture(tmp_path)
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    for streaming in (False, True):
        record = open_source(DataSection(source="finevideo", dir=tmp_path, streaming=streaming)).record(0)
        assert record.videos == (Video(ref=rows[0]["mp4"]),)


def test_splits_that_a_column_tells(tmp_path):
    import datasets

    rows = SOURCES["flickr30k"].fixture(tmp_path)
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    counts = {}
    for split in ("train", "val", "test", "train+val", "train[:50%]"):
        source = open_source(DataSection(source="flickr30k", dir=tmp_path, split=split))
        counts[split] = [source.record(number).id for number in range(len(source))]
    assert counts == {
        "train": ["0", "1", "2", "3"], "val": ["4"], "test": ["5"], "train+val": ["0", "1", "2", "3", "4"],
        "train[:50%]": ["0", "1"],
    }  # fmt: skip
    assert len(records(fixture("flickr30k", "val"))) == 1


def test_rows_are_left_out_by_their_numbers(tmp_path):
    rows = [{"prompt": str(number), "completion": "x"} for number in range(5)]
    written(tmp_path, "rows.jsonl", rows)
    source = str(tmp_path / "rows.jsonl")
    line = {
        "source": source,
        "name": None,
        "split": "train",
        "row": 1,
        "reason": "near",
        "of": "0",
        "distance": 0,
    }
    (tmp_path / "list.jsonl").write_text(json.dumps(line))
    opened = open_source(DataSection(source=source, split="train[:3]", exclude=(tmp_path / "list.jsonl",)))
    assert [record.words for record in records(opened)] == ["0", "2"]
    assert list(opened.rows) == [0, 2]


def test_a_fixture_of_an_unknown_source():
    with pytest.raises(DataError, match="a fixture of a source that has none"):
        open_source(DataSection(source="mine.jsonl", fixture=True))
    with pytest.raises(DataError, match="no split validation"):
        open_source(DataSection(source="rlaif_v", fixture=True, split="validation"))
    assert len(fixture("llava_video_178k", "train")) == ROWS  # which has no such split
    assert len(fixture("rlaif_v", "train[:1%]")) == ROWS


def test_prompts():
    rows = DataSection(source="flickr8k", fixture=True, prompt=("Say.", "Tell."))
    source = open_source(rows)
    assert source.record(0).words == "Say."
    assert source.record(0, prompt="Tell.").words == "Tell."
    steps = DataSection(source="vript", fixture=True, prompt={5: "Later.", 0: "First."})
    assert open_source(steps).record(0).words == "First."
    assert fixture("vript").record(0).words == films.DETAIL_PROMPT


# --- families ------------------------------------------------------------------------------------------------------


def test_five_captions_are_five_targets_of_one_picture():
    for name in ("flickr8k", "flickr30k", "textcaps"):
        record = fixture(name).record(0)
        assert len({response.text for response in record.responses}) == 5, name
        assert len(record.media) == 1
    with pytest.raises(DataError, match="no captions"):
        captions.record({"image": b"x", "caption_str": [], "reference_strs": None}, id="0", source="textcaps")


def test_vizwiz_learns_that_there_is_no_answer():
    assert fixture("vizwiz").record(ROWS - 1).responses[0].text == "unanswerable"
    answers = [{"answer": "a can", "answer_confidence": "yes"}, {"answer": "can", "answer_confidence": "yes"}]
    row = {"image": b"x", "question": "What?", "answers": answers}  # the publishers' own form
    assert captions.vizwiz(row, id="0", source="vizwiz").responses[0].text == "a can"
    with pytest.raises(DataError, match="no answer"):
        captions.vizwiz(row | {"answers": []}, id="0", source="vizwiz")


def test_vript_learns_the_content_not_the_shot_type():
    record = fixture("vript").record(0)
    assert [response.text for response in record.responses] == [f"We see {filmed(0).caption}."]
    # and from an object a video, as the archives hold them
    row = {"video_id": "ab", "clip_id": "ab-Scene-001", "caption": {"content": "A dog."}}
    assert films.vript(row, id="0", source="vript").videos == (Video(ref=Path("ab/ab-Scene-001.mp4")),)


def test_vript_clips_of_an_object_a_video(tmp_path):
    clips = {
        f"ab-Scene-{n:03}": {"video_id": "ab", "clip_id": f"ab-Scene-{n:03}", "caption": {"content": str(n)}} for n in range(3)
    }
    written(tmp_path, "vript_captions/vript_long_videos_captions/ab_caption.json", {"meta": {"video_id": "ab"}, "data": clips})
    found = records(open_source(DataSection(source="vript", dir=tmp_path, name="vript_long")))
    assert [record.responses[0].text for record in found] == ["0", "1", "2"]


def test_sharegpt4video_learns_the_whole_videos_caption():
    assert "moves" in fixture("sharegpt4video").record(0).responses[0].text
    with pytest.raises(DataError, match="no caption of the whole video"):
        films.sharegpt4video({"video_path": "a.mp4", "captions": [{"idx": "1", "content": "x"}]}, id="0", source="s")


def test_films_with_questions():
    for name, description in (("finevideo", "In this clip"), ("moviechat", "The film shows")):
        record = fixture(name).record(0)
        said = [message.content[0] for message in record.messages if message.train]
        assert said[0].startswith(description)
        assert [*said[1:], record.responses[0].text] == ["left", "red"]  # no breakpoint
    with pytest.raises(DataError, match="neither a description nor questions"):
        films.finevideo({"mp4": b"x", "json": {"content_metadata": {"description": " ", "qAndA": []}}}, id="0", source="s")


def test_placeholders_of_llava():
    def read(turns: list[str], **media) -> Record:
        named = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(turns)]
        return llava.record({"conversations": named} | media, id="0", source="s")

    again = read(["<image>\nA?", "a", "<image>\nB?", "b"], video="v.mp4")
    assert [len(again.videos), again.words] == [1, "A?\na\nB?"]
    assert read(["A?", "a"], image=None).media == ()
    assert read(["A?", "a"], image=["1.jpg"]).media == (Media(ref=Path("1.jpg")),)
    apart = read(["<image>\nA?", "a", "<image>\nB?", "b"], image=["1.jpg", "2.jpg"])
    assert [len(message.content) for message in apart.messages] == [2, 1, 2]
    with pytest.raises(DataError, match="1 image placeholders for 0 pictures"):
        read(["<image>\nA?", "a"], image=None)
    with pytest.raises(DataError, match="2 image placeholders for 3 pictures"):
        read(["<image> <image> A?", "a"], image=["1.jpg", "2.jpg", "3.jpg"])


def test_m3it():
    record = fixture("m3it").record(0)
    assert record.media[0].ref[:4] == b"\x89PNG"
    mirror = {"instruction": "Answer.", "inputs": "", "image": {"bytes": b"x", "path": None}, "outputs": "A dog."}
    read = m3it.record(mirror, id="0", source="s")
    assert [read.words, read.media] == ["Answer.", (Media(ref=b"x"),)]
    with pytest.raises(DataError, match="not Base64"):
        m3it.record(mirror | {"image_base64_str": ["&"]}, id="0", source="s")


def test_both_forms_of_m3it_are_called_by_their_names_on_the_hub():
    assert named("MMInstruction/M3IT") is SOURCES["m3it"]
    assert named("HuggingFaceM4/M3IT") is SOURCES["m3it_parquet"]
    section = DataSection(source="HuggingFaceM4/M3IT", fixture=True)
    assert [record.words for record in records(open_source(section))] == [
        record.words for record in records(fixture("m3it_parquet"))
    ]


def test_docmatix_pages_only():
    with pytest.raises(DataError, match="take the configuration images"):
        SOURCES["docmatix"].record({"pdf": b"%PDF", "texts": []}, id="0", source="docmatix")


def test_answers_are_true_of_what_is_drawn():
    """A fixture that says another thing than it shows would teach it."""
    import av
    import numpy as np

    for number in range(4):
        film = fixture("finevideo").record(number).videos[0].ref
        with av.open(io.BytesIO(film)) as container:
            frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
        assert len(frames) == 12

        def centre(frame):
            rows, columns = np.nonzero(frame.std(axis=2) > 25)
            return np.array([columns.mean(), rows.mean()])

        moved = centre(frames[-1]) - centre(frames[0])
        expected = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[filmed(number).move]
        assert np.allclose(np.sign(np.where(abs(moved) > 5, moved, 0)), expected)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (DataSection(source="the_cauldron", name="ai2dx", fixture=True), "no configuration ai2dx; did you mean ai2d"),
        (DataSection(source="docmatix", name="pdf", fixture=True), "no configuration pdf; it has images, zero-shot-exp"),
        (DataSection(source="the_cauldrn"), "did you mean the_cauldron"),
    ],
)
def test_misspelt_names_are_met_without_a_network(section, words):
    with pytest.raises(DataError) as raised:
        open_source(section)
    assert words in str(raised.value)
