"""`smolforge evaluate` and `compare` as a user meets them: what they leave, and one line for what they cannot do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

import smolforge
from smolforge.cli import main
from smolforge.data.sources.tables import open_source
from smolforge.errors import ModelError, UserError
from smolforge.evals.fixtures import write_fixture
from smolforge.evals.results import read_predictions, read_results
from smolforge.evals.rows import sample
from smolforge.loading import load
from smolforge.model.adapters import weights_fingerprint
from smolforge.recipe import DataSection, parse_recipe
from smolforge.scoring import score
from smolforge.training.loop import train

Fails = Callable[..., str]
Shown = Callable[..., tuple[str, str]]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of answers and a current folder of its own, and no Java, which takes seconds to start."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def shown(capsys: pytest.CaptureFixture) -> Shown:
    """Run a verb that succeeds: its standard output and standard error."""

    def shown(*arguments: object) -> tuple[str, str]:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out, captured.err

    return shown


@pytest.fixture
def fails(capsys: pytest.CaptureFixture) -> Fails:
    """Run a verb that ends in one line: the line. `after` lines may tell what was begun before."""

    def fails(*arguments: object, after: int = 0) -> str:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        err = capsys.readouterr().err
        assert code == 1
        assert err.count("\n") == after + 1, err
        line = err.splitlines()[-1]
        assert line.startswith("smolforge: ")
        return line

    return fails


@pytest.fixture(scope="module")
def text(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that reads the tiny model's tokens and sees nothing."""
    folder = tmp_path_factory.mktemp("text")
    vocab = Tokenizer.from_file(str(tiny / "tokenizer.json")).get_vocab_size()
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64, vocab_size=vocab
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / name, folder)
    return folder


@pytest.fixture(scope="module")
def lora(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps that trained adapters, far enough to change answers."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    tree: dict[str, Any] = {
        "model": {"name": str(tiny)},
        "data": [{"source": "scenes"}],
        "adapters": {"r": 4},
        "optim": {"lr": 0.1, "warmup": 0},
        "batch": {"examples": 4, "row_tokens": 256},
        "run": {"dir": str(folder), "steps": 2, "save_every": 2, "device": "cpu", "trackers": [], "workers": 0},
    }
    train(parse_recipe(tree))
    return folder


def evaluate(model: object, *more: object, tasks: str = "docvqa") -> list[object]:
    return ["evaluate", model, "--tasks", tasks, "--device", "cpu", *more]


def fixture(folder: Path, task: str) -> Path:
    write_fixture(folder / task, task)
    return folder / task


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def rewrite(folder: Path, content: list[dict[str, Any]]) -> Path:
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in content))
    return folder


def answers(out: Path, key: str = "docvqa.lmms-eval") -> dict[str, str]:
    return {one.id: one.answer for one in read_predictions(out, key)}


def generated(out: Path, key: str = "docvqa.lmms-eval") -> int:
    return json.loads((out / "cost.json").read_text())[key]["generated"]


# --- what it leaves ------------------------------------------------------------------------------------------------------


def test_a_benchmark_from_a_folder(tiny, tmp_path, shown):
    folder = fixture(tmp_path, "docvqa")
    out, err = shown(
        *evaluate(tiny, "--data", folder, "--prompts", "lmms-eval,vlmevalkit", "--limit", 3, "--out", tmp_path / "out")
    )
    results = read_results(tmp_path / "out")
    assert list(results["tasks"]) == ["docvqa.lmms-eval", "docvqa.vlmevalkit"]
    for key, task in results["tasks"].items():
        assert (task.questions, task.limit, task.skipped) == (3, 3, {})
        assert list(answers(tmp_path / "out", key)) == [str(number) for number in sample(9, 3)]
    assert results["model"]["name"] == str(tiny)
    assert "anls" in out
    assert f"results: {tmp_path / 'out'}" in out
    assert "docvqa: short answers" in err


def test_several_tasks_from_a_folder_of_folders(tiny, tmp_path, shown, fails):
    for task in ("docvqa", "mlvu"):
        fixture(tmp_path / "benchmarks", task)
    arguments = ("--data", tmp_path / "benchmarks", "--out", tmp_path / "out")
    shown(
        *evaluate(
            tiny,
            *arguments,
            tasks="docvqa,mlvu,scenes",
        ),
        "--limit",
        2,
    )
    assert set(read_results(tmp_path / "out")["tasks"]) == {"docvqa.lmms-eval", "mlvu.lmms-eval", "scenes.lmms-eval"}
    line = fails(*evaluate(tiny, *arguments, tasks="docvqa,pope"), "--limit", 2)
    assert "benchmarks: no folder pope; of several tasks, give a folder with one named like each task" in line


