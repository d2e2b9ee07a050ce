"""A checkpoint as one object: the tree model and the renderer that belong together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from smolforge.data.film import check_backend
from smolforge.data.processor import load_renderer
from smolforge.data.render import Renderer
from smolforge.errors import ModelError, RecipeError
from smolforge.hub import MODEL_FILES, local_folder
from smolforge.model.adapters import base_of, is_adapter, load_adapters, read_about, refuse_another_base
from smolforge.model.build import load_model
from smolforge.model.tree import TreeModel
from smolforge.recipe import ImagesSection, Recipe, VirtualTokens


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model that can be asked and scored."""

    model: TreeModel
    renderer: Renderer
    folder: Path
    notes: tuple[str, ...] = ()  # what a person should know of how it was put together

    @property
    def device(self) -> torch.device:
        return self.model.head.weight.device


def load(
    name: str,
    *,
    dtype: str | None = None,
    device: str = "auto",
    images: ImagesSection | None = None,
    revision: str | None = None,
    adapter: str | None = None,
) -> Loaded:
    """Load a checkpoint by folder, run folder, .gguf file or Hub name; adapters with the model they belong to.

    Args:
        adapter: run, folder or Hub name of adapters to put on the model, whatever model they name themselves.
        dtype: "float32" or "bfloat16"; float32 on a CPU, bfloat16 on CUDA when left out.
        device: "auto", "cpu", "cuda", "mps", or one of several ("cuda:1").
        images: changes of the checkpoint's own picture rules.

    Raises:
        ModelError: it cannot be loaded.
    """
    place = pick_device(device)
    folder = local_folder(name, revision)
    renderer = load_renderer(base_folder(folder), images=images)
    chosen = dtype or ("bfloat16" if place.type == "cuda" else "float32")
    model, notes = load_tree(folder, renderer, dtype=chosen, device=place), tuple[str, ...]()
    beside = folder if adapter is None else local_folder(adapter)
    if adapter is not None:
        if not is_adapter(beside):
            raise ModelError("holds no adapters", where=adapter, mend="give it as the model itself")
        merge(model)
        _put_beside(model, beside)
        model.to(place).eval()
        theirs = base_of(beside)[0]
        if not read_about(beside).get("base_fingerprint") and theirs != name and Path(theirs).resolve() != folder.resolve():
            notes = (f"{adapter} was trained on {theirs}, not on {name}",)
    if is_adapter(beside) and (kept := read_about(beside).get("quantize")):
        notes += (f"the adapters were trained beside {kept['kind']} weights; here they stand beside the full-precision ones",)
    renderer = replace(renderer, context=renderer.context - model.num_virtual)
    return Loaded(model=model, renderer=renderer, folder=folder, notes=notes)


def run_renderer(recipe: Recipe, folder: Path) -> Renderer:
    """The renderer of a recipe's run: the checkpoint's rules with the recipe's changes, less positions that virtual tokens take.

    Args:
        folder: of the model; of adapters that of their base (`base_folder`).

    Raises:
        UserError: not a model of the family, more virtual tokens than positions, or a video library that is not here.
    """
    images, video, rows = recipe.images, recipe.video, recipe.batch.row_tokens
    check_backend(video.backend)
    renderer = load_renderer(folder, images=images, video=video, cache=recipe.cache.dir, row_tokens=rows)
    virtual = recipe.adapters.tokens if isinstance(recipe.adapters, VirtualTokens) else 0
    if virtual >= renderer.context:
        raise RecipeError(
            f"{virtual} virtual tokens leave nothing of the model's {renderer.context} positions",
            where="adapters.tokens",
            mend="give fewer",
        )
    return replace(renderer, context=renderer.context - virtual)


def load_tree(folder: Path, renderer: Renderer, *, dtype: str, device: torch.device) -> TreeModel:
    """The TreeModel of a folder, normalising pixels as its renderer's picture rules say; with its adapters, if it has some.

    Raises:
        ModelError: it cannot be loaded.
    """
    if is_adapter(folder):
        tree = load_tree(local_folder(*base_of(folder)), renderer, dtype=dtype, device=device)
        merge(tree)
        _put_beside(tree, folder)
        return tree.to(device).eval()
    weights = load_model(folder, dtype=getattr(torch, dtype), device=device)
    model = TreeModel(weights)
    if renderer.images is not None:
        model = TreeModel(weights, mean=renderer.images.mean, std=renderer.images.std)
    return model.to(device).eval()


def _put_beside(tree: TreeModel, folder: Path) -> None:
    """Put a folder's adapters on a model, which must be the one that they belong to. Raises as `load_tree`."""
    refuse_another_base(tree.model, folder)
    tree.attach(load_adapters(tree.model, folder))


def same_tokenizer(renderer: Renderer, other: Renderer, name: object) -> None:
    """Two models that are compared token by token read the same tokens.

    Raises:
        ModelError: they do not.
    """
    if other.tokenizer.to_str() != renderer.tokenizer.to_str():
        raise ModelError("the reference has another tokenizer", where=name, mend="give the model it was trained from")


def merge(tree: TreeModel) -> None:
    """Add the adapters, if there are some, to the weights they stand beside.

    Raises:
        ModelError: these cannot be.
    """
    if tree.adapters:
        adapters = tree.adapters[0]
        if adapters.why_not_merged:
            raise ModelError(
                f"{adapters.about.get('method', 'these adapters')} cannot be merged: {adapters.why_not_merged}",
                mend="use them beside their base model, or train lora, dora, rslora, pissa, adalora, vera or ia3",
            )
        tree.model = adapters.merged()
        tree.adapters.clear()


def base_folder(folder: Path, *, files: tuple[str, ...] = MODEL_FILES) -> Path:
    """The folder of whole weights, tokenizer and configuration behind a folder of adapters; any other folder itself.

    Args:
        files: patterns of the files to download, when it comes to that.
    """
    return base_folder(local_folder(*base_of(folder), files=files), files=files) if is_adapter(folder) else folder


def pick_device(device: str) -> torch.device:
    """The device by name; "auto" is CUDA, then MPS, then the CPU.

    Raises:
        ModelError: it is not here.
    """
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if here[kind]))
    kind, _, number = device.partition(":")
    if not here.get(kind, False) or not (number or "0").isdigit() or int(number or 0) >= max(1, torch.cuda.device_count()):
        raise ModelError("no such device here", where=device, mend="use auto, or see `smolforge doctor`")
    return torch.device(device)
