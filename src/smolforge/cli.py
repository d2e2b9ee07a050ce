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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; errors a user can mend become one line on standard error."""
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options)
    except (UserError, OSError, KeyboardInterrupt) as error:
        if options.debug:
            raise
        print(f"smolforge: {_one_line(error)}", file=sys.stderr)
        return 1
    except RuntimeError as error:  # PyTorch's out-of-memory errors
        if options.debug or not re.search("out of memory|not enough memory|can't allocate memory", str(error)):
            raise
        print("smolforge: out of memory; halve batch.row_tokens, or set run.gradient_checkpointing: true", file=sys.stderr)
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
        words = ", ".join(f"{name} {scores[name]:.1%}" for name in ("exact", "recall", "hallucination"))
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
    from smolforge.files import write_whole

    if options.out and options.out.parent != Path() and not options.out.parent.is_dir():
        raise UserError("no such folder", where=options.out.parent, mend="make it first")
    import smolforge
    from smolforge.objectives.comparison import lines

    result = smolforge.evaluate(
        options.model, options.data, split=options.split, reference=options.reference, limit=options.limit,
        dtype=options.dtype, device=options.device,
    )  # fmt: skip
    for note in result["notes"]:
        print(f"smolforge: {note}", file=sys.stderr)
    for line in lines(result["preference"]):
        print(line)
    if options.out:
        write_whole(options.out, json.dumps(result, indent=1) + "\n")
    return 0


def describe(options: argparse.Namespace) -> int:
    import smolforge

    about = smolforge.describe(options.model)
    if options.json:
        print(json.dumps(vars(about) | {"total": about.total, "trainable": about.trainable}))
        return 0
    print(f"{about.name} ({about.model_type})\n")
    print(f"{'component':<12}{'parameters':>16}{'trainable':>16}")
    for part, (total, trainable) in [*about.parameters.items(), ("total", (about.total, about.trainable))]:
        print(f"{part:<12}{total:>16,}{trainable:>16,}")
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

    for folder in options.runs:
        print(write_report(folder))
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
        verbs, evaluate, "measure a model: how often it prefers the chosen answer of a pair",
        "smolforge evaluate runs/dpo --task preference --data held_out.jsonl",
        "smolforge evaluate runs/sft --task preference --data pairs.jsonl --reference HuggingFaceTB/SmolVLM-256M-Instruct",
        "smolforge evaluate runs/dpo --task preference --data scene_pairs --split test[:200] --out results.json",
    )  # fmt: skip
    _model_options(verb)
    verb.add_argument("--task", choices=("preference",), required=True, help="preference: pairs of chosen and rejected answers")
    verb.add_argument(
        "--data", action="append", required=True, metavar="PAIRS", help="file, folder, source or Hub name; again for more"
    )
    verb.add_argument("--split", default="train", help="split and slice, such as test[:100] (default: %(default)s)")
    verb.add_argument(
        "--reference", metavar="MODEL", help="what implicit rewards are measured against (default: the base of adapters)"
    )
    verb.add_argument("--limit", type=_positive, help="most pairs of each source")
    verb.add_argument("--out", type=Path, metavar="FILE", help="write the table and every pair's log-probs as JSON")

    verb = _verb(
        verbs, describe, "components, parameters, tokens; downloads no weights",
        "smolforge describe smolvlm-256m", "smolforge describe runs/captions --json",
    )  # fmt: skip
    verb.add_argument(
        "model",
        help="folder, .gguf file, Hub name, or preset (smolvlm-instruct, smolvlm-256m, smolvlm-500m, smolvlm2-2.2b, ...)",
    )
    verb.add_argument("--json", action="store_true", help="as JSON")

    verb = _verb(verbs, report, "rebuild a run's page from its files", "smolforge report runs/quickstart")
    verb.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")

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


def _model_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", help="folder, run folder, .gguf file or Hub name")
    verb.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: float32 on a CPU, bfloat16 on CUDA")
    verb.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: %(default)s)")


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
