"""From token log-probs to the loss of pairs: rows made by hand, and spoilt pictures on the tiny model."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smolforge.data.batch import PackedBatch, collate
from smolforge.data.mix import Mixture
from smolforge.data.pipeline import Stream
from smolforge.data.processor import load_renderer
from smolforge.data.render import Example, Node, Renderer
from smolforge.data.sources.scenes import scene
from smolforge.data.sources.source import Source
from smolforge.errors import DataError
from smolforge.model.attention import tree_attention
from smolforge.model.build import load_model
from smolforge.model.tree import TreeModel
from smolforge.objectives import LossOutput, Objective, Sums, total_counts
from smolforge.objectives.losses import PAIR_LOSSES
from smolforge.objectives.preference import METRICS, preference, use
from smolforge.recipe import SMOOTHED, PreferenceSection
from smolforge.records import Distortion, Media, Message, Record, Response, ResponseKind
from smolforge.training.fixed import own_words

LN2 = math.log(2)
Answer = tuple[ResponseKind, list[float], list[float]]  # kind, the policy's log-probs, the reference's


def section(**settings: Any) -> PreferenceSection:
    return PreferenceSection(kind="dpo", **settings)


def nls(x: float) -> float:
    """-log s(x)."""
    return math.log1p(math.exp(-x))


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def row(*examples: Sequence[Answer], spoilt: Sequence[Answer] = ()) -> tuple[torch.Tensor, PackedBatch]:
    """(log-probs with a graph, row) of prompts with these answers; `spoilt` ones follow a second root of the last example."""
    made, policy, reference = [], [], []
    for number, answers in enumerate(examples):
        last = number == len(examples) - 1
        nodes, responses, distorted = [_node(-1, 2)], [], []
        for place, (kind, ours, theirs) in enumerate([*answers, *(spoilt if last else ())]):
            if place == len(answers):
                nodes.append(_node(-1, 2))
            if place >= len(answers):
                distorted.append(place)
            parent = max(index for index, node in enumerate(nodes) if node.parent < 0)
            responses.append((len(nodes), kind))
            nodes.append(_node(parent, len(ours)))
            policy += ours
            reference += theirs
        made.append(
            Example(id=str(number), source="hand", nodes=tuple(nodes), responses=tuple(responses), distorted=frozenset(distorted))
        )
    batch = replace(collate(made), reference=torch.tensor(reference, dtype=torch.float32))
    return torch.tensor(policy, dtype=torch.float32, requires_grad=True), batch


def _node(parent: int, size: int) -> Node:
    return Node(parent=parent, ids=np.arange(size), weights=np.full(size, parent >= 0, np.float32))


def weighed(batch: PackedBatch, weights: list[float]) -> PackedBatch:
    return replace(batch, weights=torch.tensor(weights))


def value(found: LossOutput, objective: Objective, *rows: PackedBatch) -> float:
    return found.loss(total_counts(objective, rows)).item()


def two_pairs() -> tuple[torch.Tensor, PackedBatch]:
    """Two examples in one row.

                 log pi      log ref       sums       r       D
    chosen       -1 -2       -2 -2         -3, -4     1
    rejected     -1 -1 -3    -1 -1 -1      -5, -3    -2       3

    chosen       -2 -2 -1    -1 -1 -1      -5, -3    -2
    rejected     -4          -5            -4, -5     1      -3
    """
    return row(
        [("chosen", [-1, -2], [-2, -2]), ("rejected", [-1, -1, -3], [-1, -1, -1])],
        [("chosen", [-2, -2, -1], [-1, -1, -1]), ("rejected", [-4], [-5])],
    )


# --- two pairs by hand ---------------------------------------------------------------------------------------------------


def test_counts() -> None:
    objective = preference(section())
    _, batch = two_pairs()
    expected = {"responses": 4.0, "chosen": 2.0, "rejected": 2.0, "pairs": 2.0, "tokens": 5.0, "chosen tokens": 5.0}
    assert objective.counts(batch) == expected
    assert set(objective.units) == expected.keys()
    assert total_counts(objective, [batch, batch]) == {unit: 2 * count for unit, count in expected.items()}
    assert total_counts(objective, []) == dict.fromkeys(expected, 0.0)


def test_loss_is_the_mean_over_pairs() -> None:
    """beta 0.1, D = 3 and -3: (-log s(0.3) - log s(-0.3)) / 2. A token's gradient is that of its sum."""
    log_probs, batch = two_pairs()
    objective = preference(section())
    found = objective.loss(log_probs, batch, {})
    assert found.terms.keys() == {"pairs"}
    assert found.terms["pairs"].item() == pytest.approx(nls(0.3) + nls(-0.3))
    loss = found.loss(objective.counts(batch))
    assert loss.item() == pytest.approx((nls(0.3) + nls(-0.3)) / 2)
    loss.backward()
    first, second = 0.05 * s(-0.3), 0.05 * s(0.3)
    assert log_probs.grad.tolist() == pytest.approx([-first] * 2 + [first] * 3 + [-second] * 3 + [second])


