"""`data list`, `data preview` and the verbs as they are typed."""

from __future__ import annotations

import argparse
import io
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from local_hub import REPO, Hub
from PIL import Image
from rich.console import Console

from smolforge.cli.sourcing import add
from smolforge.data.sources.tables import SOURCES, open_source
from smolforge.errors import DataError
from smolforge.recipe import MODALITIES, DataSection
from smolforge.sourcing.listing import catalogue
from smolforge.sourcing.preview import look, shown
from smolforge.sourcing.preview_page import write_page


def run(line: str) -> int:
    """A command line, by the verbs alone."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(required=True)

    def make(verbs: argparse._SubParsersAction, run: Callable, about: str, *examples: str) -> argparse.ArgumentParser:
        verb: argparse.ArgumentParser = verbs.add_parser(run.__name__, help=about)
        verb.set_defaults(run=run)
        for example in examples:
            if example.startswith("smolforge data "):
                assert shlex.split(example)[2] in ("list", "preview", "download", "prepare")
        return verb

    add(verbs, make)
    options = parser.parse_args(shlex.split(line))
    return int(options.run(options))


def text_of(found: object) -> str:
    console = Console(width=110, file=io.StringIO())
    console.print(found)
    return console.file.getvalue()


# --- list --------------------------------------------------------------------------------------------------------


def test_every_source_is_listed_with_its_licence(capsys):
    assert run("list") == 0
    words = " ".join(capsys.readouterr().out.split())
    for name, known in SOURCES.items():
        assert name in words
        assert f"{known.rows:,}" in words if known.rows else True
        assert known.hub is None or known.hub in words
    assert "(gated)" in words


@pytest.mark.parametrize("modality", MODALITIES)
def test_by_modality_as_json(capsys, modality):
    assert run(f"list --modality {modality} --json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == [name for name, known in SOURCES.items() if known.modality == modality]
    assert listed == catalogue(modality)
    assert {"rows", "gigabytes", "licence", "gated", "hub", "configs", "splits", "note"} <= set(listed[0])


def test_all_about_one(capsys):
    assert run("list vript") == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "data: [{source: vript, dir: DIR}]" in words
    assert SOURCES["vript"].note.split(";")[0] in words
    assert run("list vript --json") == 0
    by_name = capsys.readouterr().out
    assert run("list Mutonix/Vript --json") == 0  # its name on the Hub means the same
    assert capsys.readouterr().out == by_name
    assert run("list Mutonix/Vript") == 0
    assert " ".join(capsys.readouterr().out.split()) == words
    for line, message in (("list nonsense", "no such source; known by name"), ("list --modality sound", "no modality sound")):
        with pytest.raises(DataError, match=message):
            run(line)


# --- preview -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_every_fixture_can_be_seen(tmp_path, name):
    """Columns of the real schema, records with what they hold, and a page with a thumbnail of each picture and video."""
    section = DataSection(source=name, fixture=True, split=SOURCES[name].splits[0])
    found = look(section, rows=2)
    assert len(found.rows) == 2
    assert all(seen.record for seen in found.rows)
    assert found.modality == SOURCES[name].modality
    words = text_of(shown(found))
    assert "cannot be seen" not in words
    assert all(column in words for column, _, _ in found.columns)
    page = write_page(found, tmp_path / "page.html").read_text()
    visible = sum(len(seen.record.media) + len(seen.record.videos) for seen in found.rows if seen.record)
    assert (page.count("<img") >= visible) if visible else "<img" not in page


def test_pairs_show_both_answers():
    words = text_of(shown(look(DataSection(source="rlaif_v", fixture=True), rows=1)))
    speakers = re.findall(r"^ +(user|chosen|rejected) ", words, re.M)
    assert speakers == ["user", "chosen", "rejected"]


def test_own_pictures_with_a_bad_row(tmp_path):
    Image.new("RGB", (30, 20), "red").save(tmp_path / "a.png")
    rows = [{"image": "a.png", "captions": ["one"]}, {"image": "gone.png", "captions": ["two"]}, {"image": "a.png"}]
    (tmp_path / "captions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = look(DataSection(source=str(tmp_path)), rows=9)
    assert (found.total, len(found.rows), found.columns[0]) == (3, 3, ("image", "str", "a.png"))
    words = text_of(shown(found))
    assert "picture, 30 x 20" in words
    assert "gone.png: no such picture" in " ".join(words.split())
    assert "left out" in words


def test_rows_that_a_run_would_leave_out_say_so_and_show_no_target_as_learnt(tmp_path):
    Image.new("RGB", (30, 20), "red").save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])  # its head can be read
    asked = {"question": "What?"}
    rows = [
        {"image": "a.png", "answer": "good"} | asked,
        {"image": "gone.png", "answer": "of nothing"} | asked,
        {"image": "cut.png", "answer": "of a half"} | asked,
        {"image": "a.png", "answer": " "} | asked,
        {"prompt": "p", "chosen": "same", "rejected": "same "},
        {"prompt": "p", "chosen": "one", "rejected": "other"},
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = look(DataSection(source=str(tmp_path)), rows=9)
    unseen = "its picture cannot be seen"
    assert [seen.error for seen in found.rows] == ["", unseen, unseen, "empty answer", "chosen and rejected are identical", ""]
    assert all(seen.record for seen in found.rows), "what they say is shown all the same"
    console = Console(width=200, force_terminal=True, color_system="standard", file=io.StringIO())
    console.print(shown(found))
    blocks = console.file.getvalue().split("row ")[1:]
    assert ["32m" in block for block in blocks] == [True, False, False, False, False, True]  # green
    assert ["left out" in block for block in blocks] == [False, True, True, True, True, False]
    page = write_page(found, tmp_path / "page.html").read_text()
    assert page.count("left out: ") == 4
    assert '<dd class="dim">of a half</dd>' in page
    assert "<dd>good</dd>" in page


def test_columns_are_those_of_all_rows_that_are_shown(tmp_path):
    rows = [{"prompt": "p", "completion": "c", "note": None}, {"messages": [], "note": 3}, {"prompt": "p", "completion": "d"}]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert look(DataSection(source=str(tmp_path / "rows.jsonl")), rows=3).columns == (
        ("prompt", "str, in 2 of 3 rows", "p"), ("completion", "str, in 2 of 3 rows", "c"),
        ("note", "null or int, in 2 of 3 rows", "3"), ("messages", "list, in 1 of 3 rows", "0"),
    )  # fmt: skip
    assert [name for name, _, _ in look(DataSection(source=str(tmp_path / "rows.jsonl")), rows=1).columns] == [*rows[0]]


def test_rows_that_cannot_be_read_are_shown_as_left_out(tmp_path):
    """The first one, too, from which the columns cannot be told."""
    lines = ("prompt,completion", "one, two, three", "four,five")
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    found = look(DataSection(source=str(tmp_path / "rows.csv")))
    assert found.columns == (("prompt", "str", "four"), ("completion", "str", "five"))
    assert [seen.error.partition(";")[0] for seen in found.rows] == ["rows.csv, line 2: 3 fields for 2 columns", ""]


@pytest.mark.parametrize(("asked", "shown_rows", "total"), [(2, 2, None), (3, 3, None), (10, 3, 3)])
def test_a_short_stream_shows_each_row_once(tmp_path, asked, shown_rows, total):
    """A stream begins anew when it is over; a preview ends there, and knows then how many rows there are."""
    rows = [{"prompt": f"question {number}", "completion": "yes"} for number in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = look(DataSection(source=str(tmp_path / "rows.jsonl"), streaming=True), rows=asked)
    assert [seen.record.words for seen in found.rows if seen.record] == [f"question {number}" for number in range(shown_rows)]
    assert (len(found.rows), found.total) == (shown_rows, total)


def test_texts_cannot_command_the_terminal(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a\x1b[2Jb", "completion": "[red]c[/red]"}))
    words = text_of(shown(look(DataSection(source=str(tmp_path / "rows.jsonl")))))
    assert "\x1b" not in words
    assert "[red]c[/red]" in words


def test_without_a_network(hub: Hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="--fixture shows its columns without a network") as error:
        look(DataSection(source="coco_captions"))
    assert "\n" not in str(error.value)


def test_rows_below_one_are_refused():
    with pytest.raises(DataError, match="give 1 or more"):
        run("preview scenes --rows 0")


# --- the verbs ---------------------------------------------------------------------------------------------------


def test_preview_prints_and_writes_a_page(tmp_path, capsys):
    assert run(f"preview scenes --split test[:5] --rows 1 --prompt 'What is it?' --out {tmp_path}/page.html") == 0
    out = capsys.readouterr().out
    assert "What is it?" in out
    assert f"page: {tmp_path}/page.html" in out


def test_download_as_it_is_typed(hub, tmp_path, capsys, monkeypatch):
    hub.repos[REPO] = {"README.md": b"#", "data/train.jsonl": json.dumps({"prompt": "a", "completion": "b"}).encode()}
    hub.card = {"license": "mit"}
    folder = tmp_path / "pets"
    assert run(f"download {REPO} {folder} --dry-run") == 0
    out = capsys.readouterr().out
    assert "licence: mit (the card's word)" in out
    assert "data/train.jsonl" in out
    assert "to fetch: 2, 35 B" in out
    assert not folder.exists()
    with pytest.raises(DataError, match="nobody to ask; say --yes"):
        run(f"download {REPO} {folder}")
    assert run(f"download {REPO} {folder} --yes") == 0
    assert f"in a recipe: {{source: {REPO}, dir: {folder}}}" in capsys.readouterr().out
    assert run(f"download {REPO} {folder} --verify") == 0
    assert "everything is here: 2 files, their hashes are right" in capsys.readouterr().out


def test_rows_of_strangers_name_no_files_of_this_machine_by_the_lines_that_download_prints(hub, tmp_path, capsys, monkeypatch):
    """In a folder called as on the Hub, too."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (30, 20), "red").save(tmp_path / "private.png")
    rows = ({"image": f"{place}/private.png", "caption": "Whose?"} for place in (tmp_path, "."))
    hub.repos[REPO] = {
        "metadata.jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "private.png": (tmp_path / "private.png").read_bytes(),
    }
    for folder in ("pets", REPO):
        assert run(f"download {REPO} {folder} --yes") == 0
        printed = capsys.readouterr().out.splitlines()[-1]
        look_at = printed.partition("to look: smolforge data ")[2]
        assert look_at == f"preview {REPO} --dir {folder}"
        assert run(look_at) == 0
        words = " ".join(capsys.readouterr().out.split())  # lines break where the folder's name lets them
        assert "names a file outside of its folder" in words
        assert words.count("30 x 20") == 1
        opened = open_source(DataSection(**yaml.safe_load(printed.partition("in a recipe: ")[2].partition("; to look")[0])))
        with pytest.raises(DataError, match="names a file outside of its folder"):
            opened.record(0)
        assert opened.record(1).media[0].ref.exists()


def test_prepare_as_it_is_typed(tiny, tmp_path, capsys):
    tree = {"model": {"name": str(tiny)}, "data": [{"source": "scenes", "split": "train[:9]"}], "run": {"dir": "r", "steps": 1}}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(tree))
    assert run(f"prepare {file} {tmp_path / 'out'} --rows 4 --set batch.row_tokens=512") == 0
    out = capsys.readouterr().out
    assert "scenes: 4 rows" in out
    assert f"train with: smolforge train {tmp_path / 'out' / 'recipe.yaml'}" in out
    assert run(f"prepare {file} {tmp_path / 'out'} --rows 4 --set batch.row_tokens=512") == 0
    assert "there already" in capsys.readouterr().out
    assert Path(tmp_path / "out" / "left_out.jsonl").read_text() == ""
