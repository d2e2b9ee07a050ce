"""A source whose rows hold another thing than its `modality` says is told of before a run: shares go by that word."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolforge.data.pipeline import open_stream
from smolforge.data.processor import load_renderer
from smolforge.recipe import DataSection


@pytest.mark.parametrize(
    ("source", "said", "held"),
    [
        ("scenes", "text", "image"), ("scenes", "video", "image"), ("texts", "video", "text"), ("scenes", "image", None),
        ("scenes", "multi_image", None), ("texts", "text", None), ("texts", None, None),
    ],
)  # fmt: skip
def test_first_rows_that_hold_another_thing_are_told(
    source: str, said: str | None, held: str | None, tiny: Path, tmp_path: Path
) -> None:
    if source == "texts":
        file = tmp_path / "texts.jsonl"
        file.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": 5, "completion": "b"}\n')
        source = str(file)
    section = DataSection(source=source, modality=said)
    stream = open_stream([section], load_renderer(tiny), seed=0)
    assert list(stream.misnamed()) == (
        [f"{source}: its first rows hold {held}, and its modality is {said}; mend its modality, by which a mixture shares out"]
        if held
        else []
    )
