"""What the side-by-side benchmarks share: parts run in processes of their own, the machine's measures, TRL's set-up.

A benchmark's own process imports neither torch nor TRL, because a child's peak memory starts at its parent's. So nothing heavy
is imported before a part asks for it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SIDES = ("smolforge", "trl")
PRESET = "smolvlm-256m"

# --- in the benchmark's own process --------------------------------------------------------------------------------


def common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch on both sides (2)")
    parser.add_argument("--only", choices=SIDES, help="run one side")


def sides_of(options: argparse.Namespace) -> tuple[str, ...]:
    """The sides to run; ends the process where something they need is absent."""
    sides = (options.only,) if options.only else SIDES
    if not SHARED.is_dir():
        sys.exit(f"{SHARED} is absent: this benchmark needs its photos, captions and processor files")
    if "trl" in sides and importlib.util.find_spec("trl") is None:
        sys.exit("TRL is not installed here: `make bench` sets up .venv-bench, or use --only smolforge")
    return sides


def call(script: Path, part: str, job: dict[str, Any], *, threads: int, told: str = "") -> dict[str, Any]:
    """Run a part of a script in a process of its own; its last line is its answer."""
    print(f"{part}: {told}" if told else part, file=sys.stderr, flush=True)
    command = [sys.executable, str(script), part, json.dumps(job)]
    quiet = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stderr}\n{part} failed, see above")
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> str:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return f"{name}, {os.cpu_count()} cores"


# --- in a part's process -------------------------------------------------------------------------------------------


def answer(parts: dict[str, Callable[[Any], dict[str, Any]]], job_class: Callable[..., Any]) -> None:
    """`python SCRIPT PART JOB`: run the part, print what it returns."""
    given = json.loads(sys.argv[2])
    given |= {name: Path(given[name]) for name in ("folder", "shared") if name in given}
    print(json.dumps(parts[sys.argv[1]](job_class(**given))))


def photos(shared: Path) -> list[tuple[str, list[str]]]:
    """The 85 photos of COCO, each with its five captions."""
    folder = shared / "coco_mini"
    rows = [row for split in ("train", "val") for row in json.loads((folder / f"annotations_{split}2017.json").read_text())]
    return [(str(folder / row["file"]), row["captions"][:5]) for row in rows]


def matrix_rate(job: Any) -> dict[str, Any]:
    """What a 2048-cubed matrix product in the job's dtype reaches on its device, in TFLOP/s."""
    import torch

    device = getattr(job, "device", "cpu")
    a, b = torch.randn(2, 2048, 2048, dtype=getattr(torch, job.dtype), device=device)
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {"tflops": 2 * 2048**3 / statistics.median(seconds[5:]) / 1e12, "gpu": gpu}


def peak_memory(device: str = "cpu") -> int:
    """Most bytes so far: of this process in memory, or of its tensors on the GPU."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def trl_processor(checkpoint: Path, *, split: bool, longest_edge: int) -> Any:
    """Hugging Face's processor, set to the recipe's `images` and to smolforge's rendering of the last turn."""
    from transformers import Idefics3Processor

    processor = Idefics3Processor.from_pretrained(checkpoint)
    processor.image_processor.do_image_splitting = split
    processor.image_processor.size = {"longest_edge": longest_edge}
    # The last assistant turn ends with its closing token, so that the newline after it is not scored.
    turn_end = "<end_of_utterance>\n{% endfor %}"
    assert turn_end in processor.chat_template
    once = "<end_of_utterance>{{ '' if loop.last and message['role'] == 'assistant' else '\n' }}{% endfor %}"
    processor.chat_template = processor.chat_template.replace(turn_end, once)
    return processor


def trl_arguments(
    *, folder: Path, steps: int, rows: int, lr: float, seed: int, dtype: str, device: str = "cpu"
) -> dict[str, Any]:
    """Options that TRL's SFTConfig and DPOConfig share: smolforge's optimiser, nothing that costs time besides the work."""
    return dict(
        output_dir=str(folder / "trl"),
        max_steps=steps,
        per_device_train_batch_size=rows,  # a step's rows in one batch, no accumulation
        gradient_accumulation_steps=1,
        learning_rate=lr,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,  # as smolforge clips
        optim="adamw_torch",
        use_cpu=device == "cpu",
        bf16=dtype == "bfloat16",
        gradient_checkpointing=False,  # its default saves memory and costs a second forward pass
        max_length=None,  # nothing is cut
        train_sampling_strategy="sequential",  # the order of smolforge's stream
        dataloader_num_workers=0,
        dataloader_pin_memory=device == "cuda",
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=seed,
    )


def time_trl(make: Callable[..., Any]) -> tuple[list[float], list[dict[str, float]]]:
    """Train what `make(callbacks=...)` gives: seconds of every step, from one to the next (data, step and log), and its logs."""
    from transformers import TrainerCallback

    clock: list[float] = []
    entries: list[dict[str, float]] = []

    class Timer(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.append(time.perf_counter())

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                entries.append(dict(logs))

    make(callbacks=[Timer()]).train()
    return [after - before for before, after in pairwise(clock)], entries
