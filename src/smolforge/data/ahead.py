"""Steps prepared ahead of the training process by others, so that a device does not wait for pictures, videos and tokens.

PyTorch's `DataLoader` does the work: it keeps the order, hands pixels over in shared memory and notices when a process is killed.
Two things are done otherwise here. It tells of a killed process wherever the training process is at that moment, in the midst of
a backward pass say; here that is told where the next step is asked for. And what still runs at exit Python ends with SIGTERM,
which these processes ignore, and waits for; here they are ended before that.
"""

from __future__ import annotations

import atexit
import math
import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, Generic, TypeVar

from torch._C import _error_if_any_worker_fails
from torch.utils.data import DataLoader, Dataset

from smolforge.errors import DataError, UserError
from smolforge.parent import end_with_parent

T = TypeVar("T")
AHEAD = 2  # steps that each process is ahead, while steps are small
PART = 2**30  # bytes of pixels from which on processes make a step together
# PyTorch's words for a process that is gone; those for an error in one that lives begin with "Caught"
GONE = re.compile(r"DataLoader worker \(pid.*\) (is killed by signal|exited unexpectedly)")


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How processes make steps, so that no more waits than one whole step or `AHEAD * PART` a process, whichever is more."""

    parts: int  # a step is made in
    ahead: int  # parts that each process is ahead, the one that it makes among them

    @staticmethod
    def of(size: float, workers: int) -> Sharing:
        """How steps of so many bytes of pixels are shared. Small ones whole: to make a part, all of the step is laid out.

        >>> Sharing.of(2**28, 8), Sharing.of(27 * 2**30, 8), Sharing.of(3 * 2**30, 8)
        (Sharing(parts=1, ahead=2), Sharing(parts=8, ahead=1), Sharing(parts=3, ahead=1))
        """
        wanted = math.ceil(size / PART)
        return Sharing(parts=max(1, min(workers, wanted)), ahead=AHEAD if wanted <= 1 else 1)

    def waiting(self, size: float, workers: int) -> float:
        """Most bytes of pixels that wait or are being made; each process's part counts as a whole one from its beginning.

        >>> Sharing.of(27.0, 8).waiting(27.0, 8), Sharing.of(27.0 * 2**30, 8).waiting(27.0 * 2**30, 8) / 2**30
        (432.0, 27.0)
        """
        return self.ahead * workers * size / self.parts


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
    make: Callable[[int], T], numbers: Sequence[int], *, workers: int, ahead: int = AHEAD, method: str | None = None
) -> Iterator[tuple[T, float]]:
    """make(number) of each number in order, with the seconds that were waited for it.

    Args:
        make: a pure function; with the start method spawn (macOS, Windows) it must be picklable.
        workers: processes that run ahead; 0 makes each one when it is asked for.
        ahead: numbers that each of them has been given and that were not asked for yet, at most.
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
    began, end = time.monotonic(), None
    try:
        with _noticing_deaths(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # the recipe's number is meant, whatever the cores
            loader = DataLoader(
                _Prepared(make), sampler=numbers, batch_size=None, num_workers=workers, prefetch_factor=ahead,
                collate_fn=_as_it_is, worker_init_fn=_ignore_signals, multiprocessing_context=method,
            )  # fmt: skip
            iterator = iter(loader)
        end = partial(_end, iterator)
        atexit.register(end)  # where nobody closes this generator
        for _ in numbers:
            with _noticing_deaths():
                made = next(iterator)
            if isinstance(made, UserError):
                raise made
            yield made, time.monotonic() - began
            began = time.monotonic()
    except RuntimeError as error:
        if not GONE.match(str(error)):
            raise
        raise DataError(
            "a process that prepares examples was killed",
            where="run.workers",
            mend="see whether memory ran out; lower it, or set it to 0",
        ) from error
    finally:
        if end:
            atexit.unregister(end)
            end()


@contextmanager
def _noticing_deaths() -> Iterator[None]:
    """In here, and not elsewhere, the death of one of the processes raises RuntimeError at once.

    At once matters: who is killed while it hands something over leaves half of it, and the other half is waited for without end.
    Signals belong to the main thread, and Windows has no SIGCHLD; there PyTorch looks every five seconds.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        _error_if_any_worker_fails()
        if callable(before):
            before(number, frame)

    before = signal.getsignal(signal.SIGCHLD)
    signal.signal(signal.SIGCHLD, note)
    try:
        _error_if_any_worker_fails()  # who died since the last time
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)  # also in the place of PyTorch's, that `iter` put there


def _end(iterator: Any) -> None:
    """Let the processes of a loader's iterator end; those that do not within five seconds are killed."""
    for process in iterator._workers:
        process.terminate = process.kill  # PyTorch's last means; they ignore SIGTERM
    iterator._shutdown_workers()


def _as_it_is(made: T) -> T:
    return made


def _ignore_signals(number: int) -> None:
    """Ctrl-C and SIGTERM reach all processes of a terminal; the training process decides, and these end with it."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)  # who hands something over when the training process is killed would wait for ever