def test_fixtures_lie_in_a_folder_however_it_is_named(tiny, shown):
    """--out may be relative to the current folder, as it is when it is left out."""
    shown(
        *evaluate(
            tiny,
            "--fixture",
            "--out",
            "out",
            tasks="docvqa,object_halbench",
        ),
        "--limit",
        1,
    )
    assert set(read_results(Path("out"))["tasks"]) == {"docvqa.lmms-eval", "object_halbench.lmms-eval"}


def test_without_out_it_is_named_after_the_model(tiny, shown, monkeypatch):
    shutil.copytree(tiny, "a model")
    shown(*evaluate("a model", "--fixture", "--limit", 1))
    assert read_results(Path("evaluations/a-model"))["model"]["name"] == "a model"


def test_from_python(tiny, tmp_path):
    data = fixture(tmp_path, "docvqa")
    tasks = smolforge.evaluate(str(tiny), "docvqa", data, out=tmp_path / "out", limit=2, device="cpu")
    assert tasks == read_results(tmp_path / "out")["tasks"]
    loaded = smolforge.load(str(tiny), device="cpu")
    again = smolforge.evaluate(loaded, ["docvqa"], [data], out=tmp_path / "out", limit=2)
    assert again == tasks
    assert generated(tmp_path / "out") == 0


# --- adapters, before and after ------------------------------------------------------------------------------------------


def test_adapters_beside_a_model_answer_as_their_own_folder(tiny, lora, tmp_path, shown):
    """The same weights, so that the second is answered from what the first kept; the base is another model."""
    data = fixture(tmp_path, "docvqa")
    shown(*evaluate(tiny, "--adapter", lora, "--data", data, "--out", tmp_path / "beside"))
    shown(*evaluate(lora, "--data", data, "--out", tmp_path / "own"))
    shown(*evaluate(tiny, "--data", data, "--out", tmp_path / "base"))
    assert answers(tmp_path / "beside") == answers(tmp_path / "own") != answers(tmp_path / "base")
    assert [generated(tmp_path / name) for name in ("beside", "own", "base")] == [9, 0, 9]
    models = {name: read_results(tmp_path / name)["model"] for name in ("beside", "own", "base")}
    assert models["beside"]["weights"] == models["own"]["weights"] != models["base"]["weights"]
    assert models["beside"]["name"] == f"{tiny} + {lora}"


def test_adapters_of_another_strength_are_another_model(lora, tmp_path):
    """Their tensors are equal; only lora_alpha is not."""
    stronger = tmp_path / "stronger"
    shutil.copytree(lora / "model", stronger)
    config = json.loads((stronger / "adapter_config.json").read_text())
    (stronger / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": config["lora_alpha"] * 2}))
    names = [file.name for file in stronger.glob("*.safetensors")]
    ours, theirs = (load_file(folder / names[0]) for folder in (lora / "model", stronger))
    assert all((ours[name] == theirs[name]).all() for name in ours)
    prints = {weights_fingerprint({"m": load(str(f), device="cpu").model.model}, adapters=True) for f in (lora, stronger)}
    assert len(prints) == 2


def test_a_run_before_and_after(lora, tiny, tmp_path, shown):
    """Beside the run's model, without a word about folders; the two can be compared."""
    run = tmp_path / "run"
    shutil.copytree(lora, run)
    data = fixture(tmp_path, "docvqa")
    shown(*evaluate(run, "--data", data, "--before"))
    before, after = run / "evaluation" / "before", run / "evaluation" / "after"
    assert read_results(before)["model"]["name"] == str(tiny)
    assert read_results(after)["model"]["name"] == str(run)
    out, _ = shown("compare", before, after, "--out", tmp_path / "page.html")
    assert "docvqa" in out
    assert (tmp_path / "page.html").stat().st_size > 1000


# --- one line ------------------------------------------------------------------------------------------------------------


def test_names_that_are_not_known(tiny, tmp_path, fails):
    given = ("--fixture", "--out", tmp_path / "out")
    assert "no task popes; tasks are scenes, clips, coco_caption" in fails(*evaluate(tiny, *given, tasks="docvqa,popes"))
    assert "no prompts helm; there are lmms-eval, vlmevalkit" in fails(*evaluate(tiny, *given, "--prompts", "helm"))
    assert "no task; give --tasks" in fails("evaluate", tiny, "--device", "cpu")
    assert "preference needs pairs; give a file" in fails(*evaluate(tiny, tasks="preference"))
    assert not (tmp_path / "out").exists()


def test_no_prompts_at_all(tiny, tmp_path, fails):
    assert "prompts" in fails(*evaluate(tiny, "--fixture", "--prompts", ",", "--out", tmp_path / "out"))


def test_a_folder_with_other_columns(tiny, tmp_path, fails):
    folder = fixture(tmp_path, "chartqa")
    line = fails(*evaluate(tiny, "--data", folder, "--out", tmp_path / "out"))
    assert f"{folder}: no column questionId, answers; docvqa needs questionId, question, image, answers" in line
    assert "there are " in line
    assert "no such file or folder" in fails(*evaluate(tiny, "--data", tmp_path / "elsewhere", "--out", tmp_path / "out"))


@pytest.mark.parametrize("task", ["docvqa", "mlvu", "chair", "scenes"])
def test_a_text_model_is_not_asked_about_pictures(text, tmp_path, fails, task):
    line = fails(*evaluate(text, "--fixture", "--out", tmp_path / "out", tasks=task), after=1)
    assert f"{text}, {task}: a text model, and the task is about pictures; choose another task" in line
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_text_model_prefers_among_texts(text, tmp_path, shown):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "a red", "chosen": "circle", "rejected": "star"}\n')
    shown(*evaluate(text, "--data", pairs, "--out", tmp_path / "out", tasks="preference"))
    assert read_results(tmp_path / "out")["tasks"]["preference.log-probs"].questions == 1


