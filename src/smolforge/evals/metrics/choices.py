"""Multiple choice: which letter an answer means, in two readings, which option is likeliest, and the mean over kinds.

lmms-eval reads Video-MME and MLVU with `letter` and MVBench with `mvbench_letter`. They disagree: "I think A dog, so B" is B to
the one and A to the other. An answer without a letter is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from smolforge.evals.measures import Totals, divide

ANSWER_PHRASES = (
    *(f"{start}{what} is" for what in ("answer", "option", "choice") for start in ("the correct ", "correct ")),
    *(f"{start}{what} is" for what in ("answer", "option") for start in ("the best ", "best ")),
    "the answer is", "answer is", "the choice is", "choice is", "my answer is", "my choice is", "i choose", "i select", "i pick",
    "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip
PATTERNS = {"({})": 6, "{}.": 5, "{}:": 4, "{})": 3, "{} ": 2}  # how a letter may stand, and how much that is trusted
AT_START, AT_END, AFTER_PHRASE, ANYWHERE = 10, 9, 7, 0

MVBENCH_LETTERS = "A-E"
OPTION = re.compile(rf"([{MVBENCH_LETTERS}])\.\s*.+$", re.IGNORECASE)
LONE_LETTER = re.compile(rf"\b([{MVBENCH_LETTERS}])\b", re.IGNORECASE)
COMMA_IN_NUMBER = re.compile(r"\d,\d")
FULL_STOP = re.compile(r"\.(?!\d)")
MOST_FULL_STOPS = 32  # as many as the reference removes
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def letter(text: str, letters: Sequence[str]) -> str:
    """The letter that lmms-eval's `extract_mcq_answer` reads, "" for none.

    The most trusted place wins: the first or last character by itself, behind a phrase such as "the answer is", then "(A)",
    "A.", "A:", "A)", "A ", and the letter anywhere only if it stands in none of them. Within a kind of place the last one
    wins, behind a phrase too: "The answer is B because A is wrong" is A there, as is "A dog".

    >>> letter("The answer is (B).", "ABCD"), letter("B) cats", "ABCD"), letter("A or B", "ABCD"), letter("none", "ABCD")
    ('B', 'B', 'A', '')
    """
    text = text.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    found = list(_places(f" {text} ", letters)) or [
        (ANYWHERE, text.rfind(name), name) for name in letters if name in text
    ]  # fmt: skip
    return max(found, key=lambda place: place[:2])[2] if found else ""


def _places(text: str, letters: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """(trust, position, letter) of every place that could be the answer; `text` has a space at both ends."""
    bare, lowered = text.strip(), text.lower()
    # Each phrase counts where it stands first, and behind it each letter where it stands first.
    starts = [place + len(phrase) for phrase in ANSWER_PHRASES if (place := lowered.find(phrase)) >= 0]
    for name in letters:
        for pattern, trust in PATTERNS.items():
            if (place := text.rfind(pattern.format(name))) >= 0:
                yield trust, place, name
        for start in starts:
            if (place := text.find(name, start)) >= 0:
                yield AFTER_PHRASE, place, name
        if bare.startswith(name) and not bare[1:2].isalpha():
            yield AT_START, 0, name
        if bare.endswith(name) and not bare[-2:-1].isalpha():
            yield AT_END, len(text), name


def mvbench_letter(text: str) -> str:
    """The letter A to E that MVBench's `mcq_acc` reads in lmms-eval, "" for none.

    "b. cats" is B; otherwise punctuation is removed and the first letter that stands alone counts, in either case and the
    article too: "a dog, so (B)" is A.

    >>> mvbench_letter("(C) Berries"), mvbench_letter("a dog, so (B)"), mvbench_letter("cats")
    ('C', 'A', '')
    """
    if option := OPTION.match(text.strip()):
        return option[1].upper()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    bare = text
    for mark in PUNCTUATION:
        touches_space = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if touches_space or COMMA_IN_NUMBER.search(text) else " ")
    bare = FULL_STOP.sub("", bare, count=MOST_FULL_STOPS)
    found = LONE_LETTER.search(bare.lower())  # lower: it takes letters such as "İ" apart
    return found[1].upper() if found else ""


def likeliest(logprobs: Sequence[float]) -> int | None:
    """Number of the option with the highest log-prob (nats); None where two share it, one is NaN or there is none.

    >>> likeliest([-2.0, -0.5, -3.0]), likeliest([-1.0, -1.0]), likeliest([math.nan, -1.0]), likeliest([])
    (1, None, None, None)
    """
    if any(map(math.isnan, logprobs)):
        return None
    best = max(logprobs, default=math.nan)
    return list(logprobs).index(best) if list(logprobs).count(best) == 1 else None


def macro(above: str, below: str, groups: Sequence[str]) -> Callable[[Totals], np.ndarray]:
    """Mean of `above / below` over groups, each as heavy as the next; those without any `below` are left out.

    >>> from smolforge.evals.measures import Total
    >>> totals = {"right:a": 1, "asked:a": 1, "right:b": 0, "asked:b": 3}
    >>> macro("right", "asked", ["a", "b", "c"])(Total((name, np.array([n])) for name, n in totals.items()))
    array([0.5])
    """

    def of(totals: Totals) -> np.ndarray:
        shares = np.stack([divide(totals[f"{above}:{group}"], totals[f"{below}:{group}"]) for group in groups])  # (G, R)
        known = ~np.isnan(shares)
        return divide(np.where(known, shares, 0).sum(0), known.sum(0))

    return of
