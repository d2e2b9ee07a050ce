"""Every recipe parses, every command in the README runs, every file in its tree exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from smolforge.cli import build_parser, main
from smolforge.quickstart import dpo_recipe, quickstart, sft_recipe
from smolforge.recipe import Recipe, load_recipe
from smolforge.report import write_report

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_parse(recipe):
    assert isinstance(load_recipe(recipe), Recipe)
    assert recipe.read_text().startswith("# "), "a recipe says what it is for"


def test_every_setting_is_explained():
    def walk(section: type) -> None:
        for name, field in section.model_fields.items():
            inner = [t for t in (field.annotation, *getattr(field.annotation, "__args__", ())) if hasattr(t, "model_fields")]
            for one in inner:
                walk(one)
            assert field.description or inner, f"{section.__name__}.{name} has no sentence"

    walk(Recipe)


def test_commands_in_the_readme_parse():
    commands = re.findall(r"`(smolforge [^`]+)`", README)
    assert len(commands) >= 6
    for command in commands:
        words = re.sub(r"\[key=value \.\.\.\]", "run.steps=1", command)
        if words != "smolforge quickstart" and len(words.split()) < 2:
            continue
        build_parser().parse_args(shlex.split(words)[1:])


@pytest.mark.slow
def test_readme_examples_run(tmp_path, monkeypatch, capsys):
    """The quickstart with four steps, then the README's blocks as they stand there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    metrics = quickstart(Path("runs/quickstart"), steps=4, dpo_steps=2)
    assert set(metrics) == {"before", "sft", "dpo"}
    assert set(metrics["dpo"]) == {"exact", "recall", "hallucination", "seconds"}
    page = write_report(Path("runs/quickstart")).read_text()
    for words in (
        "<h2>Scores",
        "Pictures with all answers",
        "Chosen preferred to rejected",
        "<dt>untrained",
        "<dt>SFT",
        "<dt>DPO",
        "rejected",
    ):
        assert words in page
    (shell,) = re.findall(r"```sh\n(.*?)```", README, re.S)
    for line in shell.strip().splitlines():
        assert main(shlex.split(line)[1:]) == 0, line
    (python,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(compile(python, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_the_file_tree_is_true():
    tree = README[README.index("    src/smolforge/\n") : README.index("## Work on it")]
    named = set(re.findall(r"([a-z0-9_/]+\.py|__init__\.py)\b", tree))
    files = {path.name for path in (ROOT / "src").rglob("*.py")}
    assert {Path(name).name for name in named} <= files
    rooms = {path.name for path in (ROOT / "src" / "smolforge").rglob("*.py") if "sources" not in path.parts}
    assert rooms - {"__init__.py"} <= {Path(name).name for name in named}, "a file that the tree does not name"


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_quickstart_is_a_recipe_like_any_other():
    assert sft_recipe(Path("x"), steps=3).run.steps == dpo_recipe(Path("x"), steps=3).run.steps == 3