def test_two_rows_with_one_id(tiny, tmp_path, fails):
    folder = fixture(tmp_path, "docvqa")
    rewrite(folder, [row | {"questionId": number % 8} for number, row in enumerate(rows(folder))])
    line = fails(*evaluate(tiny, "--data", folder, "--out", tmp_path / "out"), after=1)
    assert f"{folder}, rows 0 and 8: two rows with the id 0; give each row its own id" in line


def test_an_unreadable_picture_is_counted_and_the_rest_scored(tiny, tmp_path, shown, fails):
    folder = fixture(tmp_path, "docvqa")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:300])
    (folder / "2.png").unlink()
    out, _ = shown(*evaluate(tiny, "--data", folder, "--out", tmp_path / "out"))
    task = read_results(tmp_path / "out")["tasks"]["docvqa.lmms-eval"]
    assert task.questions == 3
    assert sum(task.skipped.values()) == 6
    assert any("1.png" in line for line in task.named)
    assert any("2.png" in line for line in task.named)
    assert "3 rows: " in out
    (folder / "0.png").unlink()
    line = fails(*evaluate(tiny, "--data", folder, "--out", tmp_path / "out"), after=1)
    assert "no question can be asked" in line
    assert ".png" in line
    assert read_results(tmp_path / "out")["tasks"]["docvqa.lmms-eval"] == task, "what was there stays"


def test_another_models_folder(tiny, lora, tmp_path, fails, shown):
    arguments = ("--fixture", "--limit", 1, "--out", tmp_path / "out")
    shown(*evaluate(tiny, *arguments))
    before = (tmp_path / "out" / "results.json").read_bytes()
    line = fails(*evaluate(lora, *arguments))
    assert f"{tmp_path / 'out'}: holds results of another model, {tiny} in float32; choose another folder with --out" in line
    assert (tmp_path / "out" / "results.json").read_bytes() == before


def test_what_was_before_no_run(tiny, tmp_path, fails):
    line = fails(*evaluate(tiny, "--fixture", "--before", "--out", tmp_path / "out"))
    assert f"{tiny}: no run, so nothing was before; give a run's folder, or leave --before out" in line


def test_no_adapters(tiny, tmp_path, fails):
    line = fails(*evaluate(tiny, "--adapter", tiny, "--fixture", "--out", tmp_path / "out"))
    assert f"{tiny}: holds no adapters; give it as the model itself" in line


