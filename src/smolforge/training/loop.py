"""The training loop: the algorithm on one screen. It knows no objective by name."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

import torch

from smolforge.objectives import Sums
from smolforge.recipe import Recipe
from smolforge.training.chores import (
    evaluate,
    finish,
    held,
    is_finished,
    is_over,
    log,
    save,
    save_due,
    start,
    stop_signals,
)
from smolforge.training.optim import schedule
from smolforge.training.runtime import Runtime
from smolforge.training.setup import set_up
from smolforge.training.stepping import (
    level,
    look,
    over_all,
    penalize,
    refuse_not_finite,
    sum_gradients,
    tell_gradients,
    thaw,
    update,
)
from smolforge.training.tracking import Tracking


def train(recipe: Recipe, *, beside: Collection[str] = ()) -> Path:
    """Run a recipe, or go on with it; returns the run's folder.

    Args:
        beside: names that the caller keeps in that folder; all else that a run did not write there is refused.

    Raises:
        UserError: what stopped it; the last checkpoint stays.
    """
    runtime = Runtime(recipe.run)
    with held(recipe, runtime, beside):
        return _train(recipe, runtime)


def _train(recipe: Recipe, runtime: Runtime) -> Path:
    run = set_up(recipe, runtime)
    state, model, objective = run.progress, run.model, run.objective
    if is_finished(run, runtime):
        return run.folder
    tracking = Tracking(run.folder, steps=run.steps, first=state.step, speak=runtime.is_main)
    with tracking, stop_signals() as stop:
        start(run, runtime, tracking)
        first = run.steps if state.ended else state.step
        share = {"rank": runtime.rank, "world": runtime.world, "workers": recipe.run.workers}
        clock = time.monotonic()
        for step in run.stream.steps(first, run.steps, recipe.batch.examples, **share):
            thaw(run, tracking)
            torch.manual_seed(hash((recipe.run.seed, state.step)))  # dropout is a function of (seed, step)
            counts, examples, tokens = over_all(objective, step, runtime)
            shared = look(run, step.rows, runtime)
            model.train()
            sums = Sums(objective, compared=objective.needs_reference)
            for row in level(run, step.rows, runtime):
                output = objective.loss(model(row), row, shared)
                loss = output.loss(counts)
                refuse_not_finite(loss, row)
                if loss.requires_grad:  # a text with a frozen decoder teaches nothing
                    loss.backward()
                sums.add(output, loss)
            if examples:
                penalize(run, runtime)
            sum_gradients(run, runtime)
            tell_gradients(run, step, runtime, tracking)
            factor = schedule(recipe.optim, state.step, run.steps)
            norm = update(run, factor) if examples else 0.0  # nothing usable in this step: nothing is learnt
            means = sums.means(counts, runtime.sum)
            state.step += 1
            for tally in runtime.gather(step.tally):
                state.tally.add(tally)
            took = time.monotonic() - clock
            state.seconds += took
            pace = {"examples/s": examples / took, "tokens/s": tokens / took, "waiting": step.waited / took}
            log(run, runtime, tracking, means, pace=pace, norm=norm, factor=factor)
            evaluate(run, runtime, tracking)
            done = runtime.agree(bool(stop)) or is_over(run)
            if done or save_due(run):
                save(run, runtime)
            if done:
                break
            clock = time.monotonic()
        finish(run, runtime, tracking)
    return run.folder
