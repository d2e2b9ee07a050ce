"""The command line: a thin layer over the library's verbs. Imports nothing heavy before a verb is chosen.

Exit codes: 0 done, 1 something the user can mend, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from smolforge.errors import UserError
from smolforge.evals.names import METRICS, TASKS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; errors a user can mend become one line on standard error."""
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options)
    except (UserError, OSError, KeyboardInterrupt) as error:
        if options.debug:
            raise
        kept = "; the answers so far are kept, the same command goes on" if options.run.__name__ == "evaluate" else ""
        print(f"smolforge: {_one_line(error)}{kept if isinstance(error, KeyboardInterrupt) else ''}", file=sys.stderr)
        return 1
    except RuntimeError as error:  # PyTorch's out-of-memory errors
        if options.debug or not re.search("out of memory|not enough memory|can't allocate memory", str(error)):
            raise
        mend = {"train": "halve batch.row_tokens, or set run.gradient_checkpointing: true"}.get(
            options.run.__name__, "use --dtype bfloat16, or close other programs"
        )
        print(f"smolforge: out of memory; {mend}", file=sys.stderr)
        return 1


def _one_line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, OSError):
        return " ".join(f"{error.filename or 'system'}: {error.strerror or error}".split())
    return str(error)


# --- verbs -----------------------------------------------------------------------------------------------------------


def quickstart(options: argparse.Namespace) -> int:
    print("a tiny SmolVLM learns to describe drawn scenes, then to prefer true captions; loading PyTorch", file=sys.stderr)
    from smolforge.quickstart import quickstart
    from smolforge.report import write_report

    metrics = quickstart(options.dir, steps=options.steps, dpo_steps=options.dpo_steps)
    page = write_report(options.dir)
    for stage, scores in metrics.items():
        known = {name: scores[name] for name in ("exact", "recall", "hallucination")}
        words = ", ".join(f"{name} {'–' if score is None else f'{score:.1%}'}" for name, score in known.items())
        print(f"{stage:>6}: {words}")
    print(f"report: {page}")
    return 0


def train(options: argparse.Namespace) -> int:
    from smolforge.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)  # before torch is imported: a misspelt key answers at once
    print(f"loading {recipe.model.name}", file=sys.stderr)
    from smolforge.report import write_report
    from smolforge.training.loop import train

    print(f"report: {write_report(train(recipe))}")
    return 0


def generate(options: argparse.Namespace) -> int:
    import smolforge
    from smolforge.recipe import ImagesSection

    images = ImagesSection(longest_edge=options.longest_edge)
    model = smolforge.load(options.model, dtype=options.dtype, device=options.device, images=images)
    answer = smolforge.generate(
        model, options.prompt, images=options.image, max_new_tokens=options.max_new_tokens, temperature=options.temperature,
        top_p=options.top_p, top_k=options.top_k, seed=options.seed,
    )  # fmt: skip
    for change in answer.changes:
        print(f"smolforge: the prompt was too long: {change}", file=sys.stderr)
    result = {"text": answer.text, "tokens": answer.tokens, "finished": answer.finished}
    print(json.dumps(result, ensure_ascii=False) if options.json else answer.text)
    return 0


def score(options: argparse.Namespace) -> int:
    import smolforge

    model = smolforge.load(options.model, dtype=options.dtype, device=options.device)
    results = smolforge.score(model, options.data, split=options.split, prompt=options.prompt)
    failed = changed = total = 0
    out = options.out.open("w", encoding="utf-8") if options.out else sys.stdout
    try:
        for result in results:
            total += 1
            failed += "error" in result
            changed += "changes" in result
            print(json.dumps(result), file=out, flush=True)
    finally:
        if options.out:
            out.close()
    if changed:
        print(f"smolforge: {changed} records gave up tiles or text to fit; their lines say what", file=sys.stderr)
    if failed:
        print(f"smolforge: {failed} of {total} records could not be scored; their lines say why", file=sys.stderr)
    return int(failed == total > 0)


