"""A checkpoint's processor files, read as plain JSON into a Renderer. No code from the checkpoint runs."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

from smolforge.data.chat import CHATML, SMOLLM_SYSTEM, SMOLVLM, ChatFormat
from smolforge.data.features import cache_folder
from smolforge.data.film import FrameCache
from smolforge.data.media import ImageSpec, tile_grid
from smolforge.data.render import Renderer
from smolforge.errors import ModelError, RecipeError
from smolforge.recipe import ImagesSection, VideoSection

VISION_TYPES = ("idefics3", "smolvlm")


def load_renderer(
    folder: Path,
    *,
    images: ImagesSection | None = None,
    video: VideoSection | None = None,
    cache: Path | None = None,
    row_tokens: int | None = None,
    context: int | None = None,
) -> Renderer:
    """Renderer of a checkpoint folder in Hugging Face's format (or a .gguf file).

    Args:
        images: what the recipe changes of the checkpoint's own picture rules.
        video: which frames of a video are seen; one a second and 64 at most when left out, as the family's checkpoints do.
        cache: the recipe's `cache.dir`, below which frames are kept where `video` says so.
        row_tokens: longest tree that may be rendered; the model's context when left out.
        context: positions of the model; read from config.json when left out.

    Raises:
        ModelError: a file is missing, or the model is not of the family.
        RecipeError: the recipe's picture rules do not fit the checkpoint's, or its tokenizer.
    """
    if folder.suffix == ".gguf":
        return _gguf_renderer(folder, row_tokens)
    config = read_json(folder / "config.json")
    tokenizer = _tokenizer(folder)
    if config.get("model_type") not in VISION_TYPES:
        template = _chat_template(folder)
        chat = replace(CHATML, system=SMOLLM_SYSTEM) if SMOLLM_SYSTEM in template else CHATML
        limit = context or int(config.get("max_position_embeddings", 2048))
        return Renderer(tokenizer=tokenizer, chat=chat, context=limit, row_tokens=row_tokens or limit)
    vision, text = config["vision_config"], config["text_config"]
    side = int(vision.get("image_size", 224)) // int(vision["patch_size"])
    limit = context or int(text.get("max_position_embeddings", 8192))
    spec = _image_spec(folder)
    if images is not None:
        spec = replace(
            spec,
            longest_edge=images.longest_edge or spec.longest_edge,
            split=spec.split if images.split is None else images.split,
            upscale=images.upscale,
            max_pixels=images.max_pixels,
        )
        _refuse_edges(images, spec)
        refuse_unmarked(spec, most_marks(lambda mark: tokenizer.token_to_id(mark) is not None))
    return Renderer(
        tokenizer=tokenizer,
        chat=SMOLVLM,
        context=limit,
        images=spec,
        video=video or VideoSection(),
        frames=FrameCache(cache=cache_folder(cache)) if video and video.cache else None,
        image_tokens=side * side // int(config["scale_factor"]) ** 2,
        max_tiles=images.max_tiles if images else None,
        row_tokens=row_tokens or limit,
    )


def _refuse_edges(images: ImagesSection, spec: ImageSpec) -> None:
    """Sizes that pictures are drawn from, which the rules would not let them have."""
    if not images.random_edge:
        return
    if (most := max(images.random_edge)) > spec.longest_edge:
        what = f"{most} is more than the longest edge of {spec.longest_edge} that pictures have elsewhere"
        raise RecipeError(what, where="images.random_edge", mend="leave it out of the draw, or raise images.longest_edge")
    if not spec.split:
        what = "the checkpoint does not cut pictures into tiles, so their size would change nothing"
        raise RecipeError(what, where="images.random_edge", mend="leave it out, or set images.split: true")


def most_marks(is_token: Callable[[str], bool]) -> int | None:
    """Tiles a side that have tokens of their own, <row_1_col_1> to <row_n_col_n>; None where all marks are written as text, as
    the first 2.2B learnt them.

    >>> most_marks(("<row_1_col_1>", "<row_1_col_2>", "<row_2_col_1>", "<row_2_col_2>").__contains__)
    2
    """
    most = 0
    while is_token(f"<row_{most + 1}_col_{most + 1}>"):
        most += 1
    return most or None


def refuse_unmarked(spec: ImageSpec, most: int | None) -> None:
    """A longest edge that gives more tiles a side than the tokenizer has marks: the others would be spelt out as text.

    Raises:
        RecipeError: with the largest one that it has marks for.
    """
    side = tile_grid(spec.longest_edge, spec.longest_edge, spec).cols  # no shape has more than the square
    if most is None or side <= most:
        return
    edge = spec.longest_edge
    what = f"pictures of {edge} pixels have {side} tiles of {spec.tile} a side, and the tokenizer has marks for {most}"
    raise RecipeError(what, where="images.longest_edge", mend=f"take {most * spec.tile} or less, or images.split: false")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelError: missing, or not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError("missing file", where=file, mend="this is not a complete model folder") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"not valid JSON ({error})", where=file, mend="copy the file again") from error


def _tokenizer(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ModelError("missing file", where=file, mend="this is not a complete model folder")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the tokenizers library raises nothing more precise
        raise ModelError(f"not a readable tokenizer ({error})", where=file, mend="copy the file again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _chat_template(folder: Path) -> str:
    jinja, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    return str(read_json(config).get("chat_template") or "") if config.is_file() else ""


def _image_spec(folder: Path) -> ImageSpec:
    """Picture rules: preprocessor_config.json, or inside processor_config.json, where transformers 5 saves them."""
    file = folder / "preprocessor_config.json"
    if not file.is_file() and (folder / "processor_config.json").is_file():
        file = folder / "processor_config.json"
    config = read_json(file)
    config = config.get("image_processor", config)
    try:
        return ImageSpec(
            tile=int(config["max_image_size"]["longest_edge"]),
            longest_edge=int(config["size"]["longest_edge"]),
            split=bool(config.get("do_image_splitting", True)),
            resample=int(config.get("resample", 1)),
            mean=tuple(config["image_mean"]),
            std=tuple(config["image_std"]),
        )
    except (KeyError, TypeError) as error:
        raise ModelError(f"does not say {error}", where=file, mend="this is not a SmolVLM's processor") from error


def _gguf_renderer(file: Path, row_tokens: int | None) -> Renderer:
    from transformers import AutoConfig

    tokenizer = gguf_tokenizer(file)
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    limit = config.max_position_embeddings
    system = SMOLLM_SYSTEM if SMOLLM_SYSTEM in (tokenizer.chat_template or "") else None
    chat: ChatFormat = replace(CHATML, system=system)
    return Renderer(tokenizer=tokenizer.backend_tokenizer, chat=chat, context=limit, row_tokens=row_tokens or limit)


def gguf_tokenizer(file: Path) -> Any:
    """The tokenizer of a SmolLM2 in a GGUF, as a `PreTrainedTokenizerFast` that saves and loads as it is.

    transformers builds GPT-2's splitting for every BPE in a GGUF, and again for every folder that names GPT2Tokenizer; SmolLM2
    splits digits one by one before it.

    Raises:
        ModelError: not a readable GGUF, or the gguf package is missing.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        read = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except ImportError as error:
        raise ModelError("GGUF needs the gguf package", where=file, mend="pip install 'smolforge[gguf]'") from error
    except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
        raise ModelError(f"not a readable GGUF ({error})", where=file, mend="check the file") from error
    backend = read.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    special = {name: str(token) for name, token in read.special_tokens_map.items() if isinstance(token, str)}
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=read.chat_template, **special)
