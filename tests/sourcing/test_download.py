"""`data download`: whole files or none, resumed, checked, unpacked. The Hub is a server of these tests."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from local_hub import COMMIT, REPO, Hub

from smolforge.data.sources.catalog import SOURCES
from smolforge.data.sources.scenes import scene
from smolforge.data.sources.tables import open_source
from smolforge.errors import DataError
from smolforge.recipe import DataSection
from smolforge.sourcing.disk import RESERVE
from smolforge.sourcing.download import Fetched, Plan, _part, download, plan_download
from smolforge.sourcing.hub_files import OURS, Listing, RemoteFile, wanted

BIG = np.random.default_rng(0).bytes(25_000_000)  # huggingface_hub writes 10 MiB (10,485,760 bytes) at a time
STEP = 10 * 2**20
PACKED = {"videos/a.mp4": b"film a", "videos/b.mp4": b"film b"}


def packed(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def pets(hub: Hub) -> Hub:
    hub.repos[REPO] = {
        "README.md": b"# Pets", "data/train-0.parquet": BIG, "data/test-0.parquet": b"test", "cats/rows.json": b"[]",
        "media/films.tar.gz": packed(PACKED), "media/photos.zip": zipped({"photos/1.jpg": b"one"}),
    }  # fmt: skip
    return hub


def get(folder: Path, source: str = REPO, **more: Any) -> tuple[Plan, Fetched]:
    plan = plan_download(source, folder, **more)
    return plan, download(plan)


def below(folder: Path) -> set[str]:
    """Names of the files that somebody sees there."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if path.parts[0] != ".smolforge"}


def test_files_come_whole_and_archives_are_unpacked(pets, tmp_path):
    ticked: list[int] = []
    plan = plan_download(REPO, tmp_path / "pets")
    assert not (tmp_path / "pets").exists(), "a plan writes nothing"
    assert plan.size == plan.to_fetch == sum(map(len, pets.repos[REPO].values()))
    assert plan.to_unpack == sum(len(pets.repos[REPO][name]) for name in ("media/films.tar.gz", "media/photos.zip"))
    done = download(plan, tick=ticked.append)
    for name, content in pets.repos[REPO].items():
        assert (tmp_path / "pets" / name).read_bytes() == content
    markers = {"media/films.tar.gz.unpacked", "media/photos.zip.unpacked"}
    unpacked = {"media/videos/a.mp4", "media/videos/b.mp4", "media/photos/1.jpg"}
    assert below(tmp_path / "pets") == {*pets.repos[REPO], *unpacked, *markers}
    assert (tmp_path / "pets" / "media/videos/b.mp4").read_bytes() == b"film b"
    assert sum(ticked) == plan.to_fetch + sum(one.bytes for one in done.unpacked.values())
    assert {name: (one.files, one.bytes) for name, one in done.unpacked.items()} == {
        "media/films.tar.gz": (2, 12), "media/photos.zip": (1, 3),
    }  # fmt: skip


def test_a_second_run_asks_nobody(pets, tmp_path):
    get(tmp_path)
    pets.asked.clear()
    del pets.repos[REPO]  # the Hub would say so
    for verify in (False, True):
        plan = plan_download(REPO, tmp_path, verify=verify)
        assert (plan.missing, plan.unpack, plan.to_fetch, plan.to_unpack) == ((), (), 0, 0)
    assert not pets.asked


@pytest.mark.parametrize("name", ["data/train-0.parquet", "cats/rows.json"], ids=["sha256", "git's"])
def test_what_was_damaged_here_is_fetched_anew(pets, tmp_path, name):
    """One byte of the same length: the changed time tells; with the old time put back, only --verify does."""
    get(tmp_path)
    file = tmp_path / name
    state = file.stat()
    content = pets.repos[REPO][name]
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert not plan_download(REPO, tmp_path).missing
    plan = plan_download(REPO, tmp_path, verify=True)
    assert plan.damaged == (name,)
    os.utime(file)
    plan, done = get(tmp_path)
    assert plan.damaged == (name,)
    assert done.files == 1
    assert file.read_bytes() == content


CHILD = """
import sys
from pathlib import Path
from smolforge.sourcing.download import download, plan_download
download(plan_download(sys.argv[1], Path(sys.argv[2])))
"""


