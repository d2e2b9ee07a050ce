"""THE renderer: Record -> Example, a token tree. Training, scoring and generation all use it.

    record                                   example
      messages: [picture, "What is it?"]       node 0  <|im_start|>User:<fake_token_around_image><global-img> ... Assistant:
      responses: "A cat.", "A dog."            node 1  (parent 0)   A cat.<end_of_utterance>
                                               node 2  (parent 0)   A dog.<end_of_utterance>

A response is always a node of its own, so a chat with several trained turns is a chain of nodes. Answers whose pictures are
spoilt follow the same prompt laid out once more, as a root of its own. Only a response's text and its closing token carry
loss. Ids are those of Hugging Face's processor, id for id; token counts are known without
touching a pixel.

When an example is too long: a picture is never cut. It is given fewer tiles, a video fewer frames, then prompt text is cut from
the middle (the instruction tends to stand first or last), then the example is refused with a DataError, which the pipeline
counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from smolforge.data.chat import ChatFormat
from smolforge.data.film import FrameCache
from smolforge.data.media import Grid, ImageSpec, Picture, fewer_tiles, open_picture, own_spec, tile_grid
from smolforge.data.video import video_parts
from smolforge.errors import DataError
from smolforge.recipe import VideoSection
from smolforge.records import Distortion, Media, Message, Part, Record, Response, ResponseKind, Video, fingerprint

if TYPE_CHECKING:
    import torch

CUT = " … "  # stands where prompt text was cut out
FRAME_TOKENS = 12  # about what stands around a frame: its time and three marks
MANY_TILES = "more tiles than images.max_tiles"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A run of tokens that is predicted in one context."""

    parent: int  # index of the parent node, -1 for a root
    ids: np.ndarray  # (n,) int64
    weights: np.ndarray  # (n,) float32: loss weight of each token as a target, 0 for context
    corrected: np.ndarray | None = None  # (n,) bool: tokens that touch a span of the response; None without spans


