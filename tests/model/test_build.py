"""Models put together from parts: towers, position embeddings, token rows, shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

import smolforge
from smolforge.data.batch import collate
from smolforge.errors import ModelError
from smolforge.model.build import assemble, details_of, load_model, quiet, read_tower, read_vision_config, resize_positions
from smolforge.model.freeze import apply_freeze
from smolforge.model.presets import PRESETS, Shape
from smolforge.model.tree import TreeModel
from smolforge.recipe import FreezeSection

TINY = PRESETS["tiny"]
VISION = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2, image_size=96, patch_size=16)
TEXT = dict(
    hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, vocab_size=384,
    max_position_embeddings=2048,
)  # fmt: skip


def siglip_tower(seed: int = 0) -> SiglipVisionModel:
    torch.manual_seed(seed)
    return SiglipVisionModel(SiglipVisionConfig(**VISION)).eval()


def save(model: Any, folder: Path, **how: Any) -> Path:
    with quiet():
        model.save_pretrained(folder, **how)
    return folder


def patches_of(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What a SmolVLM's tower says of tiles (T, 3, P, P): (T, patches, D)."""
    side = pixels.shape[-1] // 16
    mask = torch.ones(len(pixels), side, side, dtype=torch.bool)
    return model.model.vision_model(pixel_values=pixels, patch_attention_mask=mask).last_hidden_state


@torch.no_grad()
@pytest.mark.parametrize("model_type", ["smolvlm", "idefics3"])
@pytest.mark.parametrize("image_size", [96, 64, 160])
def test_the_tower_sees_as_siglip_does(model_type, image_size, tmp_path):
    """Before SigLIP's pooling; at another size as transformers' SigLIP with interpolated positions."""
    siglip = siglip_tower()
    tower = read_tower(save(siglip, tmp_path))
    model = assemble(replace(TINY, model_type=model_type, image_size=image_size), tower=tower.weights)
    pixels = torch.randn(2, 3, image_size, image_size)
    expected = siglip(pixels, interpolate_pos_encoding=image_size != 96).last_hidden_state
    # no difference in 30 draws on an x86-64 CPU; other machines may add in another order
    torch.testing.assert_close(patches_of(model, pixels), expected, atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("there", "here"), [(32, 24), (27, 32), (6, 6), (4, 9)])
def test_positions_are_interpolated_as_transformers_does(there, here):
    embeddings = SiglipVisionModel(SiglipVisionConfig(**(VISION | {"image_size": there * 16}))).embeddings
    size = here * 16
    expected = embeddings.interpolate_pos_encoding(torch.empty(1, here**2, 64), size, size)[0]
    found = resize_positions(embeddings.position_embedding.weight, here)
    assert found.shape == (here**2, 64)
    assert torch.equal(found, expected)
    if here != there:
        assert not torch.equal(found[:4], embeddings.position_embedding.weight[:4]), "no case: nothing to interpolate"


def test_one_tower_from_every_kind_of_checkpoint(tmp_path):
    """Alone, below SigLIP's text tower, in shards, and inside a SmolVLM: the same weights, and what was beside them counted."""
    alone = siglip_tower()
    text = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=50, bos_token_id=1)
    both = SiglipModel(SiglipConfig(vision_config=VISION, text_config=text | {"eos_token_id": 2}))
    both.vision_model.load_state_dict(alone.state_dict())
    first = read_tower(save(alone, tmp_path / "alone"))
    whole = read_tower(save(both, tmp_path / "whole"))
    sharded = read_tower(save(both, tmp_path / "sharded", max_shard_size="100KB"))
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    built = assemble(TINY, tower=first.weights)
    again = read_tower(save(built, tmp_path / "built"))
    expected = {name: value for name, value in alone.state_dict().items() if not name.startswith("head.")}
    for tower in (first, whole, sharded, again):
        assert tower.weights.keys() == expected.keys()
        assert all(torch.equal(tower.weights[name], value) for name, value in expected.items())
    head = sum(p.numel() for p in alone.head.parameters())
    assert (first.pooling_head, first.beside) == (head, 0)
    assert (whole.pooling_head, whole.beside) == (head, sum(p.numel() for p in both.text_model.parameters()) + 2)
    assert (again.pooling_head, again.beside) == (
        0,
        sum(p.numel() for p in built.parameters()) - sum(map(torch.numel, expected.values())),
    )
    for folder in ("alone", "whole", "built"):
        assert read_vision_config(tmp_path / folder).num_hidden_layers == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no safetensors; smolforge reads no pickled weights"),
        ({"pytorch_model.bin": b"pickle"}, "holds no safetensors; smolforge reads no pickled weights"),
        ({"model.safetensors": b"nothing of the kind"}, "weights cannot be read"),
    ],
)
def test_weights_come_from_safetensors_alone(content, message, tmp_path):
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelError, match=message):
        read_tower(tmp_path)