def test_killed_it_goes_on_in_the_middle_of_a_file(pets, tmp_path):
    (file,) = [file for file in plan_download(REPO, tmp_path).files if file.path == "data/train-0.parquet"]
    part = _part(tmp_path, file)
    pets.hold[file.path] = STEP + 2_000_000
    environment = {**os.environ, "HF_ENDPOINT": pets.endpoint, "HF_HUB_OFFLINE": "0"}
    child = subprocess.Popen([sys.executable, "-c", CHILD, REPO, str(tmp_path)], env=environment)
    deadline = time.monotonic() + 600
    while not part.exists() or part.stat().st_size < STEP:
        assert child.poll() is None, "it failed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "data/train-0.parquet").exists()
    assert part.stat().st_size == STEP
    pets.hold.clear()
    pets.go.set()
    pets.asked.clear()
    plan = plan_download(REPO, tmp_path)
    assert plan.to_fetch <= plan.size - STEP
    download(plan)
    assert ("data/train-0.parquet", f"bytes={STEP}-") in pets.asked
    assert (tmp_path / "data/train-0.parquet").read_bytes() == BIG
    assert not list(part.parent.glob("*.part"))


def test_a_connection_that_ends_is_taken_up_again(pets, tmp_path):
    pets.cut["data/train-0.parquet"] = 15_000_000
    get(tmp_path)
    assert (tmp_path / "data/train-0.parquet").read_bytes() == BIG
    ranges = [asked for name, asked in pets.asked if name == "data/train-0.parquet"]
    assert ranges == [None, f"bytes={STEP}-"]


def test_a_damaged_beginning_is_thrown_away(pets, tmp_path):
    plan = plan_download(REPO, tmp_path)
    (file,) = [file for file in plan.files if file.path == "data/train-0.parquet"]
    part = _part(tmp_path, file)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1_000_000)
    get(tmp_path)
    assert (tmp_path / "data/train-0.parquet").read_bytes() == BIG
    assert [asked for name, asked in pets.asked if name == "data/train-0.parquet"] == ["bytes=1000000-", None]


def test_what_arrives_wrong_twice_is_refused(pets, tmp_path):
    pets.wrong["data/test-0.parquet"] = 1
    get(tmp_path / "once")
    assert (tmp_path / "once/data/test-0.parquet").read_bytes() == b"test"
    pets.wrong["data/test-0.parquet"] = 2
    with pytest.raises(DataError, match=r"jo/pets/data/test-0\.parquet: arrived twice with another content"):
        get(tmp_path / "twice")
    assert not (tmp_path / "twice/data/test-0.parquet").exists()


def test_the_disk_must_hold_it_unpacked_too(pets, tmp_path):
    plan = plan_download(REPO, tmp_path, free=lambda folder: 0)
    need = plan.to_fetch + plan.to_unpack + RESERVE
    for free, fits in ((need - 1, False), (need, True)):
        plan = plan_download(REPO, tmp_path, free=lambda folder, free=free: free)
        if fits:
            download(plan)
        else:
            with pytest.raises(DataError, match=r"needs 25\.0 MB \(25\.0 MB to fetch, .* unpacked\), and the disk has 52"):
                download(plan)
            assert not below(tmp_path)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"include": ("data/*.parquet",)}, {"data/train-0.parquet", "data/test-0.parquet"}),
        ({"include": ("**/train-*",)}, {"data/train-0.parquet"}),
        ({"names": ("cats",)}, {"cats/rows.json"}),
        ({"names": ("held-out",)}, {"data/test-0.parquet"}),
        ({"names": ("cats", "held-out")}, {"cats/rows.json", "data/test-0.parquet"}),
    ],
)
def test_parts_of_a_repository(pets, tmp_path, asked, found):
    """By pattern, by the card's configurations, by folder; the card comes too."""
    pets.card = {"configs": [{"config_name": "held-out", "data_files": [{"split": "test", "path": "data/test-*"}]}]}
    plan = plan_download(REPO, tmp_path, **asked)
    assert {file.path for file in plan.files} == {"README.md", *found}


