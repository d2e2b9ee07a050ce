"""The numbers of docs/scaling.md, from the recipes that the page shows: `python tests/estimating/page.py` writes them anew."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

from smolforge.estimating.scaling import Scaling, scale
from smolforge.estimating.tables import decimal, duration, size
from smolforge.recipe import Recipe, parse_recipe

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"
BEGIN, END = "<!-- cases: written by tests/estimating/page.py -->", "<!-- end of cases -->"
# model, the page's recipe, devices, sharding
CASES = [
    *((f"smolvlm2-{model}", stage, n, "ddp") for model in ("256m", "500m") for stage in ("vision", "video") for n in (8, 64)),
    ("smolvlm2-256m", "published", 64, "ddp"),
    ("smolvlm2-500m", "published", 64, "ddp"),
    ("smolvlm2-500m", "video", 64, "fsdp"),
    ("smolvlm2-2.2b", "video", 8, "ddp"),
    ("smolvlm2-2.2b", "video", 8, "fsdp"),
    ("smolvlm2-2.2b", "video", 64, "fsdp"),
]  # fmt: skip
HEAD = [
    "| model, recipe | GPUs | memory of a rank | step | tokens/s | examples/s | sent a rank and step, hidden | read a machine "
    "| cores a machine | own memory of a machine | checkpoint | the recipe's steps |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
]


def recipe_of(stage: str, model: str) -> Recipe:
    """A recipe of the page, for a model."""
    blocks = re.findall(r"```yaml\n# (\w+):.*?\n(.*?)```", PAGE.read_text(), re.S)
    return parse_recipe(yaml.safe_load(dict(blocks)[stage]), [f"model.name={model}"])


def row(model: str, stage: str, devices: int, sharding: str) -> str:
    """A line of the table."""
    made: Scaling = scale(recipe_of(stage, model), gpu="A100-40GB", devices=devices, sharding=sharding)  # type: ignore[arg-type]
    last, feed = made.last, made.feed
    assert feed.encoded is not None
    assert made.training is not None
    early = [duration(phase.seconds) for until, phase in made.phases if until]
    step = duration(last.seconds) + (f", frozen {', '.join(early)}" if early else "")
    cells = [
        f"{model.removeprefix('smolvlm2-').upper()}, {stage}", f"{devices}, {sharding}",
        size(made.peak) + ("" if made.fits else ": does not fit"), step, f"{made.tokens / last.seconds:,.0f}",
        f"{feed.examples / last.seconds:,.0f}", f"{decimal(last.traffic.sent)}, {last.traffic.hidden:.0%}",
        f"{decimal(feed.encoded / last.seconds)}/s", f"{made.cores * made.cluster.per_node:.0f}",
        f"{size(made.cluster.per_node * made.host.total)}, {made.workers} workers a rank", decimal(made.checkpoint),
        duration(made.training),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def block() -> str:
    """What stands between the page's marks."""
    text = PAGE.read_text()
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()


if __name__ == "__main__":
    rows = []
    for case in CASES:
        rows.append(row(*case))
        print(rows[-1], file=sys.stderr, flush=True)
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN)] + "\n".join([BEGIN, *HEAD, *rows, ""]) + text[text.index(END) :])
