"""Shares by modality, prompts by draw and step, worked out by hand; and the stream that uses them."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolforge.data.pipeline import open_stream
from smolforge.data.processor import load_renderer
from smolforge.data.prompts import choose_prompt
from smolforge.data.shares import Part, mixture_tree, source_shares
from smolforge.errors import DataError, RecipeError
from smolforge.recipe import DataSection, MixtureSection, parse_recipe

SEED_4 = MixtureSection(image=34.4, video=33.0, text=20.2, multi_image=12.3)


def part(name, modality, rows=100, weight=None):
    return Part(name=name, modality=modality, rows=rows, weight=weight)


def test_shares_by_modality_and_by_weight_within():
    """34.4 + 33.0 + 20.2 + 12.3 = 99.9, so image has 34.4 / 99.9, of which a source of weight 3 beside one of 1 has 3/4."""
    parts = [
        part("cauldron", "image", weight=3), part("docmatix", "image", weight=1), part("llava", "video", rows=10),
        part("vript", "video", rows=30), part("smoltalk", "text"), part("m4", "multi_image"),
    ]  # fmt: skip
    shares = source_shares(parts, SEED_4)
    expected = [34.4 * 3 / 4, 34.4 / 4, 33 / 4, 33 * 3 / 4, 20.2, 12.3]
    assert shares == pytest.approx([share / 99.9 for share in expected], abs=1e-12)


@pytest.mark.parametrize(
    ("parts", "mixture", "words"),
    [
        ([part("a", "image")], MixtureSection(image=1, video=1), "mixture.video: no source holds it"),
        ([part("a", "image"), part("b", "text")], MixtureSection(image=1), "b: holds text, which has no share"),
        ([part("a", None)], MixtureSection(image=1), "a: nobody knows what it holds"),
        ([part("a", "image", weight=1), part("b", "image")], MixtureSection(image=1), "b: has no weight"),
        ([part("a", "image"), part("b", "image", rows=None)], None, "b: a stream has no number of rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_mixed_is_said(parts, mixture, words):
    with pytest.raises(DataError) as raised:
        source_shares(parts, mixture)
    assert words in str(raised.value)


@given(st.lists(st.tuples(st.sampled_from(["image", "video", "text"]), st.integers(1, 1000)), min_size=1, max_size=8))
def test_shares_sum_to_one_and_modalities_get_theirs(drawn):
    parts = [part(str(number), modality, rows) for number, (modality, rows) in enumerate(drawn)]
    here = {modality for modality, _ in drawn}
    wanted = MixtureSection(**{modality: {"image": 5, "video": 3, "text": 2}[modality] for modality in here})
    shares = source_shares(parts, wanted)
    assert sum(shares) == pytest.approx(1)
    total = sum(getattr(wanted, modality) for modality in here)
    for modality in here:
        got = sum(share for one, share in zip(parts, shares) if one.modality == modality)
        assert got == pytest.approx(getattr(wanted, modality) / total)


def test_the_tree_tells_a_stream_from_a_table():
    lines = mixture_tree([part("a", "image"), part("live", "text", rows=None, weight=1)], [0.25, 0.75], 1000)
    assert lines[0] == "mixture of 1,000 examples"
    assert "2.5 epochs" in lines[2]
    assert lines[4].split() == ["live", "75.0%", "stream"]


def test_a_prompt_is_a_function_of_seed_and_place():
    asked = ["a", "b", "c"]
    drawn = [choose_prompt(asked, seed=1, index=index, step=0) for index in range(300)]
    assert drawn == [choose_prompt(asked, seed=1, index=index, step=9) for index in range(300)]
    assert drawn != [choose_prompt(asked, seed=2, index=index, step=0) for index in range(300)]
    assert min(Counter(drawn).values()) > 70  # 100 expected each, standard deviation 8


def test_a_curriculum_changes_at_its_step():
    course = {0: "objects", 10: ["scene", "all"], 20: "story"}
    at = {step: choose_prompt(course, seed=0, index=0, step=step) for step in (0, 9, 10, 19, 20, 99)}
    assert (at[0], at[9], at[20], at[99]) == ("objects", "objects", "story", "story")
    assert {at[10], at[19]} <= {"scene", "all"}
    assert choose_prompt({5: "later"}, seed=0, index=0, step=4) is None


@pytest.fixture
def captions(tmp_path):
    from smolforge.data.sources.scenes import scene

    rows = []
    for number in range(6):
        scene(0, number).draw().save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": f"caption {number}"})
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_stream_asks_by_the_curriculum(tiny, captions):
    section = DataSection(source=str(captions), prompt={0: "main objects", 2: "whole scene"})
    stream = open_stream([section], load_renderer(tiny), kinds={"target"}, seed=0, examples=3)
    asked = [stream.record(index).words for index in range(12)]
    assert asked == ["main objects"] * 6 + ["whole scene"] * 6
    assert stream.distinct(12) == list(range(12))  # the same row under another prompt is another example


def test_a_stream_mixes_by_modality(tiny, captions):
    sections = [DataSection(source=str(captions), modality="image"), DataSection(source="scenes", modality="multi_image")]
    mixture = MixtureSection(image=3, multi_image=1)
    stream = open_stream(sections, load_renderer(tiny), kinds={"target"}, seed=0, mixture=mixture)
    drawn = Counter(stream.mixture(index)[0] for index in range(4096))
    assert drawn[0] == pytest.approx(3072, abs=2)
    assert "75.0%" in stream.tree(10)[1]


def test_a_recipe_knows_the_mixture():
    tree = {"model": {"name": "m"}, "data": [{"source": "scenes", "weight": 1}, {"source": "b"}], "run": {"dir": "r", "steps": 1}}
    parse_recipe(tree | {"mixture": {"image": 1, "text": 2}})  # weights are compared within a modality
    with pytest.raises(RecipeError, match="some have none"):
        parse_recipe(tree)
    with pytest.raises(RecipeError, match="mixture gives every modality nothing"):
        parse_recipe(tree | {"mixture": {}})
    with pytest.raises(RecipeError, match="did you mean multi_image"):
        parse_recipe(tree | {"mixture": {"multiimage": 1}})
    with pytest.raises(RecipeError, match="a stream has no length"):
        parse_recipe(tree | {"data": [{"source": "a/b", "streaming": True}], "run": {"dir": "r", "epochs": 1}})


def test_held_out_rows_are_always_asked_alike(tiny, captions):
    """Outside of a run's steps the first prompt of the curriculum, and of its list, stands for all."""
    section = DataSection(source=str(captions), prompt={0: ["first", "second"], 2: "later"})
    stream = open_stream([section], load_renderer(tiny), kinds={"target"}, seed=0)
    assert {stream.record(index).words for index in range(12)} == {"first"}
    assert len(stream.distinct(12)) == 6


def test_prompts_that_say_nothing_are_refused():
    tree = {"model": {"name": "m"}, "run": {"dir": "r", "steps": 1}}
    for prompt in ([], {}, {5: "later"}, {0: []}):
        with pytest.raises(RecipeError, match=r"data\.0"):
            parse_recipe(tree | {"data": [{"source": "scenes", "prompt": prompt}]})


def test_no_share_stands_for_what_no_source_says():
    """A folder of pictures says nothing of its modality: "not known 100 %" would stand below what its rows hold."""
    assert mixture_tree([part("mine", None, rows=10)], [1.0], 20) == [
        "mixture of 20 examples",
        "    mine     100.0%          10 rows    2.0 epochs",
    ]
