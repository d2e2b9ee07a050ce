"""TextVQA: questions about text in photos, each answered by ten people.

Singh et al. 2019 (arXiv 1904.08920). The validation split, 5,000 questions. A row:

    {"question_id": 34602, "image_id": "003a8ae2ef43b901", "image": <picture>, "question": "what is the brand of this camera?",
     "answers": ["nous les gosses", "dakota", "clos culombu", ...ten in all], "ocr_tokens": ["DAKOTA", "DIGITAL", ...]}

lmms-eval (textvqa_val) begins the question with a capital, puts the rest of it into lower case, and shows no OCR tokens:

    What is the brand of this camera?
    Answer the question using a single word or phrase.

It leaves the number of tokens to the model; here it is 1,024, as for its LLaVA. VLMEvalKit (TextVQA_VAL, SmolVLM's prompt) allows
2,048 and puts a list of instructions before the question, whose case it leaves alone, and the same last line.
"""

from __future__ import annotations

from collections.abc import Sequence

from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark, Given, Origin, Protocol, Question, Row, Scored, asked_about
from smolforge.evals.measures import Measure, length, ratio
from smolforge.evals.metrics.vqa import normalise, vqa_accuracy
from smolforge.evals.reading import identifier, text, texts

PROMPTS: dict[Protocol, str] = {
    "lmms-eval": "{question}\nAnswer the question using a single word or phrase.",
    "vlmevalkit": (
        "Answer the following question about the image using as few words as possible. "
        "Follow these additional instructions:\n"
        "-Always answer a binary question with Yes or No.\n"
        "-When asked what time it is, reply with the time seen in the image.\n"
        "-Do not put any full stops at the end of the answer.\n"
        "-Do not put quotation marks around the answer.\n"
        "-An answer with one or two words is favorable.\n"
        "-Do not apply common sense knowledge. The answer can be found in the image.\n"
        "Question: {question}\n"
        "Answer the question using a single word or phrase."
    ),
}
MAX_NEW_TOKENS: dict[Protocol, int] = {"lmms-eval": 1024, "vlmevalkit": 2048}


def question(row: Row, protocol: Protocol, origin: Origin) -> Question:
    """A row as it is asked.

    Raises:
        DataError: no answers, or others than texts, or no picture.
    """
    id = identifier(row, "question_id", f"{origin.name}[{origin.number}]")
    where = f"{origin.name}[{id}]"
    if not row.get("answers"):
        raise DataError("no answers", where=where, mend="use the validation split, the test split has none")
    asked, answers = text(row, "question", where), texts(row, "answers", where)
    prompt = PROMPTS[protocol].replace("{question}", asked.capitalize() if protocol == "lmms-eval" else asked.lstrip())
    return Question(
        id=id,
        record=asked_about(row["image"], prompt, id=id, origin=origin),
        max_new_tokens=MAX_NEW_TOKENS[protocol],
        facts={"question": asked, "answers": answers},
    )


def score(questions: Sequence[Question], givens: Sequence[Given]) -> list[Scored]:
    return [
        Scored(
            sums={
                "asked": 1.0,
                "accuracy": vqa_accuracy(given.text, asked.facts["answers"]),
                "tokens": float(given.tokens),
            },
            read=normalise(given.text),
        )
        for asked, given in zip(questions, givens, strict=True)
    ]


BENCHMARK = Benchmark(
    about="questions about text in photos (TextVQA)",
    source="Singh et al. 2019, arXiv 1904.08920; scored as lmms-eval's textvqa_val",
    hub="lmms-lab-encoder/textvqa",
    split="validation",
    columns=("question_id", "question", "image", "answers"),
    question=question,
    score=score,
    measures={
        "accuracy": Measure(about="VQA accuracy, agreement with ten people", of=ratio("accuracy", "asked")),
        "length": length("asked"),
    },
)
