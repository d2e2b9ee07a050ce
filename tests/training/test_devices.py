"""Many processes, one result: copies of the model and a sharded model reach a single process's numbers, whatever each process
holds, and a run goes on with another number of processes.

Real processes over gloo on one machine, real SIGKILLs.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from apart import COUNTED, count_apart, dies_in_save, train_apart
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch.distributed.fsdp import CPUOffloadPolicy
from transformers import LlamaForCausalLM, SmolVLMForConditionalGeneration

import smolforge
from smolforge.data.pipeline import open_stream
from smolforge.data.processor import load_renderer
from smolforge.data.sources.catalog import modality_of
from smolforge.errors import CheckpointError, RecipeError
from smolforge.objectives import Sums, objective_of
from smolforge.recipe import PreferenceSection, Recipe, SftSection, parse_recipe
from smolforge.recipe.objectives import LossName
from smolforge.tiny import shrink
from smolforge.training import chores
from smolforge.training.checkpoint import UNFINISHED, checkpoint_steps, newest_checkpoint
from smolforge.training.runtime import Runtime, buckets, launched_sharding
from smolforge.training.sharding import blank_row, refuse_unfit
from smolforge.training.shards import read_tensors, rows_of, write_shard
from smolforge.training.tracking import read_metrics

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false"}
DDP: dict[str, str] = {}
CHUNKED = FSDP | {"TILE_CHUNK": "1"}  # rows have few tiles here, each a chunk of its own
STEPS, SIZE, THAW = 10, 8, 5

# Largest relative difference of a step's loss from the single process's, in float32: 1.0e-7 with copies, 2.0e-7 sharded, both
# from the order of additions, on an x86-64 CPU with PyTorch 2.13. The two stages: 0.7e-7 with copies, 0.9e-7 sharded or resumed.
SAME = 1e-5
# Largest distance of all weights together at the end, AdamW dividing by gradients near zero: 6e-7, killed and resumed 7.5e-7.
NEAR = 1e-5
# In bfloat16, where the gradient of each row is rounded to 8 bits: 0.9e-3 with copies, 1.2e-3 sharded.
ROUNDED = 4e-3

Make = Callable[..., Recipe]
Launch = Callable[..., list[BaseProcess]]
Act = Callable[[Recipe, dict[str, str]], None]


@pytest.fixture(scope="module")
def make(tiny: Path, module_path: Path) -> Make:
    """A run on few pictures among texts, in rows of 96 tokens, whose tower thaws in the middle."""
    folder = module_path
    texts = [{"prompt": f"count to {n}", "completion": " ".join(map(str, range(n)))} for n in range(1, 10)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, texts)))

    def make(name: str, **sections: Any) -> Recipe:
        run = {
            "dir": str(folder / name), "steps": STEPS, "save_every": 4, "device": "cpu", "trackers": [], "workers": 0,
        } | sections.pop("run", {})  # fmt: skip
        tree = {
            "model": {"name": str(tiny)},
            "data": [{"source": "scenes", "weight": 0.15}, {"source": str(folder / "rows.jsonl"), "weight": 0.85}],
            "eval": {"data": [{"source": "scenes", "split": "test"}], "examples": 6, "samples": 0},
            "optim": {"lr": 1e-3, "warmup": 2},
            "batch": {"examples": SIZE, "row_tokens": 96},
            "cache": {"dir": str(folder / f"cache-{name}")},
            "freeze": {"vision": THAW},
            "run": run,
        }
        return parse_recipe(tree | sections)

    return make


@pytest.fixture(scope="module")
def launch(start_process, meeting_place) -> Launch:
    """Start a run in several processes; they wait for each other."""

    def launch(
        recipe: Recipe,
        world: int = 1,
        how: dict[str, str] = DDP,
        *,
        first: dict[str, str] = DDP,
        last: dict[str, str] = DDP,
        act: Act = train_apart,
    ) -> list[BaseProcess]:
        if world == 1:
            return [start_process(recipe, **first)]
        apart = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
        apart[0] |= first
        apart[-1] |= last
        shared = meeting_place(world)
        return [start_process(recipe, act, **shared, **how, **own) for own in apart]

    return launch


@pytest.fixture(scope="module")
def killed(launch: Launch) -> Callable[..., None]:
    """Run until the first process is killed in a checkpoint; the others are killed right after."""

    def killed(recipe: Recipe, world: int, how: dict[str, str], *, step: int, file: int) -> None:
        first, *others = launch(recipe, world, how, first=dies_in_save(step, file))
        first.join(600)
        assert first.exitcode == -signal.SIGKILL
        for process in others:
            process.kill()
            process.join()
        assert any((recipe.run.dir / "checkpoints").glob(f"*{UNFINISHED}/*")), "it was not killed in the midst of it"

    return killed


@pytest.fixture(scope="module")
def finished(launch: Launch) -> Callable[..., Path]:
    """Run to the end; its folder."""

    def finished(recipe: Recipe, world: int = 1, how: dict[str, str] = DDP) -> Path:
        for process in launch(recipe, world, how):
            process.join(600)
            assert process.exitcode == 0
        return recipe.run.dir

    return finished


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in read_metrics(folder) if entry["kind"] == "train"]


MIXED: dict[str, Any] = {
    "eval": {"data": [{"source": "scenes", "split": "test"}], "examples": 6, "samples": 1, "max_new_tokens": 4},
    "run": {"eval_every": 4},
}


@pytest.fixture(scope="module")
def one(make: Make, finished) -> Path:
    """What a single process makes of it."""
    return finished(make("one", **MIXED))


def test_processes_hold_different_things(make: Make) -> None:
    """Or the tests below would show nothing: pictures on one process only, before and after the thaw, and rows on one only."""
    recipe = make("looked-at")
    renderer = load_renderer(Path(recipe.model.name), images=recipe.images, row_tokens=recipe.batch.row_tokens)
    stream = open_stream(recipe.data, renderer, shaping=objective_of(recipe.objective).shaping, seed=recipe.run.seed)
    ranks = [[*stream.steps(0, STEPS, SIZE, rank=rank, world=2)] for rank in range(2)]
    pictures = [[any(len(row.tiles) for row in step.rows) for step in steps] for steps in ranks]
    alone = [step for step in range(STEPS) if pictures[0][step] != pictures[1][step]]
    assert min(alone) < THAW <= max(alone)
    assert any(len(a.rows) != len(b.rows) for a, b in zip(*ranks))
    assert any(len(step.rows) > 1 for step in ranks[0])


@pytest.mark.parametrize("how", [DDP, FSDP], ids=["copies", "sharded"])
def test_two_processes_take_the_steps_of_one(make: Make, finished, one: Path, how: dict[str, str]) -> None:
    """Every step's loss, with held-out losses and samples in between, for which only one process asks the model."""
    two = finished(make(f"two-{len(how)}", **MIXED), 2, how)
    assert losses(two) == pytest.approx(losses(one), rel=SAME)
    held = [[entry["loss"] for entry in read_metrics(folder) if entry["kind"] == "eval"] for folder in (one, two)]
    assert len(held[0]) == 4
    assert held[1] == pytest.approx(held[0], rel=SAME)
    assert (two / "samples" / "after.jsonl").read_text() == (one / "samples" / "after.jsonl").read_text()
    newest = newest_checkpoint(two / "checkpoints")
    assert newest is not None
    shards = sorted(path.name for path in newest.glob("optimizer*"))
    assert shards == (
        ["optimizer-00000-of-00002.safetensors", "optimizer-00001-of-00002.safetensors"] if how else ["optimizer.safetensors"]
    )
    assert apart(newest, two / "model") == 0
    assert apart(two / "model", one / "model") < NEAR


