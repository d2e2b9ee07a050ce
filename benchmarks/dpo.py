"""Preference optimisation side by side with TRL: the same pairs, pictures and weights, once through each.

The work: DPO with LoRA on the text model of a SmolVLM of the 256M shape; vision tower and connector are frozen. A photo's five
captions are chosen, the next photo's are rejected. What each side does stands in `dpo_parts.py`.

    .venv-bench/bin/python benchmarks/dpo.py                   one tile a photo, 16 pairs, three epochs
    .venv-bench/bin/python benchmarks/dpo.py --edge 1024       a photo in tiles, 8 pairs
    .venv-bench/bin/python benchmarks/dpo.py --quick           does it work: two pairs, two steps

smolforge computes the reference and the pictures' features of every pair before its first step; that counts fully into its
first epoch, as do its first step's delays. TRL does the same work in every epoch, so that its first step, a warm-up, is left
out and all others count alike.

Every side runs in a process of its own, so that its peak memory is its own. This process imports neither torch nor TRL: a
child's peak starts at its parent's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from side import SHARED, SIDES, call, common_options, machine, sides_of

PARTS = Path(__file__).with_name("dpo_parts.py")
PHOTOS = 85
TOLERANCE = 1e-4  # of the first step's log-probs in float32, relative


def main() -> None:
    options = parse_options()
    options.sides = sides_of(options)

    def run(part: str, job: dict[str, Any]) -> dict[str, Any]:
        told = f"{job['dtype']}, {job['pairs']} pairs, {job['pairs_per_step']} a step, {job['epochs']} epochs"
        return call(PARTS, part, job, threads=options.threads, told=told)

    with tempfile.TemporaryDirectory(prefix="smolforge-bench-") as folder:
        shape = {name: getattr(options, name) for name in ("edge", "pairs", "pairs_per_step", "epochs", "dtype", "device")}
        job = {"folder": folder} | shape
        decoder = run("checkpoint", job | {"shared": str(SHARED)})["decoder"]
        small = job | {"pairs": 2, "pairs_per_step": 2, "epochs": 1, "dtype": "float32"}
        first = {side: {kind: logps[0] for kind, logps in run(side, small)["logps"].items()} for side in options.sides}
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
        rates = [run("matrix", job)]
        for _ in range(options.rounds):  # interleaved, so that a busy spell of the machine meets both sides
            for side in options.sides:
                runs[side].append(run(side, job))
            rates.append(run("matrix", job))
    summaries: dict[str, Callable[..., dict[str, float]]] = {"smolforge": summary_smolforge, "trl": summary_trl}
    figures = {side: summaries[side](runs[side], options) for side in options.sides}
    setting = {
        "edge": options.edge,
        "dtype": options.dtype,
        "decoder": decoder,
        "machine": rates[0]["gpu"] or machine(),
        "threads": options.threads,
        "matrix_tflops": statistics.median(rate["tflops"] for rate in rates),
    }
    result = combine(figures, first) | setting
    print(table(figures, first, setting, options))
    if "first_ratio" in result:
        print(
            f"\nsmolforge is {result['first_ratio']:.2f} times as fast as TRL in the first epoch, "
            f"{result['later_ratio']:.2f} times in later ones."
        )
    print(json.dumps(result))
    if result.get("difference", 0.0) >= TOLERANCE:
        sys.exit(f"the float32 log-probs of the first step differ by {result['difference']:.1e}, relative")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, choices=(512, 1024), default=512, help="longest edge; 512 is one tile (512)")
    parser.add_argument("--pairs", type=int, help="pairs of an epoch (16; 8 at edge 1024)")
    parser.add_argument("--pairs-per-step", type=int, default=4, help="pairs an optimiser step (4)")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the pairs (3)")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each side, taken in turns (1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where both sides compute (cpu)")
    parser.add_argument("--quick", action="store_true", help="two pairs in a step, two steps, one round")
    common_options(parser)
    options = parser.parse_args()
    options.pairs = options.pairs or (16 if options.edge == 512 else 8)
    if options.quick:
        options.pairs, options.pairs_per_step, options.epochs, options.rounds = 2, 2, 2, 1
    if not 2 <= options.pairs <= PHOTOS:
        parser.error(f"--pairs must be from 2 to {PHOTOS}, the number of photos")
    if options.pairs % options.pairs_per_step:
        parser.error("--pairs must be a multiple of --pairs-per-step: an epoch is whole steps")
    if options.epochs < 2:
        parser.error("--epochs must be at least 2: the first is told apart from the later ones")
    return options


def summary_smolforge(runs: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, float]:
    """Seconds a pair: the whole first epoch with its preparation, and the later epochs' steps."""
    an_epoch = options.pairs // options.pairs_per_step
    whole = [(run["prepare_seconds"] + sum(run["seconds"][:an_epoch])) / options.pairs for run in runs]
    early = [second / options.pairs_per_step for run in runs for second in run["seconds"][:an_epoch]]
    later = [second / options.pairs_per_step for run in runs for second in run["seconds"][an_epoch:]]
    return {
        "first_seconds": statistics.median(whole),
        "prepare_seconds": statistics.median(run["prepare_seconds"] for run in runs) / options.pairs,
        "first_step_median": statistics.median(early),
    } | of_steps(later, runs)


