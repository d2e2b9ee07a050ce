"""A question on the page: its pictures, what each model said with invented words marked, and what would have been right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from smolforge.evals.results import Prediction
from smolforge.report.page import Html, join, markup, picture, tag
from smolforge.wording import how_many

SHOTS = 6  # pictures of a question that are shown; a video has many
LONGEST = 700  # characters of a fact
NAMES = {  # what benchmarks call the facts of a question -> what a reader calls them
    "answer": "expected", "answers": "expected", "references": "expected", "caption": "expected", "truth": "expected",
    "gt_answer": "expected", "objects": "objects in the picture", "content": "objects in the picture",
    "hallu": "what models like to invent here", "type": "kind", "types": "kind", "kind": "kind", "category": "kind",
}  # fmt: skip
IN_THE_PROMPT = frozenset({"question", "choices", "letters"})
CLASSES = {"hallucinated": "bad", "right": "right"}
LEGEND = tag(
    "p", "In answers, ", tag("mark", "this", class_="bad"), " is named but not in the picture, and ",
    tag("mark", "this", class_="right"), " is.", class_="dim small",
)  # fmt: skip


def marked(text: str, marks: Sequence[tuple[int, int, str]]) -> Html:
    """An answer with its marks. Where they overlap, hallucinated is shown; what reaches beyond the text is cut.

    >>> marked("a dog and a cat", [(2, 5, "right"), (12, 15, "hallucinated")])
    'a <mark class="right">dog</mark> and a <mark class="bad">cat</mark>'
    """
    kinds = [""] * len(text)
    for kind in ("right", "hallucinated"):  # the latter last, over the former
        for start, end, _ in (mark for mark in marks if mark[2] == kind):
            for at in range(max(0, start), min(len(text), end)):
                kinds[at] = kind
    parts = []
    for kind, places in groupby(range(len(text)), key=kinds.__getitem__):
        piece = "".join(text[at] for at in places)
        parts.append(tag("mark", piece, class_=CLASSES[kind]) if kind else markup(piece))
    return join(parts)


def legend(cards: Sequence[Html]) -> Html:
    """What the marks of some cards mean; nothing, if they have none."""
    return LEGEND if any("<mark" in card for card in cards) else Html()


def truths(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of a question, by readers' names, in the benchmark's order.

    >>> truths({"answers": ["red", "red", "pink"], "category": "popular", "question": "Which colour?"})
    [('expected', 'red (2 times) / pink'), ('kind', 'popular')]
    """
    found = []
    for name, value in facts.items():
        words = _words(value)
        if words and name not in IN_THE_PROMPT:
            found.append((NAMES.get(name, name.replace("_", " ")), words if len(words) <= LONGEST else f"{words[:LONGEST]} …"))
    return found


def _words(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_words(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        counts = Counter(_words(one) for one in value)
        return " / ".join(f"{words} ({times} times)" if times > 1 else words for words, times in counts.items())
    return str(value)


def shots(places: Sequence[Path], names: Sequence[str]) -> Html:
    """The first pictures of a question, each from the first folder that has it."""
    images = []
    for name in names[:SHOTS]:
        found = (picture(folder / name, folder) for folder in places)
        images.append(next((image for image in found if image), Html()))
    if not any(images):
        return Html()
    more = len(names) - SHOTS
    rest = tag("small", f"and {more} more", class_="dim") if more > 0 else Html()
    return tag("div", *images, rest, class_=f"shots {'one' if len(images) == 1 else 'many' if len(images) > 2 else ''}".strip())


def card(answers: Mapping[str, Prediction], places: Sequence[Path], *, note: str = "") -> Html:
    """A question with the answers of all stages, one below the other.

    Args:
        answers: by stage; at least one.
        places: folders of results that may hold the pictures.
        note: what stands below the pictures, such as by how much the answer got worse.
    """
    question = next(iter(answers.values()))
    said = [join((tag("dt", stage), tag("dd", answer(one)))) for stage, one in answers.items()]
    return tag(
        "div",
        shots(places, question.pictures),
        _note(note),
        tag("dl", *_asked(question), *said, *_known(question)),
        class_="card",
    )


def side_by_side(before: Prediction, after: Prediction, places: Sequence[Path], *, note: str = "") -> Html:
    """A question with two answers beside each other."""
    columns = [tag("div", tag("dt", name), tag("dd", answer(one))) for name, one in (("before", before), ("after", after))]
    rest = [tag("div", part, class_="all") for part in _known(before)]
    words = tag("div", _note(note), tag("dl", *(tag("div", p, class_="all") for p in _asked(before)), *columns, *rest))
    return tag("div", shots(places, before.pictures) or tag("div"), words, class_="card pair")


def answer(prediction: Prediction) -> Html:
    """What was said, and how it was understood where that is not plain."""
    text = marked(prediction.answer, prediction.marks) if prediction.answer.strip() else tag("span", "(nothing)", class_="dim")
    plain = prediction.answer.strip().rstrip(".").lower() == prediction.read.lower()
    notes = [f"read as {prediction.read}"] if prediction.read and not plain else []
    notes += [] if prediction.finished else [f"cut after {how_many(prediction.tokens, 'token')}"]
    return join((text, tag("small", f" ({', '.join(notes)})", class_="dim"))) if notes else text


def _asked(question: Prediction) -> list[Html]:
    changed = tag("small", f" ({', '.join(question.changes)})", class_="dim") if question.changes else Html()
    return [join((tag("dt", "asked"), tag("dd", question.prompt, changed)))]


def _known(question: Prediction) -> list[Html]:
    return [join((tag("dt", name), tag("dd", words))) for name, words in truths(question.facts)]


def _note(note: str) -> Html:
    return tag("p", note, class_="dim small") if note else Html()
