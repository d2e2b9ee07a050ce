"""Toy models that every target can take: a side of 8 patches, and a token for an empty line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from smolforge.data.media import ImageSpec
from smolforge.data.sources.scenes import scene
from smolforge.data.tokenizer import token_ids, train_tokenizer, write_processor
from smolforge.model.build import assemble, quiet
from smolforge.model.presets import PRESETS

SHAPE = replace(PRESETS["tiny"], image_size=128)


def _checkpoint(folder: Path, spec: ImageSpec) -> Path:
    lines = ["\n\n"] * 100  # so that the empty line becomes a token, as in SmolLM2's tokenizer
    tokenizer = train_tokenizer([*(scene(0, index).caption for index in range(100)), *lines], vocab=SHAPE.vocab)
    with quiet():
        assemble(SHAPE, **token_ids(tokenizer)).save_pretrained(folder)
    write_processor(folder, tokenizer, spec, image_tokens=SHAPE.image_tokens, context=SHAPE.context)
    return folder


@pytest.fixture(scope="session")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SmolVLM that sees up to 2 x 2 tiles of 128 pixels and the whole view."""
    return _checkpoint(tmp_path_factory.mktemp("seeing"), ImageSpec(tile=128, longest_edge=256))


@pytest.fixture(scope="session")
def one_tile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, every picture one tile."""
    return _checkpoint(tmp_path_factory.mktemp("one_tile"), ImageSpec(tile=128, longest_edge=128))


@pytest.fixture(scope="session")
def reading(seeing: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text model with a tied head."""
    folder = tmp_path_factory.mktemp("reading")
    config = LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=128,
        vocab_size=SHAPE.vocab, max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.1,
        rope_parameters={"rope_type": "default", "rope_theta": 5_000.0}, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    with quiet():
        LlamaForCausalLM(config).eval().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_bytes((seeing / name).read_bytes())
    template = (
        "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}{% endfor %}"
        "{{ '<|im_start|>assistant\n' }}"
    )
    (folder / "chat_template.jinja").write_text(template)
    return folder
