"""`smolforge push`: what came of a run, to the Hugging Face Hub, with its card."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from smolforge.errors import UserError
from smolforge.files import write_whole
from smolforge.publishing.card import MARK, write_card
from smolforge.publishing.contents import RECIPE, File, collect
from smolforge.publishing.subject import Subject, read_subject
from smolforge.publishing.upload import check_name, upload

CARD = "README.md"


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What went, or with a dry run would go."""

    repo: str
    card: Path  # where it lies on this machine
    files: tuple[tuple[str, int], ...]  # name and bytes of each
    url: str | None  # of the repository; None of a dry run
    left_out: tuple[str, ...] = ()  # files of the model's folder that stay here


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
    """Write the card, and the recipe beside it; then, unless it is a dry run, push them with the model's files in one commit.

    Args:
        model: folder of a finished run, of a model or of adapters.
        repo: owner/name on the Hub.
        dry_run: no network, no token.
        private: of a repository that is made by this push; one that exists must be private already.
        license: identifier such as apache-2.0.
        base: name of the base model on the Hub, where the run knows it as a folder.
        out: folder of the card, or a file *.md; RUN/hub, or hub/NAME of a model that is no run's, when left out.

    Raises:
        UserError: a run that is not finished, files that cannot be published, or what the Hub refused.
    """
    check_name(repo)
    if base is not None:
        check_name(base)
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise UserError(
            "not a license identifier", where=f"license {license}", mend="give one as the Hub has it: apache-2.0, mit"
        )
    subject = read_subject(model, base)
    files, left_out = collect(subject)
    text = write_card(subject, repo, license=license)
    card = _place(subject, repo, out)
    card.parent.mkdir(parents=True, exist_ok=True)
    write_whole(card, text)
    for file in files:
        if file.name == RECIPE and isinstance(file.source, bytes):
            write_whole(card.with_name(RECIPE), file.source.decode())
    going = [File(name=CARD, source=text.encode()), *files]
    url = None if dry_run else upload(repo, going, private=private)
    listed = tuple((file.name, file.size) for file in going)
    return Pushed(repo=repo, card=card, files=listed, url=url, left_out=tuple(left_out))


def _place(subject: Subject, repo: str, out: Path | None) -> Path:
    """Raises UserError for a file there that is no card of ours."""
    default = subject.run.folder / "hub" if subject.run else Path("hub") / repo.split("/")[1]
    place = out or default
    card = place if place.suffix == ".md" else place / CARD
    if place.exists() and place.is_dir() == (place.suffix == ".md"):
        raise UserError("in the way of the card", where=place, mend="choose another place with --out")
    if card.is_file() and MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise UserError("is not a card of smolforge's", where=card, mend="choose another place with --out")
    recipe = card.with_name(RECIPE)
    if subject.run and recipe.exists() and not card.exists():
        raise UserError("would be written over", where=recipe, mend="choose another place with --out")
    return card
