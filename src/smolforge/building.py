"""A SmolVLM from its parts: a SigLIP's tower, a SmolLM2, and a fresh connector between them, as a checkpoint in Hugging Face's
format. What does not fit is refused from configurations alone, with the numbers, before any weight is read or downloaded.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from smolforge.data.media import ABSOLUTE_MAX_EDGE, Grid, ImageSpec, tile_grid
from smolforge.data.processor import gguf_tokenizer, load_renderer
from smolforge.data.sources.scenes import PROMPT, scene
from smolforge.data.tokenizer import (
    FAMILY_TOKENS,
    add_family_tokens,
    added_tokens,
    num_ids,
    token_ids,
    train_tokenizer,
    write_processor,
)
from smolforge.errors import ModelError
from smolforge.folders import refuse_others
from smolforge.hub import local_folder
from smolforge.model.build import (
    Tower,
    assemble,
    count_parameters,
    details_of,
    load_model,
    read_config,
    read_tower,
    read_vision_config,
    weight_files,
)
from smolforge.model.presets import PRESETS, Shape, refuse_unknown
from smolforge.training.checkpoint import processor_files, save_model
from smolforge.wording import how_many

CONFIG_FILES = ("*.json", "*.txt", "*.jinja")
SHUFFLES = (4, 3, 2)  # factors that are tried where nobody names one: the family's two, then 2
TILES_A_SIDE = 4  # of the longest edge, as in every SmolVLM
MOST_TILES_A_SIDE = 6  # there are tokens <row_1_col_1> to <row_6_col_6>
EXAMPLE = (640, 480)  # pixels of the picture whose tiles are told
TOKENIZER_SCENES = 1000  # captions that a tokenizer is learnt from, where there is no text model to take one of
VISION_WORDS = {
    "vision_hidden": "width", "vision_layers": "layers", "vision_heads": "heads", "vision_ff": "MLP width", "patch": "patch",
}  # fmt: skip
TEXT_WORDS = {
    "hidden": "width", "layers": "layers", "heads": "heads", "kv_heads": "key-value heads", "ff": "MLP width",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What shall differ from the preset, or from the parts where there is none; None is as there."""

    image_size: int | None = None  # pixels of a tile's edge
    shuffle: int | None = None  # pixel shuffle factor
    longest_edge: int | None = None  # pixels of a picture before tiling
    rope_base: float | None = None
    context: int | None = None  # positions
    model_type: str | None = None  # smolvlm or idefics3


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part by its name and configuration; no weights."""

    name: str
    config: Any


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is known before weights are read."""

    shape: Shape
    vision: Part | None  # None: fresh
    text: Part | None
    tokenizer: Tokenizer
    new_ids: range  # of the added tokens
    notes: tuple[str, ...]  # what came from where, in the order of the parts


@dataclass(frozen=True, kw_only=True)
class Built:
    """A model that was put together."""

    folder: Path
    shape: Shape
    dtype: str
    parameters: dict[str, int]  # vision, connector, decoder
    grid: Grid  # of a picture of `EXAMPLE` pixels
    notes: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """For a person: what came from where, parameters, tokens of a picture."""
        counts = ", ".join(f"{name} {count:,}" for name, count in self.parameters.items())
        shape, tokens, tiles = self.shape, self.shape.image_tokens, self.grid.tiles
        width, height = EXAMPLE
        split = f"{self.grid.rows} x {self.grid.cols} and the whole view" if tiles > 1 else "the whole view"
        return (
            *self.notes,
            f"parameters: {counts}, in total {sum(self.parameters.values()):,} ({self.dtype})",
            f"tile: {shape.image_size} pixels, {shape.grid} x {shape.grid} patches of {shape.patch}, shuffled "
            f"{shape.shuffle} x {shape.shuffle}: image tokens {tokens}",
            f"a picture of {width} x {height}: tiles {tiles} ({split}), image tokens {tiles * tokens} of {shape.context} in all",
            f"model: {self.folder}",
        )


