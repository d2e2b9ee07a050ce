"""Asking a tiny model: what is answered, kept, counted and shown. The questions are toys about drawn pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from smolforge.data.batch import collate
from smolforge.data.pipeline import prepare
from smolforge.data.sources.scenes import scene
from smolforge.data.sources.shapes import media
from smolforge.errors import DataError, ModelError
from smolforge.evals.answers import Measured, Skips, measured
from smolforge.evals.benchmark import Benchmark, Given, Origin, Protocol, Question, Row, Scored
from smolforge.evals.measures import Measure, ratio
from smolforge.evals.results import Prediction, Task, read_predictions
from smolforge.evals.rows import Rows, sample
from smolforge.evals.runner import ask, run_task
from smolforge.generation import Sampling, generate
from smolforge.loading import Loaded, load
from smolforge.records import Message, Part, Record, Response

LOGPROB = 2e-5  # nats, between a prompt alone and among others; worst seen 1.9e-6


def question(row: Row, protocol: Protocol, origin: Origin) -> Question:
    """A row {"id", "images", "question"}, and what it may say of its options and its longest answer."""
    if row.get("refused"):
        raise DataError("a refused row", where=f"{origin.name}[{origin.number}]", mend="leave it out")
    content: tuple[Part, ...] = (*(media(image, origin.base) for image in row["images"]), row["question"])
    record = Record(id=row["id"], source=origin.name, messages=(Message(role="user", content=content),), responses=())
    most = row.get("max_new_tokens", 8)
    return Question(
        id=row["id"], record=record, max_new_tokens=most, facts={"row": origin.number}, options=row.get("options", ())
    )


def score(questions: Sequence[Question], givens: Sequence[Given]) -> list[Scored]:
    return [
        Scored(sums={"asked": 1.0, "tokens": float(given.tokens)} | {f"rated {n}": r for n, r in enumerate(given.ratings)})
        for given in givens
    ]


TOY = Benchmark(
    about="toys", source="here", hub="", split="test", columns=(), question=question, score=score,
    measures={
        "length": Measure(about="tokens", of=ratio("tokens", "asked"), percent=False),
        "rating": Measure(about="log-prob of the lowest", of=ratio("rated 0", "asked"), needs="rated 0"),
    },
)  # fmt: skip


def picture(number: int) -> Image.Image:
    return scene(0, number, "test").draw()


def row(id: str, *images: Any, question: str = "What is there?", **more: Any) -> Row:
    return {"id": id, "images": images, "question": question} | more


def opened(*rows: Row, base: Path | None = None) -> Rows:
    return Rows(name="toys", where="a box", base=base, tables=[("", list(rows))])


NINE = tuple(
    row(f"{n}-{place}", picture(n), question=words, options=("red", "blue circle"))
    for n in range(3)
    for place, words in enumerate(("What is red?", "What is blue and round?", "How many?"))
)


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> Loaded:
    return load(str(tiny), device="cpu")


@pytest.fixture
def model(loaded: Loaded, tmp_path: Path) -> Measured:
    """With an empty store of answers."""
    return measured("tiny", loaded, tmp_path / "cache")


Run = Callable[..., tuple[Task, dict[str, Prediction]]]


@pytest.fixture
def run(model: Measured, tmp_path: Path) -> Run:
    """Run a task on some rows: the task and its predictions by id."""

    def run(*rows: Row, out: str = "out", benchmark: Benchmark = TOY, model: Measured = model, **settings: Any) -> Any:
        folder = tmp_path / out
        console = Console(quiet=True)
        base = settings.pop("base", None)
        task = run_task(
            model, "toys", benchmark, opened(*rows, base=base), folder, protocol="lmms-eval", console=console, **settings
        )
        return task, {one.id: one for one in read_predictions(folder, task.key)}

    return run


def cost(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "cost.json").read_text())["toys.lmms-eval"]


# --- answers -------------------------------------------------------------------------------------------------------------


def test_questions_about_a_picture_are_answered_together_as_alone(run, loaded, tmp_path):
    """Three a picture run on one prompt's shared start; alone, each of them has its own."""
    _, together = run(*NINE)
    assert list(together) == [one["id"] for one in NINE]
    for number, one in enumerate(NINE):
        alone = measured("tiny", loaded, tmp_path / f"cache{number}")
        _, found = run(one, out=f"out{number}", model=alone)
        assert found[one["id"]].answer == together[one["id"]].answer
        assert found[one["id"]].options == pytest.approx(together[one["id"]].options, abs=LOGPROB)
    assert len({one.answer for one in together.values()}) > 3, "answers that are all alike would show nothing"


