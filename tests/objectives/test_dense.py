"""Dense weights: which tokens count as corrected, by diff and by spans, and what they weigh."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, pre_tokenizers

from smolforge.data.batch import collate
from smolforge.data.chat import SMOLVLM
from smolforge.data.processor import load_renderer
from smolforge.data.render import Example, Node, Renderer
from smolforge.objectives.dense import NO_SPANS, differing, weigh
from smolforge.objectives.preference import Scores, use
from smolforge.recipe import DenseSection, PreferenceSection
from smolforge.records import Media, Message, Record, Response, ResponseKind

# --- by diff -----------------------------------------------------------------------------------------------------------


def marks(a: list[int], b: list[int], **settings: Any) -> tuple[list[int], list[int]]:
    """Numbers of the marked tokens of each side."""
    left, right = differing(a, b, DenseSection(**settings))
    assert (left.shape, right.shape, left.dtype, right.dtype) == ((len(a),), (len(b),), bool, bool)
    return np.flatnonzero(left).tolist(), np.flatnonzero(right).tolist()


@pytest.mark.parametrize(
    ("a", "b", "left", "right"),
    [
        ([1, 2, 3, 9, 4, 5, 6], [1, 2, 3, 7, 8, 4, 5, 6], [3], [3, 4]),  # one token became two
        ([9, 1, 2, 3], [7, 1, 2, 3], [0], [0]),  # at the beginning
        ([1, 2, 3, 9], [1, 2, 3, 7, 8], [3], [3, 4]),  # at the end
        ([1, 2, 3, 9, 4, 5, 6, 8, 7], [1, 2, 3, 10, 4, 5, 6, 11], [3, 7, 8], [3, 7]),  # twice
        ([1, 2], [3, 4, 5], [0, 1], [0, 1, 2]),  # nothing in common
        ([1, 2], [1, 2], [0, 1], [0, 1]),  # equal, but shorter than a match, as in the released script
        ([], [1], [], []),
        ([], [], [], []),
    ],
)
def test_replaced_runs(a: list[int], b: list[int], left: list[int], right: list[int]) -> None:
    assert marks(a, b) == (left, right)


@pytest.mark.parametrize(
    ("a", "b", "left", "right"),
    [
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 8, 4, 5, 6], [], [3, 4]),  # inserted
        ([1, 2, 3, 7, 8, 4, 5, 6], [1, 2, 3, 4, 5, 6], [3, 4], []),  # deleted
        ([1, 2, 3], [9, 1, 2, 3, 8], [], [0, 4]),  # before and behind
        ([1, 2, 3, 9, 4, 5, 6], [1, 2, 3, 7, 4, 5, 6, 8], [3], [3, 7]),  # a replaced run beside
        ([], [1, 2], [], [0, 1]),
    ],
)
def test_runs_that_one_answer_lacks(a: list[int], b: list[int], left: list[int], right: list[int]) -> None:
    assert marks(a, b, both_sides=False) == (left, right)
    replaced = [3] if 9 in a else []
    assert marks(a, b) == (replaced, replaced)


def test_short_matches_count_as_changed() -> None:
    """Two equal tokens, 50 51, between two changed ones: part of the change at min_match 3, kept at 2."""
    a, b = [1, 2, 3, 7, 50, 51, 8, 4, 5, 6], [1, 2, 3, 9, 50, 51, 10, 4, 5, 6]
    assert marks(a, b) == ([3, 4, 5, 6], [3, 4, 5, 6])
    assert marks(a, b, min_match=2) == ([3, 6], [3, 6])
    assert marks(a, b, min_match=4) == (list(range(10)), list(range(10)))


def test_a_dropped_match_makes_a_replacement_of_an_insertion() -> None:
    """50 stands on both sides, so with it the inserted 7 8 is a run that both answers have."""
    a, b = [1, 2, 3, 50, 4, 5, 6], [1, 2, 3, 7, 50, 8, 4, 5, 6]
    assert marks(a, b) == ([3], [3, 4, 5])
    assert marks(a, b, min_match=1) == ([], [])
    assert marks(a, b, min_match=1, both_sides=False) == ([], [3, 5])


RUNS = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3), st.integers(0, 3)), max_size=6)


@given(first=st.tuples(st.integers(0, 3), st.integers(0, 3)), runs=RUNS, least=st.integers(1, 4), both=st.booleans())
def test_equal_runs_are_kept_and_gaps_are_marked(
    first: tuple[int, int], runs: list[tuple[int, int, int]], least: int, both: bool
) -> None:
    """Answers of distinct tokens, built of equal runs with gaps between: what is marked follows from how they were built."""
    fresh = iter(range(1000))
    a, b = [next(fresh) for _ in range(first[0])], [next(fresh) for _ in range(first[1])]
    gap, expected = first, ([], [])  # type: tuple[int, int], tuple[list[bool], list[bool]]

    def close(gap: tuple[int, int]) -> None:
        marked = all(gap) or not both
        for side in (0, 1):
            expected[side].extend([marked] * gap[side])

    merged: list[tuple[int, int, int]] = []
    for run in runs:  # equal runs without a gap between them are one
        if merged and merged[-1][1:] == (0, 0):
            merged[-1] = (merged[-1][0] + run[0], *run[1:])
        else:
            merged.append(run)
    for size, more_a, more_b in merged:
        equal = [next(fresh) for _ in range(size)]
        a += [*equal, *(next(fresh) for _ in range(more_a))]
        b += [*equal, *(next(fresh) for _ in range(more_b))]
        if size >= least:
            close(gap)
            for side in (0, 1):
                expected[side].extend([False] * size)
            gap = (more_a, more_b)
        else:
            gap = (gap[0] + size + more_a, gap[1] + size + more_b)
    close(gap)
    left, right = differing(a, b, DenseSection(min_match=least, both_sides=both))
    assert (left.tolist(), right.tolist()) == expected


FEW = st.lists(st.integers(0, 4), max_size=25)  # few distinct tokens: matches everywhere


@given(a=FEW, b=FEW, least=st.integers(1, 4))
def test_what_is_not_marked_is_equal(a: list[int], b: list[int], least: int) -> None:
    """And the other way round marks lie the other way round in number: both_sides only takes marks away."""
    left, right = differing(a, b, DenseSection(min_match=least, both_sides=False))
    assert [x for x, mark in zip(a, left, strict=True) if not mark] == [x for x, mark in zip(b, right, strict=True) if not mark]
    fewer = differing(np.array(a, np.int64), np.array(b, np.int64), DenseSection(min_match=least))
    assert not (fewer[0] & ~left).any()
    assert not (fewer[1] & ~right).any()


@given(a=FEW, least=st.integers(1, 4), both=st.booleans())
def test_identical_answers(a: list[int], least: int, both: bool) -> None:
    """Nothing was corrected, as long as there are enough tokens for a match."""
    left, right = differing(a, a, DenseSection(min_match=least, both_sides=both))
    assert left.tolist() == right.tolist() == [len(a) < least] * len(a)


# --- weights -----------------------------------------------------------------------------------------------------------

OURS, THEIRS = [1, 2, 3, 9, 4, 5, 6], [1, 2, 3, 7, 8, 4, 5, 6]


def node(parent: int, ids: list[int], corrected: list[int] | None = None) -> Node:
    marked = None if corrected is None else np.isin(np.arange(len(ids)), corrected)
    weights = np.full(len(ids), parent >= 0, np.float32)
    return Node(parent=parent, ids=np.array(ids, np.int64), weights=weights, corrected=marked)


def example(*answers: tuple[ResponseKind, list[int]], spoilt: int = 0, corrected: dict[int, list[int]] | None = None) -> Example:
    """A prompt and its answers; the last `spoilt` of them follow a second root."""
    nodes, responses = [node(-1, [100, 101])], []  # type: list[Node], list[tuple[int, ResponseKind]]
    parent = 0
    for number, (kind, ids) in enumerate(answers):
        if spoilt and number == len(answers) - spoilt:
            parent = len(nodes)
            nodes.append(node(-1, [100, 101]))
        responses.append((len(nodes), kind))
        nodes.append(node(parent, ids, (corrected or {}).get(number)))
    distorted = frozenset(range(len(answers) - spoilt, len(answers)))
    return Example(id="1", source="hand", nodes=tuple(nodes), responses=tuple(responses), distorted=distorted)


def weights(what: Example, **settings: Any) -> list[list[float]]:
    """Of each answer."""
    weighed = weigh(what, DenseSection(**settings))
    assert all(new.weights.dtype == np.float32 and len(new.weights) == len(new.ids) for new in weighed.nodes)
    for old, new in zip(what.nodes, weighed.nodes, strict=True):
        assert new.parent == old.parent
        assert np.array_equal(new.ids, old.ids)
    return [weighed.nodes[index].weights.tolist() for index, _ in weighed.responses]


def test_weights_by_hand() -> None:
    """N is 6 + 5 * 1 for chosen and 6 + 5 * 2 for rejected; the prompt keeps its zeros."""
    pair = example(("chosen", OURS), ("rejected", THEIRS))
    chosen, rejected = weights(pair)
    assert chosen == pytest.approx([1 / 11] * 3 + [5 / 11] + [1 / 11] * 3)
    assert rejected == pytest.approx([1 / 16] * 3 + [5 / 16] * 2 + [1 / 16] * 3)
    assert not weigh(pair, DenseSection()).nodes[0].weights.any()


def test_weights_of_the_released_script() -> None:
    """gamma 1.1 and no 1/N."""
    chosen, rejected = weights(example(("chosen", OURS), ("rejected", THEIRS)), gamma=1.1, normalize=False)
    assert chosen == pytest.approx([1, 1, 1, 1.1, 1, 1, 1])
    assert rejected == pytest.approx([1, 1, 1, 1.1, 1.1, 1, 1, 1])


@given(a=st.lists(st.integers(0, 6), min_size=1, max_size=20), b=st.lists(st.integers(0, 6), min_size=1, max_size=20),
       gamma=st.floats(0.1, 20))  # fmt: skip
def test_normalised_weights_sum_to_one(a: list[int], b: list[int], gamma: float) -> None:
    """And are 1 / N and gamma / N, where without the 1 / N they are 1 and gamma."""
    pair = example(("chosen", a), ("rejected", b))
    for plain, normal in zip(weights(pair, gamma=gamma, normalize=False), weights(pair, gamma=gamma), strict=True):
        assert all(weight == 1 or weight == np.float32(gamma) for weight in plain)
        assert sum(normal) == pytest.approx(1, abs=1e-5)
        assert normal == pytest.approx([weight / sum(plain) for weight in plain], rel=1e-5)


def test_the_published_formula() -> None:
    """log pi = 1/N [sum over unchanged + gamma sum over corrected], eq. 5, for

    chosen    -1 -1 -2 [-3] -1 -1 -2        (-8 + 5 * -3) / 11 = -23 / 11
    rejected  -1 -1 -1 [-2 -4] -1 -1 -1     (-6 + 5 * -6) / 16 = -36 / 16
    """
    row = collate([weigh(example(("chosen", OURS), ("rejected", THEIRS)), DenseSection())])
    log_probs = torch.tensor([-1.0, -1, -2, -3, -1, -1, -2, -1, -1, -1, -2, -4, -1, -1, -1])
    scores = Scores.of(log_probs, row)
    assert scores.policy.tolist() == pytest.approx([-23 / 11, -36 / 16])
    assert scores.sizes.tolist() == pytest.approx([1, 1])


def test_a_lone_answer_has_nothing_corrected() -> None:
    """KTO's single answers."""
    for kind in ("chosen", "rejected"):
        assert weights(example((kind, OURS))) == [pytest.approx([1 / 7] * 7)]


