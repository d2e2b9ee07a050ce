"""Files of predictions: scored as by hand, in every form that they come in, and refused in one line when they are incomplete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smolforge.errors import DataError
from smolforge.evals.benchmarks import MEASURES
from smolforge.evals.comparing import compare
from smolforge.evals.measures import Score
from smolforge.evals.predictions import score_predictions
from smolforge.evals.results import Task
from smolforge.evals.results import read_predictions as read_folder

ROWS = (
    {"id": 1, "prediction": "a cat on a bed", "references": ["a cat on a bed", "a bed with a cat"]},
    {"id": 2, "prediction": "a dog", "references": ["two dogs in the snow"]},
    {"id": "x", "prediction": "", "references": ["nothing"]},
)


def lines(file: Path, *rows: dict[str, Any]) -> Path:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file


def values(task: Task) -> dict[str, float | None]:
    return {name: score.value if score else None for name, score in task.scores.items()}


def without(row: dict[str, Any], *names: str, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names} | more


# --- scores --------------------------------------------------------------------------------------------------------------


def test_answers_by_hand(tmp_path):
    """ANLS: "pariz" is one letter of five from "paris", 0.8; "18" is one of two from "10", exactly half, which lmms-eval keeps;
    nothing is 0. Exact: none of three. Relaxed: 18 is 80 % off, a word must be the same."""
    file = lines(
        tmp_path / "said.jsonl",
        {"id": 1, "answer": "Pariz", "answers": ["Paris", "the city of Paris"]},
        {"id": 2, "answer": "18", "answers": ["10"]},
        {"id": 3, "answer": "", "answers": ["yes"]},
    )
    found = values(score_predictions(file, ("anls", "exact", "relaxed")))
    assert found["anls"] == pytest.approx((0.8 + 0.5 + 0) / 3)
    assert (found["exact"], found["relaxed"]) == (0, 0)
    assert found["length"] == pytest.approx(2 / 3)


def test_the_same_words_but_for_case_and_ends_are_exact(tmp_path):
    file = lines(tmp_path / "said.jsonl", {"id": 1, "answer": " YES\n", "answers": ["no", "yes"]})
    assert values(score_predictions(file, ("exact",)))["exact"] == 1


def test_vqa_accuracy_and_a_tolerance(tmp_path):
    """Three of ten people: each of them sees two others of nine who agree, 2/3; the other seven see three, 1. So 0.9.
    103 is within 5 % of 100."""
    people = ["red"] * 3 + ["blue"] * 7
    file = lines(tmp_path / "said.jsonl", {"id": 1, "answer": "Red.", "answers": people})
    assert values(score_predictions(file, ("vqa",)))["vqa"] == pytest.approx(0.9)
    file = lines(tmp_path / "numbers.jsonl", {"id": 1, "answer": "103", "reference": "100"})
    assert values(score_predictions(file, ("relaxed",)))["relaxed"] == 1


def test_objects_that_are_not_there(tmp_path):
    """Said: a dog (there), a cat (in a reference), a bus (nowhere): one of three mentions, one of two captions. Named are both
    objects of the first photo and not the second's one: 2 of 3."""
    file = lines(
        tmp_path / "said.jsonl",
        {"id": 1, "caption": "A dog and a cat before a bus.", "references": ["A cat."], "objects": [{"category": "dog"}]},
        {"id": 2, "caption": "A field.", "references": ["A horse on a field."]},
    )
    task = score_predictions(file, ("chair",), out=tmp_path / "out")
    found = values(task)
    assert (found["CHAIRi"], found["CHAIRs"], found["recall"]) == pytest.approx((1 / 3, 1 / 2, 2 / 3))
    said, _ = read_folder(tmp_path / "out", task.key)
    assert [(said.answer[a:b], kind) for a, b, kind in said.marks] == [
        ("dog", "right"), ("cat", "right"), ("bus", "hallucinated"),
    ]  # fmt: skip