def test_named_sources_take_rows_and_what_they_name(hub, tmp_path):
    """Vript: captions, and of a configuration its own clips; MovieChat: files below a root that no archive holds."""
    captions = [f"vript_captions/vript_{length}_videos_captions.zip" for length in ("short", "long")]
    clips = [f"vript_{length}_videos_clips/clips_1.zip" for length in ("short", "long")]
    names = ("README.md", "other.bin", *captions, *clips, "vript_short_videos/videos_1.zip")
    hub.repos["Mutonix/Vript"] = dict.fromkeys(names, b"")
    names = ("README.md", "jsons/1.json", "raw_videos/1.mp4", "movies/1.pt")
    hub.repos["Enxin/MovieChat-1K_train"] = dict.fromkeys(names, b"")
    plan = plan_download("vript", tmp_path / "vript", names=("vript_short",))
    assert {file.path for file in plan.files} == {"README.md", captions[0], clips[0]}
    plan = plan_download("moviechat", tmp_path / "moviechat")
    assert {file.path for file in plan.files} == {"README.md", "jsons/1.json", "raw_videos/1.mp4"}


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def test_a_recipe_reads_the_folder(hub, tmp_path):
    """A table of the Hub by configuration, and rows whose videos come in an archive."""
    buffer = io.BytesIO()
    scene(0, 0).draw().save(buffer, "PNG")
    turns = [{"user": "What is it?", "assistant": "A shape.", "source": "ai2d"}]
    rows = parquet([{"images": [{"bytes": buffer.getvalue(), "path": None}], "texts": turns}])
    hub.repos["HuggingFaceM4/the_cauldron"] = {"README.md": b"", "ai2d/train-0.parquet": rows, "vqav2/train-0.parquet": rows}
    get(tmp_path / "cauldron", "the_cauldron", names=("ai2d",))
    record = open_source(DataSection(source="the_cauldron", name="ai2d", dir=tmp_path / "cauldron")).record(0)
    assert (record.media[0].ref, record.responses[0].text) == (buffer.getvalue(), "A shape.")
    assert not (tmp_path / "cauldron" / "vqav2").exists()

    named = DataSection(source="llava_video_178k", fixture=True, split="open_ended")
    film = open_source(named).record(0).videos[0].ref
    name, folder = "academic_source/film.mp4", "0_30_s_academic_v0_1"
    turns = [{"from": "human", "value": "<image>\nWhat moves?"}, {"from": "gpt", "value": "A shape."}]
    hub.repos["lmms-lab/LLaVA-Video-178K"] = {
        "README.md": b"", f"{folder}/{folder}_oe_v0_1_qa_processed.json": json.dumps([{"id": "0", "conversations": turns,
        "data_source": folder, "video": name}]).encode(), f"{folder}/{folder}_videos_1.tar.gz": packed({name: film.read_bytes()}),
        "1_2_m_youtube_v0_1/1_2_m_youtube_v0_1_videos_1.tar.gz": b"another",
    }  # fmt: skip
    get(tmp_path / "videos", "llava_video_178k", names=(folder,))
    one = open_source(DataSection(source="llava_video_178k", name=folder, split="open_ended", dir=tmp_path / "videos")).record(0)
    assert one.videos[0].ref.read_bytes() == film.read_bytes()
    assert not (tmp_path / "videos" / "1_2_m_youtube_v0_1").exists()


def test_it_stays_with_the_commit_that_it_began_with(pets, tmp_path):
    """Half an old and half a new version would be neither."""
    get(tmp_path)
    pets.commits[REPO] = "b" * 40
    pets.repos[REPO]["data/test-0.parquet"] = b"test, mended"
    assert plan_download(REPO, tmp_path).listing.commit == COMMIT
    plan, done = get(tmp_path, update=True)
    assert plan.listing.commit == "b" * 40
    assert (done.files, plan.damaged) == (1, ())
    assert (tmp_path / "data/test-0.parquet").read_bytes() == b"test, mended"
    assert plan_download(REPO, tmp_path).listing.commit == "b" * 40


