"""Spoilt pictures: small crops and diffusion noise, the second root they stand in, and features in place of tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smolforge.data.batch import collate
from smolforge.data.media import ImageSpec, Picture, noised, open_picture, picture_tiles, small_crop, tile_pixels
from smolforge.data.pipeline import prepare
from smolforge.data.processor import load_renderer
from smolforge.data.render import Example, Node, PlacedImage, Renderer
from smolforge.data.sources.scenes import scene
from smolforge.errors import DataError
from smolforge.records import Distortion, Media, Message, Record, Response

CROP, NOISE = Distortion(kind="crop"), Distortion(kind="noise")
SPEC = ImageSpec(tile=32, longest_edge=64)


def draws(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(index: int = 0, size: tuple[int, int] = (200, 120)) -> Picture:
    return open_picture(Media(ref=scene(1, index).draw().resize(size)))


# --- crops -----------------------------------------------------------------------------------------------------------------


def places(width: int, height: int) -> Image.Image:
    """A picture whose red says the column and whose green the row of a pixel."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.uint8)
    return Image.fromarray(np.stack([columns, rows, np.zeros_like(rows)], 2))


def box(image: Image.Image) -> tuple[int, int]:
    """(columns, rows) of `places` that a picture shows, to a pixel or two of the resizing."""
    pixels = np.asarray(image).astype(int)
    return int(np.ptp(pixels[..., 0])) + 1, int(np.ptp(pixels[..., 1])) + 1


@given(
    width=st.integers(60, 256), height=st.integers(60, 256), low=st.floats(0.01, 0.9), more=st.floats(0, 0.5), seed=st.integers(0)
)
def test_a_crop_keeps_its_share_of_the_area(width: int, height: int, low: float, more: float, seed: int) -> None:
    """And is stretched back to the picture's size. A box is whole pixels, within the picture, between 3:4 and 4:3."""
    high = min(1.0, low + more)
    made = small_crop(places(width, height), (low, high), draws(seed))
    assert made.size == (width, height)
    w, h = box(made)
    assert w <= width
    assert h <= height
    assert (w - 2) * (h - 2) / (width * height) <= high
    if math.sqrt(low * width * height) < 0.75 * min(width, height):  # else a picture's own shape cuts the box
        assert (w + 2) * (h + 2) / (width * height) >= low
        assert 3 / 4 * 0.8 <= (w + 1) / (h + 1) <= 4 / 3 * 1.25 or min(w, h) < 12


def test_crops_are_drawn_from_all_sizes_and_places() -> None:
    """200 crops of 1 to 20 %: the mean share is near the middle, 10.5 %, and every quarter of the picture is shown."""
    made = [small_crop(places(200, 160), (0.01, 0.2), draws(seed)) for seed in range(200)]
    shares = [math.prod(box(one)) / (200 * 160) for one in made]
    assert np.mean(shares) == pytest.approx(0.105, abs=0.012)
    assert min(shares) < 0.03
    assert max(shares) > 0.18
    middles = np.array([np.asarray(one)[80, 100, :2] for one in made])
    assert len({(x < 100, y < 80) for x, y in middles.tolist()}) == 4


def test_a_crop_of_everything_is_the_picture() -> None:
    square = places(100, 100)
    assert box(small_crop(square, (1.0, 1.0), np.random.default_rng(3)))[0] > 80


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 50), (300, 2)])
def test_crops_of_next_to_nothing(size: tuple[int, int]) -> None:
    """At least a pixel is left."""
    for seed in range(5):
        assert small_crop(Image.new("RGB", size, "orange"), (0.01, 0.2), draws(seed)).size == size


# --- noise -----------------------------------------------------------------------------------------------------------------


def beta(step: int) -> float:
    """POVID's schedule: sigmoid of 1000 even steps from -6 to 6, times 0.00499, plus 0.00001."""
    return 0.00499 / (1 + math.exp(6 - 12 * step / 999)) + 0.00001


