"""The ecosystem's usual row shapes -> Record. One function a shape; `record` finds the one that fits.

    {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}
    {"prompt": "..." or messages, "completion": "..." or messages}
    {"prompt": "...", "completion": "...", "label": true}                 one answer that is good (true) or bad (false)
    {"prompt" or "messages": ..., "chosen": ..., "rejected": ...}          also chosen / rejected that repeat the prompt
    {"question": "...", "chosen": "...", "rejected": "..."}               and what `preferences.py` brings into this form
    {"image": "a.jpg", "captions": ["...", "..."]}                        or "caption" or "text": "..."
    {"image": "a.jpg", "question": "...", "answer": "..."}
    {"video": "a.mp4", "question": "...", "answer": "..."}                and a video where any of these has a picture

Pictures stand in content parts ({"type": "image", "image": ...}) or in a column (`image`, `images`, `file_name`, `file`,
`image_path`), videos in parts ({"type": "video", "video": "a.mp4", "video_start": 2.5, "video_end": 10}) or in a column (`video`,
`videos`, `video_path`), a video file or a folder of frames each. Placeholders (`<image>`, `<video>`, parts without a path) take
the columns' pictures and videos in order, and without any they open the first user turn; in a row that has videos only, `<image>`
stands for a video, as LLaVA writes it. Columns `video_start` and `video_end`, or `start` and `end`, cut a row's one video, in
seconds.
`chosen_spans` and `rejected_spans` may name corrected characters of an answer: [[0, 5], [9, 14]].
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL.Image import Image

from smolforge.data.sources.preferences import pair_columns
from smolforge.errors import DataError
from smolforge.records import Media, Message, Part, Record, Response, ResponseKind, Video

CAPTION_PROMPT = "Give a concise caption."
VIDEO_PROMPT = "Describe the video."
IMAGE_COLUMNS = ("images", "image", "file_name", "file", "image_path")
VIDEO_COLUMNS = ("videos", "video", "video_path")
CUTS = (("video_start", "video_end"), ("start", "end"))
CAPTION_COLUMNS = ("captions", "caption", "text")
PAIR: tuple[ResponseKind, ...] = ("chosen", "rejected")
LABELS: dict[str, ResponseKind] = {"true": "chosen", "false": "rejected"}  # in CSV they are words
ROLES = {"human": "user", "gpt": "assistant"} | {role: role for role in ("system", "user", "assistant")}


def record(row: dict[str, Any], *, id: str, source: str, base: Path | None = None, prompt: str | None = None) -> Record:
    """Row -> Record, by the columns it has.

    Args:
        base: folder that relative paths of pictures and videos start from.
        prompt: instruction for pictures or videos with captions.

    Raises:
        DataError: no known shape, or a malformed one.
    """
    row = pair_columns(row)
    column = next((column for column in IMAGE_COLUMNS if _given(row.get(column))), None)
    pictures = [media(value, base) for value in _listed(row[column])] if column else []
    videos = _videos(row, base)
    has = {column for column, value in row.items() if value is not None}
    if has & {"chosen", "rejected"}:
        messages, responses = _pair(row, base)
    elif "messages" in has or "conversations" in has:
        messages, responses = _chat(row.get("messages") or row["conversations"], base)
    elif {"prompt", "completion"} <= has:
        messages = _messages(row["prompt"], base, "prompt")
        answer = _continuation(row["completion"], base, "completion")[1]
        responses = (Response(text=answer, kind=_kind(row.get("label"))),)
    elif {"question", "answer"} <= has:
        messages = (Message(role="user", content=(_words(row["question"], "question"),)),)
        responses = tuple(Response(text=_words(answer, "answer")) for answer in _listed(row["answer"]))
    elif (pictures or videos) and (words := next((name for name in CAPTION_COLUMNS if name in has), None)):
        captions = row[words]
        messages = (Message(role="user", content=(prompt or (CAPTION_PROMPT if pictures else VIDEO_PROMPT),)),)
        responses = tuple(Response(text=_words(caption, "caption").strip()) for caption in _listed(captions))
    else:
        shapes = "messages, prompt + completion, prompt + chosen + rejected; image or video + captions or question, answer"
        mend = f"it has {', '.join(sorted(has)) or 'none'}; bring {shapes}"
        raise DataError("columns that fit no known shape", mend=mend)
    if not responses:
        raise DataError("no answer", mend="remove the row or give it an answer")
    messages = _placed(messages, pictures, videos)
    return Record(id=str(row["id"]) if "id" in has else id, source=source, messages=messages, responses=responses)


def _chat(turns: Any, base: Path | None) -> tuple[tuple[Message, ...], tuple[Response, ...]]:
    """Every assistant turn is a target; the last one is the response."""
    *messages, last = _messages(turns, base, "conversation") or (Message(role="user", content=()),)
    if last.role != "assistant":
        raise DataError("the conversation does not end with the assistant", mend="add the answer that it should learn")
    trained = (Message(role=m.role, content=m.content, train=m.role == "assistant") for m in messages)
    return tuple(trained), (Response(text=_text(last.content)),)


def _pair(row: dict[str, Any], base: Path | None) -> tuple[tuple[Message, ...], tuple[Response, ...]]:
    """The prompt stands in a column of its own, or before the answers in `chosen` and `rejected`, or in both and agrees."""
    prompt = next((row[name] for name in ("prompt", "messages", "conversations", "question") if row.get(name)), None)
    messages = _messages(prompt, base, "prompt") if prompt else ()
    responses = []
    for kind in PAIR:
        if row.get(kind) is None:
            mend = "give both answers, or single ones as prompt, completion and label (true or false)"
            raise DataError(f"a pair without {kind}", mend=mend)
        before, text = _continuation(row[kind], base, f"{kind} answer")
        if messages and before and _bare(before) != _bare(messages):
            raise DataError("chosen and rejected answer different prompts", mend="give pairs that share their prompt")
        messages = messages or before
        responses.append(Response(text=text, kind=kind, spans=_spans(row.get(f"{kind}_spans"), len(text))))
    if not messages:
        raise DataError("chosen and rejected without a prompt", mend="add a prompt column")
    return messages, tuple(responses)


def _bare(messages: tuple[Message, ...]) -> list[tuple[str, list[Part]]]:
    return [(m.role, [part.strip() if isinstance(part, str) else part for part in m.content]) for m in messages]


def _kind(label: Any) -> ResponseKind:
    """Of a single answer: a target, or with a label chosen or rejected (KTO)."""
    if label is None:
        return "target"
    if str(label).lower() not in LABELS:
        mend = f"mend {label!r}, or rename the column if it means another thing"
        raise DataError("a label that is neither true nor false", mend=mend)
    return LABELS[str(label).lower()]


def _spans(value: Any, length: int) -> tuple[tuple[int, int], ...]:
    """Character ranges [start, end) of an answer with `length` characters."""
    for span in _listed(value):
        whole = isinstance(span, list | tuple) and len(span) == 2 and all(type(place) is int for place in span)
        if not (whole and 0 <= span[0] < span[1] <= length):
            mend = f"mend {span!r}: whole numbers with 0 <= start < end <= {length}, the answer's characters"
            raise DataError("a span that is not part of its answer", mend=mend)
    return tuple((start, end) for start, end in _listed(value))


def _messages(value: Any, base: Path | None, what: str) -> tuple[Message, ...]:
    """Turns, or a user's text; `what` they are, for messages."""
    if isinstance(value, str):
        return (Message(role="user", content=tuple(_parts(value, base))),)
    messages = []
    for turn in _listed(value):
        if not isinstance(turn, dict):
            given = ("a list of " if isinstance(value, list | tuple) else "") + type(turn).__name__
            raise DataError(f"a {what} given as {given}", mend="give it as text or messages")
        role = turn.get("role") or turn.get("from")
        if role not in ROLES:
            raise DataError("a turn with an unknown role", mend=f"mend {role!r}: roles are {', '.join(ROLES)}")
        content = turn.get("content") if "content" in turn else turn.get("value")
        spoken = ROLES[role] == "assistant" and isinstance(content, str) and not _MARKED_LINE.search(content)
        parts = (content,) if spoken else tuple(_parts(content, base))
        messages.append(Message(role=ROLES[role], content=parts))  # type: ignore[arg-type]
    return tuple(messages)


