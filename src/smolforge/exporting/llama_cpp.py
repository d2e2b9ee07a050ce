"""llama.cpp as a program to ask: the exported GGUFs served by llama-server, as people run them.

The package xllamacpp brings llama-server as a library for every Linux since glibc 2.17, and for macOS and Windows. It is asked
for the log-probs of the whole vocabulary at each token of its own greedy answer. The key-value cache is kept in float32 here and
flash attention is off (the defaults round to float16), so that what is measured is the files.

Legend: L prompt tokens, N answer tokens, M places shown, V vocabulary.
"""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smolforge.data.media import Grid, tile_grid, tile_pixels
from smolforge.data.render import Renderer
from smolforge.errors import ModelError
from smolforge.exporting.agreement import Question, Said
from smolforge.records import Media, Message

TRICKY = "In 2026, 1,234 cats sat;\n\n  I'll say 'été' — 猫 🐈‍⬛ x=3.14e10\t!"  # what splitters disagree on
PLACES = 128  # beside the prompt: the answer, and what llama.cpp keeps free
SECONDS = 600
MARK = "<__media__>"  # of a picture in a prompt; a server may have another one
# Byte-level BPE writes bytes as letters: printable ones as themselves, the others from 256 on.
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
BYTES = {chr(b): b for b in _PRINTABLE} | {chr(256 + n): b for n, b in enumerate(b for b in range(256) if b not in _PRINTABLE)}


class LlamaCpp:
    """An exported model in llama.cpp, on the CPU.

    Args:
        text: file of the decoder.
        vision: file of the tower and connector, or None.
        places: tokens of the longest prompt.

    Raises:
        ModelError: llama.cpp is not installed, or does not read the files.
    """

    def __init__(self, text: Path, vision: Path | None, renderer: Renderer, *, places: int) -> None:
        xllamacpp = needed()
        self.renderer = renderer
        params: Any = xllamacpp.CommonParams()
        params.model.path = str(text)
        if vision is not None:
            params.mmproj.path, params.mmproj_use_gpu = str(vision), False
        params.n_ctx = params.n_batch = params.n_ubatch = places + PLACES
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.n_gpu_layers, params.n_parallel, params.warmup, params.fit_params = 0, 1, False, False
        params.verbosity = -1
        try:
            self.server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise ModelError(f"llama.cpp does not read it ({error})", where=text) from error
        self.marker = self._get("/props").get("media_marker", MARK)

    def _prompt(self, question: Question) -> str:
        return prompt(self.renderer, question).replace(MARK, self.marker)

    def same_reading(self, question: Question) -> None:
        """llama.cpp cuts texts as the model's own tokenizer does, and writes the prompt that the model was trained on.

        Raises:
            ModelError: it does not.
        """
        for text in (TRICKY, self._prompt(question) if question.image is None else TRICKY):
            ours = list(self.renderer.tokenizer.encode(text, add_special_tokens=False).ids)
            theirs = self._post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
            if ours != theirs:
                raise ModelError(f"llama.cpp reads other tokens, {theirs} where the tokenizer says {ours}", where=repr(text))
        content: Any = question.text
        if question.image is not None:
            content = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_png(question)}"}}]
            content.append({"type": "text", "text": question.text})
        chat = self._post("/apply-template", {"messages": [{"role": "user", "content": content}]})["prompt"]
        if chat != self._prompt(question):
            raise ModelError(f"llama.cpp writes another prompt, {chat!r} for {self._prompt(question)!r}", where=question.name)

    # --- log-probs -----------------------------------------------------------------------------------------------------

    def __call__(self, question: Question, answer: np.ndarray) -> Said:
        """llama.cpp's own greedy answer, with the log-probs of the whole vocabulary as long as it is smolforge's."""
        given: Any = self._prompt(question)
        if question.image is not None:
            given = {"prompt_string": given, "multimodal_data": [_png(question)]}
        rows = self.renderer.tokenizer.get_vocab_size()
        asked = {"prompt": given, "n_predict": len(answer) + 1, "temperature": 0, "n_probs": 2 * rows, "return_tokens": True}
        said = self._post("/completion", asked)
        if said["tokens_evaluated"] != len(question.ids):
            what = f"llama.cpp lays it out in {said['tokens_evaluated']} tokens, smolforge in {len(question.ids)}"
            raise ModelError(what, where=question.name)
        tokens = np.array(said["tokens"], np.int64)
        whole = self._whole(tokens.tolist())
        shared = next((n for n, (a, b) in enumerate(zip(tokens, answer)) if a != b), len(answer))  # last place on the answer
        found: dict[int, np.ndarray] = {}
        for place, entry in zip(whole, said["completion_probabilities"], strict=True):
            if entry["id"] != tokens[place]:
                raise ModelError(f"token {tokens[place]} and log-probs of {entry['id']}", where=f"{question.name}, place {place}")
            if place <= shared:
                tops = np.array([(top["id"], top["logprob"]) for top in entry["top_logprobs"]])  # (V, 2)
                found[place] = tops[np.argsort(tops[:, 0]), 1]
        shown = np.array(list(found.values()), np.float32).reshape(len(found), -1 if found else rows)  # (M, V)
        return Said(tokens=tokens, places=np.array(list(found), np.int64), log_probs=shown)

    def _whole(self, tokens: list[int]) -> list[int]:
        """Places whose token ends a letter: llama-server shows no log-probs of one that leaves a letter's bytes open."""
        text, whole = b"", []
        special = {token for token, added in self.renderer.tokenizer.get_added_tokens_decoder().items() if added.special}
        for place, token in enumerate(tokens):
            name = "" if token in special else self.renderer.tokenizer.id_to_token(token) or ""
            text += bytes(BYTES[letter] for letter in name if letter in BYTES)
            if all(count >= _letter_bytes(text[-count]) for count in range(1, min(4, len(text)) + 1)):
                whole.append(place)
        return whole

    # --- the server ----------------------------------------------------------------------------------------------------

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.server.listening_address + path, timeout=SECONDS) as answer:
            return json.load(answer)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise ModelError(f"llama.cpp refuses the prompt ({error.read().decode()})", where=path) from error