def build(
    out: Path,
    *,
    vision: str | None = None,
    text: str | None = None,
    preset: str | None = None,
    changes: Changes | None = None,
    dtype: str = "float32",
    seed: int = 0,
) -> Built:
    """Put a SmolVLM together and write it, atomically.

    Args:
        out: folder of the result; must not hold anything.
        vision: folder or Hub name of a SigLIP, or of a SmolVLM whose tower is taken. Fresh weights of the preset's shape when
            left out.
        text: folder, .gguf file or Hub name of a SmolLM2. Fresh weights of the preset's shape when left out.
        preset: shape that the parts must have, and where the resolution, the context and the rest come from.
        changes: what shall differ.
        dtype: of the written weights, "float32" or "bfloat16".
        seed: of the connector, of the new token rows, and of what else is fresh.

    Raises:
        ModelError: a part cannot be read, the parts do not fit together, or `out` is a file.
        CheckpointError: `out` is not empty, or the disk is full or not writable.
    """
    if out.exists() and not out.is_dir():
        raise ModelError("is a file, and a model is a folder", where=out, mend="choose another place")
    refuse_others(out)
    plan = plan_model(vision, text, preset, changes or Changes())
    shape, notes = plan.shape, list(plan.notes)
    tower, decoder = None, None
    if plan.vision is not None:
        tower = read_tower(local_folder(plan.vision.name))
        notes.insert(1, _dropped(tower))
    if plan.text is not None:
        decoder = load_model(local_folder(plan.text.name))
        tied = decoder.config.tie_word_embeddings
        notes.append(
            f"the head, tied to the token table there, has {shape.vocab * shape.hidden:,} parameters of its own now: a copy"
            if tied
            else "the head comes from there, too"
        )
    model = assemble(
        shape,
        decoder=decoder,
        kept_rows=plan.new_ids.start,
        tower=tower.weights if tower else None,
        details=details_of(plan.vision and plan.vision.config, plan.text and plan.text.config),
        seed=seed,
        **token_ids(plan.tokenizer),
    ).to(getattr(torch, dtype))
    notes.append(
        f"connector: fresh, seed {seed}: one linear layer without bias, {shape.vision_hidden} x {shape.shuffle**2} = "
        f"{shape.vision_hidden * shape.shuffle**2} to {shape.hidden}"
    )
    spec = ImageSpec(tile=shape.image_size, longest_edge=shape.longest_edge)
    with tempfile.TemporaryDirectory() as draft:
        write_processor(
            Path(draft), plan.tokenizer, spec, image_tokens=shape.image_tokens, context=shape.context,
            kind="SmolVLM" if shape.model_type == "smolvlm" else "Idefics3",
        )  # fmt: skip
        save_model(out, model, processor_files(Path(draft)))
    return Built(
        folder=out, shape=shape, dtype=dtype, parameters={name: total for name, (total, _) in count_parameters(model).items()},
        grid=tile_grid(*EXAMPLE, spec), notes=tuple(notes),
    )  # fmt: skip


def _dropped(tower: Tower) -> str:
    parts = {"its pooling head": tower.pooling_head, "the parts beside it": tower.beside}
    dropped = [f"{name}, {count:,} parameters" for name, count in parts.items() if count]
    return f"dropped: {'; '.join(dropped)}" if dropped else "dropped: nothing, its weights are a tower's alone"


# --- the plan: configurations only -------------------------------------------------------------------------------


