"""How much of the mixture each source gets: by number of rows, by weights, or by modality and weights within it.

mixture: {image: 34, video: 33, text: 33}          the_cauldron (image, weight 3)   34 % x 3/4 = 25.5 %
                                                   docmatix (image, weight 1)       34 % x 1/4 =  8.5 %
                                                   llava_video_178k (video)         33 %
                                                   smoltalk (text)                  33 %
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from smolforge.errors import DataError
from smolforge.recipe import MODALITIES, DataSection, MixtureSection
from smolforge.wording import how_many


@dataclass(frozen=True, kw_only=True)
class Part:
    """One source in a mixture."""

    name: str
    modality: str | None  # None: not known
    rows: int | None  # None of a stream, which has no length
    weight: float | None  # as the recipe gives it


def titles(sections: Sequence[DataSection]) -> list[str]:
    """How a recipe's entries are called beside each other: by source and configuration, then also by split, at last by number.

    >>> ai2d, tqa = (DataSection(source="the_cauldron", name=name) for name in ("ai2d", "tqa"))
    >>> titles([ai2d, tqa]), titles([ai2d, ai2d.model_copy(update={"split": "train[:9]"}), ai2d])
    (['the_cauldron ai2d', 'the_cauldron tqa'], ['the_cauldron ai2d', 'the_cauldron ai2d train[:9]', 'the_cauldron ai2d #2'])
    """
    plain = [" ".join(filter(None, (section.source, config_words(section)))) for section in sections]
    counts = Counter(plain)
    split = [
        f"{title} {section.split}" if counts[title] > 1 and section.split != "train" else title
        for title, section in zip(plain, sections)
    ]
    return numbered(split)


def config_words(section: DataSection) -> str | None:
    """The configurations that an entry asks for, of many the first two.

    >>> config_words(DataSection(source="the_cauldron", name=("ai2d", "aokvqa", "chart2text", "chartqa")))
    'ai2d,aokvqa and 2 more'
    """
    if not isinstance(section.name, tuple):
        return section.name
    if len(section.name) > 3:
        return f"{','.join(section.name[:2])} and {len(section.name) - 2} more"
    return ",".join(section.name)


def numbered(names: Sequence[str]) -> list[str]:
    """
    >>> numbered(["a", "b", "a"])
    ['a', 'b', 'a #2']
    """
    again = [names[:number].count(name) for number, name in enumerate(names)]
    return [name + (f" #{before + 1}" if before else "") for name, before in zip(names, again)]


def source_shares(parts: Sequence[Part], mixture: MixtureSection | None) -> list[float]:
    """Share of each source; they sum to 1.

    Raises:
        DataError: a modality without sources or a source without a share, sources of no known modality, or a stream that has
            neither length nor weight.

    >>> image, video = (Part(name=n, modality=n, rows=r, weight=None) for n, r in (("image", 30), ("video", 10)))
    >>> source_shares([image, video], None), source_shares([image, video], MixtureSection(image=1, video=3))
    ([0.75, 0.25], [0.25, 0.75])
    """
    if mixture is None:
        return _within(parts)
    wanted = {modality: getattr(mixture, modality) for modality in MODALITIES}
    for part in parts:
        if part.modality is None:
            raise DataError(
                "nobody knows what it holds",
                where=part.name,
                mend=f"give its modality, one of {', '.join(MODALITIES)}, or leave mixture out",
            )
        if not wanted[part.modality]:
            raise DataError(
                f"holds {part.modality}, which has no share",
                where=part.name,
                mend=f"set mixture.{part.modality}, or leave the source out",
            )
    total = sum(wanted.values())
    shares = [0.0] * len(parts)
    for modality, share in wanted.items():
        members = [number for number, part in enumerate(parts) if part.modality == modality]
        if share and not members:
            raise DataError(
                "no source holds it",
                where=f"mixture.{modality}",
                mend=f"add one with modality: {modality}, or leave the share out",
            )
        for number, within in zip(members, _within([parts[number] for number in members])):
            shares[number] = share / total * within
    return shares


def _within(parts: Sequence[Part]) -> list[float]:
    if any(part.weight is not None for part in parts):
        for part in parts:
            if part.weight is None:
                raise DataError("has no weight, and others beside it have", where=part.name, mend="give each one, or none")
        weights = [float(part.weight or 0) for part in parts]
    else:
        for part in parts:
            if part.rows is None and len(parts) > 1:
                raise DataError("a stream has no number of rows to go by", where=part.name, mend="give each source a weight")
        weights = [float(part.rows or 1) for part in parts]
    return [weight / sum(weights) for weight in weights]


def mixture_tree(parts: Sequence[Part], shares: Sequence[float], examples: int) -> list[str]:
    """The mixture as a tree, one line a branch: share, rows, and how often a run sees each of them.

    Args:
        examples: that the run draws.

    >>> parts = [Part(name="photos", modality="image", rows=100, weight=1), Part(name="talk", modality="text", rows=50, weight=1)]
    >>> print("\\n".join(mixture_tree(parts, [0.5, 0.5], 400)))
    mixture of 400 examples
      image       50.0%
        photos    50.0%         100 rows    2.0 epochs
      text        50.0%
        talk      50.0%          50 rows    4.0 epochs
    """
    width = max(12, *(len(part.name) + 4 for part in parts)) if parts else 12
    lines = [f"mixture of {how_many(examples, 'example')}"]
    for modality in (*MODALITIES, None):
        members = [(part, share) for part, share in zip(parts, shares) if part.modality == modality]
        if not members:
            continue
        if modality or len(members) < len(parts):  # where no source says, its share says nothing
            lines.append(f"  {modality or 'not known':<{width - 1}}{sum(share for _, share in members):>6.1%}")
        for part, share in members:
            seen = f"{part.rows:>12,} rows {share * examples / part.rows:>6.1f} epochs" if part.rows else f"{'stream':>12}"
            lines.append(f"    {part.name:<{width - 3}}{share:>6.1%}{seen}")
    return lines