@dataclass(frozen=True, kw_only=True)
class PlacedImage:
    """A picture and where its tiles' placeholder runs stand."""

    picture: Picture
    spec: ImageSpec
    node: int
    starts: tuple[int, ...]  # index in the node's ids of each tile's first placeholder, tile by tile
    distortion: Distortion | None = None
    tiles: np.ndarray | None = None  # (T, 3, P, P) uint8 once decoded
    features: torch.Tensor | None = None  # (T, ...) what a cache keeps of them, instead of tiles

    @cached_property
    def key(self) -> str:
        """Equal keys have equal pixels."""
        return fingerprint(self.picture.key, self.spec, self.distortion)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A token tree: nodes in order (parents first), which of them are responses, and the pictures they need."""

    id: str
    source: str
    nodes: tuple[Node, ...]
    responses: tuple[tuple[int, ResponseKind], ...]  # (node, kind)
    images: tuple[PlacedImage, ...] = ()
    changes: tuple[str, ...] = ()  # what the length policy did
    distorted: frozenset[int] = frozenset()  # responses (their numbers) whose pictures are spoilt

    @cached_property
    def key(self) -> str:
        """Equal keys have equal log-probs under equal weights: the tree's tokens and its pictures."""
        nodes = [(node.parent, node.ids.tobytes()) for node in self.nodes]
        return fingerprint(nodes, self.responses, [(image.key, image.node, image.starts) for image in self.images])

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole tree, which is what it takes of a row."""
        return sum(len(node.ids) for node in self.nodes)

    @property
    def depth(self) -> int:
        """Tokens of the longest path from the root: the largest position plus one."""
        ends: list[int] = []
        for node in self.nodes:
            ends.append(len(node.ids) + (ends[node.parent] if node.parent >= 0 else 0))
        return max(ends, default=0)


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """A checkpoint's tokenizer, chat format and picture rules. Made by `processor.load_renderer`."""

    tokenizer: Tokenizer = field(repr=False)
    chat: ChatFormat
    context: int  # positions the model has
    images: ImageSpec | None = None  # None for text-only models
    video: VideoSection = field(default_factory=VideoSection)  # which frames of a video are seen, and how
    frames: FrameCache | None = None  # where chosen frames are kept
    image_tokens: int = 0  # S: placeholders a tile
    max_tiles: int | None = None  # of an example's pictures; one with more is refused
    row_tokens: int = 8192  # tokens a packed row has; a tree must fit
    _ids: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)

    # --- record -> example ---------------------------------------------------------------------------------------

    def render(self, record: Record, *, reserve: int = 0) -> Example:
        """Render a record within the context and the row, by the length policy.

        Args:
            record: the prompt and its responses; without responses the tree is the prompt alone.
            reserve: positions to leave free after the prompt, for tokens to be generated.

        Raises:
            DataError: an empty answer, a control token in a text, a picture that cannot be read, too many tiles, or
                nothing left to cut.
        """
        self._check(record)
        changes: list[str] = []
        spec, frames = self.images, self.video.max_frames
        messages = self._with_frames(record.messages, frames)
        pictures = self._open(record, messages)
        example = self._lay_out(record, messages, pictures, spec)
        self._refuse_tiles(example, record.name)
        excess = self._excess(example, reserve)
        before = after = sum(len(image.starts) for image in example.images)
        while excess > 0 and any(picture.split for picture in pictures) and spec is not None:
            smaller = fewer_tiles(spec)
            if smaller is None:
                break
            spec = smaller
            example = self._lay_out(record, messages, pictures, spec)
            excess = self._excess(example, reserve)
            after = sum(len(image.starts) for image in example.images)
        if before != after:
            changes.append(f"fewer tiles: {before} -> {after}")
        before = frames = self._longest(record, frames) if excess > 0 else 0
        while excess > 0 and frames > 1:
            frames = max(1, frames - math.ceil(excess / (len(record.videos) * (self.image_tokens + FRAME_TOKENS))))
            messages = self._with_frames(record.messages, frames)
            pictures = self._open(record, messages)
            example = self._lay_out(record, messages, pictures, spec)
            excess = self._excess(example, reserve)
        if before != frames:
            changes.append(f"fewer frames: {before} -> {frames}")
        cut = 0
        while excess > 0:
            messages, removed = self._cut_text(messages, excess)
            if not removed:
                raise DataError(
                    "too long with every picture at one tile and no prompt text left to cut",
                    where=f"{record.name}, {excess} tokens over",
                    mend="shorten the answers or the new tokens, or raise batch.row_tokens within the model's context",
                )
            cut += removed
            example = self._lay_out(record, messages, pictures, spec)
            excess = self._excess(example, reserve)
        if cut:
            changes.append("prompt text cut")
        return replace(example, changes=tuple(changes))

    def decode(self, ids: list[int]) -> str:
        """Text of generated ids, without control tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of a text that ends or begins where the tokenizer splits anyway. Short texts are remembered."""
        ids = self._ids.get(text)
        if ids is None:
            ids = tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)
            if len(text) < 64 and len(self._ids) < 4096:  # tile marks, turn openings: the same few strings again and again
                self._ids[text] = ids
        return ids

    def tokens_in(self, text: str, spans: tuple[tuple[int, int], ...]) -> np.ndarray:
        """(n,) bool: tokens of a text that hold a character of a span. No character of a span is lost."""
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        return np.array([any(start < b and a < end for start, end in spans) for a, b in offsets], bool)

    def frame_spec(self, spec: ImageSpec) -> ImageSpec:
        """How a frame of a video becomes one tile."""
        return replace(spec, split=False, longest_edge=self.video.longest_edge or spec.longest_edge)

    @cached_property
    def image_id(self) -> int:
        """Id of the `<image>` placeholder, -1 for text-only models."""
        found = self.tokenizer.token_to_id("<image>") if self.images is not None else None
        return -1 if found is None else found

    def picture_pieces(self, grid: Grid) -> list[str | None]:
        """A picture's text in pieces; None stands for one tile's run of placeholders.

        >>> Renderer.picture_pieces(None, Grid(0, 0))
        ['<fake_token_around_image><global-img>', None, '<fake_token_around_image>']
        """
        pieces: list[str | None] = []
        text = ""
        for row in range(1, grid.rows + 1):
            for col in range(1, grid.cols + 1):
                pieces += [f"{text}<fake_token_around_image><row_{row}_col_{col}>", None]
                text = ""
            text = "\n"
        opening = "\n\n" if grid.rows else ""
        return [*pieces, f"{opening}<fake_token_around_image><global-img>", None, "<fake_token_around_image>"]

    # --- parts -----------------------------------------------------------------------------------------------------

    def _with_frames(self, messages: tuple[Message, ...], max_frames: int) -> tuple[Message, ...]:
        """Messages with each video as its frames and the words around them."""
        if not any(isinstance(part, Video) for message in messages for part in message.content):
            return messages
        return tuple(
            replace(m, content=tuple(piece for part in m.content for piece in self._pieces(part, max_frames))) for m in messages
        )

    def _pieces(self, part: Part, max_frames: int) -> tuple[Part, ...]:
        if not isinstance(part, Video):
            return (part,)
        return video_parts(
            part.ref, max_frames=max_frames, fps=self.video.fps, start=part.start, end=part.end, folder_fps=part.folder_fps,
            style=self.video.style, backend=self.video.backend, cache=self.frames,
        )  # fmt: skip

    def _longest(self, record: Record, max_frames: int) -> int:
        """Frames that are seen of the record's longest video."""
        return max((sum(isinstance(p, Media) for p in self._pieces(v, max_frames)) for v in record.videos), default=0)

    def _open(self, record: Record, messages: tuple[Message, ...]) -> tuple[Picture, ...]:
        limit = self._spec(record).max_pixels
        media = (part for message in messages for part in message.content if isinstance(part, Media))
        return tuple(open_picture(one, max_pixels=limit) for one in media)

    def _lay_out(
        self, record: Record, messages: tuple[Message, ...], pictures: tuple[Picture, ...], spec: ImageSpec | None
    ) -> Example:
        """A root for the pictures as they are, and one for each way of spoiling them that a response asks for."""
        tree = _TreeBuilder(self, spec)
        for distortion in dict.fromkeys((None, *(response.distortion for response in record.responses))):
            prompt = self._lay_out_prompt(tree, record, messages, pictures, distortion)
            for response in record.responses:
                if response.distortion == distortion:
                    text = self.chat.answer(response.text, closes=response.closes)
                    tree.response(text, response.kind, parent=prompt, spans=self._shifted(response))
        return Example(
            id=record.id,
            source=record.source,
            nodes=tuple(tree.nodes),
            responses=tuple(tree.responses),
            images=tuple(tree.images),
            distorted=frozenset(tree.distorted),
        )

    def _shifted(self, response: Response) -> tuple[tuple[int, int], ...]:
        """Spans of a response's text as spans of what is laid out for it."""
        lead = len(self.chat.lead)
        return tuple((start + lead, end + lead) for start, end in response.spans)

    def _lay_out_prompt(
        self,
        tree: _TreeBuilder,
        record: Record,
        messages: tuple[Message, ...],
        pictures: tuple[Picture, ...],
        distortion: Distortion | None,
    ) -> int:
        """Lay out the conversation as a new root; its last node's index."""
        tree.begin(iter(pictures), distortion)
        tree.text(self.chat.begin)
        for message in self.chat.messages(messages):
            tree.text(self.chat.open_turn(message.role))
            if message.train:
                tree.response(self.chat.answer(_text_of(message, record.name)), "target")
            else:
                for part in self.chat.content(message.content):
                    tree.text(part) if isinstance(part, str) else tree.picture()
                tree.text(self.chat.close)
            tree.text(self.chat.after)
        tree.text(self.chat.open_turn("assistant"))
        return tree.close_node()

    def _excess(self, example: Example, reserve: int) -> int:
        over_context = example.depth + reserve - self.context
        over_row = example.num_tokens - self.row_tokens
        return max(over_context, over_row)

    def _refuse_tiles(self, example: Example, name: str) -> None:
        """Too many tiles of pictures, before any are given up for length; spoilt pictures and frames of videos do not count."""
        plain = (image for image in example.images if image.picture.split and image.distortion is None)
        tiles = sum(len(image.starts) for image in plain)
        if self.max_tiles is not None and tiles > self.max_tiles:
            mend = "raise it, lower images.longest_edge, or bring fewer pictures an example"
            raise DataError(MANY_TILES, where=f"{name}, {tiles} of at most {self.max_tiles}", mend=mend)

    def _check(self, record: Record) -> None:
        if not (record.media or record.videos) and any(response.distortion for response in record.responses):
            raise DataError(
                "no picture to spoil", where=record.name, mend="use rows with pictures, or leave objective.picture out"
            )
        texts = ["".join(map(_text_or_break, message.content)) for message in record.messages]
        trained = [_text_of(message, record.name) for message in record.messages if message.train]
        trained += [response.text for response in record.responses]
        if not all(text.strip() for text in trained):
            raise DataError("empty answer", where=record.name, mend="remove the row or give it an answer")
        for text in (*texts, *trained):
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise DataError("a text that is not Unicode (half of a surrogate pair)", where=record.name, mend="mend the text")
            if found := self._control_tokens.search(text):
                raise DataError(
                    f"the text holds the control token {found.group()}",
                    where=record.name,
                    mend="remove it from the text; pictures go into content parts or the images column",
                )

    def _spec(self, record: Record) -> ImageSpec:
        if self.images is None:
            if record.media or record.videos:
                raise DataError("a picture or video for a text-only model", where=record.name, mend="use a SmolVLM checkpoint")
            return ImageSpec(tile=1, longest_edge=1)
        return self.images

    @cached_property
    def _control_tokens(self) -> re.Pattern[str]:
        added = [token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special]
        return re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or r"(?!)")

    def _cut_text(self, messages: tuple[Message, ...], excess: int) -> tuple[tuple[Message, ...], int]:
        """Take `excess` tokens (and those of the mark) out of the middle of the prompt's longest text."""
        places = [
            (len(self.encode(part)), i, j)
            for i, message in enumerate(messages)
            for j, part in enumerate(message.content)
            if isinstance(part, str) and not message.train
        ]
        length, i, j = max(places, default=(0, 0, 0))
        remove = min(excess + len(self.encode(CUT)) + 1, length - 2)  # what is still too much, the next text gives
        if remove <= len(self.encode(CUT)) + 1:
            return messages, 0
        text = messages[i].content[j]
        assert isinstance(text, str)
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        first = (length - remove) // 2
        shorter = text[: offsets[first][0]].rstrip() + CUT + text[offsets[first + remove - 1][1] :].lstrip()
        content = (*messages[i].content[:j], shorter, *messages[i].content[j + 1 :])
        return (*messages[:i], replace(messages[i], content=content), *messages[i + 1 :]), remove


