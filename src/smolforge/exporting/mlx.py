"""Folders for Apple's MLX: mlx-vlm runs them where the model sees, mlx-lm where it does not.

What mlx_vlm.convert and mlx_lm.convert write, by their own functions, with two things mended that a folder of transformers 5
lacks: the rotary base stands where MLX looks for it (it would take its own default otherwise, and say something else), and a head
that is tied to the token table is written out for mlx-vlm.

Legend: L prompt tokens, N answer tokens, V vocabulary, T tiles.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from smolforge.data.render import Renderer
from smolforge.errors import ModelError
from smolforge.exporting.agreement import Keep, Question, Said, rounded
from smolforge.model.build import component
from smolforge.model.tree import TreeModel

# bits a weight of the decoder's matrices; the rest of a quantised folder is bfloat16
BITS = {"float32": None, "float16": None, "bfloat16": None, "8bit": 8, "4bit": 4}
GROUP = 64  # weights that share a scale, MLX's default


def write_mlx(folder: Path, model: TreeModel, processor: dict[str, bytes], *, dtype: str) -> None:
    """Write weights, configuration and the processor's files.

    Args:
        model: in float32, without adapters.
        processor: the checkpoint's files, from `training.checkpoint.processor_files`.
        dtype: one of `BITS`.

    Raises:
        ModelError: MLX is not installed.
    """
    mx = needed(model.has_vision)
    folder.mkdir(parents=True)
    config, weights = _configuration(model), _weights(model)
    with tempfile.TemporaryDirectory() as draft, redirect_stdout(StringIO()):  # their functions tell their steps
        save_file(weights, Path(draft) / "model.safetensors", metadata={"format": "pt"})
        (Path(draft) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        theirs = _loaded(Path(draft), model.has_vision)
        if model.has_vision:
            _same_positions(theirs)
        bits = BITS[dtype]
        kept = getattr(mx, "bfloat16" if bits else dtype)
        theirs.set_dtype(kept)
        if bits:
            theirs, config = _quantised(theirs, config, bits, sees=model.has_vision)
        if model.has_vision:
            from mlx_vlm.utils import save_weights

            save_weights(folder, theirs)
        else:
            from mlx_lm.utils import save_model

            save_model(folder, theirs)
    for name, content in processor.items():
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    whole: Any = model.model
    whole.generation_config.save_pretrained(folder)


def same_weights(model: TreeModel, dtype: str) -> TreeModel | None:
    """smolforge's model with weights as the folder keeps them; None when they are the same."""
    bits = BITS[dtype]
    if bits:
        return rounded(model, dtype=torch.bfloat16, keep=_kept(bits))
    return None if dtype == "float32" else rounded(model, dtype=getattr(torch, dtype))


def _kept(bits: int) -> Keep:
    """What MLX's quantisation leaves of a matrix: the decoder's whose width the group divides."""
    import mlx.core as mx

    def keep(name: str, matrix: torch.Tensor) -> torch.Tensor:
        if component(name) != "decoder" or matrix.shape[1] % GROUP:
            return matrix
        parts = mx.quantize(mx.array(matrix.numpy()).astype(mx.bfloat16), group_size=GROUP, bits=bits)
        return torch.from_numpy(np.array(mx.dequantize(*parts, group_size=GROUP, bits=bits).astype(mx.float32)))

    return keep


