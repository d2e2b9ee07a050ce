"""Is the device kept waiting? Examples a second of the feed, and the share of a step that is spent waiting for it.

    python benchmarks/feed.py                          photos in tiles and whole, videos made by this script; 0, 1 and 2 workers
    python benchmarks/feed.py --cases photos-1 --rounds 1 --steps 6          a quick look
    python benchmarks/feed.py --recipe recipes/my.yaml                       the data and picture rules of a recipe
    python benchmarks/feed.py --videos clip.mp4 other.mp4 --out feed.json    files of your own

The peer does the same pictures in the same step sizes and numbers of processes: a torch DataLoader over Hugging Face's
Idefics3Processor with Pillow, as people write it. Sides take turns, a round has each of them once, each in a process of its own;
printed are medians over the rounds, and of the rounds' ratios.

Waiting is measured in two ways. `train` is `smolforge train` with a model of a million parameters on the CPU. `device of 0.5 s`
is SIMULATED: the process that trains sleeps for so long a step, as it would while a GPU computes, and its cores are free.
`--cores 1 2 4 8` CALCULATES it for machines with a core for each of so many workers, from the time of a core that each step took
here, which other work on this machine hardly changes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from side import SHARED, call, machine, photos

HERE = Path(__file__)
# case -> longest edge, and whether pictures are cut into tiles (one tile is what a frame takes, too)
CASES = {"photos-13": (2048, True), "photos-1": (512, False), "videos": (512, False)}
CLIPS, SECONDS, SIZE, FPS = 8, 10, (640, 360), 25
WARM = 2  # steps that are not counted, while processes start and the queue fills


def main() -> None:
    options = parse_options()
    if not options.recipe and not SHARED.is_dir():
        sys.exit(f"{SHARED} is absent: give --recipe, whose data is read instead of its photos")
    workers = [int(number) for number in options.workers]
    with tempfile.TemporaryDirectory(prefix="smolforge-feed-") as folder:
        job = {"folder": folder, "shared": str(SHARED), "size": options.size, "steps": options.steps}
        job |= {"recipe": options.recipe, "overrides": options.overrides, "videos": options.videos, "frames": options.frames}
        call(HERE, "prepare", job, threads=1, told="model folders and clips")
        results = []
        for case in options.cases:
            if case == "train":
                for number in workers:
                    runs = run_rounds("train", job | {"case": "photos-1", "workers": number}, options.rounds)
                    results.append(waiting(case, number, runs))
                continue
            sides = ("ours", "peer") if case.startswith("photos") else ("ours",)
            taken: dict[tuple[str, int], list[dict[str, Any]]] = {(side, number): [] for side in sides for number in workers}
            for _ in range(options.rounds):  # interleaved, so that a busy spell of the machine meets all
                for side, number in taken:
                    taken[side, number].append(
                        call(HERE, side, job | {"case": case, "workers": number}, threads=1, told=f"{case}, {number} workers")
                    )
            results += [rates(case, number, taken, sides) for number in workers]
            if options.cores:
                costs = call(HERE, "costs", job | {"case": case}, threads=1, told=case)
                results += calculated(case, costs["seconds"], options)
            for device in options.device:
                found = [
                    run_rounds("device", job | {"case": case, "workers": number, "device": device}, options.rounds)
                    for number in workers
                ]
                results += [waiting(f"{case}, device of {device:g} s (simulated)", n, one) for n, one in zip(workers, found)]
    print(table(results, options))
    written = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "load": os.getloadavg(),
        "size": options.size,
        "results": results,
    }
    if options.out:
        options.out.write_text(json.dumps(written, indent=1) + "\n")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the recipe to change")
    parser.add_argument("--cases", nargs="+", choices=(*CASES, "train"), default=[*CASES, "train"])
    parser.add_argument("--recipe", help="data, model and picture rules of this recipe, instead of the cases")
    parser.add_argument("--videos", nargs="+", default=[], help="video files, instead of clips made here")
    parser.add_argument("--frames", type=int, default=8, help="most frames of a video (8)")
    parser.add_argument("--workers", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--device", nargs="+", type=float, default=[0.5, 1.0, 2.0, 4.0], help="simulated seconds a step")
    parser.add_argument("--cores", nargs="+", type=int, default=[], help="workers, a core each, to calculate the waiting for")
    parser.add_argument("--size", type=int, default=8, help="examples a step (8)")
    parser.add_argument("--steps", type=int, default=12, help=f"steps of a run; the first {WARM} are not counted (12)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side (3)")
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    options = parser.parse_args()
    if options.recipe:
        options.cases = ["recipe"]
    if options.steps <= WARM:
        parser.error(f"--steps must be more than {WARM}")
    options.videos = [str(Path(video).resolve()) for video in options.videos]
    return options


def run_rounds(part: str, job: dict[str, Any], rounds: int) -> list[dict[str, Any]]:
    told = f"{job['case']}, {job['workers']} workers"
    return [call(HERE, part, job, threads=1, told=told) for _ in range(rounds)]


def rates(case: str, workers: int, runs: dict[tuple[str, int], list[dict[str, Any]]], sides: tuple[str, ...]) -> dict[str, Any]:
    """Medians over the rounds; the ratio is that of each round's pair."""
    found = {"case": case, "workers": workers}
    for side in sides:
        found[f"{side}_examples_per_s"] = statistics.median(one["rate"] for one in runs[side, workers])
        found[f"{side}_cpu_ms_per_example"] = statistics.median(one["cpu_ms"] for one in runs[side, workers])
    if len(sides) == 2:
        pairs = [a["rate"] / b["rate"] for a, b in zip(runs["ours", workers], runs["peer", workers])]
        found |= {"ratio": statistics.median(pairs), "ratio_range": (min(pairs), max(pairs))}
    return found | {key: runs["ours", workers][0][key] for key in ("tiles", "tokens")}


