"""ChartQA: questions about charts, numbers right within 5 %.

Masry et al. 2022 (arXiv 2203.10244). The test split, 2,500 questions: 1,250 written by people and 1,250 made from summaries by a
model ("augmented"), which are easier. A row, which has no id:

    {"type": "human_test", "question": "How many food item is shown in the bar graph?", "answer": "14", "image": <picture>}

lmms-eval (chartqa) allows 16 tokens and asks

    How many food item is shown in the bar graph?
    Answer the question with a single word.

VLMEvalKit (ChartQA_TEST) allows 2,048 and puts a list of instructions first; the words are those for SmolVLM2, for SmolVLM the
apostrophes of "Don't" are curly. Its last line ends "using a single word or phrase."
"""

from __future__ import annotations

from collections.abc import Sequence

from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark, Given, Origin, Protocol, Question, Row, Scored, asked_about
from smolforge.evals.measures import Measure, length, ratio
from smolforge.evals.metrics.relaxed import relaxed
from smolforge.evals.reading import text

PROMPTS: dict[Protocol, str] = {
    "lmms-eval": "{question}\nAnswer the question with a single word.",
    "vlmevalkit": (
        "For the question below, follow the following instructions:\n"
        "-The answer should contain as few words as possible.\n"
        "-Don't paraphrase or reformat the text you see in the image.\n"
        "-Answer a binary question with Yes or No.\n"
        "-When asked to give a numerical value, provide a number like 2 instead of Two.\n"
        "-If the final answer has two or more items, provide it in the list format like [1, 2].\n"
        "-When asked to give a ratio, give out the decimal value like 0.25 instead of 1:4.\n"
        "-When asked to give a percentage, give out the whole value like 17 instead of decimal like 0.17%.\n"
        "-Don't include any units in the answer.\n"
        "-Do not include any full stops at the end of the answer.\n"
        "-Try to include the full label from the graph when asked about an entity.\n"
        "Question: {question}\n"
        "Answer the question using a single word or phrase."
    ),
}
TYPES = {"human_test": "human", "augmented_test": "augmented"}  # as rows have them -> as measures are called
MAX_NEW_TOKENS: dict[Protocol, int] = {"lmms-eval": 16, "vlmevalkit": 2048}


def question(row: Row, protocol: Protocol, origin: Origin) -> Question:
    """A row as it is asked; its number is its id.

    Raises:
        DataError: another type, an answer that is no text, or no picture.
    """
    id = str(origin.number)
    where = f"{origin.name}[{id}]"
    asked, answer, kind = (text(row, column, where) for column in ("question", "answer", "type"))
    if kind not in TYPES:
        raise DataError(f"the type {kind!r}", where=where, mend=f"types are {', '.join(TYPES)}")
    prompt = PROMPTS[protocol].replace("{question}", asked if protocol == "lmms-eval" else asked.lstrip())
    return Question(
        id=id,
        record=asked_about(row["image"], prompt, id=id, origin=origin),
        max_new_tokens=MAX_NEW_TOKENS[protocol],
        facts={"question": asked, "answer": answer, "type": TYPES[kind]},
    )


def score(questions: Sequence[Question], givens: Sequence[Given]) -> list[Scored]:
    found = []
    for asked, given in zip(questions, givens, strict=True):
        kind, right = asked.facts["type"], float(relaxed(given.text, asked.facts["answer"]))
        sums = {"asked": 1.0, "right": right, f"asked:{kind}": 1.0, f"right:{kind}": right, "tokens": float(given.tokens)}
        found.append(Scored(sums=sums))
    return found


BENCHMARK = Benchmark(
    about="questions about charts (ChartQA)",
    source="Masry et al. 2022, arXiv 2203.10244; scored as lmms-eval's chartqa",
    hub="lmms-lab-encoder/ChartQA",
    split="test",
    columns=("type", "question", "answer", "image"),
    question=question,
    score=score,
    measures={
        "relaxed": Measure(about="relaxed accuracy, numbers within 5 %", of=ratio("right", "asked")),
        "relaxed human": Measure(about="of questions that people wrote", of=ratio("right:human", "asked:human")),
        "relaxed augmented": Measure(about="of questions made from summaries", of=ratio("right:augmented", "asked:augmented")),
        "length": length("asked"),
    },
)