def test_what_a_newer_commit_no_longer_has_goes(hub, tmp_path):
    """It would be read with the rest: a table in one file, which is one in two files now, and an archive with its rows."""

    def rows(*words: str) -> bytes:
        return parquet([{"prompt": word, "completion": "yes"} for word in words])

    old = {"README.md": b"#", "data/train-00000-of-00001.parquet": rows("old1", "old2"), "old.zip": zipped({"0.txt": b"0"})}
    hub.repos[REPO] = old | {"all.zip": zipped({"1.txt": b"1"})}
    get(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    new = {f"data/train-0000{part}-of-00002.parquet": rows(f"new{part}") for part in range(2)}
    hub.commits[REPO], hub.repos[REPO] = "b" * 40, new | {"README.md": b"#", "all.zip": zipped({"2.txt": b"2"})}
    assert plan_download(REPO, tmp_path).gone == ()  # the folder stays with its commit
    plan = plan_download(REPO, tmp_path, update=True)
    assert set(plan.gone) == {"data/train-00000-of-00001.parquet", "old.zip"}
    assert (tmp_path / "old.zip").exists(), "a plan removes nothing"
    done = download(plan)
    assert (done.removed, done.unpacked["all.zip"].removed) == (3, 1)
    assert below(tmp_path) == {*hub.repos[REPO], "mine.txt", "2.txt", "all.zip.unpacked"}
    source = open_source(DataSection(source=REPO, dir=tmp_path))
    assert [source.record(number).words for number in range(len(source))] == ["new0", "new1"]
    (tmp_path / "old.zip").write_text("mine")  # no concern of ours any more
    assert plan_download(REPO, tmp_path).gone == ()


def test_what_a_newer_commit_no_longer_has_and_was_changed_here_is_refused(pets, tmp_path):
    get(tmp_path)
    (tmp_path / "cats/rows.json").write_text("[{}]")
    del pets.repos[REPO]["cats/rows.json"]
    pets.commits[REPO] = "b" * 40
    with pytest.raises(DataError, match=r"cats/rows\.json: was changed here, and commit bbbbbbbbbbbb no longer has it"):
        plan_download(REPO, tmp_path, update=True)
    assert (tmp_path / "cats/rows.json").exists()


@pytest.mark.parametrize("turned", [False, True])
def test_removing_goes_on_after_an_interruption(pets, tmp_path, monkeypatch, turned):
    """In the order of their names, whichever of them arrived first."""
    get(tmp_path)
    ledger = tmp_path / OURS / "files.jsonl"
    ledger.write_text("\n".join(sorted(ledger.read_text().splitlines(), reverse=turned)))
    for name in ("cats/rows.json", "media/photos.zip"):
        del pets.repos[REPO][name]
    pets.commits[REPO] = "b" * 40

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("smolforge.sourcing.download.remove", stop)
        with pytest.raises(KeyboardInterrupt):
            download(plan_download(REPO, tmp_path, update=True))
    assert plan_download(REPO, tmp_path).gone == ("media/photos.zip",)
    get(tmp_path)
    assert {name for name in below(tmp_path) if "photos" in name or "cats" in name} == set()


def test_a_file_that_went_over_to_an_archive_before(pets, tmp_path):
    """b.zip's is in the way when a.zip is unpacked, and goes when b.zip is."""
    pets.repos[REPO] = {"a.zip": zipped({"0.txt": b"0"}), "b.zip": zipped({"1.txt": b"1"})}
    get(tmp_path)
    pets.commits[REPO] = "b" * 40
    pets.repos[REPO] = {"a.zip": zipped({"1.txt": b"I"}), "b.zip": zipped({"2.txt": b"2"})}
    _, done = get(tmp_path, update=True)
    assert (tmp_path / "1.txt").read_bytes() == b"I"
    assert below(tmp_path) == {"a.zip", "b.zip", "a.zip.unpacked", "b.zip.unpacked", "1.txt", "2.txt"}
    assert done.unpacked["a.zip"].kept == 0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("jo/nothing", "jo/nothing: .*no such dataset"),
        ("scenes", "scenes: is not on the Hub; it is drawn by smolforge"),
        ("nonsense", "neither a known source nor a name on the Hub"),
        ("jo/members", "jo/members: the Hub gives it only to those who accepted its terms .*hf auth login"),
        ("jo/evil", "names a file '../../home/jo/.bashrc', which would lie outside"),
    ],
)
def test_trouble_ends_in_one_line(pets, tmp_path, source, words):
    pets.repos["jo/members"] = {"README.md": b""}
    pets.repos["jo/evil"] = {"../../home/jo/.bashrc": b"rm -rf ~"}
    pets.gated.add("jo/members")
    with pytest.raises(DataError, match=words) as error:
        get(tmp_path, source)
    assert "\n" not in str(error.value)