def test_metrics_by_hand() -> None:
    """A token: -1.5 > -1.67 and -1.67 > -4. kl is the sum of d^2 / 2 over the chosen answers' tokens with
    d = log pi - log ref = 1 0 | -1 -1 0: three halves.
    """
    log_probs, batch = two_pairs()
    objective = preference(section())
    found = objective.loss(log_probs, batch, {}).metrics
    assert not any(metric.requires_grad for metric in found.values())
    assert {name: metric.item() for name, metric in found.items()} == pytest.approx(
        {
            "accuracy/sum": 1,
            "accuracy/token": 2,
            "accuracy/reward": 1,
            "ties/reward": 0,
            "logps/chosen": -8,
            "logps/rejected": -9,
            "length/chosen": 5,
            "length/rejected": 4,
            "rewards/chosen": 0.1 * (1 - 2),
            "rewards/rejected": 0.1 * (-2 + 1),
            "rewards/margins": 0.1 * (3 - 3),
            "drift/chosen": 1 / 2 - 2 / 3,
            "drift/rejected": -2 / 3 + 1 / 1,
            "kl": 1.5,
        },
        rel=1e-5,
        abs=1e-6,
    )
    assert objective.metrics == METRICS
    assert found.keys() == METRICS.keys()
    assert set(METRICS.values()) <= set(objective.units)


def test_means_of_metrics() -> None:
    """Over two rows: a row's sums twice over twice its counts."""
    log_probs, batch = two_pairs()
    objective = preference(section())
    sums, counts = Sums(objective, compared=True), total_counts(objective, [batch, batch])
    for _ in range(2):
        found = objective.loss(log_probs, batch, {})
        sums.add(found, found.loss(counts))
    means = sums.means(counts, lambda values: values)
    assert means["loss"] == pytest.approx((nls(0.3) + nls(-0.3)) / 2)
    assert means["rewards/chosen"] == pytest.approx(-0.05)
    assert means["length/chosen"] == pytest.approx(2.5)
    assert means["accuracy/token"] == pytest.approx(1)


def test_without_a_reference() -> None:
    """SimPO reads none, and says nothing of rewards: beta 0.1, (-1.5 + 5 / 3) and (-5 / 3 + 4) a token, margin 0.5."""
    log_probs, batch = two_pairs()
    objective = preference(section(loss="simpo"))
    assert not objective.needs_reference
    found = objective.loss(log_probs, replace(batch, reference=None), {})
    assert found.terms["pairs"].item() == pytest.approx(nls(0.1 * (5 / 3 - 1.5) - 0.5) + nls(0.1 * (4 - 5 / 3) - 0.5), rel=1e-5)
    assert found.metrics.keys() == {
        "accuracy/sum", "accuracy/token", "logps/chosen", "logps/rejected", "length/chosen", "length/rejected"
    }  # fmt: skip


def test_ties() -> None:
    """Policy and reference agree on everything, as at the first step: nothing is ahead by reward."""
    log_probs, batch = row([("chosen", [-1, -2], [-1, -2]), ("rejected", [-4], [-4])])
    found = preference(section()).loss(log_probs, batch, {})
    assert found.terms["pairs"].item() == pytest.approx(LN2)
    names = ("accuracy/sum", "accuracy/token", "accuracy/reward", "ties/reward", "rewards/margins", "kl")
    assert [found.metrics[name].item() for name in names] == [1, 1, 0, 1, 0, 0]


