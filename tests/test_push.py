"""`push`: what goes to the Hub, what its card says, and what must not be read there. The Hub here is a server of these tests."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, constants
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer, Idefics3Processor, LlamaConfig, LlamaForCausalLM

import smolforge
from smolforge.errors import ModelError, UserError
from smolforge.evals.results import read_results
from smolforge.publishing.places import Places, places_of
from smolforge.publishing.push import Pushed, push
from smolforge.publishing.subject import read_subject
from smolforge.publishing.using import snippet
from smolforge.recipe import parse_recipe
from smolforge.training.loop import train

REPO = "jo/tiny-pets"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's upload without hf_xet


def recipe(model: Path, folder: Path, **more: Any) -> dict[str, Any]:
    """Two steps."""
    run = {"dir": str(folder), "steps": 2, "save_every": 2, "device": "cpu", "trackers": [], "workers": 0}
    return {
        "model": {"name": str(model)}, "data": [{"source": "scenes"}], "optim": {"lr": 0.02, "warmup": 0},
        "batch": {"examples": 4, "row_tokens": 256}, "run": run,
    } | more  # fmt: skip


@pytest.fixture(scope="module")
def lora(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Preferences by LoRA, evaluated before and after: on drawn scenes, and on made-up rows of a benchmark."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    held = {"data": [{"source": "scene_pairs", "split": "test[:8]"}], "samples": 0}
    tree = recipe(
        tiny,
        folder,
        data=[{"source": "scene_pairs", "split": "train[:8]"}],
        eval=held,
        adapters={"r": 4},
        objective={"kind": "dpo", "beta": 0.3},
    )
    train(parse_recipe(tree))
    for name, model in (("before", tiny), ("after", folder)):
        smolforge.evaluate(str(model), "scenes", out=folder / "evaluation" / name, limit=2, device="cpu")
        smolforge.evaluate(str(model), "docvqa", out=folder / "evaluation" / name, limit=1, fixture=True, device="cpu")
    return folder


@pytest.fixture(scope="module")
def full(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Full fine-tuning on somebody's own pictures, one of them damaged."""
    home = tmp_path_factory.mktemp("home-of-jo")
    pets = home / "private things" / "my pets"
    pets.mkdir(parents=True)
    rows = [{"image": f"{n}.png", "captions": [f"a red circle {n}"]} for n in range(4)]
    for row in rows[1:]:
        Image.new("RGB", (96, 96), "red").save(pets / row["image"])
    (pets / "0.png").write_bytes(b"no picture")
    (pets / "captions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    data = [{"source": str(pets), "prompt": "Describe the picture."}]
    tree = recipe(tiny, home / "run", data=data, freeze={"vision": True}, eval={"samples": 0}, cache={"dir": str(home / "cache")})
    return train(parse_recipe(tree))


def read(pushed: Pushed) -> tuple[dict[str, Any], str]:
    """(metadata, page) of a card."""
    return ModelCard(pushed.card.read_text()).data.to_dict(), pushed.card.read_text()


def dry(model: Path, out: Path, **more: Any) -> Pushed:
    return push(str(model), REPO, dry_run=True, out=out, **more)


# --- the card -----------------------------------------------------------------------------------------------------------


def test_what_goes_is_listed_with_its_size(lora, tmp_path):
    pushed = dry(lora, tmp_path)
    sizes = dict(pushed.files)
    assert pushed.url is None
    assert set(sizes) == {
        "README.md", "recipe.yaml", *(path.name for path in (lora / "model").iterdir())
    }  # fmt: skip
    assert sizes["adapter_model.safetensors"] == (lora / "model" / "adapter_model.safetensors").stat().st_size
    assert sizes["README.md"] == (tmp_path / "README.md").stat().st_size
    assert sizes["recipe.yaml"] == (tmp_path / "recipe.yaml").stat().st_size


def test_metadata_of_adapters_is_what_the_hub_reads(lora, tmp_path):
    data, page = read(dry(lora, tmp_path, license="apache-2.0", base="HuggingFaceTB/SmolVLM-256M-Instruct"))
    assert data["license"] == "apache-2.0"
    assert (data["base_model"], data["base_model_relation"]) == ("HuggingFaceTB/SmolVLM-256M-Instruct", "adapter")
    assert (data["library_name"], data["pipeline_tag"]) == ("peft", "image-text-to-text")
    assert data["tags"] == ["smolforge", "dpo", "lora"]
    assert "License: none" not in page
    (index,) = data["model-index"]
    (result,) = index["results"]  # the made-up rows are none
    assert result["dataset"]["type"] == "scenes"
    score = read_results(lora / "evaluation" / "after")["tasks"]["scenes.lmms-eval"].scores["hallucination"]
    (found,) = [metric for metric in result["metrics"] if metric["type"] == "hallucination"]
    assert found["value"] == round(100 * score.value, 4)
    assert "95 % interval" in found["name"]


def test_what_is_not_known_is_left_out_and_said(lora, tmp_path):
    data, page = read(dry(lora, tmp_path))
    assert not {"license", "base_model", "base_model_relation", "datasets"} & set(data)
    assert "License: none was given" in page
    assert "The base model was a local folder called `tiny" in page
    assert "Energy: the machine did not tell" in page


def test_the_page_says_what_the_run_did(lora, tmp_path):
    page = dry(lora, tmp_path).card.read_text()
    summary = json.loads((lora / "summary.json").read_text())
    for words in (
        "preference optimisation (DPO, loss sigmoid)", "method lora, r 4, alpha 16", "kind dpo, loss sigmoid, beta 0.3",
        "2 steps of 4 examples, 8 examples in all", f"{summary['before']['loss']:.4f} | {summary['after']['loss']:.4f}",
        f"torch {summary['versions']['torch']}", "| `scene_pairs` (drawn by smolforge) | `test[:8]` | held out |",
        "scene_pairs, by summed log-prob", "after − before", "2 questions of `its own drawings`, limited to 2",
        "The rows are drawn and made up", "no difference that these 2 questions can show",
    ):  # fmt: skip
        assert words in page, words
    trained = sum(tensor.size for tensor in _numpy(lora / "model" / "adapter_model.safetensors"))
    assert f"| trained parameters | {trained:,}, of the adapters |" in page


def _numpy(file: Path) -> list[Any]:
    from safetensors.numpy import load_file

    return list(load_file(file).values())


def test_whole_models_say_what_trained(full, tmp_path):
    data, page = read(dry(full, tmp_path, base="HuggingFaceTB/SmolVLM-256M-Instruct"))
    assert (data["base_model_relation"], data["library_name"]) == ("finetune", "transformers")
    about = smolforge.describe(str(full / "model"))
    trains = about.total - about.parameters["vision"][0]
    assert f"| trained parameters | {trains:,} of {about.total:,} |" in page
    assert "| freeze | vision |" in page
    assert "Held-out loss: the recipe names no held-out data" in page
    assert "Benchmarks: this model was not evaluated on any." in page
    assert "model-index" not in data


@pytest.mark.parametrize(("step", "trains"), [(1, True), (3, False)])
def test_what_thawed_has_trained(full, tmp_path, step, trains):
    """Of two steps, the first is reached and the third is not. Of a run that does not say itself how much it trained."""
    run = shutil.copytree(full, tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    del summary["trained"]
    (run / "summary.json").write_text(json.dumps(summary))
    tree = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(tree | {"freeze": tree["freeze"] | {"vision": step}}))
    page = dry(run, tmp_path / "out").card.read_text()
    about = smolforge.describe(str(full / "model"))
    number = about.total - (0 if trains else about.parameters["vision"][0])
    assert f"| trained parameters | {number:,} of {about.total:,} |" in page
    assert f"| freeze | vision before step {step} |" in page


def test_what_the_run_counted_itself_is_taken(full, lora, tmp_path):
    """Saved adapters may have another shape than those that trained."""
    for model, words in ((full, "| trained parameters | 1,234 of "), (lora, "| trained parameters | 1,234, of the adapters |")):
        run = shutil.copytree(model, tmp_path / model.parent.name / "run")
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(summary | {"trained": 1234, "rows": [5678]}))
        page = dry(run, tmp_path / "out").card.read_text()
        assert words in page
        assert "|  | 5,678 |" in page
        assert "How many rows" not in page
    (run / "summary.json").write_text(
        json.dumps({key: value for key, value in summary.items() if key not in ("trained", "rows")})
    )
    tree = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(tree | {"adapters": tree["adapters"] | {"method": "pissa"}}))
    page = dry(run, tmp_path / "out").card.read_text()
    assert "| parameters in the adapters' file |" in page
    assert "How many rows the sources have: the run did not keep it." in page
    assert "trained parameters" not in page


