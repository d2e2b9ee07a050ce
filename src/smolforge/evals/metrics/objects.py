"""CHAIR finds invented objects: mentions of MSCOCO's 80 objects in a caption, against the objects of the photo.

The rules are those of Rohrbach et al. 2018 (arXiv 1809.02156, utils/chair.py): words become singular, pairs such as "hot dog"
become one word, and synonyms become one of the 80 objects.

    "Two men ride a baby elephant by the toilet seat."
         men   -> man -> person
         baby elephant -> elephant                    a baby or adult animal is no person
         toilet seat -> toilet                        and where a toilet is, no seat is a chair

Singular forms come from the vocabulary itself. Its authors took `pattern`'s singularize, which also makes "bus" to "bu" and
"tennis" to "tenni"; lmms-eval takes WordNet's lemmatiser with NLTK's tags, which

- keeps "men" (there it is a word of its own) and makes "vases" to "vas", so that both are overlooked;
- keeps plurals of words that WordNet lacks (bikers, smartphones, firetrucks, pitbulls, ...), and overlooks them;
- makes nouns of verbs: "seated", "skateboarding" and "tied" count as seat, skateboard and tie.

Here nouns are read as the nouns that they are, and verbs are not. On 425 human captions of COCO photos the objects of 409 agree
with `pattern`'s (the other 16 have a bus), of 421 with WordNet's nouns (the other 4 have "men") and of 416 with WordNet's nouns
and verbs. The published list also has three words that could never match ("motor bike" and "cheesecake" behind a stray space,
"iPhone" among words in lower case); here they do.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from smolforge.errors import DataError
from smolforge.evals.measures import Measure, ratio
from smolforge.evals.metrics.nouns import singulars, words

Marks = tuple[tuple[int, int, str], ...]

ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
VEHICLES = ("jet", "train")

LISTED = [
    line.split(", ")
    for line in Path(__file__).with_name("coco_objects.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
OBJECTS: dict[str, str] = {word: names[0] for names in LISTED for word in names}  # synonym -> object
PAIRS: dict[str, str] = {  # two words -> the one that they count as
    **{word: word for word in OBJECTS if word.count(" ") == 1},
    **{f"{age} {animal}": animal for age in ("baby", "adult") for animal in ANIMALS},
    **{f"passenger {vehicle}": vehicle for vehicle in VEHICLES},
    "bow tie": "tie", "toilet seat": "toilet", "home plate": "home plate", "train track": "train track",
}  # fmt: skip
SINGULARS = singulars(part for word in [*OBJECTS, *PAIRS] for part in word.split())


@dataclass(frozen=True, kw_only=True)
class Mention:
    """`text[start:end]` names an object."""

    start: int
    end: int
    word: str  # of the list, in the singular
    object: str  # one of the 80


def mentions(text: str) -> list[Mention]:
    """Objects that a caption names, in order.

    >>> [(mention.word, mention.object) for mention in mentions("Two hot dogs on a table, one for a girl.")]
    [('hot dog', 'hot dog'), ('table', 'dining table'), ('girl', 'person')]
    """
    every = [(word.start, word.end, word.text.lower()) for word in words(text)]
    every = [(start, end, SINGULARS.get(word, word)) for start, end, word in every]
    read: list[tuple[int, int, str]] = []
    at = 0
    while at < len(every):
        start, end, word = every[at]
        pair = PAIRS.get(f"{word} {every[at + 1][2]}") if at + 1 < len(every) else None
        if pair:
            end, word = every[at + 1][1], pair
        read.append((start, end, word))
        at += 2 if pair else 1
    named = {word for _, _, word in read}
    skipped = "seat" if "toilet" in named else None
    return [
        Mention(start=start, end=end, word=word, object=OBJECTS[word])
        for start, end, word in read
        if word in OBJECTS and word != skipped
    ]


def objects(names: Set[str], where: object = None) -> frozenset[str]:
    """The objects behind names of an annotation.

    Args:
        where: the row they stand in, for the error.

    Raises:
        DataError: a name that is none of the list.

    >>> sorted(objects({"tv", "man"}))
    ['person', 'tv']
    """
    unknown = sorted(name for name in names if name.lower() not in OBJECTS)
    if unknown:
        listed = ", ".join(map(repr, unknown))
        raise DataError(f"no object of MSCOCO's: {listed}", where=where, mend="name some of its 80 categories")
    return frozenset(OBJECTS[name.lower()] for name in names)


def chair_sums(text: str, truth: Set[str], *, once: bool = False) -> tuple[dict[str, float], Marks]:
    """What a caption adds to CHAIR's counts, and where its objects stand.

    Args:
        truth: objects of the photo.
        once: count each word of a caption once, as Object HalBench does; CHAIR counts every mention.

    Returns:
        captions 1; naming 1 if it names an object; hallucinating 1 if it names one that is not there; mentions, hallucinated: how
        many; objects, covered: different objects of the photo, and those of them that are named. And marks.

    >>> sums, marks = chair_sums("A cat and two dogs.", {"cat", "bed"})
    >>> sums["mentions"], sums["hallucinated"], sums["covered"], marks
    (2, 1, 1, ((2, 5, 'right'), (14, 18, 'hallucinated')))
    """
    found = mentions(text)
    counted = list({mention.word: mention for mention in found}.values()) if once else found
    invented = sum(mention.object not in truth for mention in counted)
    sums: dict[str, float] = {
        "captions": 1, "naming": int(bool(found)), "hallucinating": int(invented > 0), "mentions": len(counted),
        "hallucinated": invented, "objects": len(truth), "covered": len(truth & {mention.object for mention in found}),
    }  # fmt: skip
    kinds = ("hallucinated", "right")
    return sums, tuple((mention.start, mention.end, kinds[mention.object in truth]) for mention in found)


def chair_measures(captions: str, *, count: str = "captions", needs: str = "") -> dict[str, Measure]:
    """CHAIR's three scores, from the counts of `chair_sums`.

    Args:
        captions: what they are called, such as "captions".
        count: of which of them CHAIRs is a share: "captions", all of them, or "naming", those that name an object.
        needs: as `Measure.needs`.
    """
    return {
        "CHAIRi": Measure(
            about="mentions of objects that are not there", of=ratio("hallucinated", "mentions"), better="lower", needs=needs
        ),
        "CHAIRs": Measure(
            about=f"those with such a mention, of {captions}", of=ratio("hallucinating", count), better="lower", needs=needs
        ),
        "recall": Measure(about="objects of the photos that are named", of=ratio("covered", "objects"), needs=needs),
    }
