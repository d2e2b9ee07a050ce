"""What a person can watch while a run goes on: answers with their pictures, in files and in TensorBoard."""

from __future__ import annotations

import json

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smolforge.training.loop import train


def test_answers_on_the_way(make_recipe):
    """Words at step 0, at each measurement and at the end; pictures once; the weights as without looking."""
    asked = dict(run__steps=4, run__eval_every=2, eval__samples=2, eval__max_new_tokens=5)
    folder = train(make_recipe(**asked, run__trackers="[tensorboard]"))
    files = sorted(path.name for path in (folder / "samples").glob("*.jsonl"))
    assert files == ["after.jsonl", "before.jsonl", "step-2.jsonl"]
    lines = [json.loads(line) for line in (folder / "samples" / "step-2.jsonl").read_text().splitlines()]
    assert [line["tokens"] <= 5 for line in lines] == [True, True]
    (events,) = [path for path in folder.rglob("events.out.tfevents.*") if path.parent.name == "smolforge"]
    board = EventAccumulator(str(events), size_guidance={"tensors": 0, "images": 0}).Reload()
    assert board.Tags()["images"] == ["samples/0.0", "samples/1.0"]
    assert [event.step for event in board.Images("samples/0.0")] == [0]
    words = board.Tensors("samples/1/text_summary")
    assert [event.step for event in words] == [0, 2, 4]
    assert lines[1]["answer"] in words[1].tensor_proto.string_val[0].decode()


def test_looking_changes_nothing(make_recipe, tmp_path):
    """The same losses with samples on the way and without."""

    def losses(**overrides):
        folder = train(make_recipe(run__steps=4, run__dir=str(tmp_path / str(len(overrides))), **overrides))
        entries = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [entry["loss"] for entry in entries if entry["kind"] == "train"]

    assert losses() == losses(run__eval_every=2, eval__samples=2, eval__max_new_tokens=5)