def test_every_chosen_with_every_rejected() -> None:
    """Two chosen and three rejected answers of one prompt are six pairs; the next prompt's answers pair among themselves."""
    several = [
        ("chosen", [-1.0], [-2.0]), ("rejected", [-3.0], [-2.0]), ("chosen", [-2.0], [-4.0]), ("rejected", [-5.0], [-3.0]),
        ("rejected", [-1.0], [-4.0]),
    ]  # fmt: skip
    log_probs, batch = row(several, [("rejected", [-9.0], [-9.0]), ("chosen", [-9.0], [-9.0])])
    objective = preference(section(beta=1.0))
    found = objective.loss(log_probs, batch, {})
    # r: chosen 1 and 2; rejected -1, -2 and 3
    margins = [c - r for c in (1, 2) for r in (-1, -2, 3)]
    assert found.terms["pairs"].item() == pytest.approx(sum(map(nls, margins)) + LN2, rel=1e-5)
    assert objective.counts(batch)["pairs"] == 7
    assert objective.counts(batch)["responses"] == 7
    assert found.metrics["rewards/margins"].item() == pytest.approx(sum(margins))
    assert found.metrics["rewards/chosen"].item() == pytest.approx(3), "each answer once, however many pairs it is in"
    assert value(found, objective, batch) == pytest.approx((sum(map(nls, margins)) + LN2) / 7, rel=1e-5)


def test_mixture_of_losses() -> None:
    """MPO: 0.8 sigmoid + 0.2 bco_pair a pair, and the chosen answers' likelihood a token, 8 / 5."""
    log_probs, batch = two_pairs()
    objective = preference(section(loss={"sigmoid": 0.8, "bco_pair": 0.2, "nll": 1.0}))
    found = objective.loss(log_probs, batch, {})
    bco = nls(0.1) + nls(0.2) + nls(-0.2) + nls(-0.1)
    pairs = 0.8 * (nls(0.3) + nls(-0.3)) + 0.2 * bco
    assert found.terms["pairs"].item() == pytest.approx(pairs, rel=1e-5)
    assert found.terms["tokens"].item() == pytest.approx(8)
    assert value(found, objective, batch) == pytest.approx(pairs / 2 + 8 / 5, rel=1e-5)


def test_added_likelihood() -> None:
    """RPO: 0.5 / 5 of the chosen tokens' negative log-probs beside the pairs."""
    log_probs, batch = two_pairs()
    objective = preference(section(nll=0.5))
    assert value(objective.loss(log_probs, batch, {}), objective, batch) == pytest.approx((nls(0.3) + nls(-0.3)) / 2 + 0.8)


def test_likelihood_alone() -> None:
    log_probs, batch = two_pairs()
    objective = preference(section(loss="nll"))
    found = objective.loss(log_probs, batch, {})
    assert found.terms.keys() == {"tokens"}
    assert value(found, objective, batch) == pytest.approx(8 / 5)


def test_gradient_does_not_depend_on_rows() -> None:
    """Two pairs in one row, or each in its own."""
    objective = preference(section(nll=0.3))
    log_probs, batch = two_pairs()
    objective.loss(log_probs, batch, {}).loss(objective.counts(batch)).backward()
    a = row([("chosen", [-1, -2], [-2, -2]), ("rejected", [-1, -1, -3], [-1, -1, -1])])
    b = row([("chosen", [-2, -2, -1], [-1, -1, -1]), ("rejected", [-4], [-5])])
    counts = total_counts(objective, [a[1], b[1]])
    assert counts == objective.counts(batch)
    for alone in (a, b):
        objective.loss(*alone, {}).loss(counts).backward()
    assert torch.cat([a[0].grad, b[0].grad]).tolist() == pytest.approx(log_probs.grad.tolist(), rel=1e-5)


# --- compared pair by pair -------------------------------------------------------------------------------------------------


def test_compare() -> None:
    """Every pair by name, in plain sums and tokens, also where tokens are weighed."""
    log_probs, batch = two_pairs()
    compare = preference(section()).compare
    found = compare(log_probs, batch)
    assert [(c.id, c.source, c.chosen, c.rejected, c.chosen_tokens, c.rejected_tokens) for c in found] == [
        ("0", "hand", -3.0, -5.0, 2, 3),
        ("1", "hand", -5.0, -4.0, 3, 1),
    ]
    assert [(c.chosen_reference, c.rejected_reference) for c in found] == [(-4.0, -3.0), (-3.0, -5.0)]
    dense = weighed(batch, [0.2, 0.8, 0.1, 0.1, 0.8, 5.0, 1.0, 1.0, 3.0])
    assert compare(log_probs, dense) == found
    without = compare(log_probs, replace(batch, reference=None))
    assert {(c.chosen_reference, c.rejected_reference) for c in without} == {(None, None)}


