"""A tokenizer as GGUF keeps it: what llama.cpp cuts texts with must be what the model was trained on, id for id.

The keys and values are those of llama.cpp's own converter (convert_hf_to_gguf.py: model "gpt2", pre-tokenizer "smollm", which is
GPT-2's splitting after every digit was taken alone).
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer

from smolforge.errors import ModelError

# What llama.cpp calls a splitting, by the kinds of a tokenizer.json's pre-tokenizers.
SPLITTINGS = {("Digits", "ByteLevel"): "smollm", ("ByteLevel",): "gpt-2"}

# SmolVLM's template writes "User:" and no space before a picture. llama.cpp hands it a picture as a text, its mark.
PICTURE_FIRST = "message['content'][0]['type'] == 'image'"
MARK_FIRST = "'<__media' in message['content'][0]['text']"


def write_vocabulary(writer: Any, tokenizer: Tokenizer, processor: dict[str, bytes], rows: int) -> None:
    """Write tokens, merges, special ids and the chat template.

    Args:
        writer: a `gguf.GGUFWriter`.
        processor: the checkpoint's files, from `training.checkpoint.processor_files`.
        rows: of the token table; ids without a token are filled up.

    Raises:
        ModelError: not a byte-level BPE that llama.cpp knows.
    """
    import gguf

    content = json.loads(tokenizer.to_str())
    added = tokenizer.get_added_tokens_decoder()
    names = {token: name for name, token in tokenizer.get_vocab(with_added_tokens=True).items()}
    if names and max(names) >= rows:
        raise ModelError(f"the tokenizer has ids up to {max(names)}, the model {rows} rows", mend="use the model's own tokenizer")
    tokens, types = [], []
    for token in range(rows):
        if token in added:
            types.append(gguf.TokenType.CONTROL if added[token].special else gguf.TokenType.USER_DEFINED)
        else:
            types.append(gguf.TokenType.NORMAL if token in names else gguf.TokenType.UNUSED)
        tokens.append(names.get(token, f"[PAD{token}]"))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"].get("merges", [])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splitting(content))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    special = {kind: tokenizer.token_to_id(name) for kind, name in _special(processor).items()}
    for kind, add in (
        ("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id), ("unk", writer.add_unk_token_id),
        ("pad", writer.add_pad_token_id),
    ):  # fmt: skip
        if special.get(kind) is not None:
            add(special[kind])
    writer.add_add_bos_token(False)  # the chat formats write their first token themselves, and Hugging Face's adds none
    writer.add_add_space_prefix(False)
    if template := chat_template(processor):
        writer.add_chat_template(template.replace(PICTURE_FIRST, f"{PICTURE_FIRST} or {MARK_FIRST}"))


def chat_template(processor: dict[str, bytes]) -> str:
    """The chat template among a checkpoint's files, or nothing."""
    if "chat_template.jinja" in processor:
        return processor["chat_template.jinja"].decode()
    for name in ("chat_template.json", "tokenizer_config.json"):
        if template := json.loads(processor.get(name, b"{}")).get("chat_template"):
            return str(template)
    return ""


def _special(processor: dict[str, bytes]) -> dict[str, str]:
    """Names of the bos, eos, unk and pad tokens that a checkpoint's files give."""
    found: dict[str, str] = {}
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        listed = json.loads(processor.get(file, b"{}"))
        for kind in ("bos", "eos", "unk", "pad"):
            token = listed.get(f"{kind}_token")
            if token is not None:
                found.setdefault(kind, token["content"] if isinstance(token, dict) else str(token))
    return found


def _splitting(content: dict[str, Any]) -> str:
    """llama.cpp's name of a tokenizer.json's splitting."""
    outer = content.get("pre_tokenizer") or {}
    steps = outer["pretokenizers"] if outer.get("type") == "Sequence" else [outer]
    kinds = tuple(step.get("type", "none") for step in steps)
    plain = content["model"]["type"] == "BPE" and content.get("normalizer") is None and kinds in SPLITTINGS
    for step in steps:
        plain &= step.get("individual_digits", True) and not step.get("add_prefix_space", False) and step.get("use_regex", True)
    if not plain:
        raise ModelError(
            f"a tokenizer that llama.cpp has no name for ({content['model']['type']}, {', '.join(kinds)})",
            mend="export to onnx, which brings tokenizer.json along",
        )
    return SPLITTINGS[kinds]
