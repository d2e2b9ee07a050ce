"""Get a model: load a checkpoint, read a GGUF, or assemble SigLIP + connector + SmolLM2 from a shape."""

from __future__ import annotations

import io
import json
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from smolforge.errors import ModelError
from smolforge.model.presets import PRESETS, Shape
from smolforge.wording import how_many

CLASSES: dict[str, Any] = {
    "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration),
    "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
    "llama": (LlamaConfig, LlamaForCausalLM),
}
VISION_SOURCES = ("siglip", "siglip_vision_model", "smolvlm", "idefics3")  # model types with a tower of the family's
# Place of <image> from the vocabulary's end: among the three added tokens of the first 2.2B, and among the family's 128. The same
# tokens by name are in data/tokenizer.py.
IMAGE_FROM_END = {"three": 2, "family": 90}
POSITIONS = "embeddings.position_embedding.weight"


def load_model(folder: Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Any:
    """A SmolVLM, Idefics3 or Llama model from a folder in Hugging Face's format or a .gguf file, in eval mode.

    Raises:
        ModelError: not a model of the family, weights missing or of other shapes.
    """
    if folder.suffix == ".gguf":
        return _load_gguf(folder).to(device=device, dtype=dtype).eval()
    config = read_config(folder)
    try:
        with quiet():
            model, report = CLASSES[config.model_type][1].from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"weights cannot be read ({error})", where=folder, mend="check the safetensors files") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{how_many(len(missing), 'weight')} missing, first {missing[0]}", where=folder, mend="copy it again")
    return model.to(device).eval()


def read_config(folder: Path) -> Any:
    """Configuration of a model folder or .gguf file of the family.

    Raises:
        ModelError: not readable, or of another family.
    """
    try:
        if folder.suffix == ".gguf":
            config = AutoConfig.from_pretrained(folder.parent, gguf_file=folder.name)
        else:
            config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError("no readable configuration", where=folder, mend="this is not a complete model folder") from error
    if config.model_type not in CLASSES:
        raise ModelError(f"model type {config.model_type}", where=folder, mend=f"smolforge runs {', '.join(CLASSES)}")
    return config


def read_vision_config(folder: Path) -> Any:
    """Configuration of the vision tower in a folder of a SigLIP (whole, or its tower alone) or of a SmolVLM.

    Raises:
        ModelError: not readable, or of another family.
    """
    try:
        with quiet():  # the text half of every SigLIP names tokens that it has not
            config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError("no readable configuration", where=folder, mend="this is not a complete model folder") from error
    if config.model_type not in VISION_SOURCES:
        mend = f"smolforge takes towers of {', '.join(VISION_SOURCES)}"
        raise ModelError(f"model type {config.model_type}", where=folder, mend=mend)
    return config if config.model_type == "siglip_vision_model" else config.vision_config


@dataclass(frozen=True, kw_only=True)
class Tower:
    """Weights of a vision tower by the names that `vision_model` of a SmolVLM gives them, and what stood beside them."""

    weights: dict[str, torch.Tensor]
    pooling_head: int  # parameters; SmolVLM reads all patches, and pools nothing
    beside: int  # parameters of the checkpoint's other parts, such as SigLIP's text tower


def read_tower(folder: Path) -> Tower:
    """Read a vision tower from safetensors files; what is not the tower's is not read.

    Raises:
        ModelError: no safetensors, damaged, or no tower or several in them.
    """
    weights, pooling_head, beside = dict[str, torch.Tensor](), 0, 0
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(safe_open(file, "pt")) for file in weight_files(folder)]
            where = {name: file for file in files for name in file.keys()}  # noqa: SIM118 (no mapping)
            prefixes = [name.removesuffix(POSITIONS) for name in where if name.endswith(POSITIONS) and "text_model" not in name]
            if len(prefixes) != 1:
                mend = "give a SigLIP or a SmolVLM"
                raise ModelError(f"{len(prefixes)} vision towers in its weights", where=folder, mend=mend)
            for name, file in where.items():
                own = name.startswith(prefixes[0])
                short = name.removeprefix(prefixes[0]) if own else name
                if own and short.startswith(("embeddings.", "encoder.", "post_layernorm.")):
                    if not short.endswith("position_ids"):  # a buffer that old checkpoints saved
                        weights[short] = file.get_tensor(name)
                elif own and short.startswith("head."):
                    pooling_head += math.prod(file.get_slice(name).get_shape())
                else:
                    beside += math.prod(file.get_slice(name).get_shape())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"weights cannot be read ({error})", where=folder, mend="check the safetensors files") from error
    return Tower(weights=weights, pooling_head=pooling_head, beside=beside)


