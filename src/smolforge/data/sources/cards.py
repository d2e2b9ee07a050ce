"""What the card of a data set says of its files, looked at before `datasets` acts on it.

Strangers write cards, and `datasets` takes their word: a file above the folder is read, and `prepare` would copy its rows into a
folder to be shared; an address is fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from smolforge.errors import DataError

SETTINGS = ".huggingface.yaml"  # counts for `datasets` as the card's own head does
SHOWN = 80  # characters of what is wrong


def refuse_strays(folder: Path) -> None:
    """See that a folder's card names no files but those below it. Links inside the folder are the user's, and may lead elsewhere.

    Raises:
        DataError: it names others, or cannot be read.
    """
    configs = _told(folder).get("configs")
    for config in configs if isinstance(configs, list) else ():
        for named in _paths(config, folder) if isinstance(config, dict) else ():
            if not is_below(named):
                what = f"its card names files that are not below it: {named[:SHOWN]!a}"
                raise DataError(what, where=folder, mend="put them into the folder and name them from there, in README.md")


def refuse_stray_tables(folder: Path) -> None:
    """The same of a saved dataset, whose states name the files with its rows.

    Raises:
        DataError: one names others, or cannot be read.
    """
    for file in (folder / "dataset_dict.json", *folder.glob("state.json"), *folder.glob("*/state.json")):
        try:
            told = json.loads(file.read_bytes()) if file.is_file() else {}
            named = [str(one) for one in (*told.get("splits", ()), *(one["filename"] for one in told.get("_data_files", ())))]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            what = f"not a readable dataset ({type(error).__name__}: {error})"
            raise DataError(what, where=file, mend="save it again") from error
        if strays := [one for one in named if not is_below(one)]:
            raise DataError(f"names files that are not below it: {strays[0][:SHOWN]!a}", where=file, mend="save it again")


def is_below(path: str) -> bool:
    """Whether a card's path or pattern can only mean files below its folder.

    >>> [is_below(path) for path in ("a/*.json", "a/../b.json", "/a.json", "https://a/b.json", "zip://a.json::b.zip", "data:,")]
    [True, False, False, False, False, False]
    """
    # `link/..` is another folder on the disk than in words, so no path may climb at all.
    place, elsewhere = PurePosixPath(path), re.search(r"^[a-z][a-z0-9+.-]*:|://|::", path, re.IGNORECASE)
    return not (elsewhere or place.is_absolute() or ".." in place.parts)


def _told(folder: Path) -> dict[str, Any]:
    """What `datasets` takes from a folder's card and settings, read with its own reader: another may see another head."""
    import yaml
    from huggingface_hub import DatasetCard

    card, settings = folder / "README.md", folder / SETTINGS
    told: dict[str, Any] = {}
    try:
        for file in (card, settings):
            if file.is_file():
                told |= DatasetCard.load(file).data.to_dict() if file is card else yaml.safe_load(file.read_text("utf-8")) or {}
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        what = f"not a readable card ({' '.join(str(error).split())[:SHOWN]})"
        raise DataError(what, where=file, mend="mend it") from error
    return told


def _paths(config: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Paths and patterns of a configuration: those of its `data_dir`, and of its `data_files`, which are a text, a list of texts,
    or a list of `{split, path}` with such paths."""
    files = config.get("data_files")
    listed = list[Any]()
    for one in _listed(files):
        listed += _listed(one.get("path")) if isinstance(one, dict) and one is not files else [one]
    for path in (*listed, *_listed(config.get("data_dir"))):
        if not isinstance(path, str):
            what = f"not a readable card (data_files or data_dir of {str(config.get('config_name'))[:SHOWN]} are no paths)"
            raise DataError(what, where=folder / "README.md", mend="mend it")
        yield path


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
