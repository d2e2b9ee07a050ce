"""Rows of a benchmark: from files as they lie about, and one line for those that are something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from smolforge.data.media import open_picture
from smolforge.data.sources.scenes import scene
from smolforge.data.sources.shapes import media
from smolforge.errors import DataError
from smolforge.evals.benchmark import Benchmark
from smolforge.evals.benchmarks import BENCHMARKS
from smolforge.evals.rows import Cell, Rows, open_rows


def nothing(*arguments: Any) -> Any:
    raise AssertionError("rows are only read here")


TOY = Benchmark(
    about="toys", source="here", hub="someone/toys", split="test", columns=("number", "question"), question=nothing,
    score=nothing, measures={},
)  # fmt: skip


def listed(folder: Path, *rows: dict[str, Any], name: str = "metadata.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return folder


def row(number: int) -> dict[str, Any]:
    return {"number": number, "question": f"What is {number}?"}


def numbers(rows: Rows) -> list[int]:
    return [rows[place][0]["number"] for place in range(len(rows))]


def test_a_folder_or_its_file(tmp_path):
    folder = listed(tmp_path / "toys", row(4), row(5))
    for data in (folder, folder / "metadata.jsonl"):
        rows = open_rows("toys", TOY, data)
        assert (numbers(rows), rows.where, rows.base) == ([4, 5], str(data), folder)
        assert [rows[place][1].number for place in range(2)] == [0, 1]
        assert rows[1][0] == row(5), "no column is added"


def test_folders_of_configurations_in_the_benchmarks_order(tmp_path):
    several = replace(TOY, configs=("b", "a", "c"))
    listed(tmp_path / "a", row(1))
    listed(tmp_path / "b", row(2), row(3))
    rows = open_rows("toys", several, tmp_path)
    assert [rows[place][0] for place in range(3)] == [
        {"config": "b"} | row(2),
        {"config": "b"} | row(3),
        {"config": "a"} | row(1),
    ]
    assert [rows[place][1].number for place in range(3)] == [0, 1, 2]
    with pytest.raises(IndexError, match="row 3 of 3"):
        rows[3]


def test_rows_that_tell_their_configuration(tmp_path):
    folder = listed(tmp_path, {"config": "c"} | row(1))
    rows = open_rows("toys", replace(TOY, configs=("b", "c"), columns=("config", "number")), folder)
    assert rows[0][0]["config"] == "c"


def test_a_drawn_benchmark_needs_no_folder():
    drawn = replace(TOY, hub="", drawn=True, rows=lambda folder: [row(7)])
    rows = open_rows("toys", drawn, None)
    assert (numbers(rows), rows.where) == ([7], "its own drawings")


def test_a_benchmark_that_is_not_on_the_hub():
    with pytest.raises(DataError, match="toys: is not on the Hub; give its folder with --data; here"):
        open_rows("toys", replace(TOY, hub=""), None)


# --- something else ------------------------------------------------------------------------------------------------------


def two_columns_less(tmp_path: Path) -> Path:
    return listed(tmp_path, {"id": 1, "image": "a.png"})


def no_rows(tmp_path: Path) -> Path:
    return listed(tmp_path)


def not_json(tmp_path: Path) -> Path:
    (tmp_path / "metadata.jsonl").write_text("{'number': 1}\n")
    return tmp_path


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "columns": (
        two_columns_less,
        r"no column number, question; toys needs number, question as someone/toys has them; there are id, image",
    ),
    "no rows": (no_rows, r"the file is empty; give rows"),
    "not JSON": (not_json, r"not valid JSON; mend the line"),
    "empty folder": (lambda tmp_path: tmp_path, r"a folder without captions.jsonl, metadata.jsonl"),
    "no folder": (
        lambda tmp_path: tmp_path / "elsewhere",
        r"elsewhere: no such file or folder; give a folder with the columns of someone/toys",
    ),
    "a picture": (
        lambda tmp_path: listed(tmp_path, name="a.png") / "a.png",
        r"a .png file; give rows with number, question as metadata.jsonl",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_one_line_for_what_cannot_be_read(tmp_path, wrong):
    make, words = WRONG[wrong]
    with pytest.raises(DataError, match=words):
        open_rows("toys", TOY, make(tmp_path))


@pytest.mark.parametrize("name", [name for name, benchmark in BENCHMARKS.items() if not benchmark.drawn])
def test_every_benchmark_refuses_other_columns(tmp_path, name):
    """A folder of captions is none of them, and the line says which columns, or which files, it wants."""
    folder = listed(tmp_path, {"file": "a.png", "words": "A cat."})
    with pytest.raises(DataError) as caught:
        open_rows(name, BENCHMARKS[name], folder)
    line = str(caught.value)
    assert str(folder) in line
    assert "; " in line, "it says what to change"
    assert "\n" not in line


def test_pictures_stay_in_the_table_until_they_are_needed(tmp_path):
    """Rows of a Parquet file or a saved dataset hold no bytes: a whole benchmark's pictures would fill the memory."""
    pictures = [scene(0, number).draw() for number in range(3)]
    features = datasets.Features({"question_id": datasets.Value("string"), "image": datasets.Image()})
    columns = {"question_id": ["a", "b", "c"], "image": pictures}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "saved")
    rows = open_rows("toy", replace(TOY, columns=("question_id", "image")), tmp_path / "saved")
    row, origin = rows[1]
    assert isinstance(row["image"], Cell)
    opened = open_picture(media(row["image"], origin.base))
    assert np.array_equal(np.asarray(opened.pixels()), np.asarray(pictures[1]))
