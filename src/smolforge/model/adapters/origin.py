"""What adapters belong to: the model that a folder of them names, and fingerprints of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smolforge.errors import ModelError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ABOUT = "smolforge.json"  # beside them: what PEFT's configuration has no place for
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
BESIDE = ("lora_", "vera_", "ia3_", "ranknum", ".bottleneck.", "prompt_encoder")  # in the names of adapters' parameters
COPIES = "modules_to_save"  # in those of layers that are trained in full beside them
LOOKED_AT = 256  # numbers of each weight that a base's fingerprint reads


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters in PEFT's format, or bottleneck adapters."""
    return (folder / CONFIG).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's adapter_config.json.

    Raises:
        ModelError: it cannot be read, or does not name the model.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        name = config["base_model_name_or_path"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ModelError(
            "does not say which model the adapters belong to", where=folder / CONFIG, mend="copy it again"
        ) from error
    if not isinstance(name, str) or not name:
        raise ModelError("does not say which model the adapters belong to", where=folder / CONFIG, mend="copy it again")
    return config


def base_of(folder: Path) -> tuple[str, str | None]:
    """Name and revision of the model that a folder's adapters belong to. A base inside a run is found where the run was moved.

    Raises:
        ModelError: the folder does not say.
    """
    config = read_config(folder)
    name = config["base_model_name_or_path"]
    if Path(name).name == BASE and not Path(name).exists():
        name = next((str(above / BASE) for above in folder.resolve().parents[:2] if (above / BASE).is_dir()), name)
    return name, config.get("revision")


def read_about(folder: Path) -> dict[str, Any]:
    """What smolforge wrote beside adapters: the base's fingerprint, method, quantisation; empty for those made elsewhere.

    Raises:
        ModelError: the file is damaged.
    """
    file = folder / ABOUT
    try:
        about = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return dict(about.items())
    except (ValueError, AttributeError) as error:
        raise ModelError("is damaged", where=file, mend="copy the adapters again") from error


def refuse_another_base(model: nn.Module, folder: Path) -> None:
    """Adapters stand beside the weights that they were trained beside.

    Raises:
        ModelError: the model's weights are others than those that the folder's fingerprint was taken of.
    """
    kept = read_about(folder).get("base_fingerprint")
    if kept is not None and kept != base_fingerprint(model):
        raise ModelError(
            "the adapters belong to another model: these base weights are not those that they were trained beside",
            where=folder,
            mend=f"use {base_of(folder)[0]} as it was",
        )


def base_fingerprint(model: nn.Module) -> str:
    """A name for a base model that does not depend on the dtype it is loaded in: every weight's name and shape, and a few of its
    numbers, rounded to bfloat16. Adapters and quantisation must not be there yet."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(plain_names(model)):
        flat = tensor.detach().flatten()
        few = flat[:: max(1, len(flat) // LOOKED_AT)][:LOOKED_AT].to(torch.bfloat16).cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(few.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def plain_names(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights of the base model by the names they have without adapters."""
    for name, tensor in module.state_dict().items():
        if not stands_beside(name) and COPIES not in name:
            yield name.replace(".base_layer.", ".").replace(".original_module.", "."), tensor


def stands_beside(name: str) -> bool:
    """Whether a parameter belongs to an adapter, from its name.

    >>> stands_beside("layers.0.q_proj.lora_A.default.weight"), stands_beside("layers.0.q_proj.base_layer.weight")
    (True, False)
    """
    return any(part in name for part in BESIDE)


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
        for name, tensor in module.state_dict().items() if adapters else plain_names(module):
            plain = name.replace(".base_layer.", ".")
            digest.update(f"{prefix}.{plain} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
