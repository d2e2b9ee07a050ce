"""MMInstruction/M3IT: 40 tasks with an instruction each, pictures as Base64; or its Parquet mirror, pictures as they are.

Rows:

    {"instruction": "Answer the question about the image.", "inputs": "What is on the sofa?",
     "image_base64_str": ["/9j/4AAQ..."], "outputs": "A dog."}                                     MMInstruction/M3IT's files
    {"instruction": "...", "inputs": "...", "image": <picture>, "outputs": "A dog."}                 HuggingFaceM4/M3IT

The first is published with a loading script, which `datasets` does not run any more; its files are JSON Lines. The mirror's rows
are those of the script that made it; a question without a picture has None there. It could not be looked at itself: pictures are
read from `image` or `images`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from smolforge.data.sources import shapes
from smolforge.errors import DataError
from smolforge.records import Record


def record(row: dict[str, Any], *, id: str, source: str, **options: Any) -> Record:
    """Row -> Record."""
    pictures = [_bytes(text) for text in row.get("image_base64_str") or ()]
    pictures = pictures or [one for name in ("image", "images") for one in _listed(row.get(name))]
    asked = "\n".join(text.strip() for text in (row["instruction"], row.get("inputs") or "") if text.strip())
    return shapes.record({"images": pictures, "prompt": asked, "completion": row["outputs"]}, id=id, source=source, **options)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError("a picture that is not Base64", mend="download the file again") from error


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
