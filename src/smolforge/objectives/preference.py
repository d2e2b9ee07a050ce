"""Preference optimisation: what every loss of `losses.py` shares. Chosen and rejected are branches of one prompt.

A row's scored tokens become sums of its responses, responses become pairs, pairs become losses. With a spoilt picture
the example has a second root:

    node 0   <picture> Describe it.        node 3   <spoilt picture> Describe it.
    node 1   chosen (parent 0)             node 4   chosen (mDPO: less likely here than in node 1) or the
    node 2   rejected (parent 0)                    model's own words (POVID: rejected)

Legend: K scored tokens, R responses, P pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch

from smolforge.data.batch import PackedBatch, ResponseRef
from smolforge.data.pipeline import Shaping
from smolforge.errors import DataError, TrainingError
from smolforge.objectives import Counts, LossOutput, Objective, Shared
from smolforge.objectives.comparison import Comparison
from smolforge.objectives.dense import weigh
from smolforge.objectives.losses import PAIR_LOSSES, Pairs, anchor, conditional, kto
from smolforge.recipe import CropSection, NoiseSection, PreferenceSection
from smolforge.records import Distortion, Record, Response

UNITS = ("responses", "chosen", "rejected", "pairs", "tokens", "chosen tokens")
METRICS = {
    "rewards/chosen": "chosen", "rewards/rejected": "rejected", "rewards/margins": "pairs",
    "accuracy/sum": "pairs", "accuracy/token": "pairs", "accuracy/reward": "pairs", "ties/reward": "pairs",
    "logps/chosen": "chosen", "logps/rejected": "rejected", "drift/chosen": "chosen", "drift/rejected": "rejected",
    "kl": "chosen tokens", "length/chosen": "chosen", "length/rejected": "rejected",
}  # fmt: skip
COMPARED = ("rewards/", "accuracy/reward", "ties/", "drift/", "kl")  # need a reference


def preference(section: PreferenceSection) -> Objective:
    """DPO and its relatives, as the recipe says."""
    single = "kto" in section.losses
    spoilt = {"rewards/spoilt": "pairs"} if section.picture else {}
    return Objective(
        shaping=Shaping(
            kinds=frozenset({"chosen", "rejected"}),
            use=partial(use, section=section),
            **({"weigh": partial(weigh, section=section.dense)} if section.dense else {}),  # goes to other processes: no lambda
            others=single,
            pairs=True,
            mend="dpo needs rows with chosen and rejected; bring such rows, or set objective.kind: sft",
        ),
        units=UNITS,
        counts=counts,
        metrics=METRICS | spoilt,
        compared=frozenset(name for name in METRICS | spoilt if name.startswith(COMPARED)),
        loss=partial(loss, section=section),
        needs_reference=section.needs_reference,
        own_words=isinstance(section.picture, NoiseSection),
        compare=compare,
        look=look if single else None,
        looked=("kl", "others") if single else (),
        share=share if single else lambda sums: {},
    )


def use(record: Record, *, section: PreferenceSection) -> Record:
    """The record with the responses under spoilt pictures that the loss asks for.

    Raises:
        DataError: not a pair, where the loss is one of pairs.
    """
    kinds = {response.kind for response in record.responses}
    if "kto" not in section.losses:
        for missing in ("rejected", "chosen"):
            if missing not in kinds:
                raise DataError(f"a pair without {missing}", where=record.name, mend=f"add a {missing} answer, or remove the row")
        texts = ({r.text for r in record.responses if r.kind == kind} for kind in ("chosen", "rejected"))
        if set.intersection(*texts):
            raise DataError("chosen and rejected are identical", where=record.name, mend="remove the row")
    if section.picture is None:
        return record
    added = [
        Response(
            text=response.text,
            spans=response.spans if isinstance(section.picture, CropSection) else (),
            kind="chosen" if isinstance(section.picture, CropSection) else "rejected",
            distortion=_distortion(section.picture),
        )
        for response in record.responses
        if response.kind == "chosen"
    ]
    return replace(record, responses=(*record.responses, *added))


def _distortion(section: CropSection | NoiseSection) -> Distortion:
    if isinstance(section, CropSection):
        return Distortion(kind="crop", scale=section.scale)
    return Distortion(kind="noise", step=section.step)


def counts(row: PackedBatch) -> Counts:
    """Answers, pairs and tokens of a row. "tokens" are the chosen answers', by their weights; "chosen tokens" without."""
    places = Places(row.responses)
    ids = row.response_ids.cpu()
    chosen = torch.isin(ids, torch.tensor(places.chosen))
    return {
        "responses": float(len(places.chosen) + len(places.rejected)),
        "chosen": float(len(places.chosen)),
        "rejected": float(len(places.rejected)),
        "pairs": float(len(places.pairs)),
        "tokens": float(row.weights.cpu()[chosen].sum()),
        "chosen tokens": float(chosen.sum()),
    }


