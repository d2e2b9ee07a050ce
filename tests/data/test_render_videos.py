"""Videos in records: frames and words as one prompt, fewer frames when they do not fit, never a frame cut."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from smolforge.data.pipeline import prepare
from smolforge.data.processor import load_renderer
from smolforge.data.render import Renderer
from smolforge.errors import DataError
from smolforge.recipe import VideoSection
from smolforge.records import Media, Message, Record, Response, Video


@pytest.fixture
def frames(tmp_path):
    """Twelve frames, 3 a second: four seconds."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (120, 60), (number * 20, 0, 0)).save(folder / f"{number}.png")
    return folder


def asked(*parts) -> Record:
    user = Message(role="user", content=(*parts, "What happens?"))
    return Record(id="0", source="test", messages=(user,), responses=(Response(text="It gets brighter."),))


def words(renderer: Renderer, example) -> str:
    return renderer.tokenizer.decode(example.nodes[0].ids.tolist(), skip_special_tokens=False)


def test_a_video_is_frames_and_their_times(tiny, frames):
    renderer = load_renderer(tiny, video=VideoSection(max_frames=3))
    example = prepare(asked(Video(ref=frames)), renderer)
    assert len(example.images) == 3
    assert all(image.tiles.shape == (1, 3, 96, 96) for image in example.images)
    run = "<fake_token_around_image><global-img>" + "<image>" * 9 + "<fake_token_around_image>"
    said = words(renderer, example)
    assert said.startswith(
        "<|im_start|>User: You are provided the following series of three frames from a 0:00:04 [H:MM:SS] video.\n"
        f"\nFrame from 00:00:{run}\nFrame from 00:01:{run}"
    )
    assert said.endswith(f"{run}\n\nWhat happens?<end_of_utterance>\nAssistant:")
    reds = [int(image.tiles[0, 0].mean()) for image in example.images]
    assert reds == [0, 100, 220]  # frames 0, 5 and 11 of 12


def test_a_clip_of_a_video_and_a_picture_beside_it(tiny, frames):
    renderer = load_renderer(tiny, video=VideoSection(fps=3))
    picture = Media(ref=Image.new("RGB", (50, 50), "blue"))
    example = renderer.render(asked(picture, Video(ref=frames, start=1.0, end=2.0)))
    assert len(example.images) == 1 + 3
    assert "0:00:01 [H:MM:SS]" in words(renderer, example)


def test_frames_are_given_up_before_words(tiny, frames):
    """A frame takes 9 placeholders, 3 marks and its words; a quarter of the room leaves some frames, and the question whole."""
    whole = load_renderer(tiny, video=VideoSection(fps=3)).render(asked(Video(ref=frames)))
    assert len(whole.images) == 12
    renderer = load_renderer(tiny, video=VideoSection(fps=3), row_tokens=whole.num_tokens // 2)
    example = renderer.render(asked(Video(ref=frames)))
    left = len(example.images)
    assert 1 <= left < 12
    assert example.changes == (f"fewer frames: 12 -> {left}",)
    assert words(renderer, example).endswith("What happens?<end_of_utterance>\nAssistant:")
    assert example.num_tokens <= renderer.row_tokens
    more = load_renderer(tiny, video=VideoSection(fps=3, max_frames=left + 3)).render(asked(Video(ref=frames)))
    assert more.num_tokens > renderer.row_tokens  # few could have stayed


def test_what_does_not_fit_at_one_frame_is_refused(tiny, frames):
    renderer = load_renderer(tiny, row_tokens=40)
    with pytest.raises(DataError, match="too long with every picture at one tile"):
        renderer.render(asked(Video(ref=frames)))


def test_the_size_of_frames(tiny_split, frames):
    """The checkpoint's 384 pixels first, or straight to the tile: other pixels, and the same tokens."""
    plain = prepare(asked(Video(ref=frames)), load_renderer(tiny_split, video=VideoSection(max_frames=2)))
    straight = prepare(asked(Video(ref=frames)), load_renderer(tiny_split, video=VideoSection(max_frames=2, longest_edge=96)))
    assert plain.num_tokens == straight.num_tokens
    assert {image.spec.longest_edge for image in plain.images} == {384}
    assert {image.spec.longest_edge for image in straight.images} == {96}
    assert np.abs(plain.images[0].tiles.astype(int) - straight.images[0].tiles).max() <= 2  # plain colours


def test_a_text_model_refuses_a_video(frames, tmp_path):
    from smolforge.tiny import assemble_text

    assemble_text(tmp_path / "text")
    with pytest.raises(DataError, match="a picture or video for a text-only model"):
        load_renderer(tmp_path / "text").render(asked(Video(ref=frames)))
