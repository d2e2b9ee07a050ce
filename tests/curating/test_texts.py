from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolforge.curating import shingles as module
from smolforge.curating.leaders import Comparison, Ragged
from smolforge.curating.shingles import shingles, words


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    return module.jaccard(set(one.tolist()), set(other.tolist()))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A dog, on the sofa.", "a dog on the  SOFA"),
        ("Stra\u00dfe", "STRASSE"),
        ("\uff21\uff22\uff23 caf\u00e9", "abc cafe\u0301"),  # full width; composed and not
    ],
)
def test_case_width_and_punctuation_make_no_difference(one, other):
    assert words(one) == words(other)


def test_jaccard_by_hand():
    """a..f has 2 runs of 5, a..e x has 2, one of them shared: 1 / 3."""
    assert jaccard(shingles("a b c d e f"), shingles("a b c d e x")) == pytest.approx(1 / 3)
    assert jaccard(shingles("yes"), shingles("Yes!")) == 1.0
    assert jaccard(shingles("yes"), shingles("no")) == 0.0
    assert jaccard(shingles(""), shingles("...")) == 1.0
    assert jaccard(shingles("a b c d"), shingles("a b c d a b c d")) < 1  # a short text is no run of a long one


def test_shingles_know_the_order_of_words():
    assert len(np.intersect1d(shingles("a b c d e"), shingles("e d c b a"))) == 0


VOCABULARY = st.sampled_from([f"w{number}" for number in range(12)])


@given(
    texts=st.lists(st.lists(VOCABULARY, max_size=14), max_size=25),
    similarity=st.sampled_from([0.1, 0.3, 0.5, 0.8, 1.0]),
    copies=st.lists(st.tuples(st.integers(0, 24), st.integers(0, 13), VOCABULARY), max_size=15),
)
def test_prefixes_miss_nothing(texts, similarity, copies):
    """Against comparing every row with every one that stays."""
    for of, place, word in copies:  # near copies, so that there is something to find
        if of < len(texts):
            copy = list(texts[of])
            copy[place : place + 1] = [word]
            texts.append(copy)
    whole = [shingles(" ".join(text), 2) for text in texts]
    comparison = Comparison("text", similarity)
    for one in whole:
        comparison.add([], one, one)
    kept: list[int] = []
    expected = []
    for row, one in enumerate(whole):
        first = next((other for other in kept if jaccard(one, whole[other]) >= similarity), None)
        expected.append(first)
        if first is None:
            kept.append(row)
    assert [found and found.of for found in comparison.duplicates({})] == expected


def test_an_instruction_that_rows_share_makes_no_duplicates():
    instruction = " ".join(f"word{number}" for number in range(60))
    comparison = Comparison("text", 0.8)
    for answer in ("a brown dog", "a white cat", "A brown dog."):
        comparison.add([], shingles(f"{instruction} {answer}"), shingles(answer))
    assert jaccard(comparison.wholes[0], comparison.wholes[1]) > 0.8  # the prompt alone would
    assert [found and found.of for found in comparison.duplicates({})] == [None, None, 0]


def test_a_row_near_one_that_went_is_not_near_one_that_stays():
    """0 and 2 differ in too much, 1 is near both: 1 goes because of 0, and 2 stays."""
    comparison = Comparison("picture", 0.8)
    nothing = np.empty(0, np.uint64)
    for number in range(3):
        comparison.add([number], nothing, nothing)
    near = {0: {1: 8}, 1: {0: 8, 2: 8}, 2: {1: 8}}
    found = list(comparison.duplicates(near))
    assert [one and (one.of, one.distance) for one in found] == [None, (0, 8), None]


def test_several_pictures_have_to_be_near_in_their_order():
    comparison = Comparison("picture", 0.8)
    nothing = np.empty(0, np.uint64)
    for pictures in ([0, 1], [1, 0], [0], [2, 1], [], []):
        comparison.add(pictures, nothing, nothing)
    found = list(comparison.duplicates({0: {2: 4}, 2: {0: 4}}))
    assert [one and (one.of, one.distance) for one in found] == [None, None, None, (0, 4), None, None]


def test_lists_of_numbers_keep_their_places():
    ragged = Ragged("Q")
    for values in ([1, 2**64 - 1], [], [3]):
        ragged.append(np.array(values, np.uint64))
    assert [ragged[index].tolist() for index in range(len(ragged))] == [[1, 2**64 - 1], [], [3]]
