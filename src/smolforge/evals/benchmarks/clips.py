"""The project's own drawn clips of one moving shape: whether a model sees the order of frames.

Row, made on demand (test split, whose lines no training clip moves along):

    {"video": <Clip of eight frames>, "question": "Which way does the shape move?", "answer": "a red circle moves left"}

The frames of a clip to the left and of one to the right are the same, and so is their first one: who does not see their order
gets half of the directions right at best. Both protocols ask alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smolforge.data.sources.clips import DIRECTIONS, ClipTable, record
from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark, Given, Origin, Protocol, Question, Row, Scored
from smolforge.evals.measures import Measure, ratio
from smolforge.records import Film

CLIPS = 200
LONGEST = 32  # tokens of an answer of six words, with room to spare


def rows(folder: Path) -> Sequence[Row]:
    """The first 200 clips of the test split; `folder` is not read."""
    table = ClipTable(rows=CLIPS, split="test")
    return [table[number] for number in range(CLIPS)]


def question(row: Row, protocol: Protocol, origin: Origin) -> Question:
    if not hasattr(row["video"], "frame"):
        raise DataError("not a drawn clip", where=origin.name, mend="leave out the folder: clips are made on demand")
    film: Film = row["video"]
    id = str(origin.number)
    asked = record({"video": film, "question": row["question"], "answer": row["answer"]}, id=id, source=origin.name, prompt=None)
    return Question(id=id, record=asked.prompt, max_new_tokens=LONGEST, facts={"answer": row["answer"]})


def score(questions: Sequence[Question], givens: Sequence[Given]) -> list[Scored]:
    found = []
    for asked, given in zip(questions, givens, strict=True):
        said, true = given.text.strip().rstrip(".").split(), asked.facts["answer"].split()
        way = said[-1] if said and said[-1] in DIRECTIONS else ""
        found.append(
            Scored(
                sums={"clips": 1, "exact": said == true, "way": way == true[-1], "thing": said[1:3] == true[1:3]},
                read=way,
            )
        )
    return found


BENCHMARK = Benchmark(
    about="which way a shape moves in drawn clips, which only the order of frames tells",
    source="this project; data/sources/clips.py draws",
    hub="",
    split="test",
    columns=("video", "question", "answer"),
    question=question,
    score=score,
    rows=rows,
    drawn=True,
    measures={
        "exact": Measure(about="answers that are the clip's, word for word", of=ratio("exact", "clips")),
        "direction": Measure(about="answers that end with the right direction", of=ratio("way", "clips")),
        "object": Measure(about="answers that name the right colour and shape", of=ratio("thing", "clips")),
    },
)
