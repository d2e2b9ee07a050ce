"""Frozen weights in 4 or 8 bits, so that adapters train where the whole model does not fit (QLoRA, Dettmers et al. 2023).

bitsandbytes' layers take the place of the linear layers inside Hugging Face's model, one after the other, so the token tree's
forward and PEFT run over them as they are. They are made to compute the same while training and while measuring, see `_four_bits`
and `_eight_bits`.

Of the adapters, pissa cannot stand beside any kind: it takes its start out of the base weights, and quantised ones cannot be
changed. A recipe with both is refused. All other methods were run on a CPU, float32 and bfloat16, forward and backward: lora,
rslora, dora, adalora, vera, ia3 in PEFT's layers for plain linear ones. Those it has for bitsandbytes, which the model's mark
is_loaded_in_4bit or is_loaded_in_8bit would bring, say float32 behind IA3 (all kinds) and fail in AdaLoRA (int8) when the model
is in bfloat16; so the mark is left out.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import nn

from smolforge.errors import RecipeError
from smolforge.model.build import component
from smolforge.recipe import QuantizeSection

PARTS = {"text": "decoder", "vision": "vision"}
DEVICES = ("cpu", "cuda")  # bitsandbytes has none of int8's kernels for MPS, and its 4-bit ones were not tried there
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
BLOCK = 64  # weights that share a scale (4-bit kinds)
SCALE_BLOCK = 256  # scales that share a scale of their own (double)


def quantize(model: Any, section: QuantizeSection) -> list[str]:
    """Put quantised layers in the place of the linear layers inside the parts' layers, on the device they lie on.

    Embeddings, head, norms, connector and patch embedding stay as they are; so do layers whose shape `fits` not. One layer is
    quantised at a time, so the peak is the model and one layer. Everything is frozen, and outputs keep the model's dtype.

    Args:
        model: a SmolVLM, Idefics3 or Llama model of Hugging Face's, float32 or bfloat16, without adapters.

    Returns:
        Full names of the layers that were replaced.

    Raises:
        RecipeError: bitsandbytes is missing, or does not do this on the device; or the parts have no such layers.
    """
    bnb, names = bitsandbytes("quantize"), layers_to_pack(model, section)
    if not names:
        raise RecipeError(
            f"this model has no layers in {', '.join(section.on)} to quantise", where="quantize.on", mend="choose other parts"
        )
    device = model.get_submodule(names[0]).weight.device
    if device.type not in DEVICES:
        raise RecipeError(
            f"{section.kind} does not run on {device.type}",
            where="quantize",
            mend=f"set run.device to {' or '.join(DEVICES)}, or leave quantize out",
        )
    model.requires_grad_(False)
    for name in names:  # by name, so that nothing keeps a replaced layer's weights
        make = _eight_bits if section.kind == "int8" else _four_bits
        model.set_submodule(name, make(bnb, model.get_submodule(name), section).train(model.training))
    return names  # PEFT's mark is_loaded_in_4bit is left out on purpose, see above


def layers_to_pack(model: nn.Module, section: QuantizeSection) -> list[str]:
    """Full names of the linear layers inside the parts' layers that `quantize` puts quantised ones in the place of."""
    return [name for name, layer in _layers(model, section) if fits(_shape(layer), section)]


def left_whole(model: nn.Module, section: QuantizeSection) -> list[str]:
    """Full names of the linear layers inside the parts' layers that `quantize` leaves, or has left, as they are."""
    return [name for name, layer in _layers(model, section) if not fits(_shape(layer), section)]


def fits(shape: tuple[int, int], section: QuantizeSection) -> bool:
    """Whether a linear layer of a shape (out, in) is quantised: int8 always, 4 bits where its rows are whole blocks of 64.

    bitsandbytes' blocks run over the ends of rows, but its kernel for processors with AVX-512 begins anew with each row: random
    weights (1152, 4304) come back with an error of 25 % instead of 9 %. In this family that concerns only the second layer of the
    MLPs in the 2.2B's tower. It stays whole on every device, so that all compute the same.

    >>> fits((576, 1536), QuantizeSection()), fits((1152, 4304), QuantizeSection())
    (True, False)
    """
    return section.kind == "int8" or shape[1] % BLOCK == 0


def _layers(model: nn.Module, section: QuantizeSection) -> Iterator[tuple[str, Any]]:
    parts = {PARTS[part] for part in section.on}
    for name, module in model.named_modules():
        if type(module) is nn.Linear and ".layers." in f".{name}" and component(f"{name}.weight") in parts:
            yield name, module


def _shape(layer: Any) -> tuple[int, int]:
    return layer.out_features, layer.in_features


def _four_bits(bnb: ModuleType, linear: Any, section: QuantizeSection) -> Any:
    """bitsandbytes packs weights anew for processors with AVX512-BF16 when a layer is first used outside training; from then on
    it computes in bfloat16 whatever is asked for, and lets no gradient through. That is switched off."""
    compute = DTYPES[section.compute]
    layer = bnb.nn.Linear4bit(linear.in_features, linear.out_features, bias=False, compute_dtype=compute, device="meta")
    layer.support_avx512bf16_for_cpu = False
    layer.weight = bnb.nn.Params4bit(
        linear.weight.detach(),
        requires_grad=False,
        compress_statistics=section.double,
        quant_type=section.kind,
        blocksize=BLOCK,
        module=layer,
    ).to(linear.weight.device)
    layer.weight.quant_state.dtype = compute  # the forward pass does not ask; the backward one and PEFT's DoRA do
    if linear.bias is not None:  # the layer would round it at its first use, which changed the model's fingerprint
        layer.bias = nn.Parameter(linear.bias.detach().to(compute), requires_grad=False)
    return layer


