from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from curating.conftest import photo
from smolforge.curating.dedupe import find_duplicates
from smolforge.curating.lists import entry, write_list
from smolforge.curating.page import findings_page
from smolforge.curating.reading import open_tables, picture_store
from smolforge.data.sources.rows import row_content
from smolforge.data.sources.tables import open_source
from smolforge.errors import DataError, UserError
from smolforge.recipe import DataSection

CAPTION = "a brown dog sleeps on the old sofa in a small room"
OTHER = "two people wait for the last train at night"


def files(folder: Path) -> None:
    """Photo a, its resaved and halved copies, photo b."""
    folder.mkdir(exist_ok=True)
    photo(1).save(folder / "a.png")
    photo(1).save(folder / "a50.jpg", quality=50)
    photo(1).resize((160, 120)).save(folder / "half.png")
    photo(2).save(folder / "b.png")


def found(folder: Path | list[DataSection], store, **options) -> dict[str, str]:
    """Row -> the row because of which it goes."""
    tables = open_tables(folder if isinstance(folder, list) else [DataSection(source=str(folder))])
    findings = find_duplicates(tables, store=store, **options)
    return {f"{entry(one, tables[one.source])['row']}": one.of.rpartition("[")[2][:-1] for one in findings.removals}


def test_picture_and_text_have_to_be_near(tmp_path, rows, store):
    folder = rows("set", [
        {"image": "a.png", "caption": CAPTION},
        {"image": "a50.jpg", "caption": f"{CAPTION.upper()}!"},  # near
        {"image": "half.png", "caption": OTHER},  # the picture only
        {"image": "b.png", "caption": CAPTION},  # the text only
        {"image": "half.png", "caption": OTHER},  # the same again
    ])  # fmt: skip
    files(folder)
    assert found(folder, store) == {"1": "0", "4": "2"}
    assert found(folder, store, by="picture") == {"1": "0", "2": "0", "4": "0"}
    assert found(folder, store, by="text") == {"1": "0", "3": "0", "4": "2"}


def test_rows_without_pictures_are_compared_by_their_texts(rows, store):
    folder = rows("set", [
        {"prompt": "Say hello.", "completion": CAPTION}, {"prompt": "Say hello.", "completion": OTHER},
        {"prompt": "say  hello", "completion": f"{CAPTION}."},
    ])  # fmt: skip
    assert found(folder, store) == {"2": "0"}
    assert found(folder, store, by="picture") == {}


def test_preference_pairs_differ_when_one_answer_does(rows, store):
    pair = {"prompt": "What is there?", "chosen": CAPTION, "rejected": OTHER}
    folder = rows("set", [pair, pair | {"rejected": "nothing at all can be seen here"}, pair])
    assert found(folder, store) == {"2": "0"}


def test_several_pictures_of_a_row(rows, store):
    folder = rows("set", [
        {"images": ["a.png", "b.png"], "caption": CAPTION}, {"images": ["b.png", "a.png"], "caption": CAPTION},
        {"images": ["a50.jpg", "b.png"], "caption": CAPTION}, {"images": ["a.png"], "caption": CAPTION},
    ])  # fmt: skip
    files(folder)
    assert found(folder, store) == {"2": "0"}


def test_flat_pictures_are_the_same_only_with_the_same_pixels(rows, store):
    folder = rows("set", [{"image": f"{level}.png", "caption": CAPTION} for level in (100, 101, 100)])
    for level in (100, 101):
        Image.new("RGB", (40, 40), (level, level, level)).save(folder / f"{level}.png")
    assert found(folder, store) == {"2": "0"}


def test_videos_are_compared_by_three_frames(tmp_path, rows, store):
    """All begin with the same frame."""
    for name, seeds in {"one": (1, 2, 3), "same": (1, 2, 3), "other": (1, 4, 5)}.items():
        (tmp_path / "set" / name).mkdir(parents=True)
        for number, seed in enumerate(seeds):
            photo(seed).save(tmp_path / "set" / name / f"{number}.jpg", quality=90 if name == "one" else 60)
    from smolforge.curating.reading import Skips, read_rows
    from smolforge.records import Message, Record, Video

    class Clips:
        name = "clips"
        rows = range(4)

        def record(self, index: int) -> Record:
            ref = tmp_path / "set" / ("one", "same", "other", "absent")[index]
            return Record(
                id=str(index), source="clips", messages=(Message(role="user", content=(Video(ref=ref),)),), responses=()
            )

    skips = Skips()
    read = list(read_rows([Clips()], store, skips, max_pixels=10**6, tick=lambda: None))
    assert [len(one.marks) for one in read] == [3, 3, 3]
    from smolforge.curating.pictures import Marks, neighbours

    marks = Marks()
    numbers = [[marks.number(data) for data in one.marks] for one in read]
    near = neighbours(marks, 10)
    same = [[a == b or b in near.get(a, {}) for a, b in zip(numbers[0], other, strict=True)] for other in numbers]
    assert same == [[True] * 3, [True] * 3, [True, False, False]]
    assert list(skips.counts.values()) == [1]
    assert "clips[3]" in skips.names["a picture not readable"][0]