def weight_files(folder: Path) -> list[Path]:
    """A model folder's safetensors files.

    Raises:
        ModelError: it has none: pickles are not read.
    """
    if (index := folder / "model.safetensors.index.json").is_file():
        return [folder / name for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))]
    if not (folder / "model.safetensors").is_file():
        raise ModelError("holds no safetensors", where=folder, mend="smolforge reads no pickled weights")
    return [folder / "model.safetensors"]


def assemble(
    shape: Shape,
    *,
    decoder: Any = None,
    kept_rows: int | None = None,
    tower: dict[str, torch.Tensor] | None = None,
    details: Details | None = None,
    image_token_id: int | None = None,
    seed: int = 0,
    **token_ids: int,
) -> Any:
    """A model of a shape: SigLIP tower, pixel shuffle and projection, Llama decoder; what is not given is freshly initialised.

    Args:
        shape: one of `PRESETS`, or one's own.
        decoder: a `LlamaForCausalLM` whose weights become the decoder's. It may have fewer token rows than the shape: the new
            ones are drawn around the mean of the old, except that the last, <end_of_utterance>, starts as the decoder's own
            closing token. A tied head is untied: it starts as a copy.
        kept_rows: token rows of the decoder that its tokenizer names; all when left out. Padding beyond them is not kept.
        tower: weights from `read_tower`. Positions of another grid are interpolated.
        details: what the parts' configurations say that a shape has no number for.
        image_token_id: id of `<image>`; by default the family's place for the vocabulary's size.
        seed: of the random initial weights.
        token_ids: bos_token_id, eos_token_id, pad_token_id.

    Raises:
        ModelError: the patch grid is not divisible by the shuffle factor, or a part has other shapes.
    """
    torch.manual_seed(seed)
    config = shape_config(shape, details=details, image_token_id=image_token_id, **token_ids)
    model = CLASSES[shape.model_type][1](config)
    if decoder is not None:
        _take_decoder(model, decoder, kept_rows)
    if tower is not None:
        _take_tower(model, tower, shape.grid)
    return model.eval()


def _take_decoder(model: Any, decoder: Any, kept: int | None) -> None:
    weights = decoder.model.state_dict()
    rows, close = model.lm_head.weight.shape[0], decoder.config.eos_token_id
    close = close[0] if isinstance(close, list) else close
    weights["embed_tokens.weight"] = _more_rows(weights["embed_tokens.weight"][:kept], rows, close)
    tied = decoder.config.tie_word_embeddings
    head = weights["embed_tokens.weight"] if tied else _more_rows(decoder.lm_head.weight[:kept], rows, close)
    try:
        model.model.text_model.load_state_dict(weights)
        model.lm_head.load_state_dict({"weight": head})
    except RuntimeError as error:
        raise _misfit("decoder", error) from error


@torch.no_grad()
def _more_rows(table: torch.Tensor, rows: int, close: int | None) -> torch.Tensor:
    """A token table with `rows` rows: the new ones are the mean of the old with a tenth of their spread, the last is `close`."""
    if rows <= len(table):
        return table
    new = torch.randn(rows - len(table), table.shape[1]) * table.std(0) * 0.1 + table.mean(0)
    if close is not None:
        new[-1] = table[close]
    return torch.cat([table, new])


def _take_tower(model: Any, weights: dict[str, torch.Tensor], grid: int) -> None:
    if len(weights[POSITIONS]) != grid**2:
        weights = weights | {POSITIONS: resize_positions(weights[POSITIONS], grid)}
    try:
        model.model.vision_model.load_state_dict(weights)
    except RuntimeError as error:
        raise _misfit("vision tower", error) from error


def resize_positions(table: torch.Tensor, grid: int) -> torch.Tensor:
    """Position embeddings of a square grid of patches (g*g, D) for another (grid*grid, D): bicubic, as transformers'
    `SiglipVisionEmbeddings.interpolate_pos_encoding`.

    Raises:
        ModelError: the table is of no square grid.
    """
    side = math.isqrt(len(table))
    if side**2 != len(table):
        raise ModelError(f"{len(table)} position embeddings are of no square grid", mend="give a SigLIP")
    planes = table.float().view(1, side, side, -1).permute(0, 3, 1, 2)  # (1, D, g, g)
    planes = nn.functional.interpolate(planes, size=(grid, grid), mode="bicubic", align_corners=False)
    return planes.permute(0, 2, 3, 1).reshape(grid**2, -1)


