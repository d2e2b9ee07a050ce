"""What multiple-choice benchmarks have in common: how VLMEvalKit asks two of them, what an answer counts, what is measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from smolforge.evals.benchmark import Given, Question, Scored
from smolforge.evals.measures import Measure, length, ratio
from smolforge.evals.metrics.choices import likeliest, macro

ONLY_LETTERS = "respond ONLY with one of the multiple choice letter options (A/B/C/D):"

# name: (what is counted, of how many, in words)
SHARES = {
    "accuracy": ("right", "asked", "right answers"),
    "accuracy by log-prob": ("likely", "ranked", "right when the likeliest option is the answer"),
}


def best_option_prompt(question: str, options: Iterable[tuple[str, str]]) -> str:
    r"""VLMEvalKit's question of MLVU and MVBench to SmolVLM2, whose wording takes the place of "Options:" wherever that stands.

    Args:
        options: letters and words.

    >>> best_option_prompt("What colour?", [("A", "Red"), ("B", "Blue ")]).split("\n")[2:]
    ['(A) Red', '(B) Blue Only give the best option. ']
    """
    listed = "\n".join(f"({name}) {words}" for name, words in options).rstrip()
    return f"Question: {question}\nOptions:\n{listed} Only give the best option. ".replace("Options:", ONLY_LETTERS)


def choice_counts(question: Question, given: Given, read: str, group: str) -> Scored:
    """Counts of one answer, over all and once more behind the group's name: {"asked": 1, "asked:short": 1, ...}.

    The question's `facts` have the right letter as "answer", and as "letters" those of its options in their order.
    """
    letters, right = question.facts["letters"], question.facts["answer"]
    counts = {"asked": 1.0, "right": float(read == right), "spoken": float(given.text != "")}
    if given.logprobs:
        assert len(given.logprobs) == len(letters), f"{len(given.logprobs)} log-probs for {len(letters)} options"
        best = likeliest(given.logprobs)
        counts |= {"ranked": 1.0, "likely": float(best is not None and letters[best] == right)}
    grouped = {f"{name}:{group}": count for name, count in counts.items()}
    return Scored(sums={**counts, **grouped, "unreadable": float(not read), "tokens": float(given.tokens)}, read=read)


def choice_measures(groups: Sequence[str]) -> dict[str, Measure]:
    """Accuracy of all questions and of each group, both ways, and what stands beside."""
    found = {name: Measure(about=about, of=ratio(*share)) for name, (*share, about) in SHARES.items()}
    for name, (above, below, about) in SHARES.items():
        for group in groups:
            of = ratio(f"{above}:{group}", f"{below}:{group}")
            found[f"{name} {group}"] = Measure(about=f"{about}, {group}", of=of)
    return found | {
        "unreadable": Measure(about="answers without a letter", of=ratio("unreadable", "asked"), better="lower"),
        "length": length("asked"),
    }


def macro_measures(groups: Sequence[str]) -> dict[str, Measure]:
    """Means of the groups' accuracies, both ways."""
    return {
        f"{name} macro": Measure(about=f"{about}, mean of the groups", of=macro(above, below, groups))
        for name, (above, below, about) in SHARES.items()
    }