class Mlx:
    """An exported folder in mlx-vlm or mlx-lm.

    Raises:
        ModelError: MLX is not installed.
    """

    def __init__(self, folder: Path, renderer: Renderer) -> None:
        self.renderer, self.sees = renderer, renderer.images is not None
        self.mx = needed(self.sees)
        self.model = _loaded(folder, self.sees)

    def __call__(self, question: Question, answer: np.ndarray) -> Said:
        """Log-probs after the prompt and after each token of the answer, fed one by one from the cache."""
        from mlx_lm.models.cache import KVCache

        cache = [KVCache() for _ in self.model.layers]
        rows = [self._prompt(question, cache)]
        for token in answer.tolist():
            rows.append(self._last(self._decoder(self.mx.array([[token]]), cache=cache)))
        log_probs = torch.from_numpy(np.stack(rows)).log_softmax(-1).numpy()  # (N + 1, V)
        return Said(tokens=log_probs.argmax(1), places=np.arange(len(log_probs)), log_probs=log_probs)

    @property
    def _decoder(self) -> Any:
        return self.model.language_model if self.sees else self.model

    def _prompt(self, question: Question, cache: list[Any]) -> np.ndarray:
        """(V,) logits after the prompt."""
        ids = self.mx.array(question.ids[None])
        if not self.sees:
            return self._last(self._decoder(ids, cache=cache))
        pixels, given = question.pixels(self.renderer.images), None
        if pixels is not None:
            dtype = self.model.connector.modality_projection.proj.weight.dtype
            given = self.mx.array(pixels[None]).astype(dtype)  # (1, T, 3, P, P)
        embedded = self.model.get_input_embeddings(ids, given).inputs_embeds
        return self._last(self._decoder(ids, inputs_embeds=embedded, cache=cache))

    def _last(self, out: Any) -> np.ndarray:
        logits = getattr(out, "logits", out)
        return np.array(logits[0, -1].astype(self.mx.float32))


def needed(sees: bool) -> Any:
    """`mlx.core`, when what writing and running takes is here.

    Raises:
        ModelError: it is not.
    """
    try:
        import mlx.core as mx
        import mlx_lm  # noqa: F401

        if sees:
            import mlx_vlm  # noqa: F401
    except ImportError as error:
        raise ModelError(f"exports to mlx need {error.name}, which is missing", mend="pip install 'smolforge[mlx]'") from error
    return mx


def _configuration(model: TreeModel) -> dict[str, Any]:
    whole: Any = model.model
    config = whole.config.to_dict()
    text = config["text_config"] if model.has_vision else config
    text["rope_theta"] = model.decoder.config.rope_parameters["rope_theta"]
    text["head_dim"] = model.decoder.config.head_dim
    if model.has_vision:  # mlx-vlm knows no tied heads in this family
        config["tie_word_embeddings"] = text["tie_word_embeddings"] = False
    config["architectures"] = [type(whole).__name__]
    config.pop("dtype", None)
    return config


def _weights(model: TreeModel) -> dict[str, torch.Tensor]:
    """Hugging Face's names; each tensor has memory of its own."""
    tied = model.head.weight is model.decoder.embed_tokens.weight
    named = model.model.state_dict().items()
    return {name: weight.clone() for name, weight in named if not (tied and not model.has_vision and name == "lm_head.weight")}


def _loaded(folder: Path, sees: bool) -> Any:
    if sees:
        from mlx_vlm.utils import load_model

        return load_model(folder)
    from mlx_lm.utils import load_model as load_text

    return load_text(folder)[0]


def _same_positions(theirs: Any) -> None:
    """mlx-vlm gives every patch of a tile its own position.

    It finds positions by comparing fractions, which float32 rounds: that goes well where the patches of a side are a power of
    two, as the 32 of the 256M and 500M, and ill at the 27 of the 2.2B.

    Raises:
        ModelError: some patches would get the position of others.
    """
    import mlx.core as mx

    embeddings, side = theirs.vision_model.embeddings, theirs.vision_model.embeddings.num_patches_per_side
    blank = mx.zeros((1, embeddings.image_size, embeddings.image_size, 3))
    found, meant = embeddings(blank, mx.ones((1, side, side), dtype=mx.bool_)), embeddings(blank)
    wrong = int((mx.abs(found - meant).max(axis=-1) > 1e-3).sum())
    if wrong:
        what = f"mlx-vlm gives {wrong} of a tile's {side * side} patches the position of another (it rounds {side}ths in float32)"
        raise ModelError(what, mend="export to onnx")


def _quantised(theirs: Any, config: dict[str, Any], bits: int, *, sees: bool) -> tuple[Any, dict[str, Any]]:
    """The decoder's matrices quantised, as their convert commands do; tower and connector stay."""
    if not sees:
        from mlx_lm.utils import quantize_model

        return quantize_model(theirs, config, GROUP, bits)
    from mlx_vlm.quant_utils import quantize_model as quantize_both

    return quantize_both(theirs, config, GROUP, bits, quant_predicate=lambda path, module: path.startswith("language_model."))
