"""Killed at any moment, an evaluation of every task ends in the same files, byte for byte, and generates no answer twice.

Real processes, real SIGKILLs, from a fork server that has imported everything.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from smolforge.cli import main
from smolforge.evals.benchmark import PROTOCOLS
from smolforge.evals.names import TASKS
from smolforge.store import Store

KILLS = 6
PATIENCE = 600  # seconds


@pytest.fixture(scope="module")
def brief(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a closing token that it finds twice as likely or unlikely, so that most answers end before the
    context does; they still differ in length."""
    folder = tmp_path_factory.mktemp("brief") / "model"
    shutil.copytree(tiny, folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][Tokenizer.from_file(str(tiny / "tokenizer.json")).token_to_id("<end_of_utterance>")] *= 2
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _kill_soon_after(answers: int, seconds: float) -> None:
    """SIGKILL for this process, so long after the commit with which so many answers are kept; it does not end before.

    A process that watches from outside may come too late, on a machine that has other things to do.
    """
    put = Store.put

    def put_and_die(store: Store, values: Mapping[str, bytes]) -> None:
        put(store, values)
        if store.file.parent.name == "answers" and len(store) >= answers:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()

    Store.put = put_and_die  # type: ignore[method-assign]


def _evaluate(arguments: list[str], cache: Path, log: Path, killed: tuple[int, float] | None) -> None:
    if killed:
        _kill_soon_after(*killed)
    torch.set_num_threads(1)
    os.environ |= {"XDG_CACHE_HOME": str(cache), "PATH": ""}  # without Java: METEOR's start takes seconds
    with log.open("a") as screen, contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        code = main(arguments)
    raise SystemExit(code)


@pytest.fixture(scope="module")
def start(brief: Path) -> Callable[..., BaseProcess]:
    """Evaluate every task's fixture, in a process of its own that can be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["smolforge.evals.evaluate", "smolforge.report.tables", "av", __name__])

    def start(out: Path, cache: Path, killed: tuple[int, float] | None = None) -> BaseProcess:
        arguments = ["evaluate", brief, "--tasks", "all", "--fixture", "--prompts", ",".join(PROTOCOLS), "--device", "cpu"]
        log = out.parent / "log.txt"
        process = context.Process(target=_evaluate, args=([*map(str, arguments), "--out", str(out)], cache, log, killed))
        process.start()
        return process

    return start


def ended(process: BaseProcess, log: Path) -> None:
    process.join(PATIENCE)
    assert process.exitcode == 0, log.read_text()[-2000:]


def kept(cache: Path) -> int:
    """Answers in the store, as another process sees them."""
    files = list(cache.glob("smolforge/answers/*.sqlite"))
    if not files:
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{files[0]}?mode=ro", uri=True)) as store:
        try:
            return int(store.execute("select count(*) from kept").fetchone()[0])
        except sqlite3.OperationalError:  # not made yet
            return 0


def contents(folder: Path) -> dict[str, bytes]:
    """All that may not differ: everything but what a run took, and drafts that a kill left behind."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != "cost.json" and file.suffix != ".draft")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def generated(folder: Path) -> dict[str, int]:
    return {key: cost["generated"] for key, cost in json.loads((folder / "cost.json").read_text()).items()}


@pytest.mark.slow
def test_killed_and_resumed_ends_byte_for_byte_the_same(start, tmp_path):
    out, whole, log = tmp_path / "out", tmp_path / "whole", tmp_path / "log.txt"
    ended(start(out, tmp_path / "cache-whole"), log)
    fresh = generated(out)
    out.rename(whole)  # the files name the folder that their pictures lie in
    expected = contents(whole)
    results = json.loads(expected["results.json"])
    keys = {f"{task}.{prompts}" for task in TASKS for prompts in PROTOCOLS if task != "preference"} | {"preference.log-probs"}
    assert set(results["tasks"]) == keys
    assert {name for name in expected if name.startswith("predictions/")} == {f"predictions/{key}.jsonl" for key in keys}

    cache = tmp_path / "cache-killed"
    total, draw = kept(tmp_path / "cache-whole"), random.Random(0)
    aims = sorted(draw.sample(range(1, total * 3 // 4), KILLS))
    places: list[int] = []
    for aim in aims:  # between two groups, in one, or while a file is written
        process = start(out, cache, (aim, draw.uniform(0, 0.15)))
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGKILL, log.read_text()[-2000:]
        places.append(kept(cache))
    assert len(set(places)) == KILLS, f"kills must fall at different moments: {places}"
    assert 0 < min(places) <= max(places) < total

    ended(start(out, cache), log)
    found = contents(out)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert sum(generated(out).values()) < sum(fresh.values()), "what was kept is not generated again"

    ended(start(out, cache), log)  # once more, over a folder that is complete
    assert contents(out) == expected
    assert set(generated(out).values()) == {0}
