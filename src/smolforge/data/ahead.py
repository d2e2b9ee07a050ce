"""Steps prepared ahead of the training process by others, so that a device does not wait for pictures, videos and tokens.

PyTorch's `DataLoader` does the work: it keeps the order, hands pixels over in shared memory and notices when a process is killed.
"""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

from smolforge.errors import DataError, UserError

T = TypeVar("T")
AHEAD = 2  # steps that each process is ahead


@dataclass(frozen=True)
class _Prepared(Dataset, Generic[T]):
    """Number -> what is made of it, or the error that a user can mend."""

    make: Callable[[int], T]

    def __getitem__(self, number: int) -> T | UserError:
        try:
            return self.make(number)
        except UserError as error:  # the loader would make another error of it
            return error


def prepared(
    make: Callable[[int], T], numbers: Sequence[int], *, workers: int, method: str | None = None
) -> Iterator[tuple[T, float]]:
    """make(number) of each number in order, with the seconds that were waited for it.

    Args:
        make: a pure function; with the start method spawn (macOS, Windows) it must be picklable.
        workers: processes that run ahead; 0 makes each one when it is asked for.
        method: how they are started (fork, forkserver, spawn); the machine's own when left out.

    Raises:
        UserError: from `make`, or a process was killed.
    """
    if not workers:
        for number in numbers:
            began = time.monotonic()
            made = make(number)
            yield made, time.monotonic() - began
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork, and it says so each time
    with warnings.catch_warnings():  # the recipe's number is meant, whatever cores this machine has
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader = DataLoader(
            _Prepared(make), sampler=numbers, batch_size=None, num_workers=workers, prefetch_factor=AHEAD, collate_fn=_as_it_is,
            worker_init_fn=_ignore_signals, multiprocessing_context=method,
        )  # fmt: skip
    began = time.monotonic()
    try:
        for made in loader:
            if isinstance(made, UserError):
                raise made
            yield made, time.monotonic() - began
            began = time.monotonic()
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            "a process that prepares examples was killed",
            where="run.workers",
            mend="see whether memory ran out; lower it, or set it to 0",
        ) from error


def _as_it_is(made: T) -> T:
    return made


def _ignore_signals(number: int) -> None:
    """Ctrl-C and SIGTERM reach all processes of a terminal; the training process decides, and these end with it."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
