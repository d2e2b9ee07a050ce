"""Examples whose pictures have too many tiles are dropped, told of and counted.

A side of 96 a tile: 96 x 96 in rules of 192 becomes 2 x 2 tiles and the whole view, 5; 192 x 96 two and the whole view, 3.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from smolforge.checking import check
from smolforge.data.edges import with_edges
from smolforge.data.processor import load_renderer
from smolforge.data.render import Renderer
from smolforge.errors import DataError
from smolforge.estimating import configuration
from smolforge.estimating.layout import _assumed
from smolforge.recipe import ImagesSection, Recipe, load_recipe, parse_recipe
from smolforge.records import Distortion, Media, Message, Record, Response
from smolforge.sourcing.prepare import _about_model, _renderer
from smolforge.training.loop import train

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def of(*sizes: tuple[int, int], split: bool = True) -> Record:
    pictures = (Media(ref=Image.new("RGB", size, "orange"), split=split) for size in sizes)
    asked = Message(role="user", content=(*pictures, "What?"))
    return Record(id="1", source="test", messages=(asked,), responses=(Response(text="A dog."),))


def renderer_of(folder: Path, most: int | None) -> Renderer:
    return load_renderer(folder, images=ImagesSection(longest_edge=192, max_tiles=most))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Four questions about one picture of five tiles, and one about two of them."""
    drawn = []
    for number in range(6):
        Image.new("RGB", (96, 96), (40 * number, 100, 200)).save(tmp_path / f"{number}.png")
        drawn.append(f"{number}.png")
    lines = [{"image": one, "question": "1", "answer": f"{n}"} for n, one in enumerate(drawn[:4])]
    lines.append({"images": drawn[4:], "question": "1", "answer": "9"})
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def recipe_of(folder: Path, rows: Path, **images: object) -> Recipe:
    return parse_recipe(
        {
            "model": {"name": str(folder)},
            "data": [{"source": str(rows)}],
            "images": {"longest_edge": 192} | images,
            "optim": {"lr": 1e-3},
            "batch": {"examples": 5, "row_tokens": 1024},
            "run": {"dir": str(rows.parent / "run"), "steps": 1, "device": "cpu", "trackers": [], "workers": 0},
        }
    )


def test_tiles_of_all_pictures_count(tiny_split):
    renderer = renderer_of(tiny_split, 8)
    assert sum(len(image.starts) for image in renderer.render(of((96, 96), (192, 96))).images) == 8
    with pytest.raises(DataError, match=r"test\[1\], 10 of at most 8: more tiles than images.max_tiles; raise it, lower"):
        renderer.render(of((96, 96), (96, 96)))
    assert len(renderer_of(tiny_split, None).render(of((96, 96), (96, 96))).images) == 2


def test_drawn_sizes_count_as_they_are_drawn(tiny_split):
    renderer = renderer_of(tiny_split, 6)
    small = with_edges(of((96, 96), (96, 96)), {96: 1}, seed=0, index=0)
    assert [len(image.starts) for image in renderer.render(small).images] == [1, 1]
    with pytest.raises(DataError, match="10 of at most 6"):
        renderer.render(with_edges(of((96, 96), (96, 96)), {192: 1}, seed=0, index=0))


def test_frames_and_spoilt_pictures_do_not_count(tiny_split):
    renderer = renderer_of(tiny_split, 5)
    assert len(renderer.render(of(*[(96, 96)] * 7, split=False)).images) == 7
    one = of((96, 96))
    spoilt = replace(one, responses=(*one.responses, Response(text="No.", distortion=Distortion(kind="crop"))))
    assert len(renderer.render(spoilt).images) == 2


def test_an_example_that_would_be_made_shorter_is_dropped_before(tiny_split):
    """Ten tiles of 16 tokens do not fit into 100: without the limit they are given up, with it the example is not used."""
    tight = replace(renderer_of(tiny_split, None), row_tokens=100)
    assert tight.render(of((96, 96), (96, 96))).changes == ("fewer tiles: 10 -> 2",)
    with pytest.raises(DataError, match="more tiles"):
        replace(tight, max_tiles=9).render(of((96, 96), (96, 96)))


def test_a_run_counts_them(tiny_split, rows):
    run = train(recipe_of(tiny_split, rows, max_tiles=5))
    assert json.loads((run / "summary.json").read_text())["dropped"] == {"more tiles than images.max_tiles": 1}


def test_check_tells_them(tiny_split, rows):
    said = [str(one) for one in check(recipe_of(tiny_split, rows, max_tiles=5)).warnings]
    assert any(
        "1 of 5 rows are dropped: 1 more tiles than images.max_tiles; raise images.max_tiles or lower" in one for one in said
    )
    assert not any("max_tiles" in str(one) for one in check(recipe_of(tiny_split, rows)).warnings)


def test_rows_are_prepared_whatever_the_limit(tiny_split, rows):
    """A later run may draw smaller sizes, or have another limit, and drops its own."""
    limited, free = recipe_of(tiny_split, rows, max_tiles=5), recipe_of(tiny_split, rows)
    assert _renderer(limited).max_tiles is None
    assert _about_model(limited) == _about_model(free)


def test_estimate_assumes_no_example_with_more(tiny_split, rows):
    config, folder = configuration(recipe_of(tiny_split, rows))
    spec = load_renderer(folder, images=ImagesSection(longest_edge=192)).images
    tiles = {
        most: _assumed("multi_image", recipe_of(tiny_split, rows, max_tiles=most), config, spec).tiles for most in (None, 14, 3)
    }
    assert tiles == {None: 15, 14: 10, 3: 5}


@pytest.mark.parametrize("size", ["256m", "500m"])
def test_the_published_limits_are_in_the_recipes(size, tiny_split):
    """34 tiles: two pictures of 4 x 4 tiles and their whole views, as `max_num_images: 2` comes to; 7,000 tokens."""
    recipe = load_recipe(RECIPES / f"smolvlm2-{size}-vision-hf.yaml")
    assert (recipe.images.max_tiles, recipe.batch.row_tokens) == (2 * (4 * 4 + 1), 7000)
    renderer = load_renderer(tiny_split, images=ImagesSection(max_tiles=recipe.images.max_tiles))  # of 4 tiles a side too
    assert [len(image.starts) for image in renderer.render(of((96, 96), (96, 96))).images] == [17, 17]
    with pytest.raises(DataError, match="51 of at most 34"):
        renderer.render(of((96, 96), (96, 96), (96, 96)))
