"""The page and the verb: what is found stands in both, exit codes tell errors, and shipped recipes have none."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import yaml

from smolforge.checking import check
from smolforge.checking.lines import lines, verdict
from smolforge.checking.page import default_page, write_page
from smolforge.cli.checking import add
from smolforge.cli.parser import _verb
from smolforge.cli.settings import parse
from smolforge.errors import RecipeError, UserError
from smolforge.tiny import shrink

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers(), _verb)
    options = parse(parser, ["check", *arguments])
    return options.run(options)


@pytest.fixture
def written(recipe, tmp_path):
    """A recipe as a file."""

    def write_recipe(*data, **sections) -> str:
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe(*data, **sections).model_dump(mode="json", exclude_unset=True)))
        return str(file)

    return write_recipe


def test_rows_that_lists_leave_out_are_told(recipe, questions, tmp_path):
    rows, other, held = questions("rows", 8), questions("other", 4, first=8), questions("held", 6, first=20)
    entry = {"name": None, "split": "train"}
    file = tmp_path / "list.jsonl"
    file.write_text(
        "".join(json.dumps(entry | {"source": one, "row": row}) + "\n" for one, row in ((rows, 1), (rows, 5), (held, 0)))
    )
    named = {"exclude": [str(file)]}
    found = check(recipe({"source": rows} | named, {"source": other} | named, held_out=[{"source": held} | named]))
    assert [one.left_out for one in (*found.known.sources, *found.known.held_out)] == [2, 0, 1]
    told = "\n".join(map(str, lines(found)))
    assert "supervised, 6 rows (2 left out by exclude), " in told
    assert "supervised, 4 rows (0 left out by exclude), " in told
    assert "held out: held.jsonl (1 left out by exclude)" in told
    assert "6 (2 left out by exclude)" in write_page(found, tmp_path / "check.html").read_text()
    assert found.to_json()["known"]["sources"][0]["left_out"] == 2
    without = "\n".join(map(str, lines(check(recipe({"source": rows})))))
    assert "left out" not in without


def test_rows_do_not_command_the_terminal(recipe, write):
    """Of a question that clears the screen, an answer that sets the window's title, and a name that does both."""
    clear, title = "\x1b[2J", "\x1b]0;mine\x07"
    rows = [{"prompt": f"{clear}What?\nNow {n}", "completion": f"{title}{n}"} for n in range(5)] + [{clear: 1}]
    found = check(recipe({"source": write(f"rows{clear}", rows)}))
    text = "\n".join(line.plain for line in lines(found))
    assert not {letter for letter in text if not letter.isprintable()} - {"\n"}
    assert "�[2JWhat?\nNow" in text
    assert "�]0;mine" in text
    learnt = [span.style for line in lines(found) for span in line.spans if "mine" in line.plain[span.start : span.end]]
    assert learnt == ["bold green"], "colours stay where they were"


def test_the_page_holds_what_the_terminal_says(recipe, write, draw, tmp_path):
    evil = "<script>alert(1)</script>"
    rows = [{"image": draw(n), "question": evil, "answer": f"{evil} {n}"} for n in range(5)] + [{"nothing": 1}]
    found = check(recipe({"source": write("rows", rows)}))
    page = write_page(found, tmp_path / "folder" / "check.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2
    assert page.count("data:image/jpeg;base64,") == 1
    assert "Content-Security-Policy" in page
    text = "\n".join(line.plain for line in lines(found))
    for warning in found.warnings:
        assert str(warning) in text
        assert warning.where in page
    assert "[1 tile, 9 tokens]" in text
    assert "[1 tile, 9 tokens]" in page
    assert f"« {evil} " in text, "what is supervised stands between marks without colour"


def test_a_page_of_data_that_cannot_be_opened(recipe, tmp_path):
    found = check(recipe({"source": "gone.jsonl"}))
    page = write_page(found, tmp_path / "check.html").read_text()
    assert "gone.jsonl" in page
    assert verdict(found) == "1 error, 0 warnings"
    with pytest.raises(UserError, match="is a folder"):
        write_page(found, tmp_path)


def test_names_of_shares_stand_below_their_bar(recipe, write, draw, tmp_path):
    """No name has room in a small part of the bar."""
    texts = [{"prompt": f"What is {n}?", "completion": f"{n}"} for n in range(9)]
    pictures = [{"image": draw(n), "question": "What is it?", "answer": f"{n}"} for n in range(3)]
    found = check(recipe({"source": write("texts", texts), "weight": 4}, {"source": write("pictures", pictures), "weight": 1}))
    page = write_page(found, tmp_path / "check.html").read_text()
    bar, _, rest = page.partition('<div class="bar">')[2].partition("</div>")
    assert bar == '<span class="m0" style="width: 20.00%"></span><span class="m3" style="width: 80.00%"></span>'
    key = rest.partition("</p>")[0]
    assert key.endswith('<span><i class="m0"></i>image 20%</span><span><i class="m3"></i>text 80%</span>')


def test_the_page_lies_beside_the_runs_folder(recipe, questions, tmp_path):
    made = recipe({"source": questions("a", 5)})
    assert default_page(made) == tmp_path / "run.check.html"


def test_the_verb_ends_with_0_where_nothing_would_waste_the_run(written, questions, tmp_path, capsys):
    file = written({"source": questions("a", 5)})
    assert run(file, "--sample", "3") == 0
    out = capsys.readouterr().out
    assert "3 rows looked at" in out
    assert "0 errors, 1 warning" in out
    assert (tmp_path / "run.check.html").is_file()
    assert not (tmp_path / "run").exists(), "a check makes no run"


def test_the_verb_ends_with_1_for_an_error(written, questions, tmp_path, capsys):
    file = written({"source": questions("a", 5)})
    page = tmp_path / "mine.html"
    assert run(file, "--out", str(page), "--set", "data.0.source=gone.jsonl", "run.steps=2", "--json") == 1
    tree = json.loads(capsys.readouterr().out)
    assert tree["errors"][0]["where"] == "data.0 gone.jsonl"
    assert page.is_file()
    with pytest.raises(RecipeError):
        run(file, "run.stepz=2")
    for wrong in ("0", "-1", "x"):
        with pytest.raises(SystemExit):
            run(file, "--sample", wrong)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One folder for all, so that the tiny models are assembled once."""
    return tmp_path_factory.mktemp("checks")


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_shipped_recipes_have_no_errors(file, place, monkeypatch):
    """On drawn rows in their sources' schemas, of which none is refused; in so many steps that rare sources come up."""
    monkeypatch.chdir(place)
    found = check(shrink(file, ["run.steps=2000"]))
    assert [str(one) for one in found.errors] == []
    assert found.known is not None
    assert all(one.used == one.looked > 0 for one in (*found.known.sources, *found.known.held_out))
    assert {one.modality for one in found.shown} == {held for one in found.known.sources for held in one.held}


def test_a_recipe_is_checked_without_its_model_and_data(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert run(str(RECIPES[0].parent / "mixture.yaml"), "--tiny") == 0
    assert "2,000 steps of 8 examples" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["scenes", "scene-pairs"])
def test_recipes_of_drawn_scenes_as_they_are(name, tiny, place, monkeypatch):
    monkeypatch.chdir(place)
    file = next(file for file in RECIPES if file.stem == name)
    assert run(str(file), f"model.name={tiny}", "--sample", "20") == 0
