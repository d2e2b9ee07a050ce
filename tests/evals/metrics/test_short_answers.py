"""Readings and scores of short answers: by hand, and against tables that the reference implementations filled.

The tables hold what lmms-eval's own functions gave. Beyond them the readings were compared with those functions on 200,000 (VQA)
and 300,000 (letters, relaxed accuracy) random strings of words, marks, digits and odd letters: no difference; ANLS on 200,000
pairs: none; VQA accuracy on 20,000 questions: 2.3e-16 at most, from the order of summation.
"""

from __future__ import annotations

import pytest

from smolforge.evals.metrics.anls import anls
from smolforge.evals.metrics.choices import letter, likeliest, mvbench_letter
from smolforge.evals.metrics.relaxed import relaxed
from smolforge.evals.metrics.vqa import normalise, vqa_accuracy
from smolforge.evals.metrics.yesno import amber, contained, exact

# --- ANLS --------------------------------------------------------------------------------------------------------------

# (said, answers): (script, equation)
ANLS = {
    ("0.28", ("0.28",)): (1, 1),
    (" coca  COLA ", ("Pepsi", "Coca Cola")): (1, 1),
    ("Dakota Digita", ("Dakota Digital", "x")): (13 / 14, 13 / 14),  # one letter of 14 is missing
    ("STVQA", ("ST-VQA",)): (5 / 6, 5 / 6),
    ("Dakota", ("Dakota Digital",)): (0, 0),  # 8 edits of 14
    ("abc", ("abdefg",)): (0, 0),  # 4 of 6
    ("ab", ("ac",)): (0.5, 0),  # exactly a half
    ("abcd", ("abxy", "zzzz")): (0.5, 0),
    ("a b", ("a  c",)): (3 / 4, 2 / 3),  # one edit; of four characters as they came, of three with single spaces
    ("abc   ", ("abd",)): (5 / 6, 2 / 3),
    ("STRASSE", ("straße",)): (5 / 7, 5 / 7),
    ("", ("a",)): (0, 0),
    ("", ("",)): (1, 1),
}


@pytest.mark.parametrize("case", ANLS, ids=str)
def test_anls(case: tuple[str, tuple[str, ...]]) -> None:
    said, answers = case
    found = tuple(anls(said, answers, keep_half=keep) for keep in (True, False))
    assert found == pytest.approx(ANLS[case], rel=1e-12)


def test_no_answer_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError):
        anls("a", [], keep_half=True)


# --- VQA ---------------------------------------------------------------------------------------------------------------

# fmt: off
NORMALISED = {
    "": "", "The": "", "a cat": "cat", "An Apple": "apple", "the the dog": "dog", "Dakota": "dakota", "  Dakota  ": "dakota",
    "dakota digital.": "dakota digital", "DAKOTA\nDIGITAL": "dakota digital", "a\tb": "b", "none": "0", "Zero": "0",
    "one": "1", "two dogs": "2 dogs", "THREE": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "Ten": "10", "eleven": "eleven", "twenty one": "twenty 1", "1,000": "1000", "1,000,000": "1000000",
    "1,000 people": "1000 people", "a, b": "b", "3.14": "3.14", ".5": ".5", "5.": "5", "mr. smith": "mr smith",
    "U.S.A.": "usa", "v1.2.": "v1.2", "1.5.": "1.5", "...": "", "...5": ".5", "what?": "what", "really!": "really",
    "yes!": "yes", "and/or": "and or", "and / or": "and or", "rock-n-roll": "rock n roll", "rock - n-roll": "rock nroll",
    "e-mail": "e mail", "[1, 2]": "1 2", "(a)": "", "x=y": "x y", "x = y": "x y", "50%": "50%", "$5": "$5", "#1": "#1",
    "a@b.com": "bcom", "user_name": "user name", "c:\\dir": "c: dir", '"quoted"': "quoted", 'say "hi"': "say hi",
    "`code`": "code", "<b>": "b", "a < b": "b", "{x}": "x", "1+1": "1 1", "1 + 1": "1 1", "semi;colon": "semi colon",
    "semi; colon": "semi colon", "don't": "don't", "dont": "don't", "DONT": "don't", "isnt it": "isn't it", "cant": "can't",
    "couldnt've": "couldn't've", "couldn'tve": "couldn't've", "couldntve": "couldntve", "its": "its", "it's": "it 's",
    "thats": "that's", "that's": "that 's", "lets": "lets", "let's": "let 's", "shes": "shes", "she's": "she 's",
    "hes": "he's", "oclock": "o'clock", "o'clock": "o'clock", "maam": "ma'am", "twas": "'twas", "ows'at": "ows'at",
    "'ows'at": "'ow's'at", "ow's'at": "ow 's'at", "somebody'd": "somebodyd", "somebodyd've": "somebody'd've",
    "someoned": "someone'd", "yall": "y'all", "yall'd've": "y'all'd've", "y'alld've": "y'all'd've", "y'all'dve": "y'all'd've",
    "y'allll": "y'all'll", "youre": "you're", "Im": "im", "Ive": "ive", "Id've": "id've", "wholl": "who'll",
    "theyll": "they'll", "dog's": "dog 's", "dogs'": "dogs'", "a.m.": "am", "10:30": "10:30", "1. a": "1", "no.1": "no.1",
    "no. 1": "no 1", "the-a": "", "İ": "i̇", "ß": "ß", "it’s": "it’s",
}
# fmt: on


