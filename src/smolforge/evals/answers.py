"""Answers to questions: planned in groups, generated, and kept by content, so that nothing is generated twice.

The key of an answer is made of the prompt's tokens and its pictures; the store's, of the weights.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import Progress

from smolforge.data.features import cache_folder
from smolforge.data.pipeline import decode_pictures
from smolforge.data.render import Example
from smolforge.data.tally import NAMED
from smolforge.errors import DataError, ModelError
from smolforge.evals import pictures
from smolforge.evals.benchmark import Benchmark, Given, Question
from smolforge.evals.rows import sample
from smolforge.generation import Answer, Sampling, continue_group, plan
from smolforge.loading import Loaded
from smolforge.machine import versions
from smolforge.model.adapters import weights_fingerprint
from smolforge.records import Response, fingerprint
from smolforge.store import Store
from smolforge.wording import how_many

FORMAT = 2  # raise it when the same prompt and weights would give another answer
SAY_SECONDS = 10  # between lines where no bar can be drawn
RESERVE = 64  # positions that a long prompt leaves free; an answer may take all that are left

Group = list[tuple[str, Question]]  # questions that are answered side by side, and the keys of their answers


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A model to be measured, with what it has answered before."""

    name: str
    loaded: Loaded
    weights: str  # fingerprint, adapters included
    answers: Store

    @property
    def facts(self) -> dict[str, object]:
        """What results say of it."""
        dtype = str(self.loaded.model.dtype).removeprefix("torch.")
        return {"name": self.name, "weights": self.weights, "dtype": dtype, "versions": versions()}


@dataclass
class Skips:
    """What was left out or changed, counted and named."""

    reasons: Counter[str] = field(default_factory=Counter)
    named: list[str] = field(default_factory=list)

    def add(self, reason: str, line: str) -> None:
        self.reasons[reason] += 1
        if len(self.named) < NAMED:
            self.named.append(line)


