"""Scores: the sum of token log-probs of each response, whatever it is packed with."""

from __future__ import annotations

import json

import pytest
import torch

import smolforge
from smolforge.loading import load


def test_scores_equal_hugging_face_response_by_response(tiny, tmp_path):
    rows = [
        {"id": "pair", "prompt": "what?", "chosen": "a red circle", "rejected": "a blue star at the top"},
        {"id": "chat", "messages": [
            {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"}, {"role": "assistant", "content": "four"},
        ]},
        {"id": "bad", "prompt": "x", "completion": ""},
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loaded = load(str(tiny), device="cpu")
    pair, chat, bad = smolforge.score(loaded, str(tmp_path / "rows.jsonl"))
    assert [r["kind"] for r in pair["responses"]] == ["chosen", "rejected"]
    assert bad["id"] == "bad"
    assert "empty answer" in bad["error"]
    texts = {
        "<|im_start|>User: what?<end_of_utterance>\nAssistant:": [
            (" a red circle<end_of_utterance>", pair["responses"][0]),
            (" a blue star at the top<end_of_utterance>", pair["responses"][1]),
        ],
        "<|im_start|>User: one<end_of_utterance>\nAssistant:": [(" two<end_of_utterance>", chat["responses"][0])],
        "<|im_start|>User: one<end_of_utterance>\nAssistant: two<end_of_utterance>\nUser: three<end_of_utterance>\nAssistant:": [
            (" four<end_of_utterance>", chat["responses"][1])
        ],
    }
    for prompt, answers in texts.items():
        for answer, scored in answers:
            a, b = (list(loaded.renderer.tokenizer.encode(text).ids) for text in (prompt, answer))
            with torch.no_grad():
                logits = loaded.model.model(input_ids=torch.tensor([a + b])).logits[0].log_softmax(-1)
            expected = sum(float(logits[len(a) + n - 1, token]) for n, token in enumerate(b))
            assert scored["tokens"] == len(b)
            assert scored["logprob"] == pytest.approx(expected, rel=1e-5)
