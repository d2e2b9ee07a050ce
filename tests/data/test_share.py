"""Prompts as one tree: every path from the root says what its prompt said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolforge.data.pipeline import prepare
from smolforge.data.render import Example, Node
from smolforge.data.share import families, share
from smolforge.data.sources.scenes import scene
from smolforge.loading import load
from smolforge.records import Media, Message, Record, Response


def path(example: Example, node: int) -> list[int]:
    """Ids from the root to a node."""
    ids: list[int] = []
    while node >= 0:
        ids = [*example.nodes[node].ids.tolist(), *ids]
        node = example.nodes[node].parent
    return ids


def plain(ids: list[int], options: list[list[int]]) -> Example:
    """A prompt without pictures, and its options."""
    root = Node(parent=-1, ids=np.array(ids), weights=np.zeros(len(ids), np.float32))
    below = [Node(parent=0, ids=np.array(option), weights=np.ones(len(option), np.float32)) for option in options]
    responses = tuple((1 + number, "option") for number in range(len(options)))
    return Example(id="0", source="t", nodes=(root, *below), responses=responses)


tokens = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@given(st.lists(st.tuples(tokens, st.lists(tokens, max_size=3)), min_size=1, max_size=5))
def test_no_path_changes(drawn):
    prompts = [plain(ids, options) for ids, options in drawn]
    shared = share(prompts)
    assert [path(shared.example, end) for end in shared.ends] == [ids for ids, _ in drawn]
    scored = [path(shared.example, node) for node, _ in shared.example.responses]
    assert scored == [ids + option for ids, options in drawn for option in options]
    assert shared.example.num_tokens <= sum(prompt.num_tokens for prompt in prompts)


@pytest.fixture(scope="module")
def renderer(tiny_split):
    return load(str(tiny_split), device="cpu").renderer


def asked(renderer, content, **record) -> Example:
    options = tuple(Response(text=letter, kind="option", closes=False) for letter in record.pop("options", ""))
    message = Message(role="user", content=content)
    return prepare(Record(id="0", source="t", messages=(message,), responses=options, **record), renderer)


def test_one_picture_many_questions(renderer):
    """The picture stands in the root, once; another picture is another family; text alone stays alone."""
    cat, dog = (Media(ref=scene(0, n).draw) for n in range(2))
    prompts = [
        asked(renderer, (cat, "Is there a circle?"), options="AB"),
        asked(renderer, (dog, "Is there a circle?")),
        asked(renderer, (cat, "Is there a star?"), options="AB"),
        asked(renderer, ("Is there a circle?",)),
    ]
    assert families(prompts) == [[0, 2], [1], [3]]
    shared = share([prompts[0], prompts[2]])
    assert [node.parent for node in shared.example.nodes] == [-1, 0, 1, 1, 0, 4, 4]
    assert len(shared.example.images) == 1
    assert max(shared.example.images[0].starts) < len(shared.example.nodes[0].ids)
    assert [path(shared.example, end) for end in shared.ends] == [prompts[n].nodes[0].ids.tolist() for n in (0, 2)]


def test_a_picture_behind_the_question_is_not_shared(renderer):
    cat = Media(ref=scene(0, 0).draw)
    prompts = [asked(renderer, (question, cat)) for question in ("What is this?", "Who is this?")]
    same_places = len({image.starts for prompt in prompts for image in prompt.images}) == 1
    shared = share(prompts)
    assert [node.parent for node in shared.example.nodes] == [-1, -1], same_places
    assert len(shared.example.images) == 2


def test_an_option_is_a_mere_beginning(renderer):
    """It has no closing token."""
    example = asked(renderer, ("A or B?",), options="B")
    assert renderer.tokenizer.decode(example.nodes[1].ids.tolist(), skip_special_tokens=False) == " B"
