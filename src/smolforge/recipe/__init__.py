"""The whole run in one YAML file, validated before anything is loaded.

`sections` read top to bottom, with `objectives` and `adapters`, is the list of everything a run can be told. Options that make no
sense together cannot be written; an unknown key is an error that names its nearest neighbour. Imports no torch.
"""

from smolforge.recipe.adapters import (
    METHODS,
    AdaloraSection,
    AdapterSection,
    BottleneckSection,
    Ia3Section,
    InLayers,
    LoraSection,
    PrefixSection,
    PromptSection,
    PTuningSection,
    QuantizeSection,
    VeraSection,
    VirtualTokens,
    parts_of,
)
from smolforge.recipe.base import Section
from smolforge.recipe.objectives import (
    SMOOTHED,
    WITHOUT_REFERENCE,
    CropSection,
    DenseSection,
    NoiseSection,
    PreferenceSection,
    ReferenceSection,
    SftSection,
)
from smolforge.recipe.reading import load_recipe, parse_recipe
from smolforge.recipe.sections import (
    COMPONENTS,
    MODALITIES,
    SPLIT,
    SPLIT_MEND,
    BatchSection,
    CacheSection,
    DataSection,
    EvalSection,
    FreezeSection,
    ImagesSection,
    MixtureSection,
    Modality,
    ModelSection,
    OptimSection,
    RatesSection,
    RunSection,
    VideoSection,
)
from smolforge.recipe.whole import Recipe, changes_said, differences

__all__ = [
    "COMPONENTS", "METHODS", "MODALITIES", "SMOOTHED", "SPLIT", "SPLIT_MEND", "WITHOUT_REFERENCE", "AdaloraSection",
    "AdapterSection", "BatchSection", "BottleneckSection", "CacheSection", "CropSection", "DataSection", "DenseSection",
    "EvalSection", "FreezeSection", "Ia3Section", "ImagesSection", "InLayers", "LoraSection", "MixtureSection", "Modality",
    "ModelSection", "NoiseSection", "OptimSection", "PTuningSection", "PreferenceSection", "PrefixSection", "PromptSection",
    "QuantizeSection", "RatesSection", "Recipe", "ReferenceSection", "RunSection", "Section", "SftSection", "VeraSection",
    "VideoSection", "VirtualTokens", "changes_said", "differences", "load_recipe", "parse_recipe", "parts_of",
]  # fmt: skip
