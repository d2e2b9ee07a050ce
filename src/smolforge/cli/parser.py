"""All verbs with their options and examples."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from smolforge.cli.building import add as add_build
from smolforge.cli.checking import add as add_check
from smolforge.cli.data import add as add_data
from smolforge.cli.evaluating import evaluate
from smolforge.cli.settings import add_settings
from smolforge.cli.verbs import (
    compare,
    describe,
    doctor,
    estimate,
    export,
    generate,
    merge,
    push,
    quickstart,
    report,
    score,
    train,
)
from smolforge.evals.names import METRICS, TASKS


def build_parser() -> argparse.ArgumentParser:
    """All verbs with their options and examples."""
    from smolforge import __version__

    parser = argparse.ArgumentParser(
        prog="smolforge",
        description="Assemble, train, measure and run small vision-language models of the SmolVLM family.",
    )
    parser.add_argument("--version", action="version", version=f"smolforge {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    verb = _verb(
        verbs, quickstart, "train and align a tiny SmolVLM on drawn scenes, and show before, SFT and DPO", "smolforge quickstart"
    )
    verb.add_argument("--dir", type=Path, default=Path("runs/quickstart"), help="folder of the run (default: %(default)s)")
    verb.add_argument("--steps", type=_positive, default=240, help="steps of supervised training (default: %(default)s)")
    verb.add_argument("--dpo-steps", type=_positive, default=80, help="steps of preference training (default: %(default)s)")

    add_build(verbs, _verb)
    add_data(verbs, _verb)
    add_check(verbs, _verb)

    verb = _verb(
        verbs, train, "run a recipe, or go on with it",
        "smolforge train recipes/captions.yaml data.0.source=my_pictures eval.data.0.source=my_pictures",
        "smolforge train recipes/captions.yaml model.dtype=bfloat16 batch.row_tokens=4096 run.dir=runs/mine",
        "smolforge train recipes/smolvlm2-256m-vision.yaml --set run.steps=20 --tiny",
    )  # fmt: skip
    verb.add_argument("recipe", help="YAML file; recipes/ holds examples")
    add_settings(verb)
    verb.add_argument(
        "--tiny", action="store_true",
        help="try the recipe: a model of a million parameters on a few drawn rows of each source, 20 steps, in runs/tiny",
    )  # fmt: skip

    verb = _verb(
        verbs, generate, "answer a prompt about pictures, videos or text",
        'smolforge generate HuggingFaceTB/SmolVLM-256M-Instruct --image cat.jpg --prompt "What is this?"',
        'smolforge generate runs/captions --image a.jpg --image b.jpg --prompt "What changed?" --json',
        'smolforge generate HuggingFaceTB/SmolVLM2-256M-Video-Instruct --video cat.mp4 --prompt "What happens?"',
        'smolforge generate SmolLM2-135M-Instruct.gguf --prompt "What is the capital of France?"',
    )  # fmt: skip
    _model_options(verb)
    verb.add_argument("--prompt", required=True, help="the question or instruction")
    verb.add_argument("--image", action="append", default=[], metavar="PATH_OR_URL", help="a picture; give it again for more")
    verb.add_argument("--video", action="append", default=[], metavar="PATH", help="a video or folder of frames; again for more")
    verb.add_argument("--longest-edge", type=_positive, help="longest edge of a picture in pixels: smaller is faster")
    verb.add_argument("--max-new-tokens", type=_positive, default=64, help="longest answer (default: %(default)s)")
    verb.add_argument("--temperature", type=_not_negative, default=0.0, help="0 takes the likeliest token (default)")
    verb.add_argument("--top-p", type=_share, default=1.0, help="draw from the likeliest tokens with this probability together")
    verb.add_argument("--top-k", type=_whole, default=0, help="draw from the k likeliest tokens; 0 is all")
    verb.add_argument("--seed", type=_seed, default=0, help="of the draws")
    verb.add_argument("--json", action="store_true", help="print text, tokens and whether it finished, as JSON")

    verb = _verb(
        verbs, score, "how likely the model finds each response",
        "smolforge score runs/captions held_out.jsonl",
        "smolforge score HuggingFaceTB/SmolVLM-256M-Instruct pairs.jsonl --out scores.jsonl",
    )  # fmt: skip
    _model_options(verb)
    verb.add_argument("data", help="file, folder, source or Hub name with responses")
    verb.add_argument("--split", default="train", help="split and slice, such as test[:100]")
    verb.add_argument("--prompt", help="instruction for rows that bring none")
    verb.add_argument("--out", type=Path, help="write here instead of to the screen")

    verb = _verb(
        verbs, evaluate, "measure a model on benchmarks, or score a file of predictions",
        "smolforge evaluate runs/mine --tasks pope,chair --data benchmarks --before",
        "smolforge evaluate HuggingFaceTB/SmolVLM-256M-Instruct --tasks docvqa,textvqa --limit 500",
        "smolforge evaluate HuggingFaceTB/SmolVLM-256M-Instruct --adapter runs/lora --tasks chartqa --prompts vlmevalkit",
        "smolforge evaluate runs/dpo --tasks preference --data scene_pairs --split test[:200]",
        "smolforge evaluate predictions.jsonl --metrics cider,bleu",
    )  # fmt: skip
    _model_options(verb, "folder, run folder, .gguf file or Hub name; or a .jsonl file of predictions")
    verb.add_argument(
        "--tasks",
        type=_tasks,
        default=(),
        metavar="A,B,..",
        help=f"of {', '.join(TASKS)}; all is every one, with --fixture or --data",
    )
    verb.add_argument("--adapter", metavar="RUN", help="run or folder of adapters to put on the model")
    verb.add_argument(
        "--data", action="append", default=[], metavar="DIR",
        help="rows in the benchmark's schema (of several tasks a folder with one named like each), or pairs; default: the Hub",
    )  # fmt: skip
    verb.add_argument("--fixture", action="store_true", help="a few drawn rows instead, to try a task")
    verb.add_argument(
        "--prompts", type=_names, default=("lmms-eval",), metavar="SET",
        help="lmms-eval, vlmevalkit, or both as lmms-eval,vlmevalkit: scores differ between them (default: lmms-eval)",
    )  # fmt: skip
    verb.add_argument("--before", action="store_true", help="of a run: measure the model that it started from too")
    verb.add_argument("--limit", type=_positive, help="most questions a task, a fixed random sample of all")
    verb.add_argument("--split", help="of preference pairs, such as test[:100] (default: train)")
    verb.add_argument(
        "--reference", metavar="MODEL", help="what implicit rewards are measured against (default: the base of adapters)"
    )
    verb.add_argument("--judge", metavar="MODEL", help="model that rates the answers of mmhal")
    verb.add_argument("--metrics", type=_names, default=(), metavar="A,B,..", help=f"of predictions: {', '.join(METRICS)}")
    verb.add_argument("--references", type=Path, metavar="FILE", help="of predictions: the references, when they bring none")
    verb.add_argument(
        "--frequencies", type=Path, metavar="FILE", help="document frequencies for cider (default: the references')"
    )
    verb.add_argument("--clip", metavar="MODEL", help="a CLIP for clipscore, by folder or Hub name")
    verb.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of results; with --before for two below it (default: in the run, or evaluations/NAME; of predictions none)",
    )

    verb = _verb(
        verbs, compare, "two evaluations: what changed, and which answers got worse",
        "smolforge compare runs/mine/evaluation/before runs/mine/evaluation/after",
    )  # fmt: skip
    verb.add_argument("before", type=Path, help="folder of results")
    verb.add_argument("after", type=Path, help="folder of results on the same questions")
    verb.add_argument("--out", type=Path, metavar="FILE", help="the page (default: comparison.html in the second folder)")

    verb = _verb(
        verbs, merge, "a run's adapters into the weights of its base model, looked at before and after",
        "smolforge merge runs/lora merged", "smolforge merge runs/lora merged --dtype float32",
    )  # fmt: skip
    verb.add_argument("run_folder", metavar="RUN", help="run, folder or Hub name with adapters")
    verb.add_argument("out", type=Path, metavar="OUT", help="folder of the merged model")
    verb.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the saved weights (default: the base model's)")

    verb = _verb(
        verbs, estimate, "memory and time of a recipe before it runs; reads no weights",
        'smolforge estimate recipes/qlora-smolvlm.yaml --gpu "RTX 3060"', "smolforge estimate recipes/captions.yaml --compare",
        "smolforge estimate recipes/captions.yaml model.name=smolvlm-256m batch.row_tokens=2048",
        "smolforge estimate recipes/smolvlm2-256m-vision.yaml model.name=smolvlm2-256m --gpu A100-40GB --devices 64",
    )  # fmt: skip
    verb.add_argument("recipe", help="YAML file; its model may be a preset, such as smolvlm-256m")
    add_settings(verb)
    verb.add_argument("--gpu", metavar="NAME", help="a GPU by name, such as L4 or RTX 3060 (default: this machine)")
    verb.add_argument("--compare", action="store_true", help="all methods side by side, and the longest row that fits")
    verb.add_argument(
        "--devices", type=_positive, metavar="N", help="so many of these GPUs: memory a rank, time, communication, data"
    )
    verb.add_argument("--per-node", type=_positive, default=8, help="of --devices (default: %(default)s)")
    verb.add_argument("--sharding", choices=("ddp", "fsdp"), default="ddp", help="of --devices (default: %(default)s)")
    verb.add_argument(
        "--network", type=_above_zero, metavar="GBIT", help="of --devices: between nodes, Gbit/s (default: the card's)"
    )

    verb = _verb(
        verbs, export, "a model for llama.cpp, ONNX Runtime or MLX, asked there before it is kept",
        "smolforge export runs/mine out --to gguf", "smolforge export runs/mine out --to gguf --dtype q8_0",
        "smolforge export runs/mine out --to onnx", "smolforge export runs/mine out --to mlx --dtype 4bit",
    )  # fmt: skip
    verb.add_argument("model", metavar="MODEL", help="folder, run, .gguf file or Hub name; adapters are merged")
    verb.add_argument("out", type=Path, metavar="OUT", help="folder of the result")
    verb.add_argument("--to", required=True, choices=("gguf", "onnx", "mlx"), help="whose files")
    verb.add_argument(
        "--dtype", help="of the weights in the files (default: float16 for gguf, float32 for onnx, bfloat16 for mlx)"
    )

    verb = _verb(
        verbs, push, "a model to the Hugging Face Hub, with a card written from its run",
        "smolforge push runs/lora jo/pets-256m --dry-run", "smolforge push runs/lora jo/pets-256m --license apache-2.0 --private",
    )  # fmt: skip
    verb.add_argument("model", metavar="MODEL", help="folder of a finished run, of a model or of adapters")
    verb.add_argument("repo", metavar="REPO", help="owner/name on the Hub")
    verb.add_argument("--dry-run", action="store_true", help="write the card and list the files; no network, no token")
    verb.add_argument("--private", action="store_true", help="make a private repository")
    verb.add_argument("--license", metavar="ID", help="such as apache-2.0 (default: none is stated, and the card says so)")
    verb.add_argument("--base", metavar="OWNER/NAME", help="the base model on the Hub, where the run began from a folder")
    verb.add_argument(
        "--out", type=Path, metavar="DIR", help="of the card, or a file *.md (default: RUN/hub, of no run hub/NAME)"
    )

    verb = _verb(
        verbs, describe, "components, parameters, tokens; downloads no weights",
        "smolforge describe smolvlm-256m", "smolforge describe runs/captions --json",
        "smolforge describe smolvlm-instruct --recipe recipes/dpo-smolvlm.yaml",
        "smolforge describe smolvlm-256m --recipe recipes/captions.yaml --set adapters.method=ia3 freeze={}",
    )  # fmt: skip
    verb.add_argument(
        "model",
        nargs="?",
        help="folder, .gguf file, Hub name, or preset (smolvlm-instruct, smolvlm-256m, smolvlm-500m, smolvlm2-2.2b, ...)",
    )
    verb.add_argument("--recipe", metavar="FILE", help="what this recipe would train of it (default model: the recipe's)")
    verb.add_argument("--set", nargs="+", default=(), metavar="key=value", help="settings of the recipe to change")
    verb.add_argument("--json", action="store_true", help="as JSON")

    verb = _verb(
        verbs, report, "a run's page from its files, or several runs on one page",
        "smolforge report runs/quickstart", "smolforge report runs/a runs/b --out both.html",
    )  # fmt: skip
    verb.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    verb.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in the run, of several here)")

    _verb(verbs, doctor, "what this machine can do and what is missing", "smolforge doctor")
    return parser


def _verb(
    verbs: argparse._SubParsersAction, run: Callable, about: str, *examples: str, name: str | None = None
) -> argparse.ArgumentParser:
    """A verb called like its function, or `name`."""
    verb: argparse.ArgumentParser = verbs.add_parser(
        name or run.__name__, help=about, description=about[0].upper() + about[1:] + ".",
        epilog="examples:\n  " + "\n  ".join(examples), formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verb.set_defaults(run=run)
    return verb


def _model_options(verb: argparse.ArgumentParser, words: str = "folder, run folder, .gguf file or Hub name") -> None:
    verb.add_argument("model", help=words)
    verb.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: float32 on a CPU, bfloat16 on CUDA")
    verb.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: %(default)s)")


def _names(text: str) -> tuple[str, ...]:
    """
    >>> _names("pope, chair")
    ('pope', 'chair')
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _tasks(text: str) -> tuple[str, ...]:
    return tuple(task for name in _names(text) for task in (TASKS if name == "all" else (name,)))


def _number(kind: Callable[[str], float], fits: Callable[[float], bool], words: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {words}")
        return value

    return parse


_seed = _number(int, lambda x: 0 <= x < 2**63, "a whole number from 0 on")
_positive = _number(int, lambda x: x > 0, "a whole number above 0")
_whole = _number(int, lambda x: x >= 0, "a whole number from 0 on")
_not_negative = _number(float, lambda x: x >= 0, "a number from 0 on")
_above_zero = _number(float, lambda x: x > 0, "a number above 0")
_share = _number(float, lambda x: 0 < x <= 1, "a number above 0 and up to 1")
