"""Grids and pixels against transformers' own image processor, and pictures that cannot be trusted."""

from __future__ import annotations

import base64
import io
import struct
import subprocess
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from transformers.image_utils import SizeDict, load_image
from transformers.models.idefics3.image_processing_pil_idefics3 import (
    Idefics3ImageProcessorPil,
    get_resize_output_image_size,
)

from smolforge.data.media import (
    Grid,
    ImageSpec,
    fewer_tiles,
    first_size,
    open_picture,
    tile_grid,
    tile_pixels,
    tiled_size,
)
from smolforge.errors import MediaError
from smolforge.records import Media

SPECS = {
    "256m": ImageSpec(tile=512, longest_edge=2048),
    "2.2b": ImageSpec(tile=384, longest_edge=1536),
    "tiny": ImageSpec(tile=96, longest_edge=384),
    "odd": ImageSpec(tile=364, longest_edge=1000),
    "huge": ImageSpec(tile=512, longest_edge=5000),
}
SMALL = ImageSpec(tile=64, longest_edge=256)
SIDES = st.integers(1, 3000)


class SizesOnly(Idefics3ImageProcessorPil):
    """transformers' steps on arrays of the right shape that own no memory: the arithmetic without the pixels."""

    def resize(self, image: np.ndarray, size: SizeDict, resample: int | None = None, **_: object) -> np.ndarray:
        return blank(size.width, size.height)


def blank(width: int, height: int) -> np.ndarray:
    return np.broadcast_to(np.uint8(0), (3, height, width))


def processor(spec: ImageSpec, kind: type[Idefics3ImageProcessorPil] = Idefics3ImageProcessorPil):
    return kind(
        size={"longest_edge": spec.longest_edge},
        max_image_size={"longest_edge": spec.tile},
        do_image_splitting=spec.split,
        resample=spec.resample,
        image_mean=list(spec.mean),
        image_std=list(spec.std),
    )


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture of random pixels, opacity included."""
    rng = np.random.default_rng([width, height])
    if mode == "P":
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).quantize(16)
        picture.info["transparency"] = 3
        return picture
    if mode == "1":
        return Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)).convert("1")
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 2**16, (height, width), dtype=np.uint16))
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.merge(mode, [Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)) for _ in range(bands)])


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def ours(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """Pixels as the model gets them, (T, 3, P, P)."""
    picture = open_picture(Media(ref=image))
    tiles = tile_pixels(picture.pixels(), spec)
    assert tiles.dtype == np.uint8
    assert tiles.shape == (tile_grid(picture.width, picture.height, spec).tiles, 3, spec.tile, spec.tile)
    return (tiles.astype(np.float32) / 255 - 0.5) / 0.5


def theirs(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    return processor(spec)(image)["pixel_values"][0]


# --- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
@given(width=SIDES, height=SIDES)
@example(width=1, height=3000)
@example(width=3000, height=1)
@example(width=1, height=1)
@example(width=512, height=512)
def test_sizes_equal_transformers(name: str, width: int, height: int) -> None:
    """Both resizes and the grid are those of the processor's own functions, exactly."""
    spec = SPECS[name]
    reference = processor(spec, SizesOnly)
    first = get_resize_output_image_size(blank(width, height), spec.longest_edge)[::-1]
    assert first_size(width, height, spec) == first
    second = reference.resize_for_vision_encoder(blank(*first), spec.tile)
    assert tiled_size(*first, spec) == second.shape[:0:-1]
    tiles, rows, columns = reference.split_images(second, {"longest_edge": spec.tile})
    assert tile_grid(width, height, spec) == Grid(rows, columns)
    assert tile_grid(width, height, spec).tiles == len(tiles)


@given(width=SIDES, height=SIDES)
def test_sizes_without_upscaling(width: int, height: int) -> None:
    """`upscale: false` is the processor with its longest edge set to the picture's where that is smaller."""
    spec = SPECS["256m"]
    smaller = replace(spec, longest_edge=min(spec.longest_edge, max(width, height)))
    without = replace(spec, upscale=False)
    assert first_size(width, height, without) == first_size(width, height, smaller)
    assert tile_grid(width, height, without) == tile_grid(width, height, smaller)
    assert tile_grid(width, height, without).tiles <= tile_grid(width, height, spec).tiles


@given(width=SIDES, height=SIDES, name=st.sampled_from(sorted(SPECS)), upscale=st.booleans())
def test_fewer_tiles_ends_at_one(width: int, height: int, name: str, upscale: bool) -> None:
    """Each step of giving up tiles gives no more of them, and the last gives one."""
    spec: ImageSpec | None = replace(SPECS[name], upscale=upscale)
    counts = []
    while spec is not None:
        counts.append(tile_grid(width, height, spec).tiles)
        spec = fewer_tiles(spec)
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 1


