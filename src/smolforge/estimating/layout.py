"""What a step will hold: how long the trees of a row are, how many tokens are scored, how many tiles are seen.

From the recipe's own data where it is at hand: rendered, not decoded. Otherwise the worst that the recipe allows: every row full,
every picture as large as it may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smolforge.data.media import ImageSpec, fewer_tiles, tile_grid
from smolforge.data.pack import pack
from smolforge.data.pipeline import open_stream
from smolforge.data.processor import load_renderer
from smolforge.data.render import Example
from smolforge.errors import DataError, UserError
from smolforge.model.presets import PRESETS
from smolforge.objectives import objective_of
from smolforge.recipe import PreferenceSection, Recipe

SAMPLE = 128  # examples of the data that are looked at
ANSWER, QUESTION = 128, 64  # tokens of each answer and of the prompt's text where no data says otherwise
PIECE = 7  # tokens around each tile's placeholders, <fake_token_around_image><row_1_col_1> spelt out at worst


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one forward pass takes."""

    trees: tuple[int, ...]  # tokens of each tree
    scored: int
    tiles: int  # distinct ones
    runs: int  # places where a tile's features stand

    @property
    def tokens(self) -> int:
        return sum(self.trees)


@dataclass(frozen=True, kw_only=True)
class Tree:
    """An example, as far as its memory goes. A spoilt picture's second root counts as a tree of its own."""

    trees: tuple[int, ...]
    scored: int
    pictures: tuple[tuple[str, int], ...]  # key and tiles
    runs: int

    @property
    def tokens(self) -> int:
        return sum(self.trees)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The examples of a few steps, and whether they are the recipe's own."""

    steps: tuple[tuple[Tree, ...], ...]
    row_tokens: int
    source: str  # one line for people
    measured: bool  # from the data

    @property
    def rows(self) -> list[list[Row]]:
        """Rows of each step, packed as the run packs them."""
        return [_rows(step, self.row_tokens) for step in self.steps]

    @property
    def largest(self) -> Row:
        """The row that needs most memory, as far as tokens, tiles and the longest tree tell."""
        return max((row for rows in self.rows for row in rows), key=lambda r: (r.tokens + 64 * r.tiles, max(r.trees)))

    @property
    def gradients_stand(self) -> bool:
        """Whether a row about as long as the largest comes behind another of its step, whose gradients are there already."""
        return any(row.tokens > 0.9 * self.largest.tokens for rows in self.rows for row in rows[1:])

    @property
    def rows_per_step(self) -> float:
        return sum(map(len, self.rows)) / len(self.steps)

    @property
    def examples_per_row(self) -> float:
        return sum(map(len, self.steps)) / max(1, sum(map(len, self.rows)))

    @property
    def longest(self) -> int:
        """Tokens of the longest example, below which no row can be."""
        return max(tree.tokens for step in self.steps for tree in step)

    @property
    def most(self) -> int:
        """Tokens from which on a row holds a whole step."""
        return max(sum(tree.tokens for tree in step) for step in self.steps)

    def at(self, row_tokens: int) -> Layout:
        """The same examples in rows of another length."""
        return replace(self, row_tokens=row_tokens)


