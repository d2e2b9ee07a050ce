"""A set of which a fifth of the rows is bad: the run ends, counts each of them and learns from the rest."""

from __future__ import annotations

import io
import json
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from smolforge.data.pipeline import open_stream
from smolforge.data.processor import load_renderer
from smolforge.data.sources.scenes import scene
from smolforge.recipe import parse_recipe
from smolforge.training.chores import about_data
from smolforge.training.loop import train


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 40,000 x 40,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def clip(frames: int = 12) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 96
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = av.VideoFrame.from_image(scene(0, number % 5).draw())
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def sound() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000)
        samples = np.zeros((1, 16_000), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def odd_but_good() -> dict[str, bytes]:
    """Files that other loaders stumble over."""
    drawn = [scene(0, number).draw() for number in range(6)]
    grey = (np.arange(96 * 96).reshape(96, 96) * 7).astype(np.uint16)
    alpha = drawn[2].convert("RGBA")
    alpha.putalpha(128)
    return {
        "animated.gif": encoded(drawn[0], "GIF", save_all=True, append_images=drawn[1:3]),
        "cmyk.jpg": encoded(drawn[1].convert("CMYK"), "JPEG"),
        "deep.png": encoded(Image.fromarray(grey), "PNG"),
        "alpha.png": encoded(alpha, "PNG"),
        "palette.png": encoded(drawn[3].convert("P"), "PNG", transparency=0),
        "mislabelled.jpg": encoded(drawn[4], "PNG"),
        "small.png": encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
        "narrow.png": encoded(Image.new("RGB", (300, 2), "red"), "PNG"),
    }


def bad() -> list[tuple[dict, bytes, str]]:
    """(row, content of the file it names, how the reason begins)."""
    photo, film = encoded(scene(0, 9).draw().resize((400, 400)), "JPEG"), clip()
    asked = {"question": "What?", "answer": "a shape"}
    return [
        ({"image": "truncated.jpg"} | asked, photo[: len(photo) // 2], "damaged picture"),
        ({"image": "empty.jpg"} | asked, b"", "not a picture that can be read"),
        ({"image": "words.jpg"} | asked, b"these are words, no picture", "not a picture that can be read"),
        ({"image": "bomb.png"} | asked, bomb(), "too many pixels"),
        ({"image": "nowhere.png"} | asked, b"", "no such picture"),
        (
            {"image": "fine.png", "question": "What?"},
            encoded(scene(0, 1).draw(), "PNG"),
            "columns that fit no known shape",
        ),
        ({"image": "fine2.png", "question": "What?", "answer": " "}, encoded(scene(0, 2).draw(), "PNG"), "empty answer"),
        ({"video": "truncated.mp4"} | asked, film[: len(film) // 2], "damaged, or not a video"),
        ({"video": "empty.mp4"} | asked, b"", "damaged, or not a video"),
        ({"video": "sound.mp4"} | asked, sound(), "no moving picture in it"),
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fifth_of_the_rows_is_bad(tiny, tmp_path, workers):
    rows, files = [], odd_but_good()
    for name in files:
        rows.append({"image": name, "question": "What is it?", "answer": "a picture", "unknown": {"extra": [1]}, "source": None})
    for number in range(30):
        files[f"{number}.png"] = encoded(scene(0, number).draw(), "PNG")
        rows.append({"image": f"{number}.png", "question": "What is it?", "answer": scene(0, number).caption})
    for number in range(2):
        files[f"{number}.mp4"] = clip(12 + number)
        rows.append({"video": f"{number}.mp4", "question": "What happens?", "answer": "shapes come and go"})
    good = len(rows)
    spoilt = bad()
    for row, content, _ in spoilt:
        rows.append(row)
        files[row.get("image") or row["video"]] = content
    assert len(spoilt) * 5 == len(rows)
    for name, content in files.items():
        if name != "nowhere.png":
            (tmp_path / name).write_bytes(content)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = parse_recipe(
        {
            "model": {"name": str(tiny)},
            "data": [{"source": str(tmp_path / "rows.jsonl")}],
            "images": {"max_pixels": 10_000_000},
            "video": {"max_frames": 3, "longest_edge": 96},
            "batch": {"examples": 10, "row_tokens": 1024},
            "eval": {"examples": 1, "samples": 0},
            "run": {"dir": str(tmp_path / "run"), "epochs": 1, "device": "cpu", "trackers": [], "workers": workers},
        }
    )
    summary = json.loads((train(recipe) / "summary.json").read_text())
    assert summary["steps"] == 5
    assert sum(summary["dropped"].values()) == len(spoilt)
    for _, _, reason in spoilt:
        met = sum(count for said, count in summary["dropped"].items() if said.startswith(reason))
        assert met == sum(other == reason for _, _, other in spoilt), (reason, summary["dropped"])
    learnt = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in learnt].count("train") == 5
    state = json.loads(next((tmp_path / "run" / "checkpoints").iterdir()).joinpath("state.json").read_text())
    assert state["tally"]["examples"] == good


def test_rows_that_lists_leave_out_are_told_and_kept(tiny, tmp_path, capsys):
    """Of ten texts three are on the list, and one of four held out; fewer examples a step than devices is told beside it."""
    for name, count in (("rows", 10), ("held", 4)):
        lines = [{"prompt": f"count to {n}", "completion": "one two three"} for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    places = [("rows", 1), ("rows", 2), ("rows", 9), ("held", 3)]
    listed = [{"source": str(tmp_path / f"{name}.jsonl"), "name": None, "split": "train", "row": row} for name, row in places]
    file = tmp_path / "list.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in listed))
    rows, held = str(tmp_path / "rows.jsonl"), str(tmp_path / "held.jsonl")
    recipe = parse_recipe(
        {
            "model": {"name": str(tiny)},
            "data": [{"source": rows, "exclude": [str(file)], "weight": 1}, {"source": "scenes", "weight": 1}],
            "batch": {"examples": 2, "row_tokens": 256},
            "eval": {"data": [{"source": held, "exclude": [str(file)]}], "samples": 0},
            "run": {"dir": str(tmp_path / "run"), "steps": 1, "device": "cpu", "trackers": [], "workers": 0},
        }
    )
    summary = json.loads((train(recipe) / "summary.json").read_text())
    assert (summary["rows"], summary["left_out"]) == ([7, 100_000], [3, None])
    said = capsys.readouterr().err
    assert f"{rows} 7 rows (3 left out by exclude), scenes 100,000 rows; 1 step of 2 examples" in said
    assert f"held-out: {held} 3 rows (1 left out by exclude)" in said
    assert "devices" not in said
    stream = open_stream(recipe.data, load_renderer(tiny), kinds={"target"}, seed=0)
    told = list(about_data(recipe, stream, stream, steps=1, devices=3))
    assert told[2] == (
        "a step has 2 examples for 3 devices, so 1 of them always has nothing to do; raise batch.examples to 3 or more, or take "
        "2 devices"
    )
