"""Adapters put on a model, new or saved: the one place that knows the methods by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from smolforge.errors import ModelError, RecipeError
from smolforge.model.adapters.adalora import Adalora, rank_schedule
from smolforge.model.adapters.bottleneck import PEFT_TYPE, load_bottlenecks, put_bottlenecks
from smolforge.model.adapters.inside import Adapters
from smolforge.model.adapters.origin import WEIGHTS, base_of, read_about, read_config, stands_beside
from smolforge.model.adapters.pissa import Pissa
from smolforge.model.adapters.targets import INNER, target_modules
from smolforge.model.adapters.virtual import Virtual
from smolforge.model.build import quiet
from smolforge.model.quantize import keep_out_kernels
from smolforge.recipe import (
    AdaloraSection,
    AdapterSection,
    BottleneckSection,
    Ia3Section,
    InLayers,
    LoraSection,
    PrefixSection,
    PromptSection,
    PTuningSection,
    VeraSection,
)

CONNECTOR = "modality_projection.proj"  # the layer that `train: [connector]` trains in full
KINDS: dict[str, type[Adapters]] = {"ADALORA": Adalora, "PREFIX_TUNING": Virtual, "PROMPT_TUNING": Virtual, "P_TUNING": Virtual}


def add_adapters(
    model: Any,
    section: AdapterSection,
    *,
    base: Path | str,
    revision: str | None = None,
    seed: int = 0,
    steps: int | None = None,
    about: Mapping[str, Any] | None = None,
    state: Mapping[str, torch.Tensor] | None = None,
) -> Adapters:
    """Freeze a model and put new adapters on it.

    Args:
        base, revision: where the model came from, which the saved adapters name.
        seed: of the initial draw.
        steps: of the run, which AdaLoRA plans by.
        about: what is written beside them when they are saved.
        state: of a run that goes on, from `Adapters.state`.

    Raises:
        RecipeError: no layer fits, a rank is too high, or there are too few steps.
    """
    names, about = target_modules(model, section), {"method": section.method} | dict(about or {})
    torch.manual_seed(seed)
    if isinstance(section, BottleneckSection):
        return put_bottlenecks(model, section, names, about, base=str(base), revision=revision)
    keep_out_kernels()
    config = CONFIGS[type(section)](section, names, steps)
    if isinstance(section, InLayers) and section.train:
        config.modules_to_save = _in_full(model)
    from peft import get_peft_model

    with quiet():
        handle = get_peft_model(model, config, autocast_adapter_dtype=False)  # float32 masters are the optimiser's
    handle.peft_config["default"].base_model_name_or_path = str(base)
    handle.peft_config["default"].revision = revision
    _in_the_model_s_dtype(model)
    adapters = _kind(handle, section)(model, handle, about)
    if isinstance(adapters, Pissa):
        kept = {name.removeprefix("pissa."): tensor for name, tensor in (state or {}).items() if name.startswith("pissa.")}
        adapters.begin(kept or None)
    elif state:
        adapters.load_state(state)
    return adapters


def load_adapters(model: Any, folder: Path, *, weights: bool = True) -> Adapters:
    """Put saved adapters on a model.

    Args:
        weights: False makes trainable adapters of the same shape without reading their weights.

    Raises:
        ModelError: they do not fit the model.
    """
    keep_out_kernels()
    from peft import PeftConfig, PeftModel, get_peft_model

    about = read_about(folder)
    if weights and not (folder / WEIGHTS).is_file():
        raise ModelError("missing file", where=folder / WEIGHTS, mend="this is not a complete adapter folder")
    if read_config(folder).get("peft_type") == PEFT_TYPE:
        return load_bottlenecks(model, folder, about, weights=weights)
    try:
        with quiet(), _whole_or_refused():
            if weights:
                handle = PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False)
                _refuse_left_over(handle, folder / WEIGHTS)
            else:
                config = PeftConfig.from_pretrained(str(folder))
                config.inference_mode = False
                handle = get_peft_model(model, config)
        _in_the_model_s_dtype(model)
        adapters = _kind(handle, None)(model, handle, about)
        if isinstance(adapters, Virtual) and weights:
            adapters.refuse_other_shapes()
    except torch.OutOfMemoryError:
        raise
    except (
        RuntimeError, ValueError, LookupError, TypeError, AttributeError, OSError, SafetensorError, UserWarning,
    ) as error:  # fmt: skip
        first = str(error).strip().splitlines()[0]
        raise ModelError(
            f"the adapters do not fit {base_of(folder)[0]} ({first})", where=folder, mend="use the model they belong to"
        ) from error
    return adapters


def _in_the_model_s_dtype(model: Any) -> None:
    """PEFT makes adapters in what the layer beneath is kept or computed in, and of a quantised one that is not the model's."""
    dtype = model.get_input_embeddings().weight.dtype
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if stands_beside(name) and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


