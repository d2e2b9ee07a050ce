"""Two folders of results by hand: what changed, and which answers got worse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from smolforge.errors import DataError
from smolforge.evals.comparing import compare
from smolforge.evals.measures import Measure, Score, ratio, scores
from smolforge.evals.results import Prediction, Task, measure_facts, write_task

MEASURES: dict[str, Measure] = {
    "accuracy": Measure(about="right answers", of=ratio("right", "asked")),
    "invented": Measure(about="objects that are not there", of=ratio("wrong", "named"), better="lower"),
    "yes": Measure(about="answers that say yes", of=ratio("yes", "asked"), better=""),
}
KNOWN = {"toys": MEASURES}
Sums = Mapping[str, float]


def results(folder: Path, sums: Mapping[str, Sums], *, name: str = "toys", measures: tuple[str, ...] = tuple(MEASURES)) -> Path:
    """A folder as `evaluate` leaves it: what each question adds, by its id."""
    chosen = {one: MEASURES[one] for one in measures}
    task = Task(
        name=name, prompts="lmms-eval", data="here", questions=len(sums), limit=None, skipped={}, named=[], notes=[],
        scores=scores(list(sums.values()), chosen), measures=measure_facts(chosen),
    )  # fmt: skip
    predictions = [
        Prediction(id=id, prompt="?", answer=f"{folder.name} {id}", tokens=1, finished=True, facts={}, sums=dict(one))
        for id, one in sums.items()
    ]
    write_task(folder, {"name": folder.name, "weights": folder.name}, task, predictions)
    return folder


def right(*answers: float) -> dict[str, Sums]:
    return {str(number): {"right": one, "asked": 1.0} for number, one in enumerate(answers)}


def test_what_changed_on_the_questions_that_both_answered(tmp_path):
    """Questions 0 to 3 are shared: 1 of 4 right before, 3 of 4 after; question 4 and question "new" count for neither."""
    before = results(tmp_path / "before", right(1, 0, 0, 0, 1), measures=("accuracy",))
    after = results(tmp_path / "after", {"new": {"right": 1.0, "asked": 1.0}, **right(0, 1, 1, 1)}, measures=("accuracy",))
    (compared,) = compare(before, after, KNOWN).values()
    change = compared.changes["accuracy"]
    assert change.before is not None
    assert change.after is not None
    assert change.difference is not None
    assert (change.before.value, change.after.value, change.difference.value) == (0.25, 0.75, 0.5)
    assert (change.difference.low, change.difference.high) == (-0.5, 1.0)  # resamples of -1, 1, 1, 1, for the rest see measures
    assert not change.certain
    assert compared.alone == (1, 1)
    assert [(pair.before.id, pair.gain) for pair in compared.pairs] == [("0", -1.0), ("1", 1.0), ("2", 1.0), ("3", 1.0)]
    assert (compared.pairs[0].before.answer, compared.pairs[0].after.answer) == ("before 0", "after 0")


def test_answers_are_met_by_their_ids_not_by_their_place(tmp_path):
    before = results(tmp_path / "before", right(1, 0), measures=("accuracy",))
    after = results(tmp_path / "after", dict(reversed(right(1, 0).items())), measures=("accuracy",))
    (compared,) = compare(before, after, KNOWN).values()
    assert compared.changes["accuracy"].difference == Score(value=0, low=0, high=0)
    assert {pair.gain for pair in compared.pairs} == {0.0}


def test_a_change_that_every_answer_shares_is_certain(tmp_path):
    before = results(tmp_path / "before", right(0, 0, 0), measures=("accuracy",))
    after = results(tmp_path / "after", right(1, 1, 1), measures=("accuracy",))
    (compared,) = compare(before, after, KNOWN).values()
    assert compared.changes["accuracy"].difference == Score(value=1, low=1, high=1)
    assert compared.changes["accuracy"].certain


def test_of_a_score_that_should_fall_a_rise_is_worse(tmp_path):
    """Question 0 invents two of two instead of none, question 1 none instead of one; question 2 names nothing at first, so that
    nothing can be said of it."""
    was = {"0": {"named": 2.0}, "1": {"named": 1.0, "wrong": 1.0}, "2": {"named": 0.0}}
    become = {"0": {"named": 2.0, "wrong": 2.0}, "1": {"named": 1.0}, "2": {"named": 1.0, "wrong": 1.0}}
    before, after = (
        results(tmp_path / folder, sums, measures=("invented",)) for folder, sums in (("before", was), ("after", become))
    )
    (compared,) = compare(before, after, KNOWN).values()
    assert [(pair.before.id, pair.gain) for pair in compared.pairs] == [("0", -1.0), ("2", 0.0), ("1", 1.0)]
    change = compared.changes["invented"].difference
    assert change is not None
    assert change.value == pytest.approx(3 / 4 - 1 / 3)


def test_a_score_that_one_of_them_cannot_have(tmp_path):
    before = results(tmp_path / "before", {"0": {"named": 0.0}}, measures=("invented",))
    after = results(tmp_path / "after", {"0": {"named": 1.0}}, measures=("invented",))
    (compared,) = compare(before, after, KNOWN).values()
    change = compared.changes["invented"]
    assert (change.before, change.after, change.difference) == (None, Score(value=0, low=0, high=0), None)
    assert not change.certain


def test_only_scores_and_tasks_that_both_have(tmp_path):
    before = results(tmp_path / "before", right(1, 0), measures=("accuracy", "yes"))
    after = results(tmp_path / "after", right(1, 1), measures=("accuracy",))
    results(before, right(1, 1), name="more")
    assert list(compare(before, after, KNOWN)) == ["toys.lmms-eval"]
    assert list(compare(before, after, KNOWN)["toys.lmms-eval"].changes) == ["accuracy"]


def test_nothing_in_common(tmp_path):
    before = results(tmp_path / "before", right(1))
    other_task = results(tmp_path / "task", right(1), name="more")
    other_questions = results(tmp_path / "questions", {"x": {"right": 1.0, "asked": 1.0}})
    with pytest.raises(DataError, match=r"no task in common: toys.lmms-eval against more.lmms-eval; evaluate both models with"):
        compare(before, other_task, KNOWN)
    with pytest.raises(DataError, match=r"no question of toys.lmms-eval in common; evaluate the same data"):
        compare(before, other_questions, KNOWN)
    with pytest.raises(DataError, match="no results there"):
        compare(before, tmp_path / "elsewhere", KNOWN)


def test_a_task_without_a_shared_question_is_left_out_beside_others(tmp_path):
    before = results(tmp_path / "before", right(1))
    after = results(tmp_path / "after", right(0))
    for folder, id in ((before, "a"), (after, "b")):
        results(folder, {id: {"right": 1.0, "asked": 1.0}}, name="more")
    assert list(compare(before, after, KNOWN | {"more": MEASURES})) == ["toys.lmms-eval"]


def test_no_score_in_common(tmp_path):
    """As another version may have left it: two folders of one task whose scores have other names."""
    before = results(tmp_path / "before", right(1), measures=("accuracy",))
    after = results(tmp_path / "after", right(0), measures=("yes",))
    (compared,) = compare(before, after, KNOWN).values()
    assert compared.changes == {}
    assert [pair.gain for pair in compared.pairs] == [0.0]


def test_one_id_and_another_question_are_not_compared(tmp_path):
    """Ids may be numbers of rows: of two folders of data they name different questions."""
    before, after = (results(tmp_path / name, right(1, 0)) for name in ("before", "after"))
    file = after / "predictions" / "toys.lmms-eval.jsonl"
    file.write_text(file.read_text().replace('"prompt": "?"', '"prompt": "!"', 1))
    (compared,) = compare(before, after, KNOWN).values()
    assert ([pair.before.id for pair in compared.pairs], compared.alone) == (["1"], (1, 1))
    file.write_text(file.read_text().replace('"facts": {}', '"facts": {"answer": "yes"}'))
    with pytest.raises(DataError, match=r"no question of toys.lmms-eval in common"):
        compare(before, after, KNOWN)
