"""Small parts of a card: tables, code and facts, in which no text of a run can break the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def plain(value: object) -> str:
    """A value on one line of a table or list.

    >>> plain("a|b\\n<img>")
    'a\\\\|b &lt;img&gt;'
    """
    text = " ".join(str(value).split())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def name(value: object) -> str:
    """A name in the typewriter's font, in a table too.

    >>> name("a|b"), name("a`b")
    ('`a\\\\|b`', '`` a`b ``')
    """
    text = " ".join(str(value).split()).replace("|", "\\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are markdown already; the first column stands left, the others right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def facts(named: Iterable[tuple[str, str]]) -> str:
    """Names and what they are; those that are empty are left out."""
    lines = [("", ""), ("---", "---"), *((key, value) for key, value in named if value)]
    return "\n".join(f"| {key} | {value} |" for key, value in lines) if len(lines) > 2 else ""


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def code(text: str, language: str = "") -> str:
    """A fenced block, its fence longer than any inside."""
    longest = max((len(found) for found in re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def details(summary: str, body: str) -> str:
    """Folded away until it is clicked."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"


def section(title: str, *parts: str) -> str:
    """A heading and what stands under it; nothing, if nothing does."""
    body = "\n\n".join(part for part in parts if part)
    return f"## {title}\n\n{body}" if body else ""