def test_metrics_are_not_weighed() -> None:
    log_probs, batch = two_pairs()
    objective = preference(section())
    dense = weighed(batch, [0.2, 0.8, 0.1, 0.1, 0.8, 5.0, 1.0, 1.0, 3.0])
    plain, heavy = (objective.loss(log_probs, one, {}) for one in (batch, dense))
    assert plain.metrics == heavy.metrics
    assert plain.terms["pairs"] != heavy.terms["pairs"]


def test_weighed_pairs_by_hand() -> None:
    """Weights 1 2 | 1 1 3 of the first pair: chosen (-1 - 4) - (-2 - 4) = 1, rejected (-2 - 9) - (-2 - 3) = -6, D = 7."""
    log_probs, batch = row([("chosen", [-1, -2], [-2, -2]), ("rejected", [-1, -1, -3], [-1, -1, -1])])
    dense = weighed(batch, [1.0, 2.0, 1.0, 1.0, 3.0])
    assert preference(section()).loss(log_probs, dense, {}).terms["pairs"].item() == pytest.approx(nls(0.7), rel=1e-5)
    # a token: 1 / 3 + 6 / 5
    found = preference(section(loss="sigmoid_norm")).loss(log_probs, dense, {}).terms["pairs"].item()
    assert found == pytest.approx(nls(0.1 * (1 / 3 + 6 / 5)), rel=1e-5)
    objective = preference(section(loss="nll"))
    assert objective.counts(dense)["tokens"] == 3
    assert value(objective.loss(log_probs, dense, {}), objective, dense) == pytest.approx(5 / 3)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_dense_weights_combine_with_every_loss(name: str, renderer: Renderer) -> None:
    smoothed = {"label_smoothing": 0.1} if name in SMOOTHED else {}
    record = pair("A red circle at the top left.", "A blue square at the top left.", pictures=0)
    found = []
    for dense in (None, {}, {"normalize": False}):
        objective = preference(section(loss=name, dense=dense, **smoothed))
        batch = collate([objective.shaping.weigh(renderer.render(objective.shaping.use(record)))])
        torch.manual_seed(0)
        log_probs = -2 * torch.rand(len(batch.targets))
        batch = replace(batch, reference=-2 * torch.rand(len(batch.targets)))
        found.append(value(objective.loss(log_probs.requires_grad_(), batch, {}), objective, batch))
    assert all(map(math.isfinite, found))
    assert found[0] not in found[1:]


# --- single answers ----------------------------------------------------------------------------------------------------------


def test_kto_by_hand() -> None:
    """beta 0.1, z 0.5. Rows of single answers: r = 1 desirable, weight 2; r = -2 undesirable, weight 3. Their own other
    prompts' answers count for nothing but z."""
    objective = preference(section(loss="kto", desirable=2.0, undesirable=3.0))
    assert objective.needs_reference
    assert objective.shaping.others
    good = row([("chosen", [-1, -2], [-2, -2]), ("other", [-3], [-5])])
    bad = row([("rejected", [-1, -1, -3], [-1, -1, -1]), ("other", [-1, -9], [-4, -5])])
    both = row(
        [("chosen", [-1, -2], [-2, -2]), ("other", [-3], [-5])],
        [("rejected", [-1, -1, -3], [-1, -1, -1]), ("other", [-1, -9], [-4, -5])],
    )
    up, down = 2 * (1 - s(0.1 * (1 - 0.5))), 3 * (1 - s(0.1 * (0.5 + 2)))
    shared = {"kl": 0.5}
    for (log_probs, batch), expected in ((good, up), (bad, down), (both, up + down)):
        found = objective.loss(log_probs, batch, shared)
        assert found.terms.keys() == {"responses"}
        assert found.terms["responses"].item() == pytest.approx(expected, rel=1e-5)
    assert value(objective.loss(*both, shared), objective, both[1]) == pytest.approx((up + down) / 2, rel=1e-5)
    objective.loss(*both, shared).terms["responses"].backward()
    grad = both[0].grad
    assert (grad[:2] < 0).all()
    assert (grad[3:6] > 0).all()
    assert not grad[[2, 6, 7]].any()


