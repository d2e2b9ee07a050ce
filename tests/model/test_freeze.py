"""What trains: components, first layers, embeddings, by name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from transformers import LlamaConfig, LlamaForCausalLM

from smolforge.errors import RecipeError
from smolforge.model.build import assemble, component
from smolforge.model.freeze import apply_freeze
from smolforge.model.presets import PRESETS
from smolforge.recipe import FreezeSection

LAYERS = PRESETS["tiny"].layers


@pytest.fixture(scope="module")
def seeing() -> Any:
    return assemble(PRESETS["tiny"])


@pytest.fixture(scope="module")
def text() -> Any:
    """Like SmolLM2: a Llama whose head is its embeddings."""
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64, vocab_size=64,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def trains(model: Any, **settings: Any) -> set[str]:
    apply_freeze(model, FreezeSection(**settings))
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def names(model: Any) -> set[str]:
    return {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    "parts", [(), ("vision",), ("connector",), ("decoder",), ("vision", "connector"), ("vision", "decoder")], ids="+".join
)
def test_components(seeing, parts):
    found = trains(seeing, **dict.fromkeys(parts, True))
    assert found == {name for name in names(seeing) if component(name) not in parts}
    assert {component(name) for name in found} == {"vision", "connector", "decoder"} - set(parts)


@pytest.mark.parametrize("count", range(LAYERS + 1))
def test_the_first_layers(seeing, count):
    frozen = names(seeing) - trains(seeing, decoder_layers=count)
    assert frozen == {n for n in names(seeing) for i in range(count) if n.startswith(f"model.text_model.layers.{i}.")}
    assert len(frozen) == 9 * count


def test_a_setting_does_not_last(seeing):
    trains(seeing, vision=True, decoder_layers=2, embeddings=True)
    assert trains(seeing) == names(seeing)


def test_embeddings_and_a_head_of_its_own(seeing):
    assert names(seeing) - trains(seeing, embeddings=True) == {"model.text_model.embed_tokens.weight"}
    assert seeing.lm_head.weight.requires_grad


def test_embeddings_that_are_the_head(text):
    assert text.lm_head.weight is text.model.embed_tokens.weight
    assert names(text) - trains(text, embeddings=True) == {"model.embed_tokens.weight"}
    assert not text.lm_head.weight.requires_grad
    assert trains(text) == names(text)
    assert text.lm_head.weight.requires_grad


def test_the_first_layers_of_a_text_model(text):
    found = trains(text, decoder_layers=2, embeddings=True)
    assert all(name.startswith("model.layers.2.") or name == "model.norm.weight" for name in found)
    assert len(found) == 10


def test_more_layers_than_there_are(seeing, text):
    for model, layers in ((seeing, LAYERS), (text, 3)):
        with pytest.raises(
            RecipeError, match=rf"freeze\.decoder_layers.*there are {layers} decoder layers|there are {layers} decoder layers"
        ):
            apply_freeze(model, FreezeSection(decoder_layers=layers + 1))


def test_nothing_left_to_train(text):
    with pytest.raises(ValidationError, match="everything is frozen"):
        FreezeSection(vision=True, connector=True, decoder=True)
    with pytest.raises(RecipeError, match="everything that this model has is frozen"):
        apply_freeze(text, FreezeSection(decoder=True))
