"""Numbers read off a chart may be a little off: relaxed accuracy.

Masry et al. 2022, "ChartQA" (arXiv 2203.10244), section 5.1: within 5 % of a number, otherwise the same text. The rules are
lmms-eval's (from Qwen-VL), quirks included:

- "17%" is 0.17, so it is wrong where the answer is "17". Signs count: the error is relative to the target's size.
- A target of 0 allows no error and falls back to text: "0.0" is wrong for "0".
- "1,000", "$5" and "5 kg" are no numbers and must be met letter by letter.
- Text is compared in lower case and not stripped: "Yes " is wrong for "Yes". Spaces around a number do no harm, except
  behind its percent sign.
"""

from __future__ import annotations


def relaxed(prediction: str, target: str, tolerance: float = 0.05) -> bool:
    """Whether an answer is right: |prediction - target| <= tolerance |target|, or the same text but for case.

    >>> relaxed("14.7", "14"), relaxed("14.8", "14"), relaxed("No", "no"), relaxed("1,000", "1000")
    (True, False, True, False)
    """
    said, right = _number(prediction), _number(target)
    if said is None or not right:
        return prediction.lower() == target.lower()
    return abs(said - right) / abs(right) <= tolerance


def _number(text: str) -> float | None:
    """What Python reads as a number, a percentage as a share; None for words."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
