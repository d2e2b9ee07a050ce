"""Questions about photos, answered by smolforge's evaluation and by Hugging Face's `generate`: same process, same weights.

The work: yes-or-no questions with POPE's prompt about COCO photos, put to a SmolVLM of the 256M shape. Three ways to the same
answers, each from the photo's file to the answer's text:

    smolforge   `evals.answers.answer`, which `smolforge evaluate` runs: it plans, encodes a picture once for all of its
                questions, continues them side by side, and keeps every answer in its store (empty at the start of each run)
    one by one  `model.generate` for each question
    batches     `model.generate` for left-padded batches; a photo's tiles are cut once a batch, and encoded once a question

Each stands for what its users write. Nobody may stop early: every answer has the same number of tokens on all sides.
Hugging Face's inputs are smolforge's own ids and tiles, which equal its processor's. Scoring is left out on all sides.

    .venv-bench/bin/python benchmarks/evaluate.py                  one tile and five, six questions a photo and one
    .venv-bench/bin/python benchmarks/evaluate.py --edge 512 --questions 6 --new-tokens 8 16
    .venv-bench/bin/python benchmarks/evaluate.py --quick          does it work: two photos, two questions each, one round

Before anything is timed, all sides answer all questions once in float32; their tokens must be equal.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from dpo_parts import Job, make_checkpoint
from side import SHARED, machine, matrix_rate, photos
from smolforge import generation
from smolforge.data.pipeline import decode_pictures, prepare
from smolforge.data.processor import load_renderer
from smolforge.data.render import Example, Renderer
from smolforge.evals.answers import Measured, Skips, answer, measured
from smolforge.evals.benchmark import Question
from smolforge.evals.benchmarks.pope import PROMPTS
from smolforge.loading import Loaded, load
from smolforge.model.build import quiet
from smolforge.recipe import ImagesSection
from smolforge.records import Media, Message, Record
from smolforge.store import Store

THINGS = ("dog", "car", "person", "chair", "bottle", "clock", "bowl", "train", "cat", "bench", "bird", "boat")
ASKED = 12  # questions of a case, where --pictures does not say otherwise
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # absent where the system is no Linux


@dataclass(frozen=True, kw_only=True)
class Case:
    """One setting to be timed."""

    edge: int  # longest edge of a photo in pixels: 512 is one tile, above that it is split
    questions: int  # a photo
    new_tokens: int  # of every answer
    pictures: int
    batch: int  # questions of a batch of Hugging Face's

    @property
    def images(self) -> ImagesSection:
        return ImagesSection(split=self.edge > 512, longest_edge=self.edge)

    def asked(self) -> list[Question]:
        """The questions in a benchmark's usual order, photo by photo."""
        shown = photos(SHARED)[: self.pictures]
        return [self._question(photo, thing) for photo, _ in shown for thing in THINGS[: self.questions]]

    def _question(self, photo: str, thing: str) -> Question:
        text = PROMPTS["lmms-eval"].replace("{question}", f"Is there a {thing} in the image?")
        message = Message(role="user", content=(Media(ref=Path(photo)), text))
        name = f"{Path(photo).name}/{thing}"
        record = Record(id=name, source="photos", messages=(message,), responses=())
        return Question(id=name, record=record, max_new_tokens=self.new_tokens, facts={})


# --- the sides: questions -> texts ---------------------------------------------------------------------------------


def by_smolforge(model: Measured, case: Case, questions: Sequence[Question]) -> list[str]:
    skips = Skips()
    answers, _ = answer(model, questions, skips, Console(quiet=True, force_terminal=False), "questions", None)
    assert not skips.reasons, skips.named
    return [answers[question.id].answer.text for question in questions]


def one_by_one(model: Measured, case: Case, questions: Sequence[Question]) -> list[str]:
    renderer = model.loaded.renderer
    examples = (prepare(question.record, renderer, reserve=case.new_tokens) for question in questions)
    return [text for example in examples for text in by_hugging_face(model.loaded, [example], case)]


def in_batches(model: Measured, case: Case, questions: Sequence[Question]) -> list[str]:
    texts: list[str] = []
    for first in range(0, len(questions), case.batch):
        decoded: dict[str, Any] = {}
        rendered = (
            model.loaded.renderer.render(question.record, reserve=case.new_tokens)
            for question in questions[first : first + case.batch]
        )
        texts += by_hugging_face(model.loaded, [decode_pictures(example, decoded) for example in rendered], case)
    return texts


SIDES: dict[str, Callable[[Measured, Case, Sequence[Question]], list[str]]] = {
    "smolforge": by_smolforge,
    "one by one": one_by_one,
    "batches": in_batches,
}
PEERS = ("one by one", "batches")


