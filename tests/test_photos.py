"""Real photos, end to end: fine-tune the tiny model on five captions an image, resume, generate, report."""

from __future__ import annotations

import json

import smolforge
from smolforge.cli import main
from smolforge.data.processor import load_renderer
from smolforge.recipe import parse_recipe
from smolforge.report import write_report


def test_fine_tune_generate_report(tiny_split, shared, tmp_path):
    photos = str(shared / "coco_mini" / "annotations_train2017.json")
    recipe = parse_recipe(
        {
            "model": {"name": str(tiny_split)},
            "data": [{"source": photos, "split": "train[:24]", "prompt": "Give a concise caption."}],
            "eval": {"data": [{"source": photos, "split": "train[24:]"}], "samples": 3, "max_new_tokens": 12},
            "images": {"longest_edge": 192},
            "optim": {"lr": 2e-3},
            "batch": {"examples": 8, "row_tokens": 4096},
            "run": {"dir": str(tmp_path / "run"), "steps": 6, "device": "cpu"},
        }
    )
    folder = smolforge.train(recipe)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["after"]["loss"] < summary["before"]["loss"]
    assert summary["dropped"] == {}
    page = write_report(folder).read_text()
    assert page.count("data:image/jpeg;base64") == 3
    picture = next((shared / "coco_mini" / "images").glob("val2017_*.jpg"))
    assert main(["generate", str(folder), "--image", str(picture), "--prompt", "Give a concise caption.", "--device", "cpu"]) == 0


def test_hugging_face_loads_what_was_trained(tiny, tmp_path):
    """`AutoModelForImageTextToText` and `Idefics3Processor` read the run's model."""
    from transformers import AutoModelForImageTextToText, Idefics3Processor

    recipe = parse_recipe(
        {
            "model": {"name": str(tiny)},
            "data": [{"source": "scenes"}],
            "eval": {"examples": 2, "samples": 0},
            "batch": {"examples": 2},
            "run": {"dir": str(tmp_path / "run"), "steps": 1, "device": "cpu", "trackers": []},
        }
    )
    folder = smolforge.train(recipe) / "model"
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    processor = Idefics3Processor.from_pretrained(folder)
    assert processor.image_seq_len == load_renderer(folder).image_tokens
    assert model.config.image_token_id == load_renderer(folder).image_id
