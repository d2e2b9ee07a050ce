"""What a step will hold: how long the trees of a row are, how many tokens are scored, how many tiles are seen.

From the recipe's own data where it is at hand: rendered, not decoded. Otherwise the worst that the recipe allows: every row full,
every picture as large as it may be, every video with all frames it may have; a mixture's modalities in their shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smolforge.data.media import Drawing, ImageSpec, fewer_tiles, tile_grid
from smolforge.data.pack import pack
from smolforge.data.pipeline import open_stream
from smolforge.data.processor import load_renderer, most_marks, refuse_unmarked
from smolforge.data.render import FRAME_TOKENS, Example
from smolforge.data.sources.catalog import SOURCES
from smolforge.data.tokenizer import added_tokens
from smolforge.errors import DataError, RecipeError, UserError
from smolforge.estimating.assumed import ASSUMED
from smolforge.model.presets import PRESETS
from smolforge.objectives import objective_of
from smolforge.recipe import MODALITIES, PreferenceSection, Recipe
from smolforge.records import Record
from smolforge.wording import how_many

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
    frames: int = 0  # of the tiles those that are a video's frames
    videos: int = 0
    encoded: float | None = 0.0  # bytes of the files of its pictures and videos; None where they are drawn

    @property
    def tokens(self) -> int:
        return sum(self.trees)

    @property
    def tiles(self) -> int:
        return sum(tiles for _, tiles in self.pictures)


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
        renderer = load_renderer(folder, images=recipe.images, video=recipe.video, row_tokens=recipe.batch.row_tokens)
    except RecipeError:
        raise
    except UserError as error:
        return worst(recipe, config, f"the model's processor cannot be read ({error.what})", None)
    objective = objective_of(recipe.objective)
    try:
        stream = open_stream(
            recipe.data, renderer, shaping=objective.shaping, seed=recipe.run.seed, mixture=recipe.mixture,
            examples=recipe.batch.examples, edges=recipe.images.random_edge,
        )  # fmt: skip
    except UserError as error:
        return worst(recipe, config, f"the data is not at hand ({error.what})", renderer.images)
    size = min(recipe.batch.examples, stream.num_rows)
    examples: list[Tree] = []
    for index in range(min(stream.num_rows, max(size, SAMPLE // size * size))):
        try:
            examples.append(_tree(stream.example(index), stream.record(index)))
        except DataError:
            continue  # a run drops and counts them
    if not examples:
        return worst(recipe, config, "no example of the data can be used", renderer.images)
    steps = tuple(tuple(examples[first : first + size]) for first in range(0, len(examples), size))
    source = f"from the first {how_many(len(examples), 'example')} of the data"
    return Layout(steps=steps, row_tokens=recipe.batch.row_tokens, source=source, measured=True)


def worst(recipe: Recipe, config: Any, why: str, images: ImageSpec | None) -> Layout:
    """A step of examples with one picture of the largest size, a short question and answers; with a mixture, of each modality's
    share of such examples.

    Args:
        images: the processor's picture rules with the recipe's changes; of a preset by its longest edge.
    """
    count = recipe.batch.examples
    if not hasattr(config, "vision_config"):
        length = min(recipe.batch.row_tokens, config.max_position_embeddings)
        kinds = {"text": Tree(trees=(length,), scored=max(1, length - QUESTION), pictures=(), runs=0)}
        said = f"at worst, texts of {length:,} tokens"
    else:
        spec = images or _preset_images(recipe, config)
        if drawn := recipe.images.random_edge:
            spec = replace(spec, longest_edge=min(spec.longest_edge, max(drawn)))
        kinds = {kind: _assumed(kind, recipe, config, spec) for kind in MODALITIES}
        said = f"at worst, square pictures of {spec.longest_edge} pixels with {_text(recipe)} tokens of text"
        said += ", the largest of images.random_edge" if drawn else ""
    shares = modality_shares(recipe) if hasattr(config, "vision_config") else {"text": 1.0}
    numbers = apportion(shares, count)
    if list(shares) != ["image"] and hasattr(config, "vision_config"):
        said = "as assumed, " + ", ".join(f"{n} {kind} of {kinds[kind].tokens:,} tokens" for kind, n in numbers.items() if n)
    elif "image" in shares:
        said = said.replace(" pixels with", f" pixels ({kinds['image'].tiles} tiles) with")
    step = [kinds[kind] for kind, number in numbers.items() for _ in range(number)]
    step = [replace(tree, pictures=tuple((f"{key} of {n}", t) for key, t in tree.pictures)) for n, tree in enumerate(step)]
    row = max(recipe.batch.row_tokens, *(tree.tokens for tree in step)) if step else recipe.batch.row_tokens
    return Layout(steps=(tuple(step),), row_tokens=row, source=f"{said}, because {why}", measured=False)


def modality_shares(recipe: Recipe) -> dict[str, float]:
    """Share of a recipe's examples by modality, as its mixture or its sources' weights say. Unknown sources hold pictures.

    >>> from smolforge.recipe import parse_recipe
    >>> texts = {"source": "smoltalk", "weight": 1}
    >>> tree = {"model": {"name": "tiny"}, "data": [texts, {"source": "my.jsonl", "weight": 3}], "run": {"dir": "x", "steps": 1}}
    >>> modality_shares(parse_recipe(tree))
    {'image': 0.75, 'text': 0.25}
    """
    shares = dict.fromkeys(MODALITIES, 0.0)
    if recipe.mixture is not None:
        shares |= recipe.mixture.model_dump()
    else:
        for section in recipe.data:
            known = SOURCES[section.source].modality if section.source in SOURCES else "image"
            shares[section.modality or known] += section.weight or 1.0
    total = sum(shares.values())
    return {kind: share / total for kind, share in shares.items() if share}


def apportion(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """Whole numbers of about these shares that sum to `count`, by largest remainder.

    >>> apportion({"image": 0.344, "video": 0.33, "text": 0.203, "multi_image": 0.123}, 256)
    {'image': 88, 'video': 84, 'text': 52, 'multi_image': 32}
    """
    numbers = {kind: int(share * count) for kind, share in shares.items()}
    by_rest = sorted(shares, key=lambda kind: numbers[kind] - shares[kind] * count)
    for kind in by_rest[: count - sum(numbers.values())]:
        numbers[kind] += 1
    return numbers


def _text(recipe: Recipe) -> int:
    return QUESTION + _answers(recipe) * ANSWER


def _answers(recipe: Recipe) -> int:
    return 2 if isinstance(recipe.objective, PreferenceSection) else 1


def _assumed(kind: str, recipe: Recipe, config: Any, spec: ImageSpec) -> Tree:
    """An example of a modality, the largest that fits a row."""
    row = min(recipe.batch.row_tokens, config.text_config.max_position_embeddings)
    size = (config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor) ** 2
    text, pictures, frames, around = _text(recipe), {"image": 1, "multi_image": ASSUMED.pictures}.get(kind, 0), 0, PIECE
    if pictures and recipe.images.max_tiles:  # no example has more
        pictures = max(1, min(pictures, recipe.images.max_tiles // tile_grid(spec.longest_edge, spec.longest_edge, spec).tiles))
    encoded = pictures * ASSUMED.picture_bytes
    tiles = pictures * tile_grid(spec.longest_edge, spec.longest_edge, spec).tiles
    while pictures and tiles * (size + around) + text > row and (smaller := fewer_tiles(spec)) is not None:
        spec = smaller
        tiles = pictures * tile_grid(spec.longest_edge, spec.longest_edge, spec).tiles
    if kind == "video":
        around = FRAME_TOKENS
        pictures = tiles = frames = max(1, min(recipe.video.max_frames, (row - text) // (size + around)))
        encoded = recipe.video.max_frames / recipe.video.fps * ASSUMED.video_bytes
    if kind == "text":
        text = min(row, max(text, ASSUMED.text_tokens))
    length = tiles * (size + around) + text
    copies = 2 if pictures and getattr(recipe.objective, "picture", None) is not None else 1  # the spoilt picture's own tree
    each = tiles // pictures if pictures else 0
    return Tree(
        trees=(length,) * copies,
        scored=copies * _answers(recipe) * ANSWER if kind != "text" else text - QUESTION,
        pictures=tuple((f"picture {number}", each) for number in range(copies * pictures)),
        runs=copies * tiles, frames=copies * frames, videos=int(kind == "video"), encoded=encoded,
    )  # fmt: skip


def _preset_images(recipe: Recipe, config: Any) -> ImageSpec:
    tile = config.vision_config.image_size
    shape = PRESETS.get(recipe.model.name)
    edge = recipe.images.longest_edge or (shape.longest_edge if shape else 4 * tile)
    spec = ImageSpec(tile=tile, longest_edge=edge, split=recipe.images.split is not False, upscale=recipe.images.upscale)
    refuse_unmarked(spec, most_marks(added_tokens(shape.vocab).__contains__) if shape else None)
    return spec


def encoded_bytes(record: Record) -> float | None:
    """Bytes of the files that a record's pictures and videos are in; None where one is drawn or somewhere else."""
    total = 0.0
    refs: list[Any] = [media.ref for media in record.media] + [video.ref for video in record.videos]
    for ref in refs:
        if callable(ref) and not isinstance(ref, Drawing):
            ref = ref()  # reads bytes, or draws
        if isinstance(ref, str) and not ref.startswith(("http://", "https://", "data:")):
            ref = Path(ref)
        if isinstance(ref, bytes):
            total += len(ref)
        elif isinstance(ref, Path) and ref.exists():
            files = ref.rglob("*") if ref.is_dir() else [ref]
            total += sum(file.stat().st_size for file in files if file.is_file())
        else:
            return None
    return total


def _tree(example: Example, record: Record) -> Tree:
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
        frames=sum(len(image.starts) for image in example.images if not image.picture.split),
        videos=len(record.videos),
        encoded=encoded_bytes(record),
    )


def _rows(trees: Sequence[Tree], row_tokens: int) -> list[Row]:
    if not trees:  # of a rank that has no example of a step
        return []
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
