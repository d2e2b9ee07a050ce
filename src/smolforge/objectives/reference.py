"""What the reference says: with the adapters off, by a frozen copy, or computed once and kept on the disk.

Kept log-probs are found by content: an example's key is made of its tokens and its pictures, the file's of the reference's
weights and dtype. So another rendering or other data simply is not there yet, and another model's file is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from smolforge.data.batch import PackedBatch
from smolforge.model.tree import TreeModel
from smolforge.records import fingerprint
from smolforge.store import Store

Reference = Callable[[PackedBatch], torch.Tensor]  # row -> (K,) float32

FORMAT = 2  # raise it when the same tree and weights would give other log-probs


def without_adapters(model: TreeModel) -> Reference:
    """The policy's own base model."""

    @torch.no_grad()
    def reference(row: PackedBatch) -> torch.Tensor:
        with model.adapters[0].off():
            return model(row)

    return reference


def frozen(model: TreeModel) -> Reference:
    """Another model, which nothing trains."""
    model.requires_grad_(False).eval()

    @torch.no_grad()
    def reference(row: PackedBatch) -> torch.Tensor:
        return model(row)

    return reference


def kept(store: ReferenceStore, otherwise: Reference) -> Reference:
    """What the store has; rows with an example that it has not are computed, and kept."""

    def reference(row: PackedBatch) -> torch.Tensor:
        known = store.get(row.keys)
        if any(key not in known for key in row.keys):
            store.put(split(row, otherwise(row)))
            known = store.get(row.keys)
        parts = [known[key] for key in row.keys]
        total = sum(map(len, parts))
        assert total == len(row.targets), f"{total} kept log-probs for {len(row.targets)} tokens"
        return torch.from_numpy(np.concatenate(parts or [np.zeros(0, np.float32)])).to(row.targets.device)

    return reference


def split(row: PackedBatch, log_probs: torch.Tensor) -> dict[str, np.ndarray]:
    """(K,) log-probs of a row by its examples' keys; an example's tokens lie together."""
    owners = torch.tensor([response.example for response in row.responses], dtype=torch.int64)
    of = owners[row.response_ids.cpu()] if len(owners) else torch.zeros(0, dtype=torch.int64)  # (K,)
    sizes = torch.bincount(of, minlength=len(row.keys)).tolist()
    return dict(zip(row.keys, (part.numpy() for part in log_probs.cpu().float().split(sizes))))


class ReferenceStore:
    """Log-probs of examples under one reference.

    Args:
        file: made when absent.
        weights: fingerprint of the reference's weights.
        dtype: that they compute in.

    Raises:
        CheckpointError: the file belongs to another model, or is none of this kind.
    """

    def __init__(self, file: Path, *, weights: str, dtype: str) -> None:
        mend = "leave objective.reference.store out, or choose another file"
        self.kept = Store(file, about={"weights": weights, "dtype": dtype}, what="log-probs", mend=mend)

    def __len__(self) -> int:
        return len(self.kept)

    def get(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Kept log-probs by key, float32; absent keys are left out."""
        return {key: np.frombuffer(value, np.float32) for key, value in self.kept.get(keys).items()}

    def missing(self, keys: Sequence[str]) -> set[str]:
        """Keys that are not kept yet."""
        return self.kept.missing(keys)

    def put(self, values: Mapping[str, np.ndarray]) -> None:
        """Keep log-probs, all or none of these. Raises CheckpointError when the disk is full or the file is locked."""
        self.kept.put({key: np.ascontiguousarray(value, np.float32).tobytes() for key, value in values.items()})


def store_file(cache: Path, weights: str, dtype: str) -> Path:
    """Where a reference's log-probs are kept for all runs."""
    return cache / "reference" / f"{fingerprint(FORMAT, weights, dtype)}.sqlite"
