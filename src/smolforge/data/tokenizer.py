"""A small tokenizer of the family's kind, and the processor files that make a folder a SmolVLM checkpoint.

The 128 added tokens have SmolVLM's names and order: <global-img>, <row_r_col_c> for six rows and columns,
<fake_token_around_image>, <image>, 88 reserved, <end_of_utterance>. The first 2.2B has three added tokens only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from smolforge.data.media import ImageSpec
from smolforge.errors import ModelError

BASE_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # ids 0, 1, 2, as in SmolLM2
FAMILY_TOKENS = (
    "<global-img>",
    *(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)),
    "<fake_token_around_image>",
    "<image>",
    *(f"<|reserved_special_token_{n}|>" for n in range(88)),
    "<end_of_utterance>",
)
V1_TOKENS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")  # of SmolVLM-Instruct, which writes tile marks as text
V1_VOCAB = 49155  # SmolLM2's ids and those three
CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_PICTURE = "{% elif line['type'] == 'image' %}{{ '<image>' }}"
VIDEO_CHAT_TEMPLATE = CHAT_TEMPLATE.replace(  # transformers' own for SmolVLM2; the same words where there is no video
    _PICTURE, _PICTURE + "{% elif line['type'] == 'video' %}{{ '<video>' }}"
)
VIDEO_FPS, VIDEO_MAX_FRAMES = 1, 64  # `video_sampling` of every SmolVLM2


def train_tokenizer(texts: Iterable[str], *, vocab: int) -> Tokenizer:
    """Byte-level BPE like SmolLM2's (digits one by one), with `vocab` ids of which the last are the family's.

    Where the texts give fewer merges than asked for, the free ids are filled with unused tokens, so that the size holds.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(added_tokens(vocab)),
        special_tokens=list(BASE_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fill = vocab - len(added_tokens(vocab)) - tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([AddedToken(f"<|unused_{n}|>", special=True) for n in range(fill)])
    add_family_tokens(tokenizer, added_tokens(vocab))
    return tokenizer


def added_tokens(vocab: int) -> tuple[str, ...]:
    """The family's tokens of a vocabulary with this many ids.

    >>> len(added_tokens(49155)), len(added_tokens(49280))
    (3, 128)
    """
    return V1_TOKENS if vocab == V1_VOCAB else FAMILY_TOKENS


def add_family_tokens(tokenizer: Tokenizer, tokens: tuple[str, ...] = FAMILY_TOKENS) -> range:
    """Append the family's tokens; on SmolLM2's tokenizer the 128 get SmolVLM's real ids (49152 to 49279).

    Returns:
        the new ids.

    Raises:
        ModelError: it lacks what the family's prompts are written with.
    """
    if missing := [token for token in BASE_TOKENS if tokenizer.token_to_id(token) is None]:
        raise ModelError(f"the text model's tokenizer has no {' '.join(missing)}", mend="take a SmolLM2")
    first = num_ids(tokenizer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    return range(first, num_ids(tokenizer))


def num_ids(tokenizer: Tokenizer) -> int:
    """Rows that a token table needs."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def token_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids a model's configuration names, for `model.build.assemble`."""
    names = {"image": "<image>", "bos": "<|im_start|>", "eos": "<end_of_utterance>", "pad": "<|im_end|>"}
    return {f"{key}_token_id": tokenizer.get_vocab()[name] for key, name in names.items()}


def write_processor(
    folder: Path,
    tokenizer: Tokenizer,
    spec: ImageSpec,
    *,
    image_tokens: int,
    context: int,
    kind: Literal["Idefics3", "SmolVLM"] = "Idefics3",
) -> None:
    """Write the files that transformers' processors and `load_renderer` read.

    Args:
        image_tokens: tokens a tile takes.
        context: positions of the model.
        kind: whose processor the files name, as in Hub folders: the first SmolVLMs name Idefics3's, SmolVLM2 its own, with
            settings for videos. `Idefics3Processor.from_pretrained` reads both.
    """
    template = {"Idefics3": CHAT_TEMPLATE, "SmolVLM": VIDEO_CHAT_TEMPLATE}[kind]
    processor = {"processor_class": f"{kind}Processor"}
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
    tokenizer_config = (
        special
        | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "additional_special_tokens": extra,
            "model_max_length": context,
            "clean_up_tokenization_spaces": False,
            "truncation_side": "left",
        }
        | processor
    )
    _write(folder / "tokenizer_config.json", tokenizer_config)
    preprocessor = {
        "image_processor_type": f"{kind}ImageProcessor",
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
    } | processor
    if kind == "SmolVLM":
        sampling = {"fps": VIDEO_FPS, "max_frames": VIDEO_MAX_FRAMES, "video_size": {"longest_edge": spec.tile}}
        preprocessor["video_sampling"] = sampling
    _write(folder / "preprocessor_config.json", preprocessor)
    _write(folder / "processor_config.json", {"image_seq_len": image_tokens} | processor)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    _write(folder / "chat_template.json", {"chat_template": template})


def _write(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