def test_the_nth_chosen_with_the_nth_rejected() -> None:
    """Or with the last: the third chosen answer is the second rejected one, so that nothing in it is corrected."""
    other = [11, 12, 13, 14]
    found = weights(
        example(("chosen", OURS), ("chosen", [11, 12, 13, 15]), ("chosen", other), ("rejected", THEIRS), ("rejected", other)),
        normalize=False,
    )
    assert found == [[1, 1, 1, 5, 1, 1, 1], [1, 1, 1, 5], [1] * 4, [1, 1, 1, 5, 5, 1, 1, 1], [1, 1, 1, 5]]


def test_other_prompts_answers_are_on_the_same_scale() -> None:
    """KTO's z, of kind other, is compared with log-ratios of weighted answers: divided by N like them."""
    chosen, other = weights(example(("chosen", OURS), ("other", [1, 2])))
    assert sum(chosen) == pytest.approx(1)
    assert sum(other) == pytest.approx(1)


# --- spoilt pictures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", [1, 2])
def test_crops_weigh_what_their_originals_do(answers: int) -> None:
    """mDPO subtracts the spoilt one's log-ratio from the chosen one's: token by token they must weigh the same."""
    chosen = [("chosen", OURS), ("chosen", [11, 12, 13, 15])][:answers]
    rejected = [("rejected", THEIRS), ("rejected", [11, 12, 13, 14])]
    found = weights(example(*chosen, *rejected, *chosen, spoilt=answers))
    assert found[-answers:] == found[:answers]


