"""ONNX Runtime as a program to ask: the exported graphs run as transformers.js runs them, prompt first, then from the cache.

Legend: L prompt tokens, N answer tokens, V vocabulary, T tiles, S image tokens a tile, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from smolforge.data.render import Renderer
from smolforge.exporting.agreement import Question, Said
from smolforge.exporting.onnx import FOLDER, needed


class OnnxRuntime:
    """An exported model in ONNX Runtime, on the CPU.

    Raises:
        ModelError: ONNX Runtime is not installed.
    """

    def __init__(self, folder: Path, renderer: Renderer) -> None:
        needed()
        self.renderer = renderer
        self.graphs = {path.stem.removesuffix("_fp16"): _session(path) for path in (folder / FOLDER).glob("*.onnx")}

    def __call__(self, question: Question, answer: np.ndarray) -> Said:
        """Log-probs at every place, the answer fed token by token."""
        logits, past = self._decode(self._embedded(question), 0, None)
        rows = [logits[-1]]
        for number, token in enumerate(answer.tolist()):
            ids = np.array([[token]], np.int64)
            logits, past = self._decode(self._tokens(ids), len(question.ids) + number, past)
            rows.append(logits[-1])
        log_probs = torch.from_numpy(np.stack(rows)).log_softmax(-1).numpy()  # (N + 1, V)
        return Said(tokens=log_probs.argmax(1), places=np.arange(len(log_probs)), log_probs=log_probs)

    def _decode(self, first: np.ndarray, before: int, past: list[np.ndarray] | None) -> tuple[np.ndarray, list[np.ndarray]]:
        """(L, V) logits and the cache after `first`, which stands after `before` tokens."""
        graph = self.graphs["decoder_model_merged"] if "decoder_model_merged" in self.graphs else self.graphs["model"]
        inputs = graph.get_inputs()
        if past is None:
            past = [np.zeros((1, entry.shape[1], 0, entry.shape[3]), np.float32) for entry in inputs[3:]]
        length = first.shape[1]
        given = [first, np.ones((1, before + length), np.int64), before + np.arange(length)[None], *past]
        logits, *present = graph.run(None, {entry.name: value for entry, value in zip(inputs, given, strict=True)})
        return logits[0], present

    def _embedded(self, question: Question) -> np.ndarray:
        """The prompt as the decoder's first input: (1, L, D) with the picture's features in their places, or (1, L) ids."""
        ids = question.ids[None]
        hidden = self._tokens(ids)
        pixels = question.pixels(self.renderer.images)
        if pixels is not None:
            mask = np.ones((1, len(pixels), *pixels.shape[2:]), bool)
            given = {"pixel_values": pixels[None], "pixel_attention_mask": mask}
            (features,) = self.graphs["vision_encoder"].run(["image_features"], given)  # (T, S, D)
            hidden[ids == self.renderer.image_id] = features.reshape(-1, features.shape[-1])
        return hidden

    def _tokens(self, ids: np.ndarray) -> np.ndarray:
        if "embed_tokens" not in self.graphs:
            return ids
        return self.graphs["embed_tokens"].run(["inputs_embeds"], {"input_ids": ids})[0]


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
