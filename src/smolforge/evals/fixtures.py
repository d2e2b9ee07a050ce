"""A few drawn rows of each task, in the benchmark's own layout: to try a task where its data are not, and to test it.

What they say is made up; a score on them says nothing about a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from smolforge.data.sources.scenes import COLOURS, false_caption, scene
from smolforge.evals.benchmarks.mvbench import VIDEOS

PICTURES = 3
SIZE = 96  # edge of a video's frames, in pixels
RATE = 4  # frames a second
SECONDS = 3


def write_fixture(folder: Path, task: str) -> None:
    """Write a task's rows into a folder, as `--data` takes it."""
    folder.mkdir(parents=True, exist_ok=True)
    FIXTURES[task](folder)


def _pictures(folder: Path) -> list[str]:
    """Drawn pictures as files; their names."""
    names = [f"{number}.png" for number in range(PICTURES)]
    for number, name in enumerate(names):
        scene(0, number, "test").draw().save(folder / name)
    return names


def _table(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    lines = (json.dumps(row) for row in rows)
    (folder / "metadata.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _asked(folder: Path) -> list[tuple[str, str, str]]:
    """(picture, question, answer), three about each picture."""
    found = []
    for number, name in enumerate(_pictures(folder)):
        thing = scene(0, number, "test").things[0]
        found += [
            (name, "What colour is the first shape?", thing.colour), (name, "What is the first shape?", thing.shape),
            (name, "How many shapes are there?", str(len(scene(0, number, "test").things))),
        ]  # fmt: skip
    return found


def _docvqa(folder: Path) -> None:
    _table(
        folder,
        (
            {"questionId": number, "question": question, "image": name, "answers": [answer, f"{answer}."]}
            for number, (name, question, answer) in enumerate(_asked(folder))
        ),
    )


def _textvqa(folder: Path) -> None:
    _table(
        folder,
        (
            {"question_id": number, "question": question, "image": name, "answers": [answer] * 7 + ["none"] * 3}
            for number, (name, question, answer) in enumerate(_asked(folder))
        ),
    )


def _chartqa(folder: Path) -> None:
    _table(
        folder,
        (
            {"type": "human_test" if number % 2 else "augmented_test", "question": question, "image": name, "answer": answer}
            for number, (name, question, answer) in enumerate(_asked(folder))
        ),
    )


def _pope(folder: Path) -> None:
    rows = []
    for number, name in enumerate(_pictures(folder)):
        there = {thing.shape for thing in scene(0, number, "test").things}
        for category in ("random", "popular", "adversarial"):
            for place, shape in enumerate(("circle", "star", "square")):
                rows.append(
                    {
                        "question_id": str(number * 3 + place), "question": f"Is there a {shape} in the image?", "image": name,
                        "answer": "yes" if shape in there else "no", "category": category,
                    }
                )  # fmt: skip
    _table(folder, rows)


def _coco_caption(folder: Path) -> None:
    rows = []
    for number, name in enumerate(_pictures(folder)):
        caption = scene(0, number, "test").caption
        rows.append({"image": name, "captions": [caption, f"There is {caption}.", "Some shapes on a plain ground."]})
    _table(folder, rows)


def _chair(folder: Path) -> None:
    truths = (["dog", "couch"], ["cat"], ["person", "car"])
    _table(
        folder,
        ({"image": name, "gt_object": truth, "question_id": name} for name, truth in zip(_pictures(folder), truths, strict=True)),
    )


def _object_halbench(folder: Path) -> None:
    rows = [
        {"image": name, "question": "Describe the picture in detail.", "objects": objects, "captions": []}
        for name, objects in zip(_pictures(folder), (["dog"], ["cat"], ["person"]), strict=True)
    ]
    (folder / "instructions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def _amber(folder: Path) -> None:
    (folder / "image").mkdir(exist_ok=True)
    names = _pictures(folder / "image")
    queries, truths = [], []
    for number, name in enumerate(names, 1):
        queries.append({"id": number, "image": name, "query": "Describe this image."})
        truths.append({"id": number, "type": "generative", "truth": ["sky", "forest"], "hallu": ["cloud", "dog"]})
    kinds = ("discriminative-hallucination", "discriminative-attribute-state", "discriminative-relation")
    for kind in kinds:
        for name, truth in zip(names, ("yes", "no", "yes")):
            number = len(queries) + 1
            queries.append({"id": number, "image": name, "query": "Is there a forest in this image?"})
            truths.append({"id": number, "type": kind, "truth": truth})
    (folder / "query_all.json").write_text(json.dumps(queries), encoding="utf-8")
    (folder / "annotations.json").write_text(json.dumps(truths), encoding="utf-8")


def _mmhal(folder: Path) -> None:
    kinds = ("attribute", "counting", "adversarial")
    _table(
        folder,
        (
            {
                "image": name, "question": "What is in the picture?", "question_type": kind, "question_topic": "shapes",
                "image_id": name, "image_content": ["shapes"], "gt_answer": scene(0, number, "test").caption,
            }
            for number, (name, kind) in enumerate(zip(_pictures(folder), kinds))
        ),
    )  # fmt: skip


def _videomme(folder: Path) -> None:
    rows = []
    for number, duration in enumerate(("short", "medium", "long")):
        colour = _video(folder / "videos" / f"clip{number}.mp4", number)
        options = [f"{letter}. {name}." for letter, name in zip("ABCD", COLOURS)]
        for turn in range(2):
            rows.append(
                {
                    "videoID": f"clip{number}", "question_id": f"{number}-{turn}", "duration": duration, "options": options,
                    "question": ("Which colour moves?", "What colour has the shape?")[turn], "answer": "ABCD"[colour],
                    "task_type": "Object Recognition", "domain": "Knowledge",
                }
            )  # fmt: skip
    _table(folder, rows)


def _mlvu(folder: Path) -> None:
    rows = []
    for number, kind in enumerate(("plotQA", "count", "plotQA", "order")):
        colour = _video(folder / "videos" / f"clip{number}.mp4", number)
        listed = "\n".join(f"({letter}) {name}" for letter, name in zip("ABCD", COLOURS))
        question = f"Which colour moves?\n{listed}"
        rows.append({"video_name": f"clip{number}.mp4", "question": question, "answer": "ABCD"[colour], "task_type": kind})
    _table(folder, rows)


def _mvbench(folder: Path) -> None:
    colours = [_video(folder / "videos" / f"clip{number}.mp4", number) for number in range(2)]
    candidates = list(COLOURS)[:4]
    rows = []
    for place, kind in enumerate(VIDEOS):
        number = place % 2
        cut = {"start": 0.0, "end": 2.0} if kind == "action_sequence" else {}
        rows.append(
            {
                "config": kind, "video": f"clip{number}.mp4", "question": "Which colour moves?", "candidates": candidates,
                "answer": candidates[colours[number]],
            }
            | cut
        )  # fmt: skip
    _table(folder, rows)


def _preference(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number, name in enumerate(_pictures(folder)):
        one = scene(0, number, "test")
        rows.append(
            {"image": name, "prompt": "Describe the picture.", "chosen": one.caption, "rejected": false_caption(one, rng)}
        )
    _table(folder, rows)


def _video(file: Path, number: int) -> int:
    """A square of one colour that moves to the right; which colour of COLOURS it has."""
    import av

    file.parent.mkdir(parents=True, exist_ok=True)
    colour = number % 4
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for place in range(RATE * SECONDS):
            picture = Image.new("RGB", (SIZE, SIZE), (240, 240, 240))
            picture.paste(list(COLOURS.values())[colour], (4 + place * 5, 40, 24 + place * 5, 60))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return colour


FIXTURES: dict[str, Callable[[Path], None]] = {
    "scenes": lambda folder: None,  # drawn in any case
    "clips": lambda folder: None,
    "coco_caption": _coco_caption,
    "docvqa": _docvqa,
    "textvqa": _textvqa,
    "chartqa": _chartqa,
    "pope": _pope,
    "chair": _chair,
    "object_halbench": _object_halbench,
    "amber": _amber,
    "mmhal": _mmhal,
    "videomme": _videomme,
    "mlvu": _mlvu,
    "mvbench": _mvbench,
    "preference": _preference,
}
