"""Preference runs: wherever the reference and the features come from, however often the run dies, the numbers are the same.

Real runs of the tiny model on drawn scenes with a true and a false caption.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from smolforge.errors import CheckpointError, ModelError, TrainingError
from smolforge.recipe import Recipe, parse_recipe
from smolforge.training.loop import train
from smolforge.training.runtime import Runtime
from smolforge.training.setup import set_up
from smolforge.training.tracking import read_metrics

MakeRun = Callable[..., Recipe]

VISION = {"freeze": {"vision": True}}
SEEING = {"freeze": {"vision": True, "connector": True}}
LORA = {"adapters": {"r": 4}, "optim": {"lr": 5e-3, "warmup": 2}}
DORA = {"adapters": {"r": 4, "method": "dora"}, "optim": {"lr": 5e-3, "warmup": 2}}
LORA_CONNECTOR = {"adapters": {"r": 4, "on": ["text", "connector"]}, "optim": {"lr": 5e-3, "warmup": 2}}


@pytest.fixture
def make_run(tiny: Path, tmp_path: Path) -> MakeRun:
    """Recipe of a DPO run on 12 pairs, so that ten steps of four are three epochs and a third; sections replace the ones here."""

    def make(
        name: str = "run", *, cache: dict[str, Any] | None = None, run: dict[str, Any] | None = None, **sections: Any
    ) -> Recipe:
        tree = {
            "model": {"name": str(tiny)},
            "data": [{"source": "scene_pairs", "split": "train[:12]"}],
            "eval": {"data": [{"source": "scene_pairs", "split": "test[:8]"}], "examples": 8, "samples": 0},
            "objective": {"kind": "dpo"},
            "optim": {"lr": 1e-3, "warmup": 2},
            "batch": {"examples": 4, "row_tokens": 256},
            "cache": {"dir": str(tmp_path / "cache")} | (cache or {}),
            "run": {"dir": str(tmp_path / name), "steps": 10, "save_every": 100, "device": "cpu", "trackers": [], "workers": 0}
            | (run or {}),
        }
        return parse_recipe(tree | sections)

    return make


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in read_metrics(folder) if entry["kind"] == "train"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "model").glob("*.safetensors")))


def assert_equal_weights(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def objective(**settings: Any) -> dict[str, Any]:
    return {"kind": "dpo"} | settings


def reference(kind: str) -> dict[str, Any]:
    return objective(reference={"kind": kind})


# --- where reference and features come from ---------------------------------------------------------------------------

# The first of each is what the others must equal. Measured: equal to the last bit on an x86-64 CPU with PyTorch 2.13 (one
# thread); 1e-5 leaves room for kernels whose sums depend on how many tiles or tokens come at a time.
SAME = 1e-5
WAYS = {
    "vision frozen": (VISION, [("precomputed", False), ("precomputed", True), ("copy", False)]),
    "vision and connector frozen": (SEEING, [("precomputed", False), ("copy", False), ("precomputed", True)]),
    "lora": (LORA, [("adapters_off", False), ("copy", True), ("precomputed", True)]),
    "dora": (DORA, [("adapters_off", False), ("precomputed", True)]),
    "lora on the connector": (LORA_CONNECTOR, [("precomputed", False), ("adapters_off", True), ("copy", False)]),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_caches_and_references_change_no_loss(make_run, tmp_path, way):
    sections, combinations = WAYS[way]
    curves = []
    for number, (kind, features) in enumerate(combinations):
        cache = {"features": features, "dir": str(tmp_path / f"cache{number}")}
        folder = train(make_run(f"run{number}", cache=cache, objective=reference(kind), **sections))
        curves.append(losses(folder))
        assert len(curves[-1]) == 10
        assert bool(list((tmp_path / f"cache{number}").glob("features/*/*/*.npy"))) == features
        assert bool(list((tmp_path / f"cache{number}").glob("reference/*.sqlite"))) == (kind == "precomputed")
    for combination, curve in zip(combinations, curves):
        assert curve == pytest.approx(curves[0], rel=SAME), combination


def test_a_second_run_finds_features_and_reference(make_run, tmp_path, capsys):
    """The cache belongs to weights and contents, not to a run: another run of the same start computes nothing again."""
    settings = {"cache": {"features": True}, "objective": reference("precomputed")} | SEEING
    first = train(make_run("first", **settings))
    kept = {file: file.stat().st_ino for file in (tmp_path / "cache").glob("features/*/*/*.npy")}
    assert len(kept) == 20  # 12 to train on and 8 held out
    second = train(make_run("second", **settings))
    said = capsys.readouterr().err
    assert "reference of training examples: 0 computed" in said
    assert "12 kept" in said
    assert {file: file.stat().st_ino for file in (tmp_path / "cache").glob("features/*/*/*.npy")} == kept
    assert losses(first) == losses(second)
    assert_equal_weights(first, second)


def test_auto_computes_ahead_what_comes_more_than_once(make_run, tmp_path):
    """12 pairs: in three steps of four each comes once, and the adapters are switched off; from the fourth on it pays to keep."""
    for steps, kept in ((3, False), (4, True)):
        train(make_run(f"run{steps}", run={"steps": steps}, cache={"dir": str(tmp_path / f"c{steps}")}, **LORA))
        assert (tmp_path / f"c{steps}" / "reference").exists() == kept


@pytest.mark.parametrize("sections", [{}, SEEING], ids=["all trains", "vision and connector frozen"])
def test_another_model_as_the_reference(make_run, tmp_path, sections):
    """A copy and kept log-probs of another checkpoint, with a tower of its own, agree, and differ from the run's own start."""
    other = train(make_run("other", run={"steps": 6}))
    curves = [
        losses(train(make_run(kind, objective=objective(reference={"kind": kind, "model": str(other)}), **sections)))
        for kind in ("copy", "precomputed")
    ]
    assert curves[1] == pytest.approx(curves[0], rel=SAME)
    assert abs(curves[0][0] - math.log(2)) > 1e-2