def test_only_the_base_was_measured(lora, tmp_path):
    """Its scores are not this model's."""
    run = shutil.copytree(lora, tmp_path / "run")
    shutil.rmtree(run / "evaluation" / "after")
    data, page = read(dry(run, tmp_path / "out"))
    assert "model-index" not in data
    assert "scenes: measured at one stage only, before" in page
    assert "Benchmarks: this model was not evaluated on any." in page


def test_the_model_with_other_adapters_is_another(lora, tmp_path):
    run = shutil.copytree(lora, tmp_path / "run")
    (run / "evaluation" / "after").rename(run / "evaluation" / "after+other")
    data, page = read(dry(run, tmp_path / "out"))
    assert "model-index" not in data
    assert "Results of `after+other` are left out" in page


def test_sources_of_the_hub_are_named(lora, tmp_path):
    run = shutil.copytree(lora, tmp_path / "run")
    tree = json.loads((run / "recipe.json").read_text())
    tree["data"] += [tree["data"][0] | {"source": source} for source in ("rlaif_v", "owner/pairs", "./owner/pairs.jsonl")]
    (run / "recipe.json").write_text(json.dumps(tree))
    summary = json.loads((run / "summary.json").read_text())
    summary["rows"] += [1, 2, 3]
    (run / "summary.json").write_text(json.dumps(summary))
    data, page = read(dry(run, tmp_path / "out"))
    assert data["datasets"] == ["HuggingFaceH4/rlaif-v_formatted", "owner/pairs"]
    assert "| `pairs.jsonl` |" in page