def _misfit(part: str, error: RuntimeError) -> ModelError:
    first = str(error).splitlines()[-1].strip()
    return ModelError(f"the {part} does not fit the shape ({first})", mend="choose the preset of its size")


@dataclass(frozen=True, kw_only=True)
class Details:
    """What parts' configurations say that a `Shape` has no number for: activations, epsilons, biases, scaling of RoPE."""

    vision: dict[str, Any]
    text: dict[str, Any]


def details_of(vision: Any | None, text: Any | None) -> Details:
    """Of a tower's and a Llama's configuration, as far as there are such."""

    def taken(config: Any | None, names: tuple[str, ...]) -> dict[str, Any]:
        return {} if config is None else {name: getattr(config, name) for name in names}

    return Details(
        vision=taken(vision, ("hidden_act", "layer_norm_eps", "attention_dropout")),
        text=taken(
            text,
            ("hidden_act", "rms_norm_eps", "attention_bias", "mlp_bias", "attention_dropout", "head_dim", "rope_parameters"),
        ),
    )


def shape_config(shape: Shape, *, details: Details | None = None, image_token_id: int | None = None, **token_ids: int) -> Any:
    """Hugging Face's configuration of a shape. Raises as `assemble`."""
    shape.check_grid()
    if image_token_id is None:
        few = shape.vocab == PRESETS["smolvlm-instruct"].vocab
        image_token_id = shape.vocab - IMAGE_FROM_END["three" if few else "family"]
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2} | token_ids
    details = details or details_of(None, None)
    rope = details.text.get("rope_parameters", {"rope_type": "default"}) | {"rope_theta": shape.rope_theta}
    text = dict(
        model_type="llama", hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, head_dim=shape.hidden // shape.heads, intermediate_size=shape.ff,
        vocab_size=shape.vocab, max_position_embeddings=shape.context, rms_norm_eps=1e-5, tie_word_embeddings=False,
        initializer_range=shape.init_std, **ids,
    ) | details.text | {"rope_parameters": rope}  # fmt: skip
    vision = dict(
        hidden_size=shape.vision_hidden, num_hidden_layers=shape.vision_layers, num_attention_heads=shape.vision_heads,
        intermediate_size=shape.vision_ff, image_size=shape.image_size, patch_size=shape.patch,
        initializer_range=shape.init_std,
    ) | details.vision  # fmt: skip
    return CLASSES[shape.model_type][0](
        vision_config=vision, text_config=text, scale_factor=shape.shuffle, image_token_id=image_token_id,
        tie_word_embeddings=False, pad_token_id=ids["pad_token_id"], initializer_range=shape.init_std,
    )  # fmt: skip


def count_parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(all, trainable) parameters of each component: vision, connector, decoder."""
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        total, trainable = counts.get(component(name), (0, 0))
        packed = getattr(parameter, "quant_state", None)  # of a 4-bit weight, two numbers a byte
        numbers = parameter.numel() if packed is None else math.prod(packed.shape)
        counts[component(name)] = total + numbers, trainable + numbers * parameter.requires_grad
    return counts


def component(name: str) -> str:
    """The component a parameter belongs to, from its name.

    >>> component("model.vision_model.post_layernorm.weight"), component("lm_head.weight")
    ('vision', 'decoder')
    """
    if "vision_model." in name:
        return "vision"
    return "connector" if "connector." in name else "decoder"


def _load_gguf(file: Path) -> Any:
    """Weights of a GGUF, de-quantised into a plain LlamaForCausalLM that can be trained and saved."""
    try:
        with quiet(), redirect_stderr(io.StringIO()):  # its conversion bar knows no switch
            read = LlamaForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except ImportError as error:
        raise ModelError("GGUF needs the gguf package", where=file, mend="pip install 'smolforge[gguf]'") from error
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"not a readable GGUF of a Llama ({error})", where=file, mend="check the file") from error
    config = LlamaConfig.from_dict({k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' and PEFT's progress bars, advice and announcements of what will change; errors still raise."""
    from transformers.utils import logging as hf

    level, bars = hf.get_verbosity(), hf.is_progress_bar_enabled()
    hf.set_verbosity(logging.CRITICAL)
    hf.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        hf.set_verbosity(level)
        if bars:
            hf.enable_progress_bar()