def test_no_network_ends_in_one_line(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9 cannot be reached .*; check the network"):
        get(tmp_path)


def test_what_is_not_ours_is_left_alone(pets, tmp_path):
    (tmp_path / "README.md").write_text("my thesis")
    with pytest.raises(DataError, match=r"README\.md: is another file than the dataset's"):
        get(tmp_path)
    (tmp_path / "README.md").write_bytes(pets.repos[REPO]["README.md"])  # the same file is welcome
    plan, _ = get(tmp_path)
    assert "README.md" not in {file.path for file in plan.missing}
    pets.repos["jo/other"] = {"README.md": b""}
    with pytest.raises(DataError, match="holds jo/pets; choose another folder"):
        get(tmp_path, "jo/other")


def test_two_at_once_are_refused(pets, tmp_path):
    plan = plan_download(REPO, tmp_path)
    (tmp_path / ".smolforge").mkdir()
    with (tmp_path / ".smolforge" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another download works in it"):
            download(plan)


def test_patterns_and_several_names(hub, tmp_path):
    """Of what the patterns choose the files of each name: both, not those that are of both."""
    hub.repos[REPO] = dict.fromkeys(("README.md", "a/1.parquet", "a/1.txt", "ab/1.json", "b/2.parquet", "c/3.parquet"), b"")

    def chosen(names: tuple[str, ...], *include: str) -> set[str]:
        plan = plan_download(REPO, tmp_path, names=names, include=include)
        return {file.path for file in plan.files} - {"README.md"}

    assert chosen(("a", "b"), "*.parquet") == {"a/1.parquet", "b/2.parquet"}
    assert chosen(("a", "b"), "*.txt", "b/*") == {"a/1.txt", "b/2.parquet"}
    with pytest.raises(DataError, match=r"no file of a fits \*\.json"):  # and not those of its neighbour
        chosen(("a",), "*.json")
    with pytest.raises(DataError, match="no configuration dogs; it has a, ab, b, c"):
        chosen(("dogs",), "*.parquet")


def test_what_is_fetched_of_a_name_is_what_is_read_of_it(hub, tmp_path):
    rows = SOURCES["m3it"].fixture(tmp_path / "drawn")
    content = "\n".join(map(json.dumps, rows)).encode()
    tasks = ("vqa/okvqa", "vqa/a-okvqa", "captioning/coco", "classification/coco-goi")
    hub.repos["MMInstruction/M3IT"] = {"README.md": b""} | {f"data/{task}/train.jsonl": content for task in tasks}
    for name, task in (("okvqa", "vqa/okvqa"), ("coco", "captioning/coco")):
        plan, _ = get(tmp_path / name, "m3it", names=(name,))
        assert {file.path for file in plan.files} == {"README.md", f"data/{task}/train.jsonl"}
        assert len(open_source(DataSection(source="m3it", dir=tmp_path / name, name=name))) == len(rows)
    with pytest.raises(DataError, match="no configuration coc; did you mean coco"):
        get(tmp_path / "coc", "m3it", names=("coc",))


def test_a_name_that_several_folders_fit(hub, tmp_path):
    hub.repos[REPO] = dict.fromkeys(("cats-big/1.json", "cats-small/1.json", "pets-of-jo/1.json"), b"")
    with pytest.raises(DataError, match=r"jo/pets: cats fits several folders: cats-big, cats-small; give each"):
        plan_download(REPO, tmp_path, names=("cats",))
    for name in ("cats-big", "pets", "jo"):  # a folder's own name, its beginning, a part of it
        assert len(plan_download(REPO, tmp_path, names=(name,)).files) == 1


def test_many_files_are_planned_in_a_moment():
    """6,000 files of a named source; a set that was rebuilt for each of them took 16 s."""
    files = tuple(RemoteFile(path=f"ai2d/{number}.parquet", size=1, blob=str(number)) for number in range(6000))
    listing = Listing(repo="jo/pets", commit=COMMIT, files=files, configs={}, licence=None, gated=False)
    began = time.process_time()
    assert wanted(listing, SOURCES["the_cauldron"], names=("ai2d",)) == files
    assert time.process_time() - began < 2


def test_a_name_that_no_configuration_has(pets, tmp_path):
    with pytest.raises(DataError, match="no configuration dogs; it has cats, data, media"):
        plan_download(REPO, tmp_path, names=("dogs",))
    with pytest.raises(DataError, match=r"no file fits \*\.mov"):
        plan_download(REPO, tmp_path, include=("*.mov",))


def test_archives_may_stay_packed(pets, tmp_path):
    _, done = get(tmp_path, unpacking=False)
    assert not done.unpacked
    assert below(tmp_path) == set(pets.repos[REPO])


def test_parts_of_an_archive_are_told(pets, tmp_path):
    pets.repos[REPO] |= {"all.tar.gz.part-aa": b"1", "all.zip.001": b"2", "x.tar.ab": b"3"}
    assert plan_download(REPO, tmp_path).split_archives == ["all.tar.gz.part-aa", "all.zip.001", "x.tar.ab"]


def test_what_is_known_is_json(pets, tmp_path):
    get(tmp_path)
    kept = json.loads((tmp_path / ".smolforge" / "download.json").read_text())
    assert (kept["repo"], kept["commit"]) == (REPO, COMMIT)