def evaluate(options: argparse.Namespace) -> int:
    if Path(options.model).suffix in (".jsonl", ".json"):
        return _evaluate_predictions(options)
    _refuse(options, ("metrics", "references", "frequencies", "clip"), "is for a file of predictions")
    if unknown := [task for task in options.tasks if task not in TASKS]:  # before anything heavy is imported
        raise UserError(f"no task {', '.join(unknown)}", mend=f"tasks are {', '.join(TASKS)}")
    if not options.tasks:
        raise UserError("no task", where=options.model, mend="give --tasks pope,chair or others; --help lists them")
    if "preference" not in options.tasks:
        _refuse(options, ("reference", "split"), "is for the task preference")
    if "mmhal" not in options.tasks:
        _refuse(options, ("judge",), "is for the task mmhal")
    import smolforge
    from smolforge.report import table

    settings = dict(
        data=options.data, prompts=options.prompts, split=options.split or "train", limit=options.limit, fixture=options.fixture,
        judge=options.judge, dtype=options.dtype, device=options.device,
    )  # fmt: skip
    folder = _evaluation_folder(options)
    after = folder / "after" if options.before and options.out else folder
    stages = [(options.model, after, options.adapter)]
    if options.before:
        stages.insert(0, (_start_of(Path(options.model)), after.parent / "before", None))
    for model, out, adapter in stages:
        reference = options.reference if out == after else None
        tasks = smolforge.evaluate(model, options.tasks, out=out, adapter=adapter, reference=reference, **settings)
        print(table(f"{model} + {adapter}" if adapter else model, tasks.values()))
        print(f"results: {out}")
    return 0


