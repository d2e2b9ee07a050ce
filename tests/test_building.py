"""A SmolVLM from its parts, against one put together by hand, and against the text model it was made of."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import (
    AutoModelForImageTextToText,
    Idefics3Processor,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

import smolforge
from smolforge.building import Built, Changes, build, plan_model
from smolforge.cli.building import add
from smolforge.cli.parser import _verb
from smolforge.data.processor import load_renderer
from smolforge.data.sources.scenes import scene
from smolforge.data.tokenizer import CHAT_TEMPLATE, FAMILY_TOKENS, added_tokens, train_tokenizer
from smolforge.errors import CheckpointError, ModelError
from smolforge.loading import load
from smolforge.model.build import load_model, quiet, shape_config
from smolforge.model.presets import PRESETS
from smolforge.recipe import parse_recipe
from smolforge.training.loop import train
from smolforge.training.tracking import read_metrics

VISION = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2, image_size=96, patch_size=16)
TEXT = dict(
    hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, vocab_size=384,
    max_position_embeddings=2048, rms_norm_eps=1e-4, bos_token_id=1, eos_token_id=2, pad_token_id=2,
)  # fmt: skip


def write(folder: Path, model: Any, tokenizer: Tokenizer | None = None) -> str:
    with quiet():
        model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


def text_tokenizer() -> Tokenizer:
    """384 ids, none of them the family's: as SmolLM2's is to SmolVLM's."""
    parts = json.loads(train_tokenizer([scene(0, index).caption for index in range(100)], vocab=512).to_str())
    parts["added_tokens"] = [token for token in parts["added_tokens"] if token["content"] not in FAMILY_TOKENS]
    return Tokenizer.from_str(json.dumps(parts))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A SigLIP's tower and a tied Llama, both random and tiny."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    return {
        "vision": write(folder / "siglip", SiglipVisionModel(SiglipVisionConfig(**VISION))),
        "text": write(folder / "llama", LlamaForCausalLM(LlamaConfig(**TEXT, tie_word_embeddings=True)), text_tokenizer()),
    }


def by_hand(parts: dict[str, str], out: Path) -> Any:
    """The same model from Hugging Face's own classes. What is drawn, connector and new rows, is copied from `out`."""
    siglip = SiglipVisionModel.from_pretrained(parts["vision"])
    llama = LlamaForCausalLM.from_pretrained(parts["text"], dtype=torch.float32)
    built = AutoModelForImageTextToText.from_pretrained(out).state_dict()
    text = llama.config.to_dict() | {"vocab_size": 512, "tie_word_embeddings": False}
    config = SmolVLMConfig(
        vision_config=siglip.config.to_dict() | {"model_type": "smolvlm_vision"}, text_config=text, scale_factor=3,
        image_token_id=Tokenizer.from_file(str(out / "tokenizer.json")).token_to_id("<image>"), tie_word_embeddings=False,
    )  # fmt: skip
    model = SmolVLMForConditionalGeneration(config)
    tower = {name: value for name, value in siglip.state_dict().items() if not name.startswith("head.")}
    model.model.vision_model.load_state_dict(tower)
    decoder = llama.model.state_dict()
    old, name = decoder["embed_tokens.weight"], "model.text_model.embed_tokens.weight"
    decoder["embed_tokens.weight"] = torch.cat([old, built[name][384:]])
    model.model.text_model.load_state_dict(decoder)
    model.lm_head.load_state_dict({"weight": torch.cat([old, built["lm_head.weight"][384:]])})
    connector = "model.connector.modality_projection.proj.weight"
    model.model.connector.modality_projection.proj.load_state_dict({"weight": built[connector]})
    return model.eval()


