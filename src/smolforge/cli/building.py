"""The verb `build`: a SmolVLM from its parts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def add(verbs: argparse._SubParsersAction, make: Callable[..., argparse.ArgumentParser]) -> None:
    """Put the verb with its options among the others."""
    verb = make(
        verbs, build, "put a SmolVLM together from a SigLIP and a SmolLM2, with a fresh connector",
        "smolforge build mine --vision google/siglip-base-patch16-512 --text HuggingFaceTB/SmolLM2-135M-Instruct",
        "smolforge build mine --vision google/siglip-base-patch16-512 --text HuggingFaceTB/SmolLM2-360M-Instruct "
        "--preset smolvlm2-500m --dtype bfloat16",
        "smolforge build mine --vision siglip --text SmolLM2-135M-Instruct.gguf --image-size 384 --shuffle 3",
        "smolforge build start --preset tiny",
    )  # fmt: skip
    verb.add_argument("out", type=Path, metavar="OUT", help="folder of the result")
    verb.add_argument(
        "--vision",
        metavar="MODEL",
        help="SigLIP, or a SmolVLM whose tower is taken: folder or Hub name (default: fresh weights of the preset's shape)",
    )
    verb.add_argument(
        "--text",
        metavar="MODEL",
        help="SmolLM2: folder, .gguf file or Hub name (default: fresh weights of the preset's shape)",
    )
    verb.add_argument("--preset", metavar="NAME", help="shape that the parts must have, such as smolvlm2-256m (default: theirs)")
    verb.add_argument("--model-type", choices=("smolvlm", "idefics3"), help="smolvlm is SmolVLM2, idefics3 the first SmolVLM")
    verb.add_argument("--image-size", type=_positive, metavar="PIXELS", help="edge of a tile (default: the preset's or tower's)")
    verb.add_argument("--shuffle", type=_positive, metavar="N", help="pixel shuffle factor: N x N patches become one token")
    verb.add_argument("--longest-edge", type=_positive, metavar="PIXELS", help="of a picture before tiling (default: 4 tiles)")
    verb.add_argument("--rope-base", type=_above_zero, metavar="BASE", help="of the positions, to extend the context")
    verb.add_argument("--context", type=_positive, metavar="TOKENS", help="longest row (default: the preset's or text model's)")
    verb.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights (default: %(default)s)")
    verb.add_argument("--seed", type=_from_zero, default=0, help="of what is fresh (default: %(default)s)")


def build(options: argparse.Namespace) -> int:
    from smolforge.folders import refuse_others
    from smolforge.hub import folder_here
    from smolforge.model.presets import refuse_unknown

    refuse_others(options.out)
    refuse_unknown(options.preset)
    for part in (options.vision, options.text):
        if part is not None:
            folder_here(part)
    print("loading PyTorch", file=sys.stderr)
    from smolforge import building

    names = ("image_size", "shuffle", "longest_edge", "rope_base", "context", "model_type")
    built = building.build(
        options.out,
        vision=options.vision,
        text=options.text,
        preset=options.preset,
        changes=building.Changes(**{name: getattr(options, name) for name in names}),
        dtype=options.dtype,
        seed=options.seed,
    )
    for line in built.lines:
        print(line)
    return 0


def _positive(text: str) -> int:
    return int(_number(text, int, 1, "a whole number above 0"))


def _from_zero(text: str) -> int:
    return int(_number(text, int, 0, "a whole number from 0 on"))


def _above_zero(text: str) -> float:
    value = _number(text, float, 0, "a number above 0")
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _number(text: str, kind: Callable[[str], float], least: int, words: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = least - 1
    if not least <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not {words}")
    return value
