"""Objects are found in captions by their words: words with their places, plurals of a closed vocabulary, and nouns.

A closed vocabulary needs no dictionary of English: only words whose singular it has are of interest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

# A hyphen, slash or dot inside a word holds it together, as NLTK's word_tokenize does; "'s" and its like are cut off.
WORD = re.compile(r"\w+(?:(?:[-/.+=~^|\\]|['’](?!(?:s|m|d|ll|re|ve)\b))\w+)*|\S", re.IGNORECASE)

IRREGULAR = {
    "goose": "geese", "mouse": "mice", "ox": "oxen", "knife": "knives", "pocketknife": "pocketknives", "calf": "calves",
    "thief": "thieves", "shelf": "shelves", "bookshelf": "bookshelves", "taxi": "taxies", "bus": "busses",
}  # fmt: skip
HISSING = ("s", "x", "z", "ch", "sh")

# Words that captions use mostly as something else ("can be seen", "a light brown dog"): without a tagger they count as nouns
# where an article or the like stands right before them.
DOUBTFUL = frozenset({
    "can", "hot", "leave", "light", "watch", "drink", "support", "sound", "file", "ring", "spray", "track", "lock", "note",
    "stage", "drain", "skate",
})  # fmt: skip
ARTICLES = frozenset({
    "a", "an", "the", "this", "that", "these", "those", "his", "her", "its", "their", "some", "one", "two", "three", "four",
})  # fmt: skip

SPACY = "en_core_web_lg"
SIMILAR = 0.8  # AMBER's bound for words that mean the same


@dataclass(frozen=True, kw_only=True)
class Word:
    """One word or punctuation mark, `text[start:end]`."""

    start: int
    end: int
    text: str


def words(text: str) -> list[Word]:
    """
    >>> [word.text for word in words("A man's teddy-bear, at 5 o'clock.")]
    ['A', 'man', "'", 's', 'teddy-bear', ',', 'at', '5', "o'clock", '.']
    """
    return [Word(start=found.start(), end=found.end(), text=found.group()) for found in WORD.finditer(text)]


def plurals(word: str) -> set[str]:
    """What a noun's plural may be; some are no English, and do no harm.

    >>> sorted(plurals("buffalo")), plurals("policeman") >= {"policemen"}, plurals("pony") >= {"ponies"}
    (['buffaloes', 'buffalos'], True, True)
    """
    found = {word + "s"}
    if word.endswith(HISSING):
        found = {word + "es"}
    elif word.endswith("y") and word[-2:-1] not in "aeiou":
        found = {word[:-1] + "ies"}
    elif word.endswith("o"):
        found |= {word + "es"}
    elif word.endswith("man"):
        found |= {word[:-3] + "men"}
    elif word.endswith("child"):
        found = {word + "ren"}
    return found | {IRREGULAR.get(word, word)} - {word}


def singulars(vocabulary: Iterable[str]) -> dict[str, str]:
    """Plural -> the vocabulary's word. A plural that is itself in the vocabulary stays.

    >>> singulars(["knife", "skis", "ski", "oxen", "ox"])["knives"], "skis" in singulars(["skis", "ski"])
    ('knife', False)
    """
    known = list(dict.fromkeys(vocabulary))
    found: dict[str, str] = {}
    for word in known:
        for plural in plurals(word):
            found.setdefault(plural, word)
    return {plural: word for plural, word in found.items() if plural not in known}


def nouns(text: str, vocabulary: Mapping[str, str]) -> list[tuple[int, int, str]]:
    """[start, end) and the vocabulary's word of every noun that it knows.

    Args:
        vocabulary: word or plural -> word. A word is looked up as it stands, else in lower case.

    With spaCy and its en_core_web_lg a noun is what they call one (tags NN*). Without, every word counts but DOUBTFUL ones that
    no article introduces.

    >>> nouns("Dogs and a can can be seen.", {"dogs": "dog", "can": "can"})
    [(0, 4, 'dog'), (11, 14, 'can')]
    """
    model = language()
    if model is not None:
        tagged = [(token.idx, token.idx + len(token), token.text) for token in model(text) if token.tag_.startswith("NN")]
    else:
        every = words(text)
        before = ["", *(word.text.lower() for word in every)]
        tagged = [
            (word.start, word.end, word.text)
            for word, last in zip(every, before)
            if vocabulary.get(word.text.lower(), "") not in DOUBTFUL or last in ARTICLES
        ]
    found = []
    for start, end, word in tagged:
        known = vocabulary.get(word) or vocabulary.get(word.lower())
        if known:
            found.append((start, end, known))
    return found


@cache
def language() -> Any | None:
    """spaCy with vectors for English, None where either is not installed."""
    if find_spec("spacy") is None or find_spec(SPACY) is None:
        return None
    import spacy

    return spacy.load(SPACY)


def similarity() -> Callable[[str, str], bool]:
    """Whether two words mean the same: equal, or with spaCy's vectors more than 0.8 similar."""
    model = language()
    if model is None:
        return lambda one, other: one == other
    vectors = cache(model)
    return lambda one, other: one == other or vectors(one).similarity(vectors(other)) > SIMILAR
