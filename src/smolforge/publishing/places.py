"""What of this machine must not be read by others: folders. A local path is cut to its last part, a name on the Hub stays."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolforge.data.sources.tables import READERS, SOURCES

NAME = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name, which a relative path may look like
FILES = (*READERS, ".gguf")
PART = r"[^\s/'\"`|<>()\[\]{},;:]+"
# ~/a, ../a and /a/b inside a text, but neither addresses (https://a/b) nor units (tokens/s)
PATH = re.compile(rf"(?<![\w:/.~<-])(?:(?:~|\.{{1,2}})(?:/{PART})+|/{PART}(?:/{PART})+)/?")
NOWHERE = "a folder"  # of a path such as "..", which has no name


@dataclass(frozen=True, kw_only=True)
class Places:
    """What is known of a run's paths."""

    roots: tuple[Path, ...] = (Path(),)  # folders that relative paths may start from
    first: str = ""  # first part of the run's own relative folder: what else begins so is no name on the Hub
    known: tuple[str, ...] = ()  # local paths as they were written, longest first

    def is_hub(self, name: str) -> bool:
        """Whether a name is one on the Hub. A relative path of two parts looks alike: it is a path if it is there, or begins like
        the run's own folder."""
        if not NAME.fullmatch(name) or name.startswith(".") or Path(name).suffix in FILES or name.split("/")[0] == self.first:
            return False
        return not any((root / name).exists() for root in self.roots)

    def text(self, text: str) -> str:
        """A text in which every local path is its last part.

        >>> Places(known=("my pets/photos",)).text("dropped my pets/photos[3]: /home/jo/a.jpg is damaged, at 3 tokens/s")
        'dropped photos[3]: a.jpg is damaged, at 3 tokens/s'
        >>> Places().text("/home/jo/my pets")
        'my pets'
        """
        text = text.replace("file://", "")
        if text in self.known or (text.startswith(("/", "~/", "./", "../")) and not re.search(r"[\n,;:]| [+(]", text)):
            return last(text)  # nothing but a path, spaces and all
        for path in self.known:
            if "/" in path.strip("/.~"):
                text = re.sub(rf"{re.escape(path)}(?:/{PART})*", lambda found: last(found[0]), text)
        return PATH.sub(lambda found: last(found[0]), text)

    def tree(self, tree: Any) -> Any:
        """The same of every text in JSON, names of keys included."""
        if isinstance(tree, Mapping):
            return {self.text(str(key)): self.tree(value) for key, value in tree.items()}
        if isinstance(tree, list | tuple):
            return [self.tree(value) for value in tree]
        return self.text(tree) if isinstance(tree, str) else tree


def last(path: str) -> str:
    """
    >>> last("/home/jo/pets/"), last("a.jsonl"), last("../..")
    ('pets', 'a.jsonl', 'a folder')
    """
    name = Path(path).name
    return NOWHERE if name in ("", "..", "~") else name


def places_of(recipe: Mapping[str, Any], folder: Path, *more: str) -> Places:
    """
    Args:
        folder: of the run.
        more: other names that may be paths.
    """
    place = Path(recipe.get("run", {}).get("dir", ""))
    roots, first = [Path()], ""
    if place.parts and not place.is_absolute() and ".." not in place.parts:
        first = place.parts[0] if len(place.parts) > 1 else ""
        here = folder.resolve()
        if here.parts[-len(place.parts) :] == place.parts:  # it was not moved: what it calls relative begins above it
            roots.append(Path(*here.parts[: -len(place.parts)]))
    found = Places(roots=tuple(roots), first=first)
    named = {*_paths(recipe), *more, str(folder), str(folder.resolve())} - set(SOURCES)
    local = {name for name in named if not found.is_hub(name)}
    return Places(roots=found.roots, first=first, known=tuple(sorted(local, key=lambda name: (-len(name), name))))


def _paths(recipe: Mapping[str, Any]) -> Iterator[str]:
    """Every value of a recipe that names a file, a folder, or something on the Hub."""
    sections = [*recipe.get("data", []), *recipe.get("eval", {}).get("data", [])]
    reference = recipe.get("objective", {}).get("reference", {})
    values = [section.get("source") for section in sections]
    values += [recipe.get("model", {}).get("name"), reference.get("model"), reference.get("store")]
    values += [recipe.get("cache", {}).get("dir"), recipe.get("run", {}).get("dir")]
    yield from (value for value in values if value)