def test_counts_of_single_answers() -> None:
    objective = preference(section(loss="kto"))
    _, good = row([("chosen", [-1, -2], [-2, -2]), ("other", [-3], [-5])])
    _, bad = row([("rejected", [-1, -1, -3], [-1, -1, -1])])
    found = objective.counts(good)
    assert [found[unit] for unit in ("responses", "chosen", "rejected", "pairs", "tokens")] == [1, 1, 0, 0, 2]
    found = objective.counts(bad)
    assert [found[unit] for unit in ("responses", "chosen", "rejected", "pairs", "tokens")] == [1, 0, 1, 0, 0]


def test_metrics_of_single_answers() -> None:
    """What was not there is left out of the means."""
    objective = preference(section(loss="kto"))
    log_probs, batch = row([("rejected", [-1, -1, -3], [-1, -1, -1])])
    found, counts = objective.loss(log_probs, batch, {"kl": 0.0}), objective.counts(batch)
    sums = Sums(objective, compared=True)
    sums.add(found, found.loss(counts))
    means = sums.means(counts, lambda values: values)
    assert means["logps/rejected"] == pytest.approx(-5)
    assert means["rewards/rejected"] == pytest.approx(-0.2)
    assert not means.keys() & {"logps/chosen", "rewards/chosen", "rewards/margins", "accuracy/reward", "accuracy/sum"}
    assert objective.compare(log_probs, batch) == []


def test_kl_estimate() -> None:
    """Log-ratios of other prompts' answers: -3 + 5 = 2 and (-1 - 9) - (-4 - 5) = -1, so z = 0.5; never below 0."""
    objective = preference(section(loss="kto"))
    log_probs, batch = row(
        [("chosen", [-1, -2], [-2, -2]), ("other", [-3], [-5])],
        [("rejected", [-1, -1, -3], [-1, -1, -1]), ("other", [-1, -9], [-4, -5])],
    )
    found = objective.look(log_probs.detach(), batch)
    assert found == {"kl": 1.0, "others": 2.0}
    assert set(objective.looked) == found.keys()
    assert objective.share(found) == {"kl": 0.5}
    assert objective.share({"kl": -3.0, "others": 2.0}) == {"kl": 0.0}
    assert objective.share({"kl": 0.0, "others": 0.0}) == {"kl": 0.0}
    log_probs, alone = row([("chosen", [-1], [-2])])
    assert objective.look(log_probs.detach(), alone) == {"kl": 0.0, "others": 0.0}
    assert preference(section()).look is None


def test_the_other_answer_comes_from_the_next_example(renderer: Renderer) -> None:
    rows = [{"prompt": f"Question {n}?", "completion": f"Answer {n}.", "label": n % 2 == 0} for n in range(3)]
    stream = stream_of(rows, renderer, section(loss="kto"))
    (batch,) = stream.step(range(3)).rows
    kinds = [response.kind for response in batch.responses]
    assert sorted(kinds) == sorted(["chosen", "rejected", "chosen", *["other"] * 3])
    answers = [renderer.decode(batch.targets[batch.response_ids == n].tolist()) for n in range(len(kinds))]
    by_place = {response.example: {} for response in batch.responses}
    for response, text in zip(batch.responses, answers, strict=True):
        by_place[response.example][response.kind == "other"] = text
    assert all(texts[True] != texts[False] for texts in by_place.values())


# --- a small crop (mDPO) -----------------------------------------------------------------------------------------------------


