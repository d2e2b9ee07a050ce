"""AMBER: what a description invents, and yes/no questions about existence, attributes and relations, on the same 1,004 photos.

Wang et al. 2023, "AMBER: An LLM-free Multi-dimensional Benchmark for MLLMs Hallucination Evaluation" (arXiv 2311.07397);
counted as its inference.py does. A folder in its layout has `query/query_all.json` (or other `query_*.json`),
`annotations.json`, both also in `data/`, and the photos in `image/`:

    {"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."}      {"id": 1, "type": "generative",
                                                                            "truth": ["sky", "forest"], "hallu": ["cloud", "dog"]}
    {"id": 1005, "image": "AMBER_1.jpg", "query": "Is the sky sunny?"}      {"id": 1005, "type": "discriminative-attribute-state",
                                                                            "truth": "yes"}

The Hub has the descriptions only: {"image": <picture>, "question_id": 1, "truth": [..], "hallu": [..]}. The words that AMBER
knows, and which of them mean the same, are part of this package (`metrics/amber_words.txt`).

Descriptions:

    CHAIR = nouns that are no object of the photo / nouns that AMBER knows
    Cover = objects of the photo that are named / objects of the photo
    Hal   = descriptions with a noun that is no object of the photo / descriptions
    Cog   = objects likely to be invented that are named / objects likely to be invented

The original takes NLTK's nouns, WordNet's singular forms and spaCy's en_core_web_lg, by whose vectors words more than 0.8
similar mean the same. Here nouns and vectors are spaCy's where it and en_core_web_lg are installed. Else a noun must be AMBER's
word itself or one that it lists as the same ("matching: exact words"): of the same nouns, more are then called invented (higher
CHAIR and Hal) and fewer objects covered. Singular forms are those of AMBER's words, so that "men", "leaves" and "chopsticks" are
read, which WordNet makes words that AMBER does not know; a word that opens a sentence is read in lower case.

Questions: accuracy, and precision, recall and F1 of the answer "no". The original takes "Yes" and "No" and no other answer; as
in lmms-eval, an answer with "yes" in it, else with "no" in it, is read as such here, and "one word" says how many the original
would read. F1 is without the original's 0.0001 below the line.

    AMBER score = (100 - CHAIR + F1) / 2

lmms-eval asks for descriptions without the full stop; VLMEvalKit has the questions only, behind which it adds "Please answer
yes or no.".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark, Given, Origin, Protocol, Question, Row, Scored, asked_about
from smolforge.evals.measures import Measure, Totals, divide, length, ratio
from smolforge.evals.metrics import nouns, yesno
from smolforge.evals.reading import identifier, read_rows, stored, text, texts

SPLIT = "train"
DESCRIBE: dict[Protocol, str] = {"lmms-eval": "Describe this image", "vlmevalkit": "Describe this image."}
SUFFIX: dict[Protocol, str] = {"lmms-eval": "", "vlmevalkit": "\nPlease answer yes or no."}
GENERATIVE = "generative"
KINDS = {  # type of a question -> what it is about
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "attribute",
    "discriminative-attribute-number": "attribute",
    "discriminative-attribute-action": "attribute",
    "discriminative-relation": "relation",
    "relation": "relation",
}
ANSWERS = ("yes", "no")
LONGEST = {True: 2048, False: 32}  # tokens of a description, of an answer

Similar = Callable[[str, str], bool]


# --- rows --------------------------------------------------------------------------------------------------------


def rows(folder: Path) -> Sequence[Row]:
    """Queries of a folder with their annotations, in order of their ids; descriptions only, if it has the Hub's files.

    Raises:
        DataError: a file is missing or damaged, or a query has no annotation.
    """
    base = next((place for place in (folder / "data", folder) if (place / "annotations.json").is_file()), None)
    if base is None:
        return stored(folder, SPLIT)
    known = _by_id([base / "annotations.json"])
    files = [path for place in (base / "query", base) for path in sorted(place.glob("query_*.json"))]
    files = [path for path in files if path.name == "query_all.json"] or files
    asked = _by_id(files, pictures=True)
    if not asked:
        raise DataError("no queries", where=base, mend="give query/query_all.json")
    unknown = sorted(set(asked) - set(known))
    if unknown:
        raise DataError(f"query {unknown[0]} has no annotation", where=base, mend="give annotations.json of the same release")
    pictures = next((place / "image" for place in (folder, base, base.parent) if (place / "image").is_dir()), folder / "image")
    return [{**known[id], **asked[id], "image": str((pictures / asked[id]["image"]).absolute())} for id in sorted(asked)]


def _by_id(files: Sequence[Path], *, pictures: bool = False) -> dict[int, Row]:
    """Rows of some files by their id, the last of each; AMBER's files of queries repeat each other.

    Args:
        pictures: whether each must name its picture.

    Raises:
        DataError: a damaged file, or a row without what it must have.
    """
    found = {}
    for file in files:
        for number, row in enumerate(read_rows(file), start=1):
            where, id = f"{file}, row {number}", row.get("id")
            if id is None:
                raise DataError("no `id`", where=where, mend="give it in every row")
            if not isinstance(id, int) or isinstance(id, bool):
                raise DataError(f"`id` is {type(id).__name__}, not a whole number", where=where, mend="give AMBER's ids")
            if pictures:
                text(row, "image", where)
            found[id] = row
    return found


def question(row: Row, protocol: Protocol, origin: Origin) -> Question:
    """A row as it is asked.

    Raises:
        DataError: an unknown type, no truth of that type, or no picture.
    """
    where = f"{origin.name}[{origin.number}]"
    kind = next((text(row, name, where) for name in ("type", "task_type") if row.get(name)), GENERATIVE)
    if kind != GENERATIVE and kind not in KINDS:
        mend = f"types are {GENERATIVE}, {', '.join(KINDS)}"
        raise DataError(f"a query of type {kind!r}", where=where, mend=mend)
    describes = kind == GENERATIVE
    id = next((identifier(row, name, where) for name in ("id", "question_id") if row.get(name) is not None), str(origin.number))
    truth: dict[str, list[str] | str]
    if describes:
        likely = texts(row, "hallu", where) if row.get("hallu") is not None else []
        truth = {"truth": texts(row, "truth", where), "hallu": likely}
    else:
        truth = {"truth": text(row, "truth", where)}
        if truth["truth"] not in ANSWERS:
            raise DataError(f"the truth {truth['truth']!r}", where=where, mend=f"answers are {' and '.join(ANSWERS)}")
    words = DESCRIBE[protocol] if describes else f"{text(row, 'query', where)}{SUFFIX[protocol]}"
    return Question(
        id=id,
        record=asked_about(row["image"], words, id=id, origin=origin),
        max_new_tokens=LONGEST[describes],
        facts={"kind": kind, **truth},
    )


# --- scoring -----------------------------------------------------------------------------------------------------


def score(questions: Sequence[Question], givens: Sequence[Given]) -> list[Scored]:
    similar = nouns.similarity()
    found = []
    for asked, given in zip(questions, givens, strict=True):
        if asked.facts["kind"] == GENERATIVE:
            one = describe_scored(given.text, asked.facts["truth"], asked.facts["hallu"], similar)
            found.append(Scored(sums={**one.sums, "tokens": given.tokens}, marks=one.marks))
        else:
            found.append(answer_scored(given.text, asked.facts["truth"], KINDS[asked.facts["kind"]]))
    return found


@cache
def related() -> dict[str, tuple[str, ...]]:
    """AMBER's objects -> words that mean the same."""
    return {line[0]: tuple(line[1:]) for line in _lines()[1:]}


