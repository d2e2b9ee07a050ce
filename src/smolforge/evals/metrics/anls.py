"""Answers read off a page may be misread in a letter: ANLS, average normalised Levenshtein similarity.

Biten et al. 2019, "Scene Text Visual Question Answering" (arXiv 1905.13648), eq. 1, and DocVQA (arXiv 2007.00398). With
lower case and single spaces on both sides, a question scores

    max over answers of 1 - NL where NL < 0.5, else 0          NL = edit distance / length of the longer string

Two readings are in use, and they differ in two places:

    keep_half   at NL = 0.5 exactly   length of                    whose
    True        0.5                   the strings as they came     lmms-eval and VLMEvalKit, from the organisers' script
    False       0                     the lower-cased, re-spaced   the equation
"""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

THRESHOLD = 0.5


def anls(prediction: str, answers: Sequence[str], *, keep_half: bool) -> float:
    """Similarity with the nearest of the answers, 0 or from 0.5 to 1. Its mean over questions is the ANLS.

    >>> anls("Pepsi", ["Coca Cola"], keep_half=True), anls("Coca  cola", ["Coca Cola"], keep_half=False)
    (0.0, 1.0)
    >>> anls("ab", ["ac"], keep_half=True), anls("ab", ["ac"], keep_half=False)
    (0.5, 0.0)
    """
    assert answers, "a question without answers"
    similarity = 1 - min(_distance(prediction, answer, raw=keep_half) for answer in answers)
    kept = similarity >= THRESHOLD if keep_half else similarity > THRESHOLD
    return similarity if kept else 0.0


def words(text: str) -> str:
    """Lower case, words with single spaces.

    >>> words(" To  Whom ")
    'to whom'
    """
    return " ".join(text.lower().split())


def _distance(prediction: str, answer: str, *, raw: bool) -> float:
    """Edits of the normalised strings over the longer length: in upper case as they came, or normalised; 0 for two empty ones."""
    said, right = words(prediction), words(answer)
    # Upper case, because the script measures it: it can be longer ("ß" is "SS").
    length = max(len(prediction.upper()), len(answer.upper())) if raw else max(len(said), len(right))
    return Levenshtein.distance(said, right) / length if length else 0.0