def test_crop_by_hand() -> None:
    """r_w = 1 with the picture and -1 with the crop, D = 3, beta 0.1:

    -log s(0.3) - log s(0.1 (1 + 1)) - log s(0.1 * 1 - delta)
    """
    answers = [("chosen", [-1, -2], [-2, -2]), ("rejected", [-1, -1, -3], [-1, -1, -1])]
    log_probs, batch = row(answers, spoilt=[("chosen", [-3, -1], [-1, -2])])
    for settings, expected in (
        ({}, nls(0.3) + nls(0.2) + nls(0.1)),
        ({"anchor": 0.4}, nls(0.3) + nls(0.2) + nls(-0.3)),
        ({"anchor": None}, nls(0.3) + nls(0.2)),
        ({"weight": 2.5, "anchor": None}, nls(0.3) + 2.5 * nls(0.2)),
        ({"weight": 2.5}, nls(0.3) + 2.5 * nls(0.2) + nls(0.1)),
    ):
        objective = preference(section(picture={"kind": "crop", **settings}))
        found = objective.loss(log_probs, batch, {})
        assert found.terms["pairs"].item() == pytest.approx(expected, rel=1e-5)
        assert found.metrics["rewards/spoilt"].item() == pytest.approx(-0.1)
        assert found.metrics.keys() == objective.metrics.keys()
    counts = objective.counts(batch)
    assert [counts[unit] for unit in ("responses", "chosen", "pairs", "tokens")] == [2, 1, 1, 2], "the spoilt one is no answer"
    assert found.metrics["logps/chosen"].item() == -3
    assert len(objective.compare(log_probs, batch)) == 1
    found.terms["pairs"].backward()
    assert (log_probs.grad[:2] < 0).all()
    assert (log_probs.grad[-2:] > 0).all()


def test_each_chosen_answer_has_its_own_crop() -> None:
    """Two chosen answers with r = 1 and 2, under the crop 0.5 and -3; one rejected with r = 0. beta 1, no anchor."""
    log_probs, batch = row(
        [("chosen", [-1.0], [-2.0]), ("rejected", [-1.0], [-1.0]), ("chosen", [-1.0], [-3.0])],
        spoilt=[("chosen", [-1.0], [-1.5]), ("chosen", [-4.0], [-1.0])],
    )
    objective = preference(section(beta=1.0, picture={"kind": "crop", "anchor": None}))
    found = objective.loss(log_probs, batch, {})
    assert found.terms["pairs"].item() == pytest.approx(nls(1) + nls(2) + nls(0.5) + nls(5), rel=1e-5)
    assert found.metrics["rewards/spoilt"].item() == pytest.approx(0.5 - 3)


def test_crops_of_the_right_example(renderer: Renderer) -> None:
    """Two examples in one row cost what they cost in a row each."""
    what = section(beta=1.0, picture={"kind": "crop"})
    objective = preference(what)
    stream = stream_of([pair(CHOSEN, REJECTED), pair("A star.", CHOSEN)], renderer, what)
    (together,) = stream.step([0, 1]).rows
    torch.manual_seed(0)
    log_probs, reference = -torch.rand(2, len(together.targets))
    whole = objective.loss(log_probs, replace(together, reference=reference), {}).terms["pairs"].item()
    places = {stream.record(place).id: place for place in (0, 1)}
    parts, first = 0.0, 0
    for name in dict.fromkeys(response.id for response in together.responses):
        (alone,) = stream.step([places[name]]).rows
        here = slice(first, first + len(alone.targets))
        assert torch.equal(alone.targets, together.targets[here])
        parts += objective.loss(log_probs[here], replace(alone, reference=reference[here]), {}).terms["pairs"].item()
        first = here.stop
    assert whole == pytest.approx(parts, rel=1e-5)


# --- noise and own words (POVID) -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weight", "expected"), [(0.5, (nls(0.3) + nls(0.2)) / 2), (0.25, 0.75 * nls(0.3) + 0.25 * nls(0.2))])
def test_noise_by_hand(weight: float, expected: float) -> None:
    """Own words with r = -1 against r_w = 1, beside D = 3, half and half; no anchor. What is spoilt is rejected, but neither
    pairs nor metrics of rejected answers know it."""
    answers = [("chosen", [-1, -2], [-2, -2]), ("rejected", [-1, -1, -3], [-1, -1, -1])]
    log_probs, batch = row(answers, spoilt=[("rejected", [-3.0, -1.0], [-1.0, -2.0])])
    objective = preference(section(picture={"kind": "noise", "weight": weight}))
    assert objective.own_words
    found = objective.loss(log_probs, batch, {})
    assert found.terms["pairs"].item() == pytest.approx(expected, rel=1e-5)
    assert found.metrics["rewards/spoilt"].item() == pytest.approx(-0.1)
    assert found.metrics["logps/rejected"].item() == -5
    counts = objective.counts(batch)
    assert [counts[unit] for unit in ("responses", "rejected", "pairs")] == [2, 1, 1]