def waiting(case: str, workers: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    shares = [one["waiting"] for one in runs]
    found = {"case": case, "workers": workers, "waiting": statistics.median(shares), "waiting_range": (min(shares), max(shares))}
    return found | {"step_s": statistics.median(one["step_s"] for one in runs)}


def calculated(case: str, seconds: list[float], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Waiting for a feed whose steps take these seconds of a core, by device and number of workers."""
    found = []
    for device in options.device:
        for workers in options.cores:
            share = waited(seconds * 20, workers, device)
            found.append({
                "case": f"{case}, device of {device:g} s (calculated)", "workers": workers, "waiting": share,
                "waiting_range": (share, share), "step_s": device / (1 - share), "core_s": statistics.mean(seconds),
            })  # fmt: skip
    return found


def waited(seconds: list[float], workers: int, device: float, ahead: int = 2) -> float:
    """Share of the time that a device waits. Step i is made by worker i modulo `workers`, which may begin it when the device
    takes step i - ahead * workers, as a DataLoader has it; the first of each worker are not counted.

    >>> [waited([1.0] * 50, workers, device) for workers, device in [(1, 1.0), (1, 0.5), (2, 0.5), (2, 0.25)]]
    [0.0, 0.5, 0.0, 0.5]
    """
    free, taken, waits = [0.0] * workers, [], []
    for step, cost in enumerate(seconds):
        begun = max(free[step % workers], taken[step - ahead * workers] if step >= ahead * workers else 0.0)
        free[step % workers] = begun + cost
        asked = taken[-1] + device if taken else 0.0
        taken.append(max(asked, free[step % workers]))
        waits.append(taken[-1] - asked)
    counted = waits[ahead * workers :]
    assert counted, "fewer steps than workers hold"
    return sum(counted) / (sum(counted) + device * len(counted))


def table(results: list[dict[str, Any]], options: argparse.Namespace) -> str:
    lines = [f"{options.size} examples a step, {options.rounds} rounds of {options.steps - WARM} counted steps, {machine()}", ""]
    lines.append(
        f"{'':12}{'workers':>8}{'examples/s':>12}{'ms of a core':>14}{'peer':>8}{'ratio':>7}   (range)      tiles  tokens"
    )
    for one in results:
        if "waiting" in one:
            continue
        peer = "".ljust(26)
        if "ratio" in one:
            low, high = one["ratio_range"]
            peer = f"{one['peer_examples_per_s']:>8.1f}{one['ratio']:>7.2f}   ({low:.2f}-{high:.2f})"
        lines.append(
            f"{one['case']:12}{one['workers']:>8}{one['ours_examples_per_s']:>12.1f}{one['ours_cpu_ms_per_example']:>14.1f}{peer}"
            f"{one['tiles']:>8.1f}{one['tokens']:>8.0f}"
        )
    lines += ["", f"{'waiting':46}{'workers':>8}{'share of a step':>17}   (range)        step"]
    for one in results:
        if "waiting" in one:
            low, high = one["waiting_range"]
            lines.append(
                f"{one['case']:46}{one['workers']:>8}{one['waiting']:>17.1%}   ({low:.1%}-{high:.1%}){one['step_s']:>8.2f} s"
            )
    return "\n".join(lines)


# --- what runs in processes of its own -----------------------------------------------------------------------------


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """Model folders with the real processor files, captions as JSON Lines, a tiny model that trains, and clips."""
    import shutil

    folder = Path(job["folder"])
    if job["recipe"]:
        return {}
    processor = Path(job["shared"]) / "smolvlm-256m-processor"
    shutil.copytree(processor, folder / "model", copy_function=shutil.copyfile)
    rows = [{"image": photo, "captions": captions} for photo, captions in photos(Path(job["shared"]))]
    (folder / "photos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _tiny(folder / "tiny", processor)
    files = job["videos"] or [str(_clip(folder / f"clip{number}.mp4", number)) for number in range(CLIPS)]
    videos = [{"video": file, "question": "What moves?", "answer": "A square moves over the picture."} for file in files]
    (folder / "videos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in videos))
    return {}


def _tiny(folder: Path, processor: Path) -> None:
    """A model of the tiny shape that takes the real tokenizer, at 64 tokens a tile of 512 pixels."""
    import shutil
    from dataclasses import replace

    from smolforge.model.build import assemble
    from smolforge.model.presets import PRESETS

    real = PRESETS["smolvlm-256m"]
    shape = replace(PRESETS["tiny"], vocab=real.vocab, image_size=512, patch=32, shuffle=2, longest_edge=512)
    shutil.copytree(processor, folder, copy_function=shutil.copyfile)
    (folder / "config.json").unlink()
    assemble(shape).save_pretrained(folder)


def _clip(file: Path, number: int) -> Path:
    """Ten seconds of a square that moves over noise, H.264."""
    import av
    import numpy as np

    width, height = SIZE
    rng = np.random.default_rng(number)
    noise = rng.integers(0, 80, (height, width, 3), dtype=np.uint8)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for count in range(SECONDS * FPS):
            frame = np.roll(noise, count, axis=1)
            place = 2 * count % (width - 100)
            frame[100:200, place : place + 100] = (250, 20 * number, 100)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return file


def open_feed(job: dict[str, Any]) -> Any:
    """The stream of a case, or of a recipe, as a run opens it."""
    from smolforge.data.pipeline import open_stream
    from smolforge.data.processor import load_renderer
    from smolforge.objectives import objective_of
    from smolforge.recipe import DataSection, ImagesSection, VideoSection, load_recipe

    if job["recipe"]:
        from smolforge.hub import local_folder
        from smolforge.loading import base_folder

        recipe = load_recipe(job["recipe"], job["overrides"])
        folder = base_folder(local_folder(recipe.model.name, recipe.model.revision))
        renderer = load_renderer(folder, images=recipe.images, video=recipe.video, row_tokens=recipe.batch.row_tokens)
        shaping = objective_of(recipe.objective).shaping
        return open_stream(recipe.data, renderer, shaping=shaping, seed=0, mixture=recipe.mixture, examples=job["size"])
    edge, split = CASES[job["case"]]
    kind = "videos" if job["case"] == "videos" else "photos"
    renderer = load_renderer(
        Path(job["folder"]) / "model", images=ImagesSection(longest_edge=edge, split=split),
        video=VideoSection(max_frames=job["frames"], longest_edge=512),
    )  # fmt: skip
    source = DataSection(source=str(Path(job["folder"]) / f"{kind}.jsonl"))
    return open_stream([source], renderer, kinds={"target"}, seed=0)


def _timed(steps: Iterator[Any], size: int) -> dict[str, Any]:
    """Examples a second from the end of the warm-up on, and milliseconds of a core, of all processes, an example."""
    began, count, cpu = 0.0, 0, os.times()
    for number, _ in enumerate(steps):
        if number == WARM - 1:
            began = time.perf_counter()
        count += 1
    seconds, ended = time.perf_counter() - began, os.times()
    used = sum(ended[:4]) - sum(cpu[:4])  # user and system time, children's too once they have ended
    return {"rate": (count - WARM) * size / seconds, "cpu_ms": 1000 * used / (count * size)}


def run_ours(job: dict[str, Any]) -> dict[str, Any]:
    stream = open_feed(job)
    told: dict[str, float] = {"tiles": 0.0, "tokens": 0.0}

    def steps() -> Iterator[Any]:
        for step in stream.steps(0, job["steps"], job["size"], workers=job["workers"]):
            told["tiles"] += sum(len(row.tiles) for row in step.rows)
            told["tokens"] += sum(row.num_tokens for row in step.rows)
            assert not step.tally.dropped, step.tally.named
            yield step

    found = _timed(steps(), job["size"])
    count = job["steps"] * job["size"]
    return found | {name: value / count for name, value in told.items()}


def run_costs(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a core that a process which prepares steps takes for each, its pixels in shared memory included."""
    from functools import partial

    from smolforge.data.ahead import prepared

    steps = prepared(partial(_cost, open_feed(job), job["size"]), range(WARM + job["steps"]), workers=1)
    return {"seconds": [seconds for seconds, _ in steps][WARM:]}


def _cost(stream: Any, size: int, number: int) -> float:
    began = time.process_time()
    stream.step(range(number * size, (number + 1) * size))
    return time.process_time() - began


def run_peer(job: dict[str, Any]) -> dict[str, Any]:
    """torch's DataLoader over Hugging Face's processor: the same pictures in the same order, one text each."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from transformers import Idefics3Processor

    from smolforge.data.mix import Mixture

    edge, split = CASES[job["case"]]
    processor = Idefics3Processor.from_pretrained(Path(job["folder"]) / "model")
    processor.image_processor.do_image_splitting = split
    processor.image_processor.size = {"longest_edge": edge}
    rows = [json.loads(line) for line in (Path(job["folder"]) / "photos.jsonl").read_text().splitlines()]
    order = Mixture([len(rows)], seed=0)

    class Photos(Dataset):
        def __len__(self) -> int:
            return job["steps"] * job["size"]

        def __getitem__(self, number: int) -> Any:
            row = rows[order(number)[1]]
            messages = [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe the picture."}]},
                {"role": "assistant", "content": [{"type": "text", "text": row["captions"][0]}]},
            ]
            text = processor.apply_chat_template(messages)
            with Image.open(row["image"]) as picture:
                return processor(text=text, images=[picture.convert("RGB")], return_tensors="pt")

    loader = DataLoader(Photos(), batch_size=job["size"], num_workers=job["workers"], collate_fn=list)
    return _timed(iter(loader), job["size"])


def run_device(job: dict[str, Any]) -> dict[str, Any]:
    """Share of a step that is waited when a device computes for a given time: SIMULATED by sleeping."""
    stream, waits, began = open_feed(job), [], 0.0
    for number, step in enumerate(stream.steps(0, job["steps"], job["size"], workers=job["workers"])):
        if number == WARM:
            began = time.perf_counter() - step.waited
        if number >= WARM:
            waits.append(step.waited)
        time.sleep(job["device"])
    seconds = time.perf_counter() - began
    return {"waiting": sum(waits) / seconds, "step_s": seconds / len(waits)}


def run_train(job: dict[str, Any]) -> dict[str, Any]:
    """The same of `smolforge train` with the tiny model, on the CPU that feeds it."""
    from smolforge.data import pipeline
    from smolforge.recipe import Recipe
    from smolforge.training.loop import train
    from smolforge.training.tracking import read_metrics

    waits: list[float] = []
    prepared = pipeline.prepared

    def told(*args: Any, **settings: Any) -> Iterator[Any]:
        for made, waited in prepared(*args, **settings):
            waits.append(waited)
            yield made, waited

    pipeline.prepared = told  # type: ignore[assignment]
    folder = Path(job["folder"])
    settings = {
        "model": {"name": str(folder / "tiny")},
        "data": [{"source": str(folder / "photos.jsonl")}],
        "images": {"split": False, "longest_edge": 512},
        "batch": {"examples": job["size"]},
        "eval": {"examples": 1, "samples": 0},
        "run": {
            "dir": str(folder / f"run-{time.time_ns()}"), "steps": job["steps"], "save_every": job["steps"] + 1,
            "device": "cpu", "trackers": [], "workers": job["workers"],
        },
    }  # fmt: skip
    run = train(Recipe.model_validate(settings))
    lines = [entry for entry in read_metrics(run) if entry["kind"] == "train"]
    seconds = [job["size"] / entry["examples/s"] for entry in lines]
    assert len(waits) == len(seconds)
    return {"waiting": sum(waits[WARM:]) / sum(seconds[WARM:]), "step_s": statistics.mean(seconds[WARM:])}


PARTS = {"prepare": prepare, "ours": run_ours, "peer": run_peer, "device": run_device, "costs": run_costs, "train": run_train}

if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in PARTS:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        print(json.dumps(PARTS[sys.argv[1]](json.loads(sys.argv[2]))))
    else:
        main()
