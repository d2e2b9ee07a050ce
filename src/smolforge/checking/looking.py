"""One example of the stream, reduced to what a check counts: pictures and tokens are let go, so thousands can be looked at."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from smolforge.data.media import Picture, own_spec, tile_grid
from smolforge.data.pipeline import Stream
from smolforge.data.render import Example, PlacedImage, Renderer
from smolforge.data.sources.catalog import modality_of
from smolforge.errors import DataError, MediaError
from smolforge.recipe import Modality
from smolforge.records import Message, Record, ResponseKind, fingerprint

PARTS = ("pictures", "frames", "prompt", "answers")  # of an example's tokens; they sum to them
REDUCED = ("fewer tiles", "fewer frames")  # what the length policy calls what it does
CUT = "prompt text cut"
TOO_LONG = "too long"
NOT_LEARNT: tuple[ResponseKind, ...] = ("other",)  # scored for an estimate alone
ECHO_WORDS = 4  # shorter answers stand in many prompts rightly: a colour, an option
WITHOUT_LIMIT = 2**40  # tokens


@dataclass(frozen=True, kw_only=True)
class Look:
    """An example that can be used."""

    index: int  # place in the mixed stream
    source: int
    name: str
    modality: Modality  # what the row holds
    parts: dict[str, int]  # tokens of each of PARTS
    depth: int  # longest path from the root, in tokens
    scored: int  # tokens with a loss weight
    placed: tuple[tuple[str, int], ...] = ()  # key and tiles of each picture as it is laid out, one that comes twice stands twice
    tiles_upscaled: int = 0  # tiles the same pictures would take with images.upscale: true ...
    tiles_as_are: int = 0  # ... and with false
    pictures: int = 0
    enlarged: int = 0  # of them, smaller than they are shown
    media: tuple[str, ...] = ()  # content keys of pictures, and one of all frames
    changes: tuple[str, ...] = ()  # what the length policy did
    needs: int = 0  # tokens it would have without the length policy
    words: str = ""  # name of its texts, equal for equal texts
    answers: tuple[str, ...] = ()  # that it learns, as they compare: lower case, one space
    echo: bool = False  # an answer of ECHO_WORDS words or more stands in its own prompt

    @property
    def tokens(self) -> int:
        return sum(self.parts.values())

    @property
    def tiles(self) -> int:
        """Distinct ones: a picture that is shown twice is encoded once."""
        return sum(dict(self.placed).values())


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A place of the stream whose example is dropped."""

    index: int
    source: int
    name: str
    reason: str
    line: str  # for people: where, what, how to mend it
    media: bool  # a picture or video that cannot be read
    needs: int = 0  # tokens it would have, where it is too long


def look_at(stream: Stream, index: int) -> tuple[Look, Example]:
    """Render the example at a place of the stream and count it; no pixel is touched.

    Raises:
        DataError: it cannot be used.
    """
    record, example = stream.record(index), stream.example(index)
    renderer = stream.renderer
    for node in (example.nodes[number] for number, _ in example.responses):
        assert renderer.images is None or not (node.ids[node.weights != 0] == renderer.image_id).any(), "a placeholder as a label"
    answers = _answers(record, stream.shaping.kinds)
    learnt = [answer for _, answer in answers]
    parts = example_parts(example, renderer)
    shrunk = any(change.startswith((*REDUCED, CUT)) for change in example.changes)
    plain = [image for image in example.images if image.distortion is None]
    shown = [image for image in plain if image.picture.split]
    frames = [image.picture.key for image in plain if not image.picture.split]
    look = Look(
        index=index,
        source=stream.mixture(index)[0],
        name=stream.name(index),
        modality=modality_of(record),
        parts=parts,
        depth=example.depth,
        scored=num_scored(example),
        placed=tuple((image.key, len(image.starts)) for image in example.images),
        tiles_upscaled=_tiles([image.picture for image in shown], renderer, upscale=True),
        tiles_as_are=_tiles([image.picture for image in shown], renderer, upscale=False),
        pictures=len(shown),
        enlarged=sum(_enlarged(image) for image in shown),
        media=(*(image.picture.key for image in shown), *((fingerprint(*frames),) if frames else ())),
        changes=example.changes,
        needs=unlimited(stream, index) if shrunk else example.num_tokens,
        words=fingerprint(_asked(record.messages), sorted(learnt)),
        answers=tuple(learnt),
        echo=any(len(answer.split()) >= ECHO_WORDS and answer in asked for asked, answer in answers),
    )
    return look, example


