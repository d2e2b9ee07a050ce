"""What the card of a data set says of its files, looked at before `datasets` acts on it.

Strangers write cards, and `datasets` takes their word: a file above the folder is read, and `prepare` would copy its rows into a
folder to be shared; an address is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from smolforge.errors import DataError

SETTINGS = ".huggingface.yaml"  # counts for `datasets` as the card's own head does


def refuse_strays(folder: Path) -> None:
    """See that a folder's card names no files but those below it. Links inside the folder are the user's, and may lead elsewhere.

    Raises:
        DataError: it names others, or cannot be read.
    """
    for said in (_head(folder / "README.md"), _head(folder / SETTINGS)):
        configs = said.get("configs") if isinstance(said, dict) else None
        for config in configs if isinstance(configs, list) else ():
            for named in _texts([config.get(key) for key in ("data_files", "data_dir")] if isinstance(config, dict) else None):
                if not is_below(named):
                    what = f"its card names files that are not below it: {named!a}"
                    raise DataError(what, where=folder, mend="put them into the folder and name them from there, in README.md")


def is_below(path: str) -> bool:
    """Whether a card's path or pattern can only mean files below its folder.

    >>> [is_below(path) for path in ("a/*.json", "a/../b.json", "/a.json", "https://a/b.json", "zip://a.json::b.zip", "data:,")]
    [True, False, False, False, False, False]
    """
    # `link/..` is another folder on the disk than in words, so no path may climb at all.
    place, elsewhere = PurePosixPath(path), re.search(r"^[a-z][a-z0-9+.-]*:|://|::", path, re.IGNORECASE)
    return not (elsewhere or place.is_absolute() or ".." in place.parts)


def _head(file: Path) -> Any:
    """What stands in a card's head, or in a file of settings."""
    import yaml
    from huggingface_hub import metadata_load

    if not file.is_file():
        return None
    try:
        return yaml.safe_load(file.read_bytes()) if file.name == SETTINGS else metadata_load(file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"not a readable card ({error})", where=file, mend="mend it") from error


def _texts(value: Any) -> Iterator[str]:
    """All texts in lists and mappings."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(inner)
