"""Pictures: open safely, decide the tiles by arithmetic, cut the pixels.

One path on every machine, Pillow and NumPy, equal to the pixel to Hugging Face's `Idefics3ImageProcessorPil`. The grid of
tiles is known from width and height alone, so that lengths can be planned without decoding a picture.

Legend: T tiles, P tile edge in pixels.
"""

from __future__ import annotations

import base64
import http.client
import io
import math
import struct
import urllib.request
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from smolforge.errors import MediaError
from smolforge.records import Distortion, Media, fingerprint

ABSOLUTE_MAX_EDGE = 4096  # Idefics3's own bound on the first resize
DOWNLOAD_LIMIT = 64 * 2**20  # bytes
DOWNLOAD_SECONDS = 30
# What pictures come in. Pillow knows more, some of which run other programmes (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
PNG_ORIENTATION = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type")  # where a PNG may say how it is turned


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """How a checkpoint wants its pictures (from preprocessor_config.json, changed by the recipe's `images`)."""

    tile: int  # P: edge of a tile in pixels; the vision tower's image size
    longest_edge: int  # the picture's longest edge before tiling
    split: bool = True  # tiles beside the whole view, or the whole view alone
    upscale: bool = True  # enlarge small pictures to longest_edge
    resample: int = int(Image.Resampling.LANCZOS)
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    max_pixels: int = 100_000_000


@dataclass(frozen=True)
class Grid:
    """Tiles of one picture: `rows` x `cols` and, when there are any, the whole view after them."""

    rows: int
    cols: int

    @property
    def tiles(self) -> int:
        """
        >>> Grid(3, 4).tiles, Grid(0, 0).tiles
        (13, 1)
        """
        return self.rows * self.cols + 1


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that was opened: RGB pixels on demand, its size and its content's name."""

    key: str  # equal for equal content; pictures are de-duplicated by it
    width: int
    height: int
    pixels: Callable[[], Image.Image]  # RGB, upright; decodes anew at each call
    split: bool = True  # False: one tile, whatever the spec says
    edge: int | None = None  # its own longest edge before tiling, at most the spec's


class Drawing(ABC):
    """A `Media.ref` that knows its name and size before it is drawn, as a frame of a video does.

    Whoever opens it keeps it and not its pixels, which are asked for each time they are needed.
    """

    @property
    @abstractmethod
    def key(self) -> str:
        """Content's name, equal for equal content. Raises MediaError."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Width and height, upright. Raises MediaError."""

    @abstractmethod
    def __call__(self) -> Image.Image:
        """The pixels. Raises MediaError."""


# --- sizes: pure arithmetic --------------------------------------------------------------------------------------


def first_size(width: int, height: int, spec: ImageSpec) -> tuple[int, int]:
    """(width, height) after the first resize: longest edge to `longest_edge`, the other side even."""
    edge = spec.longest_edge if spec.upscale else min(spec.longest_edge, max(width, height))
    ratio = width / height
    if width >= height:
        width, height = edge, int(edge / ratio)
        height += height % 2
    else:
        width, height = int(edge * ratio), edge
        width += width % 2
    width, height = max(width, 1), max(height, 1)
    ratio = width / height
    if width >= height and width > ABSOLUTE_MAX_EDGE:
        width, height = ABSOLUTE_MAX_EDGE, int(ABSOLUTE_MAX_EDGE / ratio)
    elif height > width and height > ABSOLUTE_MAX_EDGE:
        width, height = int(ABSOLUTE_MAX_EDGE * ratio), ABSOLUTE_MAX_EDGE
    return max(width, 1), max(height, 1)


def tiled_size(width: int, height: int, spec: ImageSpec) -> tuple[int, int]:
    """(width, height) after the second resize: both sides stretched up to multiples of the tile."""
    edge, ratio = spec.tile, width / height
    if width >= height:
        width = math.ceil(width / edge) * edge
        height = math.ceil(int(width / ratio) / edge) * edge
    else:
        height = math.ceil(height / edge) * edge
        width = math.ceil(int(height * ratio) / edge) * edge
    return max(width, edge), max(height, edge)


