from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from curating.conftest import photo
from smolforge.curating.against import open_against
from smolforge.curating.decontaminate import COMMON, RUN, find_overlaps
from smolforge.curating.reading import open_tables
from smolforge.curating.shingles import words
from smolforge.data.sources.tables import open_source
from smolforge.errors import DataError
from smolforge.evals.fixtures import write_fixture
from smolforge.recipe import DataSection

APART = r"; or give the pictures in a folder without those files$"
LONG = "how many of the small grey boats in the old harbour have their sails up today"  # 16 words


def overlaps(folder, against, store, **options):
    tables = open_tables([DataSection(source=str(folder))])
    findings = find_overlaps(tables, open_against(*map(str, against)), store=store, **options)
    return {one.index: (one.reason, one.of.rpartition("/")[2]) for one in findings.removals}


def test_by_picture_whatever_is_said(rows, store, tmp_path):
    folder = rows("train", [
        {"image": "a.jpg", "caption": "a dog"}, {"image": "b.png", "caption": "a cat"}, {"prompt": "Hi", "completion": "Hello"},
    ])  # fmt: skip
    photo(1).save(folder / "a.jpg", quality=50)
    photo(2).save(folder / "b.png")
    held = tmp_path / "held"
    held.mkdir()
    photo(3).save(held / "x.png")
    photo(1).resize((160, 120)).save(held / "y.png")
    assert overlaps(folder, [held], store) == {0: ("picture of an evaluation", "held[1]")}
    assert overlaps(folder, [held], store, by="text") == {}


def test_by_a_run_of_thirteen_words(rows, store):
    twelve = " ".join(LONG.split()[:12])
    train = rows("train", [
        {"prompt": f"Please tell me {LONG}?", "completion": "four"},
        {"prompt": f"{twelve} and so on without end for a while", "completion": "three"},
        {"prompt": "Nothing of the kind, but long enough to have a run of its own here", "completion": "two"},
    ])  # fmt: skip
    held = rows("held", [{"question": "Who?", "answer": "He."}, {"question": f"So: {LONG.upper()}", "answer": "5"}])
    assert overlaps(train, [held], store) == {0: ("text of an evaluation", "held[1]")}
    assert overlaps(train, [held], store, by="picture") == {}


def test_a_run_that_many_evaluation_rows_have_is_an_instruction(rows, store):
    train = rows("train", [{"prompt": LONG, "completion": "four"}])
    for count, expected in ((COMMON, {0}), (COMMON + 1, set())):
        held = rows(f"held{count}", [{"question": f"{LONG} {number}", "answer": f"x{number}"} for number in range(count)])
        assert set(overlaps(train, [held], store)) == expected


def test_short_texts_count_whole_and_without_pictures_only(rows, store):
    train = rows("train", [
        {"prompt": "Is there a dog?", "completion": "Yes."}, {"prompt": "Is there a dog?", "completion": "No."},
        {"image": "a.png", "question": "Is there a dog?", "answer": "Yes."},
    ])  # fmt: skip
    photo(1).save(train / "a.png")
    held = rows("held", [{"prompt": "is there a DOG", "completion": "yes"}])
    assert set(overlaps(train, [held], store)) == {0}


def test_a_black_frame_among_others_is_no_overlap(rows, store):
    train = rows("train", [{"images": ["black.png", "a.png"], "caption": "x"}, {"image": "black.png", "caption": "x"}])
    held = rows("held", [{"image": "black.png", "caption": "y"}])
    for folder in (train, held):
        Image.new("RGB", (30, 30)).save(folder / "black.png")
    photo(1).save(train / "a.png")
    assert set(overlaps(train, [held], store)) == {1}


@pytest.mark.parametrize("task", ["pope", "docvqa", "coco_caption"])
def test_benchmarks_by_name_and_folder(task, tmp_path, rows, store):
    """One picture and one question of the benchmark, learnt."""
    write_fixture(tmp_path / task, task)
    (opened,) = open_against(f"{task}={tmp_path / task}")
    asked = opened.record(0)
    assert asked.responses
    assert asked.media
    assert len(opened.rows) > 1
    from smolforge.data.media import open_picture

    train = rows("train", [{"image": "seen.png", "question": "What?", "answer": "That."}, {"image": "b.png", "caption": "a"}])
    open_picture(asked.media[0]).pixels().save(train / "seen.png")
    photo(9).save(train / "b.png")
    assert 0 in overlaps(train, [f"{task}={tmp_path / task}"], store)
    assert 1 not in overlaps(train, [f"{task}={tmp_path / task}"], store)


def test_a_short_question_about_a_video_is_no_evidence(rows, store, tmp_path):
    """Of a benchmark of videos, whose films are not opened: the text-only row with the same words stays."""
    write_fixture(tmp_path / "videomme", "videomme")
    (opened,) = open_against(f"videomme={tmp_path / 'videomme'}")
    asked = opened.record(0)
    text = f"{asked.words} {asked.responses[0].text}"
    assert len(words(text)) < RUN
    train = rows("train", [{"prompt": asked.words, "completion": asked.responses[0].text}])
    assert overlaps(train, [f"videomme={tmp_path / 'videomme'}"], store) == {}


def test_a_recipe_names_its_own_evaluation_set(rows, tmp_path, store):
    train, held = rows("train", [{"prompt": LONG, "completion": "a"}]), rows("held", [{"prompt": LONG, "completion": "a"}])
    recipe = tmp_path / "recipe.yaml"
    tree = {"model": {"name": "x"}, "data": [{"source": str(train)}], "run": {"dir": "runs/x", "steps": 1}}
    recipe.write_text(json.dumps(tree | {"eval": {"data": [{"source": str(held)}]}}))
    assert set(overlaps(train, [recipe], store)) == {0}
    recipe.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"no eval\.data"):
        open_against(str(recipe))


