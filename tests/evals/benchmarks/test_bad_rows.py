"""Rows that are not what a benchmark needs: each is told in one line with its place, before anything is generated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smolforge.errors import DataError
from smolforge.evals.benchmark import Origin
from smolforge.evals.benchmarks import BENCHMARKS
from smolforge.evals.rows import open_rows

WORDS = {"image": "a.jpg", "captions": ["A man."]}
ASKED = {"image": "a.jpg", "question": "Describe it."}
KNOWN = [{"id": 1, "type": "generative", "truth": ["sky"], "hallu": ["dog"]}]
QUERY = {"id": 1, "image": "a.jpg", "query": "Describe."}
MMHAL = {
    "question_type": "counting", "image_id": "x", "image_src": "https://example.org/x.jpg", "image_content": ["Cat"],
    "question": "How many?", "gt_answer": "One.",
}  # fmt: skip
COCO = {
    "boxes": {"categories": [{"id": 3, "name": "cat"}], "annotations": [{"image_id": 7, "category_id": 3}]},
    "captions": {"images": [{"id": 7}], "annotations": [{"image_id": 7, "caption": "A lady."}]},
}


def written(folder: Path, files: dict[str, Any]) -> Path:
    """Bytes as they are, all else as JSON: of .jsonl files a line an element."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        if not isinstance(content, bytes):
            lines = content if name.endswith(".jsonl") else [content]
            content = "\n".join(map(json.dumps, lines)).encode()
        file.write_bytes(content)
    return folder


def photos(*rows: Any) -> dict[str, Any]:
    return {"photos.jsonl": list(rows)}


def amber(queries: Any, known: Any = KNOWN) -> dict[str, Any]:
    return {"annotations.json": known, "query_all.json": queries}


def halbench(captions: Any = COCO["captions"], boxes: Any = COCO["boxes"]) -> dict[str, Any]:
    return {
        "rows.jsonl": [ASKED | {"image_id": 7}], "captions_val2014.json": captions, "instances_val2014.json": boxes,
    }  # fmt: skip


# --- files of rows -----------------------------------------------------------------------------------------------------

