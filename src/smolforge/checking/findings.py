"""What of a check's facts would waste a run (errors) or deserves a thought (warnings), each with what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from smolforge.checking.looking import TOO_LONG
from smolforge.checking.measures import Cleaned, Overlap, Packed, SourceFacts, overall
from smolforge.data.pack import seen_again
from smolforge.data.render import MANY_TILES
from smolforge.errors import DataError
from smolforge.recipe import DataSection

MANY_EPOCHS = 10  # passes from which on a source is learnt by heart
FEW_SCORED = 0.01  # share of the tokens below which most of the work teaches nothing directly
ECHOED = 0.05  # share of the rows whose answer stands in their prompt
COMMON = 0.6  # share of the rows that one answer may have; half and half is a question of yes or no
ENOUGH = 20  # rows from which on shares of a sample are spoken of
REPEATED = 0.1  # share of the rows with a picture that came before
SAVED = 0.2  # share of the tiles that images.upscale: false must save to be worth a word
LOOSE = 0.6  # fullness of rows below which longer ones would hold more, where a step takes several
SPARSE = 0.5  # share of a source's rows that cannot be used from which on it is likely read wrongly
BIASED = 0.8  # share of the pairs from which on the longer answer being chosen is a cue of its own
EQUAL = 0.95  # share of the held-out rows from which on they are the training data


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that a person should mend."""

    error: bool
    where: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.mend}"


@dataclass(frozen=True, kw_only=True)
class Known:
    """All that a check knows."""

    steps: int
    examples: int  # of a step
    row_tokens: int
    context: int
    upscale: bool
    longest_edge: int | None
    sources: tuple[SourceFacts, ...]
    held_out: tuple[SourceFacts, ...] = ()
    overlaps: tuple[Overlap, ...] = ()
    doubled: tuple[Overlap, ...] = ()
    cleaned: tuple[Cleaned, ...] = ()  # of preference pairs
    packed: Packed | None = None
    longest: tuple[int, str] = (0, "")  # tokens of the longest example, were it not reduced, and its name
    mixed: bool = False  # by modality
    drawn_edge: bool = False  # pictures' longest edges are drawn; `longest_edge` is the largest

    @property
    def limit(self) -> int:
        """Tokens that an example can have."""
        return min(self.row_tokens, self.context)


def findings_of(known: Known) -> list[Finding]:
    """Errors first, in the order of the recipe's sources."""
    found = [finding for rule in RULES for finding in rule(known)]
    return sorted(found, key=lambda one: not one.error)


def unopened(
    sections: Sequence[DataSection], open_one: Callable[[DataSection], object], error: DataError, *, key: str
) -> Iterator[Finding]:
    """Why data cannot be opened, of every source that cannot; else why not together."""
    faults = 0
    for number, section in enumerate(sections):
        try:
            open_one(section)
        except DataError as fault:
            faults += 1
            yield _fault(fault, f"{key}.{number} {section.source}")
    if not faults:
        yield _fault(error, key)


def _fault(error: DataError, place: str) -> Finding:
    where = f"{place} ({error.where})" if error.where and error.where not in place else place
    return Finding(error=True, where=where, what=error.what, mend=error.mend or "mend the data")


# --- errors ----------------------------------------------------------------------------------------------------------


def unusable(known: Known) -> Iterator[Finding]:
    """Sources that give nothing, or much less than they should."""
    for one, place in _placed(known):
        if not one.looked or not one.dropped:
            continue
        reason, count = next(iter(one.dropped.items()))  # the commonest
        lost = sum(one.dropped.values())
        why = f"{count:,} {reason}" + (f", {lost - count:,} for other reasons" if lost > count else "")
        mend = "compare a row with the shapes in docs/data.md, and see the named ones"
        if reason.startswith(TOO_LONG):
            mend = f"the longest needs {one.needs:,} tokens; {_room_mend(known, one.needs)}"
        elif reason == MANY_TILES:
            mend = "raise images.max_tiles or lower images.longest_edge where those are to be used"
        elif lost < SPARSE * one.looked:
            mend = "mend or remove those rows; a run drops and counts them"
        if not one.used:
            yield _error(place, f"every one of {one.looked:,} rows is dropped: {why}", mend)
        else:
            yield _warning(place, f"{lost:,} of {one.looked:,} rows are dropped: {why}", mend)


