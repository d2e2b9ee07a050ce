"""Preference accuracy of a model on pairs: by summed log-prob, by log-prob a token, and by implicit reward where there is a
reference (the model without its adapters, or another model)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from smolforge.data.pipeline import open_stream
from smolforge.data.tally import Tally
from smolforge.errors import DataError, ModelError
from smolforge.evals.measures import Measure, Sums, ratio, scores
from smolforge.evals.results import Prediction, Task, measure_facts, write_task
from smolforge.loading import Loaded, same_tokenizer
from smolforge.objectives import objective_of
from smolforge.objectives.comparison import MEASURES, Comparison
from smolforge.objectives.reference import Reference, frozen, without_adapters
from smolforge.recipe import DataSection, PreferenceSection

CHUNK = 32  # pairs scored at a time
PROTOCOL = "log-probs"  # nothing is asked; stands where other tasks name their prompts

PREFERENCE: dict[str, Measure] = {
    "log-prob": Measure(about="pairs whose chosen answer has the higher summed log-prob", of=ratio("ahead sum", "pairs")),
    "log-prob a token": Measure(about="pairs whose chosen answer has it a token", of=ratio("ahead token", "pairs")),
    "implicit reward": Measure(
        about="pairs whose chosen answer gained more over the reference; this one flatters",
        of=ratio("ahead reward", "rewarded"),
        needs="rewarded",
    ),
    "ties": Measure(about="pairs with neither ahead, by log-prob a token", of=ratio("ties", "pairs"), better=""),
    "margin": Measure(about="nats a token by which chosen is ahead", of=ratio("margin token", "pairs"), percent=False),
    "chosen length": Measure(about="tokens of chosen answers", of=ratio("chosen tokens", "pairs"), better="", percent=False),
    "rejected length": Measure(about="tokens of rejected ones", of=ratio("rejected tokens", "pairs"), better="", percent=False),
}


@dataclass(frozen=True, kw_only=True)
class PreferenceResult:
    """Pairs of all sources, scored, and what happened to the others."""

    comparisons: list[Comparison]
    tally: Tally
    notes: list[str]  # what cleaning found


@torch.no_grad()
def preference(
    loaded: Loaded, sections: Iterable[DataSection], *, reference: Loaded | None = None, limit: int | None = None
) -> PreferenceResult:
    """Score every pair of some sources.

    Args:
        reference: what implicit rewards are measured against; without it the model's own base, when it has adapters.
        limit: most pairs of each source.

    Raises:
        DataError: a source cannot be opened, or has no pair that can be used.
        ModelError: the reference has another tokenizer, or the model computes NaN.
    """
    objective = objective_of(PreferenceSection(kind="dpo"))
    assert objective.compare is not None
    against = _reference(loaded, reference)
    result = PreferenceResult(comparisons=[], tally=Tally(), notes=[])
    for section in sections:
        stream = open_stream([section], loaded.renderer, shaping=objective.shaping, seed=0)
        result.notes.extend(line for findings in stream.findings for line in findings.lines())
        number = min(limit or stream.num_rows, stream.num_rows)
        for first in range(0, number, CHUNK):
            step = stream.step(range(first, min(first + CHUNK, number)))
            result.tally.add(step.tally)
            for row in step.rows:
                row = row.to(loaded.device)
                row = replace(row, reference=against(row)) if against else row
                log_probs = loaded.model(row)
                if not log_probs.isfinite().all():
                    mend = "use another checkpoint or dtype"
                    raise ModelError("the model computes no numbers (NaN or infinite)", where=row.ids[0], mend=mend)
                result.comparisons.extend(objective.compare(log_probs, row))
    if not result.comparisons:
        why = result.tally.named[0] if result.tally.named else "there are none"
        raise DataError(f"no pair can be used: {why}")
    return result


def write_preference(
    out: Path, model: Mapping[str, object], result: PreferenceResult, sections: Iterable[DataSection], limit: int | None
) -> Task:
    """Put preference accuracy into a folder of results, as a task like the others."""
    pairs = sorted(result.comparisons, key=lambda one: (one.source, one.id))
    several = len({one.source for one in pairs}) > 1
    predictions = [
        Prediction(
            id=f"{one.source}[{one.id}]" if several else one.id, prompt=f"pair {one.id} of {one.source}", finished=True,
            answer=f"chosen {one.chosen:.2f} nats, rejected {one.rejected:.2f}", facts=vars(one), sums=pair_sums(one),
            tokens=one.chosen_tokens,
            read="chosen" if one.chosen > one.rejected else "rejected",
        )
        for one in pairs
    ]  # fmt: skip
    known = {name for prediction in predictions for name in prediction.sums}
    measures = {name: measure for name, measure in PREFERENCE.items() if not measure.needs or measure.needs in known}
    task = Task(
        name="preference", prompts=PROTOCOL, data=", ".join(f"{s.source} ({s.split})" for s in sections), questions=len(pairs),
        limit=limit, skipped=dict(result.tally.dropped), named=result.tally.named, notes=result.notes,
        scores=scores([prediction.sums for prediction in predictions], measures), measures=measure_facts(measures),
    )  # fmt: skip
    write_task(out, dict(model), task, predictions)
    return task


def pair_sums(pair: Comparison) -> Sums:
    """What a pair adds to the scores."""
    sums = {
        "pairs": 1.0, "margin token": pair.margin("token") or 0.0, "chosen tokens": pair.chosen_tokens,
        "rejected tokens": pair.rejected_tokens,
    }  # fmt: skip
    for measure in MEASURES:
        margin = pair.margin(measure)
        if margin is not None:
            sums[f"ahead {measure}"] = float(margin > 0)
    sums["ties"] = float(pair.margin("token") == 0)
    return sums | ({"rewarded": 1.0} if pair.margin("reward") is not None else {})


def _reference(loaded: Loaded, other: Loaded | None) -> Reference | None:
    if other is None:
        return without_adapters(loaded.model) if loaded.model.adapters else None
    same_tokenizer(loaded.renderer, other.renderer, other.folder)
    return frozen(other.model)
