"""Texts as sets of word runs, so that "the same but for a comma" is a number.

Words: Unicode compatibility forms made one (NFKC), case folded, punctuation and spaces dropped; each letter of a script
without spaces between words (Chinese, Japanese, Thai; Korean too) is a word. A shingle is a run of `size` words as 64 bits; a
text shorter than that is one shingle.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

import numpy as np

SIZE = 5  # words of a shingle for near-duplicates
SIMILARITY = 0.8  # Jaccard
# A word is a run of letters and digits, or one letter of a script without spaces between words.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
FACTOR = 0x9E3779B97F4A7C15  # odd: a polynomial in it modulo 2**64 keeps all bits of the last word


def words(text: str) -> list[str]:
    """
    >>> words("A dog,  on the SOFA."), words("猫です OK")
    (['a', 'dog', 'on', 'the', 'sofa'], ['猫', 'で', 'す', 'ok'])
    """
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


@lru_cache(1 << 17)
def _number(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def shingles(text: str, size: int = SIZE) -> np.ndarray:
    """Different shingles of a text, uint64 (K,), sorted; none for a text without words. Two shingles are one by chance in 2**64.

    >>> [len(shingles(text)) for text in ("", "A dog.", "a b c d e f", "x x x x x x x")]
    [0, 1, 2, 1]
    """
    numbers = np.array([_number(word) for word in words(text)], np.uint64)
    if not len(numbers):
        return numbers
    length = min(size, len(numbers))
    runs = np.full(len(numbers) - length + 1, length, np.uint64)  # the length tells a short text from a run
    for offset in range(length):
        runs = runs * np.uint64(FACTOR) + numbers[offset : offset + len(runs)]
        runs ^= runs >> np.uint64(29)
    return np.unique(runs)


def jaccard(one: set[int], other: set[int]) -> float:
    """Share of the shingles of both that both have, 0 to 1; two texts without words are the same."""
    if not one and not other:
        return 1.0
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)
