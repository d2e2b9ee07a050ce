from __future__ import annotations

import argparse

import pytest

from curating.conftest import photo
from smolforge.cli.curating import add
from smolforge.cli.parser import _verb
from smolforge.errors import UserError


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers(required=True), _verb)

    def call(*arguments: str) -> int:
        options = parser.parse_args(arguments)
        return options.run(options)

    return call


@pytest.fixture
def pictures(rows):
    folder = rows("set", [{"image": name, "caption": "a dog on a sofa"} for name in ("a.png", "a.jpg", "b.png")])
    photo(1).save(folder / "a.png")
    photo(1).save(folder / "a.jpg", quality=50)
    photo(2).save(folder / "b.png")
    return folder


def test_dedupe_says_what_it_found_and_how_to_apply_it(run, pictures, tmp_path, capsys):
    assert run("dedupe", "set", "--cache", "cache") == 0
    said = capsys.readouterr().out
    assert "set[1] is set[0]" in said
    assert "data.0.exclude=[set.duplicates.jsonl]" in said
    assert (tmp_path / "set.duplicates.jsonl").read_text().count("\n") == 1
    assert "Near-duplicates in set" in (tmp_path / "set.duplicates.html").read_text()
    assert (pictures / "a.jpg").is_file()  # nothing is deleted


def test_dedupe_of_a_recipe_with_overrides(run, pictures, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("model: {name: x}\ndata: [{source: none}]\nrun: {dir: r, steps: 1}\n")
    assert run("dedupe", "recipe.yaml", "data.0.source=set", "cache.dir=cache", "--out", "list.jsonl", "--by", "picture") == 0
    assert '"source": "set"' in (tmp_path / "list.jsonl").read_text()
    capsys.readouterr()
    assert run("dedupe", "recipe.yaml", "data.0.source=set", "data.0.exclude=[list.jsonl]", "--out", "second.jsonl") == 0
    assert "nothing to leave out" in capsys.readouterr().out
    assert (tmp_path / "second.jsonl").read_text() == ""


def test_decontaminate(run, pictures, tmp_path, capsys):
    held = tmp_path / "held"
    held.mkdir()
    photo(2).resize((160, 120)).save(held / "x.jpg")
    assert run("decontaminate", "set", "--against", "held", "--cache", "cache", "--out", "overlap.jsonl") == 0
    assert "set[2] is held[0]" in capsys.readouterr().out
    assert '"row": 2' in (tmp_path / "overlap.jsonl").read_text()


def test_options_that_would_do_nothing(run, tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: {name: x}\ndata: [{source: none}]\nrun: {dir: r, steps: 1}\n")
    with pytest.raises(UserError, match="--split and --name are for a source"):
        run("dedupe", "recipe.yaml", "--split", "test")
    with pytest.raises(UserError, match="key=value is for a recipe"):
        run("dedupe", "scenes", "run.steps=3")


@pytest.mark.parametrize("arguments", [["--distance", "16"], ["--similarity", "0"], ["--by", "luck"]])
def test_values_out_of_range(run, arguments, capsys):
    with pytest.raises(SystemExit):
        run("dedupe", "scenes", *arguments)
    assert arguments[0] in capsys.readouterr().err
