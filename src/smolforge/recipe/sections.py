"""Sections about model, data, optimiser and run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from smolforge.recipe.base import Section

COMPONENTS = ("vision", "connector", "decoder")
MODALITIES = ("image", "multi_image", "video", "text")
Modality = Literal["image", "multi_image", "video", "text"]


class ModelSection(Section):
    name: str
    """Checkpoint to start from: a local folder, a Hub name, or a .gguf file of a SmolLM2."""
    revision: str | None = None
    """Branch, tag or commit on the Hub; the default branch when left out."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the forward and backward passes compute in. With bfloat16, what trains keeps float32 master weights."""
    neftune: float | None = Field(default=None, gt=0)
    """NEFTune (Jain et al. 2023): in training alone, noise of U(-1, 1) * neftune / sqrt(tokens * width) on the token embeddings.
    The paper used 5 to 15."""


Frozen = bool | Annotated[int, Field(gt=0)]


class FreezeSection(Section):
    vision: Frozen = False
    """Do not train the vision tower (SigLIP). A number: not before this step."""
    connector: Frozen = False
    """Do not train the projection between tower and decoder. A number: not before this step."""
    decoder: Frozen = False
    """Do not train the language model (embeddings, layers and head). A number: not before this step."""
    embeddings: bool = False
    """Do not train the token embeddings, and the head where it is tied to them."""
    decoder_layers: int = Field(default=0, ge=0)
    """Do not train the first so many layers of the language model."""

    @model_validator(mode="after")
    def _something_trains(self) -> FreezeSection:
        if all(getattr(self, part) for part in COMPONENTS):
            raise ValueError("everything is frozen at the start; leave one of vision, connector, decoder unfrozen")
        return self

    def until(self, part: str) -> int:
        """Step from which one of `COMPONENTS` trains: 0 from the start, -1 never."""
        frozen = getattr(self, part)
        return -int(frozen) if isinstance(frozen, bool) else frozen


class CacheSection(Section):
    dir: Path | None = None
    """Where features and reference log-probs are kept for all runs; ~/.cache/smolforge when left out."""
    features: bool = False
    """Keep pictures' features on the disk and encode each picture once. Needs a frozen vision tower."""
    max_gb: float = Field(default=20.0, gt=0)
    """Most space that the features of one model may take, in GB; the oldest go first."""


Prompts = str | Annotated[tuple[str, ...], Field(min_length=1)]


SPLIT = r"([\w.-]+(?:\+[\w.-]+)*)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?"  # names joined by +, and a slice: its beginning and end
SPLIT_MEND = "write train, train[:6%] or train[100:200]"


class DataSection(Section):
    source: str
    """A source by name (scenes, the_cauldron, coco_captions, smoltalk, rlaif_v, ...), a file (.jsonl, .json, .csv, .parquet),
    a folder of pictures or of a saved dataset, or a Hub dataset name."""
    name: str | tuple[str, ...] | None = None
    """Configuration of a Hub dataset that has several; a list of them, or `all`, one behind the other."""
    dir: Path | None = None
    """Folder that `smolforge data download` filled, instead of the Hub. Pictures and videos that rows name lie below it."""
    fixture: bool = False
    """A few drawn rows in a named source's real schema instead of its own, to try a recipe."""
    streaming: bool = False
    """Read a Hub dataset row by row while training instead of downloading it first. It then has no length and no slice."""
    modality: Modality | None = None
    """What its rows hold, for `mixture`; a named source knows it itself."""
    split: str = "train"
    """Split, with an optional slice: `train`, `train[:6%]`, `train[100:200]`, `train[-10%:]`."""
    weight: float | None = Field(default=None, gt=0)
    """Share of the mixture, relative to the other sources' weights (with `mixture`: to those of its modality). Left out
    everywhere: by number of rows."""
    prompt: Prompts | dict[Annotated[int, Field(ge=0)], Prompts] | None = None
    """Instruction for rows that bring none (picture + caption). Of a list one is drawn by the seed each time. A mapping is a
    curriculum: from each of its steps on another one."""
    exclude: tuple[Path, ...] = ()
    """Lists of rows to leave out, written by `smolforge data dedupe` and `smolforge data decontaminate`."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset."""
    max_chars: int | None = Field(default=None, gt=0)
    """Preference pairs with an answer longer than this, in characters, are left out."""
    max_length_ratio: float | None = Field(default=None, gt=1)
    """Preference pairs whose longer answer has more than so many times the characters of the shorter are left out."""

    @model_validator(mode="after")
    def _curriculum_begins(self) -> DataSection:
        if isinstance(self.prompt, dict) and 0 not in self.prompt:
            raise ValueError("a curriculum of prompts begins at step 0; give one for it")
        return self


