"""What was found, side by side, because a distance convinces nobody: both pictures, both texts, and how near they are."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence

from PIL import Image

from smolforge.curating.dedupe import Findings
from smolforge.curating.lists import Removal
from smolforge.curating.reading import Table, pictures, row_name
from smolforge.data.media import open_picture
from smolforge.errors import DataError
from smolforge.records import Record
from smolforge.report.page import Html, facts, join, page, section, table, tag
from smolforge.wording import how_many

PAIRS = 60  # on the page; the list has all
THUMBNAIL = 220  # pixels
MOST_PICTURES = 3  # of a row
WORDS = 600  # characters of a row's texts
STYLE = ".said { white-space: pre-line }"  # turns of a conversation stand below each other


def findings_page(title: str, findings: Findings, tables: Sequence[Table], named: Sequence[tuple[str, str]]) -> str:
    """A whole page.

    Args:
        named: settings and places, for its head.
    """
    shown = _spread(findings.removals)
    rows = sum(findings.rows)
    left = f"{len(findings.removals):,} of {how_many(rows, 'row')} {'is' if rows == 1 else 'are'} on the list"
    some = f" {len(shown)} of them are shown." if len(shown) < len(findings.removals) else ""
    return page(
        title,
        tag("style", Html(STYLE)),
        tag("h1", title),
        tag("p", f"{left}. Nothing was deleted.{some}", class_="lead"),
        facts(named),
        section("By source", table(("source", "rows", "pictures compared", "left out", "share"), _by_source(findings, tables))),
        section("Not compared", _skipped(findings)) if findings.skips.counts else "",
        section("Pairs", *(_pair(one, tables) for one in shown)),
    )


def _by_source(findings: Findings, tables: Sequence[Table]) -> list[tuple[str, ...]]:
    gone = Counter(one.source for one in findings.removals)
    lines: list[tuple[str, ...]] = []
    for number, (one, rows) in enumerate(zip(tables, findings.rows, strict=True)):
        share = f"{gone[number] / rows:.1%}" if rows else "–"
        lines.append((one.title, f"{rows:,}", "", f"{gone[number]:,}", share))
    total = sum(findings.rows)
    share = f"{len(findings.removals) / total:.1%}" if total else "–"
    lines.append(("all", f"{total:,}", f"{findings.pictures:,}", f"{len(findings.removals):,}", share))
    return lines


def _skipped(findings: Findings) -> Html:
    skips = findings.skips
    return facts((why, f"{count:,}: {'; '.join(skips.names[why])}") for why, count in skips.counts.items())


def _spread(removals: Sequence[Removal]) -> list[Removal]:
    """The least alike first, for those are what a person should judge, then evenly through the rest."""
    doubtful = sorted(removals, key=lambda one: (-(one.distance or 0), one.similarity if one.similarity is not None else 1.0))
    first, rest = doubtful[: PAIRS // 2], doubtful[PAIRS // 2 :]
    step = max(1, -(-len(rest) // (PAIRS - len(first)))) if rest else 1
    return [*first, *rest[::step]]


def _pair(one: Removal, tables: Sequence[Table]) -> Html:
    source = tables[one.source].source
    near = [one.reason]
    near += [f"{one.distance} of 64 bits differ"] if one.distance is not None else []
    near += [f"texts {one.similarity:.0%} alike"] if one.similarity is not None else []
    cards = (
        _card("left out", row_name(source, one.index), source.record(one.index)),
        _card("because of", one.of, one.other_record()),
    )
    return Html(tag("p", ", ".join(near), class_="small dim") + tag("div", *cards, class_="cards"))


def _card(role: str, name: str, record: Record) -> Html:
    shots = tag("div", *_thumbnails(record), class_="shots one")
    return tag("div", shots, tag("p", tag("b", f"{role} "), name, class_="small"), *_said(record), class_="card")


def _said(record: Record) -> list[Html]:
    """The prompt and each answer on its own, cut where they are long."""
    prompt, *texts = _cut([record.words.strip(), *(response.text.strip() for response in record.responses)], WORDS)
    kinds = ["" if response.kind == "target" else response.kind for response in record.responses]
    answers = [join((tag("b", kind), " ", text) if kind else (text,)) for kind, text in zip(kinds, texts)]
    listed = tag("ul", *(tag("li", answer) for answer in answers), class_="small said")
    one = [tag("p", answer, class_="small said") for answer in answers]
    asked = [tag("p", prompt, class_="small said")] if prompt else []
    return [*asked, *([listed] if len(answers) > 1 else one)]


def _cut(texts: Sequence[str], room: int) -> list[str]:
    """The first texts that there is room for; the one at which it ends is cut.

    >>> _cut(["a dog", "a cat", "a cow"], 7), _cut(["a dog"], 5)
    (['a dog', 'a …'], ['a dog'])
    """
    kept = list[str]()
    for text in texts:
        if len(text) > room:
            return [*kept, f"{text[:room].rstrip()} …".strip()]
        kept.append(text)
        room -= len(text)
    return kept


def _thumbnails(record: Record) -> list[Html]:
    found = []
    try:
        for media in pictures(record)[:MOST_PICTURES]:
            image = open_picture(media).pixels()
            image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
            data = io.BytesIO()
            image.save(data, "JPEG", quality=80)
            found.append(tag("img", alt="", src=f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"))
    except DataError as error:  # the file may have gone since it was compared
        found.append(tag("p", str(error), class_="bad small"))
    return found
