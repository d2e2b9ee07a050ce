from __future__ import annotations

import argparse
import json
import shlex

import pytest

from curating.conftest import photo
from smolforge.cli.curating import add
from smolforge.cli.parser import _verb
from smolforge.cli.settings import parse
from smolforge.data.sources.tables import open_source
from smolforge.errors import UserError
from smolforge.recipe import load_recipe


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers(required=True), _verb)

    def call(*arguments: str) -> int:
        options = parse(parser, arguments)
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


def test_captions_of_a_picture_stand_apart_on_the_page(run, rows, tmp_path):
    folder = rows("set", [{"image": name, "captions": ["a dog", "two cats\non a sofa", "<b>"]} for name in ("a.png", "a.jpg")])
    photo(1).save(folder / "a.png")
    photo(1).save(folder / "a.jpg", quality=50)
    assert run("dedupe", "set", "--cache", "cache", "--by", "picture") == 0
    page = (tmp_path / "set.duplicates.html").read_text()
    assert page.count('<ul class="small said"><li>a dog</li><li>two cats\non a sofa</li><li>&lt;b&gt;</li></ul>') == 2


def test_chosen_and_rejected_are_told_apart_on_the_page(run, tmp_path):
    pair = {"prompt": "Is a dog in the picture here?", "chosen": "Yes, it is.", "rejected": "No, " + "not a dog " * 99}
    (tmp_path / "pairs.jsonl").write_text(f"{json.dumps(pair)}\n" * 2)
    assert run("dedupe", "pairs.jsonl", "--cache", "cache", "--by", "text") == 0
    page = (tmp_path / "pairs.duplicates.html").read_text()
    asked = '<p class="small said">Is a dog in the picture here?</p>'
    assert page.count(f'{asked}<ul class="small said"><li><b>chosen</b> Yes, it is.</li><li><b>rejected</b> No, ') == 2
    cut = page.partition("<li><b>rejected</b> ")[2].partition("</li>")[0]
    assert cut.startswith("No, not a dog not")
    assert cut.endswith(" …")
    assert 500 < len(cut) < 600, "what is left of a row's text"


def test_of_one_row_it_is_said_in_the_singular(run, tmp_path, capsys):
    (tmp_path / "one.jsonl").write_text('{"prompt": "What?", "completion": "That."}\n')
    assert run("decontaminate", "one.jsonl", "--against", "one.jsonl", "--cache", "cache") == 0
    page = (tmp_path / "one.overlap.html").read_text()
    assert "1 of 1 row is on the list. Nothing was deleted." in page
    assert "one.jsonl (1 row)" in page


def test_dedupe_of_a_recipe_with_overrides(run, pictures, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("model: {name: x}\ndata: [{source: none}]\nrun: {dir: r, steps: 1}\n")
    assert run("dedupe", "recipe.yaml", "data.0.source=set", "cache.dir=cache", "--out", "list.jsonl", "--by", "picture") == 0
    assert '"source": "set"' in (tmp_path / "list.jsonl").read_text()
    capsys.readouterr()
    assert run("dedupe", "recipe.yaml", "data.0.source=set", "data.0.exclude=[list.jsonl]", "--out", "second.jsonl") == 0
    assert "nothing to leave out" in capsys.readouterr().out
    assert (tmp_path / "second.jsonl").read_text() == ""


def test_lists_that_an_entry_has_stay_in_what_is_to_be_typed(run, pictures, tmp_path, capsys):
    """An override replaces the entry's list of lists; without the old ones their rows would come back."""
    (tmp_path / "my, old.jsonl").write_text('{"source": "set", "name": null, "split": "train", "row": 2}\n')
    tree = "model: {name: x}\ndata: [{source: set, exclude: ['my, old.jsonl', ~/b.jsonl]}]\nrun: {dir: r, steps: 1}\n"
    (tmp_path / "b.jsonl").touch()
    (tmp_path / "recipe.yaml").write_text(tree)
    assert run("dedupe", "recipe.yaml", "cache.dir=cache", "--out", "new one.jsonl") == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("to leave these rows out: "))
    *_, setting = shlex.split(said)
    again = load_recipe(tmp_path / "recipe.yaml", [setting])
    assert [str(file) for file in again.data[0].exclude] == ["my, old.jsonl", "~/b.jsonl", "new one.jsonl"]
    assert list(open_source(again.data[0]).rows) == [0]
    with pytest.raises(UserError, match=r"b\.jsonl: is in exclude, and its rows would come back; give another --out"):
        run("dedupe", "recipe.yaml", "cache.dir=cache", "--out", "b.jsonl")


