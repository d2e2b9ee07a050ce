"""What a run does around the algorithm: begin, log, measure, save, end. Called by `loop.train`, in its order."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Any

import yaml

from smolforge.data.pack import left_idle, seen_again
from smolforge.data.pipeline import Stream
from smolforge.files import write_whole
from smolforge.lock import alone
from smolforge.machine import energy, peak_memory, versions
from smolforge.model.adapters import grouped, reached_beyond, stands_beside
from smolforge.model.build import count_parameters, load_model
from smolforge.model.quantize import left_whole
from smolforge.objectives.comparison import Comparison, by_source
from smolforge.objectives.comparison import lines as preference_lines
from smolforge.recipe import COMPONENTS, Recipe
from smolforge.training.checkpoint import load_state, prune, save_checkpoint, save_model, save_shards
from smolforge.training.evaluate import held_out, read_comparisons
from smolforge.training.fixed import announce_features, keep_references
from smolforge.training.place import checkpoint_name, checkpoint_steps, claim, finished_line, is_complete
from smolforge.training.runtime import Runtime
from smolforge.training.samples import mean_answer, show_samples, write_samples
from smolforge.training.setup import Setup
from smolforge.training.tracking import Tracking
from smolforge.wording import how_many

TOGETHER = 2.0  # seconds in which signals are one: a killed launcher's end may be told once for each thread that it had


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM fill the list instead of ending the process; one that comes later than `TOGETHER` ends it."""
    seen: list[int] = []
    first = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not seen:
            first = time.monotonic()
        elif time.monotonic() - first > TOGETHER:
            raise KeyboardInterrupt
        seen.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the caller's program handles its signals
        yield seen
        return
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_over(run: Setup) -> bool:
    """Whether the last step is done, or early stopping has ended the run."""
    return run.progress.ended or run.progress.step >= run.steps


@contextmanager
def held(recipe: Recipe, runtime: Runtime, beside: Collection[str] = ()) -> Iterator[None]:
    """The run's folder, made and held by the first process, where its disk has locks: two runs that write one would spoil it.

    Raises:
        UserError: as `claim`.
        DataError: another run works in it.
    """
    if not runtime.is_main:
        yield
        return
    claim(recipe, beside)
    with alone(recipe.run.dir / ".lock", "run"):
        yield


def is_finished(run: Setup, runtime: Runtime) -> bool:
    """A run that is over and has its summary is left as it is."""
    finished = is_over(run) and is_complete(run.folder, run.progress.step)
    if finished and runtime.is_main:
        print(finished_line(run.folder, run.progress.step, run.steps), file=sys.stderr)
    return finished


def start(run: Setup, runtime: Runtime, tracking: Tracking) -> None:
    """Say what will happen; measure what the run starts from; leave the recipe in the folder."""
    state, recipe = run.progress, run.recipe
    counts = count_parameters(run.model.whole)
    trainable = sum(part for _, part in counts.values())
    parts = ", ".join(f"{part} {trains:,} of {total:,}" for part, (total, trains) in counts.items())
    tracking.say(f"{recipe.model.name} on {runtime.device}: {trainable:,} parameters train ({parts})")
    for line in reached_beyond(run.model.model, recipe.adapters) if recipe.adapters else ():
        tracking.say(line)
    whole = left_whole(run.model.model, recipe.quantize) if recipe.quantize else []
    if recipe.quantize and (whole := [name for name in whole if not stands_beside(f"{name}.")]):
        kinds = ", ".join(f"{count} {name.removesuffix('.base_layer')}" for name, count in grouped(whole).items())
        tracking.say(f"{recipe.quantize.kind} leaves {kinds} as they are: their rows are not whole blocks of 64")
    length = how_many(run.steps, "step")
    for part in COMPONENTS:
        if recipe.freeze.until(part) >= run.steps:
            tracking.say(f"{part} stays frozen: freeze.{part} is {recipe.freeze.until(part)}, and the run has {length}")
    for line in about_data(recipe, run.stream, run.eval_stream, steps=run.steps, devices=runtime.world):
        tracking.say(line)
    if runtime.is_main:
        run.folder.mkdir(parents=True, exist_ok=True)
        settings = recipe.model_dump(mode="json")
        write_whole(run.folder / "recipe.json", json.dumps(settings, indent=1))
        write_whole(run.folder / "recipe.yaml", yaml.safe_dump(settings, sort_keys=False))
    runtime.start_trackers("smolforge", first=state.step)
    tracking.joules = energy(runtime.device)
    if state.step:
        tracking.say(f"going on from step {state.step}")
        for line in run.notes:
            tracking.say(line)
        return
    compute_ahead(run, runtime, tracking)
    if not recipe.eval.data:
        tracking.say("no eval.data: before and after are measured on training examples")
    with as_it_began(run), run.whole():
        measured = held_out(run.fixed, run.eval_stream, recipe.eval, runtime, at_start=True)
        state.before = measured.means
        for line in measured.tally.lines():
            tracking.say(f"held-out: {line}")
        tracking.write("eval", 0, state.before)
        runtime.track({f"eval/{name}": value for name, value in state.before.items()}, 0)
        tracking.say(f"before: loss {state.before['loss']:.4f}")
        if runtime.is_main:
            tell_preferences(run, "before", measured.comparisons, tracking)
        state.before |= sample(run, runtime, "before")


