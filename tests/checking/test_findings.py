"""Each error and warning fires on a recipe made for it, and on a good recipe none does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smolforge.checking import check
from smolforge.checking.findings import findings_of
from smolforge.errors import DataError, RecipeError, UserError

PAIRS = {"kind": "dpo"}


def said(found, *, error: bool) -> str:
    return "\n".join(str(one) for one in found.findings if one.error == error)


@pytest.fixture
def good(recipe, questions, write):
    """Pictures and texts, held-out ones apart."""
    texts = [{"question": f"2{n}", "answer": f"{n}"} for n in range(30)]
    return recipe(
        {"source": questions("train", 30), "weight": 2}, {"source": write("texts", texts), "weight": 1},
        held_out=[{"source": questions("held", 10, first=100)}], run={"dir": "run", "steps": 12},
    )  # fmt: skip


def test_a_good_recipe_has_nothing_to_mend(good):
    found = check(good)
    assert found.findings == ()
    assert found.named == ()
    assert found.notes == ()


# --- errors ----------------------------------------------------------------------------------------------------------


def test_every_source_that_cannot_be_opened_is_named(recipe, questions):
    found = check(recipe({"source": "gone.jsonl"}, {"source": questions("good", 5)}, {"source": "nowhere/at/all.csv"}))
    assert [one.where for one in found.errors] == ["data.0 gone.jsonl", "data.2 nowhere/at/all.csv"]
    assert found.known is None
    held = check(recipe({"source": questions("good", 5)}, held_out=[{"source": "gone.jsonl"}]))
    assert [one.where for one in held.errors] == ["eval.data.0 gone.jsonl"]
    both = check(recipe({"source": "gone.csv"}, held_out=[{"source": "gone.jsonl"}]))
    assert [one.where for one in both.errors] == ["data.0 gone.csv", "eval.data.0 gone.jsonl"]


def test_a_modality_without_a_source(recipe, questions):
    source = {"source": questions("good", 5), "modality": "image"}
    found = check(recipe(source, mixture={"image": 1, "video": 1}))
    assert "mixture.video" in said(found, error=True)
    assert not check(recipe(source, mixture={"image": 1})).errors


def test_a_source_whose_rows_all_fail(recipe, write, questions):
    rows = [{"image": "gone.png", "question": "1", "answer": "2"}] * 4
    found = check(recipe({"source": questions("good", 5)}, {"source": write("bad", rows)}))
    (error,) = found.errors
    assert error.where.startswith("data.1")
    assert "every one of 4 rows is dropped: 4 no such picture" in error.what


def test_pictures_for_a_text_model(recipe, questions, tmp_path):
    from smolforge.tiny import assemble_text

    assemble_text(tmp_path / "text")
    found = check(recipe({"source": questions("good", 5)}, model={"name": str(tmp_path / "text")}))
    assert "text-only model" in said(found, error=True)


def test_a_source_that_is_never_reached(good):
    """Of 60 examples a weight of 1 : 100,000 takes 0.0006."""
    data = (good.data[0].model_copy(update={"weight": 1e5}), good.data[1])
    found = check(good.model_copy(update={"data": data}))
    (error,) = found.errors
    assert error.where.startswith("data.1")
    assert "takes 0.0006 of its rows" in error.what
    known = check(good).known
    rare = replace(known.sources[1], reached=False)  # one that the walk along the mixture did not meet
    (warning,) = findings_of(replace(known, sources=(known.sources[0], rare)))
    assert not warning.error
    assert "no row of it came up" in warning.what


def test_every_picture_reduced(tiny_split, recipe, questions):
    """A square of 384 pixels is 17 tiles, 193 tokens with its marks; with 18 of the prompt and 6 of the answer it needs 217."""
    source = {"source": questions("large", 5, size=(384, 384))}
    made = recipe(source, model={"name": str(tiny_split)}, batch={"examples": 5, "row_tokens": 200})
    found = check(made)
    assert "every picture or video is reduced: one needs 217 tokens where 200 fit; set batch.row_tokens: 217" in said(
        found, error=True
    )
    assert any("fewer tiles: 17 ->" in line for line in found.named)
    enough = check(made.model_copy(update={"batch": made.batch.model_copy(update={"row_tokens": 217})}))
    assert not enough.errors
    assert not enough.named


def test_held_out_rows_that_are_trained_on(recipe, questions):
    file = questions("all", 20)
    apart = check(recipe({"source": file, "split": "train[:15]"}, held_out=[{"source": file, "split": "train[15:]"}]))
    assert not apart.known.overlaps
    equal = check(recipe({"source": file}, held_out=[{"source": file, "split": "train[15:]"}]))
    assert "5 of its 5 rows (100%) are rows of" in said(equal, error=True)
    partly = check(recipe({"source": file, "split": "train[:16]"}, held_out=[{"source": file, "split": "train[15:]"}]))
    assert not partly.errors
    assert "1 of its 5 rows (20%)" in said(partly, error=False)


def test_a_copy_of_the_training_data_as_held_out_data(recipe, questions, write, draw):
    held = check(recipe({"source": questions("train", 20)}, held_out=[{"source": questions("copy", 20)}]))
    assert "20 of 20 rows of the sample have a picture or text" in said(held, error=True)
    texts = [{"question": f"{n}", "answer": f"{n}"} for n in range(20)]
    copied = check(recipe({"source": write("a", texts)}, held_out=[{"source": write("b", texts[:10])}]))
    assert "10 of 10 rows of the sample" in said(copied, error=True)


def test_epochs_of_a_stream_have_no_end(good):
    """No stream is at hand here, so the sources of a stream are marked as ones."""
    from smolforge.checking import num_steps, renderer_of
    from smolforge.data.pipeline import open_stream

    stream = open_stream(good.data, renderer_of(good), kinds={"target"}, seed=0)
    endless = replace(stream, sources=tuple(replace(source, endless=True) for source in stream.sources))
    epochs = good.model_copy(update={"run": good.run.model_copy(update={"steps": None, "epochs": 2.0})})
    assert num_steps(epochs, stream) == 24
    with pytest.raises(DataError, match="no end"):
        num_steps(epochs, endless)


def test_a_preset_has_no_tokenizer(recipe, questions):
    with pytest.raises(RecipeError, match="a preset has no tokenizer") as told:
        check(recipe({"source": questions("good", 5)}, model={"name": "smolvlm-256m"}))
    assert "\n" not in str(told.value)
    with pytest.raises(UserError):
        check(recipe({"source": questions("good", 5)}, model={"name": "no/where/at/all"}))


def test_nothing_supervised(good):
    """No recipe can bring it about, so a check's facts are changed."""
    known = check(good).known
    none = replace(known.sources[1], unscored=known.sources[1].used)
    few = replace(known.sources[1], unscored=1)
    (error,) = findings_of(replace(known, sources=(known.sources[0], none)))
    assert error.error
    assert "no token of it is supervised" in error.what
    (warning,) = findings_of(replace(known, sources=(known.sources[0], few)))
    assert not warning.error


