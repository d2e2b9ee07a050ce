"""Atomic checkpoints: a checkpoint is whole or absent.

    runs/x/checkpoints/step-00000100/   a model folder in Hugging Face's format, or adapters in PEFT's, and beside it
        optimizer.safetensors           moments, step counts, float32 master weights
        state.json                      step, recipe, best loss, what was dropped so far

Processes that share a model's weights write a file of moments each (shards.py) into the same folder, and the first the rest.

Everything is written into a folder with another name, flushed to the disk and renamed. Random draws need no state: they are
functions of (seed, step).
"""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from smolforge.data.processor import gguf_tokenizer
from smolforge.errors import CheckpointError
from smolforge.files import flush
from smolforge.model.adapters import Adapters
from smolforge.model.build import quiet
from smolforge.training.place import checkpoint_name, checkpoint_steps
from smolforge.training.shards import WHOLE, Share, read_tensors, write_shard

if TYPE_CHECKING:
    from smolforge.training.sharding import Sharding

PROCESSOR_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "chat_template.json",
    "chat_template.jinja",
)  # fmt: skip
UNFINISHED = ".unfinished"


def processor_files(folder: Path) -> dict[str, bytes]:
    """Tokenizer, chat template and picture rules of a model folder or .gguf file, by file name. Every save writes them."""
    if folder.suffix == ".gguf":
        with tempfile.TemporaryDirectory() as draft:
            gguf_tokenizer(folder).save_pretrained(draft)
            return processor_files(Path(draft))
    return {name: (folder / name).read_bytes() for name in PROCESSOR_FILES if (folder / name).is_file()}


def save_model(folder: Path, model: Any, processor: dict[str, bytes]) -> None:
    """Write a model with its processor files, atomically, replacing the folder.

    Args:
        model: Hugging Face's, or adapters.
        processor: from `processor_files`.

    Raises:
        CheckpointError: the disk is full or not writable; what stood there before stays.
    """
    _write_whole(folder, lambda draft: _write_model(draft, model, processor))


def save_checkpoint(
    folder: Path, model: Any, processor: dict[str, bytes], optimizer: dict[str, torch.Tensor], state: dict[str, Any]
) -> None:
    """Write a checkpoint, atomically. Raises as `save_model`."""

    def write(draft: Path) -> None:
        _write_model(draft, model, processor)
        save_file({name: tensor.contiguous() for name, tensor in optimizer.items()}, draft / WHOLE)
        _write_state(draft, state)

    _write_whole(folder, write)


def save_shards(
    folder: Path,
    model: Any,
    processor: dict[str, bytes],
    optimizer: dict[str, torch.Tensor],
    state: dict[str, Any],
    sharding: Sharding,
) -> None:
    """Write a checkpoint from all processes at once, atomically.

    Args:
        optimizer: this process's rows.

    Raises:
        CheckpointError: on every process, when one of them could not write.
    """
    runtime, draft = sharding.runtime, _draft(folder)

    def act(write: Callable[[], None], *, main: bool = True) -> None:
        failed: CheckpointError | None = None
        try:
            if runtime.is_main or not main:
                write()
        except (OSError, SafetensorError) as error:
            failed = _failure(folder, error)
        if whose := [one for one in runtime.gather(failed and (failed.what, failed.mend)) if one]:
            if runtime.is_main:
                shutil.rmtree(draft, ignore_errors=True)
            raise CheckpointError(whose[0][0], where=folder, mend=whose[0][1])

    act(lambda: _begin(draft))
    rank, world = runtime.rank, runtime.world
    act(lambda: write_shard(draft, optimizer, sharding.rows(), rank=rank, world=world), main=False)
    with sharding.gathered():
        act(lambda: _write_model(draft, model, processor))
    act(lambda: _write_state(draft, state))
    act(lambda: _put_in_place(draft, folder))


def newest_checkpoint(folder: Path) -> Path | None:
    """Newest whole checkpoint below a run's `checkpoints`."""
    steps = checkpoint_steps(folder)
    return folder / checkpoint_name(steps[-1]) if steps else None


def clear_leftovers(folder: Path) -> None:
    """Remove what interrupted saves left; one process of a run does it."""
    for leftover in folder.glob(f"*{UNFINISHED}"):
        shutil.rmtree(leftover)


def load_state(checkpoint: Path, share: Share | None = None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(state, optimizer tensors) of a checkpoint, whatever number of processes wrote it.

    Args:
        share: which rows of each parameter's tensors are wanted; all when left out.

    Raises:
        CheckpointError: damaged on the disk.
    """
    try:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        return state, read_tensors(checkpoint, share)
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot be read ({error})", where=checkpoint, mend="delete it, and the run goes on from the one before"
        ) from error


def prune(folder: Path, keep: Iterable[int]) -> None:
    """Delete checkpoints of other steps than these."""
    for step in set(checkpoint_steps(folder)).difference(keep):
        shutil.rmtree(folder / checkpoint_name(step))


def _write_model(draft: Path, model: Any, processor: dict[str, bytes]) -> None:
    if isinstance(model, Adapters):
        model.save(draft)
    else:
        with quiet():
            model.save_pretrained(draft)
    for name, content in processor.items():
        (draft / name).write_bytes(content)


def _write_state(draft: Path, state: dict[str, Any]) -> None:
    (draft / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")


def _write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    draft = _draft(folder)
    try:
        _begin(draft)
        write(draft)
        _put_in_place(draft, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise _failure(folder, error) from error


def _draft(folder: Path) -> Path:
    return folder.with_name(folder.name + UNFINISHED)


def _begin(draft: Path) -> None:
    if draft.exists():
        shutil.rmtree(draft)
    draft.mkdir(parents=True)


def _put_in_place(draft: Path, folder: Path) -> None:
    for path in (*draft.iterdir(), draft):
        flush(path)
    if folder.exists():  # a rename cannot replace a folder that has content: step aside first
        old = folder.with_name(f"{folder.name}.old{UNFINISHED}")
        if old.exists():
            shutil.rmtree(old)
        folder.rename(old)
        draft.rename(folder)
        shutil.rmtree(old)
    else:
        draft.rename(folder)
    flush(folder.parent)


def _failure(folder: Path, error: Exception) -> CheckpointError:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    what = "the disk is full" if full else f"cannot be written ({error})"
    mend = "free some space" if full else "see that the folder can be written"
    return CheckpointError(what, where=folder, mend=f"{mend} and run the same command again: it goes on from the last checkpoint")
