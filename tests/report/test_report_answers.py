"""Marks in answers, facts for readers, and that a model's words stay words."""

from __future__ import annotations

import pytest
from PIL import Image

from smolforge.evals.results import Prediction
from smolforge.report.answers import answer, card, marked, side_by_side, truths


def said(text: str, **changes) -> Prediction:
    given = {"id": "1", "prompt": "What?", "tokens": 3, "finished": True, "facts": {}, "sums": {}}
    return Prediction(**given | {"answer": text} | changes)


def bad(text: str) -> str:
    return f'<mark class="bad">{text}</mark>'


def right(text: str) -> str:
    return f'<mark class="right">{text}</mark>'


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ([], "abcdef"),
        ([(0, 2, "hallucinated")], bad("ab") + "cdef"),
        ([(4, 6, "right")], "abcd" + right("ef")),
        ([(0, 6, "right")], right("abcdef")),
        ([(0, 4, "right"), (2, 6, "hallucinated")], right("ab") + bad("cdef")),  # hallucinated is shown over right,
        ([(2, 6, "hallucinated"), (0, 4, "right")], right("ab") + bad("cdef")),  # in whatever order they come
        ([(0, 6, "right"), (2, 4, "hallucinated")], right("ab") + bad("cd") + right("ef")),
        ([(0, 2, "right"), (2, 4, "hallucinated")], right("ab") + bad("cd") + "ef"),
        ([(4, 99, "hallucinated"), (-3, 1, "right")], right("a") + "bcd" + bad("ef")),
        ([(3, 3, "hallucinated"), (5, 2, "right"), (9, 12, "right")], "abcdef"),
    ],
)
def test_marks(marks, expected):
    assert marked("abcdef", marks) == expected


def test_marks_count_letters_of_the_answer_not_of_the_markup():
    assert marked("<&> ü 🐕 x", [(0, 3, "hallucinated"), (6, 7, "right")]) == f"{bad('&lt;&amp;&gt;')} ü {right('🐕')} x"


def test_an_answer_is_never_markup():
    evil = "<script>alert(1)</script>"
    question = said(evil, prompt=evil, id=evil, read=evil, facts={evil: evil}, changes=(evil,), pictures=(evil,))
    for page in (card({evil: question}, [], note=evil), side_by_side(question, question, [], note=evil)):
        assert "<script" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_half_a_surrogate_pair_can_be_written():
    assert marked("a\ud83d", []).encode("utf-8") == b"a?"


def test_answers_tell_how_they_were_read_where_that_is_not_plain():
    assert answer(said("Yes.", read="yes")) == "Yes."
    assert "(read as B, cut after 3 tokens)" in answer(said("It is the second one", read="B", finished=False))
    assert "(nothing)" in answer(said(" \n"))


def test_truths_in_readers_words():
    facts = {"question": "Is it?", "letters": ["A"], "hallu": [], "truth": ["sky", "dog"], "annotated": True, "video": None}
    assert truths(facts) == [("expected", "sky / dog"), ("annotated", "yes")]
    assert len(truths({"caption": "x" * 5000})[0][1]) < 1000


def test_pictures_come_from_the_folder_of_results_alone(tmp_path):
    results = tmp_path / "results"
    (results / "pictures").mkdir(parents=True)
    for file in (results / "pictures" / "in.png", tmp_path / "out.png"):
        Image.new("RGB", (2, 2)).save(file)
    (results / "pictures" / "text.png.txt").write_text("secret")
    inside = said("", pictures=("pictures/in.png",))
    assert card({"a": inside}, [tmp_path / "nowhere", results]).count("data:image/png;base64,") == 1
    outside = said("", pictures=("../out.png", str(tmp_path / "out.png"), "pictures/none.png", "pictures/text.png.txt"))
    assert "<img" not in card({"a": outside}, [results])


def test_of_many_pictures_a_few_are_shown(tmp_path):
    for n in range(64):
        Image.new("RGB", (2, 2)).save(tmp_path / f"{n}.jpg")
    page = card({"a": said("", pictures=tuple(f"{n}.jpg" for n in range(64)))}, [tmp_path])
    assert page.count("<img") == 6
    assert "and 58 more" in page
