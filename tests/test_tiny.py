"""Every shipped recipe runs small, from its first step to its report, and what a person said stays said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from smolforge.errors import CheckpointError, RecipeError
from smolforge.recipe import load_recipe
from smolforge.tiny import shrink
from smolforge.tiny.models import assemble_tiny
from smolforge.training.loop import train

RECIPES = sorted((Path(__file__).resolve().parents[1] / "recipes").glob("*.yaml"))
STEPS = 3


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_shipped_recipe_runs(file, module_path, monkeypatch):
    monkeypatch.chdir(module_path)  # one folder for all, so that the tiny models are assembled once
    recipe = shrink(file, [f"run.steps={STEPS}", "run.workers=0"])
    run = train(recipe)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["kind"] == "train" for line in lines) == STEPS
    assert (run / "model").is_dir()
    summary = json.loads((run / "summary.json").read_text())
    assert not summary["dropped"]
    assert summary["after"]["loss"] != summary["before"]["loss"]


def test_the_video_stage_goes_on_from_the_vision_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vision, video = (Path(RECIPES[0].parent / f"smolvlm2-256m-{stage}.yaml") for stage in ("vision", "video"))
    assert shrink(video).model.name == "runs/tiny/start"
    run = train(shrink(vision, ["run.steps=2", "run.workers=0"]))
    assert Path(shrink(video).model.name) == run / "model"


def test_a_stage_runs_with_processes_that_prepare_its_steps(module_path, monkeypatch):
    """As the recipe is published, but small: what is prepared ahead are the rows, losses and all, that one process makes."""
    monkeypatch.chdir(module_path)
    file = RECIPES[0].parent / "smolvlm2-256m-video.yaml"
    losses = []
    for workers in (0, 2):
        recipe = shrink(file, [f"run.steps={STEPS}", f"run.workers={workers}", f"run.dir=workers-{workers}"])
        assert recipe.run.workers == workers
        run = train(recipe)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if line["kind"] == "train"])
    assert len(losses[0]) == STEPS
    assert losses[0] == losses[1]
    assert shrink(file).run.workers == 1


def test_numbers_of_steps_shrink_in_proportion(tmp_path, monkeypatch):
    """50,000 steps become 20, so SigLIP thaws at 10,000 / 50,000 x 20 = 4; of 100 steps at 20."""
    monkeypatch.chdir(tmp_path)
    file = RECIPES[0].parent / "smolvlm2-256m-vision.yaml"
    small, longer = shrink(file), shrink(file, ["run.steps=100", "run.dir=elsewhere"])
    assert (small.run.steps, small.freeze.vision) == (20, 4)
    assert (longer.run.steps, longer.freeze.vision, longer.run.dir) == (100, 20, Path("elsewhere"))
    assert [one.source for one in small.data] == [one.source for one in load_recipe(file).data]
    assert all(one.fixture for one in small.data)
    assert [one.weight for one in small.data] == [0.35, 0.41, 0.08, 0.08, 0.08]


def recipe_file(folder: Path, **sections: object) -> Path:
    """A recipe of 50,000 steps on captions, of which `sections` change some."""
    tree = {"model": {"name": "models/mine"}, "data": [{"source": "coco_captions"}], "run": {"dir": "runs/mine", "steps": 50_000}}
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(tree | sections))
    return file


def test_prompts_and_the_log_keep_their_share_of_the_steps(tmp_path, monkeypatch):
    """50,000 steps become 20: 5,000 x 20 / 50,000 = 2; 6,000 would be 2 too, and comes one step later; 25,000 is 10."""
    monkeypatch.chdir(tmp_path)
    prompts = {0: "a", 5_000: "b", 6_000: ["c", "d"], 25_000: "e"}
    run = {"dir": "runs/mine", "steps": 50_000, "log_every": 5_000}
    file = recipe_file(tmp_path, data=[{"source": "coco_captions", "prompt": prompts}], run=run)
    small = shrink(file)
    assert small.data[0].prompt == {0: "a", 2: "b", 3: ("c", "d"), 10: "e"}
    assert small.run.log_every == 2
    assert shrink(file, ["run.steps=100"]).data[0].prompt == {0: "a", 10: "b", 12: ("c", "d"), 50: "e"}


def test_a_tiny_run_leaves_the_store_of_the_real_one_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reference = {"kind": "precomputed", "store": "runs/reference.sqlite"}
    file = recipe_file(tmp_path, data=[{"source": "rlaif_v"}], objective={"kind": "dpo", "reference": reference})
    small = shrink(file, ["run.steps=1", "run.workers=0"])
    assert small.objective.reference.kind == "precomputed"
    assert small.objective.reference.store is None
    train(small)
    assert not Path("runs/reference.sqlite").exists()
    assert [path.name for path in Path("runs").iterdir()] == ["tiny"], "everything that a tiny run writes is below runs/tiny"


@pytest.mark.parametrize(
    ("name", "source", "starts_from"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smoltalk", "start-text"),
        ("smollm2.gguf", "smoltalk", "start-text"),
        ("someone/smolvlm-on-smollm2-360m", "smoltalk", "start"),  # its name says so
        ("someone/tower-on-smollm2-360m", "coco_captions", "start"),  # its data say so
        ("someone/tower-on-smollm2-360m", "clips", "start"),
        ("someone/tower-on-smollm2-360m", "mine.jsonl", "start-text"),
    ],
)
def test_what_a_model_reads_is_told_by_its_name_and_its_data(tmp_path, monkeypatch, name, source, starts_from):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/tiny" / starts_from).mkdir(parents=True)  # so that none is assembled
    assert shrink(recipe_file(tmp_path, model={"name": name}, data=[{"source": source}])).model.name == f"runs/tiny/{starts_from}"


@pytest.mark.parametrize(
    ("folder", "files", "starts_from"),
    [
        ("tower-on-smollm2", {"config.json": {"vision_config": {}}}, "start"),
        ("smolvlm-without-its-tower", {"config.json": {"model_type": "llama"}}, "start-text"),
        ("smollm2-run", {"model/config.json": {"vision_config": {}}}, "start"),  # a run's folder stands for its model
        ("smollm2-lora", {"adapter_config.json": {"base_model_name_or_path": "HuggingFaceTB/SmolVLM-Instruct"}}, "start"),
        ("vlm-lora", {"adapter_config.json": {"base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M"}}, "start-text"),
    ],
)
def test_a_folder_tells_itself_whether_it_sees(tmp_path, monkeypatch, folder, files, starts_from):
    monkeypatch.chdir(tmp_path)
    for name, content in files.items():
        (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_text(json.dumps(content))
    (tmp_path / "runs/tiny" / starts_from).mkdir(parents=True)
    file = recipe_file(tmp_path, model={"name": folder}, data=[{"source": "mine.jsonl"}])
    assert shrink(file).model.name == f"runs/tiny/{starts_from}"


def test_of_processes_that_start_together_the_first_ones_model_stays(tmp_path, monkeypatch):
    """Another process assembles, from its beginning to its end, while this one does."""
    monkeypatch.chdir(tmp_path)
    file, start = recipe_file(tmp_path), Path("runs/tiny/start")
    first: list[bytes] = []

    def meanwhile(folder: Path) -> None:
        if not first:
            first.append(b"")
            shrink(file)
            first[0] = (start / "model.safetensors").read_bytes()
        assemble_tiny(folder)

    monkeypatch.setattr(sys.modules["smolforge.tiny.shrink"], "assemble_tiny", meanwhile)
    assert shrink(file).model.name == str(start)
    assert (start / "model.safetensors").read_bytes() == first[0] != b""
    assert [path.name for path in start.parent.iterdir()] == ["start"], "no draft stays"


@pytest.mark.slow
def test_processes_that_start_together_assemble_one_model(tmp_path):
    file = recipe_file(tmp_path)
    code = f"from smolforge.tiny import shrink; print(shrink({str(file)!r}).model.name)"
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    assert [one.communicate()[0].splitlines()[-1] for one in started] == ["runs/tiny/start"] * 2
    assert (tmp_path / "runs/tiny/start/model.safetensors").is_file()
    assert [path.name for path in (tmp_path / "runs/tiny").iterdir()] == ["start"], "no draft stays"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").write_text("a file in the place of the folder")
    with pytest.raises(CheckpointError, match=r"runs/tiny/start: cannot be written .*; see that you may write there"):
        shrink(recipe_file(tmp_path))


def test_steps_on_the_command_line_replace_epochs():
    file = RECIPES[0].parent / "captions.yaml"
    assert load_recipe(file).run.epochs == 3
    assert load_recipe(file, ["run.steps=7"]).run.steps == 7
    assert load_recipe(file, ["run.steps=7"]).run.epochs is None
    with pytest.raises(RecipeError, match="exactly one of steps and epochs"):
        load_recipe(file, ["run.steps=7", "run.epochs=2"])
