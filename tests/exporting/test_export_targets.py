"""Each target's own program says what smolforge says, on a text and a picture; and an export that would not is not kept."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from smolforge import exporting as room
from smolforge.data.sources.scenes import scene
from smolforge.errors import CheckpointError, ModelError, UserError
from smolforge.exporting import export, gguf, llama_cpp, mlx, onnx
from smolforge.exporting.agreement import agree, ask, expect, questions
from smolforge.loading import load
from smolforge.recipe import parse_recipe
from smolforge.training.loop import train

PACKAGES = {"gguf": ("gguf", "xllamacpp"), "onnx": ("onnx", "onnxruntime"), "mlx": ("mlx.core", "mlx_lm", "mlx_vlm")}
# Nats of any log-prob, worst seen in float32: 8e-6 of ONNX Runtime and MLX; 2.3e-3 of llama.cpp, which rounds pixels and GELU to
# float16 (6e-6 on a text, 2.3e-5 against smolforge with the same rounding).
FLOAT32 = {"gguf": 5e-3, "onnx": 5e-5, "mlx": 5e-5}


def installed(target: str) -> None:
    for package in PACKAGES[target]:
        pytest.importorskip(package, reason=f"{package} is not installed (pip install 'smolforge[export,mlx]')")


@pytest.fixture(params=["gguf", "onnx", "mlx"])
def target(request: pytest.FixtureRequest) -> str:
    installed(request.param)
    return request.param


def test_a_model_that_sees_says_the_same(target: str, seeing: Path, tmp_path: Path) -> None:
    found = export(str(seeing), tmp_path / "out", to=target, dtype="float32")
    assert found.prompts == ("a text", "a picture")
    assert found.difference <= FLOAT32[target]
    assert found.greedy
    assert not found.notes
    assert found.files == {str(p.relative_to(found.folder)): p.stat().st_size for p in found.folder.rglob("*") if p.is_file()}
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "no draft is left"


def test_a_tied_text_model_says_the_same(target: str, reading: Path, tmp_path: Path) -> None:
    found = export(str(reading), tmp_path / "out", to=target, dtype="float32")
    assert found.prompts == ("a text",)
    assert found.difference <= 5e-5  # no picture: no float16 in llama.cpp either
    assert found.greedy


@pytest.mark.parametrize(
    ("to", "dtype"),
    [("gguf", "float16"), ("gguf", "bfloat16"), ("gguf", "q8_0"), ("onnx", "float16"), ("mlx", "bfloat16"), ("mlx", "8bit")],
)
def test_a_rounded_model_is_as_near_as_its_rounding_allows(to: str, dtype: str, seeing: Path, tmp_path: Path) -> None:
    installed(to)
    found = export(str(seeing), tmp_path / "out", to=to, dtype=dtype)
    # worst seen: 1.6 (MLX in 8 bits), 1.0 (all others)
    assert 0 < found.difference <= 1e-3 + 2 * found.own
    whole = sum(parameter.numel() for parameter in load(str(seeing), device="cpu").model.parameters())
    weights = sum(size for name, size in found.files.items() if name.endswith((".gguf", ".onnx", ".safetensors")))
    assert weights < 2.3 * whole, "the files are no smaller than float32's"


@pytest.fixture(scope="module")
def run(seeing: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """LoRA, two steps at a rate that changes answers."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    tree = {
        "model": {"name": str(seeing)},
        "data": [{"source": "scenes"}],
        "adapters": {"method": "lora", "r": 4},
        "optim": {"lr": 0.02, "warmup": 0},
        "batch": {"examples": 2, "row_tokens": 256},
        "run": {"dir": str(folder), "steps": 2, "save_every": 2, "device": "cpu", "trackers": [], "workers": 0},
    }
    return str(train(parse_recipe(tree)))


