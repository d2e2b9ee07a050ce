"""What one step needs besides the algorithm: agreeing on counts, equal passes, gradients, thawing, the update. Called by
`loop.train`, in its order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from smolforge.data.batch import PackedBatch
from smolforge.data.pipeline import Step
from smolforge.errors import TrainingError
from smolforge.model.freeze import apply_freeze, thaws
from smolforge.objectives import Counts, Objective, Shared, total_counts
from smolforge.training.neftune import with_noise
from smolforge.training.runtime import Runtime
from smolforge.training.setup import Setup
from smolforge.training.tracking import Tracking


def over_all(objective: Objective, step: Step, runtime: Runtime) -> tuple[Counts, float, float]:
    """(counts of the objective's units, examples, tokens) of a step over all processes.

    Raises:
        TrainingError: they see different data.
    """
    if len(set(runtime.gather(step.plan))) > 1:
        raise TrainingError(
            "the processes see different data, and would learn some examples twice and others never",
            where="data",
            mend="give all of them the same files, whole: a shared disk, or equal copies",
        )
    counts = total_counts(objective, step.rows)
    *totals, examples, tokens = runtime.sum([*counts.values(), step.tally.examples, step.tally.tokens])
    return dict(zip(counts, totals)), examples, tokens


@torch.no_grad()
def look(run: Setup, rows: Sequence[PackedBatch], runtime: Runtime) -> Shared:
    """What an objective must know of the whole step before its losses (KTO's KL); nothing for most."""
    objective = run.objective
    if objective.look is None:
        return {}
    run.model.eval()
    sums: Counts = dict.fromkeys(objective.looked, 0.0)
    with run.whole():
        for row in rows:
            row = run.fixed.add(row.to(runtime.device), compare=True)
            for name, value in objective.look(run.model(row), row).items():
                sums[name] += value
    return objective.share(dict(zip(sums, runtime.sum([*sums.values()]))))


def level(run: Setup, rows: Sequence[PackedBatch], runtime: Runtime) -> Iterator[PackedBatch]:
    """A step's rows on the device, with all that stays the same, and with noise where the recipe wants some; where weights are
    sharded, filled up with blanks until every process has as many."""
    compare = run.objective.needs_reference
    add = partial(run.fixed.add, compare=compare)
    if run.sharding:
        ready = run.sharding.level(rows, add, ahead=compare or run.objective.own_words, compared=compare)
    else:
        ready = (add(row.to(runtime.device)) for row in rows)
    alpha, width = run.recipe.model.neftune, run.model.decoder.config.hidden_size
    if alpha is None:
        return ready
    return (with_noise(row, alpha, width=width, seed=run.recipe.run.seed) for row in ready)  # references are there, without it


def sum_gradients(run: Setup, runtime: Runtime) -> None:
    """Over all processes; of sharded weights the backward passes have summed them."""
    gradients = run.optimizer.gradients()
    if not run.sharding:
        runtime.sum_gradients(gradients.values())


def refuse_not_finite(loss: torch.Tensor, row: PackedBatch) -> None:
    """A loss that is not finite ends the run before it spoils the weights."""
    if not torch.isfinite(loss.detach()):
        raise TrainingError(
            f"the loss is {float(loss.detach())}",
            where=", ".join(row.ids),
            mend="look at these rows, or lower optim.lr",
        )


def tell_gradients(run: Setup, step: Step, runtime: Runtime, tracking: Tracking) -> None:
    """After the first step, and the first with pictures: which components received gradient. One that should train and
    did not ends the run."""
    state = run.progress
    if state.pictures_checked:
        return
    pictures = runtime.agree(any(len(row.run_tiles) for row in step.rows))
    if state.step and not pictures:
        return
    state.pictures_checked = pictures
    norms = run.optimizer.gradient_norms()
    tracking.say("gradient norms: " + ", ".join(f"{part} {norm:.3g}" for part, norm in norms.items()))
    some = runtime.agree(bool(step.rows))  # norms are over all processes, and so is what to think of them
    silent = [part for part, norm in norms.items() if norm == 0 and (pictures or (part == "decoder" and some))]
    if silent:
        raise TrainingError(
            f"{' and '.join(silent)} should train and received no gradient", mend="freeze it, or look at the data"
        )


def thaw(run: Setup, tracking: Tracking) -> None:
    """Let components train from this step on, where the recipe says so."""
    section, step = run.recipe.freeze, run.progress.step
    if parts := thaws(section, step):
        apply_freeze(run.model.model, section, step=step)
        if run.sharding:
            run.sharding.refresh()
        run.optimizer.extend(run.model.whole)
        run.progress.pictures_checked = False
        tracking.say(f"step {step}: {' and '.join(parts)} {'trains' if len(parts) == 1 else 'train'} from here on")


def penalize(run: Setup, runtime: Runtime) -> None:
    """Add the gradient of what the adapters' method penalises (AdaLoRA), once a step: on the first process, for gradients are
    summed."""
    penalty = run.model.adapters[0].penalty() if run.model.adapters and runtime.is_main else None
    if penalty is not None:
        penalty.backward()


def update(run: Setup, factor: float) -> float:
    """One step of the optimiser, and what the adapters' method does after it. Returns the gradient's norm."""
    norm = run.optimizer.step(factor)
    for adapters in run.model.adapters:
        run.optimizer.take_over(adapters.after_step(run.progress.step, run.optimizer.gradients()))
    run.optimizer.forget()
    return norm
