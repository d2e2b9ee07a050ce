"""The page itself: frame, style, and parts from which markup is built so that no text reaches it unescaped."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from smolforge.errors import DataError
from smolforge.files import write_whole
from smolforge.folders import claim_file

MARK = " · smolforge</title>"  # in the head of every page
HEAD = 4096  # bytes in which it stands

STYLE = """
:root { color-scheme: light dark; --line: #d0d4da; --dim: #5b6470; --back: #fbfbfa; --ink: #16191d; --card: #fff;
  --train: #4470d8; --eval: #d2641e; --good: #1a7f43; --bad: #b3261e; --wrong: #fbdcd9 }
@media (prefers-color-scheme: dark) { :root { --line: #3a4048; --dim: #9aa4b0; --back: #14171a; --ink: #e8eaed; --card: #1c2024;
  --train: #7ea2f5; --eval: #f09a5c; --good: #5cc98a; --bad: #f28b82; --wrong: #5a2624 } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; background: var(--back); color: var(--ink); max-width: 68rem; margin: 0 auto;
  padding: 1.5rem 1rem 4rem; overflow-wrap: break-word }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .2rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem } h3 { font-size: 1rem; margin: 1.4rem 0 .3rem } p { margin: .4rem 0 }
ul { margin: .4rem 0; padding-left: 1.2rem } a { color: inherit }
.dim { color: var(--dim) } small, .small { font-size: .85rem } .good { color: var(--good) } .bad { color: var(--bad) }
.lead { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--train); border-radius: 6px;
  padding: .6rem .9rem; margin: 1rem 0 }
.run { border-top: 3px solid var(--line); margin-top: 3.5rem; padding-top: 1.2rem }
.wide { overflow-x: auto; background: linear-gradient(to right, var(--back) 40%, transparent) 0 0 / 2rem 100% no-repeat local,
  linear-gradient(to left, var(--back) 40%, transparent) 100% 0 / 2rem 100% no-repeat local,
  linear-gradient(to right, var(--line), transparent) 0 0 / .7rem 100% no-repeat scroll,
  linear-gradient(to left, var(--line), transparent) 100% 0 / .7rem 100% no-repeat scroll }
table { border-collapse: collapse } th { font-weight: 600; vertical-align: bottom } th a { overflow-wrap: anywhere }
th, td { text-align: right; padding: .3rem 0 .3rem 1.1rem; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums }
td { vertical-align: top } th:first-child, td:first-child { text-align: left; padding-left: 0; min-width: 8.5rem;
  max-width: 24rem }
td small, th small { display: block; font-weight: 400; line-height: 1.3 } td:not(:first-child) small { white-space: nowrap }
th.words, td.words { text-align: left } td.words { min-width: 11rem; font-size: .9rem }
dl.facts { display: grid; grid-template-columns: minmax(5.5rem, max-content) 1fr; gap: .15rem 1rem; margin: .4rem 0 }
dl.facts dt { color: var(--dim) } dl.facts dd { margin: 0; overflow-wrap: anywhere }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 1rem; margin: .6rem 0 }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem; overflow-wrap: anywhere;
  min-width: 0 }
.card dl { margin: .4rem 0 0 } .card dt { font-size: .8rem; color: var(--dim); margin-top: .4rem }
.card dd { margin: 0; white-space: pre-wrap; max-height: 18rem; overflow-y: auto }
.shots { display: flex; flex-wrap: wrap; gap: .3rem; justify-content: center }
.shots img { max-width: 100%; max-height: 15rem; min-width: 0; object-fit: contain; border-radius: 4px }
.shots.one img { width: 100% } .shots.many img { max-height: 6rem }
.pair { display: grid; grid-template-columns: minmax(8rem, 14rem) 1fr; gap: 0 1rem; margin: .8rem 0 }
.pair dl { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem } .pair dl .all { grid-column: 1 / -1 }
mark { background: none; color: inherit; border-radius: 3px } mark.bad { background: var(--wrong); padding: 0 .15em;
  text-decoration: underline wavy var(--bad) 1px; text-underline-offset: 3px }
mark.right { text-decoration: underline dotted var(--good) 2px; text-underline-offset: 3px }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 0 1.5rem }
.charts h3 { margin-top: .4rem }
svg { display: block; width: 100%; height: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px }
svg text { fill: var(--dim); font-size: 12px }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem; overflow-x: auto;
  font-size: .85rem } summary { cursor: pointer }
