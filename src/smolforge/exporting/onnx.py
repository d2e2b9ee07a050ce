"""ONNX files in the layout that transformers.js and onnx-community's SmolVLM folders have.

    onnx/vision_encoder.onnx         pixel_values (B, T, 3, P, P), pixel_attention_mask (B, T, P, P) -> image_features (N, S, D)
    onnx/embed_tokens.onnx           input_ids (B, L) -> inputs_embeds (B, L, D)
    onnx/decoder_model_merged.onnx   inputs_embeds, attention_mask (B, C + L), position_ids (B, L), past_key_values.0.key ..
                                     (B, G, C, E) -> logits (B, L, V), present.0.key .. (B, G, C + L, E)
    config.json, tokenizer.json, preprocessor_config.json, ..

A text model is one file, onnx/model.onnx: the decoder with input_ids in place of inputs_embeds. With float16 names end in _fp16.

Legend: B prompts, L new tokens, C cached tokens, T tiles of a prompt, N real tiles of all, P tile edge, S image tokens a tile,
D width, H heads, G key-value heads, E head width, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from smolforge.errors import ModelError
from smolforge.exporting.agreement import rounded
from smolforge.exporting.graph import Graph
from smolforge.model.tree import TreeModel

DTYPES = {"float32": "", "float16": "_fp16"}  # what the files' names end in
FOLDER = "onnx"
BOOL, FLOAT = 9, 1  # ONNX's numbers of types
LOWEST = float(np.finfo(np.float32).min)


def write_onnx(folder: Path, model: TreeModel, processor: dict[str, bytes], *, dtype: str) -> None:
    """Write the graphs, with config.json and the processor's files beside them.

    Args:
        model: in float32, without adapters.
        processor: the checkpoint's files, from `training.checkpoint.processor_files`.
        dtype: of the matrices in the files, one of `DTYPES`; the graphs compute in float32, and so is what goes in and out.

    Raises:
        ModelError: onnx is not installed.
    """
    needed()
    (folder / FOLDER).mkdir(parents=True)
    graphs = [vision_graph(model, dtype), embedding_graph(model, dtype)] if model.has_vision else []
    for graph in (*graphs, decoder_graph(model, dtype)):
        graph.save(folder / FOLDER / f"{graph.name}{DTYPES[dtype]}.onnx")
    for name, content in processor.items():
        (folder / name).write_bytes(content)
    whole: Any = model.model
    whole.config.save_pretrained(folder)
    whole.generation_config.save_pretrained(folder)


def same_weights(model: TreeModel, dtype: str) -> TreeModel | None:
    """smolforge's model with weights as the files keep them; None when they are the same."""
    return rounded(model, keep=lambda name, matrix: matrix.half().float()) if dtype == "float16" else None


def vision_graph(model: TreeModel, dtype: str) -> Graph:
    """Tiles through tower and connector; tiles that only fill a batch up, where the mask is 0, are left out."""
    vision, config = model.vision, model.vision.config
    graph = Graph("vision_encoder", half=dtype == "float16")
    size, width = config.image_size, config.hidden_size
    pixels = graph.input("pixel_values", "float32", ("prompts", "tiles", 3, size, size))
    mask = graph.input("pixel_attention_mask", "bool", ("prompts", "tiles", size, size))
    flat = _cast(graph, graph.op("Reshape", mask, graph.ints(-1, size * size)), FLOAT)
    filled = graph.op("ReduceMax", flat, axes=[1], keepdims=0)
    tiles = graph.op("Reshape", pixels, graph.ints(-1, 3, size, size))
    tiles = graph.op("Compress", tiles, _cast(graph, filled, BOOL), axis=0)  # (N, 3, P, P)
    patch = vision.embeddings.patch_embedding
    kernel = graph.weight("patch.weight", patch.weight)
    hidden = graph.op("Conv", tiles, kernel, graph.weight("patch.bias", patch.bias), strides=[config.patch_size] * 2)
    hidden = graph.op("Transpose", graph.op("Reshape", hidden, graph.ints(0, width, -1)), perm=[0, 2, 1])  # (N, patches, width)
    hidden = graph.op("Add", hidden, graph.weight("positions", vision.embeddings.position_embedding.weight))
    for number, layer in enumerate(vision.encoder.layers):
        hidden = _vision_layer(graph, hidden, f"layers.{number}", layer, config)
    hidden = _layer_norm(graph, hidden, "post", vision.post_layernorm)
    shuffle, side = model.connector.scale_factor, size // config.patch_size
    across = side // shuffle
    hidden = graph.op("Reshape", hidden, graph.ints(-1, side, across, width * shuffle))
    hidden = graph.op("Transpose", hidden, perm=[0, 2, 1, 3])
    hidden = graph.op("Reshape", hidden, graph.ints(-1, across, across, width * shuffle**2))
    hidden = graph.op("Transpose", hidden, perm=[0, 2, 1, 3])
    hidden = graph.op("Reshape", hidden, graph.ints(-1, across**2, width * shuffle**2))
    projection = graph.weight("projection", model.connector.modality_projection.proj.weight.T)
    graph.op("MatMul", hidden, projection, name="image_features")
    graph.output("image_features", ("real tiles", across**2, model.decoder.config.hidden_size))
    return graph


