"""Batched generation with a cache says what Hugging Face's `generate` says, prompt by prompt."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from smolforge.data.batch import collate
from smolforge.data.pipeline import prepare
from smolforge.data.share import share
from smolforge.data.sources.scenes import scene
from smolforge.errors import ModelError
from smolforge.generation import ROOM, Sampling, _choose, generate, plan
from smolforge.loading import load
from smolforge.records import Media, Message, Record, Response


@pytest.fixture(scope="module")
def loaded(tiny_split):
    return load(str(tiny_split), device="cpu")


def prompts(loaded, reserve: int = 12):
    contents = [
        (Media(ref=scene(0, 0).draw), "Describe the picture."),
        ("Say something.",),
        (Media(ref=scene(0, 1).draw), Media(ref=scene(0, 2).draw), "What changed, and where, and why?"),
        ("?",),
    ]
    records = [
        Record(id=str(n), source="t", messages=(Message(role="user", content=content),), responses=())
        for n, content in enumerate(contents)
    ]
    return [prepare(record, loaded.renderer, reserve=reserve) for record in records]


def test_greedy_equals_hugging_face(loaded):
    """Greedy tokens in float32: equal unless two logits tie to the last bits, which random weights do not."""
    examples = prompts(loaded)
    answers = generate(loaded.model, loaded.renderer, examples, Sampling(max_new_tokens=12))
    for example, answer in zip(examples, answers):
        ids = torch.from_numpy(example.nodes[0].ids)[None]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if example.images:
            tiles = torch.cat([torch.from_numpy(image.tiles) for image in example.images])
            inputs["pixel_values"] = ((tiles.float() / 255 - 0.5) / 0.5)[None]
        theirs = loaded.model.model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
        assert answer.tokens == len(theirs)
        assert answer.text == loaded.renderer.decode(theirs)


def test_order_and_batching_do_not_matter(loaded):
    examples = prompts(loaded)
    together = generate(loaded.model, loaded.renderer, examples, Sampling(max_new_tokens=8))
    alone = [generate(loaded.model, loaded.renderer, [example], Sampling(max_new_tokens=8))[0] for example in examples]
    assert together == alone


def test_sampling_is_a_function_of_its_seed(loaded):
    examples = prompts(loaded)
    hot = Sampling(max_new_tokens=8, temperature=2.0, seed=1)
    first, again = (generate(loaded.model, loaded.renderer, examples, hot) for _ in range(2))
    assert first == again
    other = generate(loaded.model, loaded.renderer, examples, Sampling(max_new_tokens=8, temperature=2.0, seed=2))
    assert first != other


def test_top_k_and_top_p_by_hand():
    """p = 0.5, 0.3, 0.2: top_k 2 leaves two; top_p 0.4 leaves the first, 0.6 the first two."""
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(200, 3)
    draw = torch.Generator().manual_seed(0)
    drawn = {
        "k2": set(_choose(logits, Sampling(temperature=1, top_k=2), draw).tolist()),
        "p4": set(_choose(logits, Sampling(temperature=1, top_p=0.4), draw).tolist()),
        "p6": set(_choose(logits, Sampling(temperature=1, top_p=0.6), draw).tolist()),
        "all": set(_choose(logits, Sampling(temperature=1), draw).tolist()),
    }
    assert drawn == {"k2": {0, 1}, "p4": {0}, "p6": {0, 1}, "all": {0, 1, 2}}


def questions(loaded, reserve: int = 8):
    """Seven questions about three pictures, some with options."""
    asked = [
        (0, "Is there a circle?", "AB"), (0, "Is there a star at the top?", ""), (1, "Is there a circle?", "ABC"),
        (0, "Describe the picture.", "AB"), (2, "What?", ""), (1, "Describe the picture, and say what is in the middle.", ""),
        (0, "Is there a circle?", "BA"),
    ]  # fmt: skip
    records = [
        Record(
            id=str(n), source="t",
            messages=(Message(role="user", content=(Media(ref=scene(0, picture).draw), text)),),
            responses=tuple(Response(text=letter, kind="option", closes=False) for letter in options),
        )
        for n, (picture, text, options) in enumerate(asked)
    ]  # fmt: skip
    return [prepare(record, loaded.renderer, reserve=reserve) for record in records]


def test_questions_about_one_picture_share_it(loaded):
    """The shared tree gives the answers and the options' log-probs of each question alone, and does less."""
    examples = questions(loaded)
    together = generate(loaded.model, loaded.renderer, examples, Sampling(max_new_tokens=8))
    alone = [generate(loaded.model, loaded.renderer, [example], Sampling(max_new_tokens=8))[0] for example in examples]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [len(answer.logprobs) for answer in together] == [2, 0, 3, 2, 0, 0, 2]
    for ours, theirs in zip(together, alone):
        assert ours.logprobs == pytest.approx(theirs.logprobs, rel=1e-5)  # float32, other batch shapes
    assert together[0].logprobs == pytest.approx(together[6].logprobs[::-1], rel=1e-5)
    row = collate([share([examples[n] for n in (0, 1, 3, 6)]).example])
    assert row.num_tokens < sum(examples[n].num_tokens for n in (0, 1, 3, 6)) / 2