# --- warnings --------------------------------------------------------------------------------------------------------


def test_some_rows_are_dropped(recipe, write):
    rows = [{"question": f"{n}", "answer": f"{n}"} for n in range(9)] + [{"question": "1", "answer": ""}]
    found = check(recipe({"source": write("rows", rows)}))
    assert not found.errors
    assert "1 of 10 rows are dropped: 1 empty answer" in said(found, error=False)


def test_a_prompt_is_cut(recipe, write):
    rows = [{"question": " ".join(f"{n}" for n in range(200)), "answer": f"{n}"} for n in range(10)]
    found = check(recipe({"source": write("long", rows)}, batch={"examples": 5, "row_tokens": 100}))
    assert "10 of 10 prompts lose text in their middle" in said(found, error=False)


def test_what_does_not_fit_says_how_much_would(recipe, write):
    rows = [{"question": "1", "answer": "5" * 300}, {"question": "1", "answer": "5"}]
    found = check(recipe({"source": write("long", rows)}, batch={"examples": 5, "row_tokens": 100}))
    # a prompt of 19 tokens, a space, 300 digits and the closing token
    assert "too long" in said(found, error=False)
    assert "the longest needs 321 tokens; set batch.row_tokens: 321" in said(found, error=False)


def test_few_reduced_pictures_are_a_warning(tiny_split, recipe, write, draw):
    rows = [{"image": draw(n, (384, 384 if n == 0 else 96)), "question": "1", "answer": f"{n}"} for n in range(5)]
    made = recipe({"source": write("some", rows)}, model={"name": str(tiny_split)}, batch={"examples": 5, "row_tokens": 200})
    assert "1 of 5 examples get fewer tiles or frames" in said(check(made), error=False)


def test_answers_in_their_own_prompt(recipe, write):
    rows = [{"question": f"Repeat: the Quick brown fox {n}.", "answer": f"the quick  brown fox {n}"} for n in range(5)]
    assert "the answer of 5 of 5 rows stands in its own prompt" in said(check(recipe({"source": write("a", rows)})), error=False)
    chat = [
        {"role": "user", "content": "1"}, {"role": "assistant", "content": "what comes next is this"},
        {"role": "user", "content": "why: what comes next is this"}, {"role": "assistant", "content": "2"},
    ]  # fmt: skip
    later = check(recipe({"source": write("b", [{"messages": chat}])}))
    assert "own prompt" not in said(later, error=False), "a later question may quote an answer"
    colours = [{"question": "red or blue?", "answer": "red"}]
    assert "own prompt" not in said(check(recipe({"source": write("c", colours)})), error=False)


