"""The command line as a user meets it: help, exit codes, one-line errors. Each call is a process of its own where it counts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from smolforge import doctor
from smolforge.cli import build_parser, main, parse


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    return tmp_path / "red.png"


def test_help_imports_no_torch():
    code = "import sys; from smolforge.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    for verb in build_parser()._subparsers._group_actions[0].choices:
        assert verb in result.stdout


def test_every_verb_has_examples_that_parse():
    import shlex

    parser = build_parser()
    verbs = parser._subparsers._group_actions[0].choices
    assert len(verbs) == 16
    for name, verb in verbs.items():
        examples = [line.strip() for line in verb.epilog.splitlines()[1:]]
        assert examples, name
        for example in examples:
            parser.parse_args(shlex.split(example)[1:])


def test_wrong_usage_is_two():
    for arguments in (["nonsense"], ["train"], ["generate", "m"], ["generate", "m", "--prompt", "x", "--top-p", "7"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("smolforge 0.")


@pytest.mark.parametrize(
    ("preset", "total", "tokens"),
    [
        ("smolvlm-instruct", 2_246_272_880, 81),
        ("smolvlm-256m", 256_484_928, 64),
        ("smolvlm-500m", 507_482_304, 64),
        ("smolvlm2-2.2b", 2_246_784_880, 81),
    ],
)
def test_describe_presets(capsys, preset, total, tokens):
    code, out, _ = run(capsys, "describe", preset)
    assert code == 0
    assert f"{total:,}" in out
    assert f"{tokens} tokens a tile" in out


SUFFIXES = "[down_proj, o_proj, k_proj, q_proj, gate_proj, up_proj, v_proj]"


@pytest.mark.parametrize(
    ("preset", "method", "line"),
    [
        ("smolvlm-instruct", "dora", "11,269,248 || all params: 2,257,542,128 || trainable%: 0.4992"),
        ("smolvlm-instruct", "lora", "10,536,960 || all params: 2,256,809,840"),
        ("smolvlm-500m", "dora", "5,088,256 ||"),
        ("smolvlm-500m", "lora", "4,784,128 ||"),
        ("smolvlm-256m", "dora", "3,067,776 ||"),
        ("smolvlm-256m", "lora", "2,884,608 ||"),
    ],
)
def test_describe_what_a_recipe_trains(capsys, tmp_path, preset, method, line):
    """Rank 8 on these suffixes of text model and tower: PEFT's own counts, worked out layer by layer."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {{name: {preset}}}\nadapters: {{method: {method}, r: 8, on: [text, vision], target_modules: {SUFFIXES}}}\n"
        "data: [{source: rlaif_v}]\nobjective: {kind: dpo}\nrun: {dir: runs/x, steps: 1}\n"
    )
    code, out, _ = run(capsys, "describe", preset, "--recipe", recipe)
    assert code == 0
    assert f"trainable params: {line}" in out
    assert run(capsys, "describe", "--recipe", recipe)[1] == out, "without a model it is the recipe's"


def test_describe_needs_something(capsys):
    code, _, err = run(capsys, "describe")
    assert (code, err) == (1, "smolforge: nothing to describe; give a model, a recipe with --recipe, or both\n")


def test_describe_a_folder(capsys, tiny):
    code, out, _ = run(capsys, "describe", tiny, "--json")
    about = json.loads(out)
    assert code == 0
    assert about["total"] == sum(total for total, _ in about["parameters"].values()) == 1_053_888
    assert about["special_tokens"]["<image>"] == 422


def test_preset_tokens_are_the_real_ids(capsys, shared):
    special = json.loads(run(capsys, "describe", "smolvlm-256m", "--json")[1])["special_tokens"]
    real = json.loads((shared / "smolvlm-256m-processor" / "added_tokens.json").read_text())
    assert {t: i for t, i in special.items() if t in real} == {t: real[t] for t in special if t in real}