def loss(log_probs: torch.Tensor, row: PackedBatch, shared: Shared, *, section: PreferenceSection) -> LossOutput:
    """Sum of the recipe's losses over a row's pairs (KTO: its answers), and the metrics of `METRICS`.

    Args:
        log_probs: (K,) float32, of the policy; the reference's are in `row.reference`.
        shared: KTO's "kl".
    """
    places, scores = Places(row.responses), Scores.of(log_probs, row)
    terms: dict[str, torch.Tensor] = {}
    ratios = scores.policy - scores.reference  # (R,)
    pairs = _pairs(places, scores)
    total = log_probs.new_zeros(())
    for name, weight in section.losses.items():
        if name == "nll":  # RPO, Pang et al. 2024 (arXiv 2404.19733), and MPO's generation term: -log pi(w), a token
            terms["tokens"] = -weight * scores.policy[places.chosen].sum()
        elif name == "kto":
            answers = [*places.chosen, *places.rejected]
            desirable = torch.arange(len(answers), device=ratios.device) < len(places.chosen)
            terms["responses"] = weight * kto(ratios[answers], desirable, shared.get("kl", 0.0), section).sum()
        else:
            total = total + weight * PAIR_LOSSES[name](pairs, section).sum()
    if section.picture is not None:
        total = _with_picture(total, pairs, places, ratios, section)
    if section.losses.keys() - {"nll", "kto"} or section.picture is not None:
        terms["pairs"] = total
    return LossOutput(terms=terms, metrics=_metrics(log_probs.detach(), row, places, section))


def _with_picture(
    total: torch.Tensor, pairs: Pairs, places: Places, ratios: torch.Tensor, section: PreferenceSection
) -> torch.Tensor:
    against = ratios[[places.spoilt_of(c) for c, _ in places.pairs]]  # (P,)
    term = conditional(pairs.chosen, against, section).sum()
    if isinstance(section.picture, NoiseSection):  # POVID: 0.5 of each
        return (1 - section.picture.weight) * total + section.picture.weight * term
    assert section.picture is not None
    total = total + section.picture.weight * term
    if section.picture.anchor is not None:
        total = total + anchor(pairs.chosen, section.picture.anchor, section).sum()
    return total


def look(log_probs: torch.Tensor, row: PackedBatch) -> Counts:
    """KTO's estimate of KL(policy || reference): log-ratios of answers that belong to other prompts, summed."""
    scores = Scores.of(log_probs, row)
    others = [number for number, response in enumerate(row.responses) if response.kind == "other"]
    return {"kl": float((scores.policy - scores.reference)[others].sum()), "others": float(len(others))}


def share(sums: Counts) -> Shared:
    """KTO's z: the mean log-ratio, at least 0. Raises TrainingError when it is not finite."""
    kl = sums["kl"] / (sums["others"] or 1)
    if not math.isfinite(kl):
        raise TrainingError(f"the distance to the reference is {kl}", mend="lower optim.lr, or look at the data")
    return {"kl": max(0.0, kl)}


def compare(log_probs: torch.Tensor, row: PackedBatch) -> list[Comparison]:
    """Every pair of a row, scored without weights."""
    scores = Scores.of(log_probs.detach(), row, weighted=False)
    policy, reference, sizes = (x.tolist() for x in (scores.policy, scores.reference, scores.sizes))
    known = row.reference is not None
    return [
        Comparison(
            id=row.responses[c].id, source=row.responses[c].source, chosen=policy[c], rejected=policy[r],
            chosen_tokens=int(sizes[c]), rejected_tokens=int(sizes[r]),
            chosen_reference=reference[c] if known else None, rejected_reference=reference[r] if known else None,
        )
        for c, r in Places(row.responses).pairs
    ]  # fmt: skip


