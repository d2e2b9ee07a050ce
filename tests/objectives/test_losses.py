"""Every loss against its value worked out by hand, at its limits, and by the signs of its gradient."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smolforge.objectives.losses import PAIR_LOSSES, Pairs, anchor, conditional, kto, log1mexp
from smolforge.recipe import SMOOTHED, WITHOUT_REFERENCE, PreferenceSection

# What losses without a setting of their own are tried with.
SETTINGS: dict[str, dict[str, Any]] = {name: {"label_smoothing": 0.1} for name in SMOOTHED} | {"simpo": {"margin": 0.5}}


def section(loss: str = "sigmoid", *, beta: float = 0.5, **settings: Any) -> PreferenceSection:
    return PreferenceSection(kind="dpo", loss=loss, beta=beta, **(SETTINGS.get(loss, {}) | settings))


def pairs(
    policy: list[tuple[float, float]],
    reference: list[tuple[float, float]] | None = None,
    sizes: list[tuple[float, float]] | None = None,
) -> Pairs:
    """Pairs of (chosen, rejected) sums; the policy's take a gradient."""
    chosen, rejected = (torch.tensor(side, dtype=torch.float32, requires_grad=True) for side in zip(*policy))
    ref_chosen, ref_rejected = (torch.tensor(side) for side in zip(*(reference or [(0.0, 0.0)] * len(policy))))
    chosen_size, rejected_size = (torch.tensor(side) for side in zip(*(sizes or [(1.0, 1.0)] * len(policy))))
    return Pairs(
        policy_chosen=chosen, policy_rejected=rejected, chosen=chosen - ref_chosen, rejected=rejected - ref_rejected,
        chosen_size=chosen_size, rejected_size=rejected_size,
    )  # fmt: skip


def two_pairs() -> Pairs:
    """Two pairs, of which the second is the wrong way round.

                  log pi(w), log pi(l)   log ref(w), log ref(l)   N_w, N_l      r_w   r_l    D    r a token    log pi a token
    first pair      -10       -14          -12       -13            5    4         2    -1     3    0.40 -0.25   -2.0  -3.5
    second pair      -6        -2           -5        -2.5          4    2        -1     0.5  -1.5 -0.25  0.25   -1.5  -1.0
    """
    return pairs([(-10.0, -14.0), (-6.0, -2.0)], [(-12.0, -13.0), (-5.0, -2.5)], [(5.0, 4.0), (4.0, 2.0)])


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def nls(x: float) -> float:
    """-log s(x), by another way than torch's."""
    return math.log1p(math.exp(-x))


def odds(log_q: float) -> float:
    return math.exp(log_q) / (1 - math.exp(log_q))


# With beta 0.5: beta D is 1.5 and -0.75, beta r_w 1 and -0.5, beta r_l -0.5 and 0.25, 1 / (2 beta) is 1.
BY_HAND = {
    "sigmoid": (nls(1.5), nls(-0.75)),
    "cdpo": (0.9 * nls(1.5) + 0.1 * nls(-1.5), 0.9 * nls(-0.75) + 0.1 * nls(0.75)),
    "robust": ((0.9 * nls(1.5) - 0.1 * nls(-1.5)) / 0.8, (0.9 * nls(-0.75) - 0.1 * nls(0.75)) / 0.8),
    "hinge": (0.0, 1.75),  # 1 - 1.5 is below 0; 1 + 0.75
    "ipo": (0.1225, 2.25),  # (0.4 + 0.25 - 1)^2 = 0.35^2; (-0.25 - 0.25 - 1)^2
    "sigmoid_norm": (nls(0.325), nls(-0.25)),  # 0.5 * 0.65; 0.5 * -0.5
    "apo_zero": (1 - s(1.0) + s(-0.5), 1 - s(-0.5) + s(0.25)),
    "apo_down": (s(1.0) + 1 - s(1.5), s(-0.5) + 1 - s(-0.75)),
    "simpo": (nls(0.25), nls(-0.75)),  # 0.5 * (-2 + 3.5) - 0.5; 0.5 * (-1.5 + 1) - 0.5
    "orpo": (  # -log s(log a - log b) = log(1 + b / a)
        2.0 + 0.5 * math.log(1 + odds(-3.5) / odds(-2.0)),
        1.5 + 0.5 * math.log(1 + odds(-1.0) / odds(-1.5)),
    ),
    "bco_pair": (nls(1.0) + nls(0.5), nls(-0.5) + nls(-0.25)),
    "exo_pair": (
        s(1.5) * math.log(s(1.5) / 0.9) + s(-1.5) * math.log(s(-1.5) / 0.1),
        s(-0.75) * math.log(s(-0.75) / 0.9) + s(0.75) * math.log(s(0.75) / 0.1),
    ),
    "nca_pair": (nls(1.0) + 0.5 * nls(-1.0) + 0.5 * nls(0.5), nls(-0.5) + 0.5 * nls(0.5) + 0.5 * nls(-0.25)),
    "sppo_hard": (1.0, 6.25),  # (2 - 1)^2 + (-1 + 1)^2; (-1 - 1)^2 + (0.5 + 1)^2
    "discopop": (  # x / 0.05 is 30 and -15
        nls(1.5) * (1 - s(30.0)) + math.exp(-1.5) * s(30.0),
        nls(-0.75) * (1 - s(-15.0)) + math.exp(0.75) * s(-15.0),
    ),
}
# Policy and reference agree on both answers.
NOTHING_LEARNT = {
    "sigmoid": math.log(2), "cdpo": math.log(2), "robust": math.log(2), "hinge": 1.0, "ipo": 1.0, "sigmoid_norm": math.log(2),
    "apo_zero": 1.0, "apo_down": 1.0, "bco_pair": 2 * math.log(2), "nca_pair": 2 * math.log(2), "sppo_hard": 2.0,
    "exo_pair": 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1), "discopop": 0.5 * math.log(2) + 0.5,
}  # fmt: skip