def unreached(known: Known) -> Iterator[Finding]:
    for number, one in enumerate(known.sources):
        if one.examples < 1:
            yield _error(
                f"data.{number} {one.label}", f"the run takes {one.examples:.2g} of its rows, so it is never reached",
                "raise its weight, or leave it out",
            )  # fmt: skip
        elif not one.reached:
            yield _warning(
                f"data.{number} {one.label}", "no row of it came up in the part of the mixture that was looked at",
                "raise --sample or --seconds, or check it alone: data='[{source: ...}]'",
            )  # fmt: skip


def unscored(known: Known) -> Iterator[Finding]:
    for one, place in _placed(known):
        if one.used and one.unscored == one.used:
            yield _error(place, "no token of it is supervised", "give its rows answers")
        elif one.unscored:
            yield _warning(place, f"{one.unscored:,} of {one.used:,} rows have no supervised token", "give them answers")


def reduced(known: Known) -> Iterator[Finding]:
    for one, place in _placed(known):
        room = f"one needs {one.needs:,} tokens where {known.limit:,} fit"
        mend = _room_mend(known, one.needs)
        seen = sum(rows for modality, rows in one.held.items() if modality != "text")
        if one.reduced and one.reduced == seen:
            yield _error(place, f"every picture or video is reduced: {room}", mend)
        elif one.reduced:
            yield _warning(place, f"{one.reduced:,} of {one.used:,} examples get fewer tiles or frames: {room}", mend)
        if one.cut:
            yield _warning(place, f"{one.cut:,} of {one.used:,} prompts lose text in their middle: {room}", mend)


def _room_mend(known: Known, needs: int) -> str:
    smaller = "lower images.longest_edge or video.max_frames, or bring shorter texts"
    if needs > known.context:
        return f"{smaller}: the model has {known.context:,} positions"
    return f"set batch.row_tokens: {needs} or more, or {smaller}"


def leaked(known: Known) -> Iterator[Finding]:
    for one in known.overlaps:
        where = f"eval.data {one.held_out}"
        if one.exact:
            said = f"{one.shared:,} of its {one.of:,} rows ({one.share:.0%}) are rows of {one.source}, which is trained on"
        else:
            said = f"{one.shared:,} of {one.of:,} rows of the sample have a picture or text of {one.source}'s sample"
        if one.share >= EQUAL:
            yield _error(where, said, "hold out other rows, such as split: train[-200:] here and train[:-200] there")
        else:
            yield _warning(
                where, said, "hold out other rows, or take them out of the training data with `smolforge data decontaminate`"
            )
    for one in known.doubled:
        yield _warning(
            f"data {one.held_out}", f"{one.shared:,} of its {one.of:,} rows are rows of {one.source} as well",
            "give slices that do not overlap, or one source with both weights",
        )  # fmt: skip


def held_out_nothing(known: Known) -> Iterator[Finding]:
    if not known.held_out:
        yield _warning(
            "eval.data", "nothing is held out, so before and after are measured on training examples",
            "hold some rows out, such as split: train[-200:]",
        )  # fmt: skip


# --- warnings --------------------------------------------------------------------------------------------------------


def held_otherwise(known: Known) -> Iterator[Finding]:
    """Shares by modality count sources by what they say they hold."""
    for number, one in enumerate(known.sources):
        others = one.used - one.held.get(one.modality or "", 0)
        if one.modality and others > one.used / 2:
            really, rows = max(((m, n) for m, n in one.held.items() if m != one.modality), key=lambda pair: pair[1])
            said = f"{rows:,} of {one.used:,} rows hold {really}, not {one.modality}"
            yield _warning(
                f"data.{number} {one.label}", said + (", so the mixture's shares are not what they say" if known.mixed else ""),
                f"set modality: {really}",
            )  # fmt: skip


def by_heart(known: Known) -> Iterator[Finding]:
    for number, one in enumerate(known.sources):
        if one.epochs is not None and one.epochs > MANY_EPOCHS and not one.drawn:
            yield _warning(
                f"data.{number} {one.label}", f"its {one.rows:,} rows come up {one.epochs:.0f} times each",
                "lower its weight or run.steps, or bring more rows; answers repeated so often are learnt by heart",
            )  # fmt: skip


def repeated_in_a_step(known: Known) -> Iterator[Finding]:
    """A run says the same; a hundred times are refused."""
    rows = [one.rows for one in known.sources]
    what, _, mend = seen_again(known.examples, None if None in rows else sum(filter(None, rows))).partition("; ")
    if what:
        yield _warning("batch.examples", what, mend)


