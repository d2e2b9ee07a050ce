"""Predicted against measured: peak memory of whole runs of `smolforge train` on a CPU, each in a process of its own.

    python benchmarks/estimate.py                       every case, in the C library's usual setting
    python benchmarks/estimate.py --only text-lora-bf16 --malloc-limit 131072

Models of 42 and 86 million random parameters; a run reads its data, measures what it starts from, takes three steps and saves.
Measured is the largest resident set above what the process had once everything was imported; predicted is the estimate without
that part of its fixed remainder. With --malloc-limit the C library's heap is out of the way and left out of the prediction.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TEXT = dict(hidden=384, layers=12, heads=6, kv_heads=2, ff=1024)
WIDE = dict(hidden=640, layers=10, heads=10, kv_heads=5, ff=1792)
EYES = dict(vision_hidden=384, vision_layers=8, vision_heads=6, vision_ff=1536, image_size=256, patch=16, shuffle=4)
SHAPES = {"small": EYES | TEXT | {"vocab": 8192}, "wide": EYES | WIDE | {"vocab": 16384}}
LONG, BF16 = {"batch": {"examples": 2, "row_tokens": 1024}}, {"model.dtype": "bfloat16"}
LORA, CHECKPOINTING = {"adapters": {"method": "lora", "r": 8}}, {"run.gradient_checkpointing": True}
CASES: dict[str, dict[str, Any]] = {
    "text-full-fp32": {},
    "text-full-fp32-checkpointing": CHECKPOINTING,
    "text-full-bf16": BF16,
    "text-lora-bf16": BF16 | LORA,
    "text-lora-fp32-rows": LORA | {"batch.row_tokens": 700},
    "text-full-bf16-wide": BF16 | {"shape": "wide", "batch.row_tokens": 1000},
    "text-full-bf16-long": BF16 | {"data": "long", "batch.examples": 2},
    "pictures-full-fp32": {"data": "pictures"},
    "pictures-full-bf16-checkpointing": BF16 | CHECKPOINTING | {"data": "pictures"},
    "pictures-frozen-bf16": BF16 | {"data": "pictures", "freeze.vision": True},
    "pictures-lora-fp32-wide": LORA | {"data": "pictures", "shape": "wide"},
    "text-bottleneck-fp32": {"adapters": {"method": "bottleneck", "r": 32}},
    "pairs-lora-bf16": BF16 | LORA | {"data": "pairs"},
    "pairs-full-fp32-copy": {"data": "pairs", "objective.reference.kind": "copy"},
}
WORDS = ("small", "red", "cat", "sat", "green", "mat", "saw", "two", "black", "birds", "near", "old", "house", "river")


def recipe_of(case: dict[str, Any], folder: Path) -> Any:
    from smolforge.recipe import parse_recipe

    shape, data = case.get("shape", "small"), case.get("data", "text")
    tree: dict[str, Any] = {
        "model": {"name": str(folder / shape)}, "data": [{"source": str(folder / data)}],
        "objective": {"kind": "dpo" if data == "pairs" else "sft"},
        "batch": {"examples": 4, "row_tokens": 4096}, "eval": {"examples": 2, "samples": 0},
        "run": {"steps": 3, "device": "cpu", "trackers": [], "workers": 0},
        "cache": {"dir": str(folder / "cache")},
    }  # fmt: skip
    if data != "pictures":
        tree["data"][0]["source"] += ".jsonl"
    settings = [f"{key}={json.dumps(value)}" for key, value in case.items() if key not in ("shape", "data")]
    return parse_recipe(tree, [*settings, f"run.dir={tempfile.mkdtemp(dir=folder)}"])


def prepare(folder: Path) -> None:
    """Models of random weights and their data."""
    import random

    from smolforge.data.media import ImageSpec
    from smolforge.data.sources.scenes import scene
    from smolforge.data.tokenizer import train_tokenizer, write_processor
    from smolforge.model.build import assemble
    from smolforge.model.presets import Shape

    tokenizer = train_tokenizer([" ".join(WORDS), *(scene(0, index).caption for index in range(100))], vocab=512)
    names = {"image_token_id": "<image>", "bos_token_id": "<|im_start|>", "eos_token_id": "<end_of_utterance>"}
    ids = {key: tokenizer.token_to_id(token) for key, token in names.items()}
    for name, numbers in SHAPES.items():
        shape = Shape(model_type="smolvlm", context=8192, rope_theta=10_000.0, longest_edge=512, **numbers)
        assemble(shape, **ids, pad_token_id=tokenizer.token_to_id("<|im_end|>")).save_pretrained(folder / name)
        spec = ImageSpec(tile=256, longest_edge=512)
        write_processor(folder / name, tokenizer, spec, image_tokens=shape.image_tokens, context=shape.context)
    draw = random.Random(0)
    say = lambda count: " ".join(draw.choice(WORDS) for _ in range(count))  # noqa: E731
    texts = [{"prompt": say(60), "completion": say(220)} for _ in range(16)]
    longs = [{"prompt": say(100), "completion": say(1000)} for _ in range(16)]
    pairs = [{"prompt": say(60), "chosen": say(150), "rejected": say(140)} for _ in range(16)]
    for name, rows in (("text", texts), ("long", longs), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pictures").mkdir()
    lines = []
    for index in range(16):
        picture = scene(1, index)
        picture.draw().resize((512, 384)).save(folder / "pictures" / f"{index}.png")
        lines.append(json.dumps({"image": f"{index}.png", "captions": [picture.caption]}) + "\n")
    (folder / "pictures" / "captions.jsonl").write_text("".join(lines))


def status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def measure(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Peak bytes of a run above the process before it, and the seconds of its last step."""
    import peft  # noqa: F401
    import torch

    from smolforge.training import chores
    from smolforge.training.loop import train

    def noted(name: str) -> None:
        doing = getattr(chores, name)

        def told(*args: Any, **kwargs: Any) -> Any:
            peaks.setdefault(f"before {name}", status("VmHWM"))
            result = doing(*args, **kwargs)
            peaks[f"after {name}"] = status("VmHWM")
            return result

        setattr(chores, name, told)

    peaks: dict[str, int] = {}
    for name in ("held_out", "save_checkpoint", "save_model"):
        noted(name)
    a = torch.randn(64, 64, requires_grad=True)
    (a @ a).sum().backward()
    recipe = recipe_of(case, folder)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    run = train(recipe)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    peaks = {name: peak - before for name, peak in peaks.items()}
    return {"bytes": status("VmHWM") - before, "process": before, "peaks": peaks, "seconds": 1 / lines[-1].get("examples/s", 1)}