FILES: list[tuple[str, dict[str, Any], str]] = [
    ("chair", photos(WORDS | {"objects": [{"x": 1}]}), "photos.jsonl, row 1: an object without a category"),
    ("chair", photos(WORDS, WORDS | {"objects": "dog"}), "photos.jsonl, row 2: `objects` is str, not a list"),
    ("chair", photos(WORDS | {"objects": [3]}), "photos.jsonl, row 1: an object without a category"),
    ("chair", photos(WORDS | {"objects": ["unicorn"]}), "photos.jsonl, row 1: no object of MSCOCO's: 'unicorn'"),
    ("chair", photos({"image": "a.jpg", "captions": 5}), "photos.jsonl, row 1: `captions` is int, not a list of texts"),
    ("chair", photos(WORDS | {"captions": ["A man.", None]}), "photos.jsonl, row 1: `captions` has NoneType among its texts"),
    ("chair", photos(WORDS | {"image_id": [1]}), "photos.jsonl, row 1: `image_id` is list"),
    ("chair", photos(WORDS | {"image": 5}), "photos.jsonl, row 1: `image` is int, not text"),
    ("chair", photos(WORDS, {"image": "b.jpg"}), "photos.jsonl, row 2: a photo without a file or without captions"),
    ("chair", photos({"image": "b.jpg"}, WORDS), "photos.jsonl, row 1: a photo without a file or without captions"),
    ("chair", photos(WORDS, 5), "photos.jsonl, line 2: not a JSON object"),
    ("chair", {"photos.jsonl": b"\xff"}, "photos.jsonl, line 1: not UTF-8"),
    ("chair", {"photos.json": [WORDS, 5]}, "photos.json, row 2: not a JSON object"),
    ("coco_caption", photos({"image": "a.jpg", "captions": 5}), "photos.jsonl, row 1: `captions` is int"),
    ("coco_caption", photos(WORDS | {"objects": [{"x": 1}]}), "photos.jsonl, row 1: an object without a category"),
    ("coco_caption", {"photos.json": b"\xff"}, "photos.json, line 1: not UTF-8"),
    ("object_halbench", {"rows.jsonl": [[1]]}, "rows.jsonl, line 1: not a JSON object"),
    ("object_halbench", {"rows.jsonl": b"\xff"}, "rows.jsonl, line 1: not UTF-8"),
    ("object_halbench", {"rows.jsonl": [ASKED | {"objects": [{"x": 1}]}]}, "rows.jsonl, row 1: an object without a category"),
    ("object_halbench", {"rows.jsonl": [ASKED | {"captions": 5}]}, "rows.jsonl, row 1: `captions` is int"),
    ("object_halbench", {"rows.jsonl": [ASKED | {"objects": ["unicorn"]}]}, "rows.jsonl, row 1: no object of MSCOCO's"),
    ("object_halbench", {"rows.jsonl": [ASKED | {"objects": None, "captions": None}]}, "rows.jsonl, row 1: no image_id"),
    ("object_halbench", halbench(captions=b'{"images"'), "captions_val2014.json, line 1: not valid JSON"),
    ("object_halbench", halbench(captions=[1]), "captions_val2014.json: no COCO annotations, `images` is not as there"),
    ("object_halbench", halbench(captions={"images": [{"id": 7}]}), "captions_val2014.json: no COCO annotations, `annotations`"),
    ("object_halbench", halbench(boxes={"categories": [3], "annotations": []}), "instances_val2014.json: no COCO annotations"),
    (
        "object_halbench",
        halbench(boxes=COCO["boxes"] | {"annotations": [{"image_id": 7, "category_id": 9}]}),
        "instances_val2014.json: no COCO annotations, category 9 has no name",
    ),
    ("amber", amber([1]), "query_all.json, row 1: not a JSON object"),
    ("amber", amber([QUERY], known=[1]), "annotations.json, row 1: not a JSON object"),
    ("amber", amber(b"\xff"), "query_all.json, line 1: not UTF-8"),
    ("amber", amber({"a": 1}), "query_all.json: not a list of objects"),
    ("amber", amber([{"id": 1, "query": "Describe."}]), "query_all.json, row 1: no `image`"),
    ("amber", amber([QUERY | {"image": 5}]), "query_all.json, row 1: `image` is int, not text"),
    ("amber", amber([QUERY, {"image": "a.jpg"}]), "query_all.json, row 2: no `id`"),
    ("amber", amber([QUERY | {"id": [1]}]), "query_all.json, row 1: `id` is list, not a whole number"),
    ("amber", amber([QUERY | {"id": "1"}]), "query_all.json, row 1: `id` is str, not a whole number"),
    ("mmhal", {"response_template.json": {"a": 1}}, "response_template.json: not a list of objects"),
    ("mmhal", {"response_template.json": [1]}, "response_template.json, row 1: not a JSON object"),
    ("mmhal", {"response_template.json": b"\xff"}, "response_template.json, line 1: not UTF-8"),
    ("mmhal", {"response_template.json": [MMHAL], "test_data.zip": b"PK"}, "test_data.zip: a damaged archive"),
]


@pytest.mark.parametrize(("name", "files", "says"), FILES)
def test_files_that_cannot_be_read(name: str, files: dict[str, Any], says: str, tmp_path: Path) -> None:
    folder = written(tmp_path, files)
    with pytest.raises(DataError) as error:
        open_rows(name, BENCHMARKS[name], folder)
    assert str(error.value).startswith(f"{tmp_path}/{says}")
    assert error.value.mend