def layout_of(recipe: Recipe, config: Any, folder: Path | None) -> Layout:
    """From the recipe's data where they are at hand, else at worst.

    Args:
        config: Hugging Face's, of the model.
        folder: of the model's processor files; None of a preset.
    """
    if folder is None:
        return worst(recipe, config, "the model is a preset and has no tokenizer to read data with", None)
    try:
        renderer = load_renderer(folder, images=recipe.images, row_tokens=recipe.batch.row_tokens)
    except UserError as error:
        return worst(recipe, config, f"the model's processor cannot be read ({error.what})", None)
    objective = objective_of(recipe.objective)
    try:
        stream = open_stream(recipe.data, renderer, shaping=objective.shaping, seed=recipe.run.seed)
    except UserError as error:
        return worst(recipe, config, f"the data is not at hand ({error.what})", renderer.images)
    size = min(recipe.batch.examples, stream.num_rows)
    examples: list[Tree] = []
    for index in range(min(stream.num_rows, max(size, SAMPLE // size * size))):
        try:
            examples.append(_tree(stream.example(index)))
        except DataError:
            continue  # a run drops and counts them
    if not examples:
        return worst(recipe, config, "no example of the data can be used", renderer.images)
    steps = tuple(tuple(examples[first : first + size]) for first in range(0, len(examples), size))
    source = f"from the first {len(examples)} examples of the data"
    return Layout(steps=steps, row_tokens=recipe.batch.row_tokens, source=source, measured=True)


def worst(recipe: Recipe, config: Any, why: str, images: ImageSpec | None) -> Layout:
    """A step of equal examples, each one picture of the largest size with a short question and answers, that fill rows.

    Args:
        images: the processor's picture rules with the recipe's changes; of a preset by its longest edge.
    """
    answers = 2 if isinstance(recipe.objective, PreferenceSection) else 1
    row, text = recipe.batch.row_tokens, QUESTION + answers * ANSWER
    if not hasattr(config, "vision_config"):
        length = min(row, config.max_position_embeddings)
        tree = Tree(trees=(length,), scored=max(1, length - QUESTION), pictures=(), runs=0)
        said = f"at worst, texts of {length:,} tokens"
    else:
        spec = images or _preset_images(recipe, config)
        size = (config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor) ** 2
        while (tiles := tile_grid(spec.longest_edge, spec.longest_edge, spec).tiles) * (size + PIECE) + text > row:
            smaller = fewer_tiles(spec)
            if smaller is None:
                break
            spec = smaller
        length = tiles * (size + PIECE) + text
        copies = 2 if getattr(recipe.objective, "picture", None) is not None else 1  # the spoilt picture's own tree
        pictures = tuple((f"picture {number}", tiles) for number in range(copies))
        tree = Tree(trees=(length,) * copies, scored=copies * answers * ANSWER, pictures=pictures, runs=copies * tiles)
        said = f"at worst, square pictures of {spec.longest_edge} pixels ({tiles} tiles) with {text} tokens of text"
    count = recipe.batch.examples
    step = tuple(replace(tree, pictures=tuple((f"{key} of {n}", t) for key, t in tree.pictures)) for n in range(count))
    return Layout(steps=(step,), row_tokens=max(row, tree.tokens), source=f"{said}, because {why}", measured=False)


def _preset_images(recipe: Recipe, config: Any) -> ImageSpec:
    tile = config.vision_config.image_size
    shape = PRESETS.get(recipe.model.name)
    edge = recipe.images.longest_edge or (shape.longest_edge if shape else 4 * tile)
    return ImageSpec(tile=tile, longest_edge=edge, split=recipe.images.split is not False, upscale=recipe.images.upscale)


def _tree(example: Example) -> Tree:
    sizes: list[int] = []
    roots: list[int] = []
    for index, node in enumerate(example.nodes):
        roots.append(index if node.parent < 0 else roots[node.parent])
        if roots[-1] == index:
            sizes.append(0)
        sizes[-1] += len(node.ids)
    scored = sum(int((example.nodes[index].weights != 0).sum()) for index, _ in example.responses)
    return Tree(
        trees=tuple(sizes),
        scored=scored,
        pictures=tuple((image.key, len(image.starts)) for image in example.images),
        runs=sum(len(image.starts) for image in example.images),
    )


def _rows(trees: Sequence[Tree], row_tokens: int) -> list[Row]:
    shared = [[key for key, _ in tree.pictures] for tree in trees]
    capacity = max(row_tokens, *(tree.tokens for tree in trees))
    rows = []
    for numbers in pack([tree.tokens for tree in trees], capacity, shared):
        inside = [trees[number] for number in numbers]
        pictures = {key: tiles for tree in inside for key, tiles in tree.pictures}
        rows.append(
            Row(
                trees=tuple(length for tree in inside for length in tree.trees),
                scored=sum(tree.scored for tree in inside),
                tiles=sum(pictures.values()),
                runs=sum(tree.runs for tree in inside),
            )
        )
    return rows