@media (max-width: 600px) { svg text { font-size: 15px }
  th, td { padding-left: .6rem } th:first-child, td:first-child { min-width: 6.2rem } td small { font-size: .75rem }
  .pair { grid-template-columns: 1fr } .pair dl { grid-template-columns: 1fr } }
"""
# Even if a text slipped through, it could load and run nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
KINDS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}
VOID = frozenset({"img", "meta"})


class Html(str):
    """Text that is markup already. Everything else is escaped where it enters the page."""


def markup(value: object) -> Html:
    """A value as markup.

    >>> markup("1 < 2"), markup(Html("<b>"))
    ('1 &lt; 2', '<b>')
    """
    if isinstance(value, Html):
        return value
    return Html(html.escape(str(value).encode("utf-8", "replace").decode("utf-8")))  # half a surrogate pair cannot be written


def join(parts: Iterable[object], between: str = "") -> Html:
    """Parts in a row, each as markup."""
    return Html(between.join(map(markup, parts)))


def tag(name: str, *content: object, **attributes: object) -> Html:
    """An element; attributes that are None or empty are left out, `class_` is class, `stroke_width` is stroke-width.

    >>> tag("td", "a < b", class_="dim")
    '<td class="dim">a &lt; b</td>'
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None and value != ""}
    listed = "".join(f' {key}="{markup(value)}"' for key, value in given.items())
    return Html(f"<{name}{listed}>" if name in VOID else f"<{name}{listed}>{join(content)}</{name}>")


def page(title: str, *body: object) -> str:
    """A whole page that asks nothing of the network."""
    head = join(
        (
            Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
            tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
            tag("title", f"{title} · smolforge"),
            tag("style", Html(STYLE)),
        )
    )
    return f'<!doctype html><html lang="en"><head>{head}</head>{tag("body", *body)}</html>'


def save(out: Path, text: str) -> Path:
    """Write a page, and the folders above it.

    Raises:
        UserError: the place is a folder, cannot be written, or holds what is no page.
    """
    claim_page(out)
    write_whole(out, text)
    return out


def claim_page(out: Path) -> None:
    """See before the work that a page can be written: in the place of no file but another page.

    Raises:
        UserError: it cannot.
    """
    claim_file(out, "page", lambda file: file.suffix in (".html", ".htm") or _is_marked(file))


def _is_marked(file: Path) -> bool:
    with file.open("rb") as opened:
        return MARK.encode() in opened.read(HEAD)


def section(title: str, *body: object) -> Html:
    """A heading and what stands under it; nothing, if nothing does."""
    content = join(body)
    return join((tag("h2", title), content)) if content else Html()


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """A table in a box of its own, which scrolls where the page is narrow. Cells may be whole `th` and `td`."""
    lines = [tag("tr", *(_cell("th", cell) for cell in head)), *(tag("tr", *(_cell("td", cell) for cell in row)) for row in rows)]
    return tag("div", tag("table", *lines), class_="wide")


def _cell(kind: str, content: object) -> Html:
    return content if isinstance(content, Html) and content.startswith(f"<{kind}") else tag(kind, content)


def facts(named: Iterable[tuple[str, object]]) -> Html:
    """Names and what they are, in two columns; those that are empty are left out."""
    pairs = [join((tag("dt", name), tag("dd", value))) for name, value in named if value]
    return tag("dl", *pairs, class_="facts") if pairs else Html()


def picture(file: Path, folder: Path) -> Html:
    """A picture inside the page; nothing, if it is no picture below `folder`."""
    kind = KINDS.get(file.suffix.lower())
    if kind is None or not file.is_file() or not file.resolve().is_relative_to(folder.resolve()):
        return Html()
    return tag("img", alt="", src=f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}")


def read_json(file: Path) -> dict[str, Any]:
    """A mapping, empty where there is no file.

    Raises:
        DataError: the file is damaged.
    """
    if not file.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"not valid JSON ({error})", where=file, mend="delete it, or make it again") from error
    return content


def duration(seconds: float) -> str:
    """
    >>> duration(42.4), duration(3723)
    ('42 s', '1 h 2 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