@pytest.mark.parametrize("text", NORMALISED)
def test_normalise(text: str) -> None:
    assert normalise(text) == NORMALISED[text]


def test_only_32_full_stops_go() -> None:
    assert normalise(". " * 40 + "x") == ". " * 8 + "x"


@pytest.mark.parametrize(("agreeing", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_vqa_accuracy_of_ten(agreeing: int, accuracy: float) -> None:
    """Three of ten: the three see two others, 2 / 3 each, and the seven see three, 1 each: (3 * 2 / 3 + 7) / 10."""
    answers = ["The Dakota."] * agreeing + ["nikon"] * (10 - agreeing)
    assert vqa_accuracy("dakota", answers) == pytest.approx(accuracy, abs=1e-12)


# --- charts ------------------------------------------------------------------------------------------------------------

# (said, target): right?
RELAXED = {
    ("14", "14"): True,
    ("14.7", "14"): True,
    ("14.8", "14"): False,
    ("13.3", "14"): True,
    ("13.29", "14"): False,
    ("-14", "14"): False,
    ("14", "-14"): False,
    ("-14.5", "-14"): True,
    ("+14", "14"): True,
    ("17%", "17"): False,
    ("17", "17%"): False,
    ("17%", "17%"): True,
    ("17.8%", "17%"): True,
    ("17.9%", "17%"): False,
    ("0.17", "17%"): True,
    ("0", "0"): True,
    ("0.0", "0"): False,
    ("0%", "0"): False,
    ("0.0001", "0"): False,
    ("1,000", "1000"): False,
    ("1,000", "1,000"): True,
    ("$5", "5"): False,
    ("5 kg", "5"): False,
    (" 14 ", "14"): True,
    ("14%%", "14%"): True,
    ("14% ", "14%"): False,
    ("Yes", "yes"): True,
    ("Yes ", "Yes"): False,
    ("yes.", "Yes"): False,
    ("", ""): True,
    ("", "0"): False,
    ("inf", "5"): False,
    ("nan", "nan"): False,
    ("NaN", "nan"): False,
    ("1_4", "14"): True,
    ("1e1", "10"): True,
    ("[1, 2]", "[1, 2]"): True,
    ("2", "two"): False,
    ("٣", "3"): True,
}


@pytest.mark.parametrize("case", RELAXED, ids=str)
def test_relaxed(case: tuple[str, str]) -> None:
    assert relaxed(*case) is RELAXED[case]


def test_another_tolerance() -> None:
    assert relaxed("15", "10", tolerance=0.5)
    assert not relaxed("10.1", "10", tolerance=0.0)


# --- letters -----------------------------------------------------------------------------------------------------------

# fmt: off
LETTERS = {  # of A to D
    "The answer is (B).": "B", "B) cats": "B", "A or B": "A", "": "", "None": "", "I think A dog, so B": "B", "   ": "",
    "A": "A", "b": "", "(c)": "", "C.": "C", "D:": "D", "A dog": "A", "B.": "B", "The answer is B, not A": "A",
    "Answer: C": "C", "The correct answer is D because A is wrong": "A", "BAD": "D", "Banana": "B", "ABCD": "D",
    "I choose C": "C", "my answer is b": "", "(A) cats (B) dogs": "B", "(A) cats. B: dogs": "A", "Option A": "A", "A, B": "A",
    "A.B.": "A", "Both B and C": "C", "E": "", "(E)": "", "정답은 B": "B", "答案是C": "C", "It is D": "D", "D is it": "D",
    "\nB\n": "B", '"B"': "B", "'C'": "C", "B!": "B", "The best option is: (D) x": "D", "A) x B) y": "A", "C": "C", "a": "",
    "So the answer is cats": "", "None of them: A": "A", "Cat": "C", "The answer is A. B is wrong.": "B", "**B**": "B",
    "**Answer: B**": "B", "<B>": "B", "B\n\nBecause": "B", "Answer is not A. It is C": "C",
}
MVBENCH = {
    "The answer is (B).": "B", "B) cats": "B", "A or B": "A", "": "", "None": "", "I think A dog, so B": "A", "   ": "",
    "A": "A", "b": "B", "(c)": "C", "C.": "C", "D:": "D", "A dog": "A", "B.": "B", "The answer is B, not A": "B",
    "Answer: C": "C", "The correct answer is D because A is wrong": "D", "BAD": "", "Banana": "", "ABCD": "",
    "I choose C": "C", "my answer is b": "B", "(A) cats (B) dogs": "A", "(A) cats. B: dogs": "A", "Option A": "A",
    "A, B": "A", "A.B.": "A", "Both B and C": "B", "E": "E", "(E)": "E", "정답은 B": "B", "答案是C": "", "It is D": "D",
    "D is it": "D", "\nB\n": "B", '"B"': "B", "'C'": "C", "B!": "B", "The best option is: (D) x": "D", "A) x B) y": "A",
    "C": "C", "a": "A", "So the answer is cats": "", "None of them: A": "A", "Cat": "", "The answer is A. B is wrong.": "A",
    "**B**": "B", "**Answer: B**": "B", "<B>": "B", "B\n\nBecause": "B", "Answer is not A. It is C": "A", "b. cats": "B",
    "(B)": "B", "a dog, so (B)": "A", "e": "E", "I'd say C": "D", "A cat. B": "A", "A. foo\nbar": "A", "e.g. this": "E",
    "1,2 A": "A", "it's a B": "A", "F": "", "(F) x": "", "B-side": "B", "vitamin C": "C", "A_B": "A", "A.": "A", "A. ": "A",
    "C. Berries": "C", "'A'": "A", "don't know": "", "C)": "C",
}
# fmt: on


@pytest.mark.parametrize("text", LETTERS)
def test_letter(text: str) -> None:
    assert letter(text, "ABCD") == LETTERS[text]


def test_other_letters() -> None:
    assert letter("(E)", "ABCDE") == "E"
    assert letter("C", "AB") == ""
    assert letter("", "") == ""


@pytest.mark.parametrize("text", MVBENCH)
def test_mvbench_letter(text: str) -> None:
    assert mvbench_letter(text) == MVBENCH[text]


def test_likeliest() -> None:
    assert likeliest([-3.0, -0.1, -2.0]) == 1
    assert likeliest([float("-inf"), -50.0]) == 1
    assert likeliest([-1.0, -2.0, -1.0]) is None
    assert likeliest([]) is None
    assert likeliest([float("nan"), -1.0]) is None
    assert likeliest([-1.0, float("nan")]) is None


# --- yes and no --------------------------------------------------------------------------------------------------------

# answer: (exact, contained, amber). The last line of POPE's rule is "else yes".
YES_NO = {
    "yes": ("yes", "yes", ""),
    "Yes": ("yes", "yes", "yes"),
    "No": ("no", "no", "no"),
    "no": ("no", "no", ""),
    " NO \n": ("no", "yes", ""),  # neither "No" nor "no"
    "Yes.": ("", "yes", ""),
    "No.": ("", "no", ""),
    "No, there is no dog.": ("", "no", ""),
    "There is not.": ("", "no", ""),
    "There is none.": ("", "yes", ""),
    "There isn't.": ("", "yes", ""),
    "Yes. No doubt.": ("", "yes", ""),
    "Not at all": ("", "yes", ""),
    "no\nyes": ("", "yes", ""),  # words end at spaces only
    ".no": ("", "yes", ""),
    "": ("", "yes", ""),
    "Yes ": ("yes", "yes", ""),
}


@pytest.mark.parametrize("text", YES_NO)
def test_yes_and_no(text: str) -> None:
    assert (exact(text), contained(text), amber(text)) == YES_NO[text]