def _refuse(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Options that would do nothing."""
    if given := [name for name in names if getattr(options, name)]:
        raise UserError(f"--{given[0]} {why}", where=options.model, mend="leave it out")


def _evaluation_folder(options: argparse.Namespace) -> Path:
    """Where results go: --out, or beside a run's model, or a folder named like the model."""
    run = Path(options.model)
    if options.out:
        return options.out
    if (run / "recipe.json").is_file():
        return run / "evaluation" / (f"after+{Path(options.adapter).name}" if options.adapter else "after")
    name = re.sub(r"[^\w.-]+", "-", str(options.model).rstrip("/")).strip("-.")
    return Path("evaluations") / (f"{name}+{Path(options.adapter).name}" if options.adapter else name)


def _start_of(run: Path) -> str:
    """The model that a run started from."""
    file = run / "recipe.json"
    if not file.is_file():
        raise UserError("no run, so nothing was before", where=run, mend="give a run's folder, or leave --before out")
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["model"]["name"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("does not say what the run started from", where=file, mend="leave --before out") from error


def _evaluate_predictions(options: argparse.Namespace) -> int:
    file = Path(options.model)
    if not file.is_file():
        raise UserError("no such file", where=file, mend="check the path")
    _refuse(
        options, ("tasks", "adapter", "data", "fixture", "before", "limit", "split", "reference", "judge", "dtype"),
        "is for a model, and this is a file of predictions",
    )  # fmt: skip
    if not options.metrics:
        raise UserError("predictions and no metric", where=file, mend="give --metrics cider,bleu or others")
    if "cider" not in options.metrics:
        _refuse(options, ("frequencies",), "is for cider")
    if "clipscore" not in options.metrics:
        _refuse(options, ("clip",), "is for clipscore")
    from smolforge.evals.predictions import score_predictions
    from smolforge.report import table

    task = score_predictions(
        file, options.metrics, references=options.references, out=options.out, frequencies=options.frequencies, clip=options.clip,
        device=options.device,
    )  # fmt: skip
    print(table(options.model, [task]))
    if options.out:
        print(f"results: {options.out}")
    return 0


def compare(options: argparse.Namespace) -> int:
    from smolforge.report import compare_folders, comparison_lines, write_comparison

    compared = compare_folders(options.before, options.after)
    for line in comparison_lines(compared):
        print(line)
    out = options.out or options.after / "comparison.html"
    print(f"page: {write_comparison(options.before, options.after, out, compared=compared)}")
    return 0


def merge(options: argparse.Namespace) -> int:
    import smolforge

    merged = smolforge.merge(options.run_folder, options.out, dtype=options.dtype)
    where = " and ".join(merged.prompts)
    print(f"merging changed no log-prob on {where} by more than {merged.difference:.1e} nats (float32)")
    if merged.dtype != "float32":
        print(f"saved in {merged.dtype}: {merged.saved:.2g} nats from float32, where the model with adapters is {merged.own:.2g}")
    print(f"model: {merged.folder}")
    return 0


def describe(options: argparse.Namespace) -> int:
    import smolforge
    from smolforge.recipe import load_recipe

    recipe = load_recipe(options.recipe) if options.recipe else None
    name = options.model or (recipe.model.name if recipe else None)
    if name is None:
        raise UserError("nothing to describe", mend="give a model, a recipe with --recipe, or both")
    about = smolforge.describe(name, recipe=recipe)
    if options.json:
        print(json.dumps(vars(about) | {"total": about.total, "trainable": about.trainable}))
        return 0
    print(f"{about.name} ({about.model_type})\n")
    print(f"{'component':<12}{'parameters':>16}{'trainable':>16}")
    for part, (total, trainable) in [*about.parameters.items(), ("total", (about.total, about.trainable))]:
        print(f"{part:<12}{total:>16,}{trainable:>16,}")
    if recipe:
        print(f"\n{about.share}")
    print(f"\ncontext          {about.context:,} tokens\nvocabulary       {about.vocabulary:,}")
    if about.image_tokens:
        print(f"image            {about.image_tokens} tokens a tile of {about.tile} x {about.tile} pixels")
    print(
        "special tokens   "
        + "\n                 ".join(f"{number:>6}  {token}" for token, number in about.special_tokens.items())
    )
    return 0


def report(options: argparse.Namespace) -> int:
    from smolforge.report import write_report

    print(write_report(*options.runs, out=options.out))
    return 0


def doctor(options: argparse.Namespace) -> int:
    from smolforge.doctor import examine

    failed = False
    for finding in examine():
        failed |= finding.state == "fail"
        print(f"{finding.state:<5} {finding.topic:<14} {finding.words}")
    return int(failed)


# --- parser ----------------------------------------------------------------------------------------------------------


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

    verb = _verb(
        verbs, train, "run a recipe, or go on with it",
        "smolforge train recipes/captions.yaml data.0.source=my_pictures",
        "smolforge train recipes/captions.yaml model.dtype=bfloat16 batch.row_tokens=4096 run.dir=runs/mine",
    )  # fmt: skip
    verb.add_argument("recipe", help="YAML file; recipes/ holds examples")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change, such as run.steps=100")

    verb = _verb(
        verbs, generate, "answer a prompt about pictures or text",
        'smolforge generate HuggingFaceTB/SmolVLM-256M-Instruct --image cat.jpg --prompt "What is this?"',
        'smolforge generate runs/captions --image a.jpg --image b.jpg --prompt "What changed?" --json',
        'smolforge generate SmolLM2-135M-Instruct.gguf --prompt "What is the capital of France?"',
    )  # fmt: skip
    _model_options(verb)
    verb.add_argument("--prompt", required=True, help="the question or instruction")
    verb.add_argument("--image", action="append", default=[], metavar="PATH_OR_URL", help="a picture; give it again for more")
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
        verbs, describe, "components, parameters, tokens; downloads no weights",
        "smolforge describe smolvlm-256m", "smolforge describe runs/captions --json",
        "smolforge describe smolvlm-instruct --recipe recipes/dpo-smolvlm.yaml",
    )  # fmt: skip
    verb.add_argument(
        "model",
        nargs="?",
        help="folder, .gguf file, Hub name, or preset (smolvlm-instruct, smolvlm-256m, smolvlm-500m, smolvlm2-2.2b, ...)",
    )
    verb.add_argument("--recipe", metavar="FILE", help="what this recipe would train of it (default model: the recipe's)")
    verb.add_argument("--json", action="store_true", help="as JSON")

    verb = _verb(
        verbs, report, "a run's page from its files, or several runs on one page",
        "smolforge report runs/quickstart", "smolforge report runs/a runs/b --out both.html",
    )  # fmt: skip
    verb.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    verb.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in the run, of several here)")

    _verb(verbs, doctor, "what this machine can do and what is missing", "smolforge doctor")
    return parser


def _verb(verbs: argparse._SubParsersAction, run: Callable, about: str, *examples: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(
        run.__name__, help=about, description=about[0].upper() + about[1:] + ".",
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
_share = _number(float, lambda x: 0 < x <= 1, "a number above 0 and up to 1")

if __name__ == "__main__":
    sys.exit(main())