@pytest.mark.parametrize("step", [0, 1, 2, 100, 500, 999])
def test_noise_has_the_schedules_mean_and_spread(step: int) -> None:
    """A grey of 191.25, x = 0.5: mean sqrt(a) x and spread sqrt(1 - a), where little is clipped at 0 and 255.

    a = (1 - b_0) (1 - b_1) ... (1 - b_step). By hand b_0 = 0.00499 * 0.0024726 + 0.00001 = 0.00002234.
    """
    kept = math.prod(1 - beta(t) for t in range(step + 1))
    assert beta(0) == pytest.approx(0.00002234, rel=1e-3)
    grey = np.full((4, 3, 64, 64), 191, np.uint8)
    made = noised(grey, step, draws(0))
    assert (made.shape, made.dtype) == (grey.shape, np.uint8)
    x, e = 191 / 127.5 - 1, draws(0).standard_normal(grey.shape, np.float32)
    expected = (math.sqrt(kept) * x + math.sqrt(1 - kept) * e).clip(-1, 1)  # before rounding to 8 bits
    assert np.abs(made / 127.5 - 1 - expected).max() < 0.51 / 127.5
    if step < 200:
        assert made.mean() / 127.5 - 1 == pytest.approx(math.sqrt(kept) * x, abs=0.005)
        assert (made / 127.5).std() == pytest.approx(math.sqrt(1 - kept), abs=0.005)


def test_the_first_step_changes_next_to_nothing() -> None:
    """sqrt(b_0) is 0.0047 of half the range, 0.6 of 255 levels."""
    tiles = tile_pixels(picture().pixels(), SPEC)
    change = np.abs(noised(tiles, 0, draws(0)).astype(int) - tiles)
    assert change.mean() < 0.7
    assert change.max() < 5