def measured(name: str, loaded: Loaded, cache: Path | None = None) -> Measured:
    """A model with the store of its answers.

    Args:
        cache: folder of what is kept for all runs; ~/.cache/smolforge when left out.
    """
    renderer = loaded.renderer
    virtual = {} if loaded.model.virtual is None else {"virtual": loaded.model.virtual}
    about = {
        "weights": weights_fingerprint({"model": loaded.model.model} | virtual, adapters=True),
        "dtype": str(loaded.model.dtype),
        "device": loaded.device.type,
        "words": fingerprint(renderer.tokenizer.to_str(), renderer.context),
        "versions": fingerprint(versions()),
    }
    file = cache_folder(cache) / "answers" / f"{fingerprint(FORMAT, about)}.sqlite"
    return Measured(name=name, loaded=loaded, weights=about["weights"], answers=Store(file, about=about, what="answers"))


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An answer as the store keeps it, and what this run knows of its prompt."""

    answer: Answer
    changes: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()


def answer(
    model: Measured, questions: Sequence[Question], skips: Skips, console: Console, what: str, out: Path | None
) -> tuple[dict[str, Kept], int]:
    """Answers by question id, and how many were generated now; the others were kept from before.

    Args:
        out: folder of results, for small copies of the pictures; None keeps none.

    Raises:
        ModelError: the model computes NaN.
    """
    asked, prompts = _rendered(model, questions, skips, what)
    keys = [fingerprint(prompt.key, question.max_new_tokens) for prompt, question in zip(prompts, asked)]
    copies = {asked[number].id: out for number in sample(len(asked), pictures.MOST)} if out is not None else {}
    distinct = list({key: number for number, key in reversed([*enumerate(keys)])}.values())[::-1]  # one prompt is asked once
    room = max((question.max_new_tokens for question in asked), default=0)
    absent = model.answers.missing(keys)
    groups = ([distinct[place] for place in group] for group in plan([prompts[number] for number in distinct], room))
    todo = [[(keys[number], asked[number]) for number in group if keys[number] in absent] for group in groups]
    broken, fresh = _generate(model, [group for group in todo if group], len(distinct), copies, console, what)
    for question, key in zip(asked, keys):
        if key in broken:
            skips.add(broken[key].what, f"{what}[{question.id}]: {broken[key]}")
    kept = model.answers.get([key for key in keys if key not in broken])
    answers = {
        question.id: Kept(
            answer=_from_bytes(kept[key]),
            changes=prompt.changes,
            pictures=pictures.names(prompt) if question.id in copies else (),
        )
        for question, prompt, key in zip(asked, prompts, keys)
        if key in kept
    }
    for question in asked:
        if question.id in copies and question.id in answers:
            pictures.copy_missing(copies[question.id], question.record, answers[question.id].pictures)
    return answers, fresh


def _rendered(model: Measured, questions: Sequence[Question], skips: Skips, what: str) -> tuple[list[Question], list[Example]]:
    """The questions that can be asked, and their prompts without pixels; what gave way is counted."""
    asked, prompts = [], []
    for question in questions:
        try:
            example = _render(model, question)
        except DataError as error:
            skips.add(error.what, f"{what}[{question.id}]: {error}")
            continue
        for change in example.changes:
            skips.add(f"{change.split(':')[0]} (asked all the same)", f"{what}[{question.id}]: {change}")
        asked.append(question)
        prompts.append(_without_pixels(example))
    return asked, prompts


def _generate(
    model: Measured, groups: Sequence[Group], total: int, copies: Mapping[str, Path], console: Console, what: str
) -> tuple[dict[str, DataError], int]:
    """Answer groups of questions and keep each group's answers at once; the next group is decoded meanwhile.

    Args:
        groups: questions that go on side by side, each with the key that its answer is kept by.
        total: questions, those that were answered before included.
        copies: folder for small copies of a question's pictures, by its id.

    Returns:
        Why the prompts that could not be decoded could not, by key; and how many answers were generated.
    """
    broken: dict[str, DataError] = {}
    fresh, left = 0, sum(map(len, groups))
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar, ThreadPoolExecutor(1) as ahead:
        shown = bar.add_task(what, total=total, completed=total - left)
        prepared = [ahead.submit(_prepare, model, group, copies) for group in groups[:1]]
        told = began = time.monotonic()
        for number, group in enumerate(groups):
            ready, failed = prepared.pop().result()
            prepared = [ahead.submit(_prepare, model, after, copies) for after in groups[number + 1 : number + 2]]
            broken |= failed
            going = [(key, question) for key, question in group if key not in failed]
            if going:
                limits = [question.max_new_tokens for _, question in going]
                sampling = Sampling(max_new_tokens=max(limits))
                got = continue_group(model.loaded.model, model.loaded.renderer, ready, sampling, limits=limits)
                model.answers.put({key: _to_bytes(one) for (key, _), one in zip(going, got)})
            fresh, left = fresh + len(going), left - len(group)
            bar.advance(shown, len(group))
            if not console.is_terminal and fresh and time.monotonic() - told > SAY_SECONDS:
                told = time.monotonic()
                words = f"{what}: {how_many(left, 'question')} left, {left * (told - began) / fresh:.0f} s"
                console.print(words, highlight=False, soft_wrap=True)
    return broken, fresh


def rate(
    judge: Measured, benchmark: Benchmark, questions: Sequence[Question], given: Sequence[Given], skips: Skips, console: Console
) -> list[Given]:
    """The answers with the judge's log-probs of each rating."""
    assert benchmark.judge is not None
    asked = [
        Question(id=question.id, record=benchmark.judge(question, got), max_new_tokens=1, facts={}, options=benchmark.ratings)
        for question, got in zip(questions, given)
    ]
    if any(question.record.media for question in asked) and judge.loaded.renderer.images is None:
        raise ModelError("a text model, and it should judge pictures", where=judge.name, mend="choose another judge")
    ratings, _ = answer(judge, asked, skips, console, "judging", None)
    return [
        replace(got, ratings=ratings[question.id].answer.logprobs) if question.id in ratings else got
        for question, got in zip(questions, given)
    ]


def _render(model: Measured, question: Question) -> Example:
    """A question's prompt with its options as branches. Raises DataError."""
    options = tuple(Response(text=option, kind="option", closes=False) for option in question.options)
    record = replace(question.record, responses=options)
    return model.loaded.renderer.render(record, reserve=min(question.max_new_tokens, RESERVE))


def _prepare(model: Measured, group: Group, copies: Mapping[str, Path]) -> tuple[list[Example], dict[str, DataError]]:
    """Prompts with their pictures decoded, in order, and by key those whose pictures cannot be."""
    ready: list[Example] = []
    failed: dict[str, DataError] = {}
    decoded: dict = {}
    for key, question in group:
        try:
            example = decode_pictures(_render(model, question), decoded)
            if question.id in copies:
                pictures.copy(copies[question.id], [image.picture for image in example.images])
        except DataError as error:
            failed[key] = error
            continue
        ready.append(example)
    return ready, failed


def _without_pixels(example: Example) -> Example:
    """What planning needs: a whole benchmark's pictures would fill the memory."""

    def gone() -> Image.Image:
        raise AssertionError("pixels of a picture that was only planned")

    return replace(example, images=tuple(replace(i, picture=replace(i.picture, pixels=gone)) for i in example.images))


def _to_bytes(answer: Answer) -> bytes:
    values = {key: value for key, value in asdict(answer).items() if key != "changes"}
    return json.dumps(values).encode()


def _from_bytes(kept: bytes) -> Answer:
    values = json.loads(kept)
    return Answer(**values | {"logprobs": tuple(values["logprobs"])})