def plan_model(vision: str | None, text: str | None, preset: str | None, changes: Changes) -> Plan:
    """What would be built, from configurations alone; Hub names download only these. Raises as `build`."""
    wanted = _preset(preset, vision, text)
    tower, llama = _vision_part(vision), _text_part(text)
    seen = _vision_numbers(tower) if tower else {}
    read = _text_numbers(llama) if llama else {}
    if wanted is not None:
        _refuse_other(seen, wanted, VISION_WORDS, f"{vision}: the vision tower", str(preset))
        _refuse_other(read, wanted, TEXT_WORDS, f"{text}: the text model", str(preset))
    shape = _shape(wanted, seen, read, changes)
    _check_image_size(shape, {seen.get("image_size"), wanted.image_size if wanted else None})
    shape.check_grid()
    _check_edge(shape, TILES_A_SIDE if wanted is None else wanted.longest_edge // wanted.image_size)
    _check_context(shape)
    if llama is None:
        tokenizer = _learnt_tokenizer(shape)
        new_ids = range(shape.vocab - len(added_tokens(shape.vocab)), shape.vocab)
    else:  # a GGUF's takes seconds to read: after all that is refused at once
        tokenizer = _tokenizer(local_folder(llama.name, files=CONFIG_FILES))
        new_ids = _add_tokens(tokenizer, llama, added_tokens(wanted.vocab) if wanted else FAMILY_TOKENS)
        if wanted is not None:
            words = {"vocab": "vocabulary with the added tokens"}
            _refuse_other({"vocab": new_ids.stop}, wanted, words, f"{text}: the text model", str(preset))
        shape = replace(shape, vocab=new_ids.stop)
    return Plan(
        shape=shape, vision=tower, text=llama, tokenizer=tokenizer, new_ids=new_ids,
        notes=(*_vision_notes(shape, tower), *_text_notes(shape, llama, new_ids)),
    )  # fmt: skip


def _preset(name: str | None, vision: str | None, text: str | None) -> Shape | None:
    refuse_unknown(name)
    if name is None and (vision is None or text is None):
        left_out = " and ".join(part for part, given in (("--vision", vision), ("--text", text)) if given is None)
        raise ModelError(f"{left_out} left out, and no preset", mend="say what shape fresh weights have: --preset smolvlm-256m")
    return PRESETS[name] if name is not None else None


def _vision_part(name: str | None) -> Part | None:
    if name is None:
        return None
    folder = local_folder(name, files=CONFIG_FILES)
    if folder.suffix == ".gguf":
        raise ModelError("a GGUF, which holds no SigLIP for training", where=name, mend="give a folder or Hub name")
    part = Part(name=name, config=read_vision_config(folder))
    if Path(name).expanduser().is_dir():
        weight_files(folder)
    return part


def _text_part(name: str | None) -> Part | None:
    if name is None:
        return None
    folder = local_folder(name, files=CONFIG_FILES)
    config = read_config(folder)
    if config.model_type != "llama":
        raise ModelError(f"model type {config.model_type}", where=name, mend="the text model must be a SmolLM2 or another Llama")
    if folder.suffix != ".gguf" and Path(name).expanduser().is_dir():
        weight_files(folder)
    return Part(name=name, config=config)


def _tokenizer(folder: Path) -> Tokenizer:
    """A text model's own."""
    return gguf_tokenizer(folder).backend_tokenizer if folder.suffix == ".gguf" else load_renderer(folder).tokenizer


def _learnt_tokenizer(shape: Shape) -> Tokenizer:
    """Where there is no text model: of drawn scenes, as the quickstart's."""
    texts = [PROMPT, *(scene(0, index).caption for index in range(TOKENIZER_SCENES))]
    return train_tokenizer(texts, vocab=shape.vocab)


def _add_tokens(tokenizer: Tokenizer, text: Part, tokens: tuple[str, ...]) -> range:
    ids, rows = num_ids(tokenizer), text.config.vocab_size
    if ids > rows:
        raise ModelError(
            f"its tokenizer has {ids} ids, its token table {rows} rows",
            where=text.name,
            mend="give the tokenizer it was trained with",
        )
    try:
        return add_family_tokens(tokenizer, tokens)
    except ModelError as error:
        raise ModelError(error.what, where=text.name, mend=error.mend) from error


def _vision_numbers(part: Part) -> dict[str, Any]:
    config = part.config
    return dict(
        vision_hidden=config.hidden_size, vision_layers=config.num_hidden_layers, vision_heads=config.num_attention_heads,
        vision_ff=config.intermediate_size, patch=config.patch_size, image_size=config.image_size,
    )  # fmt: skip


def _text_numbers(part: Part) -> dict[str, Any]:
    config = part.config
    return dict(
        hidden=config.hidden_size, layers=config.num_hidden_layers, heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads, ff=config.intermediate_size, context=config.max_position_embeddings,
        rope_theta=float(config.rope_parameters["rope_theta"]), vocab=config.vocab_size,
    )  # fmt: skip


def _refuse_other(numbers: dict[str, Any], preset: Shape, words: dict[str, str], what: str, name: str) -> None:
    other = [
        f"{word} {numbers[key]} and {getattr(preset, key)}"
        for key, word in words.items()
        if key in numbers and numbers[key] != getattr(preset, key)
    ]
    if other:
        mend = "give the preset's own parts, or leave the preset out"
        raise ModelError(f"{what} and preset {name} differ: {', '.join(other[:2])}", mend=mend)


def _shape(preset: Shape | None, seen: dict[str, Any], read: dict[str, Any], changes: Changes) -> Shape:
    """The preset with the changes; without one, the parts' own numbers with them."""
    if preset is None:
        grid = (changes.image_size or seen["image_size"]) // seen["patch"]
        factor = next((factor for factor in SHUFFLES if grid and grid % factor == 0), SHUFFLES[0])
        preset = Shape(model_type="smolvlm", shuffle=factor, longest_edge=TILES_A_SIDE * seen["image_size"], **(seen | read))
    size = changes.image_size or preset.image_size
    return replace(
        preset,
        model_type=changes.model_type or preset.model_type,
        image_size=size,
        shuffle=changes.shuffle or preset.shuffle,
        # as many tiles as there, of the new size
        longest_edge=changes.longest_edge or preset.longest_edge // preset.image_size * size,
        rope_theta=changes.rope_base or preset.rope_theta,
        context=changes.context or preset.context,
    )


def _check_image_size(shape: Shape, known: set[int | None]) -> None:
    """A size that is the tower's own or the preset's stays, although 14 does not divide 384: it was trained so."""
    if shape.image_size % shape.patch and shape.image_size not in known:
        down = shape.grid * shape.patch
        near = f"{down} or {down + shape.patch}" if down else str(shape.patch)
        raise ModelError(
            f"a tile of {shape.image_size} pixels is no multiple of the patch, {shape.patch}", mend=f"take --image-size {near}"
        )


def _check_edge(shape: Shape, tiles: int) -> None:
    edge, tile = shape.longest_edge, shape.image_size
    if edge % tile:
        mend = f"take --longest-edge {tiles * tile}, {tiles} tiles"
        raise ModelError(f"the longest edge, {edge} pixels, is no multiple of the tile, {tile}", mend=mend)
    if edge > MOST_TILES_A_SIDE * tile:
        raise ModelError(
            f"a longest edge of {edge} pixels has {edge // tile} tiles of {tile}, and there are tokens for {MOST_TILES_A_SIDE}",
            mend=f"take --longest-edge {MOST_TILES_A_SIDE * tile} or less",
        )
    if edge > ABSOLUTE_MAX_EDGE:
        most = ABSOLUTE_MAX_EDGE // tile * tile
        mend = f"take --longest-edge {most} or less" if most else f"take a tile of {ABSOLUTE_MAX_EDGE} pixels or less"
        raise ModelError(f"a longest edge of {edge} pixels; Hugging Face's processor stops at {ABSOLUTE_MAX_EDGE}", mend=mend)


def _check_context(shape: Shape) -> None:
    if shape.image_tokens >= shape.context:
        raise ModelError(
            f"one tile takes {shape.image_tokens} tokens, the context has {shape.context}",
            mend="shuffle by a larger factor, take smaller tiles, or extend --context",
        )


# --- what is told ------------------------------------------------------------------------------------------------


def _vision_notes(shape: Shape, part: Part | None) -> list[str]:
    size = f"{shape.vision_layers} layers of width {shape.vision_hidden}"
    if part is None:
        return [f"vision: fresh weights, {size}", *_rounding(shape)]
    notes = [f"vision: {part.name}, {size}"]
    own = part.config.image_size // part.config.patch_size
    if own != shape.grid:
        notes.append(
            f"position embeddings: interpolated from {own} x {own} to {shape.grid} x {shape.grid} ({own**2} to {shape.grid**2}), "
            f"for {part.config.image_size} pixels are {shape.image_size} now"
        )
    return notes + _rounding(shape)


def _rounding(shape: Shape) -> list[str]:
    """transformers' SmolVLM finds a patch's position by fractions in float32; at some grids rounding takes a neighbour's.

    `SmolVLMVisionEmbeddings.forward`; at the family's own grids, 32 and 27, all are right.
    """
    side = shape.grid
    fractions = torch.clamp(torch.arange(side, dtype=torch.float32) * (1.0 / torch.tensor(float(side))), max=1.0 - 1e-6)
    found = torch.bucketize(fractions, torch.arange(1 / side, 1.0, 1 / side), right=True)
    wrong = int((found != torch.arange(side)).sum())
    if not wrong:
        return []
    return [
        f"at {side} patches a side, rounding in transformers' SmolVLM gives {wrong} of {side} rows and columns a neighbour's "
        "position embedding; 16, 24, 27 and 32 have no such rows"
    ]


def _text_notes(shape: Shape, part: Part | None, new_ids: range) -> list[str]:
    size = f"{shape.layers} layers of width {shape.hidden}"
    if part is None:
        return [
            f"text: fresh weights, {size}; without a text model the tokenizer is learnt from {TOKENIZER_SCENES} captions of "
            "drawn scenes, and knows few other words"
        ]
    notes = [f"text: {part.name}, {size}"]
    if new_ids:
        notes.append(
            f"added: {len(new_ids)} tokens, ids {new_ids.start} to {new_ids.stop - 1}; their rows start around the mean of the "
            "others, <end_of_utterance> as the model's closing token"
        )
    if padding := part.config.vocab_size - new_ids.start:
        notes.append(f"dropped: {how_many(padding, 'row')} of the token table that no token has")
    base, context = float(part.config.rope_parameters["rope_theta"]), part.config.max_position_embeddings
    if shape.rope_theta != base:
        notes.append(f"RoPE base: {base:g} there, {shape.rope_theta:g} here")
    if shape.context != context:
        never = "" if shape.context < context else f"; positions from {context} on were never trained"
        notes.append(f"context: {context} there, {shape.context} here{never}")
    return notes
