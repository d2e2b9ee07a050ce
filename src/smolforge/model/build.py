"""Get a model: load a checkpoint, read a GGUF, or assemble SigLIP + connector + SmolLM2 from a shape."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from smolforge.errors import ModelError
from smolforge.model.presets import Shape

CLASSES: dict[str, Any] = {
    "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration),
    "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
    "llama": (LlamaConfig, LlamaForCausalLM),
}


def load_model(folder: Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Any:
    """A SmolVLM, Idefics3 or Llama model from a folder in Hugging Face's format or a .gguf file, in eval mode.

    Raises:
        ModelError: not a model of the family, weights missing or of other shapes.
    """
    if folder.suffix == ".gguf":
        return _load_gguf(folder).to(device=device, dtype=dtype).eval()
    config = read_config(folder)
    try:
        with quiet():
            model, report = CLASSES[config.model_type][1].from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"weights cannot be read ({error})", where=folder, mend="check the safetensors files") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{len(missing)} weights are missing, first {missing[0]}", where=folder, mend="copy it again")
    return model.to(device).eval()


def read_config(folder: Path) -> Any:
    """Configuration of a model folder or .gguf file of the family.

    Raises:
        ModelError: not readable, or of another family.
    """
    try:
        if folder.suffix == ".gguf":
            config = AutoConfig.from_pretrained(folder.parent, gguf_file=folder.name)
        else:
            config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError("no readable configuration", where=folder, mend="this is not a complete model folder") from error
    if config.model_type not in CLASSES:
        raise ModelError(f"model type {config.model_type}", where=folder, mend=f"smolforge runs {', '.join(CLASSES)}")
    return config


def assemble(shape: Shape, *, decoder: Any = None, image_token_id: int | None = None, seed: int = 0, **token_ids: int) -> Any:
    """A model of a shape: SigLIP tower, pixel shuffle and projection, Llama decoder, freshly initialised.

    Args:
        shape: one of `PRESETS`, or one's own.
        decoder: a `LlamaForCausalLM` whose weights become the decoder's. It may have fewer token rows than the shape: the new
            ones are drawn around the mean of the old, except that the last, <end_of_utterance>, starts as the decoder's own
            closing token. A tied head is untied.
        image_token_id: id of `<image>`; by default the family's place for the vocabulary's size.
        seed: of the random initial weights.
        token_ids: bos_token_id, eos_token_id, pad_token_id.

    Raises:
        ModelError: the patch grid is not divisible by the shuffle factor, or the decoder has other shapes.
    """
    torch.manual_seed(seed)
    config = shape_config(shape, image_token_id=image_token_id, **token_ids)
    model = CLASSES[shape.model_type][1](config)
    if decoder is not None:
        _take_decoder(model, decoder)
    return model.eval()


def _take_decoder(model: Any, decoder: Any) -> None:
    weights = decoder.model.state_dict()
    rows, close = model.lm_head.weight.shape[0], decoder.config.eos_token_id
    weights["embed_tokens.weight"] = _more_rows(weights["embed_tokens.weight"], rows, close)
    try:
        model.model.text_model.load_state_dict(weights)
        model.lm_head.load_state_dict({"weight": _more_rows(decoder.lm_head.weight, rows, close)})
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ModelError(f"the decoder does not fit the shape ({first})", mend="choose the preset of its size") from error


@torch.no_grad()
def _more_rows(table: torch.Tensor, rows: int, close: int) -> torch.Tensor:
    """A token table with `rows` rows: the new ones are the mean of the old with a tenth of their spread, the last is `close`."""
    if rows <= len(table):
        return table
    new = torch.randn(rows - len(table), table.shape[1]) * table.std(0) * 0.1 + table.mean(0)
    new[-1] = table[close]
    return torch.cat([table, new])


def shape_config(shape: Shape, *, image_token_id: int | None = None, **token_ids: int) -> Any:
    """Hugging Face's configuration of a shape. Raises as `assemble`."""
    grid = shape.image_size // shape.patch
    if grid % shape.shuffle:
        raise ModelError(
            f"a tile of {shape.image_size} pixels has {grid} x {grid} patches, which {shape.shuffle} x {shape.shuffle} "
            "pixel shuffle does not divide",
            mend="choose another image size, patch or shuffle factor",
        )
    if image_token_id is None:
        image_token_id = 49153 if shape.vocab == 49155 else min(49190, shape.vocab - 1)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2} | token_ids
    text = dict(
        model_type="llama", hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, head_dim=shape.hidden // shape.heads, intermediate_size=shape.ff,
        vocab_size=shape.vocab, max_position_embeddings=shape.context, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        initializer_range=shape.init_std, **ids,
    )  # fmt: skip
    vision = dict(
        hidden_size=shape.vision_hidden, num_hidden_layers=shape.vision_layers, num_attention_heads=shape.vision_heads,
        intermediate_size=shape.vision_ff, image_size=shape.image_size, patch_size=shape.patch,
        initializer_range=shape.init_std,
    )  # fmt: skip
    return CLASSES[shape.model_type][0](
        vision_config=vision, text_config=text, scale_factor=shape.shuffle, image_token_id=image_token_id,
        tie_word_embeddings=False, pad_token_id=ids["pad_token_id"], initializer_range=shape.init_std,
    )  # fmt: skip


def count_parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(all, trainable) parameters of each component: vision, connector, decoder."""
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        total, trainable = counts.get(component(name), (0, 0))
        packed = getattr(parameter, "quant_state", None)  # of a 4-bit weight, two numbers a byte
        numbers = parameter.numel() if packed is None else math.prod(packed.shape)
        counts[component(name)] = total + numbers, trainable + numbers * parameter.requires_grad
    return counts


def component(name: str) -> str:
    """The component a parameter belongs to, from its name.

    >>> component("model.vision_model.post_layernorm.weight"), component("lm_head.weight")
    ('vision', 'decoder')
    """
    if "vision_model." in name:
        return "vision"
    return "connector" if "connector." in name else "decoder"


def _load_gguf(file: Path) -> Any:
    """Weights of a GGUF, de-quantised into a plain LlamaForCausalLM that can be trained and saved."""
    try:
        with quiet(), redirect_stderr(io.StringIO()):  # its conversion bar knows no switch
            read = LlamaForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except ImportError as error:
        raise ModelError("GGUF needs the gguf package", where=file, mend="pip install 'smolforge[gguf]'") from error
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"not a readable GGUF of a Llama ({error})", where=file, mend="check the file") from error
    config = LlamaConfig.from_dict({k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' and PEFT's progress bars, advice and announcements of what will change; errors still raise."""
    from transformers.utils import logging as hf

    level, bars = hf.get_verbosity(), hf.is_progress_bar_enabled()
    hf.set_verbosity(logging.CRITICAL)
    hf.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        hf.set_verbosity(level)
        if bars:
            hf.enable_progress_bar()