def test_crops_change_nothing_for_the_plain_pair() -> None:
    """The third rejected answer is compared with the second chosen one, the last, not with a copy of the first."""
    chosen = [("chosen", OURS), ("chosen", [11, 12, 13])]
    rejected = [("rejected", THEIRS), ("rejected", [11, 12, 14]), ("rejected", OURS)]
    found = weights(example(*chosen, *rejected, *chosen, spoilt=2), normalize=False)
    assert found[:5] == weights(example(*chosen, *rejected), normalize=False)


def test_own_words_change_nothing_for_the_plain_pair() -> None:
    """POVID's spoilt answers are of kind rejected, but no chosen answer is a correction of them."""
    chosen, rejected = [("chosen", OURS), ("chosen", [1, 2, 3, 9, 4, 20, 21])], [("rejected", THEIRS)]
    spoilt = [("rejected", ids) for _, ids in chosen]
    assert weights(example(*chosen, *rejected, *spoilt, spoilt=2))[:3] == weights(example(*chosen, *rejected))


# --- by spans ----------------------------------------------------------------------------------------------------------


def test_spans_by_hand() -> None:
    """What the data says, whatever differs: tokens 1 and 2 of chosen; of rejected, without spans, none."""
    pair = example(("chosen", OURS), ("rejected", THEIRS), corrected={0: [1, 2]})
    found = weights(pair, corrected="spans", normalize=False)
    assert found == [[1, 5, 5, 1, 1, 1, 1], [1] * 8]
    assert weights(pair, normalize=False) == [[1, 1, 1, 5, 1, 1, 1], [1, 1, 1, 5, 5, 1, 1, 1]]