def test_adapters_are_merged_on_the_way(target: str, run: str, seeing: Path, tmp_path: Path) -> None:
    """What is compared is the model with adapters beside it; the base says something else."""
    found = export(run, tmp_path / "out", to=target, dtype="float32")
    assert found.difference <= FLOAT32[target] + 2e-4  # merging sums in another order
    tuned, base = load(run, device="cpu"), load(str(seeing), device="cpu")
    (question, _) = questions(base.renderer)
    said = expect(tuned.model, tuned.renderer, question)
    assert np.abs(expect(base.model, base.renderer, question, said.answer).log_probs - said.log_probs).max() > 0.1, "no case"


def _no_rotation_order(weight: torch.Tensor, heads: int) -> torch.Tensor:
    return weight


def _not_turned(graph: onnx.Graph, x: str, turn: tuple[str, str], width: int) -> str:
    return x


def _default_base(model: object) -> dict:
    config = CONFIGURATION(model)  # type: ignore[arg-type]
    del config["text_config"]["rope_theta"]
    return config


CONFIGURATION = mlx._configuration
WRONG = {
    "gguf": (gguf, "interleaved", _no_rotation_order),
    "onnx": (onnx, "_turned", _not_turned),
    "mlx": (mlx, "_configuration", _default_base),
}


