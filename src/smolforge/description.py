"""What a model is: components, parameters, image tokens, context, special tokens. No weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from smolforge.data.processor import VISION_TYPES, load_renderer
from smolforge.data.tokenizer import BASE_TOKENS, added_tokens
from smolforge.errors import ModelError
from smolforge.hub import local_folder
from smolforge.loading import base_folder
from smolforge.model.adapters import add_adapters, grouped, is_adapter, load_adapters, reached_beyond, target_modules
from smolforge.model.build import CLASSES, count_parameters, read_config, shape_config
from smolforge.model.freeze import apply_freeze
from smolforge.model.presets import PRESETS
from smolforge.recipe import COMPONENTS, FreezeSection, Recipe

SHOWN_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    "<end_of_utterance>",
)


@dataclass(frozen=True, kw_only=True)
class Description:
    """A model in numbers."""

    name: str
    model_type: str
    parameters: dict[str, tuple[int, int]]  # component -> (all, trainable)
    context: int
    vocabulary: int
    image_tokens: int | None  # tokens a tile takes in the decoder; None for text-only models
    tile: int | None  # pixels
    special_tokens: dict[str, int]
    modules: tuple[str, ...] = ()  # layers that a recipe's adapters stand in, by their full names
    warnings: tuple[str, ...] = ()  # where its endings reach beyond its parts
    at_first: int | None = None  # parameters that train at the recipe's first step, where it thaws parts later

    @property
    def layers(self) -> dict[str, int]:
        """`modules` with the layers' numbers taken together, and how many each line stands for."""
        return grouped(self.modules)

    @property
    def total(self) -> int:
        return sum(total for total, _ in self.parameters.values())

    @property
    def trainable(self) -> int:
        return sum(trainable for _, trainable in self.parameters.values())

    @property
    def share(self) -> str:
        """As PEFT's `print_trainable_parameters` says it."""
        percent = 100 * self.trainable / self.total
        line = f"trainable params: {self.trainable:,} || all params: {self.total:,} || trainable%: {percent:.4f}"
        return line if self.at_first is None else f"{line} (at the last step; {self.at_first:,} at the first)"


def describe(name: str, *, recipe: Recipe | None = None) -> Description:
    """Describe a folder, a .gguf file, a Hub name or a preset.

    Args:
        recipe: what it would train by its last step: its adapters, or what it does not freeze. Without it everything trains; of
            a folder of adapters, only they.

    Raises:
        ModelError: not a model of the family.
        RecipeError: the recipe's adapters find no place in it.
    """
    shape = PRESETS.get(name) if not Path(name).exists() else None
    if shape is not None:
        config, special = shape_config(shape), _preset_tokens(shape.vocab)
    else:
        files = ("*.json", "*.txt", "*.jinja")
        folder = local_folder(name, files=files)
        whole = base_folder(folder, files=files)
        tokenizer = load_renderer(whole).tokenizer
        config = read_config(whole)
        ids = {token: tokenizer.token_to_id(token) for token in SHOWN_TOKENS}
        special = {token: number for token, number in ids.items() if number is not None}
    modules, warnings, first = list[str](), list[str](), None
    with torch.device("meta"):
        model = CLASSES[config.model_type][1](config)
        if shape is None and is_adapter(folder):
            if recipe is not None:
                raise ModelError("adapters already, and a recipe", where=name, mend="give the model below them, or no recipe")
            model = load_adapters(model, folder, weights=False).whole
        elif recipe is not None and recipe.adapters is not None:
            modules, warnings = target_modules(model, recipe.adapters), reached_beyond(model, recipe.adapters)
            model = add_adapters(model, recipe.adapters, base=name).whole
        else:
            freeze = recipe.freeze if recipe else FreezeSection()
            apply_freeze(model, freeze)
            first = sum(trained for _, trained in count_parameters(model).values())
            apply_freeze(model, freeze, step=last_step(recipe) if recipe else 0)
    vision = config.model_type in VISION_TYPES
    text = config.text_config if vision else config
    side = config.vision_config.image_size // config.vision_config.patch_size if vision else 0
    parameters = count_parameters(model)
    return Description(
        name=name,
        model_type=config.model_type,
        parameters=parameters,
        context=text.max_position_embeddings,
        vocabulary=text.vocab_size,
        image_tokens=(side // config.scale_factor) ** 2 if vision else None,
        tile=config.vision_config.image_size if vision else None,
        special_tokens=special,
        modules=tuple(modules),
        warnings=tuple(warnings),
        at_first=None if first == sum(trained for _, trained in parameters.values()) else first,
    )


def last_step(recipe: Recipe) -> int:
    """The run's last step, by which all trains that will; of a run that is given in epochs, one behind its longest freeze.

    >>> from smolforge.recipe import parse_recipe
    >>> tree = {"model": {"name": "tiny"}, "data": [{"source": "scenes"}], "freeze": {"vision": 100}, "run": {"dir": "runs/x"}}
    >>> last_step(parse_recipe(tree, ["run.steps=90"])), last_step(parse_recipe(tree, ["run.epochs=1"]))
    (89, 100)
    """
    if recipe.run.steps is not None:
        return recipe.run.steps - 1
    return max(0, *(recipe.freeze.until(part) for part in COMPONENTS))


def _preset_tokens(vocab: int) -> dict[str, int]:
    """Special tokens of a preset by the family's layout: at the end of the vocabulary."""
    added = added_tokens(vocab)
    ids = {token: number for number, token in enumerate(BASE_TOKENS)}
    ids |= {token: vocab - len(added) + number for number, token in enumerate(added)}
    return {token: ids[token] for token in SHOWN_TOKENS if token in ids}
