from __future__ import annotations

import json
from pathlib import Path

import pytest

from smolforge.curating.dedupe import find_duplicates
from smolforge.curating.lists import Removal, entry, write_list
from smolforge.curating.reading import Skips, open_tables, read_tables
from smolforge.data.exclusion import LOOKED, Piece, check_lists, excluded
from smolforge.data.sources.rows import row_content
from smolforge.data.sources.tables import open_source
from smolforge.errors import DataError
from smolforge.recipe import DataSection
from smolforge.store import Store

LINE = {"source": "a", "name": None, "split": "train", "row": 3, "reason": "any", "of": "a[0]", "distance": 2}


TABLE = [{"prompt": "p", "completion": str(number)} for number in range(200)]  # whose rows lists without content do not look at


def write(folder: Path, *lines: object, name: str = "list.jsonl") -> Path:
    file = folder / name
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return file


def left_out(files: list[Path], section: DataSection, *, rows: int = 20) -> set[int]:
    """By lists, of a source whose configurations have so many rows each."""
    names = section.name if isinstance(section.name, tuple) else (section.name,)
    pieces = [Piece(name=name, split=section.split.partition("[")[0], rows=rows) for name in names]
    return excluded(files, section, pieces, TABLE)


def test_rows_of_the_source_configuration_and_split(tmp_path):
    first = write(
        tmp_path, LINE, LINE | {"row": 4, "split": "test"}, LINE | {"row": 5, "source": "b"}, LINE | {"row": 6, "name": "x"}, "",
        LINE | {"row": 7, "name": ["x", "y"]}, LINE | {"row": 8, "fixture": True},
    )  # fmt: skip
    second = write(tmp_path, LINE | {"row": 9}, name="second.jsonl")
    assert left_out([first, second], DataSection(source="a")) == {3, 9}
    assert left_out([first], DataSection(source="a", split="test[10%:]")) == {4}
    assert left_out([first], DataSection(source="a", name="x")) == {6}
    assert left_out([first], DataSection(source="a", name=("x", "y"))) == {6, 7}  # row 6 of x, and 7 counted through both
    assert left_out([first], DataSection(source="a", fixture=True)) == {8}
    assert left_out([first], DataSection(source="nowhere")) == set()
    assert left_out([], DataSection(source="a")) == set()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not a JSON object"),
        (LINE | {"row": -1}, "row is -1"),
        (LINE | {"row": True}, "row is True"),
        (LINE | {"row": "3"}, "row is '3'"),
        ({"source": "a", "split": "train"}, "row is None"),
        (LINE | {"source": 3}, "source is 3"),
        (LINE | {"split": None}, "split is None"),
        (LINE | {"name": 7}, "name is 7"),
        (LINE | {"name": [1]}, "name is \\[1\\]"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, what):
    file = write(tmp_path, LINE, line)
    with pytest.raises(DataError, match=what) as error:
        left_out([file], DataSection(source="another"))
    assert error.value.where == f"{file}, line 2"


def test_a_missing_list_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such list"):
        left_out([tmp_path / "absent.jsonl"], DataSection(source="a"))


def test_a_list_for_another_version_of_the_table_is_refused(tmp_path):
    """Its numbers would name other rows."""
    file = write(tmp_path, LINE | {"rows": 10})
    assert left_out([file], DataSection(source="a"), rows=10) == {3}
    with pytest.raises(DataError, match="for 10 rows of a, it has 11"):
        left_out([file], DataSection(source="a"), rows=11)
    with pytest.raises(DataError, match="row 3 of a, which has 3"):
        left_out([write(tmp_path, LINE)], DataSection(source="a"), rows=3)
    file = write(tmp_path, LINE | {"revision": "v1"})
    assert left_out([file], DataSection(source="a", revision="v1")) == {3}
    pinned = DataSection(source="a", revision="v2", exclude=(file,))
    assert left_out([file], pinned) == set()
    with pytest.raises(DataError, match=r"of a \(split train, revision v1\), none of split train, revision v2"):
        check_lists([pinned])