@torch.no_grad()
def test_equal_to_one_put_together_by_hand(parts, tmp_path):
    """Same weights, same computation: the logits are the same to the last bit."""
    built = build(tmp_path / "out", **parts, changes=Changes(shuffle=3))
    theirs = AutoModelForImageTextToText.from_pretrained(built.folder).eval()
    assert type(theirs) is SmolVLMForConditionalGeneration
    processor = Idefics3Processor.from_pretrained(built.folder)
    picture = Image.effect_mandelbrot((160, 90), (-2, -1, 1, 1), 60).convert("RGB")
    inputs = processor(
        text="<|im_start|>User:<image>What is it?<end_of_utterance>\nAssistant:", images=[picture], return_tensors="pt"
    )
    assert inputs["pixel_values"].shape == (1, 13, 3, 96, 96)
    expected = by_hand(parts, built.folder)(**inputs).logits
    assert torch.equal(theirs(**inputs).logits, expected)
    other = inputs["pixel_values"].flip(-1)
    assert not torch.equal(theirs(**(inputs | {"pixel_values": other})).logits, expected), "no case: the picture changes nothing"


@torch.no_grad()
def test_the_text_model_says_the_same_inside(parts, tmp_path):
    out = build(tmp_path / "out", **parts).folder
    ids = torch.tensor([Tokenizer.from_file(f"{parts['text']}/tokenizer.json").encode("a red circle above a blue star").ids])
    expected = LlamaForCausalLM.from_pretrained(parts["text"]).eval()(ids).logits
    found = load(str(out), device="cpu").model.model(input_ids=ids).logits[..., :384]
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("model_type", "processor"), [("smolvlm", "SmolVLMProcessor"), ("idefics3", "Idefics3Processor")])
def test_the_folder_is_a_checkpoint_of_its_kind(parts, tmp_path, model_type, processor):
    """Files as in the Hub's folders; videos' settings where the model knows videos."""
    built = build(tmp_path / "out", **parts, changes=Changes(model_type=model_type, longest_edge=192))
    read = {name: json.loads((built.folder / f"{name}.json").read_text()) for name in (
        "config", "preprocessor_config", "processor_config", "tokenizer_config", "chat_template", "generation_config"
    )}  # fmt: skip
    assert read["config"]["model_type"] == model_type
    assert read["config"]["tie_word_embeddings"] is False
    assert read["processor_config"] == {"image_seq_len": 4, "processor_class": processor}
    assert read["preprocessor_config"]["size"] == {"longest_edge": 192}
    video = {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 96}}
    assert read["preprocessor_config"].get("video_sampling") == (video if model_type == "smolvlm" else None)
    assert ("'video'" in read["chat_template"]["chat_template"]) == (model_type == "smolvlm")
    assert read["generation_config"]["eos_token_id"] == built.shape.vocab - 1
    theirs = Idefics3Processor.from_pretrained(built.folder)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a star"}]}]
    assert theirs.apply_chat_template(chat) == "<|im_start|>User:<image>a star<end_of_utterance>\n"
    assert theirs(text="<image>", images=[Image.new("RGB", (90, 90))])["input_ids"][0].count(theirs.image_token_id) == 5 * 4
    assert smolforge.describe(str(built.folder)).total == sum(built.parameters.values())
    assert load_renderer(built.folder).image_tokens == 4


def test_the_first_2_2b_has_three_added_tokens(tmp_path):
    """49155 ids. The preset's shape is not for a test: only the plan is made."""
    real = SiglipVisionConfig(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16,
                              image_size=384, patch_size=14)  # fmt: skip
    real.save_pretrained(tmp_path / "so400m")
    (tmp_path / "so400m" / "model.safetensors").touch()
    plan = plan_model(str(tmp_path / "so400m"), None, "smolvlm-instruct", Changes())
    assert plan.shape == PRESETS["smolvlm-instruct"]
    assert list(plan.new_ids) == [49152, 49153, 49154]
    assert plan.tokenizer.token_to_id("<image>") == 49153
    assert plan.tokenizer.token_to_id("<row_1_col_1>") is None


