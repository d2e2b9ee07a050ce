"""The names that `--help` lists are what there is, and every benchmark is whole: described, asked under both prompts, scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from smolforge.errors import DataError
from smolforge.evals.benchmark import PROTOCOLS, Given, Question
from smolforge.evals.benchmarks import BENCHMARKS, MEASURES
from smolforge.evals.fixtures import FIXTURES, write_fixture
from smolforge.evals.measures import scores
from smolforge.evals.metrics import captions
from smolforge.evals.names import METRICS, TASKS
from smolforge.evals.predictions import score_predictions
from smolforge.evals.results import measure_facts
from smolforge.evals.rows import open_rows

SAME_UNDER_BOTH = {"scenes", "clips", "chair", "object_halbench", "mmhal"}  # VLMEvalKit has none of them, or asks the very words


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR has tests of its own, and its start takes seconds."""
    monkeypatch.setenv("PATH", "")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Question]]:
    """Every fixture's questions, by task and prompts."""
    found = {}
    for name, benchmark in BENCHMARKS.items():
        folder = tmp_path_factory.mktemp(name)
        write_fixture(folder, name)
        rows = open_rows(name, benchmark, None if benchmark.drawn else folder)
        for protocol in PROTOCOLS:
            found[name, protocol] = [benchmark.question(*split(rows[n], protocol)) for n in range(len(rows))]
    return found


def split(opened: tuple[Any, Any], protocol: Any) -> tuple[Any, Any, Any]:
    row, origin = opened
    return row, protocol, origin


def words(question: Question) -> str:
    """Everything that is asked, pictures as one sign."""
    parts = [
        f"<{message.role}>" + "".join(part if isinstance(part, str) else "*" for part in message.content)
        for message in question.record.messages
    ]
    return "".join(parts)


# --- names ---------------------------------------------------------------------------------------------------------------


def test_tasks_are_the_benchmarks_and_preference():
    assert set(TASKS) == {*BENCHMARKS, "preference"} == set(FIXTURES)
    assert len(set(TASKS)) == len(TASKS)
    assert set(MEASURES) == {*TASKS, "predictions"}


def test_every_metric_is_known(tmp_path):
    """It scores, or says what is missing here; only another name is no metric."""
    file = tmp_path / "said.jsonl"
    file.write_text('{"id": 1, "prediction": "a dog", "references": ["a dog", "a dog", "a dog", "a dog"]}\n')
    lacking = {metric for metric in METRICS if metric == "clipscore" or captions.missing([metric])}
    assert lacking == {"clipscore", "meteor", "spice"}
    for metric in METRICS:
        if metric in lacking:
            with pytest.raises(DataError, match="needs"):
                score_predictions(file, (metric,))
        else:
            assert set(score_predictions(file, (metric,)).scores) > {"length"}, "it adds scores of its own"
    with pytest.raises(DataError, match="no metric wer; metrics are bleu, "):
        score_predictions(file, ("wer",))


# --- what each benchmark is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BENCHMARKS)
def test_it_says_what_it_is_and_where_it_comes_from(name):
    benchmark = BENCHMARKS[name]
    for text in (benchmark.about, benchmark.source, benchmark.split):
        assert text
        assert text == text.strip()
        assert "\n" not in text
    assert benchmark.hub or benchmark.rows, "without the Hub it reads a folder of its own"
    assert benchmark.columns or benchmark.rows
    assert bool(benchmark.judge) == bool(benchmark.ratings)


@pytest.mark.parametrize("name", MEASURES)
def test_measures_are_told_as_json(name):
    facts = measure_facts(MEASURES[name])
    assert json.loads(json.dumps(facts)) == facts
    assert list(facts) == list(MEASURES[name])
    for measure, told in facts.items():
        assert measure == measure.strip() != ""
        assert set(told) == {"about", "better", "percent"}
        assert told["about"], measure
        assert told["better"] in ("higher", "lower", "")


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_its_fixture_is_asked(asked, name, protocol):
    questions = asked[name, protocol]
    benchmark = BENCHMARKS[name]
    assert questions
    assert len({question.id for question in questions}) == len(questions)
    for question in questions:
        assert question.record.id == question.id
        assert question.max_new_tokens >= 1
        assert not question.record.responses
        assert json.loads(json.dumps(question.facts)) == question.facts, "facts are kept as JSON"
        assert bool(question.record.media or question.record.videos) == benchmark.pictures
        assert question.record.messages[-1].role in ("user", "assistant")
        assert len(set(question.options)) == len(question.options)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_two_prompts_differ_unless_they_are_meant_to_be_one(asked, name):
    ours, theirs = ([words(question) for question in asked[name, protocol]] for protocol in PROTOCOLS)
    assert len(ours) == len(theirs)
    assert [q.id for q in asked[name, PROTOCOLS[0]]] == [q.id for q in asked[name, PROTOCOLS[1]]]
    if name in SAME_UNDER_BOTH:
        assert ours == theirs
    else:
        assert any(a != b for a, b in zip(ours, theirs))


def nothing(question: Question) -> str:
    return ""


def yes(question: Question) -> str:
    return "yes"


def truth(question: Question) -> str:
    """The right answer, where the facts have one in words."""
    facts = question.facts
    known = facts.get("answer", facts.get("caption", facts.get("answers", facts.get("references", ""))))
    return str(known[0] if isinstance(known, list) and known else known)


SAID: dict[str, Callable[[Question], str]] = {"nothing": nothing, "yes": yes, "the truth": truth}


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_whatever_is_answered_every_score_can_be_computed(asked, name, said):
    """Shares are from 0 to 1, and a bound lies on each side of its value, also where nothing was said."""
    benchmark = BENCHMARKS[name]
    questions = asked[name, "lmms-eval"]
    rated = tuple(-1.0 - n for n in range(len(benchmark.ratings)))
    givens = [
        Given(text=SAID[said](one), tokens=2, logprobs=tuple(-1.0 - n for n in range(len(one.options))), ratings=rated)
        for one in questions
    ]
    scored = benchmark.score(questions, givens)
    assert len(scored) == len(questions)
    for one, given in zip(scored, givens, strict=True):
        assert all(np.isfinite(float(count)) for count in one.sums.values()), one.sums
        assert all(0 <= start < end <= len(given.text) for start, end, _ in one.marks)
    known = {count for one in scored for count in one.sums}
    measures = {key: measure for key, measure in benchmark.measures.items() if not measure.needs or measure.needs in known}
    found = scores([one.sums for one in scored], measures)
    assert any(score is not None for score in found.values())
    for measure, score in found.items():
        if score is not None:
            assert score.low <= score.high, measure
            assert not measures[measure].percent or 0 <= score.value <= 1, f"{measure}: {score}"