def test_rows_that_cannot_be_read_are_counted_and_named(rows, store):
    folder = rows("set", [
        {"image": "a.png", "caption": CAPTION}, {"image": "absent.png", "caption": CAPTION}, {"nothing": 1},
        {"image": "cut.jpg", "caption": CAPTION}, {"image": "a50.jpg", "caption": CAPTION},
    ])  # fmt: skip
    files(folder)
    whole = (folder / "a50.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    tables = open_tables([DataSection(source=str(folder))])
    findings = find_duplicates(tables, store=store)
    assert [one.index for one in findings.removals] == [4]
    assert findings.rows == (2,)
    assert findings.skips.counts == {"a picture not readable": 2, "not readable": 1}
    names = " ".join(findings.skips.names["a picture not readable"])
    assert "[1]" in names
    assert "[3]" in names
    assert "[2]" in findings.skips.names["not readable"][0]


def test_across_entries_the_first_stays_and_no_row_is_its_own_duplicate(rows, store):
    one = rows("one", [{"image": "a.png", "caption": CAPTION}, {"image": "b.png", "caption": OTHER}])
    two = rows("two", [{"image": "half.png", "caption": CAPTION}])
    files(one)
    files(two)
    sections = [DataSection(source=str(one)), DataSection(source=str(two)), DataSection(source=str(one), split="train[:1]")]
    tables = open_tables(sections)
    findings = find_duplicates(tables, store=store)
    assert [(one.source, one.index) for one in findings.removals] == [(1, 0)]
    assert findings.removals[0].of == f"{one}[0]"
    assert findings.rows == (2, 1, 0)
    assert findings.clusters == (2,)
    assert findings.skips.counts == {"read by an entry before": 1}


def test_a_second_run_decodes_nothing(rows, tmp_path, monkeypatch):
    folder = rows("set", [{"image": name, "caption": CAPTION} for name in ("a.png", "half.png", "b.png")])
    files(folder)
    first = found(folder, picture_store(tmp_path / "kept"), by="picture")

    def undecodable(image):
        raise AssertionError("decoded again")

    monkeypatch.setattr("smolforge.curating.reading.mark", undecodable)
    assert found(folder, picture_store(tmp_path / "kept"), by="picture") == first == {"1": "0"}
    with pytest.raises(AssertionError, match="decoded again"):
        found(folder, picture_store(tmp_path / "new"), by="picture")


def test_a_stream_is_refused(store):
    with pytest.raises(DataError, match="no row numbers"):
        open_tables([DataSection(source="somebody/something", streaming=True)])


def test_the_list_leaves_the_rows_out(rows, store, tmp_path):
    lines = [{"image": name, "caption": CAPTION} for name in ("a.png", "b.png", "a50.jpg", "half.png")]
    folder = rows("set", lines)
    files(folder)
    section = DataSection(source=str(folder), split="train[1:]")  # row 0 is not looked at: 2 stays, 3 goes
    tables = open_tables([section])
    findings = find_duplicates(tables, store=store)
    out = write_list(tmp_path / "new" / "list.jsonl", findings.removals, tables)
    (line,) = map(json.loads, out.read_text().splitlines())
    bits = line.pop("distance")
    assert 0 <= bits <= 10
    assert line.pop("content") == row_content(lines[3])
    assert line == {
        "source": str(folder), "name": None, "split": "train", "row": 3, "rows": 4, "reason": "near-duplicate picture and text",
        "of": f"{folder}[2]", "similarity": 1.0,
    }  # fmt: skip
    applied = section.model_copy(update={"exclude": (out,)})
    assert list(open_source(applied).rows) == [1, 2]
    assert find_duplicates(open_tables([applied]), store=store).removals == ()
    with pytest.raises(UserError, match="is a folder"):
        write_list(tmp_path, findings.removals, tables)


def test_the_page_shows_pairs_and_escapes_their_texts(rows, store):
    text = f"<script>alert(1)</script> {CAPTION}"
    folder = rows("set", [{"image": "a.png", "caption": text}, {"image": "half.png", "caption": text}])
    files(folder)
    tables = open_tables([DataSection(source=str(folder))])
    findings = find_duplicates(tables, store=store)
    shown = findings_page("Twice", findings, tables, [("list", "list.jsonl")])
    assert shown.count("data:image/jpeg;base64,") == 2
    assert "<script>" not in shown
    assert "&lt;script&gt;alert(1)" in shown
    assert "1 of 2 rows are on the list" in shown
    assert f"{folder}[1]" in shown
    (folder / "a.png").unlink()  # gone since: said where the picture would be
    assert "no such picture" in findings_page("Twice", findings, tables, [])


def test_bytes_in_parquet(tmp_path, store):
    import datasets

    data = []
    for quality in (95, 40):
        file = io.BytesIO()
        photo(7).save(file, "JPEG", quality=quality)
        data.append({"bytes": file.getvalue(), "path": None})
    table = datasets.Dataset.from_dict({"image": data, "caption": [CAPTION, CAPTION]})
    table.to_parquet(tmp_path / "rows.parquet")
    assert found(tmp_path / "rows.parquet", store) == {"1": "0"}