def test_rows_in_subfolders_are_read_though_pictures_lie_beside(rows, store, tmp_path):
    """As many repositories are laid out: data/test.jsonl, images/1.png."""
    held = tmp_path / "held"
    for below in ("data", "images"):
        (held / below).mkdir(parents=True)
    (held / "data" / "test.jsonl").write_text(json.dumps({"image": "images/1.png", "question": f"{LONG}?", "answer": "5"}))
    photo(1).save(held / "images" / "1.png")
    train = rows("train", [{"prompt": f"Tell me {LONG}", "completion": "four"}])
    (opened,) = open_against(str(held), split="test[:9]")
    tables = open_tables([DataSection(source=str(train))])
    (removal,) = find_overlaps(tables, [opened], store=store).removals
    assert (removal.index, removal.reason, removal.of) == (0, "text of an evaluation", f"{held}[0]")
    for split in ("train", "nosuch", "test+nosuch"):
        with pytest.raises(DataError, match=r"no split .*it has test"):
            open_against(str(held), split=split)


def test_rows_that_cannot_be_read_are_not_passed_over_for_the_pictures_beside(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "rows.arrow").write_text("question,answer\nWho?,He.\n")
    photo(1).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=rf"a folder without captions\.jsonl.*{APART}"):
        open_against(str(tmp_path))


COCO = '{"info": {}, "images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"id": 7, "image_id": 1, "caption": "A dog."}]}'
BESIDE_PICTURES = {  # files without rows
    "1.json": '{"caption": "A dog.", "url": "a", "key": "1", "width": 320, "exif": "{}"}',
    "info.json": '{"license": ["a", "b"], "by": {"name": "me"}}',
    "none.json": "[]",
    "x.json": "",
    "blank.json": " \n",
    "1.csv": "",
    "blank.csv": "\n\n",
    "1.jsonl": "",
    "instances_val.json": COCO,
    "a.tsv": "file\tlabel\n1.png\tdog\n",
}


@pytest.mark.parametrize("name", [*BESIDE_PICTURES, "all"])
def test_what_holds_no_rows_leaves_a_folder_of_pictures_one(tmp_path, name):
    for number in (1, 2):
        photo(number).save(tmp_path / f"{number}.png")
    for file in BESIDE_PICTURES if name == "all" else [name]:
        (tmp_path / file).write_text(BESIDE_PICTURES[file])
    (opened,) = open_against(str(tmp_path))
    assert [opened.record(row).media[0].ref.name for row in range(len(opened.rows))] == ["1.png", "2.png"]
    for number in (1, 2):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(DataError, match=r"a folder without pictures or a table; .*a \.json file of rows is a list of objects"):
        open_against(str(tmp_path))


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"a.jsonl": '{"question": "Who?", "answer": "He."}', "b.csv": "prompt,completion\nA,B\n"}, "2 tables that do not fit"),
        ({"labels.csv": "file,label\n1.png,dog\n"}, r"columns that fit no known shape; it has file, label"),
        ({"captions.jsonl": '{"label": 3}'}, r"columns that fit no known shape; it has label"),
        ({"a.jsonl": "{"}, "not valid JSON"),
        ({"a.csv": "prompt,completion\n"}, "no rows in train of 0"),
        ({"test.jsonl": '{"question": "Who?", "answer": "He."}'}, "no split train; it has test"),
    ],
)
def test_rows_that_fail_beside_pictures_say_how_to_get_the_pictures_alone(tmp_path, files, what):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as alone:
        open_source(DataSection(source=str(tmp_path))).record(0)
    assert "give the pictures" not in str(alone.value)
    photo(1).save(tmp_path / "1.png")
    with pytest.raises(DataError, match=what) as beside:
        open_against(str(tmp_path))
    assert re.search(APART, str(beside.value)), beside.value


def test_one_broken_row_beside_pictures_is_no_reason_to_refuse_the_others(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"label": 3}\n{"question": "Who?", "answer": "He."}\n')
    photo(1).save(tmp_path / "1.png")
    (opened,) = open_against(str(tmp_path))
    assert len(opened.rows) == 2


def test_a_card_gives_a_folder_of_pictures_no_splits(tmp_path):
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: '*.jpg'\n---\nPictures.\n"
    (tmp_path / "README.md").write_text(card)
    photo(1).save(tmp_path / "1.jpg")
    (opened,) = open_against(str(tmp_path))
    assert len(opened.rows) == 1
    with pytest.raises(DataError, match="no split test: a folder of pictures has none; leave --against-split out"):
        open_against(str(tmp_path), split="test")


def test_a_folder_of_pictures_has_no_splits(tmp_path):
    (tmp_path / "below").mkdir()
    photo(1).save(tmp_path / "below" / "a.png")
    (tmp_path / "README.md").write_text("Pictures.\n")
    (opened,) = open_against(str(tmp_path))
    assert len(opened.rows) == 1
    with pytest.raises(DataError, match="no split test: a folder of pictures has none; leave --against-split out"):
        open_against(str(tmp_path), split="test")


def test_what_cannot_be_compared_with(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="without pictures or a table"):
        open_against(str(tmp_path / "empty"))
    with pytest.raises(DataError, match="no set of questions"):
        open_against("preference")
    with pytest.raises(DataError, match="no such file"):
        open_against(f"pope={tmp_path / 'absent'}")
