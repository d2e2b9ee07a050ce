"""Sets of rows to curate."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smolforge.curating.reading import picture_store
from smolforge.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return picture_store(tmp_path / "cache")


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of rows: rows("name", [{...}, ...])."""

    def write(name: str, lines: Sequence[dict[str, Any]]) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return folder

    return write


def photo(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Something like a photo: smooth colours with edges, another for another seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)