def by_hugging_face(loaded: Loaded, examples: Sequence[Example], case: Case) -> list[str]:
    """The model class's own `generate`, greedily, with its cache and SDPA."""
    model, device = loaded.model.model, loaded.device
    ids = pad_sequence([torch.from_numpy(e.nodes[0].ids) for e in examples], batch_first=True, padding_side="left")
    lengths = torch.tensor([len(e.nodes[0].ids) for e in examples])
    seen = torch.arange(ids.shape[1]) >= ids.shape[1] - lengths[:, None]  # (B, M)
    tiles = [torch.cat([torch.from_numpy(image.tiles) for image in e.images]).to(device) for e in examples]
    pixels = [((t.float() / 255 - loaded.model.mean) / loaded.model.std).to(loaded.model.dtype) for t in tiles]
    with torch.no_grad():
        out = model.generate(
            input_ids=ids.to(device),
            attention_mask=seen.long().to(device),
            pixel_values=pad_sequence(pixels, batch_first=True),  # (B, T, 3, P, P); it leaves tiles of zeros out
            generation_config=GenerationConfig(max_new_tokens=case.new_tokens, do_sample=False, use_cache=True, pad_token_id=0),
        )
    return [loaded.renderer.decode(new) for new in out[:, ids.shape[1] :].tolist()]


def without_stops(loaded: Loaded) -> Loaded:
    """No id ends an answer, neither smolforge's nor Hugging Face's."""
    generation.stop_ids = lambda _: frozenset()
    loaded.model.model.generation_config.eos_token_id = None
    assert loaded.model.model.config._attn_implementation == "sdpa"
    return loaded


# --- checking and timing -------------------------------------------------------------------------------------------


class Ids(Renderer):
    """Writes an answer's ids as numbers, so that answers are compared token by token."""

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What a side said, and what it held."""

    answers: list[list[int]]  # ids
    memory_bytes: int | None  # the most besides what was held before, such as the weights; None where that is not known


def rehearse(model: Measured, case: Case, questions: Sequence[Question], stores: Iterator[Store]) -> dict[str, Rehearsal]:
    """All sides once, not timed: a warm-up."""
    plain = load_renderer(model.loaded.folder, images=case.images)
    renderer = Ids(**{one.name: getattr(plain, one.name) for one in fields(plain)})
    found = {}
    for side, run in SIDES.items():
        fresh = replace(model, loaded=replace(model.loaded, renderer=renderer), answers=next(stores))
        grown = memory_from_here(model.loaded.device)
        answers = [[int(token) for token in text.split()] for text in run(fresh, case, questions)]
        lengths = {len(ids) for ids in answers}
        assert lengths == {case.new_tokens}, f"answers of {lengths} tokens, not of {case.new_tokens}"
        found[side] = Rehearsal(answers=answers, memory_bytes=grown())
    return found


def timed(model: Measured, case: Case, questions: Sequence[Question], side: str, stores: Iterator[Store]) -> float:
    """Seconds a question."""
    fresh = replace(model, answers=next(stores))
    began = time.perf_counter()
    SIDES[side](fresh, case, questions)
    return (time.perf_counter() - began) / len(questions)


def memory_from_here(device: torch.device) -> Callable[[], int | None]:
    """How to ask for the most bytes that come on top of those held now: of tensors on a GPU, else of the process."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        return lambda: torch.cuda.max_memory_allocated() - held
    if not CLEAR.exists():
        return lambda: None
    ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what the side before has freed
    CLEAR.write_text("5")  # the peak starts anew (proc(5))
    held = resident("VmRSS")
    return lambda: resident("VmHWM") - held


def resident(name: str) -> int:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def new_stores(folder: Path) -> Iterator[Store]:
    """Empty stores, one after the other."""
    number = 0
    while True:
        yield Store(folder / "answers" / f"{number}.sqlite", about={}, what="answers")
        number += 1


# --- the whole -----------------------------------------------------------------------------------------------------


def main() -> None:
    options = parse_options()
    if not SHARED.is_dir():
        sys.exit(f"{SHARED} is absent: this benchmark needs its photos and processor files")
    torch.set_num_threads(options.threads)
    rate = matrix_rate(options)
    with tempfile.TemporaryDirectory(prefix="smolforge-bench-") as name:
        folder = Path(name)
        # One pair is the least that a checkpoint of dpo.py's comes with.
        job = Job(folder=folder, edge=512, pairs=1, pairs_per_step=1, epochs=1, dtype="float32", shared=SHARED)
        with quiet():
            decoder = make_checkpoint(job)["decoder"]
        stores = new_stores(folder)
        exact = opened(job.checkpoint, folder, dtype="float32", device=options.device)
        model = exact
        if options.dtype != "float32":
            model = opened(job.checkpoint, folder, dtype=options.dtype, device=options.device)
        setting = {
            "machine": rate["gpu"] or machine(), "threads": options.threads, "torch": torch.__version__, "dtype": options.dtype,
            "decoder": decoder, "rounds": options.rounds, "matrix_tflops": rate["tflops"],
        }  # fmt: skip
        print(head(setting), flush=True)
        results = []
        for case in options.cases:
            results.append(measure(model, exact, case, options.rounds, stores))
            print(line(results[-1]), flush=True)
    print("\nequal answers: those that are smolforge's to the token, in float32.")
    print(json.dumps(setting | {"cases": results}))
    if different := [result for result in results if min(result["equal"].values()) < 1]:
        sys.exit(f"answers differ in {len(different)} of {len(results)} settings, see `equal`")


