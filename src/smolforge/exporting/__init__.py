"""A model for other programs, and the proof that they say the same: llama.cpp's GGUF, ONNX for transformers.js, Apple's MLX.

Every target is written by one file here and asked through its own run-time by another; `agreement` compares the answers, and an
export that says something else is not kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smolforge.data.render import Renderer
from smolforge.errors import CheckpointError, ModelError, UserError
from smolforge.exporting import gguf, llama_cpp, mlx, onnx, onnx_runtime
from smolforge.exporting.agreement import Agreement, Ask, Question, agree, expect, questions
from smolforge.folders import refuse_others
from smolforge.hub import local_folder
from smolforge.loading import Loaded, base_folder, load, merge
from smolforge.model.tree import TreeModel
from smolforge.training.checkpoint import UNFINISHED, processor_files


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A model in another program's files, and how far that program is from smolforge.

    Distances are the largest of any token's log-prob after the prompts that were looked at and after each token of their answers,
    in nats.
    """

    folder: Path
    target: str
    dtype: str
    files: dict[str, int]  # bytes of each, by the path in the folder
    prompts: tuple[str, ...]  # what was looked at: a text, and a picture where the model sees
    difference: float  # of the program from smolforge in float32
    own: float  # of smolforge itself with weights of that dtype from itself in float32: what the dtype costs anyway
    greedy: bool  # the likeliest next token is the same one all along the answers
    notes: tuple[str, ...] = ()  # what a person should know of the program


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of files and the program that reads them."""

    program: str
    dtypes: tuple[str, ...]
    default: str
    needed: Callable[[bool], object]  # whether the model sees -> nothing, or ModelError
    write: Callable[[Path, Loaded, dict[str, bytes], str, str], None]  # a folder that is not there yet: .., dtype, name
    start: Callable[[Path, Renderer, str, int], Ask]  # the program, for prompts of so many tokens
    same: Callable[[TreeModel, str], TreeModel | None]  # smolforge's model with weights rounded as the program's are
    laid_out: Callable[[Renderer, Question], Question]  # a prompt as the program lays it out


def _start_llama_cpp(folder: Path, renderer: Renderer, dtype: str, places: int) -> Ask:
    vision = gguf.vision_file(folder, dtype) if renderer.images is not None else None
    program = llama_cpp.LlamaCpp(gguf.text_file(folder, dtype), vision, renderer, places=places)
    for question in questions(renderer):
        program.same_reading(question)
    return program


TARGETS = {
    "gguf": Target(
        program="llama.cpp", dtypes=tuple(gguf.DTYPES), default="float16", needed=lambda sees: llama_cpp.needed(),
        write=lambda folder, loaded, files, dtype, name: gguf.write_gguf(
            folder, loaded.model, loaded.renderer, files, name=name, dtype=dtype
        ),
        start=_start_llama_cpp, same=gguf.same_weights, laid_out=llama_cpp.laid_out,
    ),
    "onnx": Target(
        program="ONNX Runtime", dtypes=tuple(onnx.DTYPES), default="float32", needed=lambda sees: onnx.needed(),
        write=lambda folder, loaded, files, dtype, name: onnx.write_onnx(folder, loaded.model, files, dtype=dtype),
        start=lambda folder, renderer, dtype, places: onnx_runtime.OnnxRuntime(folder, renderer), same=onnx.same_weights,
        laid_out=lambda renderer, question: question,
    ),
    "mlx": Target(
        program="MLX", dtypes=tuple(mlx.BITS), default="bfloat16", needed=mlx.needed,
        write=lambda folder, loaded, files, dtype, name: mlx.write_mlx(folder, loaded.model, files, dtype=dtype),
        start=lambda folder, renderer, dtype, places: mlx.Mlx(folder, renderer), same=mlx.same_weights,
        laid_out=lambda renderer, question: question,
    ),
}  # fmt: skip


def export(model: str, out: Path, *, to: str, dtype: str | None = None) -> Exported:
    """Write a model for another program, run that program, and compare what it says with what smolforge says.

    Args:
        model: folder, run folder, .gguf file or Hub name; adapters are merged on the way.
        out: folder of the result.
        to: one of `TARGETS`.
        dtype: of the weights in the files, one of the target's; its default when left out.

    Raises:
        UserError: no such target or dtype.
        ModelError: a package is missing, or the program says something else; then nothing is kept.
        CheckpointError: `out` is not empty, or the disk is full or not writable.
    """
    if to not in TARGETS:
        raise UserError("no such target", where=to, mend=f"export to {', '.join(TARGETS)}")
    target = TARGETS[to]
    chosen = dtype or target.default
    if chosen not in target.dtypes:
        raise UserError(f"no dtype of {to}", where=chosen, mend=f"choose {', '.join(target.dtypes)}")
    refuse_others(out)
    target.needed(False)
    loaded = load(model, dtype="float32", device="cpu")
    target.needed(loaded.model.has_vision)
    files = processor_files(base_folder(local_folder(model)))
    plain = questions(loaded.renderer)
    asked = tuple(target.laid_out(loaded.renderer, question) for question in plain)
    expected = {question.name: expect(loaded.model, loaded.renderer, question) for question in asked}
    merge(loaded.model)  # after it answered: the comparison is with the model as it was trained
    draft = out.with_name(out.name + UNFINISHED)
    shutil.rmtree(draft, ignore_errors=True)
    try:
        target.write(draft, loaded, files, chosen, Path(model).name.removesuffix(".gguf"))
        program = target.start(draft, loaded.renderer, chosen, max(len(question.ids) for question in asked))
        found = agree(program, asked, expected, loaded.renderer, target.same(loaded.model, chosen))
        if not found.holds:
            _refuse(found, target.program, chosen, out)
        if out.exists():
            out.rmdir()
        draft.rename(out)
    except OSError as error:
        mend = "free some space or choose another folder"
        raise CheckpointError(f"cannot be written ({error})", where=out, mend=mend) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Exported(
        folder=out, target=to, dtype=chosen,
        files={str(path.relative_to(out)): path.stat().st_size for path in sorted(out.rglob("*")) if path.is_file()},
        prompts=found.prompts, difference=found.difference, own=found.own, greedy=found.greedy,
        notes=(*loaded.notes, *_notes(target.program, plain, asked)),
    )  # fmt: skip


def _refuse(found: Agreement, program: str, dtype: str, out: Path) -> None:
    raise ModelError(
        f"{program} says something else: {found.difference:.2g} nats from smolforge, where {dtype} alone costs {found.own:.2g}",
        where=out, mend="choose --dtype float32 or another target, and report it",
    )  # fmt: skip


def _notes(program: str, plain: tuple[Question, ...], asked: tuple[Question, ...]) -> list[str]:
    """Where the program lays a prompt out otherwise than the model was trained on."""
    why = "it adds the whole view to tiles, even to a single one; the numbers are for its layout"
    return [
        f"{program} lays {one.name} out in {len(other.ids)} tokens, the model was trained with {len(one.ids)}: {why}"
        for one, other in zip(plain, asked, strict=True)
        if one.ids.tolist() != other.ids.tolist()
    ]
