"""Caption metrics together: what the benchmark of COCO captions and a file of predictions are scored with."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from smolforge.evals.measures import Measure, Totals, ratio
from smolforge.evals.metrics import bleu, cider, meteor, ptb, rouge, spice

CAPTION_METRICS = ("bleu", "rouge", "cider", "meteor", "spice")


def caption_sums(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Collection[str],
    frequencies: cider.DocumentFrequencies | None = None,
) -> list[dict[str, float]]:
    """What each caption adds to some of CAPTION_METRICS, on the tokens of `ptb`.

    Args:
        references: each caption's, at least one.
        frequencies: in how many pictures' references an n-gram is, for CIDEr; those of these references when left out.
    """
    said = [ptb.tokenize(caption) for caption in captions]
    given = [[ptb.tokenize(reference) for reference in each] for each in references]
    found: list[dict[str, float]] = [{"captions": 1.0} for _ in captions]
    if "cider" in metrics and frequencies is None and given:
        frequencies = cider.DocumentFrequencies.of(given)
    for sums, tokens, theirs in zip(found, said, given, strict=True):
        if "bleu" in metrics:
            sums |= bleu.bleu_sums(tokens, theirs)
        if "rouge" in metrics:
            sums["rouge"] = rouge.rouge_l(tokens, theirs)
        if "cider" in metrics and frequencies is not None:
            sums["cider"] = cider.cider_d(tokens, theirs, frequencies)
    joined = [" ".join(tokens) for tokens in said], [[" ".join(tokens) for tokens in theirs] for theirs in given]
    if "meteor" in metrics:
        counts = meteor.meteor_sums(*joined)
        found = [sums | more | {"meteor": 1.0} for sums, more in zip(found, counts, strict=True)]
    if "spice" in metrics:
        values = spice.spice_scores(*joined)  # NaN where neither a caption nor its references say anything: left out of the mean
        found = [
            sums | ({} if math.isnan(value) else {"spice": value, "spiced": 1.0})
            for sums, value in zip(found, values, strict=True)
        ]
    return found


def missing(metrics: Collection[str]) -> list[str]:
    """What some of these metrics lack here, in words."""
    lacks = [meteor.missing() if "meteor" in metrics else None, spice.missing() if "spice" in metrics else None]
    return [lack for lack in lacks if lack is not None]


def _meteor(totals: Totals) -> np.ndarray:
    """NaN where it could not be computed."""
    return np.where(totals["meteor"] > 0, meteor.meteor(totals), np.nan)


CAPTION_MEASURES: dict[str, Measure] = {
    **{
        f"BLEU-{n}": Measure(about=f"runs of up to {n} words that the references have", of=bleu.bleu(n), needs="bleu.length")
        for n in bleu.ORDERS
    },
    "ROUGE-L": Measure(about="longest common subsequence with a reference", of=ratio("rouge", "captions"), needs="rouge"),
    "CIDEr": Measure(
        about="telling n-grams shared with the references; 1.0 is called 100 in tables",
        of=ratio("cider", "captions"),
        percent=False,
        needs="cider",
    ),
    "METEOR": Measure(about="words aligned with a reference, by form, stem, synonym or paraphrase", of=_meteor, needs="meteor"),
    "SPICE": Measure(
        about="objects, attributes and relations shared with the references", of=ratio("spice", "spiced"), needs="spiced"
    ),
}