def refusal(stream: Stream, index: int, error: DataError) -> Refusal:
    """What a check keeps of an example that cannot be used."""
    name, line = stream.name(index), str(error)
    needs = 0
    if error.what.startswith(TOO_LONG):
        try:
            needs = unlimited(stream, index)
        except DataError:  # something else is wrong with it besides
            needs = 0
    return Refusal(
        index=index, source=stream.mixture(index)[0], name=name, reason=error.what, needs=needs,
        line=line if line.startswith(name) else f"{name}: {line}", media=isinstance(error, MediaError),
    )  # fmt: skip


def unlimited(stream: Stream, index: int) -> int:
    """Tokens of an example if rows and context had no end."""
    wide = replace(stream.renderer, row_tokens=WITHOUT_LIMIT, context=WITHOUT_LIMIT)
    return replace(stream, renderer=wide).example(index).num_tokens


def decode(example: Example, *, known: set[str], frames: bool) -> None:
    """Decode the pictures of an example, which tells what is damaged; nothing is kept of them.

    Args:
        known: content keys of what was decoded already; filled.
        frames: decode a video's first, middle and last frame too.

    Raises:
        MediaError: one is damaged.
    """
    placed = [image.picture for image in example.images if image.picture.split]
    if frames and (film := [image.picture for image in example.images if not image.picture.split]):
        placed += _ends_and_middle(film)
    for picture in placed:
        if picture.key not in known:
            picture.pixels()
            known.add(picture.key)


def _ends_and_middle(film: Sequence[Picture]) -> list[Picture]:
    return [film[number] for number in sorted({0, len(film) // 2, len(film) - 1})]


def num_scored(example: Example) -> int:
    """Tokens that the loss moves."""
    nodes = (example.nodes[number] for number, kind in example.responses if kind not in NOT_LEARNT)
    return sum(int((node.weights != 0).sum()) for node in nodes)


def example_parts(example: Example, renderer: Renderer) -> dict[str, int]:
    """Tokens of an example by `PARTS`. A picture's are its tiles' placeholders and the marks around them."""
    answers = sum(len(example.nodes[node].ids) for node, _ in example.responses)
    parts = dict.fromkeys(PARTS, 0)
    for image in example.images:
        grid = tile_grid(image.picture.width, image.picture.height, image.spec)
        marks = sum(len(renderer.encode(piece)) for piece in renderer.picture_pieces(grid) if piece is not None)
        parts["pictures" if image.picture.split else "frames"] += grid.tiles * renderer.image_tokens + marks
    parts["answers"] = answers
    parts["prompt"] = example.num_tokens - sum(parts.values())
    return parts


def _tiles(pictures: Sequence[Picture], renderer: Renderer, *, upscale: bool) -> int:
    """Tiles that the recipe's own rules give pictures, before an example is made shorter."""
    if renderer.images is None:
        return 0
    spec = replace(renderer.images, upscale=upscale)
    return sum(tile_grid(picture.width, picture.height, own_spec(picture, spec)).tiles for picture in pictures)


def _enlarged(image: PlacedImage) -> bool:
    return image.spec.split and image.spec.upscale and max(image.picture.width, image.picture.height) < image.spec.longest_edge


def _answers(record: Record, kinds: Collection[ResponseKind]) -> list[tuple[str, str]]:
    """(what was asked before it, answer) of everything that is learnt; of a chat each trained turn."""
    found = [
        (_asked(record.messages[:number]), _plain("".join(map(str, message.content))))
        for number, message in enumerate(record.messages)
        if message.train
    ]
    asked = _asked(record.messages)
    return found + [(asked, _plain(r.text)) for r in record.responses if r.kind in kinds and r.kind != "rejected"]


def _asked(messages: Sequence[Message]) -> str:
    return _plain(" ".join(part for m in messages if not m.train for part in m.content if isinstance(part, str)))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