def test_an_option_has_the_log_prob_of_its_tokens(loaded):
    """log p(" A") after the prompt, from the plain model's own logits."""
    (example,) = (e for e in questions(loaded)[2:3])
    (answer,) = generate(loaded.model, loaded.renderer, [example], Sampling(max_new_tokens=1))
    tiles = torch.cat([torch.from_numpy(image.tiles) for image in example.images])
    for option, found in zip(example.nodes[1:], answer.logprobs):
        ids = torch.from_numpy(np.concatenate([example.nodes[0].ids, option.ids]))[None]
        with torch.no_grad():
            logits = loaded.model.model(input_ids=ids, pixel_values=((tiles.float() / 255 - 0.5) / 0.5)[None]).logits
        log_probs = logits[0, -len(option.ids) - 1 : -1].log_softmax(-1).gather(1, torch.from_numpy(option.ids)[:, None])
        assert found == pytest.approx(float(log_probs.sum()), rel=1e-5)


def test_groups_keep_families_together_and_fit_the_cache(loaded, monkeypatch):
    examples = questions(loaded)
    assert sorted(n for group in plan(examples, 8) for n in group) == list(range(7))
    assert len(plan(examples, 8)) == 1
    monkeypatch.setattr("smolforge.generation.CACHE_TOKENS", 2 * (max(e.depth for e in examples) + 8))
    groups = plan(examples, 8)
    assert max(map(len, groups)) == 2
    family = [n for group in groups for n in group if n in (0, 1, 3, 6)]
    assert family == [0, 1, 3, 6], "questions about a picture lie one behind the other"


def test_answers_outgrow_the_first_room(loaded, monkeypatch):
    """More new tokens than the cache began with, up to the model's context, and no further."""
    monkeypatch.setattr("smolforge.generation.stop_ids", lambda _: frozenset())
    examples = prompts(loaded)[1:2]
    (long,) = generate(loaded.model, loaded.renderer, examples, Sampling(max_new_tokens=3 * ROOM))
    (short,) = generate(loaded.model, loaded.renderer, examples, Sampling(max_new_tokens=ROOM // 2))
    assert (long.tokens, long.text.startswith(short.text)) == (3 * ROOM, True)
    ids = torch.from_numpy(examples[0].nodes[0].ids)[None]
    endless = GenerationConfig(max_new_tokens=3 * ROOM, do_sample=False, pad_token_id=0)
    theirs = loaded.model.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=endless)
    assert long.text == loaded.renderer.decode(theirs[0, ids.shape[1] :].tolist())
    (full,) = generate(loaded.model, loaded.renderer, examples, Sampling(max_new_tokens=10**6))
    assert (full.tokens, full.finished) == (loaded.renderer.context - examples[0].depth, False)


def test_answers_that_end_early_leave_the_batch(loaded, monkeypatch):
    """With what few answers say as stops, they end at different steps; each is what it would be alone."""
    said: list[list[int]] = []

    def heard(*arguments):
        tokens = _choose(*arguments)
        said.append(tokens.tolist())
        return tokens

    examples = questions(loaded)
    sampling = Sampling(max_new_tokens=30)
    monkeypatch.setattr("smolforge.generation._choose", heard)
    generate(loaded.model, loaded.renderer, examples, sampling)
    speakers = Counter(token for answer in zip(*said) for token in set(answer))
    monkeypatch.setattr("smolforge.generation.stop_ids", lambda _: frozenset(t for t, n in speakers.items() if n <= 3))
    together = generate(loaded.model, loaded.renderer, examples, sampling)
    alone = [generate(loaded.model, loaded.renderer, [example], sampling)[0] for example in examples]
    assert len({answer.tokens for answer in together}) >= 3, "no case: answers end together"
    assert [(a.text, a.tokens, a.finished) for a in together] == [(a.text, a.tokens, a.finished) for a in alone]


def test_a_model_that_computes_no_numbers_is_named(tiny):
    """NaN would be read as answers of token 0 and scored."""
    broken = load(str(tiny), device="cpu")
    with torch.no_grad():
        broken.model.decoder.layers[0].input_layernorm.weight.fill_(float("nan"))
    example = prepare(Record(id="7", source="t", messages=(Message(role="user", content=("?",)),), responses=()), broken.renderer)
    with pytest.raises(ModelError, match=r"t\[7\]: the model computes no numbers .*; use another checkpoint or dtype"):
        generate(broken.model, broken.renderer, [example], Sampling(max_new_tokens=2))
