"""smolforge: small vision-language models of the SmolVLM family, on token trees.

The verbs of the command line as functions; each imports what it needs when it is called.

    import smolforge

    model = smolforge.load("HuggingFaceTB/SmolVLM-256M-Instruct")
    answer = smolforge.generate(model, "What is in the picture?", images=["cat.jpg"])
    print(answer.text)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolforge.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from smolforge.building import Built
    from smolforge.checking import Check
    from smolforge.description import Description
    from smolforge.estimating import Estimate
    from smolforge.evals.results import Task
    from smolforge.exporting import Exported
    from smolforge.generation import Answer
    from smolforge.loading import Loaded
    from smolforge.merging import Merged
    from smolforge.publishing.push import Pushed
    from smolforge.recipe import ImagesSection, Recipe

__version__ = "0.1.0"
__all__ = [
    "UserError", "build", "check", "describe", "estimate", "evaluate", "export", "generate", "load", "merge", "push", "score",
    "train",
]  # fmt: skip


def build(
    out: str | Path,
    *,
    vision: str | None = None,
    text: str | None = None,
    preset: str | None = None,
    dtype: str = "float32",
    seed: int = 0,
    **changes: Any,
) -> Built:
    """Put a SmolVLM together from a SigLIP and a SmolLM2, as a folder in Hugging Face's format.

    Args:
        vision: SigLIP by folder or Hub name; fresh weights of the preset's shape when left out.
        text: SmolLM2 by folder, Hub name or .gguf file; fresh weights when left out.
        preset: shapes that the parts must have, such as smolvlm2-256m; the parts' own when left out.
        changes: image_size (pixels), shuffle (factor), longest_edge (pixels), rope_base, context (positions), model_type.

    Raises:
        UserError: the parts do not fit together; the message has the numbers.
    """
    from smolforge.building import Changes
    from smolforge.building import build as build_

    return build_(Path(out), vision=vision, text=text, preset=preset, changes=Changes(**changes), dtype=dtype, seed=seed)


def load(
    name: str,
    *,
    dtype: str | None = None,
    device: str = "auto",
    images: ImagesSection | None = None,
    revision: str | None = None,
    adapter: str | None = None,
) -> Loaded:
    """Load a model by folder, run folder, .gguf file or Hub name.

    Args:
        dtype: "float32" or "bfloat16"; float32 on a CPU, bfloat16 on CUDA when left out.
        device: "auto", "cpu", "cuda" or "mps".
        images: changes of the checkpoint's own picture rules.
        adapter: run, folder or Hub name of adapters to put on it.

    Raises:
        UserError: it cannot be loaded; the message says what to change.
    """
    from smolforge.loading import load as load_

    return load_(name, dtype=dtype, device=device, images=images, revision=revision, adapter=adapter)


def generate(
    model: Loaded | str,
    prompt: str,
    *,
    images: Sequence[str | Path | bytes | Image] = (),
    videos: Sequence[str | Path | bytes] = (),
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
) -> Answer:
    """Answer a prompt about pictures and videos, or about nothing but itself.

    Args:
        model: from `load`, or a name to load.
        images: paths, addresses, encoded bytes or PIL pictures; they stand before the prompt.
        videos: files, folders of frames or encoded bytes; they stand between pictures and prompt.
        temperature: 0 takes the likeliest token; 1 draws from the model's own distribution.

    Raises:
        UserError: the model or a picture cannot be read, or the prompt is too long.
    """
    from smolforge.data.pipeline import prepare
    from smolforge.generation import Sampling
    from smolforge.generation import generate as generate_
    from smolforge.records import Media, Message, Part, Record, Video

    loaded = load(model) if isinstance(model, str) else model
    pictures = [Media(ref=Path(i) if isinstance(i, str) and "://" not in i and not i.startswith("data:") else i) for i in images]
    films = [Video(ref=Path(video) if isinstance(video, str) else video) for video in videos]
    content: tuple[Part, ...] = (*pictures, *films, prompt)
    record = Record(id="0", source="prompt", messages=(Message(role="user", content=content),), responses=())
    example = prepare(record, loaded.renderer, reserve=max_new_tokens)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    return generate_(loaded.model, loaded.renderer, [example], sampling)[0]


def score(model: Loaded | str, data: str, *, split: str = "train", prompt: str | None = None) -> Iterator[dict[str, Any]]:
    """How likely a model finds each response of each record.

    Args:
        data: a file, folder, source name or Hub name, as in a recipe.
        prompt: instruction for rows that bring none (picture + caption).

    Yields:
        {"id": .., "responses": [{"kind": .., "logprob": sum in nats, "tokens": n}, ..]} or {"id": .., "error": ..}.

    Raises:
        UserError: the model or the data cannot be opened.
    """
    from smolforge.data.sources.tables import open_source
    from smolforge.recipe import DataSection
    from smolforge.scoring import score as score_

    source = open_source(DataSection(source=data, split=split, prompt=prompt))
    return score_(load(model) if isinstance(model, str) else model, source)


def evaluate(
    model: Loaded | str,
    tasks: str | Sequence[str],
    data: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path,
    prompts: str | Sequence[str] = "lmms-eval",
    split: str = "train",
    limit: int | None = None,
    fixture: bool = False,
    adapter: str | None = None,
    reference: Loaded | str | None = None,
    judge: str | None = None,
    dtype: str | None = None,
    device: str = "auto",
) -> dict[str, Task]:
    """Measure a model on benchmarks. Answers are kept, so that a run that was stopped goes on where it was.

    Args:
        tasks: names such as "pope" or "preference"; `smolforge.evals.names.TASKS` lists them.
        data: folder or file with a benchmark's rows, of several tasks a folder with one named like each; pairs of the task
            preference by file, folder, source or Hub name. Nothing asks the Hub.
        out: folder for results.json, predictions and small pictures.
        prompts: "lmms-eval", "vlmevalkit" or both: scores differ between them.
        split: of preference pairs.
        limit: most questions a task, a fixed random sample of all; of preference pairs the first of a shuffled order, a source.
        fixture: a few drawn rows instead of the benchmark's own, to try a task.
        adapter: run or folder of adapters to put on the model.
        reference: what implicit rewards are measured against; the base model of adapters when left out.
        judge: model that rates answers, for mmhal.

    Returns:
        {"pope.lmms-eval": Task, ..}: scores with 95 % bootstrap intervals, what was skipped, notes.

    Raises:
        UserError: a model or the data cannot be used; the message says what to change.
    """
    from smolforge.evals.evaluate import Wanted, check
    from smolforge.evals.evaluate import evaluate as evaluate_

    listed = [data] if isinstance(data, str | Path) else data
    wanted = Wanted(
        tasks=(tasks,) if isinstance(tasks, str) else tuple(tasks), data=tuple(map(str, listed)), split=split, limit=limit,
        prompts=(prompts,) if isinstance(prompts, str) else tuple(prompts), fixture=fixture,  # type: ignore[arg-type]
    )  # fmt: skip
    check(wanted)
    if adapter is not None and not isinstance(model, str):
        raise UserError(
            "an adapter for a model that is loaded already",
            where=adapter,
            mend="give the model by name, or load(..., adapter=..)",
        )
    name = model if isinstance(model, str) else str(model.folder)
    loaded = load(model, dtype=dtype, device=device, adapter=adapter) if isinstance(model, str) else model
    other = load(reference, dtype=dtype, device=device) if isinstance(reference, str) else reference
    rater = (judge, load(judge, dtype=dtype, device=device)) if judge else None
    name = f"{name} + {adapter}" if adapter else name
    done = evaluate_(name, loaded, wanted, Path(out), reference=other, judge=rater)
    return {task.key: task for task in done}


def train(recipe: Recipe | str | Path, *overrides: str) -> Path:
    """Run a recipe, or go on with it; returns the run's folder, whose `model` is the result.

    Args:
        recipe: a file, or a built `Recipe`.
        overrides: "key=value" strings such as "run.steps=100", for a file.

    Raises:
        UserError: what stopped it; the last checkpoint stays.
    """
    from smolforge.recipe import Recipe, load_recipe
    from smolforge.training.loop import train as train_

    if isinstance(recipe, Recipe) and overrides:
        raise UserError("overrides are for recipe files", mend="build the Recipe with these settings")
    return train_(recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides))


def check(recipe: Recipe | str | Path, *, sample: int = 200) -> Check:
    """What a recipe's data will do to its run; reads no weights.

    Args:
        recipe: file, or built `Recipe`.
        sample: rows of each source that are looked at.

    Raises:
        UserError: the recipe's tokenizer or a source cannot be opened.
    """
    from smolforge.checking import check as check_
    from smolforge.recipe import Recipe, load_recipe

    return check_(recipe if isinstance(recipe, Recipe) else load_recipe(recipe), sample=sample)


def merge(run: str, out: str | Path, *, dtype: str | None = None) -> Merged:
    """Adapters into the weights of their base model: a whole model in Hugging Face's format.

    Args:
        run: run folder, folder of adapters or Hub name.
        dtype: of the saved weights; the base model's when left out.

    Returns:
        Where it is, and by how much log-probs on a text and a picture changed.

    Raises:
        UserError: no adapters, a folder that is not empty, or a merged model that says something else.
    """
    from smolforge.merging import merge_run

    return merge_run(str(run), Path(out), dtype=dtype)


def estimate(recipe: Recipe | str | Path, *, gpu: str | None = None) -> Estimate:
    """Memory by part and time of a recipe's step, before it runs. Reads no weights.

    Args:
        recipe: file, or built `Recipe`.
        gpu: a GPU by name, such as L4 or RTX 3060; where the recipe would run on this machine when left out.

    Raises:
        UserError: no such GPU, no such model, or a recipe that does not fit it.
    """
    from smolforge.estimating import estimate as estimate_
    from smolforge.recipe import Recipe, load_recipe

    return estimate_(recipe if isinstance(recipe, Recipe) else load_recipe(recipe), gpu=gpu)


def export(model: str, out: str | Path, *, to: str, dtype: str | None = None) -> Exported:
    """A model for llama.cpp, ONNX Runtime or MLX, asked there before it is kept.

    Args:
        model: folder, run, .gguf file or Hub name; adapters are merged.
        to: gguf, onnx or mlx.
        dtype: of the weights in the files; float16 for gguf, float32 for onnx, bfloat16 for mlx when left out.

    Returns:
        Where it is, and how far its log-probs and greedy tokens are from smolforge's.

    Raises:
        UserError: what the target cannot hold faithfully, a missing run-time, or a result that says something else.
    """
    from smolforge.exporting import export as export_

    return export_(str(model), Path(out), to=to, dtype=dtype)


def push(
    model: str,
    repo: str,
    *,
    dry_run: bool = False,
    private: bool = False,
    license: str | None = None,
    base: str | None = None,
    out: Path | None = None,
) -> Pushed:
    """A model to the Hugging Face Hub, with a card written from its run; files and card in one commit.

    Args:
        model: folder of a finished run, of a model or of adapters.
        repo: owner/name on the Hub.
        dry_run: write the card and list the files only; no network, no token.
        private: of a repository that is made by this push; one that exists must be private already.
        license: identifier such as apache-2.0.
        base: name of the base model on the Hub, where the run knows it as a folder.
        out: folder of the card, or a file *.md; RUN/hub, or hub/NAME of a model that is no run's, when left out.

    Raises:
        UserError: a run that is not finished, files that cannot be published, or what the Hub refused.
    """
    from smolforge.publishing.push import push as push_

    return push_(model, repo, dry_run=dry_run, private=private, license=license, base=base, out=out)


def describe(name: str, *, recipe: Recipe | str | Path | None = None) -> Description:
    """Components, parameter counts, image tokens and special tokens of a model or preset; reads no weights.

    Args:
        recipe: file, or built `Recipe`, whose adapters or frozen parts decide what counts as trainable.

    Raises:
        UserError: not a model of the family, or a recipe that does not fit it.
    """
    from smolforge.description import describe as describe_
    from smolforge.recipe import Recipe, load_recipe

    return describe_(name, recipe=recipe if recipe is None or isinstance(recipe, Recipe) else load_recipe(recipe))
