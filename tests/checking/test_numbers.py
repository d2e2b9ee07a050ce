"""A check's numbers, worked out by hand on files of a few rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from smolforge.checking import check, renderer_of
from smolforge.checking.looking import Look, Refusal
from smolforge.checking.measures import (
    Spread,
    held_shares,
    overall,
    packed,
    repeated,
    same_content,
    scored_shares,
    source_facts,
    spread,
)
from smolforge.data.pipeline import open_stream
from smolforge.errors import DataError
from smolforge.training.chores import about_data

SHARES = {"label": "a", "modality": None, "rows": 10, "share": 1.0, "came": 1.0, "examples": 20.0}


def a_look(number: int = 0, **changes) -> Look:
    """An example of 10 + 20 + `number` tokens, of which the answer's are scored."""
    parts = {"pictures": 10, "frames": 0, "prompt": 20, "answers": number}
    look = Look(
        index=number, source=0, name=f"a[{number}]", modality="image", parts=parts, depth=30 + number, scored=number,
        placed=((f"p{number}", 1),), media=(f"p{number}",), needs=30 + number,
    )  # fmt: skip
    return replace(look, **changes)


def a_refusal(reason: str, *, media: bool = False) -> Refusal:
    return Refusal(index=0, source=0, name="a[0]", reason=reason, line=f"a[0]: {reason}", media=media)


# --- whole checks --------------------------------------------------------------------------------------------------


def test_five_rows(recipe, write, draw):
    """Each example: <|im_start|>User: (6), a picture's 2 marks, 9 placeholders and 1 mark (12), two digits, <end_of_utterance>,
    newline and Assistant: (13), then a space, 1 to 5 digits and <end_of_utterance> (3 to 7)."""
    rows = [{"image": draw(n), "question": "99", "answer": "1" * n} for n in range(1, 6)]
    found = check(recipe({"source": write("five", rows)}, batch={"examples": 5, "row_tokens": 80}))
    (one,) = found.known.sources
    assert one.tokens == {
        "pictures": Spread(12, 12, 12, 12, 12),
        "frames": Spread(0, 0, 0, 0, 0),
        "prompt": Spread(19, 19, 19, 19, 19),
        "answers": Spread(3, 3, 5, 7, 7),
        "all": Spread(34, 34, 36, 38, 38),
    }
    assert (one.mean_tokens, one.mean_scored, one.scored_share) == (36, 5, 5 / 36)
    assert (one.looked, one.used, one.epochs, one.mean_tiles, one.held) == (5, 5, 4.0, 1.0, {"image": 5})
    # 38 + 37, 36 + 35 and 34 tokens in three rows of 80, in every of the four steps
    assert (found.known.packed.rows, found.known.packed.tokens, found.known.packed.tiles) == (3, 180, 5)
    assert found.known.packed.full == 180 / 240
    assert found.known.longest[0] == 38


def test_text_pictures_and_pairs_of_them_in_one_mixture(recipe, write, draw):
    """Shares 2 : 1 : 1; texts and pairs of pictures count as what they hold."""
    two = [{"type": "image", "image": draw(3)}, {"type": "image", "image": draw(4)}, {"type": "text", "text": "7"}]
    messages = [{"role": "user", "content": two}, {"role": "assistant", "content": "1"}]
    found = check(
        recipe(
            {"source": write("pictures", [{"image": draw(n), "question": "5", "answer": "6"} for n in range(2)]), "weight": 2},
            {"source": write("texts", [{"question": "5", "answer": "678"}]), "weight": 1},
            {"source": write("several", [{"messages": messages}]), "weight": 1},
        )
    )
    assert held_shares(found.known.sources) == {"image": 0.5, "text": 0.25, "multi_image": 0.25}
    assert {one.modality for one in found.shown} == {"image", "text", "multi_image"}
    assert [one.tokens["pictures"].median for one in found.known.sources] == [12, 0, 24]
    # scored tokens: 3, 5 and 3 at shares 1/2, 1/4, 1/4
    assert scored_shares(found.known.sources) == pytest.approx([6 / 14, 5 / 14, 3 / 14])


def test_bad_rows_are_counted_by_reason(recipe, write, draw, tmp_path):
    (tmp_path / "broken.png").write_bytes(Path(draw(1)).read_bytes()[:60])
    rows = [{"image": draw(n), "question": "5", "answer": f"{n}"} for n in range(6)]
    rows += [{"image": "gone.png", "question": "5", "answer": "6"}, {"image": "broken.png", "question": "5", "answer": "6"}]
    rows += [{"image": draw(7), "question": "5", "answer": " "}, {"nothing": 1}]
    found = check(recipe({"source": write("bad", rows)}))
    (one,) = found.known.sources
    assert (one.looked, one.used, sum(one.dropped.values()), one.unreadable) == (10, 6, 4, 2)
    assert {"no such picture", "damaged picture", "empty answer"} < set(one.dropped)
    for name in ("gone.png", "broken.png", "bad.jsonl[8]", "bad.jsonl[9]"):
        assert any(name in line for line in found.named)


def test_a_sample_takes_so_many_rows_of_each_source_in_the_runs_order(recipe, questions):
    source = {"source": questions("many", 40)}
    few = check(recipe(source, run={"dir": "run", "steps": 100}), sample=7)
    assert few.known.sources[0].looked == 7
    all_of_it = check(recipe(source, run={"dir": "run", "steps": 100}), sample=999)
    assert (all_of_it.known.sources[0].looked, all_of_it.known.packed.steps) == (40, 100)
    short = check(recipe(source, run={"dir": "run", "steps": 2}))
    assert short.known.sources[0].looked == 10, "the run ends after two steps of five"


