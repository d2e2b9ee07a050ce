"""A run's adapters as a whole model that says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

import smolforge
from smolforge import merging
from smolforge.cli import main
from smolforge.data.pipeline import prepare
from smolforge.data.sources.scenes import scene
from smolforge.errors import ModelError
from smolforge.loading import load
from smolforge.recipe import parse_recipe
from smolforge.records import Media, Message, Record
from smolforge.training.loop import train


@pytest.fixture(scope="module", params=["lora", "dora"])
def run(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps at a rate that changes answers."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    tree: dict[str, Any] = {
        "model": {"name": str(tiny)},
        "data": [{"source": "scenes"}],
        "adapters": {"method": request.param, "r": 4},
        "optim": {"lr": 0.02, "warmup": 0},
        "batch": {"examples": 4, "row_tokens": 256},
        "run": {"dir": str(folder), "steps": 2, "save_every": 2, "device": "cpu", "trackers": [], "workers": 0},
    }
    return train(parse_recipe(tree))


def test_hugging_face_reads_the_merged_model(run, tiny, tmp_path):
    """Its logits on a picture are those of the model with adapters, and not of the base."""
    merged = smolforge.merge(str(run), tmp_path / "whole")
    assert merged.prompts == ("a text", "a picture")
    assert merged.difference <= merging.TOLERANCE
    assert not list((tmp_path / "whole").glob("adapter*"))
    ours, base = load(str(run), device="cpu"), load(str(tiny), device="cpu")
    question = Record(
        id="0", source="t", responses=(), messages=(Message(role="user", content=(Media(ref=scene(0, 5).draw), "What is it?")),)
    )  # fmt: skip
    example = prepare(question, ours.renderer)
    pixels = (torch.from_numpy(example.images[0].tiles).float() / 255 - 0.5) / 0.5
    inputs = {"input_ids": torch.from_numpy(example.nodes[0].ids)[None], "pixel_values": pixels[None]}
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole", dtype=torch.float32).eval()
    with torch.no_grad():
        expected, found, before = (
            model(**inputs).logits.log_softmax(-1) for model in (ours.model.model, theirs, base.model.model)
        )
    assert (found - expected).abs().max() < merging.TOLERANCE
    assert (before - expected).abs().max() > 0.1, "no case: the adapters change nothing"


def test_in_bfloat16_it_is_as_near_as_the_dtype_allows(run, tmp_path):
    merged = smolforge.merge(str(run), tmp_path / "half", dtype="bfloat16")
    assert load(str(tmp_path / "half"), dtype="bfloat16", device="cpu").model.dtype == torch.bfloat16
    assert 0 < merged.saved <= merging.TOLERANCE + 2 * merged.own


def test_a_merged_model_that_says_something_else_is_not_written(run, tmp_path, monkeypatch):
    """As a merge that forgets an adapter would."""

    def forgets(tree):
        tree.model = tree.adapters.pop().handle.unload()

    monkeypatch.setattr(merging, "merge", forgets)
    with pytest.raises(ModelError, match=r"merging changed log-probs by .* nats; keep the adapters beside the model"):
        smolforge.merge(str(run), tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_what_cannot_be_merged_ends_in_one_line(run, tiny, tmp_path, capsys):
    assert main(["merge", str(tiny), str(tmp_path / "out")]) == 1
    assert "holds no adapters; a model trained as a whole is whole already" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    assert main(["merge", str(run), str(tmp_path / "mine")]) == 1
    assert "mine: holds other files (thesis.tex); choose an empty folder" in capsys.readouterr().err


def test_the_verb_says_what_it_looked_at(run, tmp_path, capsys):
    assert main(["merge", str(run), str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    told = capsys.readouterr().out
    assert "merging changed no log-prob on a text and a picture by more than" in told
    assert "saved in bfloat16:" in told