# --- on pictures ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def renderer(tiny: Path) -> Renderer:
    return load_renderer(tiny)


@pytest.fixture(scope="module")
def model(tiny: Path) -> TreeModel:
    return TreeModel(load_model(tiny))


def pair(chosen: str, rejected: str, *, pictures: int = 1) -> Record:
    """A pair about drawn scenes."""
    shown = tuple(Media(ref=scene(5, index).draw()) for index in range(pictures))
    answers = (Response(text=chosen, kind="chosen"), Response(text=rejected, kind="rejected"))
    return Record(id="1", source="s", messages=(Message(role="user", content=(*shown, "Describe it.")),), responses=answers)


def stream_of(rows: list[Any], renderer: Renderer, what: PreferenceSection) -> Stream:
    """A stream over rows as they are; records stand for themselves."""
    from smolforge.data.sources import shapes

    def to_record(row: Any, *, id: str, source: str, prompt: str | None = None) -> Record:
        return replace(row, id=id, source=source) if isinstance(row, Record) else shapes.record(row, id=id, source=source)

    opened = Source(name="s", table=rows, rows=range(len(rows)), to_record=to_record)
    return Stream(
        sources=(opened,), mixture=Mixture([len(rows)], None, seed=0), renderer=renderer, shaping=preference(what).shaping
    )


CHOSEN, REJECTED = "A red circle at the top.", "Two blue squares."


def test_what_crop_and_noise_add() -> None:
    """A copy of each chosen answer, behind the others, under the recipe's distortion."""
    record = pair(CHOSEN, REJECTED)
    crop = use(record, section=section(picture={"kind": "crop", "scale": [0.1, 0.3]}))
    assert crop.responses == (
        *record.responses,
        Response(text=CHOSEN, kind="chosen", distortion=Distortion(kind="crop", scale=(0.1, 0.3))),
    )
    noise = use(record, section=section(picture={"kind": "noise", "step": 700}))
    assert noise.responses == (
        *record.responses,
        Response(text=CHOSEN, kind="rejected", distortion=Distortion(kind="noise", step=700)),
    )
    assert use(record, section=section()) == record


@pytest.mark.parametrize("kind", ["crop", "noise"])
def test_the_spoilt_branch_sees_other_pictures(kind: str, renderer: Renderer) -> None:
    """The prompt twice, with the same placeholders, each tile twice, plain and spoilt."""
    what = section(picture={"kind": kind})
    step = stream_of([pair(CHOSEN, REJECTED, pictures=2)], renderer, what).step([0])
    (batch,) = step.rows
    assert [response.distorted for response in batch.responses] == [False, False, True]
    assert [response.kind for response in batch.responses] == ["chosen", "rejected", "chosen" if kind == "crop" else "rejected"]
    assert len(batch.trees) == 2
    assert len(batch.tiles) == len(batch.run_tiles) == 4
    plain, spoilt = batch.tiles[batch.run_tiles[:2]], batch.tiles[batch.run_tiles[2:]]
    for one, other in zip(plain, spoilt, strict=True):
        assert not torch.equal(one, other)
    assert torch.equal(batch.targets[batch.response_ids == 0], batch.targets[batch.response_ids == 2])


def test_the_crop_term_of_the_model(renderer: Renderer, model: TreeModel) -> None:
    """The tiny model's own log-probs, its reference 1 nat a token below: r is the number of tokens, n, with either picture, so
    that the pair costs -log s(0.1 (n - m)), the crop -log s(0) and the anchor -log s(0.1 n)."""
    what = section(picture={"kind": "crop"})
    objective = preference(what)
    (batch,) = stream_of([pair(CHOSEN, REJECTED)], renderer, what).step([0]).rows
    with torch.no_grad():
        log_probs = model(batch)
    found = objective.loss(log_probs, replace(batch, reference=log_probs - 1), {})
    n, m, _ = torch.bincount(batch.response_ids).tolist()
    assert found.terms["pairs"].item() == pytest.approx(nls(0.1 * (n - m)) + LN2 + nls(0.1 * n), rel=1e-4)
    seen, cropped = log_probs[batch.response_ids == 0], log_probs[batch.response_ids == 2]
    assert not torch.allclose(seen, cropped, atol=1e-4), "the picture makes a difference"