def tile_grid(width: int, height: int, spec: ImageSpec) -> Grid:
    """Grid of a picture of this size; no pixel is touched.

    >>> spec = ImageSpec(tile=512, longest_edge=2048)
    >>> tile_grid(640, 480, spec), tile_grid(640, 480, replace(spec, upscale=False)), tile_grid(9, 9, replace(spec, split=False))
    (Grid(rows=3, cols=4), Grid(rows=2, cols=2), Grid(rows=0, cols=0))
    """
    if not spec.split:
        return Grid(0, 0)
    width, height = tiled_size(*first_size(width, height, spec), spec)
    if width <= spec.tile and height <= spec.tile:
        return Grid(0, 0)
    return Grid(height // spec.tile, width // spec.tile)


def own_spec(picture: Picture, spec: ImageSpec) -> ImageSpec:
    """The rules for one picture, whose longest edge may have been drawn."""
    return spec if picture.edge is None else replace(spec, longest_edge=min(spec.longest_edge, picture.edge))


def fewer_tiles(spec: ImageSpec) -> ImageSpec | None:
    """The next smaller setting when a picture must give up tiles, or None at one tile.

    >>> spec, seen = ImageSpec(tile=512, longest_edge=2048), []
    >>> while spec := fewer_tiles(spec):
    ...     seen.append((spec.longest_edge, spec.split))
    >>> seen
    [(1536, True), (1024, True), (512, True), (512, False)]
    """
    if not spec.split:
        return None
    edge = (math.ceil(spec.longest_edge / spec.tile) - 1) * spec.tile
    return replace(spec, longest_edge=edge) if edge >= spec.tile else replace(spec, split=False)


# --- pixels ------------------------------------------------------------------------------------------------------


def tile_pixels(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """Tiles of an RGB picture, row by row, the whole view last: uint8 (T, 3, P, P).

    The pixels are those of `Idefics3ImageProcessorPil` before rescaling and normalisation, which happen on the device.
    """
    filter_ = Image.Resampling(spec.resample)
    edge = spec.tile
    image = image.resize(first_size(*image.size, spec), filter_)
    if not spec.split:
        return _planes([image.resize((edge, edge), filter_)])
    width, height = tiled_size(*image.size, spec)
    if image.size != (width, height):  # else Pillow would copy it
        image = image.resize((width, height), filter_)
    if width <= edge and height <= edge:
        return _planes([image])
    rows, cols = height // edge, width // edge
    tiles = np.empty((rows * cols + 1, edge, edge, 3), np.uint8)  # (T, P, P, 3), as Pillow has them
    grid = tiles[:-1].reshape(rows, cols, edge, edge, 3)
    grid[:] = np.asarray(image).reshape(rows, edge, cols, edge, 3).swapaxes(1, 2)
    tiles[-1] = np.asarray(image.resize((edge, edge), filter_))
    return tiles.transpose(0, 3, 1, 2)


def picture_tiles(picture: Picture, spec: ImageSpec, distortion: Distortion | None = None) -> np.ndarray:
    """Decode a picture and cut its tiles, uint8 (T, 3, P, P); spoilt when a distortion is given.

    Raises:
        MediaError: damaged.
    """
    image = picture.pixels()
    if distortion is None:
        return tile_pixels(image, spec)
    rng = np.random.default_rng(int(fingerprint(picture.key, distortion), 16))
    if distortion.kind == "crop":
        return tile_pixels(small_crop(image, distortion.scale, rng), spec)
    return noised(tile_pixels(image, spec), distortion.step, rng)


def small_crop(image: Image.Image, scale: tuple[float, float], rng: np.random.Generator) -> Image.Image:
    """A random crop that keeps a share in `scale` of the area, stretched back to the picture's size (mDPO's m_l)."""
    width, height = image.size
    area = rng.uniform(*scale) * width * height
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    w = min(width, max(1, round(math.sqrt(area * ratio))))
    h = min(height, max(1, round(math.sqrt(area / ratio))))
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    return image.crop((x, y, x + w, y + h)).resize((width, height), Image.Resampling.BICUBIC)


def noised(tiles: np.ndarray, step: int, rng: np.random.Generator) -> np.ndarray:
    """Tiles after `step` of 1000 diffusion steps: sqrt(a) x + sqrt(1 - a) e with x in [-1, 1], a = prod (1 - b_t) and
    b_t = sigmoid(-6 .. 6) scaled to [1e-5, 5e-3] (POVID's schedule); clipped back to 8 bits."""
    betas = 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (0.5e-2 - 1e-5) + 1e-5
    kept = float(np.cumprod(1 - betas)[step])
    x = tiles.astype(np.float32) / 127.5 - 1
    x = math.sqrt(kept) * x + math.sqrt(1 - kept) * rng.standard_normal(x.shape, np.float32)
    return ((x.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)


def _planes(tiles: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(tile).transpose(2, 0, 1) for tile in tiles])  # (T, 3, P, P)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB and upright: EXIF orientation applied, transparency laid on white, 16-bit grey scaled to 8 bits."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


# --- opening -----------------------------------------------------------------------------------------------------


def open_picture(media: Media, *, max_pixels: int = 100_000_000) -> Picture:
    """Read a picture's size and content key; its pixels are decoded when asked for.

    Raises:
        MediaError: missing, not a picture, or larger than `max_pixels`.
    """
    ref = media.ref
    if isinstance(ref, Drawing):
        return _undrawn(ref, max_pixels, media)
    if callable(ref):
        ref = ref()
    if isinstance(ref, Image.Image):
        _check_size(ref.width, ref.height, max_pixels, media)
        with _mended_errors(media):
            image = to_rgb(ref)
        key = fingerprint(image.size, image.tobytes())
        return Picture(key=key, width=image.width, height=image.height, pixels=lambda: image, split=media.split, edge=media.edge)
    data = read_encoded(ref)
    with _mended_errors(media):
        header = _open(data)
        width, height = header.size
        _check_size(width, height, max_pixels, media)
        if _is_turned(header, data):
            width, height = height, width

    def pixels() -> Image.Image:
        with _mended_errors(media):
            return to_rgb(_open(data))

    return Picture(key=fingerprint(data), width=width, height=height, pixels=pixels, split=media.split, edge=media.edge)


def _undrawn(drawing: Drawing, max_pixels: int, media: Media) -> Picture:
    width, height = drawing.size
    _check_size(width, height, max_pixels, media)

    def pixels() -> Image.Image:
        with _mended_errors(media):
            return to_rgb(drawing())

    return Picture(key=drawing.key, width=width, height=height, pixels=pixels, split=media.split, edge=media.edge)


def _open(data: bytes) -> Image.Image:
    with warnings.catch_warnings():  # the limit is ours, max_pixels; Pillow's own, twice as high, still raises
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data), formats=FORMATS)