PLACEHOLDER = Media(ref="<placeholder>")  # an image part without a picture: the next of the column
VIDEO_PLACEHOLDER = Video(ref=b"<placeholder>")  # the same for videos
PLACEHOLDERS: dict[str, Part] = {"<image>": PLACEHOLDER, "<video>": VIDEO_PLACEHOLDER}
_MARKS = re.compile("(<image>|<video>)")
_MARKED_LINE = re.compile(r"(?m)^\s*(<image>|<video>)\s*$")  # in an answer other marks are words: it speaks of HTML, say


def _parts(content: Any, base: Path | None) -> Iterable[Part]:
    if isinstance(content, str):
        pieces = _MARKS.split(content)
        for piece in pieces:
            if piece in PLACEHOLDERS:
                yield PLACEHOLDERS[piece]
            elif piece.strip() or len(pieces) == 1:
                yield piece.strip("\n") if len(pieces) > 1 else piece
        return
    for part in _listed(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            yield _words(part.get("text"), "text part")
        elif kind in ("image", "image_url"):
            value = next((part[key] for key in ("image", "path", "url", "image_url") if _given(part.get(key))), None)
            value = value["url"] if kind == "image_url" and isinstance(value, dict) else value
            yield PLACEHOLDER if value is None else media(value, base)
        elif kind == "video":
            value = next((part[key] for key in ("video", "path", "url") if _given(part.get(key))), None)
            yield VIDEO_PLACEHOLDER if value is None else video(value, base, *_cut(part))
        else:
            raise DataError("a content part of an unknown type", mend=f"mend {kind!r}: parts are text, image and video")


def _placed(messages: tuple[Message, ...], pictures: list[Media], videos: list[Video]) -> tuple[Message, ...]:
    """The messages with the columns' pictures and videos in the places of the placeholders."""
    slots = [part for message in messages for part in message.content if part is PLACEHOLDER or part is VIDEO_PLACEHOLDER]
    if not slots and (pictures or videos):
        first = next((n for n, message in enumerate(messages) if message.role == "user"), None)
        if first is None:
            raise DataError(f"a {'picture' if pictures else 'video'} but no user turn to stand in", mend="add a user turn")
        turn = Message(role="user", content=(*pictures, *videos, *messages[first].content))
        return (*messages[:first], turn, *messages[first + 1 :])
    film = videos and not pictures  # LLaVA writes <image> for videos too
    wanted = ["video" if film or part is VIDEO_PLACEHOLDER else "image" for part in slots]
    for kind, found, name in (("image", pictures, "pictures"), ("video", videos, "videos")):
        if wanted.count(kind) != len(found):
            mend = f"{wanted.count(kind)} {kind} placeholders for {len(found)} {name}: make the two counts equal"
            raise DataError(f"not as many {kind} placeholders as {name}", mend=mend)
    columns: dict[str, Iterator[Part]] = {"image": iter(pictures), "video": iter(videos)}
    filling = iter(wanted)

    def filled(part: Part) -> Part:
        return next(columns[next(filling)]) if part is PLACEHOLDER or part is VIDEO_PLACEHOLDER else part

    return tuple(Message(role=m.role, content=tuple(filled(part) for part in m.content), train=m.train) for m in messages)


def _videos(row: dict[str, Any], base: Path | None) -> list[Video]:
    """Videos of a row's column, the only one cut where the row says."""
    column = next((column for column in VIDEO_COLUMNS if _given(row.get(column))), None)
    values = _listed(row[column]) if column else []
    return [video(value, base, *(_cut(row) if len(values) == 1 else (None, None))) for value in values]


def _cut(row: dict[str, Any]) -> tuple[float | None, float | None]:
    """Where a video begins and ends, in seconds.

    >>> _cut({"video_start": 2, "video_end": None})
    (2.0, None)
    """
    names = next((names for names in CUTS if any(row.get(name) is not None for name in names)), None)
    if names is None:
        return None, None
    start, end = (row.get(name) for name in names)
    for value in (start, end):
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool) or value < 0):
            mend = f"mend {value!r}: give {' and '.join(names)} as seconds"
            raise DataError("a start or end of a video that is no time", mend=mend)
    if start is not None and end is not None and start >= end:
        raise DataError("a video that ends before it begins", mend=f"give {names[0]} ({start}) below {names[1]} ({end})")
    return None if start is None else float(start), None if end is None else float(end)


