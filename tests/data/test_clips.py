"""Clips whose direction only the order of their frames tells."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest

from smolforge.data.media import open_picture
from smolforge.data.sources.clips import DIRECTIONS, FRAMES, QUESTION, Clip, ClipTable, clip, record
from smolforge.data.video import video_parts
from smolforge.records import Media, Video


def pictures(one: Clip) -> list[bytes]:
    return [one.frame(number).tobytes() for number in range(one.num_frames)]


@pytest.mark.parametrize("index", range(8))
def test_only_order_tells_a_clip_from_its_opposite(index: int) -> None:
    """The same first frame, and the same frames as a multiset, each once; the way back is the way in reverse."""
    there = clip(0, index)
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}[there.direction]
    first, second = pictures(there), pictures(replace(there, direction=opposite))
    assert len(set(first)) == FRAMES
    assert Counter(first) == Counter(second)
    assert first[0] == second[0]
    assert first[1:] == second[:0:-1] != second[1:]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_shapes_move_as_the_answer_says(direction: str) -> None:
    """From the middle, an eighth of the picture a frame: the darkest pixels' centre goes 12 pixels along the line."""
    across, down = DIRECTIONS[direction]
    one = Clip(colour="blue", shape="square", direction=direction, x=48, y=48, radius=10.0, grey=240)
    places = []
    for number in range(3):
        x0, y0, x1, y1 = one.frame(number).convert("L").point(lambda value: 255 * (value < 200)).getbbox()
        places.append(((x0 + x1) / 2, (y0 + y1) / 2))
    assert one.answer == f"a blue square moves {direction}"
    assert places[0] == pytest.approx((48, 48), abs=1)
    for number in (1, 2):
        moved = places[number][0] - places[0][0], places[number][1] - places[0][1]
        assert moved == (12 * number * across, 12 * number * down)


def test_a_shape_is_never_lost_on_its_way() -> None:
    """What leaves at an edge comes in at the other one, so that every frame has as much of it."""
    for index in range(40):
        one = clip(3, index)
        dark = [sum(one.frame(n).convert("L").point(lambda value: value < 210).tobytes()) for n in range(FRAMES)]
        assert max(dark) - min(dark) <= 0.15 * max(dark), one


def test_splits_share_no_line_and_go_every_way_equally_often() -> None:
    train, test = ([clip(0, index, split) for index in range(400)] for split in ("train", "test"))
    assert not {one.line for one in train} & {one.line for one in test}
    assert Counter(one.direction for one in test) == dict.fromkeys(DIRECTIONS, 100)
    bags = [frozenset(pictures(one)) for one in test[:20]]
    assert not any(first & second for first, second in combinations(bags, 2))
    assert clip(0, 7) == clip(0, 7) != clip(1, 7)


def test_a_row_is_a_record_with_a_film() -> None:
    table = ClipTable(rows=10, split="test")
    assert len(table) == 10
    row = table[3]
    assert set(row) == {"video", "question", "answer"}
    one = record(row, id="3", source="clips", prompt=None)
    assert one.messages[0].content == (Video(ref=row["video"]), QUESTION)
    assert one.responses[0].text == row["answer"] == row["video"].answer
    assert record(row, id="3", source="clips", prompt="Where to?").messages[0].content[1] == "Where to?"
    assert pickle.loads(pickle.dumps(row["video"])) == row["video"]  # rows go to processes that prepare pictures


def test_its_frames_are_pictures_in_order() -> None:
    """At one frame a second all eight are seen, each with a name that only it has."""
    one = clip(0, 5)
    frames = [part for part in video_parts(one) if isinstance(part, Media)]
    opened = [open_picture(frame) for frame in frames]
    assert [picture.pixels().tobytes() for picture in opened] == pictures(one)
    assert {(picture.width, picture.height) for picture in opened} == {(96, 96)}
    assert len({picture.key for picture in opened} | {open_picture(f).key for f in video_parts(clip(0, 9))[1::2]}) == 16
    texts = [part for part in video_parts(one) if isinstance(part, str)]
    assert texts[0].startswith("You are provided the following series of eight frames from a 0:00:08 [H:MM:SS] video.")
    assert [text[-6:-1] for text in texts[:-1]] == [f"00:0{second}" for second in range(8)]