def test_damaged_results(tiny, tmp_path, fails, shown):
    out = tmp_path / "out"
    shown(*evaluate(tiny, "--fixture", "--limit", 2, "--out", out))
    whole = (out / "results.json").read_bytes()
    (out / "results.json").write_bytes(whole[:100])
    assert "results.json: not a file of results" in fails("compare", out, out, "--out", tmp_path / "page.html")
    assert "results.json" in fails(*evaluate(tiny, "--fixture", "--limit", 2, "--out", out))
    (out / "results.json").write_bytes(whole)
    file = out / "predictions" / "docvqa.lmms-eval.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    assert "docvqa.lmms-eval.jsonl, line 2: not a prediction" in fails("compare", out, out, "--out", tmp_path / "page.html")
    assert "no results there" in fails("compare", tmp_path / "elsewhere", out)


def test_folders_without_a_common_task(tiny, tmp_path, fails, shown):
    for name, prompts in (("a", "lmms-eval"), ("b", "vlmevalkit")):
        shown(*evaluate(tiny, "--fixture", "--limit", 1, "--prompts", prompts, "--out", tmp_path / name))
    line = fails("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "page.html")
    assert "no task in common: docvqa.lmms-eval against docvqa.vlmevalkit; evaluate both models with the same --tasks" in line


# --- predictions ---------------------------------------------------------------------------------------------------------

SAID = ({"id": 1, "prediction": "a", "references": ["a"]}, {"id": 2, "prediction": "", "references": ["b"]})


def lines(file: Path, *content: dict[str, Any]) -> Path:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in content))
    return file


def test_a_file_of_predictions(tmp_path, shown):
    file = lines(tmp_path / "said.jsonl", *SAID)
    out, err = shown("evaluate", file, "--metrics", "exact,anls", "--out", tmp_path / "out")
    assert "50.0%" in out
    assert "1 of 2 predictions are empty; they count as they are" in out
    assert err == ""
    assert read_results(tmp_path / "out")["tasks"]["predictions.given"].questions == 2


def test_predictions_that_cannot_be_scored(tiny, tmp_path, fails):
    file = lines(tmp_path / "said.jsonl", *SAID)
    assert "predictions and no metric; give --metrics cider,bleu" in fails("evaluate", file)
    assert "no metric wer; metrics are bleu" in fails("evaluate", file, "--metrics", "exact,wer")
    assert "--metrics is for a file of predictions" in fails("evaluate", tiny, "--metrics", "cider")
    assert "two predictions with the id 1" in fails(
        "evaluate", lines(tmp_path / "twice.jsonl", SAID[0], SAID[0]), "--metrics", "exact"
    )
    bare = lines(tmp_path / "bare.jsonl", *({"id": row["id"], "prediction": row["prediction"]} for row in SAID))
    assert "2 predictions without references, such as 1, 2" in fails("evaluate", bare, "--metrics", "exact")
    more = lines(tmp_path / "more.jsonl", *({"id": number, "references": ["a"]} for number in (1, 2, 3)))
    assert "1 reference without a prediction, such as 3" in fails("evaluate", bare, "--references", more, "--metrics", "exact")
    assert "elsewhere.jsonl" in fails("evaluate", bare, "--references", tmp_path / "elsewhere.jsonl", "--metrics", "exact")


# --- preference ----------------------------------------------------------------------------------------------------------


def preference(out: Path) -> dict[str, float | None]:
    scores = read_results(out)["tasks"]["preference.log-probs"].scores
    return {name: score.value if score else None for name, score in scores.items()}


def test_preference_counts_what_scoring_says(tiny, tmp_path, shown):
    """The accuracies are those of the plain scores, response by response."""
    out, err = shown(
        *evaluate(tiny, "--data", "scene_pairs", "--split", "test[:20]", "--out", tmp_path / "out", tasks="preference")
    )
    source = open_source(DataSection(source="scene_pairs", split="test[:20]"))
    plain = [line["responses"] for line in score(smolforge.load(str(tiny), device="cpu"), source)]
    found = preference(tmp_path / "out")
    assert found["log-prob"] == sum(chosen["logprob"] > rejected["logprob"] for chosen, rejected in plain) / 20
    assert found["log-prob a token"] == sum(c["logprob"] / c["tokens"] > r["logprob"] / r["tokens"] for c, r in plain) / 20
    assert found["chosen length"] == sum(chosen["tokens"] for chosen, _ in plain) / 20
    margins = [c["logprob"] / c["tokens"] - r["logprob"] / r["tokens"] for c, r in plain]
    assert found["margin"] == pytest.approx(sum(margins) / 20, abs=1e-6)  # nats; worst seen 4e-8
    assert "implicit reward" not in found
    assert "median characters" in err
    assert "log-prob a token" in out
    predictions = read_predictions(tmp_path / "out", "preference.log-probs")
    assert sorted(one.facts["chosen"] for one in predictions) == pytest.approx(
        sorted(chosen["logprob"] for chosen, _ in plain), rel=1e-5
    )
    assert {one.read for one in predictions} == {"chosen", "rejected"}