@cache
def safe() -> frozenset[str]:
    """Words that are never called hallucinated."""
    return frozenset(_lines()[0])


@cache
def vocabulary() -> dict[str, str]:
    """Words that AMBER knows, and their plurals -> the word."""
    known = [word for object, others in related().items() for word in (object, *others)]
    return {word: word for word in known} | nouns.singulars(known)


def _lines() -> list[list[str]]:
    text = Path(nouns.__file__).with_name("amber_words.txt").read_text(encoding="utf-8")
    return [line.split(", ") for line in text.splitlines() if not line.startswith("#")]


def describe_scored(text: str, truth: Sequence[str], hallu: Sequence[str], similar: Similar) -> Scored:
    """What a description adds.

    A noun stands for the first object that lists it as the same, else for the object itself. An object that is annotated twice is
    covered once, as in the original.

    Args:
        truth: objects of the photo.
        hallu: objects that models are likely to invent here.
        similar: whether two words mean the same.
    """
    there, likely = _words(truth), _words(hallu)
    covered, invented, marks = set(), set(), []
    for start, end, noun in nouns.nouns(text, vocabulary()):
        right = noun in safe()
        if not right:
            exact = next((at for word, at in there if word == noun), None)
            if exact is None:
                # A noun may mark a likely object by its word and a second one by similarity: the original counts both.
                same = next((at for word, at in likely if word == noun), None)
                near = next((at for word, at in likely if similar(noun, word)), None)
                invented |= {at for at in (same, near) if at is not None}
                exact = next((at for word, at in there if similar(noun, word)), None)
            right = exact is not None
            covered |= {exact} if exact is not None else set()
        marks.append((start, end, "right" if right else "hallucinated"))
    wrong = sum(kind == "hallucinated" for _, _, kind in marks)
    sums = {
        "described": 1, "mentions": len(marks), "hallucinated": wrong, "hallucinating": int(wrong > 0),
        "objects": len(truth), "covered": len(covered), "likely": len(hallu), "invented": len(invented),
    }  # fmt: skip
    return Scored(sums=sums, marks=tuple(marks))


