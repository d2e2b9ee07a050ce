"""What happened to a run's examples: counted, and the first of them named."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from smolforge.data.media import tile_grid
from smolforge.data.render import Example
from smolforge.errors import DataError
from smolforge.wording import how_many

NAMED = 20  # dropped or changed examples, and reasons, that are named; all are counted


@dataclass
class Tally:
    """What happened to the examples so far: nothing is dropped or changed in silence."""

    examples: int = 0
    tokens: int = 0
    tiles: int = 0
    tiles_upscaled: int = 0  # tiles the same pictures would take with upscale: true
    dropped: Counter[str] = field(default_factory=Counter)  # reason -> examples
    changed: Counter[str] = field(default_factory=Counter)  # what the length policy did -> examples
    named: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        for name in ("examples", "tokens", "tiles", "tiles_upscaled"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.dropped.update(other.dropped)
        self.changed.update(other.changed)
        self.named = list(dict.fromkeys(self.named + other.named))[:NAMED]  # a row comes up again in each epoch

    def count(self, example: Example, name: str) -> None:
        """One that is used, as messages call it."""
        self.examples += 1
        self.tokens += example.num_tokens
        for image in example.images:
            self.tiles += len(image.starts)
            full = replace(image.spec, upscale=True)
            self.tiles_upscaled += tile_grid(image.picture.width, image.picture.height, full).tiles
        for change in example.changes:
            self.changed[change.split(":")[0]] += 1
            self.named.append(f"{name}: {change}")

    def drop(self, error: DataError, record: str) -> None:
        self.dropped[error.what] += 1
        line = str(error)
        self.named.append(line if line.startswith(record) else f"{record}: {line}")

    def lines(self) -> list[str]:
        """For the end of a run, one fact a line; empty when there is nothing to tell."""
        reasons = self.dropped.most_common()
        lines = [f"dropped {how_many(n, 'example')}: {reason}" for reason, n in reasons[:NAMED]]
        if rest := reasons[NAMED:]:
            lines.append(f"dropped {how_many(sum(n for _, n in rest), 'example')} for {how_many(len(rest), 'other reason')}")
        lines += [f"changed {how_many(n, 'example')}: {what}" for what, n in self.changed.most_common()]
        if self.tiles_upscaled > self.tiles:
            saved = 1 - self.tiles / self.tiles_upscaled
            lines.append(f"upscale: false saved {saved:.0%} of the tiles ({self.tiles_upscaled} -> {self.tiles})")
        return lines + [f"  {line}" for line in self.named]