def test_transformers_processor_for_smolvlm2_reads_the_folder(parts, tmp_path):
    """The ids of a picture in tiles are those that the class without videos gives, and it samples videos as SmolVLM2 does."""
    pytest.importorskip("torchvision", reason="transformers' SmolVLMProcessor needs torchvision")
    from transformers import SmolVLMProcessor

    built = build(tmp_path / "out", **parts, changes=Changes(longest_edge=192))
    theirs = SmolVLMProcessor.from_pretrained(built.folder)
    picture = Image.effect_mandelbrot((160, 90), (-2, -1, 1, 1), 60).convert("RGB")
    found = theirs(text="<|im_start|>User:<image>a star<end_of_utterance>\n", images=[picture])
    expected = Idefics3Processor.from_pretrained(built.folder)(
        text="<|im_start|>User:<image>a star<end_of_utterance>\n", images=[picture]
    )
    assert found["input_ids"] == expected["input_ids"]
    assert (theirs.video_processor.fps, theirs.video_processor.num_frames) == (1, 64)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_s_configuration_names_the_tokenizer_s_picture_token(name):
    """Of models that are only described or calculated, and so have no tokenizer."""
    vocab = PRESETS[name].vocab
    added = added_tokens(vocab)
    assert shape_config(PRESETS[name]).image_token_id == vocab - len(added) + added.index("<image>")
    if name != "tiny":
        assert shape_config(PRESETS[name]).image_token_id == (49153 if name == "smolvlm-instruct" else 49190)
    assert smolforge.describe(name).special_tokens["<image>"] == shape_config(PRESETS[name]).image_token_id


def test_what_is_told(parts, tmp_path, capsys):
    code, told = run(
        ["build", str(tmp_path / "out"), "--vision", parts["vision"], "--text", parts["text"], "--image-size", "64",
         "--rope-base", "273768", "--context", "4096", "--seed", "3", "--dtype", "bfloat16"], capsys,
    )  # fmt: skip
    assert code == 0
    out = tmp_path / "out"
    head = sum(p.numel() for p in SiglipVisionModel(SiglipVisionConfig(**VISION)).head.parameters())
    assert told == [
        f"vision: {parts['vision']}, 2 layers of width 64",
        f"dropped: its pooling head, {head:,} parameters",
        "position embeddings: interpolated from 6 x 6 to 4 x 4 (36 to 16), for 96 pixels are 64 now",
        f"text: {parts['text']}, 4 layers of width 128",
        "added: 128 tokens, ids 384 to 511; their rows start around the mean of the others, <end_of_utterance> as the model's "
        "closing token",
        "RoPE base: 10000 there, 273768 here",
        "context: 2048 there, 4096 here; positions from 2048 on were never trained",
        "the head, tied to the token table there, has 65,536 parameters of its own now: a copy",
        "connector: fresh, seed 3: one linear layer without bias, 64 x 16 = 1024 to 128",
        "parameters: vision 150,336, connector 131,072, decoder 869,504, in total 1,150,912 (bfloat16)",
        "tile: 64 pixels, 4 x 4 patches of 16, shuffled 4 x 4: image tokens 1",
        "a picture of 640 x 480: tiles 13 (3 x 4 and the whole view), image tokens 13 of 4096 in all",
        f"model: {out}",
    ]
    config = json.loads((out / "config.json").read_text())
    assert config["text_config"]["rope_parameters"] == {"rope_type": "default", "rope_theta": 273768.0}
    assert config["text_config"]["max_position_embeddings"] == 4096
    assert config["text_config"]["rms_norm_eps"] == 1e-4, "numbers that no shape has come from the part"
    assert {p.dtype for p in load_model(out, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}
    assert config["dtype"] == "bfloat16"


def test_a_grid_at_which_transformers_rounds_wrongly_is_told(parts, tmp_path):
    """`SmolVLMVisionEmbeddings` looks positions up by fractions; at 40 a side one row gets its neighbour's."""
    told = plan_model(**parts, preset=None, changes=Changes(image_size=640)).notes
    assert any("at 40 patches a side, rounding in transformers' SmolVLM gives 1 of 40 rows" in line for line in told)
    for size in (256, 384, 432, 512):
        told = plan_model(**parts, preset=None, changes=Changes(image_size=size)).notes
        assert not any("rounding" in line for line in told), size


def test_a_tower_comes_out_of_a_smolvlm(tiny, parts, tmp_path):
    built = build(tmp_path / "out", vision=str(tiny), text=parts["text"], changes=Changes(shuffle=2))
    tower, source = (load_model(folder).model.vision_model.state_dict() for folder in (built.folder, tiny))
    assert all(torch.equal(tower[name], source[name]) for name in source)


@pytest.mark.parametrize("left_out", [("vision",), ("text",), ("vision", "text")])
def test_parts_left_out_are_fresh(tiny, parts, tmp_path, left_out):
    given = {name: (str(tiny) if name == "vision" else value) for name, value in parts.items() if name not in left_out}
    built = build(tmp_path / "out", **given, preset="tiny")
    assert built.shape == PRESETS["tiny"]
    for part in left_out:
        assert any(line.startswith(f"{part}: fresh weights") for line in built.lines)
    answer = smolforge.generate(str(built.folder), "Describe.", images=[scene(0, 0).draw()], max_new_tokens=3)
    assert answer.tokens >= 1


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """The verb on its own parser: (exit code, lines on standard output)."""
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers(), _verb)
    options = parser.parse_args(arguments)
    code = options.run(options)
    return code, capsys.readouterr().out.splitlines()