# --- how to use it ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT's own call
def test_code_for_adapters_runs(lora, tmp_path, monkeypatch, capsys, tiny):
    """With Idefics3's processor: `AutoProcessor` needs torchvision, which is not here."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (96, 96)).save("picture.jpg")
    code = snippet(read_subject(str(lora)), str(lora / "model")).replace(f'"{tiny.name}"', f'"{tiny}"')
    assert code in dry(lora, tmp_path).card.read_text().replace(f'"{tiny.name}"', f'"{tiny}"').replace(REPO, str(lora / "model"))
    exec(code.replace("AutoProcessor", "Idefics3Processor"), {})
    expected = smolforge.generate(smolforge.load(str(lora), device="cpu"), "What is in the picture?", images=["picture.jpg"])
    assert capsys.readouterr().out.strip() == expected.text.strip()


def test_code_for_whole_models_runs(full, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (96, 96)).save("picture.jpg")
    code = snippet(read_subject(str(full)), str(full / "model"))
    exec(code.replace("AutoProcessor", Idefics3Processor.__name__), {})
    expected = smolforge.generate(smolforge.load(str(full), device="cpu"), "What is in the picture?", images=["picture.jpg"])
    assert capsys.readouterr().out.strip() == expected.text.strip()


def test_a_text_model_that_is_no_runs(tiny, tmp_path, monkeypatch, capsys):
    """Its card is short and says why; its code loads it."""
    folder = tmp_path / "text"
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    shape = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64)
    LlamaForCausalLM(LlamaConfig(**shape, vocab_size=len(tokenizer), max_position_embeddings=256)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny / name, folder)
    monkeypatch.chdir(tmp_path)
    pushed = push(str(folder), REPO, dry_run=True)
    assert pushed.card == Path("hub/tiny-pets/README.md")
    data, page = read(pushed)
    assert (data["pipeline_tag"], data["tags"]) == ("text-generation", ["smolforge"])
    assert "the folder is no run's" in page
    assert "## Training" not in page
    numbers = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_pretrained(folder).parameters())
    assert f"A model of type `llama` with {numbers:,} saved parameters." in page
    exec(snippet(read_subject(str(folder)), str(folder)), {})
    assert "What is the capital" not in capsys.readouterr().out


# --- what must not be read there ----------------------------------------------------------------------------------------


def test_no_local_path_leaves_this_machine(full, lora, tmp_path, hub):
    """Neither in the card nor in any other file of text; the damaged picture's folder neither."""
    for model, name in ((full, "jo/full"), (lora, "jo/lora")):
        push(str(model), name, out=tmp_path / name)
        files = hub.repos[name]
        for file, content in files.items():
            if file.endswith((".md", ".yaml", ".json", ".jinja")):
                text = content.decode()
                for private in (str(tmp_path.parent), "home-of-jo", "private things", str(Path.home()), "/tmp/"):
                    assert private not in text, f"{file} of {name}: {private}"
    page = hub.repos["jo/full"]["README.md"].decode()
    assert "| `my pets` |" in page
    assert "my pets" in page.split("Found, dropped and changed:")[1].split("##")[0], "no case: the note names no folder"
    assert yaml.safe_load(hub.repos["jo/full"]["recipe.yaml"])["data"][0]["source"] == "my pets"
    assert json.loads((lora / "model" / "adapter_config.json").read_text())["base_model_name_or_path"].startswith("/")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/jo/pets", "pets"),
        ("file:///home/jo/pets/a.jpg is damaged", "a.jpg is damaged"),
        ("rows of ~/pets/list.jsonl, 3 of them", "rows of list.jsonl, 3 of them"),
        ("../private/pets[3]: no picture", "pets[3]: no picture"),
        ("'/home/jo/x' (train), /data/y (test)", "'x' (train), y (test)"),
        ("HuggingFaceM4/the_cauldron, https://huggingface.co/a/b", "HuggingFaceM4/the_cauldron, https://huggingface.co/a/b"),
        ("0.5 tokens/s and 1/2", "0.5 tokens/s and 1/2"),
    ],
)
def test_paths_in_a_text(text, shown):
    assert Places().text(text) == shown