def test_decontaminate(run, pictures, tmp_path, capsys):
    held = tmp_path / "held"
    held.mkdir()
    photo(2).resize((160, 120)).save(held / "x.jpg")
    assert run("decontaminate", "set", "--against", "held", "--cache", "cache", "--out", "overlap.jsonl") == 0
    assert "set[2] is held[0]" in capsys.readouterr().out
    assert '"row": 2' in (tmp_path / "overlap.jsonl").read_text()


def write_recipe(file, *entries, **more):
    file.write_text(json.dumps({"model": {"name": "x"}, "data": entries, "run": {"dir": "r", "steps": 1}, **more}))


def write_texts(file, texts):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"prompt": f"What of {text}?", "completion": text}) + "\n" for text in texts))


def test_every_entry_that_reads_a_listed_row_is_in_what_is_to_be_typed(run, tmp_path, capsys):
    """Rows of the list: 3 of train and 0 of test. Of them the third entry reads one again, the last none."""
    write_texts(tmp_path / "set" / "train.jsonl", ["a fox", "a hen", "an owl", "a fox", "a cow", "a yak"])
    write_texts(tmp_path / "set" / "test.jsonl", ["a hen", "a bat"])
    write_texts(tmp_path / "other.jsonl", ["a gnu"])
    splits = ("train+test", "train[3:]", "train[4:]")
    write_recipe(tmp_path / "r.yaml", {"source": "other.jsonl"}, *({"source": "set", "split": split} for split in splits))
    assert run("dedupe", "r.yaml", "--cache", "cache", "--out", "dup.jsonl") == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("to leave these rows out: "))
    settings = shlex.split(said.partition(" RECIPE ")[2])
    assert settings == ["data.1.exclude=[dup.jsonl]", "data.2.exclude=[dup.jsonl]"]
    applied = load_recipe(tmp_path / "r.yaml", settings)
    assert [list(open_source(section).rows) for section in applied.data] == [[0], [0, 1, 2, 4, 5, 7], [4, 5], [4, 5]]


