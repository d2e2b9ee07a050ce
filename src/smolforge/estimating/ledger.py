"""What lies in memory at every moment of a step, counted while real code runs on tensors without content.

PyTorch tells a dispatch mode of every tensor that an operation makes, and Python tells when a storage is gone. So nothing about
the model is written down a second time here: whatever its code keeps for the backward pass, computes again or throws away is
counted. What kernels take for themselves inside one operation is not seen.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Trace = list[tuple[int, int]]  # (number of a storage from 1, its bytes), the number negative where it is freed


@dataclass(eq=False)
class _Entry:
    label: str
    bytes: int
    number: int


class Ledger(TorchDispatchMode):
    """Storages alive, by a label, with the largest total and what it was made of; and the floating-point operations.

    A view of another tensor costs nothing. Set `label` to say what new tensors are for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.label = "weights"
        self.held: Counter[str] = Counter()  # bytes alive by label
        self.total = 0
        self.peak = 0
        self.at_peak: dict[str, int] = {}
        self.trace: Trace = []
        self.flops = 0.0
        self._count = 0
        self._entries: weakref.WeakKeyDictionary[Any, _Entry] = weakref.WeakKeyDictionary()

    def account(self, tensor: torch.Tensor, *, label: str | None = None, nbytes: int | None = None) -> None:
        """Count a tensor's storage, once, or move it to another label.

        Args:
            nbytes: what it is taken to have, where a tensor stands for one of another size.
        """
        storage = tensor.untyped_storage()
        entry = self._entries.get(storage)
        if entry is None:
            entry = _Entry(label or self.label, 0, 0)
            self._entries[storage] = entry
            weakref.finalize(storage, self._forget, entry)
            self._set(entry, storage.nbytes() if nbytes is None else nbytes)
            return
        if label is not None and label != entry.label:
            self.held[entry.label] -= entry.bytes
            self.held[label] += entry.bytes
            entry.label = label
        if nbytes is not None:
            self._set(entry, nbytes)

    def forget_peak(self) -> None:
        """Let the peak begin anew at what is held now, and the trace and operations at nothing."""
        self.peak, self.at_peak, self.flops = self.total, dict(self.held), 0.0
        self.trace.clear()

    def _set(self, entry: _Entry, nbytes: int) -> None:
        self.held[entry.label] += nbytes - entry.bytes
        self.total += nbytes - entry.bytes
        if entry.number:
            self.trace.append((-entry.number, entry.bytes))
        self._count += 1
        entry.bytes, entry.number = nbytes, self._count
        self.trace.append((entry.number, nbytes))
        if self.total > self.peak:
            self.peak, self.at_peak = self.total, dict(self.held)

    def _forget(self, entry: _Entry) -> None:
        self.held[entry.label] -= entry.bytes
        self.total -= entry.bytes
        self.trace.append((-entry.number, entry.bytes))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in pytree.tree_leaves(out):
            if isinstance(one, torch.Tensor):
                self.account(one)
        self.flops += _flops(func, args, kwargs or {}, out)
        return out


def _flops(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> float:
    packet = func._overloadpacket
    if packet in flop_registry:
        return float(flop_registry[packet](*args, **kwargs, out_val=out))
    return FUSED_ON_CPU[packet](args) if packet in FUSED_ON_CPU else 0.0


def _products(query: torch.Tensor, key: torch.Tensor) -> float:
    """Multiplications and additions of one product of queries and keys (B, H, M, E), (B, G, N, E)."""
    return 2.0 * math.prod(query.shape) * key.shape[-2]


# PyTorch's own table has not the attention that it takes on a CPU: two products forward, five backward.
FUSED_ON_CPU: dict[Any, Callable[[Sequence[Any]], float]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda args: 2 * _products(args[0], args[1]),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda args: 5 * _products(args[1], args[2]),
}