def test_a_recipe_leaves_the_rows_out_whatever_its_slice(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": "p", "completion": str(n)}) + "\n" for n in range(10)))
    file = write(tmp_path, *(LINE | {"source": str(rows), "row": row, "rows": 10} for row in (0, 4, 7)))
    assert list(open_source(DataSection(source=str(rows), exclude=(file,))).rows) == [1, 2, 3, 5, 6, 8, 9]
    sliced = open_source(DataSection(source=str(rows), split="train[50%:]", exclude=(file,)))
    assert list(sliced.rows) == [5, 6, 8, 9]
    assert sliced.left_out == 1, "the other two are not of this slice"
    assert open_source(DataSection(source=str(rows))).left_out is None
    assert [response.text for response in sliced.record(2).responses] == ["8"]


def test_one_table_in_several_spellings(tmp_path, monkeypatch):
    """A list that was written for the absolute path serves the relative one."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n" * 10)
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path, LINE | {"source": str(rows)})
    for spelt in ("rows.jsonl", "./rows.jsonl", f"../{tmp_path.name}/rows.jsonl", str(rows)):
        assert left_out([file], DataSection(source=spelt)) == {3}
    file = write(tmp_path, LINE | {"source": "flickr8k"})
    assert left_out([file], DataSection(source="jxie/flickr8k")) == {3}
    file = write(tmp_path, LINE | {"source": "HuggingFaceM4/the_cauldron", "name": "ai2d"})
    assert left_out([file], DataSection(source="the_cauldron", name=("ai2d",))) == {3}


def test_a_list_for_other_configurations_or_splits_is_refused(tmp_path):
    file = write(tmp_path, LINE | {"name": "y"}, LINE | {"source": "b"})
    entry, other = (DataSection(source=source, name=name, exclude=(file,)) for source, name in (("a", "x"), ("b", None)))
    with pytest.raises(DataError, match=r"names rows of a \(name y, split train\), none of name x, split train") as error:
        check_lists([entry, other])
    assert error.value.where == str(file)
    check_lists([entry, DataSection(source="a", name="y", exclude=(file,))])  # the list of both
    check_lists([DataSection(source="a", name="all", exclude=(file,))])
    check_lists([DataSection(source="a", name=("x", "y"), split="train+test", exclude=(file,))])
    with pytest.raises(DataError, match="none of name x,y, split test"):
        check_lists([DataSection(source="a", name=("x", "y"), split="test", exclude=(file,))])
    check_lists([DataSection(source="a", fixture=True, exclude=(file,))])
    check_lists([DataSection(source="a", exclude=(write(tmp_path, name="empty.jsonl"),))])


def test_rows_of_a_configuration_are_the_same_however_it_was_asked_for(tmp_path):
    """y[3] is row 3 of y alone, 23 of x, y with 20 rows each, and 3 of y, x."""
    file = write(tmp_path, LINE | {"name": "y", "rows": 20})
    assert [left_out([file], DataSection(source="a", name=name)) for name in ("y", ("y",), ("x", "y"), ("y", "x"), "x")] == [
        {3}, {3}, {23}, {3}, set(),
    ]  # fmt: skip
    pieces = [Piece(name=name, split=split, rows=20) for name in "xyz" for split in ("train", "test")]
    assert excluded([file], DataSection(source="a", name="all", split="train+test"), pieces, TABLE) == {43}
    with pytest.raises(DataError, match="for 20 rows of a, it has 21"):
        left_out([file], DataSection(source="a", name=("x", "y")), rows=21)
    files = [Piece(file=name, rows=5) for name in ("one.json", "two.json")]
    file = write(tmp_path, LINE | {"file": "two.json", "split": "train", "name": "two"})
    assert excluded([file], DataSection(source="a", name="all", dir=tmp_path), files, TABLE) == {8}
    assert excluded([file], DataSection(source="a", name="two", dir=tmp_path), files[1:], TABLE) == {3}
    assert excluded([file], DataSection(source="a", name="one", dir=tmp_path), files[:1], TABLE) == set()


def annotated(folder: Path) -> Path:
    """mammoth_vl, downloaded: rows 0, 1, 2 of one file, and of the other the same texts in the order 2, 3, 0."""
    for name, numbers in (("mammoth_si_10M.json", (0, 1, 2)), ("mammoth_ov_2M.json", (2, 3, 0))):
        talks = [
            [{"from": "human", "value": f"What is {n}?"}, {"from": "gpt", "value": f"The number {n} and nothing else."}]
            for n in numbers
        ]
        (folder / name).write_text(json.dumps([{"conversations": talk} for talk in talks]))
    return folder


def test_a_list_for_all_serves_its_configurations_one_by_one(tmp_path, store):
    """And the other way round: what dedupe writes is the same rows, asked for as `all`, as two names, or as two entries."""
    folder = annotated(tmp_path)
    asked = [("all",), (("mammoth_ov_2M", "mammoth_si_10M"),), ("mammoth_ov_2M", "mammoth_si_10M")]
    written, kept = [], []
    for number, names in enumerate(asked):
        sections = [DataSection(source="mammoth_vl", name=name, dir=folder) for name in names]
        tables = open_tables(sections)
        found = find_duplicates(tables, by="both", distance=10, similarity=0.8, store=store, max_pixels=10**6, tick=lambda: None)
        file = write_list(tmp_path / f"{number}.jsonl", found.removals, tables)
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        written.append([(line["file"], line["row"], line["rows"]) for line in lines])
        for others in asked:
            sources = [open_source(DataSection(source="mammoth_vl", name=name, dir=folder, exclude=(file,))) for name in others]
            kept.append(sorted(one.record(n).responses[0].text for one in sources for n in range(len(one))))
    assert [sorted(lines) for lines in written] == [[("mammoth_si_10M.json", 0, 3), ("mammoth_si_10M.json", 2, 3)]] * 3
    assert kept == [[f"The number {n} and nothing else." for n in range(4)]] * 9
    overlapping = [DataSection(source="mammoth_vl", name=name, dir=folder) for name in ("mammoth_si_10M", "all")]
    skips = Skips()
    read = list(read_tables(open_tables(overlapping), None, skips, max_pixels=10**6, tick=lambda: None))
    assert (len(read), skips.counts) == (6, {"read by an entry before": 3})
    assert skips.names["read by an entry before"][0] == "mammoth_vl mammoth_si_10M.json[0]"


def test_entries_of_one_source_in_two_folders_are_two_tables(tmp_path, store):
    """Both are read, and a list tells which of them a row is of."""
    folders = [tmp_path / name for name in ("here", "there")]
    for folder in folders:
        folder.mkdir()
    sections = [DataSection(source="mammoth_vl", name="mammoth_ov_2M", dir=annotated(folder)) for folder in folders]
    tables, skips = open_tables(sections), Skips()
    assert len(list(read_tables(tables, None, skips, max_pixels=10**6, tick=lambda: None))) == 6
    assert skips.counts == {}
    found = find_duplicates(tables, by="both", distance=10, similarity=0.8, store=store, max_pixels=10**6, tick=lambda: None)
    file = write_list(tmp_path / "list.jsonl", found.removals, tables)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["dir"], line["row"]) for line in lines] == [(str(folders[1]), row) for row in range(3)]
    here, there = (section.model_copy(update={"exclude": (file,)}) for section in sections)
    assert len(open_source(here)) == 3
    with pytest.raises(DataError, match="every row is to be left out"):
        open_source(there)
    there_not_here = rf"of mammoth_vl \(file mammoth_ov_2M.json, dir {folders[1]}\), none of .* dir {folders[0]}"
    with pytest.raises(DataError, match=there_not_here):
        check_lists([here])
    file.write_text("".join(json.dumps({key: line[key] for key in line if key != "dir"}) + "\n" for line in lines[:1]))
    check_lists([here])
    assert [len(open_source(section)) for section in (here, there)] == [2, 2], "an older list, which names no folder"


@pytest.fixture
def hub(monkeypatch) -> list[DataSection]:
    """Someone's pairs, of which v2 has the rows of v1 in another order; both as a recipe's entries."""
    numbers = {None: (0, 1, 2), "v1": (0, 1, 2), "v2": (2, 1, 3)}

    def table(hub: str, name: str | None, split: str, *, revision: str | None = None) -> list[dict[str, str]]:
        return [{"prompt": f"What is {n}?", "completion": f"The number {n} and nothing else."} for n in numbers[revision]]

    monkeypatch.setattr("smolforge.data.sources.tables.hub_table", table)
    return [DataSection(source="someone/pairs", revision=revision) for revision in ("v1", "v2")]


def duplicates(sections: list[DataSection], out: Path, store: Store) -> list[dict[str, object]]:
    """The lines of the list that `dedupe` writes."""
    tables = open_tables(sections)
    found = find_duplicates(tables, by="both", distance=10, similarity=1.0, store=store, max_pixels=10**6, tick=lambda: None)
    return [json.loads(line) for line in write_list(out, found.removals, tables).read_text().splitlines()]


def kept(sections: list[DataSection], file: Path) -> list[list[int]]:
    """Numbers of the rows that a list leaves of a recipe's entries."""
    sections = [section.model_copy(update={"exclude": (file,)}) for section in sections]
    check_lists(sections)
    return [list(open_source(section).rows) for section in sections]


@pytest.mark.parametrize("revisions", [("v1", "v2"), ("v2", "v1"), (None, "v2"), ("v2", None)])
def test_entries_at_two_revisions_are_two_tables(tmp_path, store, hub, revisions):
    """Row 1 is the same in both, 2 of one is 0 of the other."""
    sections = [hub[0].model_copy(update={"revision": revision}) for revision in revisions]
    skips, file = Skips(), tmp_path / "list.jsonl"
    assert len(list(read_tables(open_tables(sections), None, skips, max_pixels=10**6, tick=lambda: None))) == 6
    assert skips.counts == {}
    lines = duplicates(sections, file, store)
    gone = [1, 2] if revisions[1] != "v2" else [0, 1]
    assert [(line["revision"], line["row"]) for line in lines] == [(revisions[1], row) for row in gone]
    assert kept(sections, file) == [[0, 1, 2], [row for row in range(3) if row not in gone]]
    assert kept(sections[1:], file) == [[row for row in range(3) if row not in gone]]
    with pytest.raises(DataError, match="names rows of someone/pairs"):
        kept(sections[:1], file)


@pytest.mark.parametrize("first", [0, 1])
def test_a_folder_and_the_hub_are_two_tables(tmp_path, store, hub, first):
    """The row that goes is one of the second entry alone, whichever that is."""
    pairs = [{"prompt": f"What is {n}?", "completion": f"The number {n} and nothing else."} for n in (0, 7)]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    here = DataSection(source="someone/pairs", dir=tmp_path)
    sections = [here, hub[1].model_copy(update={"revision": None})]
    sections = sections if first == 0 else sections[::-1]
    file = tmp_path / "list.jsonl"
    (line,) = duplicates(sections, file, store)
    assert (line["row"], line["dir"]) == (0, None if first == 0 else str(tmp_path))
    assert kept(sections, file) == ([[0, 1], [1, 2]] if first == 0 else [[0, 1, 2], [1]])


def test_older_lists_serve_what_they_can_mean(tmp_path, hub):
    """They say no revision where the recipe had none, and then serve any one; of two entries nobody knows which is meant."""
    line = LINE | {"source": "someone/pairs", "row": 1, "rows": 3}
    loose, pinned = write(tmp_path, line), write(tmp_path, line | {"revision": "v2"}, name="pinned.jsonl")
    plain = hub[0].model_copy(update={"revision": None})
    for section in (plain, *hub):
        assert kept([section], loose) == [[0, 2]]
        assert kept([section, section.model_copy(update={"split": "train[1:]"})], loose) == [[0, 2], [2]]
    for sections in (hub, [plain, hub[1]], [plain, plain.model_copy(update={"dir": tmp_path})]):
        with pytest.raises(DataError, match="does not say which of them it means; write it again") as error:
            kept(sections, loose)
        assert error.value.where == f"{loose}"
    assert kept(hub, pinned) == [[0, 1, 2], [0, 2]]
    content = write(tmp_path, line | {"row": 0, "content": row_content({"prompt": "another"})}, name="content.jsonl")
    with pytest.raises(DataError, match="row 0 of someone/pairs is another than the list means"):
        kept([hub[1]], content)


def test_the_revision_of_files_here_is_none(tmp_path, hub):
    """They are read as they are, whatever it says."""
    (tmp_path / "metadata.jsonl").write_text('{"prompt": "p", "completion": "c"}\n' * 3)
    line = LINE | {"source": "someone/pairs", "row": 1, "dir": str(tmp_path), "revision": "v1"}
    for revision in (None, "v1", "v2"):
        assert kept([hub[0].model_copy(update={"dir": tmp_path, "revision": revision})], write(tmp_path, line)) == [[0, 2]]
    published = write(tmp_path, {key: told for key, told in line.items() if key != "dir"})
    assert kept([hub[0].model_copy(update={"dir": tmp_path})], published) == [[0, 2]], "v1's, and a folder that is said to be v1"
    rows = DataSection(source=str(tmp_path / "metadata.jsonl"))
    sections = [rows, rows.model_copy(update={"revision": "v1"})]
    skips = Skips()
    list(read_tables(open_tables(sections), None, skips, max_pixels=10**6, tick=lambda: None))
    assert skips.counts == {"read by an entry before": 3}


@pytest.mark.parametrize("own", [False, True])
def test_rows_of_files_in_subfolders(tmp_path, store, own):
    """The list says which file, and serves each way to ask for it."""
    for name, numbers in (("a/train", (0, 1)), ("b/train", (1, 2)), ("b/test", (0, 3))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pairs = [{"prompt": f"What is {n}?", "completion": f"The number {n} and nothing else."} for n in numbers]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    whole = DataSection(source=str(tmp_path)) if own else DataSection(source="someone/pairs", dir=tmp_path)
    file = tmp_path.with_name("list.jsonl")
    lines = duplicates([whole.model_copy(update={"split": "train+test"})], file, store)
    assert [(line["file"], line["row"]) for line in lines] == [("b/train.jsonl", 0), ("b/test.jsonl", 0)]
    assert kept([whole, whole.model_copy(update={"split": "test"})], file) == [[0, 1, 3], [1]]
    assert kept([whole.model_copy(update={"name": name}) for name in ("a", "b")], file) == [[0, 1], [1]]


def test_a_table_in_another_order_is_refused(tmp_path, rows, store):
    """As long as before, and as large."""
    talks = [{"prompt": "What is it, this time?", "completion": f"It is the number {n} once more."} for n in (0, 1, 2, 1)]
    folder = rows("set", talks)
    section = DataSection(source=str(folder))
    tables = open_tables([section])
    found = find_duplicates(tables, by="both", distance=10, similarity=1.0, store=store, max_pixels=10**6, tick=lambda: None)
    file = write_list(tmp_path / "list.jsonl", found.removals, tables)
    section = section.model_copy(update={"exclude": (file,)})
    assert list(open_source(section).rows) == [0, 1, 2]
    rows("set", [dict(reversed(talk.items())) for talk in talks])  # the same rows, however their fields are ordered
    assert list(open_source(section).rows) == [0, 1, 2]
    rows("set", talks[::-1])
    with pytest.raises(DataError, match=r"row 3 of .*set is another than the list means; write the list again") as error:
        open_source(section)
    assert error.value.where == f"{file}, line 1"
    rows("set", [*talks[:3], {"prompt": "?"}])
    with pytest.raises(DataError, match=r"row 3 of .*set is another than the list means"):
        open_source(section)
    (folder / "captions.jsonl").write_text("{}\n{}\n{}\n{\n")
    with pytest.raises(DataError, match=r"row 3 of .*set is another than the list means"):
        open_source(section)


def test_of_a_long_list_a_part_of_the_rows_is_looked_at(tmp_path):
    """Evenly, first and last among them."""
    asked: list[int] = []

    class Counted(list):
        def __getitem__(self, number):
            asked.append(number)
            return {"n": number}

    lines = [LINE | {"row": row, "content": row_content({"n": row})} for row in range(0, 3 * LOOKED)]
    file = write(tmp_path, *lines)
    assert len(excluded([file], DataSection(source="a"), [Piece(split="train", rows=3 * LOOKED)], Counted())) == 3 * LOOKED
    assert (len(set(asked)), asked[0], asked[-1]) == (LOOKED, 0, 3 * LOOKED - 1)


def test_rows_that_are_drawn_have_no_content(tmp_path):
    sections = [DataSection(source="scenes", split="train[:3]"), DataSection(source="flickr8k", fixture=True)]
    tables = open_tables(sections)
    for number, table in enumerate(tables):
        line = entry(Removal(source=number, index=1, reason="any", other=table.source, other_index=0), table)
        assert "content" not in line
        file = write(tmp_path, line)
        assert len(open_source(sections[number].model_copy(update={"exclude": (file,)}))) == len(table.source) - 1


def test_a_list_that_serves_no_entry_is_refused(tmp_path):
    file, empty = write(tmp_path, LINE), write(tmp_path, name="empty.jsonl")
    one, other = DataSection(source="a", exclude=(file, empty)), DataSection(source="b", exclude=(file,))
    check_lists([one, other])
    with pytest.raises(DataError, match=r"names no row of b, only of a") as error:
        check_lists([other, DataSection(source="a", exclude=(empty,))])
    assert error.value.where == str(file)
    check_lists([DataSection(source="b", fixture=True, exclude=(file,))])


def test_curating_refuses_a_list_that_serves_no_entry(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "p", "completion": "c"}) + "\n")
    with pytest.raises(DataError, match="names no row of"):
        open_tables([DataSection(source=str(rows), exclude=(write(tmp_path, LINE),))])
