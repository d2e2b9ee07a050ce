"""Adapters: small trainable updates beside frozen weights, made by PEFT and saved in its format.

PEFT replaces linear layers by layers of its own inside Hugging Face's model, so the token tree's forward runs over them as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smolforge.errors import ModelError, RecipeError
from smolforge.model.build import component, load_model, quiet
from smolforge.recipe import LoraSection

CONFIG = "adapter_config.json"
BASE = "base"  # folder of a run that started from adapters: the model with those merged
# what log-probs and features depend on besides weights
SETTINGS = (
    "model_type",
    "rope_parameters",
    "rms_norm_eps",
    "layer_norm_eps",
    "scale_factor",
    "num_attention_heads",
    "hidden_act",
)
PARTS = {"text": "decoder", "connector": "connector", "vision": "vision"}


def add_adapters(model: Any, section: LoraSection, *, base: Path | str, revision: str | None = None, seed: int = 0) -> Any:
    """Freeze a model and put adapters beside the linear layers of the parts in `section.on`; returns PEFT's handle on it.

    Args:
        base, revision: where the model came from, which the saved adapters name.
        seed: of the initial draw.

    Raises:
        RecipeError: no linear layer fits.
    """
    from peft import LoraConfig, get_peft_model

    names = target_modules(model, section)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=section.r,
        lora_alpha=section.alpha,  # type: ignore[arg-type]  # PEFT divides it by r, whatever it is
        lora_dropout=section.dropout,
        use_dora=section.method == "dora",
        init_lora_weights=True if section.init == "default" else "gaussian",
        target_modules=names,
    )
    with quiet():
        handle = get_peft_model(model, config, autocast_adapter_dtype=False)  # float32 masters are the optimiser's
    handle.peft_config["default"].base_model_name_or_path = str(base)
    handle.peft_config["default"].revision = revision
    return handle


def target_modules(model: nn.Module, section: LoraSection) -> list[str]:
    """Full names of the linear layers that get adapters. Raises as `add_adapters`."""
    parts = {PARTS[part] for part in section.on}
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and component(f"{name}.weight") in parts
        and name != "lm_head"
        and (section.target_modules is None or name.endswith(section.target_modules))
    ]
    if not names:
        raise RecipeError(
            f"no linear layer of {', '.join(section.on)} ends with {', '.join(section.target_modules or ('anything',))}",
            where="adapters.target_modules",
            mend="leave it out to take all, or see the names with q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
        )
    return names


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The base model, for as long as the context lasts."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    trains = [(parameter, parameter.requires_grad) for layer in layers for parameter in layer.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)  # which lets them train, whether they did or not
        for parameter, did in trains:
            parameter.requires_grad_(did)


def linear(module: Any, x: torch.Tensor) -> torch.Tensor:
    """A linear layer's output, (L, in) -> (L, out). Plain LoRA goes in one fused product, x W^T + (s x A^T) B^T, which spares two
    passes over (L, out) forward and one backward; whatever else PEFT put there runs as PEFT has it."""
    if not hasattr(module, "lora_A") or module.disable_adapters or module.merged or module.active_adapters != ["default"]:
        return module(x)
    dropout = module.lora_dropout["default"]
    a, b = module.lora_A["default"], module.lora_B["default"]
    plain = "default" not in module.lora_variant and (isinstance(dropout, nn.Identity) or not dropout.training)
    if not plain or b.bias is not None or a.weight.dtype != x.dtype:
        return module(x)
    return torch.addmm(module.base_layer(x), a(x) * module.scaling["default"], b.weight.T)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters in PEFT's format."""
    return (folder / CONFIG).is_file()


def base_of(folder: Path) -> tuple[str, str | None]:
    """Name and revision of the model that a folder's adapters belong to. A base inside a run is found where the run was moved.

    Raises:
        ModelError: the folder does not say.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        name = config["base_model_name_or_path"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
        raise ModelError(
            "does not say which model the adapters belong to", where=folder / CONFIG, mend="copy it again"
        ) from error
    if not isinstance(name, str) or not name:
        raise ModelError("does not say which model the adapters belong to", where=folder / CONFIG, mend="copy it again")
    if Path(name).name == BASE and not Path(name).exists():
        name = next((str(above / BASE) for above in folder.resolve().parents[:2] if (above / BASE).is_dir()), name)
    return name, config.get("revision")


def load_adapters(model: Any, folder: Path, *, trainable: bool = False, weights: bool = True) -> Any:
    """Put saved adapters beside a model's weights; returns PEFT's handle.

    Args:
        weights: False makes adapters of the same shape without reading their weights.

    Raises:
        ModelError: they do not fit the model.
    """
    from peft import PeftConfig, PeftModel, get_peft_model
    from safetensors import SafetensorError

    if weights and not (folder / "adapter_model.safetensors").is_file():
        raise ModelError("missing file", where=folder / "adapter_model.safetensors", mend="this is not a complete adapter folder")
    try:
        with quiet():
            if not weights:
                config = PeftConfig.from_pretrained(str(folder))
                config.inference_mode = not trainable
                return get_peft_model(model, config)
            return PeftModel.from_pretrained(model, folder, is_trainable=trainable, autocast_adapter_dtype=False)
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(
            f"the adapters do not fit {base_of(folder)[0]} ({first})", where=folder, mend="use the model they belong to"
        ) from error


def write_weights(draft: Path, model: Any) -> None:
    """Write a Hugging Face model, or PEFT's handle's adapters, into a folder in their own formats."""
    from peft import PeftModel

    with quiet():
        if isinstance(model, PeftModel):
            model.save_pretrained(str(draft), save_embedding_layers=False)  # looking whether they changed would ask the Hub
            (draft / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        else:
            model.save_pretrained(draft)


def restore(model: Any, folder: Path) -> None:
    """Put a checkpoint's weights into a model that has this shape; into PEFT's handle, its adapters."""
    from peft import PeftModel, set_peft_model_state_dict
    from safetensors.torch import load_file

    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
    else:
        model.load_state_dict(load_model(folder, dtype=next(model.parameters()).dtype).state_dict())


def weights_fingerprint(modules: dict[str, nn.Module], *, adapters: bool = False) -> str:
    """A name for what modules compute: of every weight by its name, and of the settings that it depends on.

    Args:
        adapters: whether they count too, or only what stands beneath them.
    """
    digest = hashlib.blake2b(digest_size=16)
    for prefix, module in modules.items():
        configs = [getattr(one, "config", None) for one in (module, *module.children())]
        digest.update(repr([[getattr(c, name, None) for name in SETTINGS] for c in configs if c is not None]).encode())
        digest.update(repr(getattr(module, "scale_factor", None)).encode())
        if adapters:
            digest.update(repr([getattr(one, "scaling", None) for one in module.modules() if hasattr(one, "lora_A")]).encode())
        for name, tensor in module.state_dict().items():
            if "lora_" in name and not adapters:
                continue
            plain = name.replace(".base_layer.", ".")
            digest.update(f"{prefix}.{plain} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
