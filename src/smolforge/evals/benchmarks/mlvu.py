"""MLVU: questions about long videos, from three minutes to two hours, of seven kinds.

Zhou et al. 2024 (arXiv 2406.04264); the dev set's multiple-choice questions. Rows of the test set (nine kinds, six options) are
taken too. A row has no id of its own, and its options stand in the question:

    {"video_name": "movie101_66.mp4", "answer": "A", "task_type": "plotQA",
     "question": "What color is the main male character in the video?\\n(A) Yellow\\n(B) Red\\n(C) Green\\n(D) Blue"}

lmms-eval (mlvu_dev) allows 16 tokens and adds to the question

    Only give the best option.
    Best option: (

VLMEvalKit (MLVU_MCQ, SmolVLM2's prompt; under the name MLVU, which joins it with open questions, "Options:" stays) allows 2,048,
has MLVU's system message and asks

    Question: What color is ...?
    respond ONLY with one of the multiple choice letter options (A/B/C/D):
    (A) Yellow
    ...
    (D) Blue Only give the best option.

Kinds differ in size, so two means differ. "accuracy macro" is the mean of the kinds' accuracies, lmms-eval's score and the
paper's M-Avg; lmms-eval divides by all kinds of the set, here those without questions are left out, which is the same for the
whole set. "accuracy" is of all questions alike; VLMEvalKit calls that M-Avg.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark, Given, Origin, Protocol, Question, Row, Scored
from smolforge.evals.choosing import best_option_prompt, choice_counts, choice_measures, macro_measures
from smolforge.evals.metrics.choices import letter
from smolforge.evals.reading import text
from smolforge.evals.videos import find_video, video_messages
from smolforge.records import Record

SYSTEM = (
    "Carefully watch this video and pay attention to every detail. "
    "Based on your observations, select the best option that accurately addresses the question. "
)
MAX_NEW_TOKENS: dict[Protocol, int] = {"lmms-eval": 16, "vlmevalkit": 2048}
KINDS = (
    "plotQA", "needle", "ego", "count", "order", "anomaly_reco", "topic_reasoning",  # dev
    "needleQA", "sportsQA", "tutorialQA",  # test only
)  # fmt: skip
OPTION = re.compile(r"^\(([A-Z])\) ?(.*)$", re.MULTILINE)


def question(row: Row, protocol: Protocol, origin: Origin) -> Question:
    """A row as it is asked; its number is its id.

    Raises:
        DataError: no such video, no options in the question, or an answer or a kind that is not on the list.
    """
    id = str(origin.number)
    where = f"{origin.name}[{id}]"
    asked, kind, answer = (text(row, column, where) for column in ("question", "task_type", "answer"))
    options = OPTION.findall(asked)
    letters = tuple(name for name, _ in options)
    if answer not in letters:
        mend = 'give the options in the question, each on a line as "(A) ..."'
        raise DataError(f"the answer {answer!r} is none of the options ({', '.join(letters)})", where=where, mend=mend)
    if kind not in KINDS:
        raise DataError(f"the task type {kind!r}", where=where, mend=f"types are {', '.join(KINDS)}")
    if protocol == "lmms-eval":
        prompt = f"{asked}\nOnly give the best option.\nBest option: ("
    else:
        prompt = best_option_prompt(OPTION.split(asked, maxsplit=1)[0].strip(), options)
    path = find_video([text(row, "video_name", where)], origin)
    return Question(
        id=id,
        record=Record(id=id, source=origin.name, messages=video_messages(path, prompt, protocol, system=SYSTEM), responses=()),
        max_new_tokens=MAX_NEW_TOKENS[protocol],
        facts={
            "question": asked, "letters": list(letters), "answer": answer, "type": kind, "video": row["video_name"],
        },
        options=letters,
    )  # fmt: skip


def score(questions: Sequence[Question], givens: Sequence[Given]) -> list[Scored]:
    return [
        choice_counts(asked, given, letter(given.text, asked.facts["letters"]), asked.facts["type"])
        for asked, given in zip(questions, givens, strict=True)
    ]


BENCHMARK = Benchmark(
    about="questions about long videos (MLVU)",
    source="Zhou et al. 2024, arXiv 2406.04264; scored as lmms-eval's mlvu_dev",
    hub="sy1998/MLVU_dev",
    split="test",
    columns=("video_name", "question", "answer", "task_type"),
    question=question,
    score=score,
    measures=macro_measures(KINDS) | choice_measures(KINDS),
    videos=True,
)