BYTE_OF = {letter: byte for byte, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}


def byte_ranges(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """Bytes of the text that each token stands for, from the tokens' own strings: of byte-level BPE a letter is a byte, of a
    control token it is itself."""
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokens = tokenizer.encode(text, add_special_tokens=False).tokens
    ends = np.cumsum([0, *(len(t.encode()) if t in special else len(t) for t in tokens)])
    assert ends[-1] == len(text.encode())
    return list(pairwise(ends.tolist()))


@pytest.fixture(scope="module")
def small(tiny: Path) -> Renderer:
    return load_renderer(tiny)


@pytest.fixture(scope="module")
def real(shared: Path) -> Renderer:
    return load_renderer(shared / "smolvlm-256m-processor")


LETTERS = "abc  \n.,019äßéñ\u0301\u200d漢字カナ𝔘🙂👩🏽\u200d🚀🇩🇪\ufe0f"
TEXTS = st.one_of(
    st.text(LETTERS, min_size=1, max_size=30),
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), min_size=1, max_size=30),  # SmolLM2 lacks some bytes
    st.lists(st.sampled_from(["A dog", " and", " a red", " umbrella", " 2024", " naïve", " 猫", " 🐈\u200d⬛", "!"]), min_size=1,
             max_size=8).map("".join),
)  # fmt: skip


@st.composite
def texts_with_spans(draw: st.DrawFn) -> tuple[str, tuple[tuple[int, int], ...]]:
    """None of them empty."""
    text = draw(TEXTS)
    cuts = st.tuples(st.integers(0, len(text) - 1), st.integers(0, len(text) - 1)).map(lambda c: (min(c), max(c) + 1))
    return text, tuple(draw(st.lists(cuts, max_size=3)))