def _vision_layer(graph: Graph, hidden: str, name: str, layer: Any, config: Any) -> str:
    """One SigLIP layer, (N, patches, width) -> (N, patches, width)."""
    attn, heads, width = layer.self_attn, config.num_attention_heads, config.hidden_size // config.num_attention_heads
    x = _layer_norm(graph, hidden, f"{name}.norm1", layer.layer_norm1)
    parts = {part: graph.linear(x, f"{name}.{part}", getattr(attn, part)) for part in ("q_proj", "k_proj", "v_proj")}
    q, k, v = (graph.heads(part, heads, width) for part in parts.values())
    scores = graph.op("MatMul", q, graph.op("Transpose", k, perm=[0, 1, 3, 2]))
    shares = graph.op("Softmax", graph.op("Mul", scores, graph.number(width**-0.5)), axis=-1)
    mixed = graph.joined(graph.op("MatMul", shares, v), config.hidden_size)
    hidden = graph.op("Add", hidden, graph.linear(mixed, f"{name}.out_proj", attn.out_proj))
    x = _layer_norm(graph, hidden, f"{name}.norm2", layer.layer_norm2)
    x = _gelu(graph, graph.linear(x, f"{name}.fc1", layer.mlp.fc1))
    return graph.op("Add", hidden, graph.linear(x, f"{name}.fc2", layer.mlp.fc2))


def embedding_graph(model: TreeModel, dtype: str) -> Graph:
    graph = Graph("embed_tokens", half=dtype == "float16")
    ids = graph.input("input_ids", "int64", ("prompts", "length"))
    graph.op("Gather", graph.weight("table", model.decoder.embed_tokens.weight), ids, name="inputs_embeds")
    graph.output("inputs_embeds", ("prompts", "length", model.decoder.config.hidden_size))
    return graph


def decoder_graph(model: TreeModel, dtype: str) -> Graph:
    """The Llama with its cache going in and out."""
    config = model.decoder.config
    size, groups, width = config.hidden_size, config.num_key_value_heads, config.head_dim
    graph = Graph("decoder_model_merged" if model.has_vision else "model", half=dtype == "float16")
    table = None
    if model.has_vision:
        hidden = graph.input("inputs_embeds", "float32", ("prompts", "length", size))
    else:
        ids = graph.input("input_ids", "int64", ("prompts", "length"))
        table = graph.weight("table", model.decoder.embed_tokens.weight)
        hidden = graph.op("Gather", table, ids)
    mask = graph.input("attention_mask", "int64", ("prompts", "cached and length"))
    positions = graph.input("position_ids", "int64", ("prompts", "length"))
    past = [
        [graph.input(f"past_key_values.{n}.{kind}", "float32", ("prompts", groups, "cached", width)) for kind in ("key", "value")]
        for n in range(config.num_hidden_layers)
    ]
    graph.output("logits", ("prompts", "length", config.vocab_size))
    turn = _rotation(graph, positions, model)
    seen = _causal(graph, hidden, past[0][0], mask)
    for number, (layer, cache) in enumerate(zip(model.decoder.layers, past, strict=True)):
        hidden = _decoder_layer(graph, hidden, number, layer, cache, turn, seen, config)
        for kind in ("key", "value"):
            graph.output(f"present.{number}.{kind}", ("prompts", groups, "cached and length", width))
    hidden = _rms_norm(graph, hidden, "norm", model.decoder.norm)
    if table is not None and model.head.weight is model.decoder.embed_tokens.weight:
        head = graph.op("Transpose", table, perm=[1, 0])  # tied: kept once
    else:
        head = graph.weight("head", model.head.weight.T)
    graph.op("MatMul", hidden, head, name="logits")
    return graph


def _rotation(graph: Graph, positions: str, model: TreeModel) -> tuple[str, str]:
    """Cosine and sine of each place's angles, (B, 1, L, E) each."""
    place = graph.op("Unsqueeze", _cast(graph, positions, FLOAT), graph.ints(1, 3))  # (B, 1, L, 1)
    angles = graph.op("Mul", place, graph.weight("frequencies", model.decoder.rotary_emb.inv_freq))  # (B, 1, L, E / 2)
    angles = graph.op("Concat", angles, angles, axis=-1)
    return graph.op("Cos", angles), graph.op("Sin", angles)


def _causal(graph: Graph, hidden: str, cached: str, mask: str) -> tuple[str, str]:
    """What is added to scores, (B, 1, L, C + L): 0 for tokens that may be seen; and the shape (1,) of C + L."""
    before = graph.op("Gather", graph.op("Shape", cached), graph.integer(2))
    total = graph.op("Add", before, graph.op("Gather", graph.op("Shape", hidden), graph.integer(1)))
    keys = graph.op("Range", graph.integer(0), total, graph.integer(1))  # (C + L,)
    queries = graph.op("Unsqueeze", graph.op("Range", before, total, graph.integer(1)), graph.ints(1))  # (L, 1)
    real = graph.op("Unsqueeze", _cast(graph, mask, BOOL), graph.ints(1, 2))  # (B, 1, 1, C + L)
    seen = graph.op("And", graph.op("LessOrEqual", keys, queries), real)
    return graph.op("Where", seen, graph.number(0.0), graph.number(LOWEST)), graph.op("Unsqueeze", total, graph.ints(0))


