"""POPE: is this object in the photo? Half of them are not, and three ways of choosing those make three sets.

Li et al. 2023 (arXiv 2305.10355). 9,000 questions about 500 COCO photos: objects that are absent are drawn at random, from the
popular ones, or from those that tend to stand beside what is there (adversarial). `question_id` begins anew in each set. A row:

    {"id": "0", "question_id": "1", "question": "Is there a snowboard in the image?", "answer": "yes",
     "image_source": "COCO_val2014_000000310196", "image": <picture>, "category": "adversarial"}

lmms-eval (pope) allows 128 tokens and asks

    Is there a snowboard in the image?
    Answer the question using a single word or phrase.

VLMEvalKit (POPE, SmolVLM's default prompt) allows 2,048 and asks "Is there a snowboard in the image? Please answer yes or no.";
the last sentence comes with its table of questions, and was read in prompts made from the table, not in it.

Two readings, see `metrics/yesno.py`. Plain names are lmms-eval's: the answer is "yes" or "no" and nothing else, anything more is
wrong and counted as unreadable; recall and F1 leave unreadable answers out, as there. "official" is the authors': no if the first
sentence has "no" or "not", else yes. The paper's headline is F1. "yes-rate" is the share of answers that say yes; lmms-eval's
`pope_yes_ratio` is computed from the truth instead, so it is 0.5 for every model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark, Given, Origin, Protocol, Question, Row, Scored, asked_about
from smolforge.evals.measures import Measure, Totals, divide, length, ratio
from smolforge.evals.metrics.yesno import Answer, contained, exact
from smolforge.evals.reading import identifier, text

PROMPTS: dict[Protocol, str] = {
    "lmms-eval": "{question}\nAnswer the question using a single word or phrase.",
    "vlmevalkit": "{question} Please answer yes or no.",
}
MAX_NEW_TOKENS: dict[Protocol, int] = {"lmms-eval": 128, "vlmevalkit": 2048}
CATEGORIES = ("random", "popular", "adversarial")
READINGS: dict[str, Callable[[str], Answer]] = {"": exact, " official": contained}  # by what a measure's name says of it


def question(row: Row, protocol: Protocol, origin: Origin) -> Question:
    """A row as it is asked.

    Raises:
        DataError: an answer that is neither yes nor no, an unknown category, or no picture.
    """
    where = f"{origin.name}[{origin.number}]"
    category = text(row, "category", where)
    id = f"{category}/{identifier(row, 'question_id', where)}"
    where = f"{origin.name}[{id}]"
    asked, said = text(row, "question", where).strip(), text(row, "answer", where)
    answer = exact(said)
    if not answer:
        raise DataError(f"the answer {said!r}", where=where, mend="answers are yes and no")
    if category not in CATEGORIES:
        raise DataError(f"the category {category!r}", where=where, mend=f"categories are {', '.join(CATEGORIES)}")
    return Question(
        id=id,
        record=asked_about(row["image"], PROMPTS[protocol].replace("{question}", asked), id=id, origin=origin),
        max_new_tokens=MAX_NEW_TOKENS[protocol],
        facts={"question": asked, "answer": answer, "category": category},
    )


def score(questions: Sequence[Question], givens: Sequence[Given]) -> list[Scored]:
    found = []
    for asked, given in zip(questions, givens, strict=True):
        truth, category = asked.facts["answer"], asked.facts["category"]
        counts = {"asked": 1.0}
        for reading, read in READINGS.items():
            said = read(given.text)
            counts |= {
                f"right{reading}": float(said == truth),
                f"yes{reading}": float(said == "yes"),
                f"true yes{reading}": float(said == truth == "yes"),
                f"due yes{reading}": float(truth == "yes" and said != ""),
            }
        grouped = {f"{name}:{category}": count for name, count in counts.items()}
        beside = {"unreadable": float(exact(given.text) == ""), "tokens": float(given.tokens)}
        found.append(Scored(sums={**counts, **grouped, **beside}, read=exact(given.text)))
    return found


def f1(reading: str, group: str) -> Callable[[Totals], np.ndarray]:
    """2 true yes / (yes that was said + yes that was due), the harmonic mean of precision and recall; NaN without a yes."""

    def of(totals: Totals) -> np.ndarray:
        said, due = totals[f"yes{reading}{group}"], totals[f"due yes{reading}{group}"]
        return divide(2 * totals[f"true yes{reading}{group}"], said + due)

    return of


def _measures(reading: str) -> dict[str, Measure]:
    tail = ", the authors' reading" if reading else ""
    yes, true, due = (f"{name}{reading}" for name in ("yes", "true yes", "due yes"))
    found = {
        f"accuracy{reading}": Measure(about=f"right answers{tail}", of=ratio(f"right{reading}", "asked")),
        f"precision{reading}": Measure(about=f"right ones of those that say yes{tail}", of=ratio(true, yes)),
        f"recall{reading}": Measure(about=f"objects in the photo that are affirmed{tail}", of=ratio(true, due)),
        f"f1{reading}": Measure(about=f"harmonic mean of precision and recall{tail}", of=f1(reading, "")),
        f"yes-rate{reading}": Measure(
            about=f"answers that say yes{tail}, half would be right", of=ratio(yes, "asked"), better=""
        ),
    }
    for category in CATEGORIES:
        right = ratio(f"right{reading}:{category}", f"asked:{category}")
        found[f"accuracy{reading} {category}"] = Measure(about=f"right answers, {category} objects{tail}", of=right)
        found[f"f1{reading} {category}"] = Measure(about=f"F1, {category} objects{tail}", of=f1(reading, f":{category}"))
    return found


BENCHMARK = Benchmark(
    about="whether objects are in photos (POPE)",
    source="Li et al. 2023, arXiv 2305.10355; scored as lmms-eval's pope and as the authors' evaluate.py",
    hub="lmms-lab-encoder/POPE",
    split="test",
    columns=("question_id", "question", "answer", "image", "category"),
    question=question,
    score=score,
    measures={
        **_measures(""),
        "unreadable": Measure(
            about="answers that are more or less than yes or no", of=ratio("unreadable", "asked"), better="lower"
        ),
        **_measures(" official"),
        "length": length("asked"),
    },
)
