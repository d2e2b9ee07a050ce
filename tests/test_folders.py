"""What a verb writes never comes among the files of somebody else; what is known at once is said before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from smolforge.errors import CheckpointError, UserError
from smolforge.folders import make, refuse_others
from smolforge.recipe import Recipe, parse_recipe
from smolforge.training.place import claim


def recipe(folder: Path, *overrides: str) -> Recipe:
    tree = {"model": {"name": "m"}, "data": [{"source": "scenes"}], "run": {"dir": str(folder), "steps": 1}}
    return parse_recipe(tree, overrides)


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def test_a_folder_with_other_files_is_refused_with_the_first_of_them(tmp_path):
    put(tmp_path / "d", "b", "a", "c", "e", "dd", ".hidden")
    with pytest.raises(CheckpointError, match=r"d: holds other files \(.hidden, a, b and 3 more\); choose an empty folder$"):
        refuse_others(tmp_path / "d")
    refuse_others(tmp_path / "d", lambda name: True)
    refuse_others(tmp_path / "none")
    with pytest.raises(CheckpointError, match="a: is a file, not a folder; choose another place"):
        refuse_others(tmp_path / "d" / "a")


def test_a_folder_that_cannot_be_made(tmp_path):
    put(tmp_path, "file")
    with pytest.raises(UserError, match=r"^run.dir .*file/x: cannot be made \(Not a directory\); choose another folder$"):
        make(tmp_path / "file" / "x", "run.dir")


@pytest.mark.parametrize(
    "names",
    [
        ("config.json", "model.safetensors"),  # the model that is being trained
        ("captions.jsonl", "dog.jpg"),
        ("recipe.yaml", "left-out.jsonl", "data-0-scenes/data.parquet"),  # prepared rows
        ("other/recipe.json",),  # runs
        ("checkpoints/of-mine.txt",),
        ("baseline.txt",),
    ],
)
def test_a_run_does_not_begin_among_other_files(names, tmp_path):
    put(tmp_path / "d", *names, ".lock")
    with pytest.raises(CheckpointError, match=r"d: holds other files .*; choose an empty folder"):
        claim(recipe(tmp_path / "d"))


@pytest.mark.parametrize(
    "names",
    [
        (),
        (".lock", ".DS_Store"),
        ("recipe.json", "recipe.yaml", "model/config.json", "my-notes.txt"),
        ("checkpoints/step-00000004/state.json", "report.html"),
        ("metrics.jsonl", "base/config.json", "base.unfinished/config.json", "recipe.json.77.draft"),  # killed early
    ],
)
def test_a_run_goes_on_where_it_was(names, tmp_path):
    claim(recipe(put(tmp_path / "d", *names)))
    assert (tmp_path / "d").is_dir()


def test_a_run_s_cache_may_lie_in_it_and_what_its_caller_keeps(tmp_path):
    put(tmp_path / "d", "cache/films/x", "start/config.json")
    claim(recipe(tmp_path / "d", f"cache.dir={tmp_path / 'd' / 'cache' / 'films'}"), ["start"])
    with pytest.raises(CheckpointError, match=r"\(cache\)"):
        claim(recipe(tmp_path / "d"), ["start"])


AT_ONCE = """
import sys
from smolforge.cli import main
code = main(sys.argv[1:])
assert not {"torch", "transformers"} & set(sys.modules), "torch was imported first"
sys.exit(code)
"""
HEAD = "model: {name: m}\ndata: [{source: scenes}]\nrun: {dir: full, steps: 1}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("train", "r.yaml"), "full: holds other files (dog.jpg); choose an empty folder"),
        (("train", "r.yaml", "run.dir=full/dog.jpg/x"), "cannot be made (Not a directory); choose another folder"),
        (("train", "r.yaml", "data.0.split=train[5%"), "not a split"),
        (("generate", "runs/no/such", "--prompt", "x"), "runs/no/such: no such folder"),
        (("build", "full", "--preset", "tiny"), "full: holds other files (dog.jpg); choose an empty folder"),
        (("build", "new", "--preset", "smolvlm-265m"), "no preset smolvlm-265m"),
        (("build", "new", "--vision", "./nosuch", "--preset", "tiny"), "./nosuch: no such folder"),
    ],
)
def test_what_is_known_at_once_is_refused_before_torch_is_imported(arguments, line, tmp_path):
    put(tmp_path, "full/dog.jpg")
    (tmp_path / "r.yaml").write_text(HEAD)
    done = subprocess.run([sys.executable, "-c", AT_ONCE, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert line in done.stderr
    assert "Traceback" not in done.stderr