def test_time_that_is_up_is_told(recipe, questions):
    found = check(recipe({"source": questions("many", 40)}), seconds=0)
    assert found.known.sources[0].looked == 1
    assert any("the time" in note for note in found.notes)


def test_virtual_tokens_take_positions(recipe, questions):
    data = {"source": questions("few", 5)}
    assert check(recipe(data)).known.context == 2048
    assert check(recipe(data, adapters={"method": "prompt", "tokens": 48})).known.context == 2000


def test_json_holds_the_numbers(recipe, questions):
    found = check(recipe({"source": questions("few", 5)}))
    tree = json.loads(json.dumps(found.to_json()))
    assert tree["known"]["sources"][0]["tokens"]["pictures"]["median"] == 12
    assert [one["where"] for one in tree["warnings"]] == [one.where for one in found.warnings]


# --- pure arithmetic -----------------------------------------------------------------------------------------------


def test_spread_is_of_values_that_are_there():
    assert spread(range(1, 101)) == Spread(1, 5, 50, 95, 100)
    assert spread([7]) == Spread(7, 7, 7, 7, 7)
    assert spread([]) == Spread(0, 0, 0, 0, 0)


def test_source_facts():
    looks = [
        a_look(1),
        a_look(2, answers=("red", "red")),
        a_look(3, answers=("red",), media=("p1",), changes=("prompt text cut",)),
    ]
    looks.append(a_look(6, changes=("fewer tiles: 9 -> 4",), needs=99, scored=0))
    facts = source_facts(looks, [a_refusal("gone", media=True), a_refusal("gone", media=True), a_refusal("empty")], **SHARES)
    assert (facts.looked, facts.used, facts.dropped, facts.unreadable) == (7, 4, {"gone": 2, "empty": 1}, 2)
    assert (facts.cut, facts.reduced, facts.repeated, facts.unscored) == (1, 1, 1, 1)
    assert facts.commonest == ("red", 2), "rows are counted, not answers"
    assert (facts.mean_tokens, facts.mean_scored, facts.needs, facts.epochs) == (33, 1.5, 99, 2.0)


def test_the_first_of_equally_common_answers_is_named():
    words = tuple("abcdefghij")  # a set's order depends on the hash seed
    assert source_facts([a_look(1, answers=words)], [], **SHARES).commonest == ("a", 1)


def test_a_source_that_was_not_met_has_no_numbers():
    facts = source_facts([], [], **SHARES)
    assert (facts.reached, facts.looked, facts.mean_tokens, facts.scored_share) == (False, 0, 0, 0)


def test_shares_leave_out_what_was_not_met():
    half = source_facts([a_look(1)], [], **SHARES | {"share": 0.5})
    quarter = source_facts([a_look(3, modality="text")], [], **SHARES | {"share": 0.25})
    unmet = source_facts([], [], **SHARES | {"share": 0.25})
    assert held_shares([half, quarter, unmet]) == pytest.approx({"image": 2 / 3, "text": 1 / 3})
    assert overall([half, quarter, unmet], lambda one: one.mean_scored) == pytest.approx((2 * 1 + 1 * 3) / 3)
    assert scored_shares([half, quarter, unmet]) == pytest.approx([0.5 / 1.25, 0.75 / 1.25, 0])


def test_packing_counts_a_shared_picture_once_a_row():
    """31 and 31 tokens share a picture of 4 tiles and lie in one row; 40 tokens make a second one."""
    twice = [a_look(1, placed=(("cat", 4),)), a_look(1, placed=(("cat", 4),))]
    other = a_look(10, placed=(("dog", 2), ("dog", 2)))
    found = packed([[*twice, other], [other]], row_tokens=64)
    assert (found.steps, found.rows, found.tokens, found.tiles, found.most_tiles) == (2, 1.5, 71, 4, 6)
    assert found.full == (62 + 40 + 40) / (3 * 64)
    assert packed([], 64) is None


def test_repeated_pictures_are_rows_not_pairs():
    assert repeated([a_look(1, media=("x",)), a_look(2, media=("x", "x")), a_look(3, media=()), a_look(4, media=())]) == 1


def test_same_content_compares_pictures_and_only_without_them_words():
    trained = [a_look(1, words="w"), a_look(2, media=(), words="text")]
    held = [a_look(1, words="another"), a_look(9, words="w"), a_look(3, media=(), words="text"), a_look(4, media=(), words="w")]
    assert same_content(held, trained) == 2


def test_configurations_of_one_source_are_told_apart(recipe):
    """In the table of shares, in the words before a run, and in what is said of a share that is missing."""
    entries = [{"source": "the_cauldron", "name": name, "fixture": True} for name in ("ai2d", "chartqa", "chartqa")]
    asked = recipe(*entries)
    shares = [line.split("  ")[2].strip() for line in check(asked, sample=1).tree[2:]]
    assert shares == ["the_cauldron ai2d", "the_cauldron chartqa", "the_cauldron chartqa #2"]
    stream = open_stream(asked.data, renderer_of(asked), kinds={"target"}, seed=0)
    told = next(about_data(asked, stream, stream, steps=4, devices=1))
    assert told.startswith("the_cauldron ai2d 6 rows, the_cauldron chartqa 6 rows, the_cauldron chartqa #2 6 rows; 4 steps")
    weights = [section.model_copy(update={"weight": weight}) for section, weight in zip(asked.data, (1.0, None, 1.0))]
    with pytest.raises(DataError, match="has no weight") as error:
        open_stream(weights, renderer_of(asked), kinds={"target"}, seed=0)
    assert error.value.where == "the_cauldron chartqa"
