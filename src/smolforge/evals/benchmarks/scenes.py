"""The project's own drawn scenes: every object of a picture is known, so that nothing about a caption is left to judgement.

Row, made on demand (test split, which no training scene is in):

    {"image": <function that draws 96 x 96 pixels>, "caption": "a red circle at the top left and a blue square in the middle"}

An object is right if its colour, shape and place are. Both protocols ask "Describe the picture.", as the source `scenes` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smolforge.data.sources.scenes import SceneTable, record
from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark, Given, Origin, Protocol, Question, Row, Scored
from smolforge.evals.measures import Measure, length, ratio
from smolforge.evals.scenes import scene_sums

SCENES = 200
LONGEST = 64  # tokens; the longest caption of three objects has 23 words


def rows(folder: Path) -> Sequence[Row]:
    """The first 200 scenes of the test split; `folder` is not read."""
    table = SceneTable(rows=SCENES, split="test")
    return [table[number] for number in range(SCENES)]


def question(row: Row, protocol: Protocol, origin: Origin) -> Question:
    if not callable(row["image"]):
        raise DataError("not a drawn scene", where=origin.name, mend="leave out the folder: scenes are made on demand")
    id = str(origin.number)
    return Question(
        id=id,
        record=record(row, id=id, source=origin.name, prompt=None).prompt,
        max_new_tokens=LONGEST,
        facts={"caption": row["caption"]},
    )


def score(questions: Sequence[Question], givens: Sequence[Given]) -> list[Scored]:
    found = []
    for asked, given in zip(questions, givens, strict=True):
        sums, marks = scene_sums(given.text, asked.facts["caption"])
        found.append(Scored(sums=sums | {"tokens": given.tokens}, marks=marks))
    return found


BENCHMARK = Benchmark(
    about="captions of drawn scenes whose every object is known",
    source="this project; data/sources/scenes.py draws and evals/scenes.py compares",
    hub="",
    split="test",
    columns=("image", "caption"),
    question=question,
    score=score,
    rows=rows,
    drawn=True,
    measures={
        "exact": Measure(about="captions that are the scene's, word for word", of=ratio("exact", "captions")),
        "recall": Measure(about="objects of the scenes that are named", of=ratio("right", "there")),
        "hallucination": Measure(
            about="objects named that are not in the scene", of=ratio("hallucinated", "named"), better="lower"
        ),
        "objects a caption": Measure(
            about="objects that a caption names", of=ratio("named", "captions"), better="", percent=False
        ),
        "length": length("captions", "a caption"),
    },
)
