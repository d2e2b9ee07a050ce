"""Small recipes on small files. Digits are no part of the tiny tokenizer's captions, so each is a token of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from smolforge.recipe import Recipe, parse_recipe


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write rows as a JSON Lines file; its path."""

    def write_rows(name: str, rows: list[dict[str, Any]]) -> str:
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(file)

    return write_rows


@pytest.fixture
def draw(tmp_path: Path) -> Callable[..., str]:
    """Draw a picture of one colour, a shade for each number; its path."""

    def draw_picture(number: int, size: tuple[int, int] = (96, 96)) -> str:
        file = tmp_path / f"{number}-{size[0]}.png"
        Image.new("RGB", size, (number, 100, 200)).save(file)
        return str(file)

    return draw_picture


@pytest.fixture
def questions(write, draw) -> Callable[..., str]:
    """A file of `count` questions about pictures of their own, all texts different, from number `first` on."""

    def write_questions(name: str, count: int, *, first: int = 0, size: tuple[int, int] = (96, 96)) -> str:
        rows = [{"image": draw(n, size), "question": f"{n}", "answer": f"{1000 + n}"} for n in range(first, first + count)]
        return write(name, rows)

    return write_questions


@pytest.fixture
def recipe(tiny, tmp_path) -> Callable[..., Recipe]:
    """A recipe of the tiny model; sections change it."""

    def make(*data: dict[str, Any], held_out: list[dict[str, Any]] | None = None, **sections: Any) -> Recipe:
        tree: dict[str, Any] = {
            "model": {"name": str(tiny)},
            "data": list(data),
            "batch": {"examples": 5, "row_tokens": 512},
            "run": {"dir": str(tmp_path / "run"), "steps": 4},
        }
        if held_out is not None:
            tree["eval"] = {"data": held_out}
        return parse_recipe(tree | sections)

    return make
