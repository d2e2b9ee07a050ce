"""Anybody's predictions in a file, scored like a benchmark's.

    {"id": 42, "prediction": "a cat on a bed", "references": ["A cat lies on a bed.", "A bed with a cat."]}

The prediction may be called `caption` or `answer`, the id `image_id` or `question_id`. References may stand in a file of their
own, with the same ids; both may be COCO's JSON, `[{"image_id": 42, "caption": "..."}]` and `{"annotations": [..]}`. CLIPScore
wants an `image`, CHAIR the photo's `objects`, which the references' objects are added to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolforge.data.media import open_picture
from smolforge.data.sources.shapes import media
from smolforge.errors import DataError
from smolforge.evals.measures import Measure, ratio, scores
from smolforge.evals.metrics.anls import anls
from smolforge.evals.metrics.captions import CAPTION_MEASURES, CAPTION_METRICS, caption_sums, missing
from smolforge.evals.metrics.cider import DocumentFrequencies
from smolforge.evals.metrics.objects import chair_measures, chair_sums
from smolforge.evals.metrics.relaxed import relaxed
from smolforge.evals.metrics.vqa import vqa_accuracy
from smolforge.evals.names import METRICS
from smolforge.evals.photos import object_names, truth
from smolforge.evals.reading import as_rows, read_json, read_rows
from smolforge.evals.results import Prediction, Task, measure_facts, write_task
from smolforge.records import fingerprint
from smolforge.wording import how_many

IDS = ("id", "image_id", "question_id")
WORDS = ("prediction", "caption", "answer", "text")
REFERENCES = ("references", "answers", "captions", "reference", "caption", "answer")
VQA_ANSWERS = 4  # with fewer, no answer can count as right: three others must agree with it
WITHOUT = ("clipscore", "chair")  # metrics that need no reference
CHUNK = 64  # pictures decoded at a time
MOST_NAMED = 3  # ids that an error names

# Of a prediction and its references: the share of right that one answer has.
ANSWER_METRICS: dict[str, tuple[str, Callable[[str, Sequence[str]], float]]] = {
    "anls": ("ANLS, as lmms-eval reads its threshold", lambda said, given: anls(said, given, keep_half=True)),
    "vqa": ("VQA accuracy over people's answers", vqa_accuracy),
    "relaxed": (
        "within 5 % of a reference, or the same words",
        lambda said, given: float(any(relaxed(said, one) for one in given)),
    ),
    "exact": ("equal to a reference but for case and ends", lambda said, given: float(_bare(said) in map(_bare, given))),
}
METRIC_MEASURES: dict[str, Measure] = {
    **CAPTION_MEASURES,
    "CLIPScore": Measure(
        about="2.5 times the cosine of picture and caption", of=ratio("clip", "clipped"), percent=False, needs="clip"
    ),
    "RefCLIPScore": Measure(
        about="harmonic mean of CLIPScore and the nearest reference's cosine",
        of=ratio("refclip", "clipped"),
        percent=False,
        needs="refclip",
    ),
    **chair_measures("predictions", needs="mentions"),
    **{name: Measure(about=about, of=ratio(name, "captions"), needs=name) for name, (about, _) in ANSWER_METRICS.items()},
    "length": Measure(about="words of a prediction", of=ratio("words", "captions"), better="", percent=False),
}


@dataclass(frozen=True, kw_only=True)
class Given:
    """A prediction with what it is compared to."""

    id: str
    text: str
    references: tuple[str, ...]
    row: dict[str, Any]  # as it stands in the file


def score_predictions(
    file: Path,
    metrics: Sequence[str],
    *,
    references: Path | None = None,
    out: Path | None = None,
    frequencies: Path | None = None,
    clip: str | None = None,
    device: str = "auto",
) -> Task:
    """Score a file of predictions.

    Args:
        metrics: of METRICS.
        references: file of references, where the predictions bring none.
        out: folder of results for `compare`; nothing is written without.
        frequencies: document frequencies for CIDEr, as `cider.DocumentFrequencies.read` takes them.
        clip: a CLIP by folder or Hub name, for CLIPScore.
        device: that it runs on.

    Raises:
        DataError: unknown metrics, missing or double ids, predictions without references or the other way round, or what a metric
            needs is not here.
        ModelError: the CLIP cannot be loaded.
    """
    if unknown := [metric for metric in metrics if metric not in METRICS]:
        raise DataError(f"no metric {', '.join(unknown)}", mend=f"metrics are {', '.join(METRICS)}")
    if lacks := missing(metrics):
        raise DataError(lacks[0], where="metrics", mend="or leave it out")
    given = read_predictions(file, references, needed=any(metric not in WITHOUT for metric in metrics))
    if "vqa" in metrics and (few := [one.id for one in given if len(one.references) < VQA_ANSWERS]):
        mend = "give people's answers to each question, ten in VQA, or use exact"
        raise DataError(f"vqa needs at least {VQA_ANSWERS} references, and {_named(few)} has fewer", where=file, mend=mend)
    if "clipscore" in metrics and clip is None:
        raise DataError("clipscore needs a CLIP", where="metrics", mend="give --clip openai/clip-vit-base-patch32, or a folder")
    counted = DocumentFrequencies.read(frequencies) if frequencies else None
    texts, theirs = [one.text for one in given], [one.references for one in given]
    sums: list[dict[str, float]] = caption_sums(texts, theirs, [m for m in metrics if m in CAPTION_METRICS], counted)
    marks: list[tuple[tuple[int, int, str], ...]] = [() for _ in given]
    for number, one in enumerate(given):
        sums[number]["words"] = len(one.text.split())
        for metric in metrics:
            if metric in ANSWER_METRICS:
                sums[number][metric] = ANSWER_METRICS[metric][1](one.text, one.references)
        if "chair" in metrics:
            counts, marks[number] = chair_sums(one.text, truth_of(one, file))
            sums[number] |= counts
    if clip is not None and "clipscore" in metrics:
        sums = [one | more for one, more in zip(sums, _clip_sums(clip, given, file.parent, device), strict=True)]
    known = {name for one in sums for name in one}
    measures = {name: measure for name, measure in METRIC_MEASURES.items() if not measure.needs or measure.needs in known}
    task = Task(
        name="predictions", prompts="given", data=str(file), questions=len(given), limit=None, skipped={}, named=[],
        notes=_notes(given, metrics),
        scores=scores(sums, measures), measures=measure_facts(measures),
    )  # fmt: skip
    if out is not None:
        predictions = [
            Prediction(
                id=one.id, prompt="", answer=one.text, tokens=len(one.text.split()), finished=True, sums=added, marks=marked,
                facts={"references": list(one.references)},
            )
            for one, added, marked in zip(given, sums, marks)
        ]  # fmt: skip
        write_task(out, {"name": str(file), "weights": fingerprint(file.read_bytes())}, task, predictions)
    return task


def _notes(given: Sequence[Given], metrics: Sequence[str]) -> list[str]:
    """What a reader of the scores must know."""
    empty = sum(not one.text.strip() for one in given)
    bare = sum(one.row.get("objects") is None for one in given) if "chair" in metrics else 0
    notes = [f"{empty:,} of {how_many(len(given), 'prediction')} are empty; they count as they are"] if empty else []
    notes += [f"{bare} of {len(given)} have no objects: what their references do not name counts as invented"] if bare else []
    if "cider" in metrics and len(given) == 1:
        notes.append("CIDEr of one picture is 0: no n-gram tells it from others")
    return notes


def read_predictions(file: Path, references: Path | None, *, needed: bool = True) -> list[Given]:
    """Predictions with their references, in the file's order.

    Args:
        needed: whether each must have a reference.

    Raises:
        DataError: as `score_predictions`.
    """
    rows = _by_id(_rows(file), file)
    given = _references(references) if references else {id: _listed(row, REFERENCES[:4]) for id, row in rows.items()}
    if needed and (without := [id for id in rows if not given.get(id)]):
        mend = "give them in a column `references`, or in a file with --references"
        what = f"{how_many(len(without), 'prediction')} without references, such as {_named(without)}"
        raise DataError(what, where=file, mend=mend)
    if unsaid := [id for id in given if id not in rows]:
        mend = "predict them too, or take them out of the references: a score over a part is another score"
        what = f"{how_many(len(unsaid), 'reference')} without a prediction, such as {_named(unsaid)}"
        raise DataError(what, where=file, mend=mend)
    found = []
    for id, row in rows.items():
        text = next((row[name] for name in WORDS if row.get(name) is not None), None)
        if not isinstance(text, str):
            raise DataError(
                f"no prediction for {id}" if text is None else f"the prediction for {id} is no text",
                where=file,
                mend=f"give it as {', '.join(WORDS[:3])}; it may be empty",
            )
        found.append(Given(id=id, text=text, references=given.get(id, ()), row=row))
    return found


def truth_of(one: Given, file: Path) -> frozenset[str]:
    """Objects of a photo: those of its row, and those that its references name.

    Raises:
        DataError: no object of MSCOCO's.
    """
    where = f"{file}, {one.id}"
    annotated = object_names(one.row, "objects", where) if one.row.get("objects") is not None else []
    return frozenset(truth(one.references, annotated, where))


def _rows(file: Path) -> list[dict[str, Any]]:
    """Objects of a JSON Lines file, or of a JSON list, or under "annotations"."""
    if file.suffix == ".jsonl":
        rows = read_rows(file)
    else:
        content = read_json(file)
        rows = as_rows(content.get("annotations") if isinstance(content, dict) else content, file)
    if not rows:
        raise DataError("no predictions", where=file, mend="look at the file")
    return rows


def _by_id(rows: list[dict[str, Any]], file: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        id = next((str(row[name]) for name in IDS if row.get(name) is not None), None)
        if id is None:
            raise DataError("a row without an id", where=f"{file}, row {number + 1}", mend=f"give it as {', '.join(IDS)}")
        if id in found:
            raise DataError(f"two predictions with the id {id}", where=f"{file}, row {number + 1}", mend="keep one of them")
        found[id] = row
    return found


def _references(file: Path) -> dict[str, tuple[str, ...]]:
    """References by id; rows with the same id, as COCO has one a caption, are joined."""
    found: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(_rows(file)):
        id = next((str(row[name]) for name in ("image_id", "id", "question_id") if row.get(name) is not None), None)
        if id is None:
            raise DataError("a row without an id", where=f"{file}, row {number + 1}", mend=f"give it as {', '.join(IDS)}")
        found[id] = found.get(id, ()) + _listed(row, REFERENCES)
    return found


def _listed(row: dict[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    value = next((row[name] for name in names if row.get(name) is not None), None)
    found = () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(one, str) for one in found):
        raise DataError("references that are no texts", where=ascii(value)[:80], mend="give a text or a list of texts")
    return found


def _clip_sums(clip: str, given: Sequence[Given], base: Path, device: str) -> list[dict[str, float]]:
    from smolforge.evals.metrics.clipscore import ClipScore
    from smolforge.loading import pick_device

    if without := [one.id for one in given if one.row.get("image") is None]:
        raise DataError(f"no picture for {_named(without)}", where="clipscore", mend="give its file in a column `image`")
    scorer, found = ClipScore(clip, device=str(pick_device(device))), []
    for first in range(0, len(given), CHUNK):
        chunk = given[first : first + CHUNK]
        pictures = [open_picture(media(one.row["image"], base)).pixels() for one in chunk]
        references = [one.references for one in chunk] if all(one.references for one in given) else None
        found += scorer.score(pictures, [one.text for one in chunk], references)
    return [{"clip": one.clip, "clipped": 1.0} | ({} if one.ref is None else {"refclip": one.ref}) for one in found]


def _bare(text: str) -> str:
    return text.strip().lower()


def _named(ids: Sequence[str]) -> str:
    return ", ".join(ids[:MOST_NAMED])
