from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from curating.conftest import photo
from smolforge.curating.hashing import DISTANCE, FLAT_BYTES, LOOKS, agree, looks, mark


def bits(one: bytes, other: bytes) -> int:
    return int(np.bitwise_count(looks([one])["frequencies"] ^ looks([other])["frequencies"])[0])


def near(one: bytes, other: bytes) -> bool:
    return bits(one, other) <= DISTANCE and bool(agree(looks([one]), looks([other]))[0])


def resaved(image: Image.Image, quality: int) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(io.BytesIO(data.getvalue())).convert("RGB")


def cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


ALTERED = {
    "resaved at 50": lambda image: resaved(image, 50),
    "half": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "half, resaved": lambda image: resaved(image.resize((image.width // 2, image.height // 2)), 50),
    "1 % cropped at each side": lambda image: cropped(image, 0.01),
    "a fifth darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "20 levels brighter": lambda image: image.point(lambda value: min(value + 20, 255)),
}


@pytest.fixture(scope="module")
def photos(shared):
    files = sorted((shared / "coco_mini" / "images").glob("*.jpg"))[:40]
    assert len(files) == 40
    return [Image.open(file).convert("RGB") for file in files]


@pytest.mark.parametrize("how", ALTERED)
def test_altered_copies_of_photos_are_near(photos, how):
    missed = [number for number, image in enumerate(photos) if not near(mark(image), mark(ALTERED[how](image)))]
    assert not missed


def test_different_photos_are_far(photos):
    """The nearest two of all 85 differ in 18 bits."""
    marks = [mark(image) for image in photos]
    assert min(bits(one, other) for one, other in combinations(marks, 2)) >= 18
    # the other looks alone would tell them apart too, when the bits happen to agree
    alike = sum(bool(agree(looks([one]), looks([other]))[0]) for one, other in combinations(marks, 2))
    assert alike == 0


def test_a_mark_is_what_its_definition_says():
    """The DCT by its sum, on a picture of one cosine: bit and sign of exactly that frequency."""
    x = np.arange(32)
    wave = 127 + 100 * np.cos(np.pi * (2 * x + 1) * 3 / 64)  # the third frequency along a row, (0, 3)
    noise = np.random.default_rng(0).integers(-20, 21, (32, 32))
    grey = np.clip(wave[None] + noise, 0, 255).astype(np.uint8)
    image = Image.fromarray(grey).convert("RGB")
    found = looks([mark(image)])[0]
    zigzag = sorted(((row, column) for row in range(16) for column in range(16)), key=lambda at: (sum(at), at[0]))[1:65]
    values = [
        sum(
            float(grey[y, x]) * np.cos(np.pi * (2 * y + 1) * row / 64) * np.cos(np.pi * (2 * x + 1) * column / 64)
            for y in range(32)
            for x in range(32)
        )
        * (np.sqrt(0.5) if row == 0 else 1.0)
        * (np.sqrt(0.5) if column == 0 else 1.0)
        for row, column in zigzag
    ]
    bits = "".join("1" if value > np.median(values) else "0" for value in values)
    assert f"{int(found['frequencies']):064b}" == bits
    assert bits[zigzag.index((0, 3))] == "1"


def test_flat_pictures_are_named_by_their_pixels():
    """Bits of a constant picture would be rounding noise: two greys would be near, or two files of one picture far."""
    grey, other = (Image.new("RGB", (64, 64), (level, level, level)) for level in (128, 129))
    assert len(mark(grey)) == FLAT_BYTES
    assert mark(grey) == mark(grey.copy())
    assert mark(grey) != mark(other)
    assert mark(grey) != mark(grey.resize((32, 32)))
    ramp = Image.fromarray(np.tile(np.linspace(100, 108, 64).astype(np.uint8), (64, 1))).convert("RGB")
    assert len(mark(ramp)) == FLAT_BYTES
    assert len(mark(photo(0))) == LOOKS.itemsize == 297


def test_colours_tell_what_grey_cannot():
    red, blue = (204, 60, 60), (60, 100, 225)

    def ball(colour: tuple[int, int, int]) -> Image.Image:
        image = photo(3).convert("L").convert("RGB")
        ImageDraw.Draw(image).ellipse((90, 50, 230, 190), fill=colour)
        return image

    assert abs(np.asarray(Image.new("RGB", (1, 1), red).convert("L")).item() - 104) < 10
    one, other = mark(ball(red)), mark(ball(blue))
    assert bits(one, other) <= DISTANCE
    assert not near(one, other)


def test_pages_of_one_layout_are_told_apart_and_their_copies_found():
    def written(seed: int) -> Image.Image:
        rng = np.random.default_rng(seed)
        image = Image.new("RGB", (425, 550), "white")
        pen = ImageDraw.Draw(image)
        for y in range(40, 510, 11):
            x, end = 40, int(rng.integers(150, 385))  # lines end where their paragraph does
            while x < end:
                width = int(rng.integers(6, 40))
                pen.rectangle((x, y, min(x + width, 385), y + 5), fill=(40, 40, 40))
                x += width + 5
        return image

    pages = [written(seed) for seed in range(30)]
    marks = [mark(page) for page in pages]
    assert looks(marks)["plain"].all()
    assert any(bits(one, other) <= DISTANCE for one, other in combinations(marks, 2))  # by the bits alone they would be near
    assert not any(near(one, other) for one, other in combinations(marks, 2))
    assert all(near(one, mark(resaved(page, 50))) for one, page in zip(marks, pages, strict=True))