def test_one_answer_for_all(recipe, write):
    rows = [{"question": f"{n}", "answer": "Yes" if n < 16 else f"{n}"} for n in range(24)]
    run = {"dir": "run", "steps": 10}
    assert "16 of 24 rows have the same answer: 'yes'" in said(check(recipe({"source": write("a", rows)}, run=run)), error=False)
    half = [{"question": f"{n}", "answer": "yes" if n % 2 else "no"} for n in range(24)]
    assert "same answer" not in said(check(recipe({"source": write("b", half)}, run=run)), error=False)


def test_pictures_that_come_again(recipe, write, draw):
    rows = [{"image": draw(n // 2), "question": f"{n}", "answer": f"{n}"} for n in range(24)]
    found = check(recipe({"source": write("twice", rows)}, run={"dir": "run", "steps": 10}))
    assert "12 of 24 rows have a picture or video that another row has as well" in said(found, error=False)


def test_rows_that_hold_something_else(recipe, write, draw):
    rows = [{"image": draw(n), "question": "1", "answer": f"{n}"} for n in range(5)]
    found = check(recipe({"source": write("a", rows), "modality": "text"}, mixture={"text": 1}))
    assert "5 of 5 rows hold image, not text, so the mixture's shares are not what they say; set modality: image" in said(
        found, error=False
    )


def test_many_passes(recipe, questions):
    source = {"source": questions("few", 5)}
    assert "come up" not in said(check(recipe(source, run={"dir": "run", "steps": 10})), error=False)
    assert "its 5 rows come up 11 times each" in said(check(recipe(source, run={"dir": "run", "steps": 11})), error=False)


def test_little_is_supervised(recipe, write):
    """22 tokens of a prompt with 'nine nine ...' on top: of 500 and more only 3 are an answer's."""
    rows = [{"question": "9" * 480, "answer": f"{n}"} for n in range(5)]
    assert "0.60% of the tokens are supervised" in said(check(recipe({"source": write("a", rows)})), error=False)


def test_enlarged_pictures(tiny_split, recipe, questions):
    """96 pixels enlarged to 384: 17 tiles instead of one."""
    made = recipe({"source": questions("small", 5)}, model={"name": str(tiny_split)})
    assert "100% of the pictures are enlarged to 384 pixels; upscale: false would save 94% of the tiles" in said(
        check(made), error=False
    )
    as_they_are = made.model_copy(update={"images": made.images.model_copy(update={"upscale": False})})
    assert "enlarged" not in said(check(as_they_are), error=False)


def test_loose_rows(recipe, write):
    """101 tokens, of which one fits into a row of 180."""
    rows = [{"question": "9" * 78, "answer": f"{n}"} for n in range(5)]
    found = check(recipe({"source": write("a", rows)}, batch={"examples": 5, "row_tokens": 180}))
    assert "rows of 180 tokens are 55% full" in said(found, error=False)


def test_nothing_held_out(recipe, questions):
    assert "nothing is held out" in said(check(recipe({"source": questions("a", 5)})), error=False)


def test_rows_in_two_sources(recipe, questions):
    file = questions("a", 20)
    found = check(recipe({"source": file, "split": "train[:12]"}, {"source": file, "split": "train[10:]"}))
    assert "2 of its 10 rows are rows of" in said(found, error=False)


# --- preferences -----------------------------------------------------------------------------------------------------


def test_pairs_that_teach_nothing(recipe, write):
    rows = [{"prompt": f"{n}", "chosen": f"{n}", "rejected": f"{n}1"} for n in range(10, 20)]
    rows += [{"prompt": "1", "chosen": "2", "rejected": "2"}, {"prompt": "3", "chosen": "", "rejected": "2"}]
    found = check(recipe({"source": write("pairs", rows)}, objective=PAIRS))
    assert "2 of 12 rows are left out: 1 chosen and rejected are identical, 1 empty answer" in said(found, error=False)
    assert found.known.sources[0].used == 10
    # 18 of a prompt with two digits ("Ġ", 2 digits, marks), 4 of the chosen and 5 of the rejected answer
    assert (found.known.sources[0].tokens["prompt"].median, found.known.sources[0].tokens["answers"].median) == (20, 9)
    assert any("pairs.jsonl" in line for line in found.cleaning)


def test_length_as_a_cue(recipe, write):
    def made(longer: int):
        rows = [{"prompt": f"{n}", "chosen": "7" * (9 if n < longer else 2), "rejected": "8" * 5} for n in range(30)]
        return check(recipe({"source": write(f"pairs{longer}", rows)}, objective=PAIRS))

    assert "the chosen answer is the longer one in 90% of 30 pairs" in said(made(27), error=False)
    assert "the chosen answer is the shorter one in 90% of 30 pairs" in said(made(3), error=False)
    assert "chosen answer" not in said(made(15), error=False)


def test_targets_for_preference_training(recipe, questions):
    found = check(recipe({"source": questions("a", 5)}, objective=PAIRS))
    assert "every one of 5 rows is dropped" in said(found, error=True)
