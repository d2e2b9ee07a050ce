"""Corpus BLEU of captions, as the COCO caption evaluation counts it (Papineni et al. 2002, ACL P02-1040).

    BLEU-n = exp(min(0, 1 - r / c)) * (p_1 * ... * p_n)^(1 / n)

c is the length of all captions and r that of each caption's closest reference, in words. p_k is the share of the captions'
k-grams that their references have; a k-gram counts at most as often as one reference has it. Lengths and matches are summed over
the corpus first, so BLEU is a function of sums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from smolforge.evals.measures import Totals
from smolforge.evals.metrics.ptb import Tokens

ORDERS = (1, 2, 3, 4)
# What pycocoevalcap adds to counts, so that nothing is divided by 0 and a corpus without matches has nearly, not exactly, 0.
ABOVE, BELOW = 1e-15, 1e-9

NGram = tuple[str, ...]


def bleu_sums(candidate: Tokens, references: Sequence[Tokens]) -> dict[str, float]:
    """What one caption adds: its words, its closest reference's, its k-grams and those that are right.

    >>> bleu_sums(["a", "red", "red", "cat"], [["a", "red", "cat"], ["the", "cat"]])["bleu.right1"]
    3.0
    """
    words, given = words_of(candidate), [words_of(reference) for reference in references]
    closest = min((abs(len(reference) - len(words)), len(reference)) for reference in given)[1]  # of two the shorter
    said, most = ngrams(words), Counter[NGram]()
    for reference in given:
        most |= ngrams(reference)
    right = said & most
    sums = {"bleu.length": float(len(words)), "bleu.reference": float(closest)}
    for order in ORDERS:
        sums[f"bleu.said{order}"] = float(max(0, len(words) - order + 1))
        sums[f"bleu.right{order}"] = float(sum(times for ngram, times in right.items() if len(ngram) == order))
    return sums


def bleu(n: int) -> Callable[[Totals], np.ndarray]:
    """BLEU-n from 0 to 1, n from 1 to 4.

    >>> sums = bleu_sums(["a", "red", "cat"], [["a", "red", "cat"]])
    >>> bleu(2)({name: np.array([count]) for name, count in sums.items()}).round(6)
    array([1.])
    """
    assert n in ORDERS, f"BLEU-{n}"

    def of(totals: Totals) -> np.ndarray:
        product = np.ones_like(totals["bleu.length"])
        for order in range(1, n + 1):
            product = product * ((totals[f"bleu.right{order}"] + ABOVE) / (totals[f"bleu.said{order}"] + BELOW))
        longer = (totals["bleu.length"] + ABOVE) / (totals["bleu.reference"] + BELOW)
        return product ** (1 / n) * np.where(longer < 1, np.exp(1 - 1 / np.minimum(longer, 1)), 1.0)

    return of


def ngrams(words: Tokens) -> Counter[NGram]:
    """How often each run of one to four words is there."""
    return Counter(tuple(words[start : start + order]) for order in ORDERS for start in range(len(words) - order + 1))


def words_of(tokens: Tokens) -> list[str]:
    """The tokens as pycocoevalcap's BLEU and CIDEr see them: a mixed number such as 5 1/2 is one token that has a no-break space,
    which their `split()` takes apart (ROUGE's does not)."""
    return " ".join(tokens).split()