def test_a_model_is_its_own_reference_only_in_ties(tiny, tmp_path):
    settings = dict(split="test[:8]", device="cpu")
    smolforge.evaluate(str(tiny), "preference", "scene_pairs", out=tmp_path / "out", reference=str(tiny), **settings)
    assert preference(tmp_path / "out")["implicit reward"] == 0


def test_adapters_are_measured_against_their_base(tiny, lora, tmp_path):
    """As against the base given by hand: the same rewards."""
    settings = dict(split="test[:8]", device="cpu")
    for name, reference in (("own", None), ("given", str(tiny))):
        smolforge.evaluate(str(lora), "preference", "scene_pairs", out=tmp_path / name, reference=reference, **settings)
    ours, theirs = (
        [one.facts["chosen_reference"] for one in read_predictions(tmp_path / name, "preference.log-probs")]
        for name in ("own", "given")
    )
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert preference(tmp_path / "own")["implicit reward"] == preference(tmp_path / "given")["implicit reward"]


def test_adapters_of_another_model_are_told(tiny, lora, tmp_path, shown):
    """Adapters made elsewhere bring no fingerprint of their base, and may fit all the same; on their own base nothing is said."""
    shutil.copytree(tiny, tmp_path / "other")
    foreign = tmp_path / "foreign"
    shutil.copytree(lora / "model", foreign)
    (foreign / "smolforge.json").unlink()
    arguments = ("--adapter", foreign, "--fixture", "--limit", 1)
    _, own = shown(*evaluate(tiny, *arguments, "--out", tmp_path / "a", tasks="pope"))
    _, others = shown(*evaluate(tmp_path / "other", *arguments, "--out", tmp_path / "b", tasks="pope"))
    assert "was trained on" not in own
    assert f"note: {foreign} was trained on {tiny}, not on {tmp_path / 'other'}" in others


def test_several_sources_of_pairs(tiny, tmp_path):
    pairs = lines(tmp_path / "pairs.jsonl", *({"prompt": "a red", "chosen": "circle", "rejected": f"star {n}"} for n in range(3)))
    data = ["scene_pairs", str(pairs)]
    settings = dict(split="train[:3]", limit=2, device="cpu")
    (task,) = smolforge.evaluate(str(tiny), "preference", data, out=tmp_path / "out", **settings).values()
    assert (task.questions, task.limit) == (4, 2)
    ids = [one.id for one in read_predictions(tmp_path / "out", task.key)]
    assert len(set(ids)) == 4
    assert {id.split("[")[0] for id in ids} == {"scene_pairs", str(pairs)}


def test_a_pair_without_rejected(tiny, tmp_path, shown, fails):
    """One line, or a counted skip beside good pairs."""
    good, bad = {"prompt": "a", "chosen": "red", "rejected": "blue"}, {"prompt": "a", "chosen": "b"}
    pairs = lines(tmp_path / "pairs.jsonl", bad)
    arguments = evaluate(tiny, "--data", pairs, "--out", tmp_path / "out", tasks="preference")
    assert "a pair without rejected" in fails(*arguments)
    lines(pairs, bad, good)
    out, err = shown(*arguments)
    assert "1 pair" in err
    assert "dropped 1 example: a pair without rejected" in err
    assert "1 row: a pair without rejected" in out
    assert read_results(tmp_path / "out")["tasks"]["preference.log-probs"].skipped == {"a pair without rejected": 1}