def test_relative_paths_are_not_names_on_the_hub(tmp_path, monkeypatch):
    """What begins like the run's own folder is a folder, and what lies where the run was begun."""
    (tmp_path / "data" / "pets").mkdir(parents=True)
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    sources = [{"source": source} for source in ("data/pets", "owner/pets", "owner/pets.jsonl")]
    places = places_of({"model": {"name": "runs/sft"}, "data": sources, "run": {"dir": "runs/mine"}}, run)
    assert [name for name in ("runs/sft", "data/pets", "owner/pets", "owner/pets.jsonl") if places.is_hub(name)] == ["owner/pets"]
    assert places.text("data/pets[1] of runs/sft/model") == "pets[1] of model"


# --- what cannot be published -------------------------------------------------------------------------------------------


def test_nothing_of_training_goes(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "model")
    for name in ("optimizer.safetensors", "state.json", "training_args.bin", "old.pt"):
        (folder / name).write_bytes(b"{}")
    pushed = dry(folder, tmp_path / "out")
    assert set(pushed.left_out) == {"optimizer.safetensors", "state.json", "training_args.bin", "old.pt"}
    assert not set(pushed.left_out) & {name for name, _ in pushed.files}


def test_what_is_no_model_is_refused(full, lora, tiny, tmp_path):
    run = shutil.copytree(full, tmp_path / "run")
    (run / "summary.json").unlink()
    with pytest.raises(UserError, match=r"run: the run is not finished: it has no summary\.json; run its command again"):
        dry(run, tmp_path / "out")
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no safetensors weights, only pytorch_model\.bin; save it again"):
        dry(folder, tmp_path / "out")
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')
    with pytest.raises(ModelError, match="a shard is missing: model-00002-of-00002"):
        dry(folder, tmp_path / "out")
    with pytest.raises(UserError, match="no such folder"):
        dry(tmp_path / "nowhere", tmp_path / "out")
    nested = shutil.copytree(lora, tmp_path / "nested")
    config = json.loads((nested / "model" / "adapter_config.json").read_text())
    (nested / "model" / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(nested / "base")}))
    with pytest.raises(ModelError, match="only this run's folder has; make it whole with `smolforge merge RUN OUT`"):
        dry(nested, tmp_path / "out")