def test_an_answer_is_that_of_generate(run, loaded):
    _, found = run(*NINE)
    records = [question(one, "lmms-eval", Origin(name="toys")).record for one in NINE]
    plain = generate(
        loaded.model, loaded.renderer, [prepare(r, loaded.renderer, reserve=8) for r in records], Sampling(max_new_tokens=8)
    )
    assert [one.text for one in plain] == [one.answer for one in found.values()]
    assert [one.tokens for one in plain] == [one.tokens for one in found.values()]


def test_options_are_told_with_their_logprobs(run, loaded):
    """Nats of the option's own tokens, as a response that is not closed is scored in training."""
    _, found = run(NINE[0])
    record = question(NINE[0], "lmms-eval", Origin(name="toys")).record
    responses = tuple(Response(text=text, closes=False) for text in NINE[0]["options"])
    batch = collate([prepare(replace(record, responses=responses), loaded.renderer)])
    with torch.no_grad():
        each = loaded.model(batch)
    plain = torch.zeros(2).index_add(0, batch.response_ids, each)
    assert list(found["0-0"].options) == ["red", "blue circle"]
    assert list(found["0-0"].options.values()) == pytest.approx(plain.tolist(), abs=LOGPROB)


def test_a_question_is_answered_with_no_more_tokens_than_it_allows(run):
    """Short and long answers side by side, as AMBER's yes and no beside its descriptions."""
    rows = [row(f"{most}", picture(0), question=f"Say {most}.", max_new_tokens=most) for most in (3, 24, 5)]
    _, found = run(*rows)
    assert {id: one.tokens <= int(id) for id, one in found.items()} == {"3": True, "24": True, "5": True}
    assert found["24"].tokens > 5


def test_the_same_prompt_twice_is_two_questions(run, tmp_path):
    task, found = run(row("a", picture(0)), row("b", picture(0)))
    assert found["a"].answer == found["b"].answer
    assert task.questions == 2


# --- kept ----------------------------------------------------------------------------------------------------------------


def test_answers_are_kept_for_any_folder(run, tmp_path):
    first, _ = run(*NINE, out="a")
    assert (cost(tmp_path / "a")["questions"], cost(tmp_path / "a")["generated"]) == (9, 9)
    second, _ = run(*NINE, out="b")
    assert cost(tmp_path / "b")["generated"] == 0
    for file in sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*") if file.is_file()):
        if file.name != "cost.json":
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    assert first == second


def test_another_question_picture_or_limit_is_another_answer(run, tmp_path):
    run(row("a", picture(0)))
    changed = (row("a", picture(1)), row("a", picture(0), question="Where?"), row("a", picture(0), max_new_tokens=9))
    for number, one in enumerate((*changed, row("b", picture(0)))):
        run(one, out=f"out{number}")
        assert cost(tmp_path / f"out{number}")["generated"] == (1 if number < 3 else 0)


def test_what_a_run_took_stands_apart(run, tmp_path):
    run(*NINE)
    found = cost(tmp_path / "out")
    assert found["seconds"] > 0
    assert found["peak_memory_bytes"] > 10_000_000
    assert "seconds" not in (tmp_path / "out" / "results.json").read_text()


# --- which rows ----------------------------------------------------------------------------------------------------------


def test_a_limit_is_a_sample(run):
    """The same each time, and no stride: of rows that alternate between yes and no it has both."""
    rows = [row(str(number), picture(0), question=f"{number}?") for number in range(10)]
    task, found = run(*rows, limit=3)
    numbers = sample(10, 3)
    assert (list(found), task.questions, task.limit) == ([*map(str, numbers)], 3, 3)
    assert [one.facts for one in found.values()] == [{"row": number} for number in numbers]
    assert 0.4 < sum(number % 2 for number in sample(9000, 500)) / 500 < 0.6
    assert len(set(sample(9000, 500))) == 500
    task, found = run(*rows, limit=99)
    assert (task.questions, task.limit) == (10, 99)


def test_rows_that_cannot_be_asked_are_counted_and_named(run, tmp_path):
    """The others are answered as if those were not there."""
    picture(0).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    good = [row("a", "whole.png"), row("b", picture(1))]
    task, found = run(
        good[0], {"id": "x", "question": "without pictures"}, row("y", picture(0), refused=True), row("cut", "cut.png"),
        row("gone", "gone.png"), good[1], row("number", 7), row("cut again", "cut.png", question="And here?"), base=tmp_path,
    )  # fmt: skip
    assert list(found) == ["a", "b"]
    assert task.questions == 2
    assert sum(task.skipped.values()) == 6
    assert task.skipped["a malformed row"] == 1
    assert task.skipped["a refused row"] == 1
    lines = "\n".join(task.named)
    for words in (
        "toys[1]: a malformed row (KeyError: 'images')",
        "toys[2]: a refused row; leave it out",
        "toys[cut]",
        "gone.png",
    ):
        assert words in lines or words.replace("toys[2]: ", "toys[2]: toys[2]: ") in lines, words
    _, alone = run(*good, out="alone", base=tmp_path)
    assert [one.answer for one in alone.values()] == [one.answer for one in found.values()]