class ImagesSection(Section):
    longest_edge: int | None = Field(default=None, gt=0)
    """Longest edge in pixels before tiling; the checkpoint's own value when left out. Smaller: fewer tiles, less detail."""
    random_edge: Annotated[dict[Annotated[int, Field(gt=0)], Annotated[float, Field(gt=0)]], Field(min_length=1)] | None = None
    """Longest edges with their shares, `{1024: 0.4, 2048: 0.6}`: one is drawn for each picture each time it comes up in training.
    Held-out pictures keep `longest_edge`, which none may exceed."""
    split: bool | None = None
    """Cut pictures into tiles beside the whole view; the checkpoint's own value when left out."""
    upscale: bool = True
    """Enlarge small pictures to `longest_edge` as the checkpoint's processor does. False saves their tiles."""
    max_pixels: int = Field(default=100_000_000, gt=0, le=178_956_970)  # Pillow refuses more by itself
    """Pictures with more pixels are refused (a guard against decompression bombs)."""
    max_tiles: int | None = Field(default=None, gt=0)
    """Examples whose pictures have more tiles, all together, are dropped and counted; no limit when left out. A picture of 2,048
    pixels has up to 17 at 512 a tile. Frames of videos do not count."""

    @model_validator(mode="after")
    def _edges_matter(self) -> ImagesSection:
        if self.random_edge and self.split is False:
            raise ValueError("random_edge varies the number of tiles, and with split: false there is one; leave one of them out")
        return self


class MixtureSection(Section):
    """Share of the examples by what they hold, relative to each other. Each source's weight then counts within its modality."""

    image: float = Field(default=0.0, ge=0)
    """Rows with one picture."""
    multi_image: float = Field(default=0.0, ge=0)
    """Rows with several pictures."""
    video: float = Field(default=0.0, ge=0)
    """Rows with a video."""
    text: float = Field(default=0.0, ge=0)
    """Rows of text alone."""


class VideoSection(Section):
    fps: float = Field(default=1.0, gt=0, le=1000)
    """Frames a second that are looked at, while they are no more than max_frames."""
    max_frames: int = Field(default=64, gt=0, le=999)
    """Most frames of a video."""
    longest_edge: int | None = Field(default=None, gt=0)
    """Longest edge in pixels that a frame is brought to before it becomes one square tile; the checkpoint's picture size when
    left out, as its own processor does. The tile's size is far faster."""
    backend: Literal["auto", "pyav", "torchcodec", "decord", "torchvision"] = "auto"
    """What decodes: auto is PyAV. Each gives the same frames, or an error that names PyAV."""
    style: Literal["smolvlm", "vlmevalkit"] = "smolvlm"
    """Words around the frames: as transformers' SmolVLM processor, or as VLMEvalKit."""
    cache: bool = False
    """Keep chosen frames on the disk, so that each video is decoded once for all epochs and runs."""


class RatesSection(Section):
    vision: float = Field(default=0.0, ge=0)
    """Learning rate of the vision tower."""
    connector: float = Field(default=0.0, ge=0)
    """Learning rate of the connector."""
    decoder: float = Field(default=0.0, ge=0)
    """Learning rate of the language model."""
    adapters: float | None = Field(default=None, ge=0)
    """Learning rate of adapters, wherever they stand; that of their part when left out."""


