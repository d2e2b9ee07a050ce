"""The real SmolLM2-135M-Instruct, from the package that carries its GGUF; and a 256M-shaped SmolVLM around it."""

from __future__ import annotations

import json

import pytest

import smolforge
from smolforge.data.media import ImageSpec
from smolforge.data.tokenizer import add_family_tokens, write_processor
from smolforge.loading import Loaded, load
from smolforge.model.build import assemble, quiet
from smolforge.model.presets import PRESETS
from smolforge.recipe import parse_recipe
from smolforge.training.loop import train
from smolforge.training.tracking import read_metrics

pytestmark = pytest.mark.slow  # reading the GGUF takes a quarter of a minute a time

PARIS = "The capital of France is Paris."


@pytest.fixture(scope="module")
def smollm2(gguf) -> Loaded:
    return load(str(gguf), device="cpu")


def test_answers(smollm2):
    assert smolforge.generate(smollm2, "What is the capital of France?").text == PARIS


def test_scores_prefer_what_is_true(smollm2, tmp_path):
    row = {"prompt": "What is the capital of France?", "chosen": PARIS, "rejected": PARIS.replace("Paris", "Berlin")}
    (tmp_path / "pair.jsonl").write_text(json.dumps(row))
    (result,) = smolforge.score(smollm2, str(tmp_path / "pair.jsonl"))
    chosen, rejected = result["responses"]
    assert (chosen["tokens"], rejected["tokens"]) == (8, 8)
    assert chosen["logprob"] > rejected["logprob"] + 5


def test_describe_reads_no_weights(gguf):
    about = smolforge.describe(str(gguf))
    assert about.total == 134_515_008
    assert (about.context, about.vocabulary, about.image_tokens) == (8192, 49152, None)


def test_fine_tunes_with_falling_held_out_loss(gguf, smollm2, shared, tmp_path):
    """Ten steps of the upper layers on the chosen answers; the rejected ones are never learnt."""
    pairs = str(shared / "preference_pairs.jsonl")
    recipe = parse_recipe(
        {
            "model": {"name": str(gguf), "dtype": "bfloat16"},
            "data": [{"source": pairs, "split": "train[:800]"}],
            "eval": {
                "data": [{"source": pairs, "split": "train[800:]"}],
                "examples": 12,
                "samples": 1,
                "max_new_tokens": 8,
            },
            "freeze": {"embeddings": True, "decoder_layers": 20},
            "optim": {"lr": 5e-5, "warmup": 2},
            "batch": {"examples": 4, "row_tokens": 1024},
            "run": {
                "dir": str(tmp_path / "run"),
                "steps": 10,
                "eval_every": 5,
                "device": "cpu",
                "trackers": [],
            },
        }
    )
    folder = train(recipe)
    held = [entry["loss"] for entry in read_metrics(folder) if entry["kind"] == "eval"]
    summary = json.loads((folder / "summary.json").read_text())
    assert held[0] > held[1] > summary["after"]["loss"]
    again = load(str(folder), device="cpu")
    assert again.renderer.chat.system, "the chat format came along"
    assert again.renderer.encode("\n\n12 and 3") == smollm2.renderer.encode("\n\n12 and 3"), "and the splitting of digits"
    assert smolforge.generate(again, "What is the capital of France?").text.startswith("The capital of France is Paris")


def test_a_smolvlm_around_it_still_answers(smollm2, tmp_path):
    """Random tower and connector, 128 new token rows: the language is untouched, pictures run through."""
    shape = PRESETS["smolvlm-256m"]
    model = assemble(shape, decoder=smollm2.model.model)
    with quiet():
        model.save_pretrained(tmp_path)
    tokenizer = type(smollm2.renderer.tokenizer).from_str(smollm2.renderer.tokenizer.to_str())
    add_family_tokens(tokenizer)
    spec = ImageSpec(tile=512, longest_edge=512)
    write_processor(tmp_path, tokenizer, spec, image_tokens=shape.image_tokens, context=shape.context)
    vlm = load(str(tmp_path), device="cpu")
    assert vlm.renderer.tokenizer.token_to_id("<image>") == 49190
    assert smolforge.generate(vlm, "What is the capital of France?").text == PARIS
    picture = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    assert smolforge.generate(vlm, "What is this?", images=[picture], max_new_tokens=2).tokens >= 1
