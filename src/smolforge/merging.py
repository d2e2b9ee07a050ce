"""Adapters into the weights they stand beside, and the proof that the model says the same."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from smolforge.data.batch import collate
from smolforge.data.pipeline import prepare
from smolforge.data.sources.scenes import scene
from smolforge.errors import ModelError
from smolforge.folders import refuse_others
from smolforge.hub import local_folder
from smolforge.loading import Loaded, base_folder, load, merge
from smolforge.model.adapters import base_of, is_adapter, load_adapters, read_about
from smolforge.model.attention import tree_attention
from smolforge.model.build import read_config
from smolforge.model.quantize import quantize
from smolforge.recipe import QuantizeSection
from smolforge.records import Media, Message, Part, Record
from smolforge.training.checkpoint import processor_files, save_model

TOLERANCE = 1e-3  # nats of any next-token log-prob in float32; sums in another order; worst seen 1.8e-4 (SmolLM2-135M, LoRA)
TEXT = "The capital of France is Paris, and the capital of Italy is"


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A model without adapters, and how far it is from the one with them.

    Distances are the largest of any token's log-prob at any place of the prompts that were looked at, in nats.
    """

    folder: Path
    dtype: str
    prompts: tuple[str, ...]  # what was looked at: a text, and a picture where the model sees
    difference: float  # by merging, in float32
    saved: float  # of the saved model in its dtype from the one with adapters in float32
    own: float  # of the model with adapters in that dtype from itself in float32: what the dtype costs anyway
    quantized: str | None = None  # kind of the base weights that the adapters were trained beside ...
    trained: float = 0.0  # ... and of that model, which the training measured, from the merged one


@torch.no_grad()
def merge_run(run: str, out: Path, *, dtype: str | None = None) -> Merged:
    """Merge a run's adapters in float32, look whether the model still says the same, save it, and look again.

    Args:
        run: run folder, folder of adapters or Hub name.
        out: folder of the result, in Hugging Face's format.
        dtype: of the saved weights, "float32" or "bfloat16"; the base model's when left out.

    Raises:
        ModelError: no adapters there, or the merged model says something else.
        CheckpointError: `out` is not empty, or the disk is full or not writable.
    """
    folder = local_folder(run)
    if not is_adapter(folder):
        raise ModelError("holds no adapters", where=run, mend="a model trained as a whole is whole already: use it as it is")
    refuse_others(out)
    base = base_folder(folder)
    chosen = dtype or _dtype_of(base)
    loaded = load(run, dtype="float32", device="cpu")
    before = _log_probs(loaded)
    own = _distance(_log_probs(load(run, dtype=chosen, device="cpu")), before) if chosen != "float32" else 0.0
    merge(loaded.model)
    difference = _distance(_log_probs(loaded), before)
    if not difference <= TOLERANCE:
        raise ModelError(
            f"merging changed log-probs by {difference:.2g} nats", where=run, mend="keep the adapters beside the model"
        )
    kept = read_about(folder).get("quantize")
    trained = _distance(_log_probs(_as_trained(run, QuantizeSection(**kept))), before) if kept else 0.0
    save_model(out, loaded.model.saved.to(getattr(torch, chosen)), processor_files(base))
    saved = _distance(_log_probs(load(str(out), dtype=chosen, device="cpu")), before)
    if not saved <= TOLERANCE + 2 * own:
        shutil.rmtree(out)
        mend = "save it with --dtype float32, or keep the adapters beside the model"
        raise ModelError(
            f"in {chosen} the merged model is {saved:.2g} nats away, the unmerged one {own:.2g}", where=out, mend=mend
        )
    return Merged(
        folder=out, dtype=chosen, prompts=tuple(before), difference=difference, saved=saved, own=own,
        quantized=kept and kept["kind"], trained=trained,
    )  # fmt: skip


def _as_trained(run: str, section: QuantizeSection) -> Loaded:
    """The adapters beside the quantised weights that they were trained beside."""
    folder = local_folder(run)
    loaded = load(base_of(folder)[0], dtype="float32", device="cpu", revision=base_of(folder)[1])
    quantize(loaded.model.model, section)
    loaded.model.attach(load_adapters(loaded.model.model, folder))
    loaded.model.eval()
    return loaded


def _dtype_of(base: Path) -> str:
    """That a checkpoint's weights are kept in; float32 of a GGUF, which is read so."""
    kept = None if base.suffix == ".gguf" else getattr(read_config(base), "dtype", None)
    return "bfloat16" if kept == torch.bfloat16 else "float32"


def _log_probs(loaded: Loaded) -> dict[str, torch.Tensor]:
    """Log-probs of every token after each place of a few prompts, (L, V) float32 each."""
    prompts: dict[str, tuple[Part, ...]] = {"a text": (TEXT,)}
    if loaded.renderer.images is not None:
        prompts["a picture"] = (Media(ref=scene(0, 0).draw), "Describe the picture.")
    found = {}
    for name, content in prompts.items():
        record = Record(id=name, source="merge", messages=(Message(role="user", content=content),), responses=())
        row, model = collate([prepare(record, loaded.renderer)]).to(loaded.device), loaded.model
        hidden = model.decode(model.embed(row), row.position_ids, [tree_attention(row)] * len(model.decoder.layers))  # (L, D)
        found[name] = model.head(hidden).float().log_softmax(-1)
    return found


def _distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference of any log-prob, in nats; NaN stays NaN and is no agreement."""
    return max(float((one[name] - other[name]).abs().max()) for name in other)
