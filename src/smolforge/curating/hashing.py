"""A picture in 297 bytes that survive resizing, recompression and a small crop, because files of one photo are seldom equal.

A mark is four looks at the upright RGB picture, each exact in its definition; grey is Pillow's "L":

    frequencies  64 bits: grey, box-averaged to 32 x 32, orthonormal DCT-II; the 64 lowest frequencies in zigzag order after the
                 constant one; a bit is set where the coefficient is above their median (pHash; Zauner 2010, "Implementation and
                 benchmarking of perceptual image hash functions", section 3.2.1, takes the square of rows and columns 1 to 8)
    detail       256 bytes: grey, box-averaged to 16 x 16, less its mean, the largest scaled to 127
    colours      32 bytes: box-averaged to 4 x 4, Cb and Cr
    plain        whether a quarter of the 32 x 32 cells lies within 2 levels of one grey, as a page, a chart or a drawing does

Frequencies find candidates: those that differ in at most `distance` bits. The other looks decide: among a million pictures ten
thousand pairs would agree in 54 of 64 balanced bits by chance, pages of text agree in as many by their layout, and grey
alone cannot tell a red ball from a blue one. Plain pictures have to agree in detail far
closer, for their background agrees anyway.

A picture with next to no frequencies (one colour, a soft gradient) would have bits of noise. It is compared by its pixels.

Measured on 85 COCO photos, their altered copies, and drawn pages and charts (Pillow 13): docs/curating.md.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from smolforge.records import fingerprint

VERSION = 1  # raise it when the same pixels would give another mark
SIDE = 32  # of the grey picture whose frequencies are taken
LOOKS = np.dtype([("frequencies", "<u8"), ("detail", "i1", 256), ("colours", "u1", 32), ("plain", "?")])
FLAT_BYTES = 16  # of a flat picture's mark
# Half of the 64 coefficients below two grey levels: rounding to 8 bits alone makes 0.3. The flattest photo measured has 20.
FLAT = 2.0
DISTANCE = 10  # bits of the frequencies: slightly altered copies differ in 12 at most, different photos in 18 at least
ALIKE = 0.85  # correlation of detail: copies of photos have 0.90 and more, different photos 0.79 and less
ALIKE_PLAIN = 0.99  # of plain pictures: copies have 0.995 and more, different pages of running text 0.977 and less
COLOUR_LEVELS = 24  # largest difference of a cell's Cb or Cr; copies differ by 20 at most (a fifth brighter)
PLAIN_SHARE, PLAIN_LEVELS = 0.25, 2


def _dct(size: int) -> np.ndarray:
    """Orthonormal DCT-II as a matrix (size, size)."""
    rows, columns = np.arange(size)[:, None], np.arange(size)[None]
    matrix = np.cos(np.pi * (2 * columns + 1) * rows / (2 * size)) * np.sqrt(2 / size)
    matrix[0] /= np.sqrt(2)
    return matrix


DCT = _dct(SIDE)
ZIGZAG = sorted(((row, column) for row in range(16) for column in range(16)), key=lambda at: (sum(at), at[0]))[1:65]
ROWS, COLUMNS = np.array(ZIGZAG).T


def mark(image: Image.Image) -> bytes:
    """Mark of an upright RGB picture: 297 bytes as `LOOKS`, or 16 bytes that name a flat picture's size and pixels."""
    grey = image.convert("L")
    cells = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))
    lowest = (DCT @ cells.astype(np.float64) @ DCT.T)[ROWS, COLUMNS]
    if np.median(np.abs(lowest)) < FLAT:
        return bytes.fromhex(fingerprint(image.size, image.tobytes()))
    detail = np.asarray(grey.resize((16, 16), Image.Resampling.BOX), np.float64).ravel()
    detail -= detail.mean()
    looks = np.zeros((), LOOKS)
    looks["frequencies"] = int.from_bytes(np.packbits(lowest > np.median(lowest)).tobytes(), "big")
    looks["detail"] = np.round(detail * (127 / np.abs(detail).max()))
    looks["colours"] = np.asarray(image.resize((4, 4), Image.Resampling.BOX).convert("YCbCr"))[..., 1:].ravel()
    looks["plain"] = _plain(cells)
    return looks.tobytes()


def _plain(cells: np.ndarray) -> bool:
    levels = np.bincount(cells.ravel(), minlength=256)
    near = np.convolve(levels, np.ones(2 * PLAIN_LEVELS + 1, np.int64), "same")
    return bool(near.max() >= PLAIN_SHARE * cells.size)


def looks(marks: list[bytes]) -> np.ndarray:
    """Marks that are not of flat pictures as one array (N,) of `LOOKS`."""
    return np.frombuffer(b"".join(marks), LOOKS)


def agree(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether detail and colours of marks, pair by pair, allow that they show the same: bool (N,) of two (N,) of `LOOKS`."""
    colours = np.abs(one["colours"].astype(np.int16) - other["colours"]).max(-1, initial=0)
    first, second = (marks["detail"].astype(np.float32) for marks in (one, other))
    scale = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
    alike = (first * second).sum(-1) / np.maximum(scale, 1e-6)
    return (colours <= COLOUR_LEVELS) & (alike >= np.where(one["plain"] | other["plain"], ALIKE_PLAIN, ALIKE))