@pytest.mark.parametrize("name", ["tiny", "jo/", "jo/a b", "jo/a/b", "-jo/a", "jo/a--b", "jö/a"])
def test_names_that_the_hub_does_not_take(tiny, tmp_path, name):
    with pytest.raises(UserError, match="not a name on the Hub"):
        push(str(tiny), name, dry_run=True, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_of_others_is_written_over(tiny, tmp_path):
    (tmp_path / "README.md").write_text("my thesis")
    with pytest.raises(UserError, match="is not a card of smolforge's"):
        dry(tiny, tmp_path)
    dry(tiny, tmp_path / "card.md")
    dry(tiny, tmp_path / "card.md")  # its own card, again
    assert (tmp_path / "README.md").read_text() == "my thesis"


# --- the Hub ------------------------------------------------------------------------------------------------------------


@dataclass
class Hub:
    """Repositories in memory."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    public: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    loses: str = ""  # a file that it forgets


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """The endpoints that huggingface_hub asks for a commit without hf_xet."""

        def log_message(self, *arguments: object) -> None:
            pass

        def answer(self, status: int, content: object, message: str = "") -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if message:
                self.send_header("X-Error-Message", message)
            self.end_headers()
            self.wfile.write(body)

        @property
        def here(self) -> str:
            return f"http://{self.headers['Host']}"

        def do_GET(self) -> None:
            repo = self.path.removeprefix("/api/models/").split("?")[0]
            if self.headers["Authorization"] != "Bearer hf_good":
                return self.answer(401, {"error": "Invalid username or password."}, "Invalid username or password.")
            if repo not in hub.repos:
                return self.answer(404, {"error": "Repository not found"}, "Repository not found")
            names = [{"rfilename": name} for name in hub.repos[repo]]
            self.answer(200, {"id": repo, "private": repo not in hub.public, "siblings": names, "tags": [], "sha": "0" * 40})

        def do_PUT(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            assert hashlib.sha256(content).hexdigest() == self.path.rsplit("/", 1)[1]
            hub.large[self.path.rsplit("/", 1)[1]] = content
            self.answer(200, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Authorization"] != "Bearer hf_good":
                return self.answer(401, {"error": "Invalid username or password."}, "Invalid username or password.")
            if self.path == "/api/validate-yaml":
                head = yaml.safe_load(json.loads(body)["content"].split("---")[1])
                wrong = [{"message": '"license" must be one of'}] if head.get("license") == "mine" else []
                return self.answer(400 if wrong else 200, {"errors": wrong, "warnings": []})
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                repo = f"{asked['organization']}/{asked['name']}"
                if asked["organization"] != "jo":
                    return self.answer(403, {"error": "no rights"}, "You don't have the rights to create a model there")
                if repo in hub.repos:
                    return self.answer(409, {"error": "exists", "url": f"{self.here}/{repo}"}, "You already created this repo")
                hub.repos[repo] = {".gitattributes": b""}
                if asked.get("visibility") != "private":
                    hub.public.add(repo)
                return self.answer(200, {"url": f"{self.here}/{repo}", "name": repo})
            if self.path.endswith("/preupload/main"):
                files = json.loads(body)["files"]
                modes = [("lfs" if one["path"].endswith(".safetensors") else "regular", one["path"]) for one in files]
                return self.answer(
                    200, {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for mode, path in modes]}
                )
            if self.path.endswith(".git/info/lfs/objects/batch"):
                objects = [
                    one | {"actions": {"upload": {"href": f"{self.here}/large/{one['oid']}"}}}
                    for one in json.loads(body)["objects"]
                ]
                return self.answer(200, {"objects": objects, "transfer": "basic"})
            repo = re.fullmatch(r"/api/models/(.*)/commit/main", self.path)[1]
            for line in body.splitlines():
                one = json.loads(line)
                if one["key"] == "file":
                    hub.repos[repo][one["value"]["path"]] = base64.b64decode(one["value"]["content"])
                if one["key"] == "lfsFile":
                    hub.repos[repo][one["value"]["path"]] = hub.large[one["value"]["oid"]]
            hub.repos[repo].pop(hub.loses, None)
            hub.commits.append(repo)
            return self.answer(200, {"commitUrl": f"{self.here}/{repo}/commit/{'0' * 40}", "commitOid": "0" * 40})

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on this machine, and a token for it."""
    held = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(held))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its storage speaks a protocol of its own
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    yield held
    server.shutdown()
    server.server_close()


