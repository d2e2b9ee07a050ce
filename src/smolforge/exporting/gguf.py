"""llama.cpp's files: the decoder as one GGUF, tower and connector as another, the mmproj.

Keys and names of tensors are those that llama.cpp's convert_hf_to_gguf.py writes for `LlamaForCausalLM` and for the vision part
of Idefics3 and SmolVLM, so that every program of that family reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from smolforge.data.render import Renderer
from smolforge.errors import ModelError
from smolforge.exporting.agreement import rounded
from smolforge.exporting.vocabulary import write_vocabulary
from smolforge.model.tree import TreeModel

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}  # by gguf's names
TEXT_FILE, VISION_FILE = "model-{}.gguf", "mmproj-model-{}.gguf"


def write_gguf(folder: Path, model: TreeModel, renderer: Renderer, processor: dict[str, bytes], *, name: str, dtype: str) -> None:
    """Write model-DTYPE.gguf and, where the model sees, mmproj-model-DTYPE.gguf.

    Args:
        model: in float32, without adapters.
        processor: the checkpoint's files, from `training.checkpoint.processor_files`.
        name: of the model, for people.
        dtype: of the matrices, one of `DTYPES`; vectors, positions and (but for float16) the patches' kernel stay float32.

    Raises:
        ModelError: rotary positions or a tokenizer that llama.cpp would read otherwise.
    """
    folder.mkdir(parents=True)
    if model.has_vision and len(renderer.encode("\n\n")) != 1:
        raise ModelError(
            "the tokenizer has no token of its own for an empty line, with which llama.cpp begins a picture's whole view",
            where=name, mend="export to onnx",
        )  # fmt: skip
    _write_text(text_file(folder, dtype), model, renderer, processor, name, dtype)
    if model.has_vision:
        _write_vision(vision_file(folder, dtype), model, renderer, name, dtype)


def text_file(folder: Path, dtype: str) -> Path:
    return folder / TEXT_FILE.format(DTYPES[dtype].lower())


def vision_file(folder: Path, dtype: str) -> Path:
    return folder / VISION_FILE.format(DTYPES[dtype].lower())


def same_weights(model: TreeModel, dtype: str) -> TreeModel:
    """smolforge's model as llama.cpp computes it: weights of that dtype and, on a CPU, the tower's pixels and GELU in float16."""
    if dtype in ("float16", "bfloat16"):
        return rounded(model, dtype=getattr(torch, dtype))
    copy = rounded(model, keep=_q8_0 if dtype == "q8_0" else None)
    if copy.has_vision:
        embeddings = copy.vision.embeddings
        embeddings.patch_embedding = _HalfPatches(embeddings.patch_embedding)
        for layer in copy.vision.encoder.layers:
            layer.mlp.activation_fn = _HalfGelu(layer.mlp.activation_fn)
    return copy


class _HalfPatches(nn.Module):
    """A convolution of float16 numbers, summed in float32."""

    def __init__(self, kernel: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias, self.stride = kernel.weight, kernel.bias, kernel.stride

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return F.conv2d(pixels.half().float(), self.weight.half().float(), self.bias, self.stride)


class _HalfGelu(nn.Module):
    """GELU from a table of float16 numbers."""

    def __init__(self, gelu: nn.Module) -> None:
        super().__init__()
        self.gelu = gelu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gelu(x.half().float()).half().float()


def _q8_0(name: str, matrix: torch.Tensor) -> torch.Tensor:
    """What Q8_0 leaves of a matrix (out, in): 8 bits a weight, one float16 scale for 32; float16 where 32 does not divide."""
    import gguf

    if matrix.shape[-1] % 32:
        return matrix.half().float()
    kind = gguf.GGMLQuantizationType.Q8_0
    return torch.from_numpy(gguf.dequantize(gguf.quantize(matrix.numpy(), kind), kind))


def _write_text(file: Path, model: TreeModel, renderer: Renderer, processor: dict[str, bytes], name: str, dtype: str) -> None:
    import gguf

    config = model.decoder.config
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise ModelError(f"rotary positions of kind {rope['rope_type']}", where=name, mend="SmolLM2 and SmolVLM have plain ones")
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_file_type(writer, dtype)
    write_vocabulary(writer, renderer.tokenizer, processor, config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    _write(writer, names, _text_tensors(model), dtype)


def _text_tensors(model: TreeModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Hugging Face's names and weights; queries' and keys' rows in llama.cpp's order."""
    config = model.decoder.config
    for name, weight in model.decoder.state_dict().items():
        if name.endswith(".q_proj.weight"):
            weight = interleaved(weight, config.num_attention_heads)
        elif name.endswith(".k_proj.weight"):
            weight = interleaved(weight, config.num_key_value_heads)
        yield f"model.{name}", weight
    if model.head.weight is not model.decoder.embed_tokens.weight:  # tied: llama.cpp takes the token table
        yield "lm_head.weight", model.head.weight


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key projection for llama.cpp's rotation: it turns neighbours, Hugging Face the two halves of a head.

    >>> interleaved(torch.arange(8)[:, None], 2).flatten().tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(weight.shape)