def test_own_words(renderer: Renderer, model: TreeModel) -> None:
    """Under noise each target becomes the likeliest token of all, the plain answers stay; inputs stay, too."""
    (batch,) = stream_of([pair(CHOSEN, REJECTED)], renderer, section(picture={"kind": "noise"})).step([0]).rows
    found = own_words(model, batch)
    spoilt = batch.response_ids == 2
    assert spoilt.any()
    assert torch.equal(found.targets[~spoilt], batch.targets[~spoilt])
    assert torch.equal(found.input_ids, batch.input_ids)
    with torch.no_grad():
        hidden = model.decode(model.embed(batch), batch.position_ids, [tree_attention(batch)] * len(model.decoder.layers))
        tokens = torch.arange(model.head.weight.shape[0])
        every = torch.stack([model.log_probs(hidden[batch.predictors], t.expand(len(batch.targets))) for t in tokens])  # (V, K)
    assert torch.equal(found.targets[spoilt], every.argmax(0)[spoilt])
    assert not torch.equal(found.targets[spoilt], batch.targets[spoilt])


def test_own_words_without_spoilt_answers(renderer: Renderer, model: TreeModel) -> None:
    (batch,) = stream_of([pair(CHOSEN, REJECTED)], renderer, section()).step([0]).rows
    assert own_words(model, batch) is batch


# --- what is no pair ---------------------------------------------------------------------------------------------------------


def test_what_is_no_pair_is_dropped_and_counted(renderer: Renderer) -> None:
    """The reasons name no row, so that they add up."""
    good = pair(CHOSEN, REJECTED)
    only = [replace(good, responses=good.responses[n : n + 1]) for n in (0, 1)]
    rows = [good, only[0], only[0], only[1], pair(CHOSEN, CHOSEN), pair(CHOSEN, CHOSEN)]
    step = stream_of(rows, renderer, section()).step(range(6))
    assert step.tally.examples == 1
    assert step.tally.dropped == {
        "a pair without rejected": 2,
        "a pair without chosen": 1,
        "chosen and rejected are identical": 2,
    }
    assert sum(len(batch.responses) for batch in step.rows) == 2
    assert all(line.startswith("s[") for line in step.tally.named)


def test_none_of_several_may_be_identical(renderer: Renderer) -> None:
    good = pair(CHOSEN, REJECTED)
    more = replace(good, responses=(*good.responses, Response(text=CHOSEN, kind="rejected")))
    with pytest.raises(DataError, match="identical"):
        use(more, section=section())


def test_single_answers_are_fine_for_kto(renderer: Renderer) -> None:
    good = pair(CHOSEN, REJECTED)
    rows = [good, *(replace(good, responses=good.responses[n : n + 1]) for n in (0, 1)), pair(CHOSEN, CHOSEN)]
    step = stream_of(rows, renderer, section(loss="kto")).step(range(4))
    assert step.tally.examples == 4
    assert not step.tally.dropped


@pytest.mark.parametrize("kind", ["crop", "noise"])
def test_no_picture_to_spoil(kind: str, renderer: Renderer) -> None:
    what = section(picture={"kind": kind})
    record = use(pair(CHOSEN, REJECTED, pictures=0), section=what)
    with pytest.raises(DataError, match="no picture to spoil") as caught:
        renderer.render(record)
    assert "objective.picture" in str(caught.value)
    step = stream_of([pair(CHOSEN, REJECTED, pictures=0), pair(CHOSEN, REJECTED)], renderer, what).step(range(2))
    assert step.tally.dropped == {"no picture to spoil": 1}
    assert step.tally.examples == 1


def test_no_picture_to_spoil_for_a_text_model(renderer: Renderer) -> None:
    """Nor has a model without eyes."""
    record = use(pair(CHOSEN, REJECTED, pictures=0), section=section(picture={"kind": "crop"}))
    with pytest.raises(DataError, match="no picture to spoil"):
        replace(renderer, images=None).render(record)


@pytest.mark.parametrize("settings", [{}, {"loss": "kto"}, {"dense": {"gamma": 2.0}}])
def test_what_it_asks_of_examples_goes_to_other_processes(settings) -> None:
    pickle.loads(pickle.dumps(preference(section(**settings)).shaping))