class _TreeBuilder:
    """Collects pieces into nodes. Text that no control token separates is tokenised in one piece."""

    def __init__(self, renderer: Renderer, spec: ImageSpec | None) -> None:
        self.renderer, self.spec = renderer, spec
        self.nodes: list[Node] = []
        self.responses: list[tuple[int, ResponseKind]] = []
        self.distorted: list[int] = []  # numbers of responses with spoilt pictures
        self.images: list[PlacedImage] = []
        self.ids: list[int] = []
        self.pending = ""  # text not yet tokenised

    def begin(self, pictures: Iterator[Picture], distortion: Distortion | None) -> None:
        """Start a root."""
        self.pictures, self.distortion, self.parent = pictures, distortion, -1

    def text(self, text: str) -> None:
        self.pending += text

    def picture(self) -> None:
        assert self.spec is not None
        picture, starts = next(self.pictures), []
        spec = own_spec(picture, self.spec) if picture.split else self.renderer.frame_spec(self.spec)
        for piece in self.renderer.picture_pieces(tile_grid(picture.width, picture.height, spec)):
            if piece is not None:
                self.pending += piece
                continue
            self._tokenise()
            starts.append(len(self.ids))
            self.ids += [self.renderer.image_id] * self.renderer.image_tokens
        self.images.append(
            PlacedImage(picture=picture, spec=spec, node=len(self.nodes), starts=tuple(starts), distortion=self.distortion)
        )

    def response(
        self, text: str, kind: ResponseKind, *, parent: int | None = None, spans: tuple[tuple[int, int], ...] = ()
    ) -> None:
        """A trained node: after the open one in a chat, or a branch of `parent`. Spans are character ranges of `text`."""
        parent = self.close_node() if parent is None else parent
        ids = np.array(self.renderer.encode(text), np.int64)
        corrected = self.renderer.tokens_in(text, spans) if spans else None
        self.parent = len(self.nodes)
        if self.distortion is not None:
            self.distorted.append(len(self.responses))
        self.responses.append((self.parent, kind))
        self.nodes.append(Node(parent=parent, ids=ids, weights=np.ones(len(ids), np.float32), corrected=corrected))

    def close_node(self) -> int:
        """End the open context node; returns its index, or the last node's when nothing is open."""
        self._tokenise()
        if self.ids:
            ids = np.array(self.ids, np.int64)
            self.nodes.append(Node(parent=self.parent, ids=ids, weights=np.zeros(len(ids), np.float32)))
            self.parent, self.ids = len(self.nodes) - 1, []
        return self.parent

    def _tokenise(self) -> None:
        if self.pending:
            self.ids += self.renderer.encode(self.pending)
            self.pending = ""


def _text_or_break(part: Part) -> str:
    """Parts are joined before they are tokenised; a picture stands between them."""
    return part if isinstance(part, str) else "\n"


def _text_of(message: Message, name: str) -> str:
    if any(not isinstance(part, str) for part in message.content):
        raise DataError("a picture in an assistant's turn", where=name, mend="pictures and videos belong to the user's turns")
    return "".join(part for part in message.content if isinstance(part, str))