def about_data(recipe: Recipe, stream: Stream, held: Stream, *, steps: int, devices: int) -> Iterator[str]:
    """What the run reads, what lists leave out of it, and devices that a step has too few examples for."""
    rows = ", ".join(f"{one.called} {one.size}" for one in stream.sources)
    yield f"{rows}; {how_many(steps, 'step')} of {how_many(recipe.batch.examples, 'example')}, {recipe.run.dir}"
    listed = [f"{one.called} {one.size}" for one in held.sources if one.left_out is not None]
    if listed and recipe.eval.data:
        yield f"held-out: {', '.join(listed)}"
    if idle := left_idle(recipe.batch.examples, devices):
        yield idle
    if again := seen_again(recipe.batch.examples, stream.num_known):
        yield again
    yield from stream.misnamed()
    if len(stream.sources) > 1:
        yield from stream.tree(steps)


def as_it_began(run: Setup) -> AbstractContextManager[None]:
    """The model that the run starts from. Other adapters change nothing before the first step; virtual tokens, drawn at random,
    do, and against them every run would seem to make the model better."""
    return run.model.adapters[0].off() if run.model.num_virtual else nullcontext()


def compute_ahead(run: Setup, runtime: Runtime, tracking: Tracking) -> None:
    """Tell what cleaning found and how large the features will be; then what the reference says of all examples that the run
    will see, where the recipe has it computed ahead."""
    state, recipe = run.progress, run.recipe
    for what, stream in (("", run.stream), ("held-out: ", run.eval_stream)):
        for findings in stream.findings if stream is run.stream or recipe.eval.data else ():
            for line in findings.lines():
                tracking.say(what + line)
    announce_features(run.fixed, run.stream, run.steps * recipe.batch.examples, tracking.say)
    if run.fixed.store is None:
        return
    began = time.monotonic()
    held = range(min(recipe.eval.examples, run.eval_stream.num_rows))
    with run.whole():
        keep_references(run.fixed, run.eval_stream, held, runtime, tracking.say, what="held-out examples")
        if run.objective.needs_reference:
            places = run.stream.distinct(run.steps * recipe.batch.examples)
            keep_references(run.fixed, run.stream, places, runtime, tracking.say, what="training examples")
    state.prepare_seconds = time.monotonic() - began


def tell_preferences(run: Setup, when: str, comparisons: list[Comparison], tracking: Tracking) -> dict[str, Any]:
    """Say and keep how often chosen is preferred; the table by source, empty where nothing was compared."""
    if not comparisons:
        return {}
    table = by_source(comparisons)
    (run.folder / "preferences").mkdir(exist_ok=True)
    write_whole(run.folder / "preferences" / f"{when}.jsonl", "".join(json.dumps(vars(one)) + "\n" for one in comparisons))
    for line in preference_lines(table):
        tracking.say(f"{when}: {line}")
    return table


def sample(run: Setup, runtime: Runtime, when: str) -> dict[str, float]:
    """Answer a few held-out prompts, on the first process; their mean length, for the figures."""
    if not (runtime.is_main and run.recipe.eval.samples):
        return {}
    folder = run.folder / "samples"
    lines = write_samples(folder, when, run.model, run.eval_stream, run.recipe.eval)
    show_samples(runtime, folder, lines, run.progress.step)
    return mean_answer(lines)


def forgotten_features(run: Setup) -> list[str]:
    """How many pictures the feature cache had to give up."""
    cache = run.fixed.features
    return [f"{cache.evicted} pictures' features gave way to others: raise cache.max_gb"] if cache and cache.evicted else []


def log(
    run: Setup,
    runtime: Runtime,
    tracking: Tracking,
    means: dict[str, float],
    *,
    pace: dict[str, float],
    norm: float,
    factor: float,
) -> None:
    """One step's figures, to the bar, the log file and the trackers.

    Args:
        pace: examples and tokens a second, and the share of the step that this process waited for its data.
    """
    step, recipe = run.progress.step, run.recipe
    joules = energy(runtime.device)
    if joules is not None:
        run.progress.joules += joules - (joules if tracking.joules is None else tracking.joules)
        tracking.joules = joules
    if not pace["examples/s"]:
        tracking.say(f"step {step}: no usable example, nothing learnt")
        return
    rate = factor * run.optimizer.peak
    figures = means | {"lr": rate, "grad_norm": norm} | pace
    tracking.step(step, figures)
    if step % recipe.run.log_every == 0 or step == run.steps:
        tracking.write("train", step, figures)
        runtime.track({f"train/{name}": value for name, value in figures.items()}, step)


