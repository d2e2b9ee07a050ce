"""What is shown of an example is all of its tokens, and what is marked is what carries loss."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from smolforge.checking import renderer_of
from smolforge.checking.mask import OPENING, Run, show
from smolforge.data.pipeline import open_stream
from smolforge.objectives import objective_of


@pytest.fixture
def shown(recipe):
    """The first example of a recipe's data, as it is shown."""

    def first(source: str, change=lambda example: example, **sections):
        made = recipe({"source": source}, **sections)
        stream = open_stream(made.data, renderer_of(made), shaping=objective_of(made.objective).shaping, seed=0)
        example = change(stream.example(0))
        found = show(example, stream.renderer, name="a[0]", modality="image")
        assert sum(run.tokens for passage in found.passages for run in passage.runs) == example.num_tokens == found.tokens
        marked = sum(run.tokens for passage in found.passages for run in passage.runs if run.kind in ("learnt", "rejected"))
        assert marked == found.scored
        return found

    return first


def test_a_picture_is_one_run(shown, write, draw, tiny_split):
    rows = [{"image": draw(1, (384, 384)), "question": "55", "answer": "7"}]
    found = shown(write("a", rows), model={"name": str(tiny_split)})
    prompt, answer = found.passages
    assert [run.text for run in prompt.runs] == [
        "<|im_start|>User:<fake_token_around_image><row_1_col_1>", "[17 tiles, 153 tokens]",
        "<fake_token_around_image>55<end_of_utterance>\nAssistant:",
    ]  # fmt: skip
    assert [run.kind for run in prompt.runs] == ["context", "picture", "context"]
    assert (answer.label, answer.runs) == ("answer", (Run("learnt", " 7<end_of_utterance>", 3),))
    with Image.open(io.BytesIO(found.pictures[0])) as small:
        assert small.size == (320, 320)


def test_every_trained_turn_of_a_chat_is_marked(shown, write):
    turns = [("user", "1"), ("assistant", "22"), ("user", "3"), ("assistant", "44")]
    found = shown(write("chat", [{"messages": [{"role": role, "content": text} for role, text in turns]}]))
    assert [passage.label for passage in found.passages] == ["prompt", "answer", "prompt", "answer"]
    assert [run.text for passage in found.passages for run in passage.runs if run.kind == "learnt"] == [
        " 22<end_of_utterance>",
        " 44<end_of_utterance>",
    ]


def test_rejected_answers_are_pushed_down(shown, write, draw):
    rows = [{"image": draw(1), "prompt": "1", "chosen": "2", "rejected": "3"}]
    picture = {"kind": "crop", "scale": [0.01, 0.2], "anchor": 0.0}
    found = shown(write("pairs", rows), objective={"kind": "dpo", "picture": picture})
    kinds = {passage.label: passage.runs[0].kind for passage in found.passages}
    assert kinds == {"prompt": "context", "chosen": "learnt", "rejected": "rejected", "chosen (spoilt picture)": "learnt"}
    assert len(found.pictures) == 1, "a spoilt picture is the same one"


def test_of_many_pictures_the_middle_ones_are_one_run(shown, write, draw):
    content = [{"type": "image", "image": draw(n)} for n in range(9)] + [{"type": "text", "text": "1"}]
    found = shown(write("many", [{"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "2"}]}]))
    pictures = [run.text for run in found.passages[0].runs if run.kind == "picture"]
    # five tiles of 9 tokens and the three marks before each but the first of them
    assert pictures == ["[1 tile, 9 tokens]"] * 3 + [
        "[5 more pictures, 5 tiles, 57 tokens with the words between them]", "[1 tile, 9 tokens]",
    ]  # fmt: skip
    assert (len(found.pictures), found.more) == (6, 3)


def test_weights_decide_what_is_marked(shown, write):
    """Of five digits the second and third carry loss."""

    def weigh(example):
        prompt, answer = example.nodes
        return replace(example, nodes=(prompt, replace(answer, weights=np.float32([0, 0, 0.5, 2, 0, 0, 0]))))

    found = shown(write("a", [{"question": "1", "answer": "12345"}]), weigh)
    assert found.passages[1].runs == (Run("context", " 1", 2), Run("learnt", "23", 2), Run("context", "45<end_of_utterance>", 3))


def test_a_long_text_is_shown_by_its_ends(shown, write):
    found = shown(write("a", [{"question": "1" * 9000, "answer": "2"}]), batch={"examples": 1, "row_tokens": 2048})
    assert max(len(run.text) for passage in found.passages for run in passage.runs) < OPENING + 10


def test_an_answer_lent_by_the_next_example_is_not_learnt(shown, write):
    """KTO scores it to estimate how far the model has moved, without a gradient."""
    rows = [{"prompt": f"{n}", "completion": f"{n}", "label": True} for n in range(4)]
    found = shown(write("kto", rows), objective={"kind": "dpo", "loss": "kto"})
    kinds = {passage.label: {run.kind for run in passage.runs} for passage in found.passages}
    assert kinds == {"prompt": {"context"}, "chosen": {"learnt"}, "other": {"context"}}
    assert found.scored == 3