def test_a_text_model_holds_no_tower(tmp_path):
    with pytest.raises(ModelError, match="0 vision towers in its weights; give a SigLIP or a SmolVLM"):
        read_tower(save(LlamaForCausalLM(LlamaConfig(**TEXT)), tmp_path))


def test_a_tower_of_another_width_is_refused(tmp_path):
    tower = read_tower(save(siglip_tower(), tmp_path))
    with pytest.raises(ModelError, match=r"the vision tower does not fit the shape .*64.*; choose the preset of its size"):
        assemble(replace(TINY, vision_hidden=32), tower=tower.weights)


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_old_tokens_keep_their_rows_and_the_closing_one_is_handed_on(tied):
    """Padding beyond the 300 ids that a tokenizer has is not kept; a tied head becomes a copy."""
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**TEXT, tie_word_embeddings=tied, eos_token_id=2, rms_norm_eps=1e-3)).eval()
    model = assemble(replace(TINY, vocab=428), decoder=llama, kept_rows=300, details=details_of(None, llama.config))
    table, head = model.model.text_model.embed_tokens.weight, model.lm_head.weight
    assert table.data_ptr() != head.data_ptr()
    assert len(table) == len(head) == 428
    assert torch.equal(table[:300], llama.model.embed_tokens.weight[:300])
    assert torch.equal(head[:300], llama.lm_head.weight[:300])
    assert torch.equal(table[427], llama.model.embed_tokens.weight[2])
    assert torch.equal(head[427], llama.lm_head.weight[2])
    assert torch.equal(table, head) == tied
    assert not torch.equal(table[300:384], llama.model.embed_tokens.weight[300:]), "padding was kept"
    ids = torch.arange(12)[None]
    expected = llama(ids).logits[..., :300]
    assert torch.equal(model(input_ids=ids).logits[..., :300], expected)


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("smolvlm-256m", 256_484_928),
        ("smolvlm2-256m", 256_484_928),
        ("smolvlm-500m", 507_482_304),
        ("smolvlm-instruct", 2_246_272_880),
        ("smolvlm2-2.2b", 2_246_784_880),
    ],
)
def test_presets_have_the_published_sizes(name, total):
    assert smolforge.describe(name).total == total


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"shuffle": 4}, "a tile of 96 pixels has 6 x 6 patches, which 4 x 4 pixel shuffle does not divide"),
        ({"image_size": 8}, "a tile of 8 pixels has 0 x 0 patches"),
    ],
)
def test_a_grid_that_shuffle_does_not_divide_is_refused(changes, line):
    shape: Shape = replace(TINY, **changes)
    with pytest.raises(ModelError, match=line):
        assemble(shape)


def test_what_is_fresh_follows_the_seed(tmp_path):
    tower = read_tower(save(siglip_tower(), tmp_path)).weights
    one, same, other = (assemble(TINY, tower=tower, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    changed = {name for name in one if not torch.equal(one[name], other[name])}
    assert "model.connector.modality_projection.proj.weight" in changed
    assert not any("vision_model" in name for name in changed)


def test_a_saved_model_is_read_again(tmp_path):
    tower = read_tower(save(siglip_tower(), tmp_path / "siglip")).weights
    built = assemble(TINY, tower=tower)
    again = load_model(save(built, tmp_path / "built")).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in built.state_dict().items())


@pytest.mark.parametrize("vision_hidden", [64, 128])
def test_a_shuffle_of_one_goes_through_the_connector(vision_hidden):
    """Of equal widths, features look alike before and behind it."""
    shape = replace(PRESETS["tiny"], shuffle=1, vision_hidden=vision_hidden)
    tree = TreeModel(assemble(shape, image_token_id=3)).eval()
    apply_freeze(tree.model, FreezeSection(vision=True))
    tiles = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    row = replace(collate([]), tiles=tiles)
    with torch.no_grad():
        expected = tree.connector(tree._look(tiles))
        assert torch.equal(tree.image_features(row), expected)
        assert torch.equal(tree.image_features(tree.see(row)), expected)