def test_generate(capsys, tiny, picture):
    code, out, _ = run(
        capsys, "generate", tiny, "--image", picture, "--image", picture, "--prompt", "what?", "--json",
        "--max-new-tokens", 5, "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    assert set(json.loads(out)) == {"text", "tokens", "finished"}
    assert run(capsys, "generate", tiny, "--prompt", "what?", "--max-new-tokens", 3, "--temperature", 1)[0] == 0


def test_score_writes_a_line_a_record(capsys, tiny, picture, tmp_path):
    rows = [
        {"image": "red.png", "captions": ["red", "all red"]},
        {"image": "nowhere.png", "caption": "x"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, out, err = run(capsys, "score", tiny, tmp_path / "rows.jsonl", "--out", tmp_path / "scores.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert (code, out) == (0, "")
    assert [r["kind"] for r in lines[0]["responses"]] == ["target", "target"]
    assert "no such picture" in lines[1]["error"]
    assert "1 of 2 records could not be scored" in err


def test_doctor(capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert "torch" in out
    assert "cores" in out
    named = {line.split()[1]: line.split()[0] for line in out.splitlines()}
    assert named["av"] == "ok", "videos need it"
    for library in ("decord", "torchcodec", "torchvision"):
        here = importlib.util.find_spec(library) is not None
        assert named[library] == ("ok" if here else "note")


def test_doctor_without_a_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(doctor, "NEEDED", ("av", "smolforge-has-no-such"))
    monkeypatch.setattr(doctor, "OPTIONAL", {"rich": "unused", "smolforge-nor-such": "pip install it"})
    monkeypatch.setattr(doctor, "OTHER_NAMES", {"smolforge-nor-such": "smolforge-nor-this"})
    found = {one.topic: (one.state, one.words) for one in doctor._packages()}
    assert found["av"] == ("ok", importlib.metadata.version("av"))
    assert found["smolforge-has-no-such"] == ("fail", "missing: pip install smolforge-has-no-such, or make setup")
    assert found["smolforge-nor-such"] == ("note", "not installed; pip install it")
    monkeypatch.setattr(doctor, "OTHER_NAMES", {"smolforge-nor-such": "rich"})
    found = {one.topic: (one.state, one.words) for one in doctor._packages()}
    assert found["smolforge-nor-such"] == ("ok", f"{importlib.metadata.version('rich')} (rich)"), "one module, two packages"


def test_report_rebuilds_the_page(capsys, tiny, picture, tmp_path):
    lines = [{"image": "red.png", "captions": ["red", "<b>all</b> red"]}]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    recipe = {
        "model": {"name": str(tiny)},
        "data": [{"source": str(tmp_path)}],
        "batch": {"examples": 2},
        "eval": {"max_new_tokens": 4},
        "run": {"dir": str(tmp_path / "run"), "steps": 2, "trackers": ["tensorboard"]},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, _, err = run(capsys, "train", tmp_path / "recipe.yaml", "optim.lr=1.0e-3")
    assert code == 0
    assert "gradient norms: vision" in err
    page = (tmp_path / "run" / "report.html").read_text()
    assert "data:image/jpeg;base64" in page
    assert "&lt;b&gt;all&lt;/b&gt; red" in page
    assert "http" not in page.replace("http-equiv", ""), "self-contained"
    (tmp_path / "run" / "report.html").unlink()
    assert run(capsys, "report", tmp_path / "run")[0] == 0
    assert (tmp_path / "run" / "report.html").read_text() == page
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


@pytest.mark.parametrize("verb", [("compare", "nowhere", "nor-here"), ("report", "nowhere"), ("report", "nowhere", "nor-here")])
@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("folder", "is a folder; give the name of a file"),
        ("notes.txt", "is there already, and no page of smolforge's; choose another --out"),
        ("notes.txt/page.html", "cannot be made (File exists); choose another --out"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_before_anything_is_read(capsys, tmp_path, verb, out, words):
    """Folders of results that are not there would be refused first, if they were looked at."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("Mine.")
    name, *folders = verb
    said = run(capsys, name, *(tmp_path / folder for folder in folders), "--out", tmp_path / out)
    where = tmp_path / out
    assert said == (1, "", f"smolforge: {where}: {words}\n")
    assert (tmp_path / "notes.txt").read_text() == "Mine."


def test_a_page_in_its_usual_place_is_refused_before_the_work_as_well(capsys, tmp_path):
    (tmp_path / "run" / "report.html").mkdir(parents=True)
    (tmp_path / "after" / "comparison.html").mkdir(parents=True)
    assert "report.html: is a folder" in run(capsys, "report", tmp_path / "run")[2]
    assert "comparison.html: is a folder" in run(capsys, "compare", tmp_path / "before", tmp_path / "after")[2]


def test_a_misspelt_folder_is_not_made_for_its_page(capsys, tmp_path):
    assert run(capsys, "report", tmp_path / "rnu")[0] == 1
    assert run(capsys, "compare", tmp_path / "before", tmp_path / "aftre")[0] == 1
    assert list(tmp_path.iterdir()) == []


LIGHT = """
import sys
from smolforge.cli import main
code = main(sys.argv[1:])
print("torch" in sys.modules)
sys.exit(code)
"""


def apart(*arguments: object) -> tuple[int, bool, str, str]:
    """(exit code, whether PyTorch was loaded, standard output, standard error) of a process."""
    words = [sys.executable, "-c", LIGHT, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    *lines, loaded = done.stdout.splitlines()
    return done.returncode, loaded == "True", "\n".join(lines), done.stderr


def test_what_a_finished_run_answers_is_said_before_torch_is_imported(capsys, tiny, tmp_path):
    def write(file: Path, count: int, word: str) -> None:
        file.write_text("".join(json.dumps({"prompt": f"{word} {n}?", "completion": f"{n}"}) + "\n" for n in range(count)))

    rows, held, folder = tmp_path / "rows.jsonl", tmp_path / "held.jsonl", tmp_path / "run"
    write(rows, 6, "what")
    write(held, 2, "which")
    recipe = {
        "model": {"name": str(tiny)},
        "data": [{"source": str(rows)}, {"source": "scenes"}],
        "batch": {"examples": 2},
        "eval": {"data": [{"source": str(held)}], "samples": 0, "examples": 2},
        "run": {"dir": str(folder), "steps": 1, "device": "cpu"},
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    assert run(capsys, "train", file)[0] == 0

    (folder / "report.html").unlink()
    code, loaded, out, err = apart("train", file)
    assert (code, loaded) == (0, False)
    assert err == f"{folder} is finished: 1 of 1 steps\n"
    assert out == f"report: {folder / 'report.html'}"
    assert (folder / "report.html").is_file()

    code, loaded, _, err = apart("train", file, "optim.lr=0.5")
    assert (code, loaded) == (1, False)
    assert "holds a run of another recipe (optim.lr: " in err

    (folder / "summary.json").rename(folder / "put-by.json")
    code, loaded, _, err = apart("train", file, "run.steps=2")
    assert (code, loaded) == (1, False), "of a run that is not finished as well"
    assert "holds a run of another recipe (run.steps: 1 -> 2)" in err
    (folder / "put-by.json").rename(folder / "summary.json")

    write(held, 2, "where")
    code, _, _, err = apart("train", file)
    assert code == 1
    assert "holds a run of other data (eval.data.0" in err, "what is finished was made of other rows"


def test_headings_of_words_stand_above_them_on_the_previews_page(capsys, tmp_path):
    out = tmp_path / "x.html"
    assert run(capsys, "data", "preview", "the_cauldron", "--fixture", "--out", out)[0] == 0
    head, *lines = out.read_text().partition("<table>")[2].partition("</table>")[0].split("</tr>")[:-1]
    titles = "".join(f'<th class="words">{one}</th>' for one in ("column", "type", "first value"))
    assert head == f"<tr>{titles}"
    assert [line.count('<td class="words">') for line in lines] == [3] * len(lines)


def test_the_previews_page_of_one_row(capsys, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"prompt": "What?", "completion": "That."}\n')
    out = tmp_path / "x.html"
    assert run(capsys, "data", "preview", tmp_path / "one.jsonl", "--out", out)[0] == 0
    assert "<dt>rows</dt><dd>1</dd>" in out.read_text()


BAD = [
    (("train", "nowhere.yaml"), "no such recipe"),
    (("describe", "no/such-model"), "the Hub did not give it"),
    (("describe", "./nothing"), "no such folder"),
    (("generate", "{tiny}", "--prompt", "x", "--image", "none.jpg"), "no such picture"),
    (("generate", "{tiny}", "--prompt", "x", "--image", "{cut}"), "damaged picture"),
    (("generate", "{tiny}", "--prompt", "{long}"), None),
    (("generate", "{tiny}", "--prompt", "x", "--device", "cuda"), "no such device here"),
    (("score", "{tiny}", "nowhere.jsonl"), "no such file or source"),
    (("report", "{tmp}"), "holds no run"),
    (("describe", "foo/bar."), "the Hub did not give it"),
    (("describe", "{tmp}"), "missing file"),
    (("describe", "{cut}"), "a file that is no model"),
    (("describe", "{broken}"), "not a readable tokenizer"),
    (("describe", "{gguf}"), "not a readable GGUF"),
    (("generate", "{tiny}", "--prompt", "\ud83d"), "not Unicode"),
    (("generate", "{tiny}", "--prompt", "x", "--device", "cpu:x"), "no such device here"),
    (("generate", "{tiny}", "--prompt", "x", "--max-new-tokens", "5000"), "shorten the answers or the new tokens"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(a)[:30] for a, _ in BAD])
def test_bad_input_is_one_line(capsys, tiny, tmp_path, arguments, words):
    Image.new("RGB", (300, 300), "red").save(tmp_path / "whole.jpg", quality=95)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((tiny / "config.json").read_bytes())
    (broken / "tokenizer.json").write_text("{}")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF cut")
    values = {
        "broken": broken,
        "gguf": tmp_path / "bad.gguf",
        "tiny": tiny,
        "cut": tmp_path / "cut.jpg",
        "tmp": tmp_path,
        "long": "word " * 9000,
    }
    code, _, err = run(capsys, *(a.format(**values) for a in arguments))
    if words is None:  # cut to fit, answered, and said so
        assert code == 0
        assert "the prompt was too long: prompt text cut" in err
        return
    assert code == 1
    assert words in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_misspelt_key_names_its_neighbour(capsys, tmp_path):
    (tmp_path / "r.yaml").write_text("model: {name: x}\ndata: [{source: scenes}]\nrun: {dir: r, stpes: 3}\n")
    code, _, err = run(capsys, "train", tmp_path / "r.yaml")
    assert code == 1
    assert "unknown key run.stpes; did you mean steps?" in err


def test_debug_shows_the_traceback():
    from smolforge.errors import RecipeError

    with pytest.raises(RecipeError):
        main(["train", "nowhere.yaml", "--debug"])


def test_a_folder_that_transformers_saved(capsys, tiny, tmp_path):
    """transformers 5 writes the picture rules inside processor_config.json."""
    import shutil

    from transformers import Idefics3Processor

    shutil.copytree(tiny, tmp_path / "saved")
    (tmp_path / "saved" / "preprocessor_config.json").unlink()
    Idefics3Processor.from_pretrained(tiny).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "preprocessor_config.json").exists()
    code, out, _ = run(capsys, "describe", tmp_path / "saved")
    assert code == 0
    assert "9 tokens a tile of 96 x 96" in out


def test_rows_named_with_brackets_are_shown_whole(tmp_path, capsys):
    from smolforge.training.tracking import Tracking

    Tracking(tmp_path, steps=1, first=0, speak=True).say("rows.jsonl[cat]: [/data/a.jpg] is missing")
    assert "rows.jsonl[cat]: [/data/a.jpg] is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "train r.yaml run.steps=3 --tiny --set run.log_every=1",
        "train r.yaml --tiny run.steps=3 --set run.log_every=1",
        "train --tiny r.yaml --set run.steps=3 --set run.log_every=1",
        "check r.yaml --sample 5 run.steps=3 run.log_every=1",
        "estimate r.yaml --gpu L4 run.steps=3 --set run.log_every=1",
        "data prepare r.yaml out --rows 3 run.steps=3 run.log_every=1",
        "data dedupe r.yaml --distance 4 run.steps=3 run.log_every=1",
    ],
)
def test_settings_stand_anywhere_behind_the_recipe(words):
    assert sorted(parse(build_parser(), words.split()).overrides) == ["run.log_every=1", "run.steps=3"]


@pytest.mark.parametrize("words", ["train r.yaml --tiny oops", "train r.yaml --stpes=3", "doctor run.steps=3"])
def test_other_words_are_still_refused(words, capsys):
    with pytest.raises(SystemExit):
        parse(build_parser(), words.split())
    assert "unrecognized arguments" in capsys.readouterr().err