def _eight_bits(bnb: ModuleType, linear: Any, section: QuantizeSection) -> Any:
    """On a CPU bitsandbytes rounds the activations too, but only outside training: there they are never rounded. On CUDA they
    always are, except for outliers (LLM.int8(), Dettmers et al. 2022, with its threshold 6); a run moved from one to the other
    goes on with slightly other numbers."""
    layer = bnb.nn.Linear8bitLt(
        linear.in_features, linear.out_features, bias=False, has_fp16_weights=False, threshold=6.0, device="meta"
    )
    weight = bnb.nn.Int8Params(linear.weight.detach(), requires_grad=False, has_fp16_weights=False)
    if weight.device.type == "cpu":
        layer.weight = weight.to("cpu")
        layer.register_forward_pre_hook(_as_in_training)
    else:
        layer.weight = weight.cpu().to(linear.weight.device)  # quantises on its way to the device
    layer.compute_dtype = linear.weight.dtype  # bitsandbytes takes the input's; PEFT makes adapters in what stands here
    layer.bias = linear.bias
    return layer


def _as_in_training(layer: Any, _: Any) -> None:
    layer.training = True
    if layer.weight.SCB is None:  # the scales are in the layer's state since its first use; PEFT's DoRA puts a weight back that
        layer.weight.CB = None  # asks to be taken up again, without any


def bitsandbytes(where: str) -> ModuleType:
    """The package, without its search for kernels on the Hub, which loads code from there and is of no use here.

    Raises:
        RecipeError: not installed.
    """
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level, kernels = log.level, sys.modules.get("kernels")
    log.setLevel(logging.ERROR)
    sys.modules["kernels"] = None  # type: ignore[assignment]  # Python's way to say: cannot be imported
    try:
        import bitsandbytes as package
    except ImportError as error:
        raise RecipeError(
            f"needs the bitsandbytes package ({error})", where=where, mend="pip install 'smolforge[quantize]'"
        ) from error
    finally:
        log.setLevel(level)
        del sys.modules["kernels"]
        if kernels is not None:
            sys.modules["kernels"] = kernels
    return package


def keep_out_kernels() -> None:
    """Import bitsandbytes where it is installed, before PEFT does, whose import would let it search the Hub."""
    if importlib.util.find_spec("bitsandbytes"):
        bitsandbytes("adapters")


def dequantize(module: Any) -> torch.Tensor:
    """The weight that a linear layer computes with, (out, in) float32. Of a layer with adapters, the one they stand beside.

    It is rounded to the dtype that the layer computes in.
    """
    while hasattr(module, "base_layer"):
        module = module.base_layer
    weight = module.weight
    if getattr(weight, "quant_state", None) is not None:
        return bitsandbytes("quantize").functional.dequantize_4bit(weight.data, weight.quant_state).float()
    if weight.dtype == torch.int8:
        scaled = weight.detach().to(module.compute_dtype).mul_(_scales(module)[:, None] * (1 / 127))
        return scaled.float()
    return weight.detach().float()


def _scales(module: Any) -> torch.Tensor:
    """Largest absolute weight of each output of an int8 layer, (out,); its first use moves them from the weight to its state."""
    return module.state.SCB if module.weight.SCB is None else module.weight.SCB


def stored_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of a model's weights as they lie in memory: `{"decoder.weights": ..., "decoder.constants": ..., ...}`.

    Constants are what turns quantised numbers back into weights: scales, scales of scales, code tables. Weights are all
    parameters, adapters included; tied ones count once.
    """
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = component(name)
        sizes[f"{part}.weights"] = sizes.get(f"{part}.weights", 0) + parameter.nbytes
        constants = _constants(model.get_submodule(name.rpartition(".")[0]), parameter)
        sizes[f"{part}.constants"] = sizes.get(f"{part}.constants", 0) + sum(tensor.nbytes for tensor in constants)
    return sizes


def _constants(module: Any, parameter: Any) -> list[torch.Tensor]:
    if (state := getattr(parameter, "quant_state", None)) is not None:
        nested = [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
        return [state.absmax, state.code, *nested]
    return [_scales(module)] if parameter.dtype == torch.int8 else []


def predicted_bytes(shape: tuple[int, int], section: QuantizeSection) -> tuple[int, int]:
    """(weights, constants) of one quantised layer in bytes, from its shape (out, in) alone, which must be one that `fits`.
    The bias is not counted: it is kept in section.compute (4-bit kinds), or as it is (int8).

    NF4 of 576 x 576: 165,888 bytes of weights. Without double 5,184 scales of 4 bytes and a table of 16 numbers; with it, a byte
    a scale, 21 scales of scales, their offset, and two tables of 16 and 256 numbers. int8: one scale an output.

    >>> predicted_bytes((576, 576), QuantizeSection(double=False)), predicted_bytes((576, 576), QuantizeSection())
    ((165888, 20800), (165888, 6360))
    >>> predicted_bytes((576, 576), QuantizeSection(kind="int8"))
    (331776, 2304)
    """
    rows, columns = shape
    if section.kind == "int8":
        return rows * columns, 4 * rows
    assert fits(shape, section), "such a layer stays whole"
    scales = rows * columns // BLOCK
    constants = scales + 4 * math.ceil(scales / SCALE_BLOCK) + 4 + 4 * 256 if section.double else 4 * scales
    return rows * columns // 2, constants + 4 * 16
