"""Shapes of the SmolVLM family, as plain numbers.

Sources: the checkpoints' config.json. The smaller models read at 512 pixels with 16-pixel patches and shuffle 4 x 4, which
gives 64 tokens a tile; the 2.2B reads at 384 with 14-pixel patches and shuffles 3 x 3: 81. (Descriptions that pair
SigLIP-base at 384 pixels with 81 tokens do not add up: 384 / 16 / 3 squared is 64.)
"""

from __future__ import annotations

from dataclasses import dataclass

from smolforge.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What distinguishes one model of the family from another."""

    model_type: str  # smolvlm, or idefics3 for the first 2.2B, 256M and 500M releases
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    vision_ff: int
    image_size: int  # tile edge in pixels
    patch: int
    shuffle: int  # pixel shuffle factor
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    vocab: int
    context: int
    rope_theta: float
    longest_edge: int  # of a picture before tiling

    @property
    def init_std(self) -> float:
        """Standard deviation of fresh weights, 1/sqrt(width): SmolLM2's (0.0417 at 576), too. At the tiny shape the usual
        0.02 leaves the decoder blind to pictures for hundreds of steps."""
        return self.hidden**-0.5

    @property
    def image_tokens(self) -> int:
        """Tokens a tile takes in the decoder.

        >>> PRESETS["smolvlm-256m"].image_tokens, PRESETS["smolvlm2-2.2b"].image_tokens
        (64, 81)
        """
        return (self.grid // self.shuffle) ** 2

    @property
    def grid(self) -> int:
        """Patches along a tile's edge; pixels beyond the last whole patch are cut (384 = 27 x 14 + 6)."""
        return self.image_size // self.patch

    def check_grid(self) -> None:
        """
        Raises:
            ModelError: pixel shuffle does not divide the grid of patches.
        """
        if not self.grid or self.grid % self.shuffle:
            raise ModelError(
                f"a tile of {self.image_size} pixels has {self.grid} x {self.grid} patches, which {self.shuffle} x "
                f"{self.shuffle} pixel shuffle does not divide",
                mend="choose another image size, patch or shuffle factor",
            )


_SIGLIP_BASE = dict(vision_hidden=768, vision_layers=12, vision_heads=12, vision_ff=3072, image_size=512, patch=16, shuffle=4)
_SO400M = dict(vision_hidden=1152, vision_layers=27, vision_heads=16, vision_ff=4304, image_size=384, patch=14, shuffle=3)
_135M = dict(hidden=576, layers=30, heads=9, kv_heads=3, ff=1536, context=8192, rope_theta=100_000.0, longest_edge=2048)
_360M = dict(hidden=960, layers=32, heads=15, kv_heads=5, ff=2560, context=8192, rope_theta=100_000.0, longest_edge=2048)
_1700M = dict(hidden=2048, layers=24, heads=32, kv_heads=32, ff=8192, context=16384, rope_theta=273_768.0, longest_edge=1536)
_TINY = dict(
    vision_hidden=64, vision_layers=2, vision_heads=2, vision_ff=256, image_size=96, patch=16, shuffle=2,
    hidden=128, layers=4, heads=4, kv_heads=2, ff=352, context=2048, rope_theta=10_000.0, longest_edge=96,
)  # fmt: skip

PRESETS: dict[str, Shape] = {
    "smolvlm-instruct": Shape(model_type="idefics3", vocab=49155, **_SO400M, **_1700M),  # type: ignore[arg-type]
    "smolvlm-256m": Shape(model_type="idefics3", vocab=49280, **_SIGLIP_BASE, **_135M),  # type: ignore[arg-type]
    "smolvlm-500m": Shape(model_type="idefics3", vocab=49280, **_SIGLIP_BASE, **_360M),  # type: ignore[arg-type]
    "smolvlm2-2.2b": Shape(model_type="smolvlm", vocab=49280, **_SO400M, **_1700M),  # type: ignore[arg-type]
    "smolvlm2-256m": Shape(model_type="smolvlm", vocab=49280, **_SIGLIP_BASE, **_135M),  # type: ignore[arg-type]
    "smolvlm2-500m": Shape(model_type="smolvlm", vocab=49280, **_SIGLIP_BASE, **_360M),  # type: ignore[arg-type]
    "tiny": Shape(model_type="smolvlm", vocab=512, **_TINY),  # type: ignore[arg-type]
}


def refuse_unknown(name: str | None) -> None:
    """Refuse the name of no preset.

    Raises:
        ModelError: it is none of them.
    """
    if name is not None and name not in PRESETS:
        raise ModelError(f"no preset {name}", mend=f"presets are {', '.join(PRESETS)}")