@pytest.mark.parametrize("sign", ["\u2028", "\u0085"])
def test_signs_that_look_like_the_end_of_a_line(sign: str, tmp_path: Path) -> None:
    row = json.dumps(WORDS | {"image_id": 1, "captions": [f"A man{sign}on a dog."]}, ensure_ascii=False)
    folder = written(tmp_path, {"photos.jsonl": f"{row}\n".encode()})
    assert open_rows("chair", BENCHMARKS["chair"], folder)[0][0]["gt_object"] == ["dog", "person"]
    asked = json.dumps(ASKED | {"question": f"What{sign}is it?", "objects": ["cat"]}, ensure_ascii=False)
    folder = written(tmp_path / "halbench", {"rows.jsonl": f"{asked}\n".encode()})
    assert open_rows("object_halbench", BENCHMARKS["object_halbench"], folder)[0][0]["truth"] == ["cat"]


def test_json_of_another_kind_beside_the_photos(tmp_path: Path) -> None:
    others = {"map.json": {"a": [1]}, "numbers.json": [1, 2], "ids.jsonl": [{"id": 3}]}
    folder = written(tmp_path, photos(WORDS) | others)
    assert len(open_rows("chair", BENCHMARKS["chair"], folder)) == 1


# --- columns of a row --------------------------------------------------------------------------------------------------

ROWS: dict[str, dict[str, Any]] = {
    "coco_caption": {"image": "a.jpg", "answer": ["A cat."], "question_id": "1"},
    "docvqa": {"questionId": "1", "question": "What?", "image": "a.jpg", "answers": ["0.28"], "question_types": ["table"]},
    "textvqa": {"question_id": 1, "question": "What?", "image": "a.jpg", "answers": ["stop"] * 10},
    "chartqa": {"type": "human_test", "question": "How many?", "answer": "14", "image": "a.jpg"},
    "pope": {"question_id": "1", "question": "Is there a dog?", "answer": "yes", "image": "a.jpg", "category": "random"},
    "chair": {"image": "a.jpg", "gt_object": ["cat"], "question_id": "1"},
    "object_halbench": ASKED | {"truth": ["cat"]},
    "amber": {"id": 1, "image": "a.jpg", "type": "generative", "truth": ["sky"], "hallu": ["dog"]},
    "mmhal": MMHAL,
    "videomme": {
        "videoID": "x", "question_id": "1", "duration": "short", "question": "Which?", "answer": "C",
        "options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."],
    },
    "mlvu": {"video_name": "x.mp4", "question": "What?\n(A) Yellow\n(B) Red", "answer": "B", "task_type": "plotQA"},
    "mvbench": {
        "config": "action_sequence", "video": "x.mp4", "question": "What?", "candidates": ["Ate.", "Slept."], "answer": "Slept.",
    },
}  # fmt: skip
TRUE_OR_FALSE = {"type": "discriminative-relation", "query": "Is it?", "truth": "yes"}
VIDEOS = ("videomme", "mlvu", "mvbench")