# --- pixels --------------------------------------------------------------------------------------------------------

SIZES = [(1, 1), (7, 5), (64, 64), (65, 64), (300, 300), (640, 480), (480, 641), (1000, 31), (3, 900), (1, 2000)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("split", [True, False])
def test_pixels_equal_transformers(size: tuple[int, int], split: bool) -> None:
    """Within 1e-6: the same uint8 pixels, normalised in float32 in another order (worst seen 1.2e-7)."""
    spec = replace(SMALL, split=split)
    image = noise(*size)
    np.testing.assert_allclose(ours(image, spec), theirs(image, spec), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "CMYK", "1", "YCbCr", "HSV", "LAB", "PA"])
def test_modes_equal_transformers(mode: str) -> None:
    """Colours, palettes, and transparency on white come out as the processor's; tolerance as above."""
    image = noise(70, 50, mode)
    np.testing.assert_allclose(ours(image, SMALL), theirs(image, SMALL), rtol=0, atol=1e-6)


def test_sixteen_bit_grey() -> None:
    """The upper eight bits, exactly. Here the processor clips at 255 and makes nearly every such picture white."""
    image = noise(70, 50, "I;16")
    grey = np.asarray(image) >> 8
    pixels = np.asarray(open_picture(Media(ref=encoded(image))).pixels())
    assert np.array_equal(pixels, np.stack([grey] * 3, axis=-1))


def test_pixels_at_full_size() -> None:
    """The 256M's own setting, 13 tiles of 512 pixels; tolerance as above."""
    image = noise(640, 480)
    np.testing.assert_allclose(ours(image, SPECS["256m"]), theirs(image, SPECS["256m"]), rtol=0, atol=1e-6)