@pytest.mark.parametrize("which", ["small", "real"])
def test_marked_tokens_are_those_that_hold_a_character_of_a_span(which: str, request: pytest.FixtureRequest) -> None:
    """Exactly those, found by counting bytes: no character of a span is lost, no token without one is marked. A letter of
    several bytes may be cut into several tokens, each of which holds it."""
    renderer: Renderer = request.getfixturevalue(which)

    @given(given_=texts_with_spans())
    def holds(given_: tuple[str, tuple[tuple[int, int], ...]]) -> None:
        text, spans = given_
        inside = {
            byte for start, end in spans for byte in range(len(text[:start].encode()), len(text[:end].encode()))
        }  # bytes of the spans
        expected = []
        for first, last in byte_ranges(renderer.tokenizer, text):
            # a token that has a part of a character has the whole of it
            while first and text.encode()[first] & 0xC0 == 0x80:
                first -= 1
            while last < len(text.encode()) and text.encode()[last] & 0xC0 == 0x80:
                last += 1
            expected.append(any(byte in inside for byte in range(first, last)))
        assert renderer.tokens_in(text, spans).tolist() == expected

    holds()


def rendered(renderer: Renderer, *responses: Response) -> Example:
    ask = Message(role="user", content=("What is it?",))
    return renderer.render(Record(id="1", source="test", messages=(ask,), responses=responses))


def marked_text(renderer: Renderer, node: Node) -> list[str]:
    assert node.corrected is not None
    return [renderer.tokenizer.decode([int(token)]) for token in node.ids[node.corrected]]


def test_the_lead_shifts_spans(real: Renderer) -> None:
    """' A red dog 🙂.<end_of_utterance>' is laid out for 'A red dog 🙂.': [2, 5) is red, not the letters before it."""
    text = "A red dog 🙂."
    assert SMOLVLM.answer(text)[0] == " "
    for span, words in (((2, 5), " red"), ((0, 1), " A"), ((6, 9), " dog"), ((11, 12), "."), ((9, 10), None)):
        made = rendered(real, Response(text=text, spans=(span,)))
        found = marked_text(real, made.nodes[made.responses[0][0]])
        if words is not None:
            assert found == [words]
        else:
            assert len(found) >= 1
            assert set("".join(found)) <= set(" �🙂")


@pytest.mark.parametrize("which", ["small", "real"])
def test_rendered_spans_are_those_of_the_text(which: str, request: pytest.FixtureRequest) -> None:
    """The node's marks are those of its own text with the spans one letter on; the closing token is never marked."""
    renderer: Renderer = request.getfixturevalue(which)

    @given(given_=texts_with_spans().filter(lambda x: x[0].strip() and x[1]))
    def holds(given_: tuple[str, tuple[tuple[int, int], ...]]) -> None:
        text, spans = given_
        made = rendered(renderer, Response(text=text, spans=spans))
        node = made.nodes[made.responses[0][0]]
        assert node.corrected is not None
        assert node.corrected.shape == node.ids.shape
        assert not node.corrected[-1]
        assert node.corrected.any()
        later = tuple((start + 1, end + 1) for start, end in spans)
        assert np.array_equal(node.corrected, renderer.tokens_in(SMOLVLM.answer(text), later))

    holds()


def test_without_spans_nothing_is_marked(small: Renderer) -> None:
    made = rendered(small, Response(text="A cat."), Response(text="A cat."))
    assert made.nodes[1].corrected is None
    assert small.tokens_in("A cat.", ()).tolist() == [False] * len(small.encode("A cat."))
    weighed = weigh(replace(made, responses=((1, "chosen"), (2, "rejected"))), DenseSection(corrected="spans"))
    assert weighed.nodes[1].weights.tolist() == weighed.nodes[2].weights.tolist()
    assert weighed.changes == (NO_SPANS,)


def test_spans_hold_under_spoilt_pictures(small: Renderer) -> None:
    """mDPO's copy of the chosen answer has its corrected segments, too."""
    shown = Media(ref=Image.new("RGB", (40, 30), "orange"))
    answers = (
        Response(text="A red dog.", kind="chosen", spans=((2, 5),)),
        Response(text="A blue dog.", kind="rejected", spans=((2, 6),)),
    )
    record = Record(id="1", source="t", messages=(Message(role="user", content=(shown, "What?")),), responses=answers)
    section = PreferenceSection(kind="dpo", dense={"corrected": "spans"}, picture={"kind": "crop"})
    made = weigh(small.render(use(record, section=section)), section.dense)
    chosen, _, spoilt = (made.nodes[index] for index, _ in made.responses)
    assert len(set(chosen.weights.tolist())) == 2
    assert np.array_equal(spoilt.ids, chosen.ids)
    assert np.array_equal(spoilt.weights, chosen.weights)
