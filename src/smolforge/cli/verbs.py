"""What each verb does: call the library, print what came of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from smolforge.errors import UserError
from smolforge.wording import how_many

if TYPE_CHECKING:
    from smolforge.loading import Loaded
    from smolforge.recipe import Recipe


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
    if options.tiny:
        from smolforge.tiny import shrink

        recipe = shrink(options.recipe, options.overrides)
        print("tiny: the same run with a model of a million parameters, on a few drawn rows of each source", file=sys.stderr)
    from smolforge.report import write_report
    from smolforge.training.place import claim, finished

    first = os.environ.get("RANK", "0") == "0"  # of several processes the first one speaks
    claim(recipe)
    if line := finished(recipe):
        if first:
            print(line, file=sys.stderr)
    else:
        print(f"loading {recipe.model.name}", file=sys.stderr)
        from smolforge.training.loop import train

        train(recipe)
    if first:
        print(f"report: {write_report(recipe.run.dir)}")
    return 0


def generate(options: argparse.Namespace) -> int:
    import smolforge
    from smolforge.hub import folder_here
    from smolforge.recipe import ImagesSection

    folder_here(options.model)  # before torch is imported: a misspelt folder answers at once
    images = ImagesSection(longest_edge=options.longest_edge)
    model = smolforge.load(options.model, dtype=options.dtype, device=options.device, images=images)
    _tell(model)
    answer = smolforge.generate(
        model, options.prompt, images=options.image, videos=options.video, max_new_tokens=options.max_new_tokens,
        temperature=options.temperature, top_p=options.top_p, top_k=options.top_k, seed=options.seed,
    )  # fmt: skip
    for change in answer.changes:
        print(f"smolforge: the prompt was too long: {change}", file=sys.stderr)
    result = {"text": answer.text, "tokens": answer.tokens, "finished": answer.finished}
    print(json.dumps(result, ensure_ascii=False) if options.json else answer.text)
    return 0


def _tell(model: Loaded) -> None:
    for note in model.notes:
        print(f"smolforge: {note}", file=sys.stderr)


def score(options: argparse.Namespace) -> int:
    import smolforge
    from smolforge.folders import claim_file
    from smolforge.hub import folder_here

    folder_here(options.model)
    if options.out and not (options.out.is_char_device() or options.out.is_fifo()):
        claim_file(options.out, "list of scores", _is_scores)
    model = smolforge.load(options.model, dtype=options.dtype, device=options.device)
    _tell(model)
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
        said = "gave up tiles or text to fit; their lines say what"
        print(f"smolforge: {how_many(changed, 'record')} {said}", file=sys.stderr)
    if failed:
        print(f"smolforge: {failed} of {how_many(total, 'record')} could not be scored; their lines say why", file=sys.stderr)
    return int(failed == total > 0)


def _is_scores(file: Path) -> bool:
    """Whether `score` wrote a file, by its first line; an empty one is what is left where no record could be scored."""
    with file.open("rb") as lines:
        first = lines.readline()
    try:
        line = json.loads(first or b'{"id": "", "error": ""}')
    except ValueError:  # no JSON, or no text
        return False
    return isinstance(line, dict) and line.keys() <= {"id", "responses", "changes", "error"} and len(line) > 1


def compare(options: argparse.Namespace) -> int:
    from smolforge.report import compare_folders, comparison_lines, write_comparison
    from smolforge.report.page import claim_page

    out = options.out or options.after / "comparison.html"
    if options.out or options.after.is_dir():  # a misspelt folder is not made
        claim_page(out)
    compared = compare_folders(options.before, options.after)
    for line in comparison_lines(compared):
        print(line)
    print(f"page: {write_comparison(options.before, options.after, out, compared=compared)}")
    return 0


def merge(options: argparse.Namespace) -> int:
    import smolforge

    merged = smolforge.merge(options.run_folder, options.out, dtype=options.dtype)
    where = " and ".join(merged.prompts)
    print(f"merging changed no log-prob on {where} by more than {merged.difference:.1e} nats (float32)")
    if merged.dtype != "float32":
        print(f"saved in {merged.dtype}: {merged.saved:.2g} nats from float32, where the model with adapters is {merged.own:.2g}")
    if merged.quantized:
        print(
            f"merged into the full-precision weights; beside the {merged.quantized} ones of the training the adapters were up to "
            f"{merged.trained:.2g} nats from this"
        )
    print(f"model: {merged.folder}")
    return 0


def estimate(options: argparse.Namespace) -> int:
    from smolforge.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    if options.devices:
        return _estimate_many(options, recipe)
    import smolforge
    from smolforge.estimating.tables import lines

    if options.compare:
        return _compare_methods(options, recipe)
    print("\n".join(lines(smolforge.estimate(recipe, gpu=options.gpu), steps=recipe.run.steps)))
    return 0


def _compare_methods(options: argparse.Namespace, recipe: Recipe) -> int:
    """Real shapes take minutes, so each method's line is printed when it is known."""
    from rich.console import Console

    from smolforge.estimating.comparing import compare
    from smolforge.estimating.tables import TABLE_HEAD, lines, table_line

    waiting = Console(stderr=True).status("")  # on a terminal alone, and gone before a line is printed

    def say(name: str) -> None:
        waiting.update(f"rehearsing {name}")
        waiting.start()

    try:
        for number, one in enumerate(compare(recipe, gpu=options.gpu, say=say)):
            waiting.stop()
            if number == 0:
                assert one.estimate is not None, "what refuses the recipe itself raises"
                print("\n".join([*lines(one.estimate, steps=recipe.run.steps), "", TABLE_HEAD]))
            print(table_line(one), flush=True)
    finally:
        waiting.stop()
    return 0