def test_pixels_without_upscaling() -> None:
    """The processor with a smaller longest edge; tolerance as above."""
    image = noise(100, 130)
    smaller, without = replace(SMALL, longest_edge=130), replace(SMALL, upscale=False)
    np.testing.assert_allclose(ours(image, without), theirs(image, smaller), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(kind: str, orientation: int, tmp_path: Path) -> None:
    """A turned photo is upright before it is cut, as transformers' `load_image` has it; its size is known beforehand."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(70, 40), kind, exif=exif)
    file = tmp_path / f"turned.{kind.lower()}"
    file.write_bytes(data)
    picture = open_picture(Media(ref=data))
    upright = picture.pixels()
    assert np.array_equal(np.asarray(upright), np.asarray(load_image(str(file))))
    assert (picture.width, picture.height) == upright.size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"])
def test_every_format_knows_its_size(kind: str) -> None:
    """The size that plans the tiles is the size of the pixels."""
    picture = open_picture(Media(ref=encoded(noise(48, 32), kind)))
    assert (picture.width, picture.height) == picture.pixels().size


def test_content_names_pictures(tmp_path: Path) -> None:
    """Equal content has an equal key, wherever it lies; other content has another."""
    data = encoded(noise(8, 8))
    file = tmp_path / "a.png"
    file.write_bytes(data)
    address = "data:image/png;base64," + base64.b64encode(data).decode()
    refs = [data, file, str(file), address]
    assert len({open_picture(Media(ref=ref)).key for ref in refs}) == 1
    assert open_picture(Media(ref=encoded(noise(8, 9)))).key != open_picture(Media(ref=data)).key
    assert open_picture(Media(ref=noise(8, 8))).key == open_picture(Media(ref=lambda: noise(8, 8))).key


# --- bad input -----------------------------------------------------------------------------------------------------


def refused(ref: object) -> str:
    """The one line a user sees."""
    with pytest.raises(MediaError) as caught:
        open_picture(Media(ref=ref)).pixels()  # type: ignore[arg-type]
    line = str(caught.value)
    assert line
    assert "\n" not in line
    return line


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, in a hundred bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_truncated_jpeg() -> None:
    data = encoded(noise(64, 64), "JPEG")
    assert "damaged" in refused(data[: len(data) // 2])


def test_truncated_picture_in_memory() -> None:
    """`datasets` hands over pictures that Pillow has opened but not yet decoded."""
    data = encoded(noise(64, 64), "JPEG")
    refused(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_picture_in_memory_over_the_limit() -> None:
    with pytest.raises(MediaError):
        open_picture(Media(ref=noise(30, 30)), max_pixels=899)


def test_bomb() -> None:
    """400 million pixels are refused by the header; nothing of that size is allocated."""
    refused(bomb(20_000, 20_000))


def test_pixel_limit() -> None:
    """Over the recipe's limit but below Pillow's own: the line names the setting."""
    assert "images.max_pixels" in refused(bomb(12_000, 12_000))


def test_pixel_limit_can_be_raised() -> None:
    """Between Pillow's warning (89 million) and its own refusal (179 million) the recipe decides, without a warning."""
    size = (12_000, 12_000)
    header = struct.pack("<2sIIIIiiHHIIiiII", b"BM", 54, 0, 54, 40, *size, 1, 24, 0, 0, 0, 0, 0, 0)
    picture = open_picture(Media(ref=header), max_pixels=150_000_000)
    assert (picture.width, picture.height) == size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_opening_decodes_no_pixels(kind: str) -> None:
    """The size of a file whose pixels are missing is known; what is missing comes out when they are asked for."""
    data = encoded(noise(64, 64), kind)
    picture = open_picture(Media(ref=data[: len(data) * 2 // 3]))
    assert (picture.width, picture.height) == (64, 64)
    with pytest.raises(MediaError):
        picture.pixels()


def test_missing_file(tmp_path: Path) -> None:
    assert "no such picture" in refused(tmp_path / "none.png")
    assert "none.png" in refused(str(tmp_path / "none.png"))


@pytest.mark.parametrize("name", ["", ".", "a\0b.png", "a" * 5000, "\ud800.png"], ids=ascii)
def test_names_no_file_can_have(name: str) -> None:
    refused(name)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"not a picture", b"\xff\xd8\xff", bytes(1000)])
def test_not_a_picture(data: bytes) -> None:
    refused(data)


@pytest.mark.parametrize(
    "address",
    [f"data:{rest}" for rest in ("", ",", "x,AAAA", "x;base64,A", "x;base64,éé", "x;base64,@@@@", "x;base64,\0")],
)
def test_bad_data_addresses(address: str) -> None:
    refused(address)


def test_rare_formats_are_refused_too() -> None:
    """A texture of a kind that Pillow knows but cannot decode."""
    data = bytearray(encoded(noise(8, 8), "DDS"))
    data[80:84] = struct.pack("<I", 1 << 24)
    refused(bytes(data))


def test_postscript_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """An EPS file is a programme that Pillow hands to Ghostscript; a picture from a data set must not start one."""
    started: list[object] = []
    monkeypatch.setattr(subprocess, "check_call", lambda *args, **_: started.append(args))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_windows_binary", None)
    refused(encoded(noise(8, 8), "EPS"))
    assert not started


@cache
def seeds(kind: str) -> list[bytes]:
    """Small files of a format: plain, and with the extras that parsers trip over."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    plain = encoded(noise(9, 7), kind)
    if kind == "GIF":
        frames = [noise(9, 7, "P"), noise(9, 8, "P").crop((0, 0, 9, 7))]
        return [plain, encoded(frames[0], kind, save_all=True, append_images=frames[1:], transparency=0)]
    if kind == "AVIF":
        return [plain]
    richer: dict[str, Callable[[], bytes]] = {
        "JPEG": lambda: encoded(noise(9, 7, "CMYK"), kind, progressive=True, exif=exif),
        "PNG": lambda: encoded(noise(9, 7, "P"), kind, transparency=3, exif=exif),
        "WEBP": lambda: encoded(noise(9, 7, "RGBA"), kind, lossless=True, exif=exif),
    }
    return [plain, richer[kind]()]


def survives(data: bytes) -> None:
    """Whatever the bytes, tiles of the promised shape or a MediaError. Pillow's warnings may come."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = open_picture(Media(ref=data), max_pixels=10_000)
            pixels = picture.pixels()
        except MediaError:
            return
        assert pixels.mode == "RGB"
        assert pixels.size == (picture.width, picture.height)
        spec = ImageSpec(tile=8, longest_edge=16)
        assert len(tile_pixels(pixels, spec)) == tile_grid(picture.width, picture.height, spec).tiles


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "AVIF"])
@given(draw=st.data())
def test_damaged_bytes(kind: str, draw: st.DataObject) -> None:
    """Some bytes changed, some cut out, some put in."""
    data = bytearray(draw.draw(st.sampled_from(seeds(kind))))
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, len(data) - 1))
        action = draw.draw(st.sampled_from(["change", "remove", "insert", "cut"]))
        if action == "change":
            data[place] = draw.draw(st.integers(0, 255))
        elif action == "remove":
            del data[place : place + draw.draw(st.integers(1, 8))]
        elif action == "insert":
            data[place:place] = draw.draw(st.binary(max_size=8))
        else:
            del data[place:]
        if not data:
            break
    survives(bytes(data))


@pytest.mark.parametrize("chunk", [b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"iCCP", b"zTXt", b"iTXt", b"gAMA"])
@given(content=st.binary(max_size=30))
def test_damaged_chunks_of_a_png(chunk: bytes, content: bytes) -> None:
    """Chunks with any content and a right checksum, so that the parser gets past it."""
    data = encoded(noise(5, 4))
    extra = struct.pack(">I", len(content)) + chunk + content + struct.pack(">I", zlib.crc32(chunk + content))
    survives(data[:33] + extra + data[33:])
