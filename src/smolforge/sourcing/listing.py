"""What data there are by name: a line each for the terminal, all that is known of one, and the same as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from smolforge.data.sources.catalog import SOURCES, NamedSource, name_of
from smolforge.errors import DataError
from smolforge.recipe import MODALITIES
from smolforge.sourcing.disk import size

FILE_WIDTH = 120  # columns where there is no terminal
TITLES = {"image": "One picture", "multi_image": "Several pictures", "video": "Video", "text": "Text"}


def catalogue(modality: str | None = None) -> list[dict[str, Any]]:
    """All sources by name, as JSON.

    Raises:
        DataError: no such modality.
    """
    if modality is not None and modality not in MODALITIES:
        raise DataError(f"no modality {modality}", mend=f"they are {', '.join(MODALITIES)}")
    return [facts(name) for name, known in SOURCES.items() if modality in (None, known.modality)]


def facts(name: str) -> dict[str, Any]:
    """What is known of one source, as JSON.

    Raises:
        DataError: no such source.
    """
    name = _here(name)
    known = SOURCES[name]
    return {
        "name": name, "about": known.about, "modality": known.modality, "rows": known.rows, "gigabytes": known.gigabytes,
        "licence": known.licence, "gated": known.gated, "hub": known.hub, "needs_name": known.needs_name,
        "configs": list(known.configs), "splits": list(known.splits), "download_first": bool(known.annotations),
        "annotations": list(known.annotations), "archives": list(known.archives), "note": known.note,
    }  # fmt: skip


def _here(source: str) -> str:
    """Name here of a source that is called by it, or as on the Hub."""
    name = name_of(source)
    if name is None:
        raise DataError("no such source", where=source, mend=f"known by name: {', '.join(SOURCES)}")
    return name


def tables(modality: str | None = None) -> RenderableType:
    """The sources by what they hold, a table each.

    Raises:
        DataError: as `catalogue`.
    """
    chosen = {entry["name"] for entry in catalogue(modality)}
    parts: list[RenderableType] = []
    for kind in MODALITIES:
        named = {name: known for name, known in SOURCES.items() if known.modality == kind and name in chosen}
        if not named:
            continue
        table = Table(title=TITLES[kind], title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("source", style="bold", no_wrap=True)
        table.add_column("what", ratio=1)
        table.add_column("rows", justify="right", no_wrap=True)
        table.add_column("size", justify="right", no_wrap=True)
        for name, known in named.items():
            place = f"{known.hub}, {_terms(known)}" if known.hub else _terms(known)
            table.add_row(name, Text.assemble(known.about, "\n", (place, "dim")), _count(known), _size(known))
        parts += [table, Text()]
    mark = "to train on it, download its pictures or videos first" if any(SOURCES[name].annotations for name in chosen) else ""
    hints = ["smolforge data list NAME: all about one", "smolforge data preview NAME: a few rows"]
    hints += [f"*: {mark}"] if mark else []
    return Group(*parts, Text("\n".join(hints), style="dim"))


def _count(known: NamedSource) -> str:
    return "?" if known.rows is None else f"{known.rows:,}"


def _size(known: NamedSource) -> str:
    words = "?" if known.gigabytes is None else size(known.gigabytes * 1e9) if known.gigabytes else "0"
    return f"{words} *" if known.annotations else words


def _terms(known: NamedSource) -> str:
    return f"{known.licence} (gated)" if known.gated else known.licence


def about(name: str) -> RenderableType:
    """All that is known of one source.

    Raises:
        DataError: no such source.
    """
    name = _here(name)
    known = SOURCES[name]
    lines = {
        "what": known.about,
        "holds": TITLES[known.modality].lower(),
        "Hub": known.hub or "not there: drawn by smolforge",
        "rows": _count(known),
        "size": _size(known).removesuffix(" *"),
        "licence": _terms(known),
        "splits": ", ".join(known.splits),
        "names": ", ".join(known.configs) + (" (one is needed)" if known.needs_name else ""),
        "files": ", ".join((*known.annotations, *known.archives)),
        "note": known.note,
        "use": _use(name, known),
    }
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for label, words in lines.items():
        if words:
            table.add_row(label, Text(words))
    return Group(Text(name, style="bold"), table)


def _use(name: str, known: NamedSource) -> str:
    """The line of a recipe that reads it."""
    parts = [f"source: {name}"]
    if known.needs_name:
        parts.append(f"name: {known.configs[0] if known.configs else '...'}")
    if known.annotations:
        parts.append("dir: DIR")
    if "train" not in known.splits:
        parts.append(f"split: {known.splits[0]}")
    return f"data: [{{{', '.join(parts)}}}]"


def show(renderable: RenderableType) -> None:
    """Print to the screen; as wide as tables like it where the output is a file."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    console.print(renderable)