def _estimate_many(options: argparse.Namespace, recipe: Recipe) -> int:
    if options.gpu is None or options.compare:
        raise UserError(
            "many devices are estimated for a GPU and one method", where="--devices", mend="give --gpu, leave --compare out"
        )
    from smolforge.estimating.scaling import scale
    from smolforge.estimating.tables import scaling_lines

    made = scale(
        recipe, gpu=options.gpu, devices=options.devices, per_node=options.per_node, sharding=options.sharding,
        network=options.network,
    )  # fmt: skip
    print("\n".join(scaling_lines(made)))
    return 0


def export(options: argparse.Namespace) -> int:
    import smolforge

    done = smolforge.export(options.model, options.out, to=options.to, dtype=options.dtype)
    asked, same = " and ".join(done.prompts), "equal" if done.greedy else "differ"
    print(f"{asked}: {done.difference:.2g} nats from smolforge at most ({done.dtype} alone costs {done.own:.2g})")
    print(f"greedy tokens {same}")
    for note in done.notes:
        print(f"note: {note}")
    print(f"model: {done.folder} ({sum(done.files.values()) / 2**20:.1f} MiB)")
    return 0


def push(options: argparse.Namespace) -> int:
    import smolforge
    from smolforge.publishing.contents import listing

    pushed = smolforge.push(
        options.model, options.repo, dry_run=options.dry_run, private=options.private, license=options.license, base=options.base,
        out=options.out,
    )  # fmt: skip
    for line in [*listing(pushed.files), *(f"stays here: {name}" for name in pushed.left_out), f"card: {pushed.card}"]:
        print(line)
    print(f"pushed: {pushed.url}" if pushed.url else f"nothing was pushed to {pushed.repo}: a dry run")
    return 0


def describe(options: argparse.Namespace) -> int:
    import smolforge
    from smolforge.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.set) if options.recipe else None
    if options.set and recipe is None:
        raise UserError("settings and no recipe", where="--set", mend="give --recipe too")
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
    if about.modules:
        print(f"\nadapters in {how_many(len(about.modules), 'layer')}:")
        for pattern, count in about.layers.items():
            print(f"  {count:>4}  {pattern}")
    for line in about.warnings:
        print(f"warning: {line}")
    print(f"\ncontext          {about.context:,} tokens\nvocabulary       {about.vocabulary:,}")
    if about.image_tokens:
        print(f"image            {how_many(about.image_tokens, 'token')} a tile of {about.tile} x {about.tile} pixels")
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