def test_another_tokenizer_is_no_reference(tiny, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    tokenizer.add_tokens(["purplish"])
    tokenizer.save(str(other / "tokenizer.json"))
    with pytest.raises(smolforge.UserError, match="another tokenizer"):
        smolforge.evaluate(
            str(tiny), "preference", "scene_pairs", out=tmp_path / "out", limit=2, reference=str(other), device="cpu"
        )


def test_preferences_of_two_models_can_be_compared(tiny, lora, tmp_path, shown):
    for name, model in (("before", tiny), ("after", lora)):
        shown(*evaluate(model, "--data", "scene_pairs", "--split", "test[:8]", "--out", tmp_path / name, tasks="preference"))
    out, _ = shown("compare", tmp_path / "before", tmp_path / "after", "--out", tmp_path / "page.html")
    assert "preference" in out
    assert (tmp_path / "page.html").is_file()


# --- what would do nothing, or fail late ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "scenes", "--clip", "x"], "--clip is for a file of predictions; leave it out"),
        (["--tasks", "scenes", "--judge", "x"], "--judge is for the task mmhal; leave it out"),
        (["--tasks", "pope", "--reference", "x", "--fixture"], "--reference is for the task preference; leave it out"),
        (["--tasks", "pope", "--split", "test", "--fixture"], "--split is for the task preference; leave it out"),
        (["--tasks", "scenes", "--data", "nowhere"], "scenes is drawn and takes no data; leave --data out"),
        (["--tasks", "pope", "--data", "nowhere", "--fixture"], "data and fixture; give one of them"),
        (["--tasks", "scenes,object_halbench"], "object_halbench: is not on the Hub; give its folder with --data"),
        (
            ["--tasks", "pope", "--data", "nowhere"],
            "nowhere: no such file or folder; give a folder with the columns of",
        ),
    ],
)
def test_what_can_be_known_to_fail_fails_before_the_model_is_loaded(fails, arguments, words):
    assert words in fails("evaluate", "no/such/model", *arguments)


def test_options_of_a_model_do_not_fit_predictions(fails, tmp_path):
    assert "nothere.jsonl: no such file; check the path" in fails("evaluate", "nothere.jsonl", "--metrics", "bleu")
    said = tmp_path / "said.jsonl"
    said.write_text('{"id": 1, "prediction": "a cat", "references": ["a cat"]}\n')
    assert "--tasks is for a model" in fails("evaluate", said, "--metrics", "bleu", "--tasks", "pope")
    assert "--frequencies is for cider" in fails("evaluate", said, "--metrics", "bleu", "--frequencies", "x.json")


def test_a_loaded_model_takes_no_adapter(tiny, tmp_path):
    """It would be named in the results and not be on the model."""
    with pytest.raises(UserError, match="an adapter for a model that is loaded already"):
        smolforge.evaluate(load(str(tiny), device="cpu"), "scenes", out=tmp_path / "out", adapter="no/such")


def test_before_and_after_lie_below_out(tiny, tmp_path, shown):
    """`--before --out DIR` writes DIR/before and DIR/after."""
    run = tmp_path / "run"
    (run / "model").parent.mkdir()
    shutil.copytree(tiny, run / "model")
    (run / "recipe.json").write_text(json.dumps({"model": {"name": str(tiny)}}))
    out, _ = shown("evaluate", run, "--tasks", "pope", "--fixture", "--limit", 2, "--before", "--out", "both", "--device", "cpu")
    assert sorted(path.name for path in Path("both").iterdir()) == ["after", "before"]
    assert "results: both/before" in out


def test_a_damaged_note_of_the_cost_loses_no_result(tiny, tmp_path, shown):
    for text in ("{", ""):
        shown("evaluate", tiny, "--tasks", "pope", "--fixture", "--limit", 2, "--out", "out", "--device", "cpu")
        Path("out/cost.json").write_text(text)
    shown("evaluate", tiny, "--tasks", "pope", "--fixture", "--limit", 2, "--out", "out", "--device", "cpu")
    assert json.loads(Path("out/cost.json").read_text())["pope.lmms-eval"]["generated"] == 0


def test_pairs_of_a_model_that_computes_no_numbers(tiny, tmp_path):
    broken = load(str(tiny), device="cpu")
    broken.model.head.weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="the model computes no numbers"):
        smolforge.evaluate(broken, "preference", "scene_pairs", split="test[:4]", out=tmp_path / "out")


def test_what_a_kill_leaves_does_not_stand_in_the_way(tiny, shown):
    arguments = evaluate(tiny, "--fixture", "--limit", 1, "--out", "out", tasks="pope")
    shown(*arguments)
    Path("out/results.json.4242.draft").write_text("{")
    shown(*arguments)


def test_results_go_into_a_folder_of_their_own(tiny, tmp_path, fails):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    words = "mine: holds other things, such as thesis.tex; choose a folder of its own with --out"
    assert words in fails("evaluate", tiny, "--tasks", "pope", "--fixture", "--out", tmp_path / "mine", "--device", "cpu")