def test_everything_arrives_in_one_commit(lora, tmp_path, hub):
    """What a dry run lists, byte for byte; a second push replaces it."""
    expected = dry(lora, tmp_path)
    for _ in range(2):
        pushed = push(str(lora), REPO, out=tmp_path)
        assert pushed.url == f"{constants.ENDPOINT}/{REPO}"
        assert pushed.files == expected.files
    assert hub.commits == [REPO, REPO]
    assert {name: len(content) for name, content in hub.repos[REPO].items()} == dict(expected.files) | {".gitattributes": 0}
    assert hub.repos[REPO]["README.md"] == pushed.card.read_bytes()
    weights = (lora / "model" / "adapter_model.safetensors").read_bytes()
    assert hub.repos[REPO]["adapter_model.safetensors"] == weights
    assert REPO in hub.public


def test_private_is_private(tiny, tmp_path, hub):
    push(str(tiny), REPO, private=True, out=tmp_path)
    assert REPO not in hub.public
    hub.repos["jo/open"] = {}
    hub.public.add("jo/open")
    with pytest.raises(UserError, match="jo/open: exists and is public, so nothing was pushed"):
        push(str(tiny), "jo/open", private=True, out=tmp_path)
    assert hub.commits == [REPO]


def test_weights_of_something_else_are_not_left_beside(lora, tiny, tmp_path, hub):
    """A loader would take the adapters there for this model's."""
    push(str(lora), REPO, out=tmp_path)
    with pytest.raises(UserError, match=r"holds adapter_config\.json, which this push would leave beside"):
        push(str(tiny), REPO, out=tmp_path / "other")
    assert hub.commits == [REPO]


def _no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: Hub) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))


def _nobody_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: Hub) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


TROUBLE = {
    "no token": (_no_token, REPO, {}, r"no token for the Hub, so nothing was pushed; log in with `hf auth login`"),
    "wrong token": (
        lambda patch, *_: patch.setenv("HF_TOKEN", "hf_bad"), REPO, {},
        r"the Hub does not know the token \(401: Invalid username or password\.?\); log in with `hf auth login`",
    ),
    "not mine": (lambda *_: None, "google/a", {}, r"google/a: the token may not write there \(403: .*\); use your own name"),
    "offline": (
        lambda patch, *_: patch.setattr(constants, "HF_HUB_OFFLINE", True), REPO, {},
        "HF_HUB_OFFLINE is set, so nothing was pushed; unset it",
    ),
    "no network": (_nobody_there, REPO, {}, r"http://127\.0\.0\.1:9 cannot be reached \(ConnectError: .*\); check the network"),
    "metadata": (lambda *_: None, REPO, {"license": "mine"}, r'the push failed \(.*"license" must be one of'),
    "lost": (
        lambda patch, _, hub: patch.setattr(hub, "loses", "config.json"), REPO, {},
        r"the Hub does not list config\.json after the commit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TROUBLE)
def test_trouble_ends_in_one_line(tiny, tmp_path, hub, monkeypatch, kind):
    trouble, repo, more, words = TROUBLE[kind]
    trouble(monkeypatch, tmp_path, hub)
    with pytest.raises(UserError, match=words) as error:
        push(str(tiny), repo, out=tmp_path, **more)
    assert "\n" not in str(error.value)
    assert hub.commits == ([REPO] if kind == "lost" else [])


def test_a_dry_run_asks_nobody(tiny, tmp_path, monkeypatch, hub):
    for trouble in (_no_token, _nobody_there):
        trouble(monkeypatch, tmp_path, hub)
    assert dry(tiny, tmp_path).url is None
    assert not hub.repos