def _given(value: Any) -> bool:
    """Whether a row has a picture or video there: text-only rows of LLaVA's kind have an empty path or list.

    >>> _given("a.jpg"), _given(" "), _given(None), _given([])
    (True, False, False, False)
    """
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and not (isinstance(value, list | tuple) and not value)


def _words(value: Any, what: str) -> str:
    """A text as rows give it, or a number: anything else would be learnt as Python spells it.

    >>> _words("a dog", "answer"), _words(3, "answer"), _words(2.5, "answer")
    ('a dog', '3', '2.5')
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, int | float) or not math.isfinite(value):
        given = "nothing" if value is None else value if isinstance(value, float) else type(value).__name__
        raise DataError(f"{'an' if what[0] in 'aeiou' else 'a'} {what} given as {given}", mend="give it as text")
    return str(value)


def _path(value: str, base: Path | None, what: str) -> Path:
    """A path as a row gives it. The folder of the rows itself is no video, though it may hold pictures that look like frames."""
    path = Path(value).expanduser()
    if not value.strip() or path == Path():
        raise DataError(f"a {what} with an empty path", mend="give its path, or leave it out")
    return path if path.is_absolute() or base is None else base / path


def media(value: Any, base: Path | None) -> Media:
    """A picture as rows give it: path (from `base`), address, bytes, `datasets`' dict, decoded, or a function that gives one."""
    if isinstance(value, dict):  # `datasets` leaves undecoded pictures as {"bytes": .., "path": ..}
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and not value.startswith(("http://", "https://", "data:")):
        return Media(ref=_path(value, base, "picture"))
    if not isinstance(value, str | bytes | Image) and not callable(value):
        raise DataError(f"a picture given as {type(value).__name__}", mend="give a path, an address or the file's bytes")
    return Media(ref=value)


