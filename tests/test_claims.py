"""Files that are written where a person says: at once refused where they cannot be, or where something else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smolforge.cli import main
from smolforge.errors import UserError
from smolforge.report.page import claim_page, page, save


def test_a_page_replaces_pages_alone(tmp_path: Path) -> None:
    notes, other, mine = (tmp_path / name for name in ("notes.txt", "old.html", "mine.page"))
    notes.write_text("Notes.")
    other.write_text("<p>Old.</p>")
    with pytest.raises(UserError, match=r"notes.txt: is there already, and no page of smolforge's; choose another --out"):
        save(notes, page("A"))
    assert notes.read_text() == "Notes."
    for place in (other, mine, mine):
        save(place, page("A"))
        assert "<title>A · smolforge</title>" in place.read_text()


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/x.html: cannot be made .*; choose another --out"):
        claim_page(tmp_path / "file" / "x.html")


@pytest.mark.parametrize(
    "verb",
    [
        ["check", "recipes/captions.yaml"],
        ["data", "preview", "scenes"],
        ["score", "recipes", "scenes"],
        ["data", "dedupe", "scenes"],
    ],
)
def test_verbs_refuse_another_file_before_anything_else(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    notes = tmp_path / "notes.jsonl"
    notes.write_text(json.dumps({"id": "1", "mine": True}) + "\n")
    assert main([*verb, "--out", str(notes)]) == 1
    said = capsys.readouterr()
    assert "notes.jsonl: is there already, and no " in said.err
    assert said.out == ""
    assert "mine" in notes.read_text()