def opened(checkpoint: Path, folder: Path, *, dtype: str, device: str) -> Measured:
    return measured(dtype, without_stops(load(str(checkpoint), dtype=dtype, device=device)), cache=folder)


def measure(model: Measured, exact: Measured, case: Case, rounds: int, stores: Iterator[Store]) -> dict[str, Any]:
    """A case's figures by name; the sides take turns, so that a busy spell of the machine meets all of them."""
    questions = case.asked()
    said = rehearse(exact, case, questions, stores)
    held = said if model is exact else rehearse(model, case, questions, stores)
    renderer = load_renderer(model.loaded.folder, images=case.images)
    model = replace(model, loaded=replace(model.loaded, renderer=renderer))
    runs = [{side: timed(model, case, questions, side, stores) for side in SIDES} for _ in range(rounds)]
    ratios = {side: [run[side] / run["smolforge"] for run in runs] for side in PEERS}
    examples = [renderer.render(question.record) for question in questions]
    ours = said["smolforge"].answers
    return asdict(case) | {
        "tiles": statistics.mean(len(image.starts) for example in examples for image in example.images),
        "prompt_tokens": statistics.mean(example.depth for example in examples),
        "equal": {side: statistics.mean(a == b for a, b in zip(said[side].answers, ours, strict=True)) for side in PEERS},
        "different_answers": len(set(map(tuple, ours))),
        "seconds": {side: statistics.median(run[side] for run in runs) for side in SIDES},
        "ratio": {side: statistics.median(ratios[side]) for side in PEERS},
        "ratio_range": {side: [min(ratios[side]), max(ratios[side])] for side in PEERS},
        "memory_bytes": {side: held[side].memory_bytes for side in SIDES},
    }


def head(setting: dict[str, Any]) -> str:
    sides, peers = ("".join(f"{side:>11}" for side in names) for names in (SIDES, PEERS))
    return "\n".join(
        [
            f"{setting['machine']}; PyTorch {setting['torch']}, {setting['threads']} threads, {setting['dtype']}, "
            f"{setting['rounds']} rounds; a 2048-cubed matrix product reaches {setting['matrix_tflops']:.2f} TFLOP/s",
            f"decoder: {setting['decoder']}",
            "",
            f"{'':30}{'seconds a question':>33}{'times as long':>22}{'equal answers':>22}{'MiB besides the weights':>33}",
            f"{'edge':>4}{'tiles':>6}{'photos':>7}{'each':>5}{'tokens':>8}{sides}{peers}{peers}{sides}",
        ]
    )


def line(result: dict[str, Any]) -> str:
    mib = ("-" if held is None else f"{held / 2**20:.0f}" for held in result["memory_bytes"].values())
    cells = [f"{seconds:.3f}" for seconds in result["seconds"].values()]
    cells += [f"{ratio:.2f}" for ratio in result["ratio"].values()]
    cells += [f"{share:.0%}" for share in result["equal"].values()]
    setting = f"{result['edge']:4}{result['tiles']:6.1f}{result['pictures']:7}{result['questions']:5}{result['new_tokens']:8}"
    return setting + "".join(f"{cell:>11}" for cell in [*cells, *mib])


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, nargs="+", choices=(512, 1024), default=[512, 1024], help="longest edges (512 1024)")
    parser.add_argument("--questions", type=int, nargs="+", default=[6, 1], help="questions a photo (6 1)")
    parser.add_argument("--new-tokens", type=int, nargs="+", default=[8], help="tokens of every answer (8)")
    parser.add_argument("--pictures", type=int, help=f"photos (as many as {ASKED} questions need)")
    parser.add_argument("--batch", type=int, default=6, help="questions of a batch of Hugging Face's (6)")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each side, taken in turns (3)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where all sides compute (cpu)")
    parser.add_argument("--quick", action="store_true", help="two photos, two questions each, one tile, four tokens, one round")
    options = parser.parse_args()
    if options.quick:
        options.edge, options.questions, options.new_tokens, options.pictures, options.rounds = [512], [2], [4], 2, 1
        options.batch = 2
    most = len(photos(SHARED)) if SHARED.is_dir() else 1
    if not all(1 <= number <= len(THINGS) for number in options.questions):
        parser.error(f"--questions must be from 1 to {len(THINGS)}")
    if options.pictures is not None and not 1 <= options.pictures <= most:
        parser.error(f"--pictures must be from 1 to {most}, the number of photos")
    if min(options.batch, options.rounds, *options.new_tokens) < 1:
        parser.error("--batch, --rounds and --new-tokens must be at least 1")
    options.cases = [
        Case(edge=edge, questions=each, new_tokens=new, pictures=options.pictures or max(1, ASKED // each), batch=options.batch)
        for edge, each, new in product(options.edge, options.questions, options.new_tokens)
    ]
    return options


if __name__ == "__main__":
    main()
