"""A picture of more tiles a side than the tokenizer has marks for is refused: its marks would be spelt out as text.

Tiles of 96 and marks for six a side: 576 pixels are six tiles, 577 are seven.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from smolforge import estimate
from smolforge.checking import check
from smolforge.data.processor import load_renderer
from smolforge.errors import RecipeError
from smolforge.recipe import ImagesSection, parse_recipe
from smolforge.training.loop import train

REFUSED = (
    r"images.longest_edge: pictures of 1536 pixels have 16 tiles of 96 a side, and the tokenizer has marks for 6; take 576 or "
)


def test_more_tiles_a_side_than_marks_are_refused(tiny_split: Path) -> None:
    with pytest.raises(RecipeError, match=REFUSED):
        load_renderer(tiny_split, images=ImagesSection(longest_edge=1536))
    with pytest.raises(RecipeError, match="577 pixels have 7 tiles of 96 a side"):
        load_renderer(tiny_split, images=ImagesSection(longest_edge=577))


def test_as_many_tiles_a_side_as_marks_are_one_token_each(tiny_split: Path) -> None:
    renderer = load_renderer(tiny_split, images=ImagesSection(longest_edge=576))
    assert len(renderer.encode("<row_6_col_6>")) == 1
    assert len(renderer.encode("<row_7_col_1>")) > 1


def test_pictures_of_one_tile_need_no_marks(tiny_split: Path) -> None:
    spec = load_renderer(tiny_split, images=ImagesSection(longest_edge=1536, split=False)).images
    assert spec is not None
    assert spec.longest_edge == 1536


def test_a_tokenizer_that_writes_all_marks_as_text_takes_any_grid(tiny_split: Path, tmp_path: Path) -> None:
    """As the first 2.2B does, which learnt them so."""
    folder = shutil.copytree(tiny_split, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        token["content"] = token["content"].replace("<row_", "<old_")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load_renderer(folder, images=ImagesSection(longest_edge=1536)).encode("<row_1_col_1>") != ()


@pytest.mark.parametrize(("verb", "preset"), [(check, False), (estimate, False), (estimate, True), (train, False)])
def test_verbs_refuse_it_before_anything_is_read(verb: object, preset: bool, tiny_split: Path, tmp_path: Path) -> None:
    tree = {
        "model": {"name": "tiny" if preset else str(tiny_split)},
        "data": [{"source": "scenes"}],
        "images": {"longest_edge": 1536},
        "run": {"dir": str(tmp_path / "run"), "steps": 1},
    }
    with pytest.raises(RecipeError, match=REFUSED):
        verb(parse_recipe(tree))  # type: ignore[operator]
