"""A check as one HTML page: the same as on the terminal, with the examples' pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from smolforge.checking import Check
from smolforge.checking.findings import Finding
from smolforge.checking.lines import COLUMNS, by_lists, facts, happened, verdict
from smolforge.checking.looking import PARTS
from smolforge.checking.mask import Kind, Shown
from smolforge.checking.measures import SourceFacts, held_shares, scored_shares
from smolforge.recipe import MODALITIES, Recipe
from smolforge.report.page import Html, join, page, save, section, table, tag

STYLE = """
.mask { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .9rem; margin: .2rem 0 }
.mask .learnt { background: color-mix(in srgb, var(--good) 22%, transparent); border-bottom: 2px solid var(--good) }
.mask .rejected { background: color-mix(in srgb, var(--bad) 18%, transparent); border-bottom: 2px solid var(--bad) }
.mask .context { color: var(--dim) } .mask .picture { color: var(--train); font-weight: 600 }
.finding { border-left: 4px solid var(--eval); background: var(--card); padding: .35rem .8rem; margin: .4rem 0 }
.finding.error { border-left-color: var(--bad) } .finding p { margin: .1rem 0 }
.bar { display: flex; height: 1rem; border-radius: 5px; overflow: hidden; margin: .4rem 0 .2rem; gap: 2px }
.key { display: flex; flex-wrap: wrap; gap: 0 1.2rem; margin: 0 } .key span { white-space: nowrap }
.key i { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; margin-right: .4rem }
.m0 { background: #4470d8 } .m1 { background: #7a52c7 } .m2 { background: #b8531a } .m3 { background: #2f7d4f }
td:first-child { overflow-wrap: anywhere; min-width: 9rem }
.mask dt { color: var(--dim); font-size: .8rem; margin-top: .4rem } .mask dd { margin: 0 }
.card { margin: .8rem 0 } .shots { justify-content: start } .shots img { max-height: 11rem }
"""


def default_page(recipe: Recipe) -> Path:
    """Beside the run's folder, which a check does not make: `runs/captions.check.html`."""
    return recipe.run.dir.with_name(f"{recipe.run.dir.name}.check.html")


def write_page(check: Check, out: Path) -> Path:
    """Write the page.

    Raises:
        UserError: the place is a folder.
    """
    known = check.known
    name = check.recipe.run.dir.name
    body = [tag("style", Html(STYLE)), tag("h1", f"Check of {name}"), tag("p", verdict(check), class_="dim")]
    body.append(join(_finding(one) for one in check.findings))
    if known:
        body.append(section("The run", *(tag("p", line) for line in facts(known)), _bar(check)))
        body.append(section("Mixture", tag("pre", "\n".join(check.tree)) if check.tree else "", _mixture(known.sources)))
        body.append(section("Tokens an example", _side_by_side(known.sources)))
        body.append(section("Held out", _side_by_side(known.held_out)))
    body.append(section("One example a modality", *(_example(one) for one in check.shown)))
    body.append(section("Preference pairs, all rows", _list(check.cleaning)))
    body.append(section("Examples that are dropped or changed", _list(check.named)))
    body.append(section("What this cannot tell", _list(check.notes)))
    return save(out, page(f"Check of {name}", *body))


def _finding(one: Finding) -> Html:
    kind = "error" if one.error else "warning"
    return tag(
        "div", tag("p", tag("b", f"{kind}: {one.where}: "), one.what), tag("p", one.mend, class_="dim"), class_=f"finding {kind}"
    )


def _bar(check: Check) -> Html:
    """Share of each modality by what the rows hold, and below, as a part may be narrower than its name, which colour is which."""
    assert check.known is not None
    held = held_shares(check.known.sources)
    known = [(modality, f"m{number}", held[modality]) for number, modality in enumerate(MODALITIES) if modality in held]
    parts = [tag("span", class_=colour, style=f"width: {100 * share:.2f}%") for _, colour, share in known]
    key = [tag("span", tag("i", class_=colour), f"{modality} {share:.0%}") for modality, colour, share in known]
    return join((tag("div", *parts, class_="bar"), tag("p", *key, class_="key small"))) if parts else Html()


def _mixture(sources: Sequence[SourceFacts]) -> Html:
    head = ("source", "says", "share", "came first", "of supervised", "rows", "epochs", "tokens", "supervised", "tiles")
    rows = []
    for one, scored in zip(sources, scored_shares(sources)):
        passes = "–" if one.epochs is None else f"{one.epochs:,.1f}"
        size = "stream" if one.rows is None else f"{one.rows:,}{by_lists(one)}"
        rows.append(
            (
                one.label, one.modality or "–", f"{one.share:.1%}", f"{one.came:.1%}", f"{scored:.1%}", size, passes,
                f"{one.mean_tokens:,.0f}", f"{one.scored_share:.1%}", f"{one.mean_tiles:.1f}",
            )
        )  # fmt: skip
    note = (
        "Share: of the examples, by weights. Came first: of the first examples, counted. Of supervised: of all tokens with loss. "
        "Tokens and tiles: means of an example."
    )
    return join((table(head, rows), tag("p", note, class_="dim small")))


def _side_by_side(sources: Sequence[SourceFacts]) -> Html:
    return tag("div", *(tag("div", _tokens(one)) for one in sources), class_="charts") if sources else Html()


def _tokens(one: SourceFacts) -> Html:
    held = ", ".join(f"{rows:,} {modality}" for modality, rows in one.held.items())
    dropped = _list([f"dropped {rows:,}: {reason}" for reason, rows in one.dropped.items()])
    rows = []
    for part in ("all", *PARTS):
        if one.used and one.tokens[part].max:
            rows.append((part, *(f"{getattr(one.tokens[part], column):,}" for column in COLUMNS)))
    told = tag("p", f"{happened(one)}{f'; they hold {held}' if held else ''}", class_="dim small")
    return join((tag("h3", one.label), told, dropped, table(("tokens", *COLUMNS), rows) if rows else ""))


def _example(one: Shown) -> Html:
    head = f"{one.modality}: {one.tokens:,} tokens, {one.scored:,} of them supervised"
    shots = [tag("img", alt="", src=f"data:image/jpeg;base64,{base64.b64encode(data).decode()}") for data in one.pictures]
    more = tag("small", f"and {one.more} more", class_="dim") if one.more else Html()
    kinds: dict[Kind, str] = {"learnt": "supervised", "rejected": "pushed down", "context": "read only", "picture": "picture"}
    used = {run.kind for passage in one.passages for run in passage.runs}
    legend = tag("p", *(tag("span", f" {kinds[kind]} ", class_=kind) for kind in kinds if kind in used), class_="mask small")
    passages = [
        join((tag("dt", passage.label), tag("dd", *(tag("span", run.text, class_=run.kind) for run in passage.runs))))
        for passage in one.passages
    ]
    return tag(
        "div", tag("h3", head), tag("p", one.name, class_="dim small"), tag("div", *shots, more, class_="shots") if shots else "",
        legend, tag("dl", *passages, class_="mask"), class_="card",
    )  # fmt: skip


def _list(items: Sequence[str]) -> Html:
    return tag("ul", *(tag("li", item) for item in items), class_="small") if items else Html()