def broken(folder: str, to: Path, **changes: Any) -> str:
    """A part with another configuration and weights that cannot be read."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | changes))
    (to / "model.safetensors").write_bytes(b"whoever reads this fails")
    return str(to)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str | None, Changes, str]] = {
    "shuffle": ({}, {}, None, Changes(shuffle=5), "a tile of 96 pixels has 6 x 6 patches, which 5 x 5 pixel"),
    "no factor": ({"image_size": 80}, {}, None, Changes(), "80 pixels has 5 x 5 patches, which 4 x 4 pixel shuffle does not"),
    "patch": (
        {},
        {},
        None,
        Changes(image_size=100),
        "a tile of 100 pixels is no multiple of the patch, 16; take --image-size 96 or 112",
    ),
    "smaller than a patch": (
        {},
        {},
        None,
        Changes(image_size=8),
        "a tile of 8 pixels is no multiple of the patch, 16; take .* 16$",
    ),
    "edge": (
        {},
        {},
        None,
        Changes(longest_edge=200),
        "the longest edge, 200 pixels, is no multiple of the tile, 96; take --longest-edge 384",
    ),
    "many tiles": ({}, {}, None, Changes(longest_edge=672), "672 pixels has 7 tiles of 96, and there are tokens for 6"),
    "large": (
        {},
        {},
        None,
        Changes(image_size=1024, longest_edge=5120),
        "5120 pixels; Hugging Face's processor stops at 4096; .* 4096",
    ),
    "context": (
        {},
        {},
        None,
        Changes(image_size=512, shuffle=1, context=1024),
        "one tile takes 1024 tokens, the context has 1024",
    ),
    "another vision": (
        {},
        {},
        "smolvlm2-256m",
        Changes(),
        "tower and preset smolvlm2-256m differ: width 64 and 768, layers 2 and 12;",
    ),
    "another text": (
        {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
        {},
        "smolvlm2-256m",
        Changes(),
        "text model and preset smolvlm2-256m differ: width 128 and 576, layers 4 and 30; give the preset's own parts",
    ),
    "another vocabulary": ({}, {"vocab_size": 200}, None, Changes(), "its tokenizer has 384 ids, its token table 200 rows"),
    "no SigLIP": (
        {"model_type": "clip_vision_model"},
        {},
        None,
        Changes(),
        "model type clip_vision_model; smolforge takes towers of siglip",
    ),
    "no Llama": ({}, {"model_type": "qwen2"}, None, Changes(), "model type qwen2; smolforge runs smolvlm, idefics3, llama"),
    "no preset": ({}, {}, "smolvlm-1b", Changes(), "no preset smolvlm-1b; presets are smolvlm-instruct, "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_before_weights_are_read(name, parts, tmp_path):
    vision, text, preset, changes, line = REFUSED[name]
    with pytest.raises(ModelError, match=line) as refused:
        build(
            tmp_path / "out", vision=broken(parts["vision"], tmp_path / "v", **vision),
            text=broken(parts["text"], tmp_path / "t", **text), preset=preset, changes=changes,
        )  # fmt: skip
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_only_then_weights_are_read(parts, tmp_path):
    """The same broken parts with fitting numbers: the weights are what is complained of."""
    with pytest.raises(ModelError, match="weights cannot be read"):
        build(tmp_path / "out", vision=broken(parts["vision"], tmp_path / "v"), text=parts["text"])
    assert not list(tmp_path.glob("out*")), "something was left"


def _no_vision(parts: dict[str, str], folder: Path) -> dict[str, str]:
    return {"text": parts["text"]}


def _no_start(parts: dict[str, str], folder: Path) -> dict[str, str]:
    shutil.copytree(parts["text"], folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<|im_start|>"]
    del content["model"]["vocab"]["<|im_start|>"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return parts | {"text": str(folder)}


def _pickled(parts: dict[str, str], folder: Path) -> dict[str, str]:
    shutil.copytree(parts["text"], folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return parts | {"text": str(folder)}


def _smolvlm_as_text(parts: dict[str, str], folder: Path) -> dict[str, str]:
    return parts | {"text": str(build(folder, **parts).folder)}


def _one_more_id(parts: dict[str, str], folder: Path) -> dict[str, str]:
    text = LlamaForCausalLM(LlamaConfig(**(TEXT | {"vocab_size": 385})))
    tokenizer = text_tokenizer()
    tokenizer.add_special_tokens(["<mine>"])
    return parts | {"text": write(folder, text, tokenizer), "preset": "tiny"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            _one_more_id,
            "the text model and preset tiny differ: vocabulary with the added tokens 513 and 512; give the preset's own",
        ),
        (
            lambda parts, folder: parts | {"vision": "google/siglip-base-patch16-512"},
            "google/siglip-base-patch16-512: not a folder here, and the Hub did not give it",
        ),
        (_no_vision, "--vision left out, and no preset; say what shape fresh weights have"),
        (_no_start, "the text model's tokenizer has no <|im_start|>; take a SmolLM2"),
        (_pickled, "holds no safetensors; smolforge reads no pickled weights"),
        (_smolvlm_as_text, "model type smolvlm; the text model must be a SmolLM2 or another Llama"),
        (lambda parts, folder: parts | {"vision": "model.gguf"}, "model.gguf: no such folder"),
    ],
)
def test_other_refusals(change: Callable[[dict[str, str], Path], dict[str, str]], line, parts, tmp_path):
    given = change(parts, tmp_path / "changed")
    with pytest.raises(ModelError) as refused:
        build(tmp_path / "out", **given)
    assert line in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_stays(parts, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"mine: holds other files \(thesis.tex\); choose an empty folder"):
        build(tmp_path / "mine", **parts)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_a_file_is_not_called_a_folder(parts, tmp_path):
    (tmp_path / "mine").write_text("years of work")
    with pytest.raises(ModelError, match="mine: is a file, and a model is a folder; choose another place"):
        build(tmp_path / "mine", **parts)
    assert (tmp_path / "mine").read_text() == "years of work"


def test_a_built_model_trains(parts, tmp_path):
    """Captions of drawn scenes, the tower frozen, as recipes/captions.yaml does: the loss falls and the tower stays."""
    start = build(tmp_path / "start", **parts, changes=Changes(shuffle=2, longest_edge=96)).folder
    tree = {
        "model": {"name": str(start)},
        "freeze": {"vision": True},
        "data": [{"source": "scenes"}],
        "objective": {"kind": "sft"},
        "optim": {"lr": 2e-3, "warmup": 0},
        "batch": {"examples": 8, "row_tokens": 1024},
        "run": {"dir": str(tmp_path / "run"), "steps": 6, "save_every": 6, "device": "cpu", "trackers": [], "workers": 0},
    }
    folder = train(parse_recipe(tree))
    losses = [entry["loss"] for entry in read_metrics(folder) if entry["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.3
    before, after = (load_model(f).state_dict() for f in (start, folder / "model"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "model.connector.modality_projection.proj.weight" in changed
    assert "model.text_model.layers.0.self_attn.q_proj.weight" in changed
    assert not any("vision_model" in name for name in changed)


# --- with the real SmolLM2-135M ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(gguf: Path, module_path: Path) -> Built:
    """Preset smolvlm-256m: a random tower with SigLIP-base's real shape, and the real SmolLM2-135M-Instruct."""
    shape = dict(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, image_size=512, patch_size=16
    )
    with torch.device("meta"):
        siglip = SiglipVisionModel(SiglipVisionConfig(**shape))
    siglip = siglip.to_empty(device="cpu")
    for parameter in siglip.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    vision = write(module_path / "siglip", siglip.to(torch.bfloat16))
    return build(module_path / "out", vision=vision, text=str(gguf), preset="smolvlm-256m")