def _check_size(width: int, height: int, max_pixels: int, media: Media) -> None:
    if width * height > max_pixels:
        raise MediaError(
            "too many pixels", where=f"{media}, {width} x {height}", mend=f"raise images.max_pixels, which is {max_pixels}"
        )


def _is_turned(header: Image.Image, data: bytes) -> bool:
    """Whether EXIF says that width and height change places. Pillow turns TIFFs itself, and decodes a PNG to look."""
    if header.format == "TIFF" or (header.format == "PNG" and not any(mark in data for mark in PNG_ORIENTATION)):
        return False
    return header.getexif().get(0x0112) in (5, 6, 7, 8)


@contextmanager
def _mended_errors(media: Media) -> Iterator[None]:
    """Pillow's many ways to fail at a damaged file, as one MediaError."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise MediaError("not a picture that can be read", where=media, mend="check the file") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise MediaError("too many pixels", where=media, mend="make it smaller") from error
    except (
        OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, EOFError, RuntimeError, struct.error
    ) as error:  # fmt: skip
        raise MediaError("damaged picture", where=f"{media} ({error})", mend="replace the file") from error


def read_encoded(ref: Path | str | bytes) -> bytes:
    """A picture's encoded file: bytes as they are, a path, an http(s) or data address. Raises MediaError."""
    if isinstance(ref, bytes):
        return ref
    if isinstance(ref, str) and ref.startswith(("http://", "https://")):
        return _download(ref)
    if isinstance(ref, str) and ref.startswith("data:"):
        try:
            return base64.b64decode(ref.partition(",")[2], validate=True)
        except ValueError as error:  # binascii.Error is one
            raise MediaError("not valid base64", where=ref[:40], mend="check the data address") from error
    try:
        return Path(ref).read_bytes()
    except FileNotFoundError as error:
        raise MediaError("no such picture", where=ref, mend="check the path; in data it starts beside the file") from error
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror})", where=ref, mend="check the file") from error
    except ValueError as error:
        raise MediaError("no name that a file can have", where=ascii(ref)[:80], mend="check the path") from error


def _download(address: str) -> bytes:
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "smolforge"})
        with urllib.request.urlopen(request, timeout=DOWNLOAD_SECONDS) as answer:
            data = answer.read(DOWNLOAD_LIMIT + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise MediaError("could not be downloaded", where=f"{address} ({error})", mend="check the address") from error
    if len(data) > DOWNLOAD_LIMIT:
        raise MediaError(f"larger than {DOWNLOAD_LIMIT >> 20} MiB", where=address, mend="download it yourself")
    return data
