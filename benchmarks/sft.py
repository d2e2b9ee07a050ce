"""Supervised fine-tuning side by side with TRL: the same pictures, captions and weights, once through each.

The work: a SmolVLM of the 256M shape (random weights) learns COCO photos with five captions each; connector and decoder
train in full, the vision tower is frozen, every picture is one tile. What each side does stands in `parts.py`.

    .venv-bench/bin/python benchmarks/sft.py               eight pictures a step, five timed steps
    .venv-bench/bin/python benchmarks/sft.py --quick       does it work: two pictures, one timed step

Every side runs in a process of its own, so that its peak memory is its own. This process imports neither torch nor TRL: a
child's peak starts at its parent's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from side import SHARED, SIDES, call, common_options, machine, sides_of

PARTS = Path(__file__).with_name("parts.py")


def main() -> None:
    options = parse_options()
    options.sides = sides_of(options)

    def run(part: str, job: dict[str, Any]) -> dict[str, Any]:
        told = f"{job['dtype']}, {job['images']} pictures, {job['steps']} steps"
        return call(PARTS, part, job, threads=options.threads, told=told)

    with tempfile.TemporaryDirectory(prefix="smolforge-bench-") as folder:
        job = {"folder": folder, "images": options.images_per_step, "steps": options.steps, "dtype": options.dtype}
        run("checkpoint", job | {"shared": str(SHARED)})
        small = job | {"images": min(2, options.images_per_step), "steps": 1, "dtype": "float32"}
        first = {side: run(side, small)["losses"][0] for side in options.sides}
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
        rates = [run("matrix", job)["tflops"]]
        for _ in range(options.pairs):  # interleaved, so that a busy spell of the machine meets both sides
            for side in options.sides:
                runs[side].append(run(side, job))
            rates.append(run("matrix", job)["tflops"])
    figures = {side: summary(runs[side], options.images_per_step) for side in options.sides}
    result = combine(figures, first, statistics.median(rates), options)
    print(table(figures, first, options))
    if "tflops" in result:
        print(
            f"\nsmolforge computes {result['tflops']:.2f} TFLOP/s, {result['share']:.0%} of the {result['matrix_tflops']:.2f} "
            f"that a 2048-cubed {options.dtype} matrix product reaches here."
        )
    if "ratio" in result:
        print(f"smolforge is {result['ratio']:.2f} times as fast as TRL.")
    print(json.dumps(result))
    if len(first) == 2 and abs(first["smolforge"] - first["trl"]) > 1e-4:
        sys.exit(f"the float32 losses of the first step differ by {abs(first['smolforge'] - first['trl']):.1e}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6, help="optimiser steps a run; the first is not timed (6)")
    parser.add_argument("--images-per-step", type=int, default=8, help="pictures a step, five captions each (8)")
    parser.add_argument("--pairs", type=int, default=1, help="runs of each side, taken in turns (1)")
    common_options(parser)
    parser.add_argument("--quick", action="store_true", help="two pictures a step, two steps, one pair")
    options = parser.parse_args()
    if options.quick:
        options.images_per_step, options.steps, options.pairs = 2, 2, 1
    if options.steps < 2:
        parser.error("--steps must be at least 2: the first step is not timed")
    return options


def summary(runs: list[dict[str, Any]], images: int) -> dict[str, float]:
    """Median seconds a picture over all timed steps, the largest peak memory, and the losses' last."""
    seconds = [second / images for run in runs for second in run["seconds"][1:]]
    figures = {
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "memory_bytes": max(run["memory_bytes"] for run in runs),
        "loss": runs[0]["losses"][-1],
    }
    if "flops" in runs[0]:
        rates = [f / s for run in runs for f, s in zip(run["flops"][1:], run["seconds"][1:])]
        figures["tflops"] = statistics.median(rates) / 1e12
    return figures


def combine(
    figures: dict[str, dict[str, float]], first: dict[str, float], matrix: float, options: argparse.Namespace
) -> dict[str, Any]:
    """The figures by name, for the last line."""
    result: dict[str, Any] = {}
    if len(figures) == 2:
        result["ratio"] = figures["trl"]["seconds"] / figures["smolforge"]["seconds"]
    for side, prefix in zip(SIDES, ("", "peer_")):
        if side in figures:
            result |= {f"{prefix}{name}": figures[side][name] for name in ("seconds", "memory_bytes")}
            result[f"{prefix}first_loss"] = first[side]
    if "smolforge" in figures:
        tflops = figures["smolforge"]["tflops"]
        result |= {"tflops": tflops, "matrix_tflops": matrix, "share": tflops / matrix}
    return result | {"machine": machine(), "threads": options.threads}


def table(figures: dict[str, dict[str, float]], first: dict[str, float], options: argparse.Namespace) -> str:
    lines = [
        f"{options.images_per_step} pictures a step with five captions each, {options.pairs} x {options.steps - 1} timed "
        f"steps, {options.dtype}, {options.threads} threads, {machine()}",
        "",
        f"{'':10} {'s/picture':>10} {'fastest':>8} {'slowest':>8} {'peak MiB':>9} {'loss, last':>11} {'first, float32':>15}",
    ]
    for side, f in figures.items():
        lines.append(
            f"{side:10} {f['seconds']:10.3f} {f['fastest']:8.3f} {f['slowest']:8.3f} {f['memory_bytes'] / 2**20:9.0f} "
            f"{f['loss']:11.4f} {first[side]:15.6f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