def test_the_last_step_leaves_next_to_nothing() -> None:
    """a = 0.08: two pictures cannot be told apart by eye; the middle step, a = 0.8, keeps what is in it."""
    tiles = tile_pixels(picture().pixels(), SPEC)

    def likeness(step: int) -> float:
        return float(np.corrcoef(tiles.ravel(), noised(tiles, step, draws(0)).ravel())[0, 1])

    assert math.prod(1 - beta(t) for t in range(1000)) == pytest.approx(0.081, abs=0.001)
    found = [likeness(step) for step in (0, 300, 500, 700, 999)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.999
    assert found[-1] < 0.4


# --- of a picture ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distortion", [CROP, NOISE])
def test_a_draw_is_a_function_of_the_content(distortion: Distortion) -> None:
    """The same each time, also of the same pixels opened again; another picture, step or share draws anew."""
    once, again, other = picture(), picture(), picture(1)
    made = picture_tiles(once, SPEC, distortion)
    assert np.array_equal(made, picture_tiles(again, SPEC, distortion))
    plain = picture_tiles(once, SPEC)
    assert made.shape == plain.shape, "as many tiles as the picture itself"
    assert not np.array_equal(made, plain)
    more = replace(distortion, scale=(0.3, 0.5), step=900)
    assert not np.array_equal(made, picture_tiles(once, SPEC, more))
    assert not np.array_equal(made, picture_tiles(other, SPEC, distortion))


def test_two_pictures_get_different_noise() -> None:
    flat = [open_picture(Media(ref=Image.new("RGB", (64, 64), colour))) for colour in ((120, 120, 120), (121, 120, 120))]
    one, other = (picture_tiles(p, SPEC, NOISE).astype(int) for p in flat)
    assert np.abs(one - other).mean() > 20


def test_nothing_asked_changes_nothing() -> None:
    once = picture()
    assert np.array_equal(picture_tiles(once, SPEC), tile_pixels(once.pixels(), SPEC))


# --- in the tree ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tiny_split: Path) -> Renderer:
    return load_renderer(tiny_split)


def record(*responses: Response, pictures: int = 2) -> Record:
    shown = [Media(ref=scene(2, index).draw().resize((300, 120))) for index in range(pictures)]
    turns = (
        Message(role="user", content=(*shown[:1], "First?")),
        Message(role="assistant", content=("Yes.",)),
        Message(role="user", content=(*shown[1:], "Second?")),
    )
    return Record(id="1", source="test", messages=turns, responses=responses)


def pair(*distortions: Distortion | None) -> Record:
    more = (Response(text="A cat.", kind="chosen", distortion=distortion) for distortion in distortions)
    return record(Response(text="A cat.", kind="chosen"), Response(text="No dog.", kind="rejected"), *more)


def test_the_prompt_is_laid_out_again(small: Renderer) -> None:
    """A second root with the same ids and the same pictures at the same places, under a distortion."""
    example = small.render(pair(CROP))
    assert [node.parent for node in example.nodes] == [-1, 0, 0, -1, 3]
    assert example.responses == ((1, "chosen"), (2, "rejected"), (4, "chosen"))
    assert example.distorted == {2}
    assert np.array_equal(example.nodes[0].ids, example.nodes[3].ids)
    assert np.array_equal(example.nodes[1].ids, example.nodes[4].ids)
    assert not example.nodes[3].weights.any()
    assert [(image.node, image.distortion) for image in example.images] == [(0, None), (0, None), (3, CROP), (3, CROP)]
    assert [image.starts for image in example.images[:2]] == [image.starts for image in example.images[2:]]
    assert [image.picture.key for image in example.images[:2]] == [image.picture.key for image in example.images[2:]]
    assert len({image.key for image in example.images}) == 4


def test_each_distortion_has_a_root(small: Renderer) -> None:
    """And answers under the same one share it."""
    example = small.render(pair(CROP, NOISE, CROP))
    assert [node.parent for node in example.nodes] == [-1, 0, 0, -1, 3, 3, -1, 6]
    assert example.distorted == {2, 3, 4}
    assert [image.distortion for image in example.images] == [None] * 2 + [CROP] * 2 + [NOISE] * 2


def test_a_row_of_two_roots(small: Renderer) -> None:
    """Positions begin anew, the trees' lengths are the roots', and neither sees the other."""
    example = prepare(pair(CROP), small)
    batch = collate([example])
    sizes = [len(node.ids) for node in example.nodes]
    assert batch.trees == (sum(sizes[:3]), sum(sizes[3:]))
    assert sum(batch.trees) == batch.num_tokens == example.num_tokens
    assert torch.equal(batch.position_ids[batch.trees[0] :], batch.position_ids[: sizes[0] + sizes[1]])
    assert batch.ancestry.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert [(ref.number, ref.example, ref.distorted) for ref in batch.responses] == [(0, 0, False), (1, 0, False), (2, 0, True)]
    assert example.depth == sizes[0] + max(sizes[1:3])
    spoilt = batch.predictors[batch.response_ids == 2]
    assert spoilt[0] == batch.trees[0] + sizes[3] - 1, "predicted from its own root's end"


def test_tiles_of_both_roots(small: Renderer) -> None:
    """Each placeholder run has the pixels of its root's version of the picture."""
    example = prepare(pair(CROP), small)
    batch = collate([example])
    runs = [(image, number) for image in example.images for number in range(len(image.starts))]
    assert len(batch.run_tiles) == len(runs)
    for place, (image, number) in zip(batch.run_tiles.tolist(), runs, strict=True):
        expected = picture_tiles(image.picture, image.spec, image.distortion)[number]
        assert np.array_equal(batch.tiles[place].numpy(), expected)
    assert [key for key, _ in batch.pictures] == [image.key for image in example.images]


def test_keys_differ_by_what_the_log_probs_depend_on(small: Renderer) -> None:
    plain = [small.render(pair()).key, small.render(pair()).key]
    others = [
        small.render(what).key
        for what in (
            pair(CROP), pair(NOISE), pair(replace(CROP, scale=(0.2, 0.3))), pair(replace(NOISE, step=3)), pair(CROP, NOISE),
            record(Response(text="A cat.", kind="chosen")), record(Response(text="A cat.", kind="chosen"), pictures=1),
        )
    ]  # fmt: skip
    assert plain[0] == plain[1]
    assert len({plain[0], *others}) == len(others) + 1


def test_key_does_not_depend_on_weights(small: Renderer) -> None:
    """Log-probs a token are kept, not their sums."""
    example = small.render(pair(CROP))
    heavy = replace(example, nodes=tuple(replace(node, weights=node.weights * 3) for node in example.nodes), id="2")
    assert heavy.key == example.key


def test_both_roots_get_fewer_tiles_together(small: Renderer) -> None:
    """A tree that is too long for its row gives up tiles on both sides, so that the prompts stay the same."""
    whole = small.render(pair(CROP)).num_tokens
    example = replace(small, row_tokens=whole // 2).render(pair(CROP))
    assert example.num_tokens <= whole // 2
    assert example.changes[0].startswith("fewer tiles")
    assert np.array_equal(example.nodes[0].ids, example.nodes[3].ids)


def test_without_a_picture_there_is_nothing_to_spoil(small: Renderer) -> None:
    spoilt = Response(text="A cat.", kind="chosen", distortion=CROP)
    with pytest.raises(DataError, match="no picture to spoil"):
        small.render(record(Response(text="A cat.", kind="chosen"), spoilt, pictures=0))


# --- features in place of tiles ------------------------------------------------------------------------------------------------


def placed(key: str, starts: tuple[int, ...], *, features: float | None = None) -> PlacedImage:
    """A picture with tiles, or with features (T, 2) of a value that counts up."""
    tiles = np.zeros((len(starts), 3, 2, 2), np.uint8)
    known = None if features is None else torch.tensor([[features + n] * 2 for n in range(len(starts))])
    return PlacedImage(
        picture=Picture(key=key, width=2, height=2, pixels=lambda: Image.new("RGB", (2, 2))),
        spec=ImageSpec(tile=2, longest_edge=4),
        node=0,
        starts=starts,
        tiles=None if known is not None else tiles,
        features=known,
    )


def example_of(length: int, *images: PlacedImage) -> Example:
    node = Node(parent=-1, ids=np.zeros(length, np.int64), weights=np.zeros(length, np.float32))
    return Example(id="1", source="hand", nodes=(node,), responses=(), images=images)


def test_known_features_come_first() -> None:
    """A new picture of two tiles, a known one of two, a new one of one, the first known one again, another known one of one:

    picture      new a   known b   new c   known b   known d
    run tile     3 4     0 1       5       0 1       2            features b0 b1 d0, tiles a0 a1 c0
    """
    a, b, c = placed("a", (0, 2)), placed("b", (4, 6), features=10.0), placed("c", (8,))
    again, d = placed("b", (0, 2), features=10.0), placed("d", (4,), features=20.0)
    batch = collate([example_of(10, a, b, c), example_of(6, again, d)])
    assert batch.features.tolist() == [[10.0] * 2, [11.0] * 2, [20.0] * 2]
    assert batch.tiles.shape == (3, 3, 2, 2)
    assert batch.run_tiles.tolist() == [3, 4, 0, 1, 5, 0, 1, 2]
    assert batch.run_starts.tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert batch.pictures == ((a.key, 2), (c.key, 1)), "only what is to be looked at"


def test_one_that_knows_is_enough() -> None:
    """The same picture with tiles in one example and with features in another."""
    for first, second in (({}, {"features": 5.0}), ({"features": 5.0}, {})):
        batch = collate(
            [example_of(4, placed("a", (0, 2), **first)), example_of(6, placed("z", (0,)), placed("a", (2, 4), **second))]
        )
        assert batch.features.tolist() == [[5.0] * 2, [6.0] * 2]
        assert batch.run_tiles.tolist() == [0, 1, 2, 0, 1]
        assert len(batch.tiles) == 1


def test_all_or_nothing_known() -> None:
    known = collate([example_of(4, placed("a", (0, 2), features=5.0))])
    assert known.tiles.shape[0] == 0
    assert known.pictures == ()
    assert known.run_tiles.tolist() == [0, 1]
    assert collate([example_of(4, placed("a", (0, 2)))]).features is None


@pytest.mark.parametrize("distort", [lambda image: image, lambda image: replace(image, distortion=CROP)])
def test_spoilt_pictures_have_features_of_their_own(distort: Callable[[PlacedImage], PlacedImage]) -> None:
    plain = placed("a", (0,), features=1.0)
    other = distort(replace(placed("a", (2,), features=1.0)))
    batch = collate([example_of(4, plain, other)])
    assert len(batch.features) == (1 if other.distortion is None else 2)
    assert batch.run_tiles.tolist() == ([0, 0] if other.distortion is None else [0, 1])


def test_features_and_runs_must_agree() -> None:
    image = placed("a", (0, 2), features=1.0)
    with pytest.raises(AssertionError, match="1 tiles for 2 runs"):
        collate([example_of(4, replace(image, features=image.features[:1]))])
    with pytest.raises(AssertionError, match="decoded before"):
        collate([example_of(4, replace(image, features=None))])
