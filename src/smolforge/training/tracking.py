"""What a person and the report see of a run: a progress bar, metrics.jsonl, plain lines where there is no terminal."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from smolforge.files import write_whole

LINE_SECONDS = 10  # between lines where no bar can be drawn


class Tracking:
    """Console and log file of one run. On other ranks than the first it is silent.

    Args:
        folder: the run's folder.
        steps: of the whole run.
        first: step the run (re)starts from; later entries of an earlier attempt are forgotten.
        speak: whether this process shows anything.
    """

    def __init__(self, folder: Path, *, steps: int, first: int, speak: bool) -> None:
        self.file, self.speak, self.steps = folder / "metrics.jsonl", speak, steps
        self.console = Console(stderr=True, quiet=not speak)
        self.bar = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=self.console,
        )  # fmt: skip
        self.drawn = speak and self.console.is_terminal
        self.task = self.bar.add_task("training", total=steps, completed=first, figures="")
        self.spoken = time.monotonic()
        self.joules: float | None = None  # the device's counter at the last step
        self.began: tuple[int, float] | None = None  # step and time of the first step that was shown
        if speak:
            forget_after(self.file, first or -1)  # from nothing: the measurement before step 1 is made again

    def __enter__(self) -> Tracking:
        if self.drawn:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def say(self, line: str) -> None:
        """A line above the bar."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append an entry to metrics.jsonl."""
        if self.speak:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"kind": kind, "step": step} | values) + "\n")

    def step(self, step: int, values: dict[str, float]) -> None:
        """Move the bar; `step` counts from 1."""
        figures = f"loss {values['loss']:.4f}  {values['examples/s']:.1f} ex/s  {values['tokens/s']:,.0f} tok/s"
        figures += f"  waited {values['waiting']:.0%}"
        self.bar.update(self.task, completed=step, figures=figures)
        now = time.monotonic()
        began, since = self.began = self.began or (step, now)  # what came before the first step says nothing of the others
        due = step > began and now - self.spoken > LINE_SECONDS
        if not self.drawn and (due or step == self.steps):
            left = (now - since) / max(1, step - began) * (self.steps - step)
            self.say(f"step {step}/{self.steps}  {figures}  {left:.0f} s left")
            self.spoken = now


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Entries of a run's metrics.jsonl, oldest first; a last line cut by a crash is left out."""
    file = folder / "metrics.jsonl"
    if not file.is_file():
        return []
    entries = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{file}: a line is cut, left out", file=sys.stderr)
    return entries


def forget_after(file: Path, step: int) -> None:
    """Drop entries after a step: an interrupted attempt wrote them, the continuation will write them again."""
    if not file.is_file():
        return
    kept = [entry for entry in read_metrics(file.parent) if entry["step"] <= step]
    write_whole(file, "".join(json.dumps(entry) + "\n" for entry in kept))