def summary_trl(runs: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, float]:
    """Seconds a pair over all steps but each run's first: its epochs are the same work."""
    figures = of_steps([second / options.pairs_per_step for run in runs for second in run["seconds"][1:]], runs)
    return {"first_seconds": figures["later_seconds"]} | figures


def of_steps(seconds: list[float], runs: list[dict[str, Any]]) -> dict[str, float]:
    return {
        "later_seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "memory_bytes": max(run["memory_bytes"] for run in runs),
    }


def combine(figures: dict[str, dict[str, float]], first: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The figures by name, for the last line."""
    result: dict[str, Any] = {}
    if len(figures) == 2:
        ours, theirs = (figures[side] for side in SIDES)
        result["first_ratio"] = theirs["first_seconds"] / ours["first_seconds"]
        result["later_ratio"] = theirs["later_seconds"] / ours["later_seconds"]
        pairs = [[first[side][kind] for side in SIDES] for kind in ("chosen", "rejected")]
        result["difference"] = max(abs(ours - theirs) / abs(theirs) for ours, theirs in pairs)
    for side, prefix in zip(SIDES, ("", "peer_")):
        if side in figures:
            kept = ("first_seconds", "prepare_seconds", "first_step_median", "later_seconds", "memory_bytes")
            result |= {f"{prefix}{name}": figures[side][name] for name in kept if name in figures[side]}
            result |= {f"{prefix}logps_{kind}": value for kind, value in first[side].items()}
    return result


def table(
    figures: dict[str, dict[str, float]],
    first: dict[str, dict[str, float]],
    setting: dict[str, Any],
    options: argparse.Namespace,
) -> str:
    lines = [
        f"{options.pairs} pairs, {options.pairs_per_step} a step, {options.epochs} epochs, {options.rounds} rounds, longest edge "
        f"{options.edge}, {options.dtype}, {options.threads} threads",
        f"{setting['machine']}; a 2048-cubed matrix product reaches {setting['matrix_tflops']:.2f} TFLOP/s",
        f"decoder: {setting['decoder']}",
        "",
        f"{'seconds a pair:':15} {'epoch 1':>8} {'later':>8} {'fastest':>8} {'slowest':>8} {'peak MiB':>9} "
        f"{'logp chosen, f32':>17} {'rejected':>10}",
    ]
    for side, f in figures.items():
        lines.append(
            f"{side:15} {f['first_seconds']:8.3f} {f['later_seconds']:8.3f} {f['fastest']:8.3f} {f['slowest']:8.3f} "
            f"{f['memory_bytes'] / 2**20:9.0f} {first[side]['chosen']:17.4f} {first[side]['rejected']:10.4f}"
        )
    if "smolforge" in figures:
        ours = figures["smolforge"]
        lines.append(
            f"\nsmolforge's epoch 1: {ours['prepare_seconds']:.3f} s a pair for references and features, "
            f"its steps' median {ours['first_step_median']:.3f} s a pair."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
