"""Small copies of the pictures that were asked about, for people who look at the answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from smolforge.data.media import Picture, open_picture
from smolforge.data.render import Example
from smolforge.records import Record

THUMBNAIL = 320  # longest edge, in pixels
SHOWN = 4  # pictures kept of one question; a video has more frames
MOST = 5000  # questions whose pictures are kept, a sample of all, so that a large table does not fill the disk


def names(prompt: Example) -> tuple[str, ...]:
    """Files of the pictures that are kept of a prompt, below the folder of results."""
    return tuple(f"pictures/{key}.jpg" for key in _some([image.picture.key for image in prompt.images]))


def copy(out: Path, pictures: list[Picture]) -> None:
    """Keep small copies of some of a prompt's pictures. Raises MediaError."""
    by_key = {picture.key: picture for picture in pictures}
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    for key in _some([picture.key for picture in pictures]):
        file = out / "pictures" / f"{key}.jpg"
        if not file.exists():
            small = by_key[key].pixels().copy()
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            draft = file.with_suffix(".draft")
            small.save(draft, format="JPEG", quality=85)
            draft.replace(file)


def copy_missing(out: Path, record: Record, names: tuple[str, ...]) -> None:
    """Copies for an answer that was kept from before, when this folder has none yet. Raises MediaError."""
    if not all((out / name).exists() for name in names):
        copy(out, [open_picture(media) for media in record.media])


def _some(keys: list[str]) -> list[str]:
    """At most SHOWN of the distinct keys, evenly spread."""
    distinct = list(dict.fromkeys(keys))
    return [distinct[place] for place in sorted(set(np.linspace(0, len(distinct) - 1, SHOWN).astype(int)))] if distinct else []