def video(value: Any, base: Path | None, start: float | None = None, end: float | None = None) -> Video:
    """A video as rows give it: path of a file or of a folder of frames (from `base`), bytes, `datasets`' dict, or frames that are
    drawn on demand; from `start` to `end` in seconds."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and re.match(r"(https?|data):", value):
        raise DataError("a video given as an address", mend="download it and give its path")
    if isinstance(value, str):
        value = _path(value, base, "video")
    if not isinstance(value, Path | bytes) and not hasattr(value, "frame"):
        raise DataError(f"a video given as {type(value).__name__}", mend="give a path or the file's bytes")
    return Video(ref=value, start=start, end=end)


def _continuation(value: Any, base: Path | None, what: str) -> tuple[tuple[Message, ...], str]:
    """An answer: a string, or messages whose last is the assistant's. Returns the turns before it, and its text."""
    if isinstance(value, str):
        return (), value
    messages = _messages(value, base, what)
    if not messages or messages[-1].role != "assistant":
        raise DataError("a completion that does not end with the assistant", mend="end it with an assistant turn")
    return messages[:-1], _text(messages[-1].content)


def _text(content: tuple[Part, ...]) -> str:
    for part in content:
        if not isinstance(part, str):
            what = "picture" if isinstance(part, Media) else "video"
            raise DataError(f"a {what} in an assistant's turn", mend=f"{what}s belong to the user's turns")
    return "".join(part for part in content if isinstance(part, str))


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