def _words(objects: Sequence[str]) -> list[tuple[str, int]]:
    """Words for some objects, with the object's number: all words that mean the same first, then the objects themselves."""
    others = [(word, at) for at, object in enumerate(objects) for word in related().get(object, ())]
    return others + [(object, at) for at, object in enumerate(objects)]


def answer_scored(text: str, truth: str, kind: str) -> Scored:
    """What an answer adds, once to all questions and once to those of its kind.

    >>> answer_scored("No, there is none.", "no", "existence").read
    'no'
    """
    small = text.lower()
    read = "yes" if "yes" in small else "no" if "no" in small else ""
    counts = {
        "asked": 1, "right": int(read == truth), "no": int(truth == "no"), "said no": int(read == "no"),
        "right no": int(read == truth == "no"), "said yes": int(read == "yes"), "one word": int(yesno.amber(text) != ""),
    }  # fmt: skip
    return Scored(sums=counts | {f"{name}, {kind}": count for name, count in counts.items()}, read=read)


def f1(kind: str = "") -> Callable[[Totals], np.ndarray]:
    """Of the answer "no": 2 right / (said + there), which is 2 P R / (P + R)."""
    return lambda totals: divide(2 * totals["right no" + kind], totals["said no" + kind] + totals["no" + kind])


def _amber_score(totals: Totals) -> np.ndarray:
    return (1 - divide(totals["hallucinated"], totals["mentions"]) + f1()(totals)) / 2


def _by_kind(kind: str, name: str) -> dict[str, Measure]:
    """Measures of all questions (kind "") or of some."""
    return {
        f"accuracy{kind}": Measure(about=f"right answers{name}", of=ratio("right" + kind, "asked" + kind)),
        f"precision{kind}": Measure(about=f'answers "no" that are right{name}', of=ratio("right no" + kind, "said no" + kind)),
        f"recall{kind}": Measure(about=f"questions to deny that are denied{name}", of=ratio("right no" + kind, "no" + kind)),
        f"F1{kind}": Measure(about=f'precision and recall of "no"{name}', of=f1(kind)),
        f"yes-rate{kind}": Measure(about=f'answers "yes"{name}', of=ratio("said yes" + kind, "asked" + kind), better=""),
    }


def notes() -> Sequence[str]:
    """How words are matched."""
    if nouns.language() is None:
        return (f"matching: exact words; scores of descriptions differ from the original's, which needs spaCy and {nouns.SPACY}",)
    return (f"matching: nouns and vectors of spaCy's {nouns.SPACY}",)


BENCHMARK = Benchmark(
    about="what descriptions invent, and yes/no questions about existence, attributes and relations",
    source="Wang et al. 2023, arXiv 2311.07397; prompts of lmms-eval, amber_g, and of VLMEvalKit, AMBER",
    hub="Kyunnilee/amber_g",
    split=SPLIT,
    columns=("image", "truth"),
    question=question,
    score=score,
    rows=rows,
    notes=notes,
    measures={
        "AMBER score": Measure(about="mean of 1 - CHAIR and F1", of=_amber_score),
        "CHAIR": Measure(about="nouns that are not on the photo", of=ratio("hallucinated", "mentions"), better="lower"),
        "Cover": Measure(about="objects of the photos that are named", of=ratio("covered", "objects")),
        "Hal": Measure(
            about="descriptions with a noun that is not there", of=ratio("hallucinating", "described"), better="lower"
        ),
        "Cog": Measure(about="likely inventions that are named", of=ratio("invented", "likely"), better="lower"),
        "objects a description": Measure(
            about="nouns of a description that AMBER knows", of=ratio("mentions", "described"), better="", percent=False
        ),
        "length": length("described", "a description"),
        **_by_kind("", ""),
        "one word": Measure(about='answers that are "Yes" or "No" and nothing else', of=ratio("one word", "asked"), better=""),
        **_by_kind(", existence", ", whether something is there"),
        **_by_kind(", attribute", ", of what kind it is"),
        **_by_kind(", relation", ", whether things touch"),
    },
)
