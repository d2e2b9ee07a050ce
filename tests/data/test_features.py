"""The feature cache: whole files or none, found by content, never larger than it may be, shared by processes."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from smolforge.data.batch import PackedBatch, collate
from smolforge.data.features import FeatureCache, cache_folder, feature_folder
from smolforge.data.media import ImageSpec, open_picture
from smolforge.data.pipeline import decode_pictures
from smolforge.data.processor import load_renderer
from smolforge.data.render import PlacedImage
from smolforge.data.sources.scenes import scene
from smolforge.data.sources.tables import open_source
from smolforge.errors import CheckpointError, RecipeError
from smolforge.model.tree import TreeModel
from smolforge.objectives import objective_of
from smolforge.recipe import DataSection, FreezeSection, PreferenceSection, Recipe, parse_recipe
from smolforge.records import Distortion, Media


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(folder=tmp_path / "features", max_bytes=10**9, dtype=torch.float32)


def features(number: int, *, tiles: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(tiles, 4, 8, generator=torch.Generator().manual_seed(number)).to(dtype)


def key(number: int) -> str:
    return f"{number:032x}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_put_is_got_bit_for_bit(tmp_path, dtype):
    cache = FeatureCache(folder=tmp_path / "features", max_bytes=10**9, dtype=dtype)
    special = torch.tensor([[[0.0, -0.0, float("inf"), 1e-30]]], dtype=dtype)
    for number, given in enumerate((features(0, dtype=dtype), special)):
        cache.put(key(number), given)
        got = FeatureCache(folder=tmp_path / "features", max_bytes=10**9, dtype=dtype).get(key(number))
        assert got is not None
        assert (got.dtype, got.shape) == (dtype, given.shape)
        assert torch.equal(got.view(torch.uint8), given.view(torch.uint8))
        got.add_(1)  # it is the caller's own, not the file
    assert cache.get(key(9)) is None


def test_features_of_a_number_format_that_is_not_kept(tmp_path):
    cache = FeatureCache(folder=tmp_path / "features", max_bytes=10**9, dtype=torch.float64)
    with pytest.raises(KeyError):
        cache.put(key(0), features(0))
    assert not list(tmp_path.rglob("*.npy*"))


def test_features_with_a_graph_or_strides_are_kept(cache):
    given = features(0).transpose(1, 2).requires_grad_()
    cache.put(key(0), given * 1)
    got = cache.get(key(0))
    assert got is not None
    assert torch.equal(got, given)
    assert not got.requires_grad


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "header only"])
def test_a_damaged_file_is_forgotten_and_made_anew(cache, damage):
    cache.put(key(0), features(0))
    (file,) = cache.folder.glob("*/*.npy")
    content = file.read_bytes()
    file.write_bytes({"cut": content[:-7], "empty": b"", "text": b"no features", "header only": content[:128]}[damage])
    assert cache.get(key(0)) is None
    assert not file.exists()
    cache.put(key(0), features(0))
    got = cache.get(key(0))
    assert got is not None
    assert torch.equal(got, features(0))


def test_what_was_unread_for_longest_goes_first(tmp_path):
    """Room for ten pictures; the first is read before each new one, so the others around it go."""
    size = features(0, tiles=100).nbytes
    cache = FeatureCache(folder=tmp_path / "features", max_bytes=10 * size, dtype=torch.float32)
    for number in range(40):
        if number:
            assert cache.get(key(0)) is not None, number
        cache.put(key(number), features(number, tiles=100))
        for age, file in enumerate(sorted(cache.folder.glob("*/*.npy"), key=lambda f: f.stat().st_mtime_ns)):
            os.utime(file, (1000 + age, 1000 + age))  # coarse clocks: one second apart, in the same order
        assert cache.size() <= cache.max_bytes, number
    left = {file.stem for file in cache.folder.glob("*/*.npy")}
    assert key(0) in left
    assert key(39) in left
    assert len(left) >= 7
    assert left - {key(0)} == {key(number) for number in range(41 - len(left), 40)}
    assert cache.evicted == 40 - len(left)


def test_a_smaller_limit_holds_for_what_an_earlier_run_left(tmp_path):
    folder = tmp_path / "features"
    many = FeatureCache(folder=folder, max_bytes=10**9, dtype=torch.float32)
    for number in range(20):
        many.put(key(number), features(number))
    few = FeatureCache(folder=folder, max_bytes=many.size() // 4, dtype=torch.float32)
    few.put(key(99), features(99))
    assert few.size() <= few.max_bytes
    assert few.get(key(99)) is not None


def test_a_leftover_of_a_killed_process_is_harmless(cache):
    cache.put(key(0), features(0))
    (cache.folder / key(0)[:2] / "tmpabc.unfinished").write_bytes(b"half")
    assert cache.get(key(0)) is not None
    cache.put(key(1), features(1))
    assert cache.size() == 2 * (features(0).nbytes + 128)


def test_a_full_disk_is_one_line(cache, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(CheckpointError, match="the disk is full") as caught:
        cache.put(key(0), features(0))
    assert "cache.dir" in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert cache.get(key(0)) is None
    assert not list(cache.folder.rglob("*.unfinished")), "what filled the disk is taken away again"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    cache = FeatureCache(folder=tmp_path / "file" / "features", max_bytes=10**9, dtype=torch.float32)
    with pytest.raises(CheckpointError, match="cannot be written"):
        cache.put(key(0), features(0))


def _read_and_write(folder: Path, seed: int, limit: int) -> None:
    cache = FeatureCache(folder=folder, max_bytes=limit, dtype=torch.float32)
    rng = np.random.default_rng(seed)
    for _ in range(300):
        number = int(rng.integers(40))
        got = cache.get(key(number))
        if got is None:
            cache.put(key(number), features(number))
        else:
            assert torch.equal(got, features(number)), number


@pytest.mark.parametrize("room", [100, 20], ids=["room for all", "evicting"])
def test_processes_share_a_folder(tmp_path, room):
    """Two processes read and write the same forty pictures at once: each finds a whole file or none."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["smolforge.training.loop", __name__])
    limit = room * (features(0).nbytes + 128)
    processes = [context.Process(target=_read_and_write, args=(tmp_path / "features", seed, limit)) for seed in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    cache = FeatureCache(folder=tmp_path / "features", max_bytes=limit, dtype=torch.float32)
    found = [number for number in range(40) if (got := cache.get(key(number))) is not None and torch.equal(got, features(number))]
    assert found
    assert room < 40 or len(found) == 40
    assert not list(cache.folder.rglob("*.unfinished"))


# --- names ------------------------------------------------------------------------------------------------------------


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_key_is_made_of_content_rules_and_distortion():
    image = scene(0, 0).draw()
    other = image.copy()
    other.putpixel((0, 0), (1, 2, 3))
    spec = ImageSpec(tile=96, longest_edge=96)
    crop = Distortion(kind="crop")
    pictures = {
        name: open_picture(Media(ref=png(ref))) for name, ref in (("one", image), ("again", image.copy()), ("other", other))
    }

    def of(picture: str, spec: ImageSpec, distortion: Distortion | None = None) -> str:
        return PlacedImage(picture=pictures[picture], spec=spec, node=0, starts=(0,), distortion=distortion).key

    base = of("one", spec)
    assert of("again", spec) == base
    different = {
        "content": of("other", spec), "edge": of("one", replace(spec, longest_edge=192)),
        "split": of("one", replace(spec, split=False)), "upscale": of("one", replace(spec, upscale=False)),
        "crop": of("one", spec, crop), "larger crop": of("one", spec, replace(crop, scale=(0.1, 0.5))),
        "noise": of("one", spec, Distortion(kind="noise")), "more noise": of("one", spec, Distortion(kind="noise", step=700)),
    }  # fmt: skip
    assert len({base, *different.values()}) == 1 + len(different)


def test_a_folder_belongs_to_weights_boundary_and_dtype(tmp_path):
    ways = [
        (weights, boundary, dtype)
        for weights in ("a", "b")
        for boundary in ("vision", "connector")
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert len({feature_folder(tmp_path, *way) for way in ways}) == len(ways)


def test_the_cache_is_the_users_own_where_the_recipe_names_none(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / "smolforge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / ".cache" / "smolforge"
    assert cache_folder(Path("~/x")) == tmp_path / "x"


# --- with a model -----------------------------------------------------------------------------------------------------


def recipe(model: Path, folder: Path, *, dtype: str = "float32", freeze: dict | None = None, **sections) -> Recipe:
    tree = {
        "model": {"name": str(model), "dtype": dtype},
        "freeze": {"vision": True} if freeze is None else freeze,
        "data": [{"source": "scene_pairs", "split": "train[:24]"}],
        "eval": {"samples": 0, "examples": 4},
        "objective": {"kind": "dpo"},
        "cache": {"dir": str(folder / "cache"), "features": True},
        "run": {"dir": str(folder / "run"), "steps": 1, "device": "cpu", "trackers": []},
    }
    return parse_recipe(tree | sections)


def loaded(folder: Path, freeze: FreezeSection) -> TreeModel:
    from smolforge.loading import load_tree
    from smolforge.model.freeze import apply_freeze

    model = load_tree(folder, load_renderer(folder), dtype="float32", device=torch.device("cpu"))
    apply_freeze(model.model, freeze)
    return model


def rows(folder: Path, number: int = 3, cache: FeatureCache | None = None) -> PackedBatch:
    renderer = load_renderer(folder)
    source = open_source(DataSection(source="scene_pairs", split=f"train[:{number}]"))
    examples = [renderer.render(source.record(index)) for index in range(number)]
    return collate([decode_pictures(example, {}, features=cache) for example in examples])


@pytest.mark.parametrize("connector", [False, True], ids=["vision", "connector"])
@pytest.mark.parametrize("name", ["tiny", "tiny_split"])
def test_feature_size_is_that_of_a_tile(request, name, connector):
    folder = request.getfixturevalue(name)
    model = loaded(folder, FreezeSection(vision=True, connector=connector))
    assert model.boundary == ("connector" if connector else "vision")
    row = rows(folder)
    seen = model.see(row)
    assert seen.features is not None
    assert len(seen.features) == len(row.tiles)
    assert seen.features[0].numel() == model.feature_size


@pytest.mark.parametrize("connector", [False, True], ids=["vision", "connector"])
def test_log_probs_with_known_and_new_pictures(tiny_split, cache, connector):
    """Of three pictures, tiles apart, two are known: the log-probs are the same. Tolerance: tiles come in other groups."""
    model = loaded(tiny_split, FreezeSection(vision=True, connector=connector))
    plain = rows(tiny_split)
    seen = model.see(plain)
    assert seen.features is not None
    assert len(plain.pictures) == 3
    sizes = [tiles for _, tiles in plain.pictures]
    assert max(sizes) > 1
    parts = dict(zip((name for name, _ in plain.pictures), seen.features.split(sizes)))
    for name in (plain.pictures[0][0], plain.pictures[2][0]):
        cache.put(name, parts[name])
    mixed = rows(tiny_split, cache=cache)
    assert [name for name, _ in mixed.pictures] == [plain.pictures[1][0]]
    assert mixed.features is not None
    assert len(mixed.features) + len(mixed.tiles) == len(plain.tiles)
    with torch.no_grad():
        torch.testing.assert_close(model(mixed), model(plain), rtol=1e-5, atol=1e-5)  # measured: 0


def opened(recipe: Recipe, *, connector: bool = False):
    from smolforge.training.fixed import open_features

    model = loaded(Path(recipe.model.name), FreezeSection(vision=True, connector=connector))
    return model, open_features(recipe, model)


def test_the_folder_follows_the_weights_that_are_frozen(tiny, tmp_path):
    """Another decoder changes nothing; another tower does, and the connector where features come out of it."""
    from smolforge.training.fixed import open_features

    asked = recipe(tiny, tmp_path)
    for boundary in ("vision", "connector"):
        model, cache = opened(asked, connector=boundary == "connector")
        assert cache is not None
        changed = {}
        for part in ("decoder", "connector", "vision"):
            parameter = next(getattr(model, part).parameters())
            with torch.no_grad():
                parameter.view(-1)[0] += 1
            again = open_features(asked, model)
            with torch.no_grad():
                parameter.view(-1)[0] -= 1
            assert again is not None
            changed[part] = again.folder != cache.folder
        assert changed == {"decoder": False, "connector": boundary == "connector", "vision": True}


@pytest.mark.parametrize("connector", [False, True], ids=["vision", "connector"])
def test_what_is_announced_is_what_is_written(tiny_split, tmp_path, connector):
    from smolforge.data.pipeline import open_stream
    from smolforge.training.fixed import Fixed, announce_features

    asked = recipe(tiny_split, tmp_path)
    model, cache = opened(asked, connector=connector)
    assert cache is not None
    objective = objective_of(PreferenceSection(kind="dpo"))
    stream = replace(open_stream(asked.data, load_renderer(tiny_split), shaping=objective.shaping, seed=0), features=cache)
    fixed = Fixed(model=model, objective=objective, features=cache)
    said: list[str] = []
    announce_features(fixed, stream, stream.num_rows, said.append)
    assert len(said) == 1
    announced = float(said[0].split("about ")[1].split(" MB")[0].replace(",", "")) * 1e6
    for row in stream.step(range(24)).rows:
        fixed.add(row, compare=False)
    assert announced == pytest.approx(cache.size(), rel=0.2)


def test_more_than_the_disk_has_is_refused_before_any_is_written(tiny, tmp_path, monkeypatch):
    from smolforge.data.pipeline import open_stream
    from smolforge.training import fixed as fixed_module
    from smolforge.training.fixed import Fixed, announce_features

    asked = recipe(tiny, tmp_path)
    model, cache = opened(asked)
    assert cache is not None
    monkeypatch.setattr(fixed_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    objective = objective_of(PreferenceSection(kind="dpo"))
    stream = open_stream(asked.data, load_renderer(tiny), shaping=objective.shaping, seed=0)
    with pytest.raises(CheckpointError, match=r"the disk has 0\.0 GB free"):
        announce_features(Fixed(model=model, objective=objective, features=cache), stream, stream.num_rows, lambda _: None)
    assert cache.size() == 0


@pytest.mark.parametrize(
    ("sections", "mend"),
    [
        ({"freeze": {}}, "set freeze.vision: true"),
        ({"freeze": {}, "adapters": {"on": ["text", "vision"]}}, "leave vision out of adapters.on"),
        ({"freeze": {}, "adapters": {"on": ["vision"]}}, "leave vision out of adapters.on"),
    ],
)
def test_a_tower_that_changes_cannot_be_kept(tiny, tmp_path, sections, mend):
    with pytest.raises(RecipeError, match=mend):
        recipe(tiny, tmp_path, **sections)


def test_a_healthy_file_of_another_user_stays(tmp_path, monkeypatch):
    """Its time of use cannot be set, which is no reason to lose it."""
    cache = FeatureCache(folder=tmp_path, max_bytes=10**9, dtype=torch.float32)
    cache.put(key(0), features(0))

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.utime", refuse)
    assert cache.get(key(0)) is not None
    assert cache.get(key(0)) is not None
