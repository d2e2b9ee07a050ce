"""Ten people answered each question, so that an answer is as right as they agree with it: VQA accuracy.

Antol et al. 2015 (arXiv 1505.00468), as TextVQA uses it: answers are normalised first the way EvalAI does, and a person's own
answer does not count for them. `normalise` gives what lmms-eval's `EvalAIAnswerProcessor` gives, its slips included:

- "'s" is cut off before contractions are looked up, so those that end in it are never mended ("thats" is, "that's" falls apart).
- Punctuation goes without a trace where it touches a space somewhere in the text, else a space takes its place.
- Only the first 32 full stops that no digit follows are removed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`!'  # commas and question marks are gone by then
FULL_STOP = re.compile(r"\.(?!\d)")
MOST_FULL_STOPS = 32

# A word that lacks one of these forms' apostrophes gets it back.
CONTRACTIONS = (
    "ain't", "aren't", "can't", "could've", "couldn't", "couldn't've", "didn't", "doesn't", "don't", "hadn't", "hadn't've",
    "hasn't", "haven't", "he'd", "he'd've", "he's", "how'd", "how'll", "how's", "isn't", "it'd", "it'd've", "it'll", "ma'am",
    "mightn't", "mightn't've", "might've", "mustn't", "must've", "needn't", "not've", "o'clock", "oughtn't", "'ow's'at",
    "shan't", "she'd've", "should've", "shouldn't", "shouldn't've", "somebody'd've", "somebody'll", "somebody's", "someone'd",
    "someone'd've", "someone'll", "someone's", "something'd", "something'd've", "something'll", "that's", "there'd",
    "there'd've", "there're", "there's", "they'd", "they'd've", "they'll", "they're", "they've", "'twas", "wasn't", "we'd've",
    "we've", "weren't", "what'll", "what're", "what's", "what've", "when's", "where'd", "where's", "where've", "who'd",
    "who'd've", "who'll", "who's", "who've", "why'll", "why're", "why's", "won't", "would've", "wouldn't", "wouldn't've",
    "y'all", "y'all'll", "y'all'd've", "you'd", "you'd've", "you'll", "you're", "you've",
)  # fmt: skip
MENDED = {
    form[:place] + form[place + 1 :]: form for form in CONTRACTIONS for place, letter in enumerate(form) if letter == "'"
} | {"somebody'd": "somebodyd"}  # the wrong way round in EvalAI's table too


def normalise(text: str) -> str:
    """Lower case, without articles and punctuation, number words up to ten as digits, contractions with their apostrophe.

    >>> normalise("The Two dogs, isnt it?"), normalise("1,000.5"), normalise("U.S.A.")
    ("2 dogs isn't it", '1000.5', 'usa')
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    bare = text
    for mark in PUNCTUATION:
        bare = bare.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    bare = FULL_STOP.sub("", bare, count=MOST_FULL_STOPS)
    found = (NUMBERS.get(word, word) for word in bare.lower().split())
    return " ".join(MENDED.get(word, word) for word in found if word not in ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Mean over people of min(1, others who gave this answer / 3), from 0 to 1. Of ten, one gives 0.3, two 0.6, three 0.9.

    >>> round(vqa_accuracy("Dakota", ["dakota"] * 2 + ["nikon"] * 8), 6)
    0.6
    """
    assert answers, "a question without answers"
    said = normalise(prediction)
    same = [normalise(answer) == said for answer in answers]
    return sum(min(1.0, (sum(same) - own) / 3) for own in same) / len(same)