@pytest.mark.parametrize("second", ["A", None])
def test_two_homes_of_a_source_are_told_apart(run, tmp_path, monkeypatch, capsys, second):
    """The table, the examples, the page and the list; of a source with one home nothing is told."""
    rows = [{"prompt": "What of it?", "completion": "A fox."}]
    monkeypatch.setattr("smolforge.data.sources.tables.hub_table", lambda *_, **__: rows)
    for folder in ("A", "B"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.jsonl").write_text(json.dumps(rows[0]))
    entry = {"source": "me/two"}
    write_recipe(tmp_path / "r.yaml", entry | {"dir": "B"}, entry | ({"dir": second} if second else {"revision": "v2"}))
    assert run("dedupe", "r.yaml", "--cache", "cache", "--out", "dup.jsonl") == 0
    home = "dir A" if second else "revision v2"
    told = f"me/two ({home})[0] is me/two (dir B)[0]"
    said = capsys.readouterr().out
    assert told in said
    page = (tmp_path / "dup.html").read_text()
    for part in (f"me/two ({home}) train", "me/two (dir B) train"):
        assert part in said, part
        assert part in page, part
    assert f"</b>me/two ({home})[0]" in page
    assert json.loads((tmp_path / "dup.jsonl").read_text())["of"] == "me/two (dir B)[0]"
    write_recipe(tmp_path / "one.yaml", entry | {"dir": "B"}, entry | {"dir": "B"})
    assert run("dedupe", "one.yaml", "--cache", "cache") == 0
    assert "such as me/two[0]" in capsys.readouterr().out


def test_what_is_held_out_is_told_from_what_is_trained_on(run, tmp_path, capsys):
    """One source in two folders, and two splits of one folder."""
    for folder in ("A", "B"):
        for split in ("train", "test"):
            write_texts(tmp_path / folder / f"{split}.jsonl", ["a fox"])
    train, held = ({"source": "me/two", "dir": folder} for folder in ("A", "B"))
    write_recipe(tmp_path / "r.yaml", train, eval={"data": [held]})
    assert run("decontaminate", "r.yaml", "--against", "r.yaml", "--cache", "cache") == 0
    assert "me/two[0] is me/two (dir B)[0]" in capsys.readouterr().out
    assert "me/two (dir B) (1 row)" in (tmp_path / "r.overlap.html").read_text()
    assert run("decontaminate", "A", "--against", "A", "--against-split", "test", "--cache", "cache") == 0
    assert "A[0] is A test.jsonl[0]" in capsys.readouterr().out


def test_two_evaluation_sets_are_told_from_each_other(run, tmp_path, capsys):
    """Two recipes of one source in two folders: what is trained on is neither; between them, a folder of pictures."""
    write_texts(tmp_path / "train.jsonl", ["a fox", "a hen"])
    for folder, text in (("A", "a fox"), ("B", "a hen")):
        write_texts(tmp_path / folder / "train.jsonl", [text])
        held = {"source": "me/two", "dir": folder}
        write_recipe(tmp_path / f"{folder}.yaml", {"source": "train.jsonl"}, eval={"data": [held]})
    (tmp_path / "photos").mkdir()
    photo(1).save(tmp_path / "photos" / "1.png")
    against = ("--against", "A.yaml", "--against", "photos", "--against", "B.yaml")
    assert run("decontaminate", "train.jsonl", *against, "--cache", "cache") == 0
    said = capsys.readouterr().out
    assert "train.jsonl[0] is me/two (dir A)[0]" in said
    assert "train.jsonl[1] is me/two (dir B)[0]" in said
    compared = "me/two (dir A) (1 row), photos (1 row), me/two (dir B) (1 row)"
    assert compared in (tmp_path / "train.overlap.html").read_text()


def test_configurations_are_called_as_everywhere(run, tmp_path, capsys):
    for name in ("vqa", "captions"):
        write_texts(tmp_path / "several" / f"{name}.jsonl", [name])
    write_recipe(tmp_path / "r.yaml", {"source": "several", "name": ["vqa", "captions"]})
    assert run("dedupe", "r.yaml", "--cache", "cache") == 0
    assert "several vqa,captions train" in capsys.readouterr().out
    assert "several vqa,captions train" in (tmp_path / "r.duplicates.html").read_text()


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


@pytest.mark.parametrize("verb", [["dedupe"], ["decontaminate", "--against", "held"]])
def test_captions_are_never_replaced_by_a_list(run, pictures, tmp_path, verb):
    (tmp_path / "held").mkdir()
    photo(3).save(tmp_path / "held" / "x.png")
    captions = pictures / "captions.jsonl"
    before = captions.read_text()
    with pytest.raises(UserError, match=r"set/captions.jsonl: is read as data; give another --out"):
        run(verb[0], "set", *verb[1:], "--out", "set/captions.jsonl")
    (tmp_path / "notes.jsonl").write_text('{"image": "a.png", "caption": "Mine."}\n')
    with pytest.raises(UserError, match=r"notes.jsonl: is there already, and no list of smolforge's"):
        run(verb[0], "set", *verb[1:], "--out", "notes.jsonl")
    assert captions.read_text() == before
    assert "Mine." in (tmp_path / "notes.jsonl").read_text()


def test_an_older_list_and_its_page_are_replaced(run, pictures, tmp_path):
    assert run("dedupe", "set", "--cache", "cache", "--out", "list.jsonl") == 0
    assert run("dedupe", "set", "--cache", "cache", "--out", "list.jsonl", "--by", "text") == 0
    assert (tmp_path / "list.jsonl").read_text().count("\n") == 2
    assert run("dedupe", "set", "--cache", "cache", "--out", "list.jsonl") == 0
    assert (tmp_path / "list.jsonl").read_text().count("\n") == 1


def test_a_misspelt_benchmark_is_met_with_the_right_one(run, pictures):
    with pytest.raises(UserError, match=r"popo: no such benchmark, file or source; did you mean pope\?"):
        run("decontaminate", "set", "--against", "popo")
