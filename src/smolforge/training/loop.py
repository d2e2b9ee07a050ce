"""The training loop: the algorithm on one screen. It knows no objective by name."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from smolforge.objectives import Sums
from smolforge.recipe import Recipe
from smolforge.training.chores import (
    evaluate,
    finish,
    is_finished,
    is_over,
    log,
    look,
    over_all,
    penalize,
    refuse_not_finite,
    save,
    save_due,
    start,
    stop_signals,
    tell_gradients,
    thaw,
    update,
)
from smolforge.training.optim import schedule
from smolforge.training.runtime import Runtime
from smolforge.training.setup import set_up
from smolforge.training.tracking import Tracking


def train(recipe: Recipe) -> Path:
    """Run a recipe, or go on with it; returns the run's folder.

    Raises:
        UserError: what stopped it; the last checkpoint stays.
    """
    runtime = Runtime(recipe.run)
    run = set_up(recipe, runtime)
    state, model, objective, optimizer = run.progress, run.model, run.objective, run.optimizer
    if is_finished(run):
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
            for row in step.rows:
                row = run.fixed.add(row.to(runtime.device), compare=objective.needs_reference)
                output = objective.loss(model(row), row, shared)
                loss = output.loss(counts)
                refuse_not_finite(loss, row)
                if loss.requires_grad:  # a text with a frozen decoder teaches nothing
                    loss.backward()
                sums.add(output, loss)
            if examples:
                penalize(run, runtime)
            runtime.sum_gradients(optimizer.gradients().values())
            tell_gradients(run, step, runtime, tracking)
            factor = schedule(recipe.optim, state.step, run.steps)
            norm = update(run, factor) if examples else 0.0  # nothing usable in this step: nothing is learnt
            means = sums.means(counts, runtime.sum)
            state.step += 1
            for tally in runtime.gather(step.tally):
                state.tally.add(tally)
            took = time.monotonic() - clock
            state.seconds += took
            log(run, runtime, tracking, means, examples=examples / took, tokens=tokens / took, norm=norm, factor=factor)
            evaluate(run, runtime, tracking)
            done = runtime.agree(bool(stop)) or is_over(run)
            if done or save_due(run):
                save(run, runtime)
            if done:
                break
            clock = time.monotonic()
        finish(run, runtime, tracking)
    return run.folder
