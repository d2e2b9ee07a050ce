"""Atomic checkpoints: a checkpoint is whole or absent.

    runs/x/checkpoints/step-000100/     a model folder in Hugging Face's format, and beside it
        optimizer.safetensors           moments, step counts, float32 master weights
        state.json                      step, recipe, best loss, what was dropped so far

Everything is written into a folder with another name, flushed to the disk and renamed. Random draws need no state: they are
functions of (seed, step).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from smolforge.errors import CheckpointError
from smolforge.model.build import quiet

PROCESSOR_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "chat_template.json",
    "chat_template.jinja",
)  # fmt: skip
UNFINISHED = ".unfinished"


def save_model(folder: Path, model: Any, processor: Path) -> None:
    """Write a model with its processor files, atomically, replacing the folder.

    Args:
        processor: folder (or .gguf file) that the processor files come from.

    Raises:
        CheckpointError: the disk is full or not writable; what stood there before stays.
    """
    _write_whole(folder, lambda draft: _write_model(draft, model, processor))


def save_checkpoint(
    folder: Path, model: Any, processor: Path, optimizer: dict[str, torch.Tensor], state: dict[str, Any]
) -> None:
    """Write a checkpoint, atomically. Raises as `save_model`."""

    def write(draft: Path) -> None:
        _write_model(draft, model, processor)
        save_file({name: tensor.contiguous() for name, tensor in optimizer.items()}, draft / "optimizer.safetensors")
        (draft / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")

    _write_whole(folder, write)


def newest_checkpoint(folder: Path) -> Path | None:
    """Newest whole checkpoint below a run's `checkpoints`; leftovers of interrupted saves are removed."""
    for leftover in folder.glob(f"*{UNFINISHED}"):
        shutil.rmtree(leftover)
    found = sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())
    return found[-1] if found else None


def load_state(checkpoint: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(state, optimizer tensors) of a checkpoint.

    Raises:
        CheckpointError: damaged on the disk.
    """
    try:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        return state, load_file(checkpoint / "optimizer.safetensors")
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot be read ({error})", where=checkpoint, mend="delete it, and the run goes on from the one before"
        ) from error


def prune(folder: Path, keep: Iterable[int]) -> None:
    """Delete checkpoints of other steps than these."""
    kept = {checkpoint_name(step) for step in keep}
    for path in folder.glob("step-*"):
        if path.name not in kept and not path.name.endswith(UNFINISHED):
            shutil.rmtree(path)


def checkpoint_name(step: int) -> str:
    """
    >>> checkpoint_name(100)
    'step-00000100'
    """
    return f"step-{step:08d}"


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the whole checkpoints, ascending."""
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*") if path.name[5:].isdigit())


def _write_model(draft: Path, model: Any, processor: Path) -> None:
    with quiet():
        model.save_pretrained(draft)
        if processor.suffix == ".gguf":
            from transformers import AutoTokenizer

            AutoTokenizer.from_pretrained(processor.parent, gguf_file=processor.name).save_pretrained(draft)
            return
    for name in PROCESSOR_FILES:
        if (processor / name).is_file():
            shutil.copyfile(processor / name, draft / name)


def _write_whole(folder: Path, write: Any) -> None:
    draft = folder.with_name(folder.name + UNFINISHED)
    try:
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(parents=True)
        write(draft)
        for path in (*draft.iterdir(), draft):
            _flush(path)
        if folder.exists():  # a rename cannot replace a folder that has content: step aside first
            old = folder.with_name(f"{folder.name}.old{UNFINISHED}")
            if old.exists():
                shutil.rmtree(old)
            folder.rename(old)
            draft.rename(folder)
            shutil.rmtree(old)
        else:
            draft.rename(folder)
        _flush(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        what = "the disk is full" if full else f"cannot be written ({error})"
        mend = "free some space and run the same command again: it goes on from the last checkpoint"
        raise CheckpointError(what, where=folder, mend=mend) from error


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
