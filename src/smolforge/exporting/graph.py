"""A few words to write ONNX graphs with: nodes named by what they do, weights kept once.

The graphs are written node by node and not traced: `torch.onnx.export` of PyTorch 2.13 reasoned 341 seconds about the symbolic
lengths of SmolLM2-135M's 30 layers (20 about the tiny model's four), for the same nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

OPSET = 17  # the first with LayerNormalization; browsers' ONNX Runtime knows it, too
LIMIT = 2**31 - 2**27  # bytes a protobuf file holds, with room for the graph; more weights lie in a file beside it


class Graph:
    """A graph that grows: each method adds nodes and gives the name of what they compute.

    Args:
        half: keep matrices in float16; they are cast up when the graph is loaded, which computes in float32.
    """

    def __init__(self, name: str, *, half: bool = False) -> None:
        self.name, self.half = name, half
        self.nodes: list[Any] = []
        self.kept: dict[str, Any] = {}  # initialisers by name
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def input(self, name: str, kind: str, shape: Sequence[str | int]) -> str:
        """A graph's input. `kind` is float32, int64 or bool; names in `shape` are lengths that may vary."""
        self.inputs.append(_value(name, kind, shape))
        return name

    def output(self, name: str, shape: Sequence[str | int]) -> None:
        self.outputs.append(_value(name, "float32", shape))

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """One node of one output, which is called `name` or numbered."""
        from onnx import helper

        out = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def halves(self, x: str, width: int) -> list[str]:
        """x cut in two along its last axis, of `width` numbers."""
        from onnx import helper

        outs = [f"Split_{len(self.nodes)}_{side}" for side in ("a", "b")]
        sizes = self.ints(width // 2, width // 2)
        self.nodes.append(helper.make_node("Split", [x, sizes], outs, axis=-1))
        return outs

    def weight(self, name: str, tensor: torch.Tensor) -> str:
        """A weight under its name in the model."""
        values = tensor.detach().float().contiguous().numpy()
        if not self.half or values.ndim < 2:
            return self._keep(name, values)
        return self.op("Cast", self._keep(name, values.astype(np.float16)), to=1)

    def ints(self, *values: int) -> str:
        """A constant (n,) of int64."""
        return self._keep(f"ints_{'_'.join(map(str, values))}".replace("-", "m"), np.array(values, np.int64))

    def integer(self, value: int) -> str:
        """A constant int64 without axes."""
        return self._keep(f"int_{value}", np.array(value, np.int64))

    def number(self, value: float) -> str:
        """A constant float32 without axes."""
        return self._keep(f"number_{value!r}".replace("-", "m"), np.array(value, np.float32))

    def linear(self, x: str, name: str, layer: Any) -> str:
        """A linear layer, (.., in) -> (.., out)."""
        out = self.op("MatMul", x, self.weight(f"{name}.weight", layer.weight.T))
        return out if layer.bias is None else self.op("Add", out, self.weight(f"{name}.bias", layer.bias))

    def heads(self, x: str, heads: int, width: int) -> str:
        """(B, L, heads * width) -> (B, heads, L, width)."""
        return self.op("Transpose", self.op("Reshape", x, self.ints(0, 0, heads, width)), perm=[0, 2, 1, 3])

    def joined(self, x: str, size: int) -> str:
        """(B, heads, L, width) -> (B, L, size)."""
        return self.op("Reshape", self.op("Transpose", x, perm=[0, 2, 1, 3]), self.ints(0, 0, size))

    def save(self, file: Path) -> None:
        """Write the graph; weights beyond what protobuf holds go into FILE_data, where transformers.js looks for them."""
        import onnx
        from onnx import helper

        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, list(self.kept.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="smolforge", ir_version=8)
        if sum(len(tensor.raw_data) for tensor in self.kept.values()) > LIMIT:
            onnx.save_model(model, file, save_as_external_data=True, location=f"{file.name}_data")
        else:
            onnx.save_model(model, file)

    def _keep(self, name: str, values: np.ndarray) -> str:
        from onnx import numpy_helper

        if name not in self.kept:
            self.kept[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name


def _value(name: str, kind: str, shape: Sequence[str | int]) -> Any:
    from onnx import TensorProto, helper

    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
    return helper.make_tensor_value_info(name, kinds[kind], list(shape))