def test_every_loss_is_here() -> None:
    assert BY_HAND.keys() == PAIR_LOSSES.keys()
    assert NOTHING_LEARNT.keys() == PAIR_LOSSES.keys() - WITHOUT_REFERENCE


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_by_hand(name: str) -> None:
    assert PAIR_LOSSES[name](two_pairs(), section(name)).tolist() == pytest.approx(BY_HAND[name], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", NOTHING_LEARNT)
def test_where_the_policy_is_the_reference(name: str) -> None:
    same = pairs([(-10.0, -14.0)], [(-10.0, -14.0)], [(5.0, 4.0)])
    assert PAIR_LOSSES[name](same, section(name)).tolist() == pytest.approx([NOTHING_LEARNT[name]], rel=1e-6)


@pytest.mark.parametrize("name", sorted(WITHOUT_REFERENCE & PAIR_LOSSES.keys()))
def test_without_a_reference_none_is_read(name: str) -> None:
    policy, sizes = [(-10.0, -14.0)], [(5.0, 4.0)]
    one, other = (PAIR_LOSSES[name](pairs(policy, ref, sizes), section(name)) for ref in (None, [(-3.0, -99.0)]))
    assert torch.equal(one, other)


def test_discopop_between_its_two_halves() -> None:
    """beta D = 0.05 has x / tau = 1, so s(1) = 0.731 of the exponential loss."""
    found = PAIR_LOSSES["discopop"](pairs([(0.1, 0.0)]), section("discopop"))
    assert found.item() == pytest.approx(nls(0.05) * (1 - s(1.0)) + math.exp(-0.05) * s(1.0), rel=1e-5)


# --- far out -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [(-1e-9, -1e4), (-1e4, -1e-9), (-1e4, -1e4), (0.0, 0.0), (-2e3, -4e3), (-4e3, -2e3)])
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_no_answer_is_too_unlikely(name: str, policy: tuple[float, float]) -> None:
    """Loss and gradient stay finite at log-ratios of 10,000 nats and at probabilities of 1."""
    far = pairs([policy], [(-5e3, -5e3)])
    loss = PAIR_LOSSES[name](far, section(name))
    loss.sum().backward()
    assert loss.isfinite().all()
    for leaf in (far.policy_chosen, far.policy_rejected):
        assert leaf.grad is None or leaf.grad.isfinite().all()


def test_limits_of_sigmoid() -> None:
    """0 where the margin is large, -beta D where it is largely wrong."""
    found = PAIR_LOSSES["sigmoid"](pairs([(0.0, -400.0), (-400.0, 0.0)]), section())
    assert found.tolist() == pytest.approx([0.0, 200.0])


def test_limits_of_the_bounded_losses() -> None:
    """apo_zero and apo_down lie in [0, 2]."""
    far = pairs([(400.0, -400.0), (-400.0, 400.0)])
    assert PAIR_LOSSES["apo_zero"](far, section("apo_zero")).tolist() == pytest.approx([0.0, 2.0])
    down = pairs([(-400.0, -800.0), (400.0, 800.0)])
    assert PAIR_LOSSES["apo_down"](down, section("apo_down")).tolist() == pytest.approx([0.0, 2.0])


@pytest.mark.parametrize("name", ["cdpo", "robust"])
@given(policy=st.tuples(st.floats(-1e3, 0), st.floats(-1e3, 0)), beta=st.floats(0.01, 2))
def test_without_smoothing_it_is_sigmoid(name: str, policy: tuple[float, float], beta: float) -> None:
    given_ = pairs([policy], [(-7.0, -9.0)])
    plain = PAIR_LOSSES["sigmoid"](given_, section(beta=beta))
    assert torch.equal(PAIR_LOSSES[name](given_, section(name, beta=beta, label_smoothing=0.0)), plain)


def test_simpos_margin_moves_the_threshold() -> None:
    """A pair exactly `margin / beta` apart a token costs log 2: 0.5 * 3 = 1.5."""
    found = PAIR_LOSSES["simpo"](pairs([(-4.0, -20.0)], None, [(4.0, 5.0)]), section("simpo", margin=1.5))
    assert found.item() == pytest.approx(math.log(2))


def test_ipos_target() -> None:
    """No loss where log-ratios a token differ by 1 / (2 beta) = 5 at beta 0.1: 12 / 2 - 3 / 3."""
    found = PAIR_LOSSES["ipo"](pairs([(12.0, 3.0)], None, [(2.0, 3.0)]), section("ipo", beta=0.1))
    assert found.item() == pytest.approx(0.0, abs=1e-9)


def test_exos_target() -> None:
    """No loss where s(beta D) = 1 - e: D = log(9) / beta."""
    found = PAIR_LOSSES["exo_pair"](pairs([(2 * math.log(9), 0.0)]), section("exo_pair"))
    assert found.item() == pytest.approx(0.0, abs=1e-6)


# --- which way they push -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PAIR_LOSSES if name != "apo_down"])
def test_chosen_rises_and_rejected_falls(name: str) -> None:
    """At beta r_w = 0.25 and beta r_l = -0.25, which is before every loss's target."""
    pair = pairs([(-9.5, -10.5)], [(-10.0, -10.0)], [(2.0, 2.0)])
    PAIR_LOSSES[name](pair, section(name)).sum().backward()
    assert pair.policy_chosen.grad.item() < 0
    assert pair.policy_rejected.grad.item() > 0


def test_apo_down_lowers_both() -> None:
    """d/d r_w = beta [s'(beta r_w) - s'(beta D)] and d/d r_l = beta s'(beta D), with s' = s (1 - s), at r_w = 0 and D = 3."""
    pair = pairs([(-10.0, -13.0)], [(-10.0, -10.0)])
    PAIR_LOSSES["apo_down"](pair, section("apo_down")).sum().backward()
    slope = s(1.5) * (1 - s(1.5))
    assert pair.policy_chosen.grad.item() == pytest.approx(0.5 * (0.25 - slope), rel=1e-5)
    assert pair.policy_rejected.grad.item() == pytest.approx(0.5 * slope, rel=1e-5)
    assert slope < 0.25


def test_gradient_of_sigmoid() -> None:
    """-beta s(-beta D) for chosen and the opposite for rejected."""
    pair = two_pairs()
    PAIR_LOSSES["sigmoid"](pair, section()).sum().backward()
    expected = [-0.5 * s(-1.5), -0.5 * s(0.75)]
    assert pair.policy_chosen.grad.tolist() == pytest.approx(expected, rel=1e-5)
    assert pair.policy_rejected.grad.tolist() == pytest.approx([-x for x in expected], rel=1e-5)


# --- single answers and pictures ---------------------------------------------------------------------------------------


def test_kto_by_hand() -> None:
    """beta 0.5 and z 0.5: a desirable r = 2 gains 0.5 * 1.5, an undesirable r = -1 gains 0.5 * 1.5 as well, r = 3 loses 1.25.

    Weights 2 and 3.
    """
    ratio = torch.tensor([2.0, -1.0, 3.0, -4.0], requires_grad=True)
    desirable = torch.tensor([True, False, False, True])
    found = kto(ratio, desirable, 0.5, section("kto", desirable=2.0, undesirable=3.0))
    expected = [2 * (1 - s(0.75)), 3 * (1 - s(0.75)), 3 * (1 - s(-1.25)), 2 * (1 - s(-2.25))]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    found.sum().backward()
    assert (ratio.grad < 0).tolist() == desirable.tolist()
    assert ratio.grad[0].item() == pytest.approx(-2 * 0.5 * s(0.75) * s(-0.75), rel=1e-5)


def test_kto_at_the_reference_and_far_from_it() -> None:
    """Half of its weight where r = z, none and all of it far away."""
    ratio = torch.tensor([1.0, 1.0, 1e4, -1e4, 1e4, -1e4], requires_grad=True)
    desirable = torch.tensor([True, False, True, True, False, False])
    found = kto(ratio, desirable, 1.0, section("kto"))
    assert found.tolist() == pytest.approx([0.5, 0.5, 0.0, 1.0, 1.0, 0.0])
    found.sum().backward()
    assert ratio.grad.isfinite().all()


def test_conditional_by_hand() -> None:
    """beta (2 - 1) = 0.5 and beta (-1 - 3) = -2: chosen rises with the picture and falls with the spoilt one."""
    chosen, spoilt = (torch.tensor(x, requires_grad=True) for x in ([2.0, -1.0], [1.0, 3.0]))
    found = conditional(chosen, spoilt, section())
    assert found.tolist() == pytest.approx([nls(0.5), nls(-2.0)], rel=1e-5)
    found.sum().backward()
    assert (chosen.grad < 0).all()
    assert (spoilt.grad > 0).all()


def test_anchor_by_hand() -> None:
    """delta 0 and 0.75: beta r_w - delta is 1 and -0.5, then 0.25 and -1.25."""
    chosen = torch.tensor([2.0, -1.0], requires_grad=True)
    assert anchor(chosen, 0.0, section()).tolist() == pytest.approx([nls(1.0), nls(-0.5)], rel=1e-5)
    found = anchor(chosen, 0.75, section())
    assert found.tolist() == pytest.approx([nls(0.25), nls(-1.25)], rel=1e-5)
    found.sum().backward()
    assert (chosen.grad < 0).all()


@pytest.mark.parametrize("term", [lambda x: conditional(x, -x, section()), lambda x: anchor(x, 0.0, section())])
def test_picture_terms_far_out(term: Any) -> None:
    chosen = torch.tensor([1e4, -1e4], requires_grad=True)
    found = term(chosen)
    found.sum().backward()
    assert found.isfinite().all()
    assert chosen.grad.isfinite().all()


# --- log(1 - exp(x)) -----------------------------------------------------------------------------------------------------


def exact_log1mexp(x: float) -> float:
    """With 60 digits."""
    with localcontext() as context:
        context.prec = 60
        return float((1 - Decimal(x).exp()).ln())


@given(exponent=st.floats(-6.9, 1.95))
def test_log1mexp_against_sixty_digits(exponent: float) -> None:
    """x from -1e-7 to -87, below which exp(x) is no normal float32 any more. Worst of 20,000: 6.4e-7 of the value."""
    x = torch.tensor([-(10.0**exponent)])
    assert log1mexp(x).item() == pytest.approx(exact_log1mexp(x.item()), rel=1e-6)


@pytest.mark.parametrize("x", [-0.6931472, -0.69314724, -0.6931471, -0.6931475, -0.5, -1.0])
def test_log1mexp_where_its_formulas_meet(x: float) -> None:
    given_ = torch.tensor([x])
    assert log1mexp(given_).item() == pytest.approx(exact_log1mexp(given_.item()), rel=1e-6)


@pytest.mark.parametrize("x", [0.0, -1e-12, -1e-8, -1e-7, -1.2e-7, -1e-6, -20.0, -100.0, -1e4, -1e30])
def test_log1mexp_is_finite_with_its_gradient(x: float) -> None:
    """d/dx = -exp(x) / (1 - exp(x)) = 1 / (1 - exp(-x)), 0 where x is taken for -1e-7."""
    given_ = torch.tensor([x], requires_grad=True)
    found = log1mexp(given_)
    found.backward()
    assert found.isfinite().all()
    assert given_.grad.isfinite().all()
    if -50 < x <= -1.2e-7:
        assert given_.grad.item() == pytest.approx(-1 / math.expm1(-given_.item()), rel=1e-4)
