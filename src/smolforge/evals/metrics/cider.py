"""CIDEr-D of a caption (Vedantam et al. 2015, arXiv 1411.5726, section 8), which is what the COCO caption evaluation calls CIDEr.

A caption and a reference become vectors over their n-grams, each weighted by how few images' references have it. A word of the
evaluated images only is worth log(number of images), so a score depends on which images are evaluated together, unless the
frequencies of a given set are used.
"""

from __future__ import annotations

import codecs
import io
import json
import math
import pickle
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smolforge.errors import DataError
from smolforge.evals.metrics.bleu import ORDERS, NGram, ngrams, words_of
from smolforge.evals.metrics.ptb import Tokens

SIGMA = 6.0  # words; how fast another length than the reference's costs
SCALE = 10.0
LENGTH_ORDER = 2  # pycocoevalcap takes the number of bigrams for the length; with words the difference is nearly always the same


@dataclass(frozen=True, kw_only=True)
class DocumentFrequencies:
    """In how many images' references each n-gram is."""

    counts: Mapping[NGram, float]
    log_images: float  # log of the number of images

    @classmethod
    def of(cls, references: Sequence[Sequence[Tokens]]) -> DocumentFrequencies:
        """Of the evaluated images themselves, pycocoevalcap's way.

        Args:
            references: each image's.
        """
        counts: Counter[NGram] = Counter()
        for image in references:
            counts.update({ngram for reference in image for ngram in ngrams(words_of(reference))})
        return cls(counts=counts, log_images=math.log(len(references)))

    @classmethod
    def read(cls, path: Path) -> DocumentFrequencies:
        """Given ones: JSON, or the pickle of ruotianluo/cider such as `coco-val-df.p`.

        The JSON is `{"images": 40504, "ngrams": {"a": 40321, "a red cat": 12}}`. The pickle is a dict of `ref_len`, the number of
        images, and `document_frequency`, by tuples of words.

        Raises:
            DataError: it is neither, or the pickle names more than plain containers, numbers and strings.
        """
        mend = "give JSON with images and ngrams, or a pickle with ref_len and document_frequency"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError("cannot be read", where=path, mend=str(error)) from None
        try:
            if data.lstrip()[:1] == b"{":
                found = json.loads(data)
                counts = {tuple(ngram.split(" ")): float(count) for ngram, count in found["ngrams"].items()}
                images = float(found["images"])
            else:
                found = _Plain(io.BytesIO(data), encoding="latin1").load()
                counts = {_ngram(ngram): float(count) for ngram, count in found["document_frequency"].items()}
                images = float(found["ref_len"])
        except (pickle.UnpicklingError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError) as error:
            raise DataError(f"these are no document frequencies ({error})", where=path, mend=mend) from None
        if not (math.isfinite(images) and images >= 1):
            raise DataError(f"{images} images", where=path, mend=mend)
        return cls(counts=counts, log_images=math.log(images))


def cider_d(candidate: Tokens, references: Sequence[Tokens], frequencies: DocumentFrequencies) -> float:
    """Mean over n = 1..4 and the references of, with g the weighted vectors of n-grams and l the lengths (eq. 2 to 4):

    10 exp(-(l_c - l_r)^2 / (2 sigma^2)) min(g_c, g_r) . g_r / (|g_c| |g_r|)

    From 0 to 10, which a caption that is its only reference has:

    >>> frequencies = DocumentFrequencies.of([[["a", "red", "cat", "sits"]], [["two", "dogs"]]])
    >>> cider_d(["a", "red", "cat", "sits"], [["a", "red", "cat", "sits"]], frequencies)
    10.0
    """
    said = _vectors(candidate, frequencies)
    total = sum(_similarity(said, _vectors(reference, frequencies)) for reference in references)
    return SCALE * total / len(ORDERS) / len(references)


@dataclass(frozen=True, kw_only=True)
class _Vectors:
    """Of one sentence, by order."""

    weights: list[dict[NGram, float]]
    norms: list[float]
    length: int


def _vectors(tokens: Tokens, frequencies: DocumentFrequencies) -> _Vectors:
    weights: list[dict[NGram, float]] = [{} for _ in ORDERS]
    words = words_of(tokens)
    for ngram, times in ngrams(words).items():
        rarity = frequencies.log_images - math.log(max(1.0, frequencies.counts.get(ngram, 0.0)))
        weights[len(ngram) - 1][ngram] = times * rarity
    norms = [math.sqrt(sum(weight**2 for weight in order.values())) for order in weights]
    return _Vectors(weights=weights, norms=norms, length=max(0, len(words) - LENGTH_ORDER + 1))


def _similarity(said: _Vectors, given: _Vectors) -> float:
    """Summed over the orders."""
    total = 0.0
    for mine, theirs, norm, other in zip(said.weights, given.weights, said.norms, given.norms):
        dot = sum(min(weight, theirs[ngram]) * theirs[ngram] for ngram, weight in mine.items() if ngram in theirs)
        total += dot / (norm * other) if norm and other else dot
    return total * math.exp(-((said.length - given.length) ** 2) / (2 * SIGMA**2))


def _ngram(key: object) -> NGram:
    """A key of the pickle: a tuple of words, as Python 2's or 3's strings."""
    if not isinstance(key, tuple):
        raise TypeError(f"{key!r} is not a tuple of words")
    return tuple(word.decode() if isinstance(word, bytes) else str(word) for word in key)


class _NumberKind:
    """Stands for a NumPy type while unpickling: NumPy's own could be told to read bytes as addresses."""

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch("[fiu][1248]", code):
            raise pickle.UnpicklingError(f"it has numbers of the kind {code}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _number(kind: _NumberKind, data: bytes | str) -> float:
    """A NumPy scalar by its bytes, which Python 2 has as a string."""
    raw = data.encode("latin1") if isinstance(data, str) else data
    return float(np.frombuffer(raw, kind.order + kind.code)[0])


_BUILTINS = {kind.__name__: kind for kind in (float, int, str, list, dict, tuple, set)} | {"long": int, "unicode": str}

# All that a pickle of frequencies may name; to unpickle anything else could run any code. Python 2 and NumPy 1 had other names.
_ADMITTED: dict[str, dict[str, Any]] = {
    "builtins": _BUILTINS,
    "__builtin__": _BUILTINS,
    "collections": {"defaultdict": defaultdict, "OrderedDict": OrderedDict, "Counter": Counter},
    "numpy": {"dtype": _NumberKind},
    "numpy.core.multiarray": {"scalar": _number},
    "numpy._core.multiarray": {"scalar": _number},
    "_codecs": {"encode": codecs.encode},  # how protocols before 3 write bytes
}


class _Plain(pickle.Unpickler):
    """Reads what `_ADMITTED` has and refuses the rest."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module][name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None
