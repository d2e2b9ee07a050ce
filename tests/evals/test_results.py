"""A folder of results: what was written is what is read, and what is damaged is one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from smolforge.errors import DataError
from smolforge.evals.measures import Measure, Score, ratio
from smolforge.evals.results import Prediction, Task, measure_facts, read_predictions, read_results, write_task

MODEL: dict[str, Any] = {"name": "a model", "weights": "aaaa", "dtype": "float32", "versions": {"smolforge": "0.1.0"}}
MEASURES = {
    "accuracy": Measure(about="right answers", of=ratio("right", "asked")),
    "length": Measure(about="tokens", of=ratio("tokens", "asked"), better="", percent=False),
}
SCORES: dict[str, Score | None] = {
    "accuracy": Score(value=0.5, low=0.25, high=math.nan),  # a bound that no resample could say
    "length": None,
}


def task(name: str = "pope", **changes: Any) -> Task:
    values: dict[str, Any] = dict(
        name=name, prompts="lmms-eval", data="data/pope", questions=2, limit=None, skipped={"no such picture": 1},
        named=["pope[3]: a.png: no such picture"], notes=["scored by rule"], scores=SCORES, measures=measure_facts(MEASURES),
    )  # fmt: skip
    return Task(**values | changes)


def prediction(id: str, **changes: Any) -> Prediction:
    values: dict[str, Any] = dict(
        id=id, prompt="Is it?\nSay.", answer="a “dog” 🐕", tokens=3, finished=False, facts={"answers": ["yes"], "kind": None},
        sums={"right": 1.0, "asked": 1.0}, read="yes", marks=((2, 7, "hallucinated"),), pictures=("pictures/a.jpg",),
        changes=("cut: 3 tokens",), options={"yes": -0.5, "no": -1.25},
    )  # fmt: skip
    return Prediction(**values | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_task(tmp_path, MODEL, task(), [prediction("1"), prediction("0", answer="", marks=())])
    return tmp_path


def test_what_was_written_is_read(folder):
    found = read_results(folder)
    assert (found["format"], found["model"]) == (1, MODEL)
    (read,) = found["tasks"].values()
    score = read.scores["accuracy"]
    assert (score.value, score.low) == (0.5, 0.25)
    assert math.isnan(score.high)
    assert read.scores["length"] is None
    assert {**vars(read), "scores": 0} == {**vars(task()), "scores": 0}
    assert read_predictions(folder, read.key) == [prediction("1"), prediction("0", answer="", marks=())]


def test_the_file_is_json_for_everybody(folder):
    """NaN is no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads((folder / "results.json").read_text(), parse_constant=refuse)


def test_tasks_join_others_of_the_model_in_any_order(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for name in ("chair", "pope"):
        write_task(other, MODEL, task(name), [prediction("1")])
    write_task(folder, MODEL, task("chair"), [prediction("1")])
    write_task(folder, MODEL, task("pope"), [prediction("1")])  # in the place of the first
    assert list(read_results(folder)["tasks"]) == ["chair.lmms-eval", "pope.lmms-eval"]
    assert (folder / "results.json").read_bytes() == (other / "results.json").read_bytes()
    assert len(read_predictions(folder, "pope.lmms-eval")) == 1


def test_another_models_results_are_left_alone(folder):
    before = (folder / "results.json").read_bytes()
    with pytest.raises(DataError, match="holds results of another model, a model in float32; choose another folder with --out"):
        write_task(folder, MODEL | {"name": "another", "weights": "bbbb"}, task(), [prediction("1", answer="other")])
    assert (folder / "results.json").read_bytes() == before
    assert read_predictions(folder, "pope.lmms-eval")[0] == prediction("1")


@pytest.mark.parametrize("breaks", ["\u2028", "\u2029", "\x85", "\x0c", "\x1e", "\r", "\n"])
def test_an_answer_may_hold_any_character(tmp_path, breaks):
    """Some of these end a line for Python, none but the last for JSON Lines; models write them now and then."""
    said = [prediction("1", answer=f"one{breaks}two"), prediction("2")]
    write_task(tmp_path, MODEL, task(), said)
    assert read_predictions(tmp_path, "pope.lmms-eval") == said


# --- damage --------------------------------------------------------------------------------------------------------------

DAMAGED = {
    "empty": b"",
    "cut off": b'{"format": 1, "model": {"name": "a", "wei',
    "a list": b"[]",
    "without tasks": b'{"model": {"name": "a", "weights": "aaaa"}}',
    "a list of tasks": b'{"model": {"name": "a", "weights": "aaaa"}, "tasks": []}',
    "a task that is a list": b'{"model": {"name": "a", "weights": "aaaa"}, "tasks": {"pope": []}}',
    "a task without scores": b'{"model": {"name": "a", "weights": "aaaa"}, "tasks": {"pope": {"name": "pope"}}}',
    "no text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_results_are_one_line(folder, damage):
    (folder / "results.json").write_bytes(DAMAGED[damage])
    with pytest.raises(DataError, match=r"results.json: not a file of results .*; delete it and evaluate again"):
        read_results(folder)


@pytest.mark.parametrize("damage", ["empty", "cut off", "a list", "no text"])
def test_nothing_is_added_to_damaged_results(folder, damage):
    (folder / "results.json").write_bytes(DAMAGED[damage])
    with pytest.raises(DataError, match=r"results\.json"):
        write_task(folder, MODEL, task("chair"), [prediction("1")])


def test_a_prediction_that_was_cut_off_is_named_by_its_line(folder):
    file = folder / "predictions" / "pope.lmms-eval.jsonl"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"pope.lmms-eval.jsonl, line 2: not a prediction .*; delete it and evaluate again"):
        read_predictions(folder, "pope.lmms-eval")


@pytest.mark.parametrize("line", [b"[]", b"{}", b'"a"', b'{"id": "1", "pictures": [], "changes": [], "marks": []}', b"\xff\xfe"])
def test_a_line_that_is_no_prediction(folder, line):
    (folder / "predictions" / "pope.lmms-eval.jsonl").write_bytes(line + b"\n")
    with pytest.raises(DataError, match=r"pope.lmms-eval.jsonl.*: not (a prediction|predictions)"):
        read_predictions(folder, "pope.lmms-eval")


def test_a_run_is_no_results_but_has_some(folder):
    below = folder / "evaluation" / "SFT"
    below.mkdir(parents=True)
    (folder / "results.json").rename(below / "results.json")
    with pytest.raises(DataError, match=r"no results there; give one of .*evaluation/SFT"):
        read_results(folder)


def test_nothing_there(tmp_path, folder):
    with pytest.raises(DataError, match="no results there; give a folder that `smolforge evaluate` wrote"):
        read_results(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no predictions there; evaluate again"):
        read_predictions(folder, "chair.lmms-eval")