def _metrics(log_probs: torch.Tensor, row: PackedBatch, places: Places, section: PreferenceSection) -> dict[str, torch.Tensor]:
    """Unweighted, so that they can be compared between runs."""
    scores = Scores.of(log_probs, row, weighted=False)
    c, r = ([pair[side] for pair in places.pairs] for side in (0, 1))
    ratios, tokens = scores.policy - scores.reference, scores.policy / scores.sizes
    rewards = section.beta * ratios
    found = {
        "accuracy/sum": (scores.policy[c] > scores.policy[r]).sum(),
        "accuracy/token": (tokens[c] > tokens[r]).sum(),
        "logps/chosen": scores.policy[places.chosen].sum(),
        "logps/rejected": scores.policy[places.rejected].sum(),
        "length/chosen": scores.sizes[places.chosen].sum(),
        "length/rejected": scores.sizes[places.rejected].sum(),
    }
    if row.reference is None:
        return found
    chosen = torch.isin(row.response_ids, torch.tensor(places.chosen, device=row.response_ids.device))
    ratio = (log_probs - row.reference)[chosen]
    spoilt = {"rewards/spoilt": rewards[[places.spoilt_of(n) for n in c]].sum()} if section.picture else {}
    return found | spoilt | {
        "accuracy/reward": (rewards[c] > rewards[r]).sum(),
        "ties/reward": (rewards[c] == rewards[r]).sum(),
        "rewards/chosen": rewards[places.chosen].sum(),
        "rewards/rejected": rewards[places.rejected].sum(),
        "rewards/margins": (rewards[c] - rewards[r]).sum(),
        "drift/chosen": (ratios / scores.sizes)[places.chosen].sum(),
        "drift/rejected": (ratios / scores.sizes)[places.rejected].sum(),
        # Schulman's k2: k3 has exp(log ref - log pi), which explodes on answers that the policy would not give
        "kl": 0.5 * ratio.square().sum(),
    }  # fmt: skip


# --- from tokens to pairs --------------------------------------------------------------------------------------------


class Places:
    """Which of a row's responses are chosen, rejected, paired and spoilt."""

    def __init__(self, responses: tuple[ResponseRef, ...]) -> None:
        self.responses = responses
        plain = [n for n, response in enumerate(responses) if not response.distorted]
        self.chosen = [n for n in plain if responses[n].kind == "chosen"]
        self.rejected = [n for n in plain if responses[n].kind == "rejected"]
        rejected: dict[int, list[int]] = {}
        for r in self.rejected:
            rejected.setdefault(responses[r].example, []).append(r)
        self.pairs = [(c, r) for c in self.chosen for r in rejected.get(responses[c].example, ())]
        self._spoilt: dict[int, list[int]] = {}
        for n, response in enumerate(responses):
            if response.distorted:
                self._spoilt.setdefault(response.example, []).append(n)

    def spoilt_of(self, chosen: int) -> int:
        """The response under a spoilt picture that belongs to a chosen one: theirs is the same order."""
        example = self.responses[chosen].example
        place = [c for c in self.chosen if self.responses[c].example == example].index(chosen)
        return self._spoilt[example][place]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Sums over each response's tokens, (R,) each."""

    policy: torch.Tensor  # log pi
    reference: torch.Tensor  # log ref; zeros without a reference
    sizes: torch.Tensor  # weights, which is tokens when nothing is weighted

    @staticmethod
    def of(log_probs: torch.Tensor, row: PackedBatch, *, weighted: bool = True) -> Scores:
        weights = row.weights if weighted else torch.ones_like(row.weights)  # (K,)
        zeros = log_probs.new_zeros(len(row.responses))
        reference = zeros if row.reference is None else zeros.index_add(0, row.response_ids, weights * row.reference)
        return Scores(
            policy=zeros.index_add(0, row.response_ids, weights * log_probs),
            reference=reference,
            sizes=zeros.index_add(0, row.response_ids, weights),
        )


def _pairs(places: Places, scores: Scores) -> Pairs:
    c, r = ([pair[side] for pair in places.pairs] for side in (0, 1))
    ratios = scores.policy - scores.reference
    return Pairs(
        policy_chosen=scores.policy[c], policy_rejected=scores.policy[r], chosen=ratios[c], rejected=ratios[r],
        chosen_size=scores.sizes[c], rejected_size=scores.sizes[r],
    )  # fmt: skip
