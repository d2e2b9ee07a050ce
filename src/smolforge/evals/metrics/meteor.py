"""METEOR 1.5 of captions (Denkowski and Lavie 2014, ACL W14-3348), aligned by its authors' Java program.

The program says of each caption how many words, and of which kind, are matched with its best reference. These counts add up over
a corpus, and METEOR is a function of the sums, which is computed here; so the program runs once, whatever is resampled later.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from smolforge.errors import DataError
from smolforge.evals.measures import Totals

JAR = "meteor-1.5.jar"
MEMORY = "-Xmx2G"  # the table of paraphrases needs it

# METEOR 1.5's parameters for English, Table 2 of the paper.
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
MODULES = {"exact": 1.0, "stem": 0.6, "synonym": 0.8, "paraphrase": 0.6}  # how a match counts by the way it was found

# The numbers of a line of statistics, in their order; "given" is of the best reference. Function words are such as "the".
NAMES = (
    "meteor.words", "meteor.given_words", "meteor.function_words", "meteor.given_function_words",
    *(
        f"meteor.{module}.{kind}"
        for module in MODULES
        for kind in ("content", "given_content", "function", "given_function")
    ),
    "meteor.chunks", "meteor.matched", "meteor.given_matched",
)  # fmt: skip


def missing() -> str | None:
    """What METEOR lacks here, None when it can run."""
    if shutil.which("java") is None:
        return "METEOR needs Java (java is not on the PATH)"
    if _jar() is None:
        return f'METEOR needs {JAR}, which `pip install "smolforge[meteor]"` brings'
    return None


def meteor_sums(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """What each caption adds.

    Args:
        candidates: captions, their tokens joined by spaces.
        references: each caption's, likewise.

    Raises:
        DataError: Java or the program is missing, or it failed.
    """
    assert len(candidates) == len(references), f"{len(candidates)} captions for {len(references)} sets of references"
    if not candidates:
        return []
    lack, jar, java = missing(), _jar(), shutil.which("java")
    if lack is not None or jar is None or java is None:
        raise DataError("METEOR cannot be computed", mend=lack)
    asked = "".join(f"{_line(candidate, given)}\n" for candidate, given in zip(candidates, references))
    command = [java, MEMORY, "-jar", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    # All questions are handed over at once and all answers collected; the program ends when its input does.
    done = subprocess.run(command, input=asked.encode(), capture_output=True, cwd=jar.parent, check=False)
    answers = done.stdout.decode().splitlines()
    if done.returncode or len(answers) != len(candidates):
        said = done.stderr.decode(errors="replace").strip().splitlines()
        what = f"METEOR answered {len(answers)} of {len(candidates)} captions"
        raise DataError(what, where=jar, mend=f"Java said: {said[0] if said else 'nothing'}")
    return [_sums(answer) for answer in answers]


def meteor(totals: Totals) -> np.ndarray:
    """METEOR from 0 to 1, eq. 1 to 5, with P and R the weighted shares of words that are matched:

    (1 - gamma (chunks / matched)^beta) / ((1 - alpha) / P + alpha / R)
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # without words or matches the score is 0
        precision, recall = _share(totals, ""), _share(totals, "given_")
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        apart = totals["meteor.chunks"] / ((totals["meteor.matched"] + totals["meteor.given_matched"]) / 2)
        score = mean * (1 - GAMMA * apart**BETA)
    return np.where(np.isnan(score), 0.0, np.maximum(score, 0.0))


def _share(totals: Totals, side: str) -> np.ndarray:
    """P of the captions (side "") or R of the references ("given_"): a content word counts delta, a function word 1 - delta."""
    function_words = totals[f"meteor.{side}function_words"]
    content = sum(weight * totals[f"meteor.{module}.{side}content"] for module, weight in MODULES.items())
    function = sum(weight * totals[f"meteor.{module}.{side}function"] for module, weight in MODULES.items())
    length = DELTA * (totals[f"meteor.{side}words"] - function_words) + (1 - DELTA) * function_words
    return (DELTA * content + (1 - DELTA) * function) / length


def _jar() -> Path | None:
    found = importlib.util.find_spec("pycocoevalcap")
    places = found.submodule_search_locations if found else None
    return next((jar for place in places or () if (jar := Path(place) / "meteor" / JAR).is_file()), None)


def _line(candidate: str, references: Sequence[str]) -> str:
    """A question of the program's protocol, as pycocoevalcap writes it."""
    said = candidate.replace("|||", "").replace("  ", " ")
    return " ".join(" ||| ".join(("SCORE", *references, said)).splitlines())


def _sums(answer: str) -> dict[str, float]:
    """A line of statistics by name. A caption that is matched whole, as one chunk, is not apart at all: the program then leaves
    its chunk out, of its own score and of the corpus's."""
    sums = dict(zip(NAMES, map(float, answer.split()), strict=True))
    whole = all(
        sum(sums[f"meteor.{module}.{side}{kind}"] for module in MODULES for kind in ("content", "function"))
        == sums[f"meteor.{side}words"]
        for side in ("", "given_")
    )
    return sums | {"meteor.chunks": 0.0} if whole and sums["meteor.chunks"] == 1 else sums