def evaluate(run: Setup, runtime: Runtime, tracking: Tracking) -> None:
    """Measure the held-out loss, and preferences, when it is due and after the last step, and answer a few prompts; note the best
    loss, and whether to stop early."""
    state, section = run.progress, run.recipe.run
    if not section.eval_every or (state.step % section.eval_every and state.step < run.steps):
        return
    with run.whole():
        metrics = held_out(run.fixed, run.eval_stream, run.recipe.eval, runtime).means
        if state.step < run.steps:  # after the last step `finish` does
            sample(run, runtime, f"step-{state.step}")
    state.latest, state.latest_step = metrics, state.step
    tracking.write("eval", state.step, metrics)
    runtime.track({f"eval/{name}": value for name, value in metrics.items()}, state.step)
    words = [f"{name.removeprefix('accuracy/')} {metrics[name]:.1%}" for name in metrics if name.startswith("accuracy/")]
    preferred = f"; chosen preferred by {', '.join(words)}" if words else ""
    tracking.say(f"step {state.step}: held-out loss {metrics['loss']:.4f}{preferred}")
    stopping, best, loss = section.early_stopping, state.best, metrics["loss"]
    state.waits = 0 if best is None or loss < best - (stopping.min_delta if stopping else 0.0) else state.waits + 1
    if best is None or loss < best:
        state.best, state.best_step = loss, state.step
    if stopping and state.waits >= stopping.patience and state.step < run.steps:
        state.ended = True
        tracking.say(f"no better held-out loss in {state.waits} evaluations: stopping early")


def save_due(run: Setup) -> bool:
    """Every `save_every` steps, and when the held-out loss was never lower."""
    state, section = run.progress, run.recipe.run
    return state.step % section.save_every == 0 or (section.keep_best and state.best_step == state.step)


def save(run: Setup, runtime: Runtime) -> None:
    """Write a checkpoint of this step, then delete the ones that are not kept."""
    state, section = run.progress, run.recipe.run
    folder = run.folder / "checkpoints"
    path, content = folder / checkpoint_name(state.step), state.to_json(run.recipe)
    if run.sharding:
        save_shards(path, run.model.saved, run.processor, run.state(), content, run.sharding)
    elif runtime.is_main:
        save_checkpoint(path, run.model.saved, run.processor, run.state(), content)
    if runtime.is_main:
        best = [state.best_step] if section.keep_best else []
        prune(folder, checkpoint_steps(folder)[-section.keep_last :] + best)
    runtime.wait()


def _go_back(run: Setup, step: int) -> None:
    """Put the weights of a kept checkpoint into the model."""
    checkpoint = run.folder / "checkpoints" / checkpoint_name(step)
    if run.model.adapters:
        run.load_state(load_state(checkpoint, run.sharding.share if run.sharding else None)[1])
        return
    weights = load_model(checkpoint, dtype=run.model.dtype).state_dict()
    if run.sharding:
        run.sharding.take(weights)
    else:
        run.model.model.load_state_dict(weights)


def finish(run: Setup, runtime: Runtime, tracking: Tracking) -> None:
    """Measure what came of it, write the model, tell what was dropped. A stopped run only says how to go on."""
    state, recipe = run.progress, run.recipe
    if not is_over(run):
        tracking.say(f"stopped and saved at step {state.step}; the same command goes on from there")
        runtime.finish()
        return
    chosen = state.step
    if recipe.run.early_stopping and recipe.run.keep_best and state.best_step not in (0, state.step):
        chosen = state.best_step
        _go_back(run, chosen)
        tracking.say(f"the model is that of step {chosen}, with the lowest held-out loss")
    after, comparisons = state.latest, list[Comparison]()
    with run.whole():
        if state.latest_step != chosen or run.objective.compare:
            measured = held_out(run.fixed, run.eval_stream, recipe.eval, runtime)
            after, comparisons = measured.means, measured.comparisons
        runtime.track({f"after/{name}": value for name, value in after.items()}, state.step)
        after |= sample(run, runtime, "after")
    with run.gathered():
        if runtime.is_main:
            save_model(run.folder / "model", run.model.saved, run.processor)
    if runtime.is_main:
        preferences = {"before": by_source(read_comparisons(run.folder)), "after": by_source(comparisons)} if comparisons else {}
        tell_preferences(run, "after", comparisons, tracking)
        summary = {
            "before": state.before,
            "after": after,
            "measured_on": "held-out examples" if recipe.eval.data else "training examples",
            "preferences": preferences,
            "steps": state.step,
            "trained": sum(trains for _, trains in count_parameters(run.model.whole).values()),
            "rows": [None if source.endless else len(source) for source in run.stream.sources],
            "left_out": [source.left_out for source in run.stream.sources],
            "seconds": state.seconds,
            "prepare_seconds": state.prepare_seconds,
            "peak_memory_bytes": peak_memory(runtime.device),
            "energy_wh": state.joules / 3600 if state.joules else None,
            "dropped": dict(state.tally.dropped),
            "changed": dict(state.tally.changed),
            "notes": forgotten_features(run)
            + [line for findings in run.stream.findings for line in findings.lines()]
            + state.tally.lines(),
            "versions": versions(),
        }
        write_whole(run.folder / "summary.json", json.dumps(summary, indent=1))
    tracking.say(f"after: loss {after['loss']:.4f} (before {state.before['loss']:.4f}); model in {run.folder / 'model'}")
    for line in state.tally.lines():
        tracking.say(line)
    runtime.finish()