def predict(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    import warnings

    warnings.simplefilter("ignore")
    from smolforge.estimating import IMPORTS, RUN, estimate

    made = estimate(recipe_of(case, folder))
    parts = {name: size for name, size in made.parts.items() if name != "process"}
    told = {"bytes": made.peak - IMPORTS, "tensors": made.tensors + RUN}
    return told | {"parts": parts, "flops": made.flops, "seconds": made.seconds}


def main() -> None:
    if sys.argv[1:2] == ["--part"]:
        name, case, folder = sys.argv[2:5]
        doings: dict[str, Any] = {"measure": measure, "predict": predict}
        if name == "prepare":
            prepare(Path(folder))
        else:
            print(json.dumps(doings[name](json.loads(case), Path(folder))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, help="these cases")
    parser.add_argument("--malloc-limit", help="MALLOC_MMAP_THRESHOLD_ of the measured process, in bytes")
    parser.add_argument("--folder", type=Path, help="where models and data are kept (default: a new one)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="smolforge-estimate-"))
    if not (folder / "pictures" / "captions.jsonl").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part("prepare", {}, folder)
    print(f"{'case':<36}{'measured':>10}{'predicted':>10}{'off':>7}{'tensors':>9}   MiB")
    for name in options.only or CASES:
        limit = {"MALLOC_MMAP_THRESHOLD_": options.malloc_limit} if options.malloc_limit else {}
        expected, got = part("predict", CASES[name], folder), part("measure", CASES[name], folder, **limit)
        told = expected["tensors"] if limit else expected["bytes"]
        off = told / got["bytes"] - 1
        mib = [number / 2**20 for number in (got["bytes"], told, expected["tensors"])]
        print(f"{name:<36}{mib[0]:>10.0f}{mib[1]:>10.0f}{off:>+7.0%}{mib[2]:>9.0f}   {json.dumps(expected['parts'])}", flush=True)
        print(f"# {json.dumps(got)} {expected['flops']:.3g} {expected['seconds']:.2f}", file=sys.stderr, flush=True)


def part(name: str, case: dict[str, Any], folder: Path, **more: str) -> Any:
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"} | more
    command = [sys.executable, __file__, "--part", name, json.dumps(case), str(folder)]
    done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stderr}\n{name} of {case} failed, see above")
    return json.loads(done.stdout.splitlines()[-1]) if name != "prepare" else None


if __name__ == "__main__":
    main()
