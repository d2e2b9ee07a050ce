"""`smolforge evaluate --task preference` as a user meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import smolforge
from smolforge.cli import main
from smolforge.data.sources.tables import open_source
from smolforge.recipe import DataSection
from smolforge.scoring import score


def test_it_counts_what_scoring_says(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The accuracies are those of the plain scores, response by response."""
    out = tmp_path / "results.json"
    arguments = ["evaluate", tiny, "--task", "preference", "--data", "scene_pairs", "--split", "test[:20]", "--device", "cpu"]
    assert main([str(a) for a in (*arguments, "--out", out)]) == 0
    shown, result = capsys.readouterr().out, json.loads(out.read_text())
    source = open_source(DataSection(source="scene_pairs", split="test[:20]"))
    plain = [line["responses"] for line in score(smolforge.load(str(tiny), device="cpu"), source)]
    by_sum = sum(chosen["logprob"] > rejected["logprob"] for chosen, rejected in plain) / 20
    by_token = sum(c["logprob"] / c["tokens"] > r["logprob"] / r["tokens"] for c, r in plain) / 20
    table = result["preference"]["scene_pairs"]
    assert (table["pairs"], table["sum"]["accuracy"], table["token"]["accuracy"]) == (20, by_sum, by_token)
    assert table["reward"] is None
    assert "there is no reference" in shown
    assert sorted(pair["chosen"] for pair in result["comparisons"]) == pytest.approx(
        sorted(chosen["logprob"] for chosen, _ in plain), rel=1e-5
    )


def test_a_model_is_its_own_reference_only_in_ties(tiny: Path) -> None:
    result = smolforge.evaluate(str(tiny), "scene_pairs", split="test[:8]", reference=str(tiny), device="cpu")
    reward = result["preference"]["scene_pairs"]["reward"]
    assert (reward["accuracy"], reward["ties"]) == (0, 1)


def test_sources_stand_apart(tiny: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "a red", "chosen": "circle", "rejected": f"star {n}"} for n in range(3)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = smolforge.evaluate(str(tiny), ["scene_pairs", str(pairs)], limit=3, device="cpu")
    assert {source: table["pairs"] for source, table in result["preference"].items()} == {
        "all": 6,
        "scene_pairs": 3,
        str(pairs): 3,
    }


def test_a_pair_without_rejected(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """One line, or a counted skip beside good pairs."""
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "a", "chosen": "b"}\n')
    arguments = ["evaluate", str(tiny), "--task", "preference", "--device", "cpu", "--data", str(pairs)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "a pair without rejected" in error
    assert error.count("\n") == 1
    pairs.write_text('{"prompt": "a", "chosen": "b"}\n{"prompt": "a", "chosen": "red", "rejected": "blue"}\n')
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "1 pairs" in shown.out
    assert "dropped 1 examples: a pair without rejected" in shown.err


def test_another_tokenizer_is_no_reference(tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    tokenizer.add_tokens(["purplish"])
    tokenizer.save(str(other / "tokenizer.json"))
    with pytest.raises(smolforge.UserError, match="another tokenizer"):
        smolforge.evaluate(str(tiny), "scene_pairs", limit=2, reference=str(other), device="cpu")
