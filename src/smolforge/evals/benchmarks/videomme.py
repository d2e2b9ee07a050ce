"""Video-MME: 2,700 questions about 900 videos from eleven seconds to an hour, four options each.

Fu et al. 2024 (arXiv 2405.21075), without subtitles. Videos come apart from the rows, as <videoID>.mp4. A row:

    {"video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Humanity & History",
     "videoID": "fFjv93ACGo8", "question_id": "001-1", "task_type": "Counting Problem",
     "question": "When demonstrating the Germany modern Christmas tree is initially decorated with apples, candles and berries,
     which kind of the decoration has the largest number?",
     "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. The three kinds are of the same number."], "answer": "C"}

lmms-eval (videomme) allows 16 tokens; its prompt speaks of subtitles though none are shown. VLMEvalKit (Video-MME, SmolVLM2's
prompt) allows 2,048, asks "Question: ... Answer:" and has a system message; what a conversation cannot say of it stands in
`data/video.py`. Both show up to 64 frames, one a second. Answers are read with lmms-eval's `letter` under both protocols.
"""

from __future__ import annotations

from collections.abc import Sequence

from smolforge.data.video import VLMEVALKIT_SYSTEM
from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark, Given, Origin, Protocol, Question, Row, Scored
from smolforge.evals.choosing import choice_counts, choice_measures
from smolforge.evals.metrics.choices import letter
from smolforge.evals.reading import identifier, text, texts
from smolforge.evals.videos import find_video, video_messages
from smolforge.records import Record

INSTRUCTION = (
    "Select the best answer to the following multiple-choice question based on the video{subtitles}. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
MAX_NEW_TOKENS: dict[Protocol, int] = {"lmms-eval": 16, "vlmevalkit": 2048}
LETTERS = ("A", "B", "C", "D")
DURATIONS = ("short", "medium", "long")


def question(row: Row, protocol: Protocol, origin: Origin) -> Question:
    """A row as it is asked.

    Raises:
        DataError: no such video, or an answer or a duration that Video-MME does not have.
    """
    id = identifier(row, "question_id", f"{origin.name}[{origin.number}]")
    where = f"{origin.name}[{id}]"
    answer, duration, options = text(row, "answer", where), text(row, "duration", where), texts(row, "options", where)
    if answer not in LETTERS or len(options) != len(LETTERS):
        raise DataError(f"the answer {answer!r} to {len(options)} options", where=where, mend="give A to D and four options")
    if duration not in DURATIONS:
        raise DataError(f"the duration {duration!r}", where=where, mend=f"durations are {', '.join(DURATIONS)}")
    asked = "\n".join([text(row, "question", where), *options])
    if protocol == "lmms-eval":
        instruction = INSTRUCTION.replace("{subtitles}", " and the subtitles")
        prompt = f"{instruction}\n{asked}\n\nAnswer with the option's letter from the given choices directly."
    else:
        instruction = INSTRUCTION.replace("{subtitles}", "")
        prompt = f" These are the frames of a video. {instruction} Question: {asked}\nAnswer: "  # spaces as VLMEvalKit joins
    path = find_video([text(row, "videoID", where)], origin)
    return Question(
        id=id,
        record=Record(
            id=id, source=origin.name, messages=video_messages(path, prompt, protocol, system=VLMEVALKIT_SYSTEM), responses=()
        ),
        max_new_tokens=MAX_NEW_TOKENS[protocol],
        facts={
            "question": row["question"], "choices": options, "letters": list(LETTERS), "answer": answer,
            "duration": duration, "type": row.get("task_type"), "domain": row.get("domain"), "video": row["videoID"],
        },
        options=LETTERS,
    )  # fmt: skip


def score(questions: Sequence[Question], givens: Sequence[Given]) -> list[Scored]:
    return [
        choice_counts(asked, given, letter(given.text, LETTERS), asked.facts["duration"])
        for asked, given in zip(questions, givens, strict=True)
    ]


BENCHMARK = Benchmark(
    about="questions about short, medium and long videos (Video-MME)",
    source="Fu et al. 2024, arXiv 2405.21075; scored as lmms-eval's videomme",
    hub="lmms-eval/Video-MME",
    split="test",
    columns=("videoID", "question_id", "question", "options", "answer", "duration"),
    question=question,
    score=score,
    measures=choice_measures(DURATIONS),
    videos=True,
)
