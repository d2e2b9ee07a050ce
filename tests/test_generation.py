"""Batched generation with a cache says what Hugging Face's `generate` says, prompt by prompt."""

from __future__ import annotations

import pytest
import torch

from smolforge.data.pipeline import prepare
from smolforge.data.sources.scenes import scene
from smolforge.generation import Sampling, _choose, generate
from smolforge.loading import load
from smolforge.records import Media, Message, Record


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