def laid_out(renderer: Renderer, question: Question) -> Question:
    """The question with the tiles and ids that llama.cpp makes of it.

    llama.cpp shows the whole view beside tiles, even beside a single tile, which Hugging Face's processor shows once.
    """
    spec = renderer.images
    if question.image is None or spec is None:
        return question
    cut = replace(spec, split=True)
    grid, tiles = tile_grid(*question.image.size, cut), tile_pixels(question.image, cut)
    if not grid.rows:
        grid, tiles = Grid(1, 1), np.concatenate([tiles, tiles])
    before, _, after = prompt(renderer, question).partition(MARK)
    first, *middle, last = renderer.picture_pieces(grid)
    run = (renderer.image_id,) * renderer.image_tokens
    pieces = (run if piece is None else renderer.encode(piece) for piece in (f"{before}{first}", *middle, f"{last}{after}"))
    return replace(question, ids=np.concatenate([np.array(ids, np.int64) for ids in pieces]), tiles=tiles)


def prompt(renderer: Renderer, question: Question) -> str:
    """The prompt as a string, `MARK` where the picture stands."""
    chat = renderer.chat
    content = (question.text,) if question.image is None else (Media(ref=question.image), question.text)
    text = chat.begin
    for message in chat.messages((Message(role="user", content=content),)):
        parts = (part if isinstance(part, str) else MARK for part in chat.content(message.content))
        text += chat.open_turn(message.role) + "".join(parts) + chat.close + chat.after
    return text + chat.open_turn("assistant")


def needed() -> Any:
    """`xllamacpp`, when what writing and running GGUFs takes is here.

    Raises:
        ModelError: it is not.
    """
    try:
        import gguf  # noqa: F401
        import xllamacpp
    except ImportError as error:
        mend = "pip install 'smolforge[export]'"
        raise ModelError(f"exports to gguf need {error.name}, which is missing", mend=mend) from error
    return xllamacpp


def _letter_bytes(lead: int) -> int:
    """Bytes of a UTF-8 letter that begins with this one.

    >>> [_letter_bytes(letter.encode()[0]) for letter in "aé猫🐈"]
    [1, 2, 3, 4]
    """
    return 1 if lead >= 0xF8 else 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)


def _png(question: Question) -> str:
    """A question's picture, base64."""
    assert question.image is not None
    data = io.BytesIO()
    question.image.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()
