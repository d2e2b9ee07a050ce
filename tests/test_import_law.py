"""Lower never imports higher (design: the rooms and their order)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "src" / "smolforge"

# room or module -> its floor; a module may import from lower floors, and from its own room.
FLOORS = {
    "errors": 0, "records": 0, "recipe": 0, "hub": 0, "files": 0, "folders": 0, "lock": 0, "parent": 0, "store": 0, "machine": 0,
    "terminal": 0, "wording": 0,
    "data": 1, "model": 1,
    "loading": 2, "objectives": 3, "generation": 3, "scoring": 3, "description": 3,
    "training": 4, "evals": 4,
    "report": 5, "tiny": 5,
    "building": 6, "checking": 6, "curating": 6, "doctor": 6, "estimating": 6, "exporting": 6, "merging": 6, "publishing": 6,
    "quickstart": 6, "sourcing": 6,
    "__init__": 7, "cli": 8,
}  # fmt: skip
NEIGHBOURS = {
    ("model", "data.batch"),  # the row's type
    ("recipe", "errors"), ("lock", "errors"), ("store", "errors"), ("hub", "errors"), ("records", "errors"),
    ("folders", "errors"), ("recipe", "wording"), ("folders", "wording"),
}  # fmt: skip


def imports(path: Path) -> set[str]:
    """Modules of smolforge that a file imports anywhere, without the package's name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "smolforge":
            names = [node.module] if "." in node.module else [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name.removeprefix("smolforge.") for name in names}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("smolforge.") for a in node.names if a.name.startswith("smolforge.")}
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lower_never_imports_higher(path):
    here = room(path)
    assert here in FLOORS, f"{here} is a new room: give it a floor"
    for name in imports(path):
        there = name.split(".")[0]
        there, name = (there, name) if there in FLOORS else ("__init__", "__init__")
        lower = FLOORS[there] < FLOORS[here]
        assert lower or there == here or (here, name) in NEIGHBOURS, f"{here} imports {name}"


def test_every_room_on_the_list_exists():
    assert set(FLOORS) == {room(path) for path in FILES}


@pytest.mark.parametrize(
    "name",
    [
        "errors",
        "records",
        "recipe/__init__",
        "recipe/sections",
        "recipe/adapters",
        "recipe/objectives",
        "recipe/whole",
        "recipe/reading",
        "hub",
        "cli/__init__",
        "cli/parser",
        "cli/verbs",
        "cli/evaluating",
        "cli/building",
        "cli/checking",
        "cli/curating",
        "cli/data",
        "cli/sourcing",
        "data/exclusion",
        "data/features",
        "data/identity",
        "data/sources/tables",
        "training/place",
        "report/__init__",
        "evals/names",
        "evals/__init__",
        "data/render",
        "data/media",
    ],
)
def test_light_modules_import_no_torch_at_start(name):
    """`--help` and validation answer at once."""
    source = (ROOT / f"{name}.py").read_text()
    heavy = re.findall(r"^(?:import|from) (torch|transformers|accelerate|datasets)\b", source, re.M)
    assert not heavy
