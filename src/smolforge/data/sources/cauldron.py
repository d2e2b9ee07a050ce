"""HuggingFaceM4/the_cauldron: 50 collections of pictures with questions and answers, one configuration each.

Row:

    {"images": [<picture>], "texts": [{"user": "What is shown?", "assistant": "A cat.", "source": "AI2D"}, ...]}

Every answer of a row is a target; the pictures stand before the first question.
"""

from __future__ import annotations

from typing import Any

from smolforge.data.sources import shapes
from smolforge.records import Record


def record(row: dict[str, Any], *, id: str, source: str, **options: Any) -> Record:
    """Row -> Record."""
    turns = []
    for text in row["texts"]:
        turns.append({"role": "user", "content": text["user"]})
        turns.append({"role": "assistant", "content": text["assistant"]})
    return shapes.record({"images": row["images"], "messages": turns}, id=id, source=source, **options)