class OptimSection(Section):
    kind: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = "adamw"
    """AdamW; with moments in 8 bits (Dettmers et al. 2022); paged: moments move to the CPU's memory when the GPU's is full.
    Other kinds than adamw need bitsandbytes."""
    lr: Annotated[float, Field(ge=0)] | RatesSection = 2e-5
    """Peak learning rate: one number, or one for each of vision, connector, decoder and adapters."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up: to zero along a cosine or a line, or not at all."""
    warmup: float = Field(default=0.03, ge=0)
    """Below 1: share of all steps; from 1 on: number of steps over which the rate rises from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay (AdamW), on matrices only, not on norms and biases."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    eps: float = Field(default=1e-8, gt=0)
    """AdamW's term against division by zero."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest global norm of the gradient; null switches clipping off."""

    def rate(self, component: str, *, adapter: bool = False) -> float:
        """Peak learning rate of one of `COMPONENTS`, or of the adapters in it."""
        if isinstance(self.lr, float):
            return self.lr
        return self.lr.adapters if adapter and self.lr.adapters is not None else float(getattr(self.lr, component))


class BatchSection(Section):
    examples: int = Field(default=16, gt=0)
    """Examples (token trees) an optimiser step consumes, over all devices."""
    row_tokens: int = Field(default=8192, gt=0)
    """Tokens in one packed row, which is one forward pass. Halve it when memory runs out: the result stays the same."""


class EarlyStopping(Section):
    patience: int = Field(default=3, gt=0)
    """Evaluations without a better held-out loss before the run ends."""
    min_delta: float = Field(default=0.0, ge=0)
    """What counts as better: a loss lower by more than this."""


class EvalSection(Section):
    data: tuple[DataSection, ...] = ()
    """Held-out sources. Without them, before and after are measured on the first training examples, and marked so."""
    examples: int = Field(default=200, gt=0)
    """Largest number of held-out examples whose loss is measured."""
    samples: int = Field(default=8, ge=0)
    """Held-out examples that are answered before and after training, for the report."""
    max_new_tokens: int = Field(default=64, gt=0)
    """Longest answer of those, in tokens."""


class RunSection(Section):
    dir: Path
    """Where the run writes: checkpoints, logs, the final model, the report."""
    steps: int | None = Field(default=None, gt=0)
    """Optimiser steps."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the data instead of steps. Of several sources about so many: shares are exact to a row a source over each
    thousand examples, so that at the end of a pass a few rows came twice and as many not yet."""
    save_every: int = Field(default=100, gt=0)
    """Steps between checkpoints; the last step is always saved."""
    eval_every: int | None = Field(default=None, gt=0)
    """Steps between measurements of the held-out loss; only before and after when left out."""
    log_every: int = Field(default=1, gt=0)
    """Steps between lines of the log."""
    other_data: bool = False
    """Go on from a checkpoint although rows, lists of rows to leave out, or held-out rows are others than it saw."""
    keep_last: int = Field(default=2, gt=0)
    """Newest checkpoints kept."""
    keep_best: bool = True
    """Keep the checkpoint with the lowest held-out loss as well."""
    early_stopping: EarlyStopping | None = None
    """End when the held-out loss stops falling."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Decides the order of the data and every random draw."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes CUDA, then Apple's MPS, then the CPU."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: a third more time, far less memory."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Where curves go besides metrics.jsonl: any of accelerate's trackers (tensorboard, wandb, mlflow, ...)."""
    workers: int = Field(default=2, ge=0)
    """Processes that prepare the next steps' pictures, videos and tokens; 0: the training process does it itself."""

    @model_validator(mode="after")
    def _length_and_evaluations(self) -> RunSection:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        if self.early_stopping and not self.eval_every:
            raise ValueError("early_stopping compares held-out losses; set eval_every")
        return self