# --- what a run measures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["copy", "precomputed"])
def test_what_a_run_measures(make_run, kind):
    """Policy and reference are equal at the start: log sigmoid(0) = -log 2 a pair, and every pair is a tie by reward."""
    data = [{"source": "scene_pairs", "split": "train[:48]"}]
    batch, optim = {"examples": 8, "row_tokens": 512}, {"lr": 3e-4, "warmup": 2}
    folder = train(make_run(data=data, objective=reference(kind), batch=batch, optim=optim, run={"steps": 8}))
    assert losses(folder)[0] == pytest.approx(math.log(2), rel=1e-6)
    told = summary(folder)
    before, after = (told["preferences"][when]["scene_pairs"] for when in ("before", "after"))
    assert before["pairs"] == after["pairs"] == 8
    assert before["reward"] == {"accuracy": 0.0, "low": 0.0, "high": 0.0, "ties": 1.0}
    assert after["reward"]["ties"] == 0.0
    for scores in (before, after):
        for measure in ("sum", "token", "reward"):
            assert scores[measure]["low"] <= scores[measure]["accuracy"] <= scores[measure]["high"]
    assert told["before"]["rewards/margins"] == 0.0
    assert told["after"]["rewards/margins"] > 0.05  # measured: 0.2
    assert told["after"]["accuracy/reward"] == after["reward"]["accuracy"]
    assert told["after"]["loss"] < told["before"]["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert (told["prepare_seconds"] > 0) == (kind == "precomputed")
    for when in ("before", "after"):
        lines = [json.loads(line) for line in (folder / "preferences" / f"{when}.jsonl").read_text().splitlines()]
        assert len(lines) == 8
        assert {line["id"] for line in lines} == {str(number) for number in range(8)}
        for line in lines:
            own = line["chosen"] == line["chosen_reference"] and line["rejected"] == line["rejected_reference"]
            assert own == (when == "before")


# float32, one thread, seed 0; recorded on an x86-64 CPU with PyTorch 2.13. The first is log 2. Other CPUs round differently,
# which ten steps amplify: the supervised golden run has the same 1e-3.
GOLDEN = [0.69315, 0.67731, 0.68138, 0.27021, 0.51796, 0.54929, 0.26413, 0.27521, 0.36721, 0.19755]


def test_golden_ten_steps(make_run):
    assert losses(train(make_run(objective=reference("copy")))) == pytest.approx(GOLDEN, rel=1e-3)


# --- kills ------------------------------------------------------------------------------------------------------------


def kept_examples(cache: Path) -> dict[str, bytes]:
    """What a cache's one store has; nothing while it is being made."""
    for file in cache.glob("reference/*.sqlite"):
        with sqlite3.connect(file, timeout=60) as db:
            try:
                return dict(db.execute("select key, value from kept"))
            except sqlite3.OperationalError:
                return {}
    return {}


@pytest.mark.slow
def test_killed_at_random_moments_ends_bit_for_bit_the_same(make_run, start_process, tmp_path):
    """SIGKILLs in the reference pass (after its first and second commit) and at random moments; each run has its own cache."""
    settings = {
        "data": [{"source": "scene_pairs", "split": "train[:128]"}], "batch": {"examples": 16, "row_tokens": 512},
        "objective": reference("precomputed"),
    } | SEEING  # fmt: skip
    run = {"steps": 8, "save_every": 2, "workers": 1}
    folders = {name: (tmp_path / name, tmp_path / f"{name}-cache") for name in ("whole", "killed")}
    whole, killed = (
        make_run(name, run=run, cache={"features": True, "dir": str(cache)}, **settings) for name, (_, cache) in folders.items()
    )
    process = start_process(whole)
    process.join(600)
    assert process.exitcode == 0
    cache, seen = folders["killed"][1], []  # examples that were kept at each kill
    for least in (1, 64):  # the held-out examples are kept first, then 64 at a time
        process = start_process(killed, DIES_WITH_KEPT=str(least))
        process.join(600)
        assert process.exitcode == -signal.SIGKILL
        seen.append(kept_examples(cache))
    assert 0 < len(seen[0]) < len(seen[1]) < 136
    draw = random.Random(0)
    for _ in range(3):
        process = start_process(killed)
        process.join(draw.uniform(0.3, 1.5))
        if process.is_alive():
            process.kill()
            process.join()
    last = start_process(killed)
    last.join(600)
    assert last.exitcode == 0
    stores = [kept_examples(cache) for _, cache in folders.values()]
    assert stores[0] == stores[1]
    assert len(stores[0]) == 136
    assert all(stores[1][key] == value for early in seen for key, value in early.items())
    assert_equal_weights(folders["whole"][0], folders["killed"][0])
    assert losses(folders["whole"][0]) == losses(folders["killed"][0])
    a, b = (summary(folder) for folder, _ in folders.values())
    assert (a["preferences"], a["after"]) == (b["preferences"], b["after"])


def test_the_second_attempt_computes_only_what_is_missing(make_run, tmp_path, capsys):
    recipe = make_run(objective=reference("precomputed"), run={"steps": 3})
    train(recipe)
    (store,) = (tmp_path / "cache" / "reference").glob("*.sqlite")
    before = kept_examples(tmp_path / "cache")
    assert len(before) == 20
    gone = sorted(before)[::4]
    with sqlite3.connect(store) as db:
        db.executemany("delete from kept where key = ?", [(key,) for key in gone])
    capsys.readouterr()
    train(make_run("again", objective=reference("precomputed"), run={"steps": 3}))
    said = capsys.readouterr().err.replace("\n", " ")
    computed = [int(part.split(" computed")[0]) for part in said.split("examples: ")[1:]]
    assert sum(computed) == len(gone)
    after = kept_examples(tmp_path / "cache")
    assert after.keys() == before.keys()
    assert all(
        np.allclose(np.frombuffer(after[key], np.float32), np.frombuffer(before[key], np.float32), atol=1e-4) for key in gone
    )
    assert all(after[key] == before[key] for key in before.keys() - set(gone))


@pytest.mark.parametrize(
    ("sections", "kind"),
    [(VISION, "precomputed"), (SEEING, "precomputed"), (VISION, "copy"), (LORA, "adapters_off"), (DORA, "copy")],
    ids=["vision frozen", "vision and connector frozen", "vision frozen, copy", "lora", "dora"],
)
def test_a_continuation_compares_with_the_first_start(make_run, tmp_path, sections, kind):
    """From step 3 of 6 on, with the store deleted as well: the reference is what the run began with, not what it has become."""
    settings = {"objective": reference(kind), "run": {"steps": 6, "save_every": 3, "keep_last": 5}} | sections
    whole = train(make_run("whole", cache={"dir": str(tmp_path / "c1")}, **settings))
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    for gone in ("model", "checkpoints/step-00000006"):
        shutil.rmtree(cut / gone)
    (cut / "summary.json").unlink()
    train(make_run("cut", cache={"dir": str(tmp_path / "c2")}, **settings))
    assert losses(cut) == losses(whole)
    assert_equal_weights(whole, cut)
    assert summary(cut)["preferences"] == summary(whole)["preferences"]


def test_a_continuation_compares_with_the_model_it_names(make_run, tmp_path, tiny):
    """The reference has the name of the model that the run began with, and is not the checkpoint."""
    settings = {"objective": objective(reference={"kind": "copy", "model": str(tiny)}), "run": {"steps": 4, "save_every": 2}}
    settings |= VISION
    whole = train(make_run("whole", **settings))
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    for gone in ("model", "checkpoints/step-00000004"):
        shutil.rmtree(cut / gone)
    (cut / "summary.json").unlink()
    train(make_run("cut", **settings))
    assert losses(cut) == losses(whole)
    assert_equal_weights(whole, cut)


def test_virtual_tokens_are_not_what_a_run_starts_from(make_run):
    """Drawn at random, they change log-probs before anything is learnt; "before" is the base model, and a step that learns
    nothing shows what they do."""
    still = {"optim": {"lr": 1e-12}, "objective": objective(), "run": {"steps": 1, "save_every": 1}}
    run = train(make_run("prefix", adapters={"method": "prefix", "tokens": 3}, **still))
    lora = train(make_run("lora", **LORA | still))
    before, after, base = summary(run)["before"], summary(run)["after"], summary(lora)["before"]
    assert before["logps/chosen"] == pytest.approx(base["logps/chosen"], abs=1e-4)
    assert before["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert after["logps/chosen"] != pytest.approx(before["logps/chosen"], abs=1e-2)


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sections"),
    [
        (objective(reference={"kind": "precomputed"}), SEEING),
        (objective(loss="kto", reference={"kind": "precomputed"}), LORA),
    ],
    ids=["sigmoid", "kto"],
)
def test_two_processes_reach_the_numbers_of_one(make_run, start_process, meeting_place, tmp_path, settings, sections):
    """KTO's KL is one number for the step, over both processes; both fill one store and one feature cache. Tolerance: order of
    additions."""
    one, two = (
        make_run(name, objective=settings, cache={"features": True, "dir": str(tmp_path / f"cache-{name}")}, **sections)
        for name in ("one", "two")
    )
    shared = meeting_place(2)
    ranks = [start_process(two, RANK=str(r), LOCAL_RANK=str(r), **shared) for r in range(2)]
    for process in ranks:
        process.join(600)
        assert process.exitcode == 0
    train(one)
    for figure in ("loss", "kl", "rewards/chosen"):
        curves = [[e[figure] for e in read_metrics(tmp_path / name) if e["kind"] == "train"] for name in ("one", "two")]
        assert len(curves[0]) == 10
        assert curves[0] == pytest.approx(curves[1], rel=1e-4, abs=1e-6), figure
    stores = [kept_examples(tmp_path / f"cache-{name}") for name in ("one", "two")]
    assert stores[0].keys() == stores[1].keys()
    tables = [summary(tmp_path / name)["preferences"]["after"]["scene_pairs"] for name in ("one", "two")]
    for measure in ("sum", "token", "reward"):
        for figure in ("accuracy", "ties"):
            assert tables[0][measure][figure] == tables[1][measure][figure]


# --- what is not finite -----------------------------------------------------------------------------------------------


def test_a_poisoned_reference_names_the_records_of_its_row(make_run, tmp_path):
    """One NaN among the kept log-probs of one example ends the run at the step that reaches it."""
    settings = {"objective": reference("precomputed"), "batch": {"examples": 4, "row_tokens": 80}} | SEEING
    train(make_run("first", run={"steps": 3}, **settings))
    recipe = make_run("second", run={"steps": 3}, **settings)
    run = set_up(recipe, Runtime(recipe.run))
    place = 6  # of the second step
    key, name = run.stream.key(place), run.stream.name(place)
    (store,) = (tmp_path / "cache" / "reference").glob("*.sqlite")
    with sqlite3.connect(store) as db:
        value = np.frombuffer(db.execute("select value from kept where key = ?", (key,)).fetchone()[0], np.float32).copy()
        value[len(value) // 2] = np.nan
        db.execute("update kept set value = ? where key = ?", (value.tobytes(), key))
    with pytest.raises(TrainingError, match="the loss is nan") as caught:
        train(recipe)
    assert name in str(caught.value)
    others = {run.stream.name(place) for place in (0, 1, 2, 3, 8, 9, 10, 11)}
    assert not any(f"{other}" in str(caught.value) for other in others)
    assert len(losses(tmp_path / "second")) == 1
    assert not (tmp_path / "second" / "model").exists()


def test_weights_that_are_not_finite_name_the_records(make_run):
    recipe = make_run(optim={"lr": 1e30, "clip": None, "warmup": 0})
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf)") as caught:
        train(recipe)
    assert "scene_pairs[" in str(caught.value)


# --- the methods ------------------------------------------------------------------------------------------------------

METHODS = {
    "mdpo": (objective(picture={"kind": "crop"}), {}),
    "mdpo precomputed, cached": (objective(picture={"kind": "crop"}, reference={"kind": "precomputed"}), SEEING),
    "mdpo without anchor": (objective(picture={"kind": "crop", "anchor": None, "scale": [0.1, 0.5]}), LORA),
    "povid copy": (objective(picture={"kind": "noise"}, reference={"kind": "copy"}), SEEING),
    "povid lora": (objective(picture={"kind": "noise"}), LORA),
    "mpo": (objective(loss={"sigmoid": 0.8, "bco_pair": 0.2, "nll": 1.0}), {}),
    "simpo": (objective(loss="simpo", beta=2.0), {}),
    "orpo": (objective(loss="orpo", nll=1.0), {}),
    "kto": (objective(loss="kto", desirable=1.2), {}),
    "dense diff": (objective(dense={"gamma": 5.0}), {}),
    "dense ipo": (objective(loss="ipo", dense={"gamma": 2.0, "normalize": False}), {}),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(make_run, method):
    """The mean loss of the last epoch (three steps of four pairs) is below the first epoch's, and held-out pairs get a reward."""
    settings, sections = METHODS[method]
    folder = train(make_run(objective=settings, run={"steps": 9}, cache={"features": bool(sections)}, **sections))
    curve = losses(folder)
    assert all(map(math.isfinite, curve))
    assert sum(curve[-3:]) < sum(curve[:3])
    told = summary(folder)
    assert told["preferences"]["after"]["scene_pairs"]["reward"]["ties"] < 1.0
    first, last = ([e for e in read_metrics(folder) if e["kind"] == "train"][n] for n in (0, -1))
    if settings.get("loss") in ("simpo", "orpo"):
        assert "rewards/margins" not in first, "no reference while training"
        assert "logps/chosen" in first
    else:
        assert first["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
        assert last["rewards/margins"] > 0
    assert ("rewards/spoilt" in first) == ("picture" in settings)


def test_single_judged_answers(make_run, tmp_path):
    """KTO on answers of which nobody said which is better than which: good and bad ones, of different prompts."""
    rows = [{"prompt": f"count to {n}", "completion": " ".join(map(str, range(n + 1))), "label": n % 2 == 0} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [{"source": str(tmp_path / "rows.jsonl")}]
    for kind in ("copy", "precomputed"):
        folder = train(make_run(kind, data=data, objective=objective(loss="kto", reference={"kind": kind}), run={"steps": 12}))
        curve = losses(folder)
        assert curve[0] == pytest.approx(0.5, rel=1e-6)  # 1 - sigmoid(0), good or bad
        assert sum(curve[-4:]) < sum(curve[:4])
        last = [e for e in read_metrics(folder) if e["kind"] == "train"][-1]
        assert last["rewards/chosen"] > last["rewards/rejected"]
        assert "accuracy/reward" not in last, "there are no pairs"


def test_corrected_spans(make_run, tmp_path):
    """Spans weigh the tokens they touch: the same pairs without them learn from other gradients."""
    rows = [
        {"prompt": f"what is {n}?", "chosen": f"it is a {good} thing", "rejected": f"it is a {bad} thing",
         "chosen_spans": [[8, 8 + len(good)]], "rejected_spans": [[8, 8 + len(bad)]]}
        for n, (good, bad) in enumerate([("red", "blue"), ("small", "big"), ("round", "flat"), ("new", "old")] * 2)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [{"source": str(tmp_path / "rows.jsonl")}]
    curves = {}
    for name, dense in {"spans": {"corrected": "spans"}, "diff": {"corrected": "diff", "min_match": 1}, "none": None}.items():
        curves[name] = losses(train(make_run(name, data=data, objective=objective(dense=dense), run={"steps": 6})))
        assert curves[name][0] == pytest.approx(math.log(2), rel=1e-6)
        assert curves[name][-1] < curves[name][0]
    assert curves["spans"] != pytest.approx(curves["none"], rel=1e-3)


def test_pairs_in_front_of_single_answers_are_dropped_by_name(make_run, tmp_path):
    """A loss of pairs cannot use a single answer: it is counted, not an error."""
    rows = [{"prompt": f"say {n}", "chosen": f"{n}", "rejected": f"{n + 1}"} for n in range(6)]
    rows += [{"prompt": "say it", "completion": "it", "label": True}] * 2
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = train(make_run(data=[{"source": str(tmp_path / "rows.jsonl")}], run={"steps": 4}))
    dropped = summary(folder)["dropped"]
    assert "a pair without rejected" in dropped, dropped


# --- what must not be compared ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sections", [{}, LORA], ids=["full", "LoRA"])
def test_a_start_that_changed_is_refused(make_run, tiny, tmp_path, sections):
    """A continuation whose base model was trained anew meanwhile would mix two references."""
    start = tmp_path / "start"
    shutil.copytree(tiny, start)
    settings = {"model": {"name": str(start)}, "objective": reference("copy"), **sections}
    train(make_run(run={"steps": 2, "save_every": 2}, **settings))
    shutil.rmtree(tmp_path / "run" / "model")
    (tmp_path / "run" / "summary.json").unlink()
    file = next(start.glob("*.safetensors"))
    save_file({name: tensor + 1e-3 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises((CheckpointError, ModelError), match=r"has changed since|belong to another model"):
        train(make_run(run={"steps": 2, "save_every": 2}, **settings))


def test_a_reference_reads_the_same_tokens(make_run, tiny, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    tokenizer.add_tokens(["purplish"])
    tokenizer.save(str(other / "tokenizer.json"))
    with pytest.raises(ModelError, match="another tokenizer"):
        train(make_run(objective=objective(reference={"kind": "copy", "model": str(other)})))


def test_a_held_out_loss_that_is_not_a_number_ends_the_run(make_run, tiny, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    file = next(broken.glob("*.safetensors"))
    save_file({name: tensor * math.nan for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(TrainingError, match=r"not finite|held-out loss is nan"):
        train(make_run(model={"name": str(broken)}, objective=reference("copy")))


def test_the_answer_that_kto_lends_never_costs_its_host(make_run, tmp_path):
    """A control token in one row drops that row alone; the row before, which would have borrowed its answer, stays whole."""
    rows = [{"prompt": "a red", "completion": f"circle {n}", "label": n % 2 == 0} for n in range(8)]
    rows[3]["completion"] = "a star <end_of_utterance>"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [{"source": str(tmp_path / "rows.jsonl")}]
    folder = train(make_run(objective=objective(loss="kto"), data=data, eval={"data": data, "samples": 0}, run={"steps": 2}))
    assert sum(summary(folder)["dropped"].values()) == 1
    assert not summary(folder)["changed"]