def test_a_picture_that_cannot_be_read_is_tried_again(run, tmp_path):
    """It is not kept as answered; mended, it is asked."""
    picture(0).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:200])
    rows = (row("a", "a.png"), row("b", picture(1)))
    for _ in range(2):
        task, found = run(*rows, base=tmp_path)
        assert (list(found), sum(task.skipped.values())) == (["b"], 1)
    (tmp_path / "a.png").write_bytes(whole)
    task, found = run(*rows, base=tmp_path)
    assert (list(found), task.skipped) == (["a", "b"], {})


def test_no_row_that_can_be_asked(run, tmp_path):
    with pytest.raises(DataError, match=r"a box: no question can be asked: toys\[0\]: .*a refused row"):
        run(row("a", refused=True), row("b", refused=True))
    (tmp_path / "cut.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a box: no question can be asked: .*cut.png"):
        run(row("a", "cut.png"), base=tmp_path)
    assert not (tmp_path / "out" / "results.json").exists()


def test_two_rows_with_one_id(run):
    rows = (row("a", picture(0)), row("b", picture(0)), row("a", picture(1)))
    with pytest.raises(DataError, match="a box, rows 0 and 2: two rows with the id a; give each row its own id"):
        run(*rows)
    skips, asked = Skips(), sample(3, 2)
    assert [one.id for one in ask(TOY, opened(*rows), "lmms-eval", 2, skips)] == ["aba"[number] for number in asked]
    assert asked != [0, 2], "the double id would be asked"


def test_a_prompt_that_is_too_long_is_cut_and_counted(run):
    """The tiny model has 2,048 positions."""
    task, found = run(row("long", picture(0), question="word " * 3000), row("short", picture(0)))
    assert list(found) == ["long", "short"]
    assert found["short"].changes == ()
    assert found["long"].changes
    ((reason, count),) = task.skipped.items()
    assert reason.endswith("(asked all the same)")
    assert count == len(found["long"].changes) == 1
    assert task.named == [f"toys[long]: {found['long'].changes[0]}"]


# --- what is shown -------------------------------------------------------------------------------------------------------


def test_small_pictures_are_kept_of_a_question(run, tmp_path):
    """Of more than four, as a video has, four; large ones are made small."""
    large = picture(9).resize((1000, 500))
    _, found = run(row("one", large), row("six", *map(picture, range(6))), row("none"))
    assert [len(found[id].pictures) for id in ("one", "six", "none")] == [1, 4, 0]
    files = sorted((tmp_path / "out" / "pictures").iterdir())
    assert [f"pictures/{file.name}" for file in files] == sorted({name for one in found.values() for name in one.pictures})
    with Image.open(tmp_path / "out" / found["one"].pictures[0]) as shown:
        assert shown.size == (320, 160)


def test_a_prediction_tells_what_was_asked(run):
    _, found = run(row("a", picture(0), question="What is\nthere?"))
    one = found["a"]
    assert one.prompt == "What is\nthere?"
    assert (one.sums["tokens"], one.sums["asked"], one.finished) == (one.tokens, 1, one.tokens < 8)


def test_a_judge_rates_the_answers(run, loaded, model, tmp_path):
    """Its log-probs of the ratings reach the scores; without it the rating is no score at all."""
    judging = replace(
        TOY, ratings=("0", "1", "2"),
        judge=lambda asked, given: replace(
            asked.record, messages=(Message(role="user", content=(f"Rate: {given.text}",)),)
        ),
    )  # fmt: skip
    without, _ = run(*NINE, benchmark=judging)
    assert list(without.scores) == ["length"]
    judge = measured("a judge", loaded, tmp_path / "judge")
    rated, found = run(*NINE, benchmark=judging, judge=judge)
    assert rated.notes == ["rated by a judge"]
    assert all(one.sums[f"rated {n}"] < 0 for one in found.values() for n in range(3))
    assert rated.scores["rating"] is not None
    again, _ = run(*NINE, benchmark=judging, judge=judge)
    assert again == rated


def test_a_text_model_is_not_asked_about_pictures(run, loaded, tmp_path):
    blind = replace(loaded, renderer=replace(loaded.renderer, images=None))
    with pytest.raises(ModelError, match="blind, toys: a text model, and the task is about pictures; choose another task"):
        run(*NINE, model=measured("blind", blind, tmp_path / "blind"))
    run(row("a", question="Hello?"), model=measured("blind", blind, tmp_path / "blind"), benchmark=replace(TOY, pictures=False))
