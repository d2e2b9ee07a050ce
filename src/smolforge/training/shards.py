"""Optimiser state in files of its own for every process, readable by any number of them.

A sharded tensor is cut along dimension 0 into as many pieces as there are processes, the first ones a row longer:

    10 rows over 4 processes    0 1 2 | 3 4 5 | 6 7 8 | 9

Process r of n writes optimizer-r-of-n.safetensors with its rows of masters and moments, and in the file's metadata which rows
they are. Whoever reads asks for its own rows, and of each file no other bytes are read. A single process writes one
optimizer.safetensors with whole tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from smolforge.errors import CheckpointError
from smolforge.files import flush
from smolforge.training.adamw import MOMENTS

WHOLE = "optimizer.safetensors"
SHARD = re.compile(r"optimizer-(\d{5})-of-(\d{5})\.safetensors")
KINDS = ("master", *MOMENTS)  # tensors named kind.parameter; what else is there belongs to no parameter and is never cut
Share = Callable[[int], range]  # number of rows -> the rows of one process


def rows_of(rows: int, rank: int, world: int) -> range:
    """Rows of a tensor that one of `world` processes has.

    >>> [list(rows_of(10, rank, 4)) for rank in range(4)], rows_of(1, 3, 4)
    ([[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]], range(1, 1))
    """
    size = -(-rows // world)
    return range(min(rank * size, rows), min((rank + 1) * size, rows))


def is_sharded(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, DTensor)


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of a sharded tensor that are here, in its own memory; any other tensor as it is."""
    one: Any = tensor
    return one.detach().to_local() if isinstance(tensor, DTensor) else tensor


def shard_name(rank: int, world: int) -> str:
    """
    >>> shard_name(0, 2)
    'optimizer-00000-of-00002.safetensors'
    """
    return f"optimizer-{rank:05d}-of-{world:05d}.safetensors"


def write_shard(folder: Path, tensors: Mapping[str, torch.Tensor], rows: Mapping[str, range], *, rank: int, world: int) -> None:
    """One process's file.

    Args:
        tensors: its rows of each tensor.
        rows: which rows they are, by parameter.
    """
    table = json.dumps({name: [part.start, part.stop] for name, part in rows.items()})
    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    file = folder / shard_name(rank, world)
    save_file(content, file, metadata={"rows": table})
    flush(file)  # the process that renames the folder may run on another machine


def read_tensors(checkpoint: Path, share: Share | None = None) -> dict[str, torch.Tensor]:
    """A checkpoint's optimiser state, whoever wrote it, on the CPU.

    Args:
        share: which rows of a parameter's tensors are wanted; all when left out.

    Raises:
        CheckpointError: files or rows are missing.
        OSError, SafetensorError: unreadable.
    """
    pieces: dict[str, list[tuple[range, Any]]] = {}
    with ExitStack() as stack:
        for file in _files(checkpoint):
            opened: Any = stack.enter_context(safe_open(file, framework="pt"))
            table = json.loads((opened.metadata() or {}).get("rows", "{}"))
            for name in opened.keys():  # noqa: SIM118 - no mapping
                piece = opened.get_slice(name)
                height = (piece.get_shape() or [0])[0]
                first, last = table.get(_parameter(name), (0, height))
                pieces.setdefault(name, []).append((range(first, last), piece))
        return {name: _join(name, parts, share, checkpoint) for name, parts in pieces.items()}


def _files(checkpoint: Path) -> list[Path]:
    files = sorted(path for path in checkpoint.glob("optimizer*.safetensors") if SHARD.fullmatch(path.name))
    if not files:
        return [checkpoint / WHOLE]
    world = int(SHARD.fullmatch(files[0].name)[2])  # type: ignore[index]  # they were chosen by it
    if [path.name for path in files] != [shard_name(rank, world) for rank in range(world)]:
        raise CheckpointError(
            f"{len(files)} of {world} optimizer files are there", where=checkpoint, mend="copy the checkpoint again, or delete it"
        )
    return files


def _join(name: str, parts: list[tuple[range, Any]], share: Share | None, checkpoint: Path) -> torch.Tensor:
    """The wanted rows of a tensor out of its pieces."""
    shape = parts[0][1].get_shape()
    if not shape:  # step counts are the same everywhere
        return parts[0][1][...]
    parts = sorted(parts, key=lambda part: (part[0].start, part[0].stop))
    total = parts[-1][0].stop
    wanted = range(total) if share is None or not _parameter(name) else share(total)
    found, at = [], wanted.start
    for rows, piece in parts:
        first, last = max(at, rows.start), min(wanted.stop, rows.stop)
        if first == at and first < last:
            found.append(piece[first - rows.start : last - rows.start])
            at = last
    if at < wanted.stop:
        raise CheckpointError(f"row {at} of {name} is missing", where=checkpoint, mend="copy the checkpoint again, or delete it")
    return torch.cat(found) if found else parts[0][1][:0]


def _parameter(name: str) -> str:
    """The parameter whose state a tensor is; "" of others.

    >>> _parameter("exp_avg.lm_head.weight"), _parameter("pissa.lm_head.weight")
    ('lm_head.weight', '')
    """
    kind, _, parameter = name.partition(".")
    return parameter if kind in KINDS else ""
