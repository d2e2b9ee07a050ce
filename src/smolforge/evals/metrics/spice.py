"""SPICE of captions (Anderson et al. 2016, arXiv 1607.08822): F1 over the objects, attributes and relations that a parser finds.

Its Java program needs Stanford CoreNLP 3.6.0, which `pycocoevalcap` downloads at first use (over 500 MB); nothing is downloaded
here. Tests exercise only `missing` and the reading of the program's answer, not the program.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from smolforge.errors import DataError

JAR = "spice-1.0.jar"
PARSER = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
MEMORY = "-Xmx8G"


def missing() -> str | None:
    """What SPICE lacks here, None when it can run."""
    if shutil.which("java") is None:
        return "SPICE needs Java (java is not on the PATH)"
    jar = _jar()
    if jar is None:
        return f'SPICE needs {JAR}, which `pip install "smolforge[meteor]"` brings'
    absent = [name for name in PARSER if not (jar.parent / "lib" / name).is_file()]
    if absent:
        return f"SPICE needs {' and '.join(absent)} in {jar.parent / 'lib'}, from Stanford CoreNLP 3.6.0"
    return None


def spice_scores(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """F1 of each caption from 0 to 1, NaN where neither it nor its references say anything that can be compared.

    Args:
        candidates: captions, their tokens joined by spaces.
        references: each caption's, likewise.

    Raises:
        DataError: Java or a part of the program is missing, or it failed.
    """
    assert len(candidates) == len(references), f"{len(candidates)} captions for {len(references)} sets of references"
    lack, jar, java = missing(), _jar(), shutil.which("java")
    if lack is not None or jar is None or java is None:
        raise DataError("SPICE cannot be computed", mend=lack)
    asked = [
        {"image_id": number, "test": said, "refs": list(given)}
        for number, (said, given) in enumerate(zip(candidates, references))
    ]
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "question.json", Path(folder) / "answer.json"
        question.write_text(json.dumps(asked))
        command = [java, MEMORY, "-jar", jar.name, str(question), "-out", str(answer), "-subset", "-silent"]
        done = subprocess.run(command, capture_output=True, cwd=jar.parent, check=False)
        if done.returncode or not answer.is_file():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise DataError("SPICE failed", where=jar, mend=f"Java said: {said[-1] if said else 'nothing'}")
        return read_answer(answer, len(candidates))


def read_answer(file: Path, captions: int) -> list[float]:
    """F1 over all kinds of tuples, in the order in which the captions were given.

    Raises:
        DataError: the answers are not one to each caption.
    """
    found = {row["image_id"]: row["scores"]["All"]["f"] for row in json.loads(file.read_text())}
    if found.keys() != set(range(captions)):
        raise DataError(f"SPICE answered {len(found)} of {captions} captions", where=file)
    return [math.nan if found[number] is None else float(found[number]) for number in range(captions)]


def _jar() -> Path | None:
    found = importlib.util.find_spec("pycocoevalcap")
    places = found.submodule_search_locations if found else None
    return next((jar for place in places or () if (jar := Path(place) / "spice" / JAR).is_file()), None)