def test_a_model_that_says_something_else_is_not_kept(
    target: str, seeing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with rotary positions that the program reads otherwise; MLX's own default base among them."""
    monkeypatch.setattr(*WRONG[target])
    with pytest.raises(ModelError, match=r"says something else: .* nats from smolforge"):
        export(str(seeing), tmp_path / "out", to=target, dtype="float32")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_before_anything_is_loaded(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, PACKAGES[target][-1 if target != "mlx" else 1], None)
    with pytest.raises(ModelError, match=r"is missing; pip install 'smolforge\[") as told:
        export("no/such-model", tmp_path / "out", to=target)
    assert target in str(told.value)


def test_what_cannot_be_exported_ends_in_one_line(seeing: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tflite: no such target; export to gguf, onnx, mlx"):
        export(str(seeing), tmp_path / "out", to="tflite")
    with pytest.raises(UserError, match="q4_0: no dtype of gguf; choose float32, float16, bfloat16, q8_0"):
        export(str(seeing), tmp_path / "out", to="gguf", dtype="q4_0")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"mine: holds other files \(thesis.tex\); choose an empty folder"):
        export(str(seeing), tmp_path / "mine", to="onnx")


# --- what only one target has ----------------------------------------------------------------------------------------


def test_gguf_of_one_tile_pictures_says_that_llama_cpp_shows_them_twice(one_tile: Path, tmp_path: Path) -> None:
    installed("gguf")
    found = export(str(one_tile), tmp_path / "out", to="gguf", dtype="float32")
    assert found.difference <= FLOAT32["gguf"]
    (note,) = found.notes
    assert "llama.cpp lays a picture out in" in note


def test_gguf_needs_a_token_for_an_empty_line(tiny: Path, tmp_path: Path) -> None:
    installed("gguf")
    with pytest.raises(ModelError, match=r"no token of its own for an empty line, .*; export to onnx$"):
        export(str(tiny), tmp_path / "out", to="gguf")
    assert not list(tmp_path.iterdir())


def test_gguf_comes_back(reading: Path, tmp_path: Path) -> None:
    """smolforge reads its own GGUF: the same answers, so rotation, tokens and tied head are as they were."""
    installed("gguf")
    found = export(str(reading), tmp_path / "out", to="gguf", dtype="float32")
    before, after = load(str(reading), device="cpu"), load(str(gguf.text_file(found.folder, "float32")), device="cpu")
    question = ask(before.renderer, "a text", "2 red circles")
    said = expect(before.model, before.renderer, question)
    assert ask(after.renderer, "a text", "2 red circles").ids.tolist() == question.ids.tolist()
    assert np.abs(expect(after.model, after.renderer, question, said.answer).log_probs - said.log_probs).max() < 1e-5


def test_llama_cpp_lays_pictures_out_as_the_renderer_does_when_there_are_tiles(seeing: Path) -> None:
    renderer = load(str(seeing), device="cpu").renderer
    for size in ((256, 128), (200, 256), (90, 60)):
        question = ask(renderer, "a picture", "What is it?", scene(0, 1).draw().resize(size))
        assert llama_cpp.laid_out(renderer, question).ids.tolist() == question.ids.tolist()


def test_onnx_takes_prompts_of_different_lengths_and_tiles_that_fill_up(seeing: Path, tmp_path: Path) -> None:
    """Two prompts side by side, the shorter padded on the left, say what each says alone; an empty tile gives no features."""
    installed("onnx")
    import onnxruntime

    export(str(seeing), tmp_path / "out", to="onnx")
    graphs = {
        path.stem: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for path in (tmp_path / "out" / "onnx").iterdir()
    }
    decoder = graphs["decoder_model_merged"]
    past = {i.name: np.zeros((2, i.shape[1], 0, i.shape[3]), np.float32) for i in decoder.get_inputs()[3:]}
    ids = np.array([[7, 8, 9, 10, 11], [2, 2, 9, 10, 11]])
    mask = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    hidden = graphs["embed_tokens"].run(None, {"input_ids": ids})[0]
    given = {"inputs_embeds": hidden, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clip(0)}
    together = decoder.run(["logits"], given | past)[0]
    model = load(str(seeing), device="cpu").model.model
    with torch.no_grad():
        for row, alone in enumerate((ids[0], ids[1, 2:])):
            expected = model(input_ids=torch.from_numpy(alone)[None]).logits[0, -1]
            assert np.abs(together[row, -1] - expected.numpy()).max() < 5e-5
    pixels, attended = np.zeros((1, 2, 3, 128, 128), np.float32), np.zeros((1, 2, 128, 128), bool)
    attended[0, 0] = True
    features = graphs["vision_encoder"].run(None, {"pixel_values": pixels, "pixel_attention_mask": attended})[0]
    assert features.shape == (1, 16, 128)


def test_onnx_weights_beyond_what_a_file_holds_lie_beside_it(
    seeing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("onnx")
    monkeypatch.setattr("smolforge.exporting.graph.LIMIT", 2**20)
    found = export(str(seeing), tmp_path / "out", to="onnx")
    assert found.files["onnx/decoder_model_merged.onnx_data"] > 2**20 > found.files["onnx/decoder_model_merged.onnx"]
    assert found.difference <= FLOAT32["onnx"]


def test_mlx_refuses_a_side_of_patches_that_it_rounds(tiny: Path, tmp_path: Path) -> None:
    """Six patches a side: mlx-vlm compares 5/6 with a sum of sixths."""
    installed("mlx")
    with pytest.raises(ModelError, match=r"mlx-vlm gives 11 of a tile's 36 patches the position of another .*; export to onnx$"):
        export(str(tiny), tmp_path / "out", to="mlx")
    assert not list(tmp_path.iterdir())


# --- the look itself ---------------------------------------------------------------------------------------------------


def test_the_look_sees_a_program_that_is_wrong_in_one_number(seeing: Path) -> None:
    loaded = load(str(seeing), device="cpu")
    asked = questions(loaded.renderer)
    expected = {question.name: expect(loaded.model, loaded.renderer, question) for question in asked}

    def program(question, answer, wrong=0.0):
        log_probs = expected[question.name].log_probs.copy()
        log_probs[3, 5] += wrong
        return room.agreement.Said(tokens=log_probs.argmax(1), places=np.arange(len(log_probs)), log_probs=log_probs)

    right = agree(program, asked, expected, loaded.renderer, None)
    assert right.holds
    assert right.difference == 0
    for wrong in (0.01, float("nan")):
        found = agree(partial(program, wrong=wrong), asked, expected, loaded.renderer, None)
        assert not found.holds


def test_the_picture_needs_no_resizing(seeing: Path, one_tile: Path) -> None:
    for folder, size in ((seeing, (256, 128)), (one_tile, (128, 128))):
        (_, question) = questions(load(str(folder), device="cpu").renderer)
        assert question.image is not None
        assert question.image.size == size
        assert np.array_equal(question.tiles[0], np.asarray(question.image.crop((0, 0, 128, 128))).transpose(2, 0, 1))
