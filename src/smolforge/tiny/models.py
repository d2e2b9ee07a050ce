"""Tiny models of the family's architecture with tokenizers of their own, untrained: to learn, to try and to test with."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from transformers import LlamaForCausalLM

from smolforge.data.media import ImageSpec
from smolforge.data.sources.scenes import PROMPT, SIZE, scene
from smolforge.data.tokenizer import token_ids, train_tokenizer, write_processor
from smolforge.model.build import assemble, shape_config
from smolforge.model.presets import PRESETS
from smolforge.training.checkpoint import processor_files, save_model

TOKENIZER_SCENES = 1000  # captions the tokenizer learns from
# ChatML, as SmolLM2's
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def assemble_tiny(folder: Path) -> None:
    """Write a SmolVLM with about a million parameters and its own tokenizer.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    shape = PRESETS["tiny"]
    texts = [PROMPT, *(scene(0, index).caption for index in range(TOKENIZER_SCENES))]
    tokenizer = train_tokenizer(texts, vocab=shape.vocab)
    ids: dict[str, Any] = token_ids(tokenizer)
    model = assemble(shape, **ids)
    spec = ImageSpec(tile=SIZE, longest_edge=SIZE)
    with tempfile.TemporaryDirectory() as draft:
        write_processor(Path(draft), tokenizer, spec, image_tokens=shape.image_tokens, context=shape.context)
        save_model(folder, model, processor_files(Path(draft)))


def assemble_text(folder: Path) -> None:
    """Write the same model's decoder alone, a Llama that speaks ChatML as SmolLM2 does.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    shape = PRESETS["tiny"]
    tokenizer = train_tokenizer([scene(0, index).caption for index in range(TOKENIZER_SCENES)], vocab=shape.vocab)
    ids: dict[str, Any] = token_ids(tokenizer)
    config = shape_config(shape, **ids).text_config
    config.eos_token_id = config.pad_token_id = tokenizer.token_to_id("<|im_end|>")
    with tempfile.TemporaryDirectory() as draft:
        spec = ImageSpec(tile=SIZE, longest_edge=SIZE)
        write_processor(Path(draft), tokenizer, spec, image_tokens=shape.image_tokens, context=shape.context)
        files = processor_files(Path(draft))
    files = {name: content for name, content in files.items() if name.startswith(("tokenizer", "special", "vocab", "merges"))}
    save_model(folder, LlamaForCausalLM(config), files | {"chat_template.jinja": CHATML.encode()})