@torch.no_grad()
@pytest.mark.slow
def test_smollm2_answers_as_before(real, gguf):
    """Logits of its 49,152 tokens are its own. Log-probs share a little with the 128 new ones: 1.7e-5 nats on plain text; where
    an answer may end, <end_of_utterance>, which starts as <|im_end|>, takes half of that token's share, by design."""
    llama = load_model(gguf)
    loaded = load(str(real.folder), device="cpu")
    tokenizer = loaded.renderer.tokenizer
    for text in ("The capital of France is Paris, and the capital of Italy is", "Once upon a time there was a little girl who"):
        ids = torch.tensor([tokenizer.encode(text).ids])
        expected, found = llama(ids).logits, loaded.model.model(input_ids=ids).logits
        assert found.shape[-1] == 49280
        assert (found[..., :49152] - expected).abs().max() < 1e-4  # seen: 0, the same sums
        assert (found.log_softmax(-1)[..., :49152] - expected.log_softmax(-1)).abs().max() < 1e-4  # seen: 1.7e-5
    assert smolforge.generate(loaded, "What is the capital of France?").text == "The capital of France is Paris."


def test_the_256m_has_the_real_sizes(real):
    assert sum(real.parameters.values()) == 256_484_928
    assert real.parameters == {"vision": 86_433_024, "connector": 7_077_888, "decoder": 162_974_016}
    assert "dropped: its pooling head, 7,087,104 parameters" in real.lines
    assert "tile: 512 pixels, 32 x 32 patches of 16, shuffled 4 x 4: image tokens 64" in real.lines
    assert real.grid.tiles == 13


