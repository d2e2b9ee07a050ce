"""A small tokenizer of the family's kind, and the processor files that make a folder a SmolVLM checkpoint.

The 128 added tokens have SmolVLM's names and order: <global-img>, <row_r_col_c> for six rows and columns,
<fake_token_around_image>, <image>, 88 reserved, <end_of_utterance>.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from smolforge.data.media import ImageSpec

BASE_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # ids 0, 1, 2, as in SmolLM2
FAMILY_TOKENS = (
    "<global-img>",
    *(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)),
    "<fake_token_around_image>",
    "<image>",
    *(f"<|reserved_special_token_{n}|>" for n in range(88)),
    "<end_of_utterance>",
)
CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], *, vocab: int) -> Tokenizer:
    """Byte-level BPE like SmolLM2's (digits one by one), with `vocab` ids of which the last 128 are the family's.

    Where the texts give fewer merges than asked for, the free ids are filled with unused tokens, so that the size holds.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(FAMILY_TOKENS),
        special_tokens=list(BASE_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fill = vocab - len(FAMILY_TOKENS) - tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([AddedToken(f"<|unused_{n}|>", special=True) for n in range(fill)])
    add_family_tokens(tokenizer)
    return tokenizer


def add_family_tokens(tokenizer: Tokenizer) -> None:
    """Append the family's 128 tokens; on SmolLM2's tokenizer this gives SmolVLM's real ids (49152 to 49279)."""
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in FAMILY_TOKENS])


def token_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids a model's configuration names, for `model.build.assemble`."""
    names = {"image": "<image>", "bos": "<|im_start|>", "eos": "<end_of_utterance>", "pad": "<|im_end|>"}
    return {f"{key}_token_id": tokenizer.get_vocab()[name] for key, name in names.items()}


def write_processor(folder: Path, tokenizer: Tokenizer, spec: ImageSpec, *, image_tokens: int, context: int) -> None:
    """Write the files that `Idefics3Processor.from_pretrained` and `load_renderer` read."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {
        "bos_token": "<|im_start|>",
        "eos_token": "<end_of_utterance>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
    }
    extra = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    _write(folder / "special_tokens_map.json", special | {"additional_special_tokens": extra})
    tokenizer_config = special | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": extra,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "truncation_side": "left",
        "processor_class": "Idefics3Processor",
    }
    _write(folder / "tokenizer_config.json", tokenizer_config)
    preprocessor = {
        "image_processor_type": "Idefics3ImageProcessor",
        "processor_class": "Idefics3Processor",
        "do_convert_rgb": True,
        "do_image_splitting": spec.split,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        "max_image_size": {"longest_edge": spec.tile},
        "size": {"longest_edge": spec.longest_edge},
        "resample": spec.resample,
        "rescale_factor": 1 / 255,
    }
    _write(folder / "preprocessor_config.json", preprocessor)
    _write(folder / "processor_config.json", {"image_seq_len": image_tokens, "processor_class": "Idefics3Processor"})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    _write(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})


def _write(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