def _decoder_layer(
    graph: Graph,
    hidden: str,
    number: int,
    layer: Any,
    cache: list[str],
    turn: tuple[str, str],
    seen: tuple[str, str],
    config: Any,
) -> str:
    """One Llama layer, (B, L, D) -> (B, L, D); adds its part to the cache.

    Args:
        cache: names of the keys and values so far.
        turn: from `_rotation`.
        seen: from `_causal`.
    """
    bias, total = seen
    heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    attn, mlp, name = layer.self_attn, layer.mlp, f"layers.{number}"
    x = _rms_norm(graph, hidden, f"{name}.norm1", layer.input_layernorm)
    q = _turned(graph, graph.heads(graph.linear(x, f"{name}.q_proj", attn.q_proj), heads, width), turn, width)
    k = _turned(graph, graph.heads(graph.linear(x, f"{name}.k_proj", attn.k_proj), groups, width), turn, width)
    v = graph.heads(graph.linear(x, f"{name}.v_proj", attn.v_proj), groups, width)
    k = graph.op("Concat", cache[0], k, axis=2, name=f"present.{number}.key")  # (B, G, C + L, E)
    v = graph.op("Concat", cache[1], v, axis=2, name=f"present.{number}.value")
    q = graph.op("Reshape", q, graph.ints(0, groups, -1, width))  # (B, G, H / G * L, E): heads of a group share their keys
    scores = graph.op("MatMul", q, graph.op("Transpose", k, perm=[0, 1, 3, 2]))
    by_head = graph.op("Concat", graph.ints(0, heads, -1), total, axis=0)
    scores = graph.op("Reshape", graph.op("Mul", scores, graph.number(attn.scaling)), by_head)  # (B, H, L, C + L)
    shares = graph.op("Softmax", graph.op("Add", scores, bias), axis=-1)
    by_group = graph.op("Concat", graph.ints(0, groups, -1), total, axis=0)
    mixed = graph.op("MatMul", graph.op("Reshape", shares, by_group), v)
    mixed = graph.joined(graph.op("Reshape", mixed, graph.ints(0, heads, -1, width)), heads * width)
    hidden = graph.op("Add", hidden, graph.linear(mixed, f"{name}.o_proj", attn.o_proj))
    x = _rms_norm(graph, hidden, f"{name}.norm2", layer.post_attention_layernorm)
    gate = graph.linear(x, f"{name}.gate_proj", mlp.gate_proj)
    gate = graph.op("Mul", gate, graph.op("Sigmoid", gate))  # SiLU
    x = graph.op("Mul", gate, graph.linear(x, f"{name}.up_proj", mlp.up_proj))
    return graph.op("Add", hidden, graph.linear(x, f"{name}.down_proj", mlp.down_proj))


def _turned(graph: Graph, x: str, turn: tuple[str, str], width: int) -> str:
    """Rotary positions on (B, heads, L, E): x cos + (-x2, x1) sin."""
    first, second = graph.halves(x, width)
    crossed = graph.op("Concat", graph.op("Neg", second), first, axis=-1)
    return graph.op("Add", graph.op("Mul", x, turn[0]), graph.op("Mul", crossed, turn[1]))


def _rms_norm(graph: Graph, x: str, name: str, norm: Any) -> str:
    square = graph.op("ReduceMean", graph.op("Mul", x, x), axes=[-1])
    root = graph.op("Sqrt", graph.op("Add", square, graph.number(norm.variance_epsilon)))
    return graph.op("Mul", graph.op("Div", x, root), graph.weight(f"{name}.weight", norm.weight))


def _layer_norm(graph: Graph, x: str, name: str, norm: Any) -> str:
    weights = graph.weight(f"{name}.weight", norm.weight), graph.weight(f"{name}.bias", norm.bias)
    return graph.op("LayerNormalization", x, *weights, epsilon=norm.eps, axis=-1)


def _gelu(graph: Graph, x: str) -> str:
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), which transformers calls gelu_pytorch_tanh."""
    cube = graph.op("Mul", graph.op("Mul", x, x), x)
    inner = graph.op("Add", x, graph.op("Mul", cube, graph.number(0.044715)))
    tanh = graph.op("Tanh", graph.op("Mul", inner, graph.number((2 / np.pi) ** 0.5)))
    return graph.op("Mul", graph.op("Mul", x, graph.number(0.5)), graph.op("Add", tanh, graph.number(1.0)))


def _cast(graph: Graph, x: str, kind: int) -> str:
    return graph.op("Cast", x, to=kind)


def needed() -> None:
    """What writing and running ONNX takes is here.

    Raises:
        ModelError: it is not.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        mend = "pip install 'smolforge[export]'"
        raise ModelError(f"exports to onnx need {error.name}, which is missing", mend=mend) from error
