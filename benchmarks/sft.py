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
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SIDES = ("smolforge", "trl")


def main() -> None:
    options = parse_options()
    if not SHARED.is_dir():
        sys.exit(f"{SHARED} is absent: this benchmark needs its photos, captions and processor files")
    if "trl" in options.sides and importlib.util.find_spec("trl") is None:
        sys.exit("TRL is not installed here: `make bench` sets up .venv-bench, or use --only smolforge")
    with tempfile.TemporaryDirectory(prefix="smolforge-bench-") as folder:
        job = {"folder": folder, "images": options.images_per_step, "steps": options.steps, "dtype": options.dtype}
        call("checkpoint", job | {"shared": str(SHARED)}, options.threads)
        small = job | {"images": min(2, options.images_per_step), "steps": 1, "dtype": "float32"}
        first = {side: call(side, small, options.threads)["losses"][0] for side in options.sides}
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
        rates = [call("matrix", job, options.threads)["tflops"]]
        for _ in range(options.pairs):  # interleaved, so that a busy spell of the machine meets both sides
            for side in options.sides:
                runs[side].append(call(side, job, options.threads))
            rates.append(call("matrix", job, options.threads)["tflops"])
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
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--pairs", type=int, default=1, help="runs of each side, taken in turns (1)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch on both sides (2)")
    parser.add_argument("--only", choices=SIDES, help="run one side")
    parser.add_argument("--quick", action="store_true", help="two pictures a step, two steps, one pair")
    options = parser.parse_args()
    if options.quick:
        options.images_per_step, options.steps, options.pairs = 2, 2, 1
    if options.steps < 2:
        parser.error("--steps must be at least 2: the first step is not timed")
    options.sides = (options.only,) if options.only else SIDES
    return options


def call(part: str, job: dict[str, Any], threads: int) -> dict[str, Any]:
    """Run a part in a process of its own; its last line is its answer."""
    print(f"{part}: {job['dtype']}, {job['images']} pictures, {job['steps']} steps", file=sys.stderr, flush=True)
    command = [sys.executable, str(Path(__file__).with_name("parts.py")), part, json.dumps(job)]
    quiet = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stderr}\n{part} failed, see above")
    return json.loads(done.stdout.splitlines()[-1])


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


def machine() -> str:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return f"{name}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