def apart(folder: Path, other: Path) -> float:
    """|a - b| / |b| of all weights together, as Hugging Face's own class reads them."""
    a, b = (SmolVLMForConditionalGeneration.from_pretrained(path).state_dict() for path in (folder, other))
    assert a.keys() == b.keys()
    squares = torch.tensor([[float((a[name] - b[name]).square().sum()), float(b[name].square().sum())] for name in a])
    total = squares.sum(0).sqrt()
    return float(total[0] / total[1])


@pytest.mark.slow
def test_killed_and_resumed_by_other_numbers_of_processes(make: Make, killed, finished) -> None:
    """Two sharded, killed while they save; one, killed; two sharded, killed; one to the end: the steps of a run in one go."""
    settings = {"run": {"steps": 24, "save_every": 2}}
    whole = finished(make("whole", **settings))
    recipe = make("killed", **settings)
    draw = random.Random(0)
    checkpoints = recipe.run.dir / "checkpoints"
    for world, target in ((2, 4), (1, 8), (2, 14)):
        killed(recipe, world, FSDP if world > 1 else DDP, step=target + 1, file=draw.randrange(2, 16))  # in the next one
        assert checkpoint_steps(checkpoints)[-1] == target
        assert all((checkpoints / name / "state.json").is_file() for name in os.listdir(checkpoints) if UNFINISHED not in name)
    finished(recipe)
    assert not list(checkpoints.glob(f"*{UNFINISHED}"))
    assert losses(recipe.run.dir) == pytest.approx(losses(whole), rel=SAME)
    assert apart(recipe.run.dir / "model", whole / "model") < NEAR