def test_the_references_themselves_are_the_best_captions(tmp_path):
    rows = (
        {"id": 1, "prediction": "a cat on a bed", "references": ["a cat on a bed"]},
        {"id": 2, "prediction": "two dogs in deep snow", "references": ["two dogs in deep snow"]},
    )
    found = values(score_predictions(lines(tmp_path / "said.jsonl", *rows), ("bleu", "rouge", "cider")))
    assert [found[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx([1] * 4)
    assert (found["ROUGE-L"], found["CIDEr"]) == pytest.approx((1, 10))


def test_empty_answers_are_counted_and_scored(tmp_path):
    full = score_predictions(lines(tmp_path / "full.jsonl", *ROWS[:1]), ("exact",))
    empty = score_predictions(lines(tmp_path / "said.jsonl", ROWS[0], ROWS[2], without(ROWS[1], prediction=" ")), ("exact",))
    assert (full.notes, empty.notes) == ([], ["2 of 3 predictions are empty; they count as they are"])
    assert (values(full)["exact"], values(empty)["exact"], empty.questions) == (1, pytest.approx(1 / 3), 3)
    assert set(score_predictions(lines(tmp_path / "none.jsonl", ROWS[2]), ("bleu", "rouge", "cider", "exact")).scores) >= {
        "exact"
    }


def test_only_the_metrics_that_were_asked_for(tmp_path):
    found = score_predictions(lines(tmp_path / "said.jsonl", *ROWS), ("exact",)).scores
    assert set(found) == {"exact", "length"}


# --- forms ---------------------------------------------------------------------------------------------------------------


def as_coco(tmp_path: Path) -> tuple[Path, Path]:
    said = tmp_path / "captions_val2014_results.json"
    said.write_text(json.dumps([{"image_id": 9, "caption": "a cat on a bed"}, {"image_id": 8, "caption": "a dog"}]))
    given = tmp_path / "captions_val2014.json"
    annotations = [
        {"image_id": 8, "id": 100, "caption": "two dogs in the snow"}, {"image_id": 9, "id": 8, "caption": "a cat on a bed"},
        {"image_id": 9, "id": 9, "caption": "a bed with a cat"},
    ]  # fmt: skip
    given.write_text(json.dumps({"info": {}, "images": [], "annotations": annotations}))
    return said, given


def test_cocos_files_are_the_same_predictions(tmp_path):
    """Its annotations have an `id` of their own, which is not the photo's."""
    metrics = ("bleu", "rouge", "cider")
    ours = score_predictions(lines(tmp_path / "said.jsonl", *ROWS[:2]), metrics)
    said, given = as_coco(tmp_path)
    theirs = score_predictions(said, metrics, references=given, out=tmp_path / "out")
    assert values(theirs) == pytest.approx(values(ours))
    first, second = read_folder(tmp_path / "out", theirs.key)
    assert (first.id, first.facts) == ("9", {"references": ["a cat on a bed", "a bed with a cat"]})
    assert (second.id, second.facts) == ("8", {"references": ["two dogs in the snow"]})


def test_references_in_a_file_of_their_own_in_another_order(tmp_path):
    said = lines(tmp_path / "said.jsonl", *(without(row, "references") for row in ROWS))
    given = lines(tmp_path / "given.jsonl", *(without(row, "prediction") for row in reversed(ROWS)))
    together = score_predictions(lines(tmp_path / "both.jsonl", *ROWS), ("anls",))
    assert values(score_predictions(said, ("anls",), references=given)) == values(together)


def test_a_line_may_hold_any_character(tmp_path):
    """U+2028 ends a line for Python, not for JSON Lines, and JSON need not escape it."""
    file = tmp_path / "said.jsonl"
    row = {"id": 1, "answer": "one\u2028two", "answers": ["one\u2028two"]}
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert values(score_predictions(file, ("exact",)))["exact"] == 1


def test_two_files_can_be_compared(tmp_path):
    metrics = ("exact",)
    score_predictions(lines(tmp_path / "a.jsonl", *ROWS), metrics, out=tmp_path / "a")
    better = (ROWS[0], without(ROWS[1], prediction="two dogs in the snow"), ROWS[2])
    score_predictions(lines(tmp_path / "b.jsonl", *better), metrics, out=tmp_path / "b")
    (compared,) = compare(tmp_path / "a", tmp_path / "b", MEASURES).values()
    change = compared.changes["exact"].difference
    assert isinstance(change, Score)
    assert change.value == pytest.approx(1 / 3)
    assert [pair.gain for pair in compared.pairs] == [0, 0, 1]
    with pytest.raises(DataError, match=r"another model, .*a.jsonl"):
        score_predictions(tmp_path / "b.jsonl", metrics, out=tmp_path / "a")


# --- what cannot be scored -----------------------------------------------------------------------------------------------

BARE = tuple(without(row, "references") for row in ROWS)
WRONG: dict[str, tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...] | None, str]] = {
    "predictions without references": (
        (ROWS[0], *BARE[1:]), None,
        r"2 predictions without references, such as 2, x; give them in a column `references`, or in a file with --references",
    ),
    "references for some": (BARE, ROWS[:1], r"said.jsonl: 2 predictions without references, such as 2, x"),
    "references without predictions": (
        BARE[:1], tuple(without(row, "prediction") for row in ROWS),
        r"2 references without a prediction, such as 2, x; predict them too, or take them out of the references",
    ),
    "two of one id": ((ROWS[0], without(ROWS[1], id="1")), None, r"said.jsonl, row 2: two predictions with the id 1; keep one"),
    "no id": ((ROWS[0], without(ROWS[1], "id")), None, r"said.jsonl, row 2: a row without an id; give it as id, image_id"),
    "no id of a reference": (BARE[:1], (without(ROWS[0], "id"),), r"given.jsonl, row 1: a row without an id"),
    "no prediction": (
        (without(ROWS[0], "prediction"),), None,
        r"no prediction for 1; give it as prediction, caption, answer; it may be empty",
    ),
    "none": ((), None, r"no predictions; look at the file"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_incomplete_files_are_refused(tmp_path, wrong):
    said, given, words = WRONG[wrong]
    file = lines(tmp_path / "said.jsonl", *said)
    references = None if given is None else lines(tmp_path / "given.jsonl", *given)
    with pytest.raises(DataError, match=words):
        score_predictions(file, ("exact",), references=references)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("said.jsonl", b'{"id": 1, "prediction": "a"', "not valid JSON"),
        ("said.jsonl", b"\xff\xfe", "line 1: not UTF-8"),
        ("said.jsonl", b"[1, 2]\n", "line 1: not a JSON object"),
        ("said.json", b"{}", "not a list of objects"),
        ("said.json", b'{"annotations": 3}', "not a list of objects"),
        ("said.json", b"[[]]", "row 1: not a JSON object"),
        ("said.json", b"[]", "no predictions"),
    ],
)
def test_files_that_are_something_else(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        score_predictions(tmp_path / name, ("exact",))


def test_metrics_that_are_not_known_or_lack_something(tmp_path):
    file = lines(tmp_path / "said.jsonl", *ROWS)
    with pytest.raises(DataError, match=r"no metric ciderd, f1; metrics are bleu, rouge, cider"):
        score_predictions(file, ("exact", "ciderd", "f1"))
    with pytest.raises(DataError, match=r"clipscore needs a CLIP; give --clip"):
        score_predictions(file, ("clipscore",))


def test_vqa_asks_for_enough_peoples_answers(tmp_path):
    """With three references no answer could count as right, and a 0 would look like one."""
    file = lines(tmp_path / "said.jsonl", {"id": 7, "prediction": "yes", "references": ["yes"] * 3})
    with pytest.raises(DataError, match="vqa needs at least 4 references, and 7 has fewer"):
        score_predictions(file, ("vqa",))


def test_what_a_reader_must_know_is_noted(tmp_path):
    file = lines(tmp_path / "said.jsonl", {"id": 1, "prediction": "a dog", "references": ["a cat"]})
    notes = score_predictions(file, ("cider", "chair")).notes
    assert notes == [
        "1 of 1 have no objects: what their references do not name counts as invented",
        "CIDEr of one picture is 0: no n-gram tells it from others",
    ]
