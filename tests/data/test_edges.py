"""Sizes of pictures that are drawn: how often which, tiles by hand, and who sees them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smolforge.checking import check
from smolforge.data.edges import with_edges
from smolforge.data.media import Grid, ImageSpec, own_spec, tile_grid
from smolforge.data.pipeline import Stream, open_stream
from smolforge.data.processor import load_renderer
from smolforge.errors import RecipeError
from smolforge.estimating import configuration
from smolforge.estimating.layout import layout_of
from smolforge.recipe import DataSection, ImagesSection, Recipe, parse_recipe
from smolforge.records import Distortion, Media, Message, Record, Response
from smolforge.tiny import shrink
from smolforge.training.fixed import announce_features
from smolforge.training.runtime import Runtime
from smolforge.training.setup import set_up

SHARES = {96: 0.5, 192: 0.3, 384: 0.2}
TILES = {96: 1, 192: 5, 384: 17}  # of a square picture, tiles of 96 pixels and the whole view


def pictures(*sizes: tuple[int, int], split: bool = True, **options: Any) -> Record:
    media = [Media(ref=Image.new("RGB", size, "red"), split=split) for size in sizes]
    return Record(
        id="1", source="s", messages=(Message(role="user", content=(*media, "What?")),), responses=(Response(text="Red."),)
    )


def stream_of(folder: Path, edges: dict[int, float] | None = None, **options: Any) -> Stream:
    renderer = load_renderer(folder, images=ImagesSection(random_edge=edges))
    return open_stream([DataSection(source="scenes")], renderer, kinds={"target"}, seed=0, edges=edges, **options)


def recipe_of(folder: Path, **sections: Any) -> Recipe:
    tree = {
        "model": {"name": str(folder)},
        "data": [{"source": "scenes", "split": "train[:40]"}],
        "images": {"random_edge": SHARES},
        "batch": {"examples": 4, "row_tokens": 512},
        "run": {"dir": "nowhere", "steps": 5, "device": "cpu", "trackers": [], "workers": 0},
    }
    return parse_recipe(tree | sections)


# --- the draw ------------------------------------------------------------------------------------------------------


def test_each_size_comes_as_often_as_its_share_says():
    """Of 4,000 draws with shares 5 : 3 : 2; three standard deviations are 2.4 %."""
    drawn = Counter(m.edge for i in range(2000) for m in with_edges(pictures((9, 9), (9, 9)), SHARES, seed=0, index=i).media)
    assert {edge: count / 4000 for edge, count in drawn.items()} == pytest.approx(SHARES, abs=0.024)


def test_seed_and_place_decide():
    two = pictures((9, 9), (9, 9))

    def edges(seed: int, index: int, shares: dict[int, float] = SHARES) -> list[int | None]:
        return [media.edge for media in with_edges(two, shares, seed=seed, index=index).media]

    places = [edges(0, index) for index in range(30)]
    assert places == [edges(0, index) for index in range(30)]
    assert places == [edges(0, index, dict(reversed(SHARES.items()))) for index in range(30)], "whatever the order of the shares"
    assert places != [edges(1, index) for index in range(30)]
    assert any(first != second for first, second in places), "each picture of an example has its own"


def test_frames_keep_their_size():
    assert with_edges(pictures((9, 9), split=False), SHARES, seed=0, index=0).media[0].edge is None


# --- tiles ---------------------------------------------------------------------------------------------------------


def test_tiles_by_hand(tiny_split):
    """200 x 100 at 96, 192 and 384: one tile; 192 x 96, two and the whole view; 384 x 192, 2 rows of 4 and the whole view."""
    renderer = load_renderer(tiny_split)
    for edge, tiles in {96: 1, 192: 3, 384: 9}.items():
        (image,) = renderer.render(with_edges(pictures((200, 100)), {edge: 1}, seed=0, index=0)).images
        assert (image.spec.longest_edge, len(image.starts)) == (edge, tiles)


def test_the_grids_are_those_of_hugging_faces_training_code():
    """smollm's `image_splitting` sets the longest side to n tiles and rounds the other one up to whole tiles of 512."""
    spec = ImageSpec(tile=512, longest_edge=2048)
    rng = np.random.default_rng(0)
    for width, height in rng.integers(20, 3000, (300, 2)).tolist():
        for n in (2, 3, 4):
            other = max(1, -(-int(n * 512 / max(width / height, height / width)) // 512))
            rows, cols = (other, n) if width >= height else (n, other)
            assert tile_grid(width, height, replace(spec, longest_edge=n * 512)) == Grid(rows, cols)


def test_the_rules_bound_what_was_drawn(tiny_split):
    spec = load_renderer(tiny_split).images
    (large,) = load_renderer(tiny_split).render(with_edges(pictures((50, 50)), {384: 1}, seed=0, index=0)).images
    assert own_spec(large.picture, replace(spec, longest_edge=192)).longest_edge == 192
    narrow = replace(load_renderer(tiny_split), row_tokens=100)
    (image,) = narrow.render(with_edges(pictures((50, 50)), {384: 1}, seed=0, index=0)).images
    assert len(image.starts) == 5, "fewer tiles where an example is too long, as always"


def test_a_spoilt_picture_has_the_size_of_the_whole_one(tiny_split):
    record = pictures((50, 50))
    spoilt = replace(record, responses=(*record.responses, Response(text="No.", distortion=Distortion(kind="crop"))))
    one, other = load_renderer(tiny_split).render(with_edges(spoilt, SHARES, seed=0, index=1)).images
    assert (one.spec, one.starts) == (other.spec, other.starts)


# --- who sees them -------------------------------------------------------------------------------------------------


def test_a_stream_that_is_learnt_from_draws_and_no_other(tiny_split):
    drawn = [len(stream_of(tiny_split, SHARES, examples=4).example(index).images[0].starts) for index in range(40)]
    assert set(drawn) == set(TILES.values())
    fixed = [len(stream_of(tiny_split).example(index).images[0].starts) for index in range(10)]
    assert set(fixed) == {17}


@pytest.mark.parametrize("held_out", [True, False], ids=["held-out data", "none"])
def test_a_run_learns_from_drawn_sizes_and_measures_at_the_largest(tiny_split, tmp_path, held_out):
    data = {"data": [{"source": "scenes", "split": "test"}]} if held_out else {}
    recipe = recipe_of(tiny_split, eval=data, run={"dir": str(tmp_path), "steps": 1, "device": "cpu", "workers": 0})
    run = set_up(recipe, Runtime(recipe.run))
    tiles = {len(run.stream.example(index).images[0].starts) for index in range(40)}
    assert tiles == set(TILES.values())
    assert {len(run.eval_stream.example(index).images[0].starts) for index in range(10)} == {17}


def test_the_same_row_is_another_example_at_another_size(tiny_split):
    """So features, which are kept by the picture and its rules, and kept references, by the example, cannot be confused."""
    stream = stream_of(tiny_split, SHARES, examples=4)
    stream = replace(stream, mixture=type(stream.mixture)([1], seed=0))
    examples = [stream.example(index) for index in range(12)]
    by_size = {len(one.images[0].starts): (one.key, one.images[0].key) for one in examples}
    assert len(by_size) == len(set(by_size.values())) == 3
    assert len({one.key for one in examples}) == 3
    assert stream.distinct(12) == list(range(12))
    assert replace(stream, edges=None).distinct(12) == [0]


def test_what_does_not_fit_is_refused_in_one_line(tiny_split, tiny):
    for images, words in (
        (ImagesSection(random_edge={96: 1, 500: 1}), "500 is more than the longest edge of 384"),
        (ImagesSection(random_edge={384: 1}, longest_edge=192), "384 is more than the longest edge of 192"),
    ):
        with pytest.raises(RecipeError, match=words):
            load_renderer(tiny_split, images=images)
    with pytest.raises(RecipeError, match="with split: false there is one; leave one of them out"):
        recipe_of(tiny_split, images={"random_edge": SHARES, "split": False})
    with pytest.raises(RecipeError, match="random_edge"):
        recipe_of(tiny_split, images={"random_edge": {}})
    with pytest.raises(RecipeError, match=r"512 is more than the longest edge of 96"):
        layout_of(recipe_of(tiny, images={"random_edge": {512: 1}}), *configuration(recipe_of(tiny)))


def test_features_are_announced_for_every_size(tiny_split, tmp_path):
    """A row at one size is announced once; at three sizes, seen often enough, three times. 6 rows of 5 tiles."""
    said: list[str] = []
    for edges in ({192: 1.0}, {192: 1.0, 191: 1.0, 190: 1.0}):
        recipe = recipe_of(
            tiny_split, data=[{"source": "scenes", "split": "train[:6]"}], images={"random_edge": edges}, freeze={"vision": True},
            cache={"features": True, "dir": str(tmp_path / "cache")}, run={"dir": str(tmp_path), "steps": 9, "workers": 0},
        )  # fmt: skip
        run = set_up(recipe, Runtime(recipe.run))
        announce_features(run.fixed, run.stream, 36, said.append)
    assert [re.search(r"for (\d+) tiles", line).group(1) for line in said] == ["30", "90"]


# --- what is said before a run -------------------------------------------------------------------------------------


def test_check_counts_the_tiles_that_the_run_will_see(tiny_split, tmp_path):
    """Its sample is the run's own first draws; the mean of the shares is 0.5 x 1 + 0.3 x 5 + 0.2 x 17 = 5.4."""
    recipe = recipe_of(tiny_split)
    found = check(recipe, sample=40)
    (one,) = found.known.sources
    assert found.known.packed.tiles == pytest.approx(_tiles_a_step(recipe))
    assert 2 < one.mean_tiles < 9
    assert one.tiles_upscaled == one.mean_tiles * one.used, "a scene is drawn at 96 pixels, so every larger size enlarges it"
    assert any("images.random_edge" in note for note in found.notes)
    assert any("enlarged to up to 384 pixels" in str(finding) for finding in found.warnings)


def _tiles_a_step(recipe: Recipe) -> float:
    renderer = load_renderer(Path(recipe.model.name), images=recipe.images, row_tokens=recipe.batch.row_tokens)
    stream = open_stream(recipe.data, renderer, kinds={"target"}, seed=0, examples=4, edges=recipe.images.random_edge)
    return sum(len(row.tiles) for step in stream.steps(0, 5, 4) for row in step.rows) / 5


def test_estimate_lays_out_drawn_sizes_and_at_worst_the_largest(tiny_split):
    recipe = recipe_of(tiny_split)
    config, folder = configuration(recipe)
    layout = layout_of(recipe, config, folder)
    assert layout.measured
    assert {tree.tiles for step in layout.steps for tree in step} == set(TILES.values())
    absent = recipe_of(tiny_split, data=[{"source": "absent.jsonl"}], images={"random_edge": {96: 1, 192: 1}})
    worst = layout_of(absent, config, folder)
    assert {tree.tiles for step in worst.steps for tree in step} == {5}
    assert "square pictures of 192 pixels (5 tiles) with" in worst.source
    assert "the largest of images.random_edge" in worst.source


def test_tiny_runs_draw_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = Path(__file__).resolve().parents[2] / "recipes" / "smolvlm2-256m-vision-hf.yaml"
    small = shrink(file)
    assert small.images.random_edge == pytest.approx({96: 0.4, 192: 0.6})
    assert small.model.neftune == 5.0
