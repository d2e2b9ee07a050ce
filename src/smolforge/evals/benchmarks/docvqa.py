"""DocVQA: short answers read off scanned pages, scored by how few letters they miss.

Mathew et al. 2021 (arXiv 2007.00398). The validation split, 5,349 questions; the test split's answers are not public. A row:

    {"questionId": "49153", "question": "What is the ‘actual’ value per 1000, during the year 1975?",
     "question_types": ["figure/diagram"], "image": <picture>, "docId": 14465, "answers": ["0.28"], "data_split": "val"}

lmms-eval (docvqa_val) allows 32 tokens and asks

    What is ...?
    Answer the question using a single word or phrase.

VLMEvalKit (DocVQA_VAL, SmolVLM's prompt) allows 2,048 and puts a longer instruction before the same two lines.
"anls" is lmms-eval's, VLMEvalKit's and the organisers' script's; "anls paper" is the paper's equation, see `metrics/anls.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark, Given, Origin, Protocol, Question, Row, Scored, asked_about
from smolforge.evals.measures import Measure, length, ratio
from smolforge.evals.metrics.anls import anls, words
from smolforge.evals.reading import identifier, text, texts

PROMPTS: dict[Protocol, str] = {
    "lmms-eval": "{question}\nAnswer the question using a single word or phrase.",
    "vlmevalkit": (
        "Give a short and terse answer to the following question. Do not paraphrase or reformat the text you see in the image. "
        "Do not include any full stops. Just give the answer without additional explanation. Question: {question}\n"
        "Answer the question using a single word or phrase."
    ),
}
MAX_NEW_TOKENS: dict[Protocol, int] = {"lmms-eval": 32, "vlmevalkit": 2048}


def question(row: Row, protocol: Protocol, origin: Origin) -> Question:
    """A row as it is asked.

    Raises:
        DataError: no answers, or others than texts, or no picture.
    """
    id = identifier(row, "questionId", f"{origin.name}[{origin.number}]")
    where = f"{origin.name}[{id}]"
    if not row.get("answers"):
        raise DataError("no answers", where=where, mend="use the validation split, the test split has none")
    asked, answers = text(row, "question", where), texts(row, "answers", where)
    types = texts(row, "question_types", where) if row.get("question_types") is not None else []
    prompt = PROMPTS[protocol].replace("{question}", asked if protocol == "lmms-eval" else asked.lstrip())
    return Question(
        id=id,
        record=asked_about(row["image"], prompt, id=id, origin=origin),
        max_new_tokens=MAX_NEW_TOKENS[protocol],
        facts={"question": asked, "answers": answers, "types": types},
    )


def score(questions: Sequence[Question], givens: Sequence[Given]) -> list[Scored]:
    found = []
    for asked, given in zip(questions, givens, strict=True):
        answers = asked.facts["answers"]
        sums = {
            "asked": 1.0,
            "anls": anls(given.text, answers, keep_half=True),
            "anls paper": anls(given.text, answers, keep_half=False),
            "exact": float(words(given.text) in map(words, answers)),
            "tokens": float(given.tokens),
        }
        found.append(Scored(sums=sums))
    return found


BENCHMARK = Benchmark(
    about="short answers read off scanned documents (DocVQA)",
    source="Mathew et al. 2021, arXiv 2007.00398; scored as lmms-eval's docvqa_val",
    hub="lmms-lab-encoder/DocVQA",
    configs=("DocVQA",),
    split="validation",
    columns=("questionId", "question", "image", "answers"),
    question=question,
    score=score,
    measures={
        "anls": Measure(about="similarity of letters with the nearest answer, from a half on", of=ratio("anls", "asked")),
        "anls paper": Measure(about="the same by the paper's equation, above a half", of=ratio("anls paper", "asked")),
        "exact": Measure(about="answers met but for case and spaces", of=ratio("exact", "asked")),
        "length": length("asked"),
    },
)
