"""Adapters: small trainable updates beside frozen weights, made by PEFT and saved in its format where it has the method.

inside.py      what all kinds share; LoRA, DoRA, rsLoRA, VeRA, IA3
pissa.py       LoRA from singular vectors      adalora.py   LoRA whose ranks move
bottleneck.py  small MLPs inside the layers    virtual.py   prompt, P-tuning, prefix
targets.py     which layers get them           making.py    from a recipe or a folder to adapters on a model
origin.py      the model that they belong to
"""

from smolforge.model.adapters.inside import Adapters, linear
from smolforge.model.adapters.making import add_adapters, load_adapters
from smolforge.model.adapters.origin import (
    BASE,
    base_fingerprint,
    base_of,
    is_adapter,
    read_about,
    refuse_another_base,
    stands_beside,
    weights_fingerprint,
)
from smolforge.model.adapters.targets import grouped, reached_beyond, target_modules
from smolforge.model.adapters.virtual import Virtual

__all__ = [
    "BASE", "Adapters", "Virtual", "add_adapters", "base_fingerprint", "base_of", "grouped", "is_adapter", "linear",
    "load_adapters", "reached_beyond", "read_about", "refuse_another_base", "stands_beside", "target_modules",
    "weights_fingerprint",
]  # fmt: skip