def little_scored(known: Known) -> Iterator[Finding]:
    tokens, scored = overall(known.sources, lambda one: one.mean_tokens), overall(known.sources, lambda one: one.mean_scored)
    if 0 < scored < FEW_SCORED * tokens:
        images = "fewer tiles (images.longest_edge, images.upscale: false) or more answers to a picture"
        yield _warning(
            "data", f"{scored / tokens:.2%} of the tokens are supervised", f"{images} would teach more in the same time"
        )


def said_already(known: Known) -> Iterator[Finding]:
    for one, place in _placed(known):
        if one.echoes >= ECHOED * max(1, one.used):
            yield _warning(
                place, f"the answer of {one.echoes:,} of {one.used:,} rows stands in its own prompt",
                "look at them: a model learns to copy there",
            )  # fmt: skip
        words, rows = one.commonest
        if one.used >= ENOUGH and rows > COMMON * one.used:
            shown = words if len(words) <= 60 else f"{words[:60]} …"
            yield _warning(
                place, f"{rows:,} of {one.used:,} rows have the same answer: {shown!r}",
                "balance the answers, or the model learns to say just that",
            )  # fmt: skip


def repeated_pictures(known: Known) -> Iterator[Finding]:
    for one, place in _placed(known):
        if one.used >= ENOUGH and one.repeated >= REPEATED * one.used:
            yield _warning(
                place, f"{one.repeated:,} of {one.used:,} rows have a picture or video that another row has as well",
                "bring a picture's questions in one row, which encodes it once, or remove copies with `smolforge data dedupe`",
            )  # fmt: skip


def upscaled(known: Known) -> Iterator[Finding]:
    now = overall(known.sources, lambda one: one.tiles_upscaled / one.used)
    without = overall(known.sources, lambda one: one.tiles_as_are / one.used)
    if known.upscale and now and 1 - without / now >= SAVED:
        size = f"up to {known.longest_edge}" if known.drawn_edge else f"{known.longest_edge}"
        yield _warning(
            "images", f"{_enlarged(known):.0%} of the pictures are enlarged to {size} pixels",
            f"upscale: false would save {1 - without / now:.0%} of the tiles",
        )  # fmt: skip


def _enlarged(known: Known) -> float:
    return sum(one.enlarged for one in known.sources) / max(1, sum(one.pictures for one in known.sources))


def loose_rows(known: Known) -> Iterator[Finding]:
    rows = known.packed
    if rows and rows.rows >= 2 and rows.full < LOOSE:
        yield _warning(
            "batch.row_tokens", f"rows of {known.row_tokens:,} tokens are {rows.full:.0%} full: few examples fit together",
            "raise it where memory allows; nothing is padded, so only forward passes are more",
        )  # fmt: skip


def pairs(known: Known) -> Iterator[Finding]:
    """Pairs that teach nothing are left out before the run; length is the easiest cue of those that stay."""
    for number, one in enumerate(known.cleaned):
        place = f"data.{number} {one.label}"
        if one.removed:
            reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in one.removed.items())
            yield _warning(
                place,
                f"{sum(one.removed.values()):,} of {one.rows:,} rows are left out: {reasons}",
                "mend them, if they are yours",
            )
        if one.pairs >= ENOUGH and not 1 - BIASED <= one.longer <= BIASED:
            which = "longer" if one.longer > 0.5 else "shorter"
            share = max(one.longer, 1 - one.longer)
            yield _warning(
                place, f"the chosen answer is the {which} one in {share:.0%} of {one.pairs:,} pairs",
                "length is the easiest thing to learn: see docs/preferences.md, or set data.max_length_ratio",
            )  # fmt: skip


RULES: tuple[Callable[[Known], Iterator[Finding]], ...] = (
    unusable, unreached, unscored, reduced, leaked, held_out_nothing, held_otherwise, by_heart, repeated_in_a_step,
    little_scored, said_already, repeated_pictures, pairs, upscaled, loose_rows,
)  # fmt: skip


def _placed(known: Known) -> Iterator[tuple[SourceFacts, str]]:
    for number, one in enumerate(known.sources):
        yield one, f"data.{number} {one.label}"
    for number, one in enumerate(known.held_out):
        yield one, f"eval.data.{number} {one.label}"


def _error(where: str, what: str, mend: str) -> Finding:
    return Finding(error=True, where=where, what=what, mend=mend)


def _warning(where: str, what: str, mend: str) -> Finding:
    return Finding(error=False, where=where, what=what, mend=mend)