@contextmanager
def _whole_or_refused() -> Iterator[None]:
    """PEFT draws weights that a file lacks at random and only warns; and it takes AdaLoRA's ranks for another method's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys", UserWarning)
        warnings.filterwarnings("ignore", "The following rank_pattern keys did not match", RuntimeWarning)
        yield


def _refuse_left_over(handle: Any, file: Path) -> None:
    """PEFT leaves out, without a word, what a file has for layers that the model has not.

    Raises:
        ValueError: there is such a weight.
    """
    from peft import get_peft_model_state_dict

    taken = get_peft_model_state_dict(handle, save_embedding_layers=False)
    with safe_open(file, framework="pt") as tensors:
        left = [name for name in tensors.keys() if stands_beside(name) and name not in taken]  # noqa: SIM118 - no mapping
    if left:
        raise ValueError(f"no place for {left[0]}")


def _kind(handle: Any, section: AdapterSection | None) -> type[Adapters]:
    """Of saved adapters (no section) PiSSA is plain LoRA."""
    if isinstance(section, LoraSection) and section.method == "pissa":
        return Pissa
    return KINDS.get(str(handle.active_peft_config.peft_type.value), Adapters)


def _in_full(model: Any) -> list[str]:
    found = [name for name, _ in model.named_modules() if name.endswith(CONNECTOR)]
    if not found:
        raise RecipeError("this model has no connector", where="adapters.train", mend="leave it out")
    return found


# --- from a section to PEFT's configuration --------------------------------------------------------------------------


def _lora(section: LoraSection, names: Sequence[str], steps: int | None) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=section.r,
        lora_alpha=section.alpha,  # type: ignore[arg-type]  # PEFT divides it by r, whatever it is
        lora_dropout=section.dropout,
        use_dora=section.method == "dora",
        use_rslora=section.method == "rslora",
        init_lora_weights="gaussian" if section.init == "gaussian" else True,
        target_modules=list(names),
    )


def _adalora(section: AdaloraSection, names: Sequence[str], steps: int | None) -> Any:
    from peft import AdaLoraConfig

    plan = rank_schedule(section, steps or 1000)
    return AdaLoraConfig(
        target_r=section.r, init_r=section.init_r, lora_alpha=section.alpha, lora_dropout=section.dropout,  # type: ignore[arg-type]
        orth_reg_weight=section.orthogonality, target_modules=list(names), **plan,  # type: ignore[arg-type]
    )  # fmt: skip


def _vera(section: VeraSection, names: Sequence[str], steps: int | None) -> Any:
    from peft import VeraConfig

    return VeraConfig(
        r=section.r, d_initial=section.d_initial, vera_dropout=section.dropout, projection_prng_key=section.seed,
        target_modules=list(names),
    )  # fmt: skip


def _ia3(section: Ia3Section, names: Sequence[str], steps: int | None) -> Any:
    from peft import IA3Config

    return IA3Config(target_modules=list(names), feedforward_modules=[name for name in names if name.endswith(INNER)])


def _prefix(section: PrefixSection, names: Sequence[str], steps: int | None) -> Any:
    from peft import PrefixTuningConfig

    return PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=section.tokens, prefix_projection=section.projection,
        encoder_hidden_size=section.hidden,  # type: ignore[arg-type]  # None takes the model's own
    )  # fmt: skip


def _prompt(section: PromptSection, names: Sequence[str], steps: int | None) -> Any:
    from peft import PromptTuningConfig

    init = "SAMPLE_VOCAB" if section.init == "vocabulary" else "RANDOM"
    return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=section.tokens, prompt_tuning_init=init)


def _p_tuning(section: PTuningSection, names: Sequence[str], steps: int | None) -> Any:
    from peft import PromptEncoderConfig

    return PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=section.tokens, encoder_reparameterization_type=section.encoder.upper(),
        encoder_hidden_size=section.hidden, encoder_num_layers=section.layers, encoder_dropout=section.dropout,  # type: ignore[arg-type]
    )  # fmt: skip


CONFIGS: dict[type, Callable[[Any, Sequence[str], int | None], Any]] = {
    LoraSection: _lora, AdaloraSection: _adalora, VeraSection: _vera, Ia3Section: _ia3, PrefixSection: _prefix,
    PromptSection: _prompt, PTuningSection: _p_tuning,
}  # fmt: skip
