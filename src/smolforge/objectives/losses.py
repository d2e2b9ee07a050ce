"""Losses of preference pairs: pure functions, each with its paper and equation.

Legend: w the chosen and l the rejected answer, pi the policy, ref the reference, s(x) = 1 / (1 + exp(-x)).

    r_w = log pi(w) - log ref(w), r_l likewise         `chosen`, `rejected`: (P,) log-ratios in nats
    D   = r_w - r_l                                    `delta`
    N   = the weights' sum, tokens for plain losses    `chosen_size`, `rejected_size`

Log-probs are sums over an answer's tokens, each by its weight; "a token" is such a sum over N.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from smolforge.recipe import PreferenceSection

DISCOPOP_TAU = 0.05


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """P pairs, scored. All (P,) float32."""

    policy_chosen: torch.Tensor
    policy_rejected: torch.Tensor
    chosen: torch.Tensor  # r_w
    rejected: torch.Tensor  # r_l
    chosen_size: torch.Tensor  # N_w
    rejected_size: torch.Tensor  # N_l

    @property
    def delta(self) -> torch.Tensor:
        return self.chosen - self.rejected


def sigmoid(p: Pairs, s: PreferenceSection) -> torch.Tensor:
    """DPO, Rafailov et al. 2023 (arXiv 2305.18290), eq. 7: -log s(beta D)."""
    return -logsigmoid(s.beta * p.delta)


def cdpo(p: Pairs, s: PreferenceSection) -> torch.Tensor:
    """Conservative DPO, Mitchell 2023, eq. 3: labels are flipped with probability e.

    -(1 - e) log s(beta D) - e log s(-beta D)
    """
    e = s.label_smoothing
    return -(1 - e) * logsigmoid(s.beta * p.delta) - e * logsigmoid(-s.beta * p.delta)


def robust(p: Pairs, s: PreferenceSection) -> torch.Tensor:
    """Robust DPO, Chowdhury et al. 2024 (arXiv 2403.00409), eq. 12: unbiased under flips with probability e.

    [-(1 - e) log s(beta D) + e log s(-beta D)] / (1 - 2e)
    """
    e = s.label_smoothing
    return (-(1 - e) * logsigmoid(s.beta * p.delta) + e * logsigmoid(-s.beta * p.delta)) / (1 - 2 * e)


def hinge(p: Pairs, s: PreferenceSection) -> torch.Tensor:
    """SLiC-HF's hinge on DPO's margin, Zhao et al. 2023 (arXiv 2305.10425): max(0, 1 - beta D)."""
    return torch.relu(1 - s.beta * p.delta)


def ipo(p: Pairs, s: PreferenceSection) -> torch.Tensor:
    """IPO, Azar et al. 2023 (arXiv 2310.12036), eq. 17, log-ratios a token, as its authors confirmed:

    (r_w / N_w - r_l / N_l - 1 / (2 beta))^2
    """
    return (p.chosen / p.chosen_size - p.rejected / p.rejected_size - 1 / (2 * s.beta)) ** 2


def sigmoid_norm(p: Pairs, s: PreferenceSection) -> torch.Tensor:
    """Length-normalised DPO (Tulu 3, arXiv 2411.15124, eq. 6): -log s(beta (r_w / N_w - r_l / N_l))."""
    return -logsigmoid(s.beta * (p.chosen / p.chosen_size - p.rejected / p.rejected_size))


def apo_zero(p: Pairs, s: PreferenceSection) -> torch.Tensor:
    """APO-zero, D'Oosterlinck et al. 2024 (arXiv 2408.06266), eq. 7: chosen up, rejected down.

    1 - s(beta r_w) + s(beta r_l)
    """
    return 1 - torch.sigmoid(s.beta * p.chosen) + torch.sigmoid(s.beta * p.rejected)


def apo_down(p: Pairs, s: PreferenceSection) -> torch.Tensor:
    """APO-down, the same paper, eq. 8: both down, rejected more.

    s(beta r_w) + 1 - s(beta D)
    """
    return torch.sigmoid(s.beta * p.chosen) + 1 - torch.sigmoid(s.beta * p.delta)


def simpo(p: Pairs, s: PreferenceSection) -> torch.Tensor:
    """SimPO, Meng et al. 2024 (arXiv 2405.14734), eq. 6, without a reference:

    -log s(beta log pi(w) / N_w - beta log pi(l) / N_l - margin)
    """
    return -logsigmoid(s.beta * (p.policy_chosen / p.chosen_size - p.policy_rejected / p.rejected_size) - s.margin)


def orpo(p: Pairs, s: PreferenceSection) -> torch.Tensor:
    """ORPO, Hong et al. 2024 (arXiv 2403.07691), eq. 6 and 7, without a reference; q is the likelihood a token:

    -log q(w) - beta log s(log [q(w) / (1 - q(w))] - log [q(l) / (1 - q(l))])
    """
    w, l = p.policy_chosen / p.chosen_size, p.policy_rejected / p.rejected_size  # noqa: E741
    odds = (w - log1mexp(w)) - (l - log1mexp(l))
    return -w - s.beta * logsigmoid(odds)


def bco_pair(p: Pairs, s: PreferenceSection) -> torch.Tensor:
    """BCO on pairs, Jung et al. 2024 (arXiv 2404.04656), eq. 9 with a shift of 0: -log s(beta r_w) - log s(-beta r_l)."""
    return -logsigmoid(s.beta * p.chosen) - logsigmoid(-s.beta * p.rejected)


def exo_pair(p: Pairs, s: PreferenceSection) -> torch.Tensor:
    """EXO on pairs, Ji et al. 2024 (arXiv 2402.00856), eq. 16: KL(q || (1 - e, e)) with q = (s(beta D), s(-beta D))."""
    e = torch.tensor(s.label_smoothing)
    log_w, log_l = logsigmoid(s.beta * p.delta), logsigmoid(-s.beta * p.delta)
    return log_w.exp() * (log_w - torch.log1p(-e)) + log_l.exp() * (log_l - torch.log(e))


def nca_pair(p: Pairs, s: PreferenceSection) -> torch.Tensor:
    """NCA on pairs, Chen et al. 2024 (arXiv 2402.05369): -log s(beta r_w) - [log s(-beta r_w) + log s(-beta r_l)] / 2."""
    w, l = s.beta * p.chosen, s.beta * p.rejected  # noqa: E741
    return -logsigmoid(w) - 0.5 * logsigmoid(-w) - 0.5 * logsigmoid(-l)


def sppo_hard(p: Pairs, s: PreferenceSection) -> torch.Tensor:
    """SPPO with hard labels, Wu et al. 2024 (arXiv 2405.00675), eq. 4.7: (r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2."""
    return (p.chosen - 0.5 / s.beta) ** 2 + (p.rejected + 0.5 / s.beta) ** 2


def discopop(p: Pairs, s: PreferenceSection) -> torch.Tensor:
    """DiscoPOP, Lu et al. 2024 (arXiv 2406.08414), eq. 5: logistic and exponential loss of x = beta D, mixed by s(x / tau)."""
    x = s.beta * p.delta
    share = torch.sigmoid(x / DISCOPOP_TAU)
    return -logsigmoid(x) * (1 - share) + torch.exp(logsigmoid(x / DISCOPOP_TAU) - x)  # share * exp(-x), which overflows apart


PAIR_LOSSES: dict[str, Callable[[Pairs, PreferenceSection], torch.Tensor]] = {
    "sigmoid": sigmoid, "cdpo": cdpo, "robust": robust, "hinge": hinge, "ipo": ipo, "sigmoid_norm": sigmoid_norm,
    "apo_zero": apo_zero, "apo_down": apo_down, "simpo": simpo, "orpo": orpo, "bco_pair": bco_pair, "exo_pair": exo_pair,
    "nca_pair": nca_pair, "sppo_hard": sppo_hard, "discopop": discopop,
}  # fmt: skip


def kto(ratio: torch.Tensor, desirable: torch.Tensor, kl: float, s: PreferenceSection) -> torch.Tensor:
    """KTO, Ethayarajh et al. 2024 (arXiv 2402.01306), eq. 8, of single answers:

    lambda_D (1 - s(beta (r - z))) for desirable ones, lambda_U (1 - s(beta (z - r))) for the others

    Args:
        ratio: (R,) log-ratios r.
        desirable: (R,) bool.
        kl: z, the mean log-ratio of other prompts' answers, at least 0; no gradient flows through it.
    """
    gain = torch.where(desirable, ratio - kl, kl - ratio)
    weight = torch.where(desirable, s.desirable, s.undesirable)
    return weight * (1 - torch.sigmoid(s.beta * gain))


def conditional(chosen: torch.Tensor, spoilt: torch.Tensor, s: PreferenceSection) -> torch.Tensor:
    """mDPO's image-conditional term, Wang et al. 2024 (arXiv 2406.11839), eq. 4, and POVID's second stage with its own words:

    -log s(beta (r_w(m) - r(m'))) with m the picture and m' the spoilt one
    """
    return -logsigmoid(s.beta * (chosen - spoilt))


def anchor(chosen: torch.Tensor, delta: float, s: PreferenceSection) -> torch.Tensor:
    """mDPO's anchor, the same paper, eq. 5: -log s(beta r_w - delta), so that the chosen answer gets likelier. Its released code
    has beta (r_w - delta); at the default delta of 0 they are the same."""
    return -logsigmoid(s.beta * chosen - delta)


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0, exact at both ends (Maechler 2012)."""
    x = x.clamp(max=-1e-7)  # a probability of 1 has no odds
    return torch.where(x > -0.6931472, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