def test_tokens_have_the_real_ids(real, shared):
    theirs = Tokenizer.from_file(str(shared / "smolvlm-256m-processor" / "tokenizer.json"))
    ours = Tokenizer.from_file(str(real.folder / "tokenizer.json"))
    assert ours.get_vocab(with_added_tokens=True) == theirs.get_vocab(with_added_tokens=True)
    added = json.loads((shared / "smolvlm-256m-processor" / "added_tokens.json").read_text())
    assert len(added) == 128
    assert {token: ours.token_to_id(token) for token in added} == added
    golden = json.loads((shared / "golden_prompt_ids.json").read_text())
    first = golden["smollm2_135m_instruct"]
    assert ours.encode(first["prompt"]).ids == first["expected_prompt_ids"]
    assert ours.encode(first["expected_chat_text"]).ids == first["expected_chat_ids"]
    texts = [
        "<|im_start|>User:<fake_token_around_image><global-img><image><image><fake_token_around_image>What?<end_of_utterance>\n",
        "<row_1_col_1><row_6_col_6>\n\n12,345.60 \t«être» 東京 🦙  <|reserved_special_token_87|>",
    ]
    for text in texts:
        assert ours.encode(text).ids == theirs.encode(text).ids
    theirs_files = {name: json.loads((shared / "smolvlm-256m-processor" / f"{name}.json").read_text()) for name in (
        "preprocessor_config", "processor_config", "chat_template"
    )}  # fmt: skip
    for name, content in theirs_files.items():
        assert json.loads((real.folder / f"{name}.json").read_text()) == content
    assert theirs_files["chat_template"]["chat_template"] == CHAT_TEMPLATE
