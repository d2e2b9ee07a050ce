"""Answers to questions: planned in groups, generated, and kept by content, so that nothing is generated twice.

The key of an answer is made of the prompt's tokens and its pictures; the store's, of the weights.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import Progress

from smolforge.data.features import cache_folder
from smolforge.data.pipeline import NAMED, decode_pictures
from smolforge.data.render import Example
from smolforge.errors import DataError, ModelError
from smolforge.evals import pictures
from smolforge.evals.benchmark import Benchmark, Given, Question
from smolforge.evals.rows import evenly
from smolforge.generation import Answer, Sampling, continue_group, plan
from smolforge.loading import Loaded
from smolforge.machine import versions
from smolforge.model.adapters import weights_fingerprint
from smolforge.records import Record, Response, fingerprint
from smolforge.store import Store

FORMAT = 2  # raise it when the same prompt and weights would give another answer
RESERVE = 64  # positions that a long prompt leaves free; an answer may take all that are left


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
    weights = weights_fingerprint({"model": loaded.model.model}, adapters=True)
    dtype = str(loaded.model.dtype)
    file = cache_folder(cache) / "answers" / f"{fingerprint(FORMAT, weights, dtype, loaded.device.type)}.sqlite"
    about = {"weights": weights, "dtype": dtype, "device": loaded.device.type}
    return Measured(name=name, loaded=loaded, weights=weights, answers=Store(file, about=about, what="answers"))


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
    """
    prompts: list[Example] = []
    asked: list[Question] = []
    for question in questions:
        try:
            example = model.loaded.renderer.render(_with_options(question), reserve=min(question.max_new_tokens, RESERVE))
        except DataError as error:
            skips.add(error.what, f"{what}[{question.id}]: {error}")
            continue
        for change in example.changes:
            skips.add(f"{change.split(':')[0]} (asked all the same)", f"{what}[{question.id}]: {change}")
        asked.append(question)
        prompts.append(_without_pixels(example))
    pictured = {asked[number].id for number in evenly(len(asked), pictures.MOST)} if out is not None else set()
    keys = [fingerprint(prompt.key, question.max_new_tokens) for prompt, question in zip(prompts, asked)]
    distinct = list({key: number for number, key in reversed([*enumerate(keys)])}.values())[::-1]  # one prompt is asked once
    room = max((question.max_new_tokens for question in asked), default=0)
    groups = [[distinct[place] for place in group] for group in plan([prompts[number] for number in distinct], room)]
    broken: dict[int, DataError] = {}
    fresh = 0
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar, ThreadPoolExecutor(1) as ahead:
        shown = bar.add_task(what, total=len(distinct))
        todo = [[number for number in group if keys[number] in model.answers.missing([keys[number]])] for group in groups]
        bar.advance(shown, len(distinct) - sum(map(len, todo)))
        todo = [group for group in todo if group]
        prepared = ahead.submit(_prepare, model, [asked[n] for n in todo[0]], out, pictured) if todo else None
        told, began = time.monotonic(), time.monotonic()
        for number, group in enumerate(todo):
            assert prepared is not None
            ready, failed = prepared.result()
            if number + 1 < len(todo):
                prepared = ahead.submit(_prepare, model, [asked[n] for n in todo[number + 1]], out, pictured)
            broken |= {group[place]: why for place, why in failed.items()}
            going = [n for place, n in enumerate(group) if place not in failed]
            if going:
                limits = [asked[n].max_new_tokens for n in going]
                sampling = Sampling(max_new_tokens=max(limits))
                got = continue_group(model.loaded.model, model.loaded.renderer, ready, sampling, limits=limits)
                model.answers.put({keys[n]: _to_bytes(one) for n, one in zip(going, got)})
            fresh += len(going)
            bar.advance(shown, len(group))
            if not console.is_terminal and time.monotonic() - told > 10:
                told, left = time.monotonic(), sum(map(len, todo[number + 1 :]))
                rate = fresh / (told - began)
                console.print(f"{what}: {left:,} questions left, {left / rate:.0f} s", highlight=False, soft_wrap=True)
    unread = {keys[n]: why for n, why in broken.items()}
    for question, key in zip(asked, keys):
        if key in unread:
            skips.add(unread[key].what, f"{what}[{question.id}]: {unread[key]}")
    kept = model.answers.get([key for key in keys if key not in unread])
    answers = {
        question.id: Kept(
            answer=_from_bytes(kept[key]),
            changes=prompt.changes,
            pictures=pictures.names(prompt) if question.id in pictured else (),
        )
        for question, prompt, key in zip(asked, prompts, keys)
        if key in kept
    }
    if out is not None:
        for question in asked:
            if question.id in answers:
                pictures.copy_missing(out, question.record, answers[question.id].pictures)
    return answers, fresh


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


def _with_options(question: Question) -> Record:
    options = tuple(Response(text=option, kind="option", closes=False) for option in question.options)
    return replace(question.record, responses=options)


def _prepare(
    model: Measured, questions: Sequence[Question], out: Path | None, pictured: Collection[str]
) -> tuple[list[Example], dict[int, DataError]]:
    """Prompts with their pictures decoded, in order, and by place those whose pictures cannot be.

    Args:
        pictured: ids of the questions whose pictures are copied to `out`.
    """
    ready: list[Example] = []
    failed: dict[int, DataError] = {}
    decoded: dict = {}
    for place, question in enumerate(questions):
        reserve = min(question.max_new_tokens, RESERVE)
        try:
            example = decode_pictures(model.loaded.renderer.render(_with_options(question), reserve=reserve), decoded)
            if out is not None and question.id in pictured:
                pictures.copy(out, [image.picture for image in example.images])
        except DataError as error:
            failed[place] = error
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