def _write_vision(file: Path, model: TreeModel, renderer: Renderer, name: str, dtype: str) -> None:
    import gguf

    config, spec = model.vision.config, renderer.images
    assert spec is not None
    if config.hidden_act != "gelu_pytorch_tanh":
        raise ModelError(f"a tower with {config.hidden_act}", where=name, mend="SmolVLM's SigLIP has gelu_pytorch_tanh")
    writer = gguf.GGUFWriter(file, "clip")
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_name(name)
    _add_file_type(writer, dtype)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(gguf.VisionProjectorType.IDEFICS3)
    writer.add_vision_projection_dim(model.decoder.config.hidden_size)
    writer.add_vision_image_size(config.image_size)
    writer.add_vision_patch_size(config.patch_size)
    writer.add_vision_embedding_length(config.hidden_size)
    writer.add_vision_feed_forward_length(config.intermediate_size)
    writer.add_vision_block_count(config.num_hidden_layers)
    writer.add_vision_head_count(config.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(config.layer_norm_eps)
    writer.add_vision_image_mean(list(spec.mean))
    writer.add_vision_image_std(list(spec.std))
    writer.add_vision_projector_scale_factor(model.connector.scale_factor)
    writer.add_vision_use_gelu(True)
    writer.add_vision_preproc_image_size(spec.longest_edge)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, config.num_hidden_layers)
    tensors = [(f"model.vision_model.{key}", weight) for key, weight in model.vision.state_dict().items()]
    tensors += [(f"model.connector.{key}", weight) for key, weight in model.connector.state_dict().items()]
    _write(writer, names, iter(tensors), dtype)


def _add_file_type(writer: Any, dtype: str) -> None:
    import gguf

    kinds = gguf.LlamaFileType
    writer.add_file_type(
        {"float32": kinds.ALL_F32, "float16": kinds.MOSTLY_F16, "bfloat16": kinds.MOSTLY_BF16, "q8_0": kinds.MOSTLY_Q8_0}[dtype]
    )
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _write(writer: Any, names: Any, tensors: Iterator[tuple[str, torch.Tensor]], dtype: str) -> None:
    """The tensors under llama.cpp's names, then the whole file."""
    import gguf

    for name, weight in tensors:
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ModelError("a weight that llama.cpp has no name for", where=name)
        kind = _kind(theirs, weight, dtype)
        values = np.ascontiguousarray(weight.detach().float().numpy())
        writer.add_tensor(theirs, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _kind(name: str, weight: torch.Tensor, dtype: str) -> Any:
    """How a tensor is kept. llama.cpp adds vectors and positions in float32, and convolves in float32 or float16 only."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    if weight.ndim < 2 or "position_embd" in name:
        return kinds.F32
    if "patch_embd" in name:
        return kinds.F16 if dtype == "float16" else kinds.F32
    if dtype == "q8_0" and weight.shape[-1] % 32:
        return kinds.F16
    return kinds[DTYPES[dtype]]