# --- what moves, who ends ----------------------------------------------------------------------------------------------

TOWER, LAYERS = 3, 4  # units of the tower, its two layers and the rest of it; of the decoder


@pytest.mark.parametrize("trains", [True, False], ids=["trains", "frozen"])
def test_the_tower_is_gathered_once_for_all_chunks_of_a_row(make: Make, launch: Launch, trains: bool) -> None:
    """Three chunks or one: every unit (tower, connector, decoder, root) forward, and all but the root again backward. Of a frozen
    tower nothing moves backward."""
    recipe = make(f"counted-{trains}", freeze={"vision": not trains}, run={"gradient_checkpointing": trains})
    for process in launch(recipe, 2, FSDP, act=count_apart):
        process.join(600)
        assert process.exitcode == 0
    forward, again = TOWER + 1 + LAYERS + 1, TOWER * trains + 1 + LAYERS
    row = {"forward": {"gathers": forward}, "all": {"gathers": forward + again, "sums": again + 1}}
    for rank in range(2):
        lines = (recipe.run.dir / f"counts-{rank}.json").read_text().splitlines()
        assert [json.loads(line) for line in lines] == [row] * len(COUNTED)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells a process that its parent is gone")
def test_ranks_end_with_a_launcher_that_is_killed(make: Make, tmp_path: Path) -> None:
    """The launcher is PyTorch's, which accelerate's calls too. Its ranks save, as they do when they are told to end."""
    recipe = make("launched", run={"steps": 100_000, "save_every": 100_000})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_unset=True)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launcher = subprocess.Popen([*torchrun, "-m", "smolforge.cli", "train", str(tmp_path / "recipe.yaml")])
    ranks: list[int] = []
    try:
        wait_for(lambda: launcher.poll() is not None or len(losses(recipe.run.dir)) > 1)
        ranks = [int(pid) for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]
        assert len(ranks) == 2
        launcher.kill()
        launcher.wait()
        wait_for(lambda: not any(map(is_running, ranks)))
        assert checkpoint_steps(recipe.run.dir / "checkpoints") == [len(losses(recipe.run.dir))]
    finally:
        launcher.kill()
        launcher.wait()
        for rank in filter(is_running, ranks):
            os.kill(rank, signal.SIGKILL)