COLUMNS: list[tuple[str, dict[str, Any], str]] = [
    ("coco_caption", {"answer": "A cat."}, "`answer` is str, not a list of texts"),
    ("coco_caption", {"answer": ["A cat.", None]}, "`answer` has NoneType among its texts"),
    ("coco_caption", {"answer": []}, "no reference captions"),
    ("docvqa", {"answers": "abc"}, "`answers` is str, not a list of texts"),
    ("docvqa", {"answers": [None]}, "`answers` has NoneType among its texts"),
    ("docvqa", {"answers": [3]}, "`answers` has int among its texts"),
    ("docvqa", {"answers": {"a": 1}}, "`answers` is dict, not a list of texts"),
    ("docvqa", {"question": None}, "no `question`"),
    ("docvqa", {"question": ["What?"]}, "`question` is list, not text"),
    ("docvqa", {"questionId": None}, "no `questionId`"),
    ("docvqa", {"question_types": "table"}, "`question_types` is str, not a list of texts"),
    ("textvqa", {"answers": "abc"}, "`answers` is str, not a list of texts"),
    ("textvqa", {"answers": [3] * 10}, "`answers` has int among its texts"),
    ("textvqa", {"question": 5}, "`question` is int, not text"),
    ("textvqa", {"question_id": {}}, "`question_id` is dict"),
    ("chartqa", {"type": "humen"}, "the type 'humen'; types are human_test, augmented_test"),
    ("chartqa", {"type": ["human_test"]}, "`type` is list, not text"),
    ("chartqa", {"answer": ["14"]}, "`answer` is list, not text"),
    ("chartqa", {"answer": None}, "no `answer`"),
    ("chartqa", {"question": None}, "no `question`"),
    ("pope", {"question": None}, "no `question`"),
    ("pope", {"question_id": None}, "no `question_id`"),
    ("pope", {"answer": True}, "`answer` is bool, not text"),
    ("pope", {"category": None}, "no `category`"),
    ("chair", {"gt_object": "cat"}, "`gt_object` is str, not a list of texts"),
    ("chair", {"gt_object": [["cat"]]}, "`gt_object` has list among its texts"),
    ("chair", {"gt_object": ["unicorn"]}, "no object of MSCOCO's: 'unicorn'"),
    ("object_halbench", {"question": 5}, "`question` is int, not text"),
    ("amber", {"truth": "sky"}, "`truth` is str, not a list of texts"),
    ("amber", {"hallu": "dog"}, "`hallu` is str, not a list of texts"),
    ("amber", TRUE_OR_FALSE | {"truth": "Maybe"}, "the truth 'Maybe'; answers are yes and no"),
    ("amber", TRUE_OR_FALSE | {"truth": ["yes"]}, "`truth` is list, not text"),
    ("amber", TRUE_OR_FALSE | {"query": None}, "no `query`"),
    ("amber", {"type": "other"}, "a query of type 'other'"),
    ("amber", {"type": ["generative"]}, "`type` is list, not text"),
    ("mmhal", {"question": None}, "no `question`"),
    ("mmhal", {"gt_answer": 4}, "`gt_answer` is int, not text"),
    ("mmhal", {"question_type": None}, "no `question_type`"),
    ("mmhal", {"image_content": None}, "no `image_content`"),
    ("mmhal", {"image_content": [["Cat"], 5]}, "`image_content` has int among its texts"),
    ("videomme", {"options": "A. 1."}, "`options` is str, not a list of texts"),
    ("videomme", {"options": ["A. 1.", 2, 3, 4]}, "`options` has int among its texts"),
    ("videomme", {"question": None}, "no `question`"),
    ("videomme", {"question_id": None}, "no `question_id`"),
    ("videomme", {"videoID": None}, "no `videoID`"),
    ("mlvu", {"question": None}, "no `question`"),
    ("mlvu", {"answer": None}, "no `answer`"),
    ("mlvu", {"video_name": 5}, "`video_name` is int, not text"),
    ("mvbench", {"candidates": "Slept."}, "`candidates` is str, not a list of texts"),
    ("mvbench", {"candidates": ["Ate.", 5]}, "`candidates` has int among its texts"),
    ("mvbench", {"question": None}, "no `question`"),
    ("mvbench", {"answer": 5}, "`answer` is int, not text"),
    ("mvbench", {"video": None}, "no `video`"),
]


@pytest.mark.parametrize(("name", "changes", "says"), COLUMNS)
def test_rows_that_cannot_be_asked(name: str, changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(DataError) as error:
        BENCHMARKS[name].question(ROWS[name] | changes, "vlmevalkit", Origin(name=name, base=tmp_path, number=4))
    assert says in str(error.value)
    assert str(error.value.where).startswith(f"{name}[")
    assert error.value.mend


@pytest.mark.parametrize("name", [name for name in ROWS if name not in VIDEOS])
def test_the_same_rows_as_they_should_be(name: str, tmp_path: Path) -> None:
    BENCHMARKS[name].question(ROWS[name], "vlmevalkit", Origin(name=name, base=tmp_path))