def test_signals_that_come_together_are_one(monkeypatch) -> None:
    """The kernel may tell a rank once for each thread of its launcher; it saves. Whoever asks again later will not wait."""
    with chores.stop_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop == [signal.SIGINT] * 2
        monkeypatch.setattr(chores, "TOGETHER", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def wait_for(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 600
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


def is_running(process: int) -> bool:
    """Neither gone nor a zombie, which waits for whoever took it over to ask for its end."""
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- the two stages ----------------------------------------------------------------------------------------------------

STAGE_STEPS, STAGE_SIZE = 6, 6


@pytest.fixture(scope="module")
def stage(module_path: Path) -> Make:
    """A stage of the shipped recipes, small, in float32: pictures with a tower that thaws in the middle, or all four modalities
    from what another run made of the first stage. Rows of 256 tokens, so that a process has several."""
    folder = module_path / "stages"
    folder.mkdir()

    def stage(which: str, name: str, start: Path | None = None) -> Recipe:
        said = [f"run.steps={STAGE_STEPS}", f"run.dir={folder / name}", "run.workers=0", "model.dtype=float32"]
        with pytest.MonkeyPatch.context() as here:
            here.chdir(folder)
            small = shrink(ROOT / "recipes" / f"smolvlm2-256m-{which}.yaml", said)
            tree = small.model_dump(mode="json", exclude_unset=True)
            tree["model"]["name"] = str((start / "model" if start else Path(small.model.name)).resolve())
        if which == "vision":
            tree["freeze"] = {"vision": STAGE_STEPS // 2}
        tree["batch"] = {"examples": STAGE_SIZE, "row_tokens": 256}
        tree["run"] |= {"device": "cpu", "save_every": 1, "eval_every": STAGE_STEPS}
        return parse_recipe(tree)

    return stage


@pytest.fixture(scope="module")
def stages(stage: Make, finished) -> list[Path]:
    """Both in a single process."""
    vision = finished(stage("vision", "one-vision"))
    return [vision, finished(stage("video", "one-video", vision))]


@pytest.mark.parametrize(
    ("which", "kinds"), [("vision", {"image", "text"}), ("video", {"image", "text", "video", "multi_image"})]
)
def test_stages_hold_what_they_should(stage: Make, which: str, kinds: set[str]) -> None:
    """Or the tests below would show nothing: every modality, several rows, and rows of one process without a counterpart."""
    recipe = stage(which, "looked-at")
    renderer = load_renderer(
        Path(recipe.model.name), images=recipe.images, video=recipe.video, row_tokens=recipe.batch.row_tokens
    )
    stream = open_stream(
        recipe.data, renderer, shaping=objective_of(recipe.objective).shaping, seed=recipe.run.seed, mixture=recipe.mixture,
        examples=STAGE_SIZE,
    )  # fmt: skip
    found = Counter(modality_of(stream.record(index)) for index in range(STAGE_STEPS * STAGE_SIZE))
    assert found.keys() == kinds
    ranks = [[*stream.steps(0, STAGE_STEPS, STAGE_SIZE, rank=rank, world=2)] for rank in range(2)]
    assert any(len(a.rows) != len(b.rows) for a, b in zip(*ranks))
    assert any(bool(len(x.tiles)) != bool(len(y.tiles)) for a, b in zip(*ranks) for x, y in zip(a.rows, b.rows))
    chunked = [any(len(row.tiles) > 1 for steps in ranks for row in steps[step].rows) for step in range(STAGE_STEPS)]
    assert any(chunked[: STAGE_STEPS // 2])
    assert any(chunked[STAGE_STEPS // 2 :])  # where the tower of the first stage has thawed


@pytest.mark.slow
@pytest.mark.parametrize("how", [DDP, CHUNKED], ids=["copies", "sharded"])
def test_two_processes_take_the_two_stages_of_one(stage: Make, finished, stages: list[Path], how: dict[str, str]) -> None:
    vision = finished(stage("vision", f"two-vision-{len(how)}"), 2, how)
    video = finished(stage("video", f"two-video-{len(how)}", vision), 2, how)
    for two, one in zip((vision, video), stages):
        assert losses(two) == pytest.approx(losses(one), rel=SAME)
        assert len(losses(two)) == STAGE_STEPS
        assert apart(two / "model", one / "model") < NEAR


@pytest.mark.parametrize("how", [DDP, CHUNKED], ids=["copies", "sharded"])
@pytest.mark.parametrize("which", ["vision", pytest.param("video", marks=pytest.mark.slow)])
def test_a_stage_killed_on_one_and_on_two_processes_and_resumed(
    stage: Make, killed, finished, stages: list[Path], which: str, how: dict[str, str]
) -> None:
    """One, killed before the thaw; two, which make it, killed behind it; one to the end: the steps of a run in one go."""
    recipe = stage(which, f"killed-{which}-{len(how)}", stages[0] if which == "video" else None)
    for world, last in ((1, 1), (2, STAGE_STEPS // 2 + 1)):
        killed(recipe, world, how, step=last + 1, file=3)
        assert checkpoint_steps(recipe.run.dir / "checkpoints")[-1] == last
    finished(recipe)
    one = stages[which == "video"]
    assert losses(recipe.run.dir) == pytest.approx(losses(one), rel=SAME)
    assert apart(recipe.run.dir / "model", one / "model") < NEAR


# --- other models and failures -----------------------------------------------------------------------------------------


def test_what_one_process_cannot_write_ends_all(make: Make, launch: Launch) -> None:
    """The others would wait forever, or rename a checkpoint into place that is not whole."""
    recipe = make("full", run={"steps": 4, "save_every": 4})
    processes = launch(recipe, 2, FSDP, last={"LARGEST_FILE": str(2**20)})  # its shard has four times that
    for process in processes:
        process.join(600)
        assert process.exitcode == 1
    assert os.listdir(recipe.run.dir / "checkpoints") == []


def test_bfloat16_over_float32_shards(make: Make, finished) -> None:
    """Masters are the shards; saved weights are rounded like a single process's."""
    settings = {"model": make("x").model.model_dump() | {"dtype": "bfloat16"}}
    one, two = finished(make("one16", **settings)), finished(make("two16", **settings), 2, FSDP)
    assert losses(two) == pytest.approx(losses(one), rel=ROUNDED)
    assert {tensor.dtype for tensor in load_file(two / "model" / "model.safetensors").values()} == {torch.bfloat16}
    newest = newest_checkpoint(two / "checkpoints")
    assert newest is not None
    masters = {name: tensor for name, tensor in read_tensors(newest).items() if name.startswith("master.")}
    saved = load_file(newest / "model.safetensors")
    assert all(torch.equal(tensor.bfloat16(), saved[name.removeprefix("master.")]) for name, tensor in masters.items())
    assert masters.keys() == {f"master.{name}" for name in saved}


def test_lora_against_its_base(make: Make, finished) -> None:
    """DPO with adapters, whose reference asks the model with the adapters off, a different number of times on each process."""
    settings = {
        "data": [{"source": "scene_pairs", "split": "train[:12]"}],
        "eval": {"data": [{"source": "scene_pairs", "split": "test[:4]"}], "examples": 4, "samples": 0},
        "objective": {"kind": "dpo", "reference": {"kind": "adapters_off"}},
        "adapters": {"r": 4, "on": ["text", "vision"]},
        "batch": {"examples": 3, "row_tokens": 128},
        "freeze": {},
        "run": {"steps": 4},
    }
    one, two = finished(make("oneL", **settings)), finished(make("twoL", **settings), 2, FSDP)
    assert losses(two) == pytest.approx(losses(one), rel=SAME)
    assert losses(two)[-1] != pytest.approx(losses(two)[0], rel=1e-3), "nothing was learnt, so nothing was compared"
    saved = [load_file(folder / "model" / "adapter_model.safetensors") for folder in (one, two)]
    assert saved[0].keys() == saved[1].keys()
    assert all(torch.allclose(saved[0][name], saved[1][name], atol=4e-5) for name in saved[0])
    assert smolforge.load(str(two)).model.adapters


@pytest.mark.parametrize("loss", ["sft", *get_args(LossName)])
def test_a_blank_row_teaches_nothing(tiny: Path, loss: str) -> None:
    """Whatever the objective: its loss is 0 with a graph to every weight, and its metrics are those of the other rows."""
    section: dict[str, Any] = {"kind": "sft"} if loss == "sft" else {"kind": "dpo", "loss": loss}
    section |= {"label_smoothing": 0.1} if loss == "exo_pair" else {}
    objective = objective_of(TypeAdapter(SftSection | PreferenceSection).validate_python(section))
    loaded = smolforge.load(str(tiny), device="cpu")
    row = blank_row(loaded.device, compared=objective.needs_reference)
    output = objective.loss(loaded.model(row), row, {"kl": 0.5})
    value = output.loss(dict.fromkeys(objective.units, 1.0))
    value.backward()
    assert float(value.detach()) == 0
    decoder = dict(loaded.model.decoder.named_parameters())
    assert all(p.grad is not None and not p.grad.any() for p in decoder.values())
    sums = Sums(objective, compared=objective.needs_reference)
    sums.add(output, value)
    assert not any(sums.totals.values())


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("writers", "readers"), [(1, 2), (2, 1), (3, 2), (4, 5)])
def test_shards_are_read_by_any_number(tmp_path: Path, writers: int, readers: int) -> None:
    """Also where a tensor has fewer rows than there are processes."""
    whole = {"tall": torch.arange(22.0).view(11, 2), "flat": torch.arange(3.0)}
    for rank in range(writers):
        rows = {name: rows_of(len(tensor), rank, writers) for name, tensor in whole.items()}
        mine = {f"exp_avg.{name}": tensor[rows[name].start : rows[name].stop] for name, tensor in whole.items()}
        write_shard(tmp_path, mine | {"step.tall": torch.tensor(7.0)}, rows, rank=rank, world=writers)
    for rank in range(readers):
        share = lambda total: rows_of(total, rank, readers)  # noqa: B023, E731 - asked within this turn
        found = read_tensors(tmp_path, share)
        assert float(found["step.tall"]) == 7
        for name, tensor in whole.items():
            assert torch.equal(found[f"exp_avg.{name}"], tensor[[*share(len(tensor))]])
    assert torch.equal(read_tensors(tmp_path)["exp_avg.tall"], whole["tall"])


def test_a_missing_shard_is_told(tmp_path: Path) -> None:
    for rank in range(2):
        write_shard(tmp_path, {"exp_avg.a": torch.ones(1, 2)}, {"a": range(rank, rank + 1)}, rank=rank, world=2)
    (tmp_path / "optimizer-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="1 of 2 optimizer files"):
        read_tensors(tmp_path)


def test_buckets_keep_order_and_size() -> None:
    tensors = [torch.zeros(n) for n in (10, 10, 30, 1, 1)]
    found = [*buckets(tensors, 80)]
    assert [[len(tensor) for tensor in bucket] for bucket in found] == [[10, 10], [30], [1, 1]]
    assert [tensor for bucket in found for tensor in bucket] == tensors


# --- launching -------------------------------------------------------------------------------------------------------

UNFIT = [
    ({"adapters": {"r": 4}, "quantize": {"kind": "nf4"}, "freeze": {}}, "quantised"),
    ({"adapters": {"method": "prompt"}, "freeze": {}}, "virtual tokens"),
    ({"adapters": {"method": "adalora"}, "freeze": {}}, "adalora"),
    ({"optim": {"kind": "adamw_8bit"}}, "moments"),
]


@pytest.mark.parametrize(("sections", "words"), UNFIT, ids=[words for _, words in UNFIT])
def test_what_cannot_be_sharded_is_refused(make: Make, sections: dict[str, Any], words: str) -> None:
    recipe = make("unfit", **sections)
    refuse_unfit(recipe, sharded=False, mixed_precision="no")
    with pytest.raises(RecipeError, match=f"{words}.*ddp.yaml"):
        refuse_unfit(recipe, sharded=True, mixed_precision="no")


def test_the_launcher_s_precision_is_the_recipe_s(make: Make) -> None:
    with pytest.raises(RecipeError, match="the recipe decides"):
        refuse_unfit(make("unfit"), sharded=False, mixed_precision="bf16")


def test_processes_that_cannot_work_together_are_refused(make: Make, monkeypatch) -> None:
    """Each would write into the same folder. A real case: torchrun without LOCAL_RANK reaching the process."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(RecipeError, match="cannot work together"):
        Runtime(make("apart", run={"device": "mps"}).run)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_configurations_say_what_they_should(config: Path, monkeypatch) -> None:
    """Through accelerate's own reader and launcher into the options that a run gets."""
    assert load_config_from_file(str(config)).mixed_precision == "no"
    arguments = launch_command_parser().parse_args(["--config_file", str(config), "-m", "smolforge.cli", "train", "x.yaml"])
    arguments, _, _ = _validate_launch_command(arguments)
    for name, value in prepare_multi_gpu_env(arguments).items():
        if name.startswith(("FSDP_", "ACCELERATE_")):
            monkeypatch.setenv(name, value)
    plugin = launched_sharding()
    assert (plugin is None) == (config.stem in ("ddp", "cpu"))
    assert arguments.num_processes == {"fsdp-multinode": 64, "cpu": 2}.get(config.stem, 8)
    if plugin is not None:
        assert plugin.reshard_after_forward is True
        assert plugin.activation_checkpointing == isinstance(plugin.cpu_offload, CPUOffloadPolicy) == ("offload" in config.stem)


@pytest.mark.parametrize("option", [{"FSDP_VERSION": "1"}, {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}], ids=str)
def test_options_that_are_not_supported_are_refused(monkeypatch, option: dict[str, str]) -> None:
    for name, value in (FSDP | option).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match="set it to"):
        launched_sharding()


def test_slurm_script(tmp_path: Path) -> None:
    """What reaches a machine's launcher, of commands that only print what they are given."""
    script = ROOT / "configs" / "slurm" / "train.sbatch"
    told = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert (told.returncode, "usage" in told.stderr) == (2, True)
    stand_ins = {
        "scontrol": "echo first; sleep 0.1; echo second",  # whoever stops reading after the first kills it
        "srun": 'shift; exec env SLURM_NODEID=1 "$@"',
        "accelerate": 'echo "$SRUN_CPUS_PER_TASK $TORCH_ELASTIC_SHUTDOWN_TIMEOUT"; printf "%s\\n" "$@"',
    }
    for name, line in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "x[1-2]", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "48"}
    environment = os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    made = subprocess.run(
        ["bash", str(script), "my.yaml", "run.steps=3"], capture_output=True, text=True, check=True, env=environment
    )
    first, *given = made.stdout.splitlines()
    cores, seconds = map(int, first.split())
    assert cores == 48
    before = re.search(r"--signal=TERM@(\d+)\n", script.read_text())
    assert before is not None
    assert 60 <= seconds < int(before[1]), "the launcher must kill before Slurm does, and not long before"
    arguments = launch_command_parser().parse_args(given[1:])
    assert (arguments.num_machines, arguments.num_processes, arguments.machine_rank) == (2, 16, 1)
    assert (arguments.main_process_ip, arguments.main_process_port) == ("first", 20007)
    assert (arguments.training_script, arguments.training_script_args) == ("smolforge.cli", ["train", "my.yaml", "run.steps=3"])


def test_tied_weights_are_gathered_once_on_every_process(make: Make, finished, tmp_path: Path) -> None:
    """A SmolLM2's head is its table of tokens; what is saved is tied again."""
    from smolforge.tiny import assemble_text

    assemble_text(tmp_path / "text")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "text")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path / "text")
    data = [section.model_dump(mode="json") for section in make("text").data][1:]
    settings = {
        "model": {"name": str(tmp_path / "text")}, "data": data, "eval": {"data": data, "examples": 4, "samples": 0},
        "freeze": {}, "run": {"steps": 3, "save_every": 3},
    }  # fmt: skip
    alone, sharded = finished(make("tied-one", **settings)), finished(make("tied-two", **settings), 2, FSDP)
    assert losses(sharded) == pytest.approx(losses(alone), rel=1e-5)
    saved = LlamaForCausalLM.from_pretrained(sharded / "model")
    assert saved.lm_head.weight.data_ptr() == saved.model.embed_tokens.weight.data_ptr()
