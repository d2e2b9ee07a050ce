"""The verbs of `data` that are about where data come from: list, preview, download, prepare."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from smolforge.cli.settings import add_settings
from smolforge.errors import DataError
from smolforge.wording import how_many

if TYPE_CHECKING:
    from smolforge.sourcing.download import Fetched, Plan

MOST_FILES = 40  # that a dry run names one by one, unless asked for all
NAMED = 8  # configurations that a line names


def add(verbs: argparse._SubParsersAction, make: Callable[..., argparse.ArgumentParser]) -> None:
    """The four verbs, in the order in which they are used."""
    for verb in (add_list, add_preview, add_download, add_prepare):
        verb(verbs, make)


def add_list(verbs: argparse._SubParsersAction, make: Callable[..., argparse.ArgumentParser]) -> None:
    verb = make(
        verbs, list_sources, "the data sets that recipes know by name, with sizes and licences",
        "smolforge data list", "smolforge data list the_cauldron", "smolforge data list --modality video --json",
    )  # fmt: skip
    verb.add_argument("source", nargs="?", help="all about this one")
    verb.add_argument("--modality", metavar="KIND", help="only what holds image, multi_image, video or text")
    verb.add_argument("--json", action="store_true", help="as JSON")


def list_sources(options: argparse.Namespace) -> int:
    from smolforge.sourcing.listing import about, catalogue, facts, show, tables

    if options.source:
        shown = about(options.source)  # refuses what it does not know
        if options.json:
            print(json.dumps(facts(options.source), indent=2))
        else:
            show(shown)
        return 0
    if options.json:
        print(json.dumps(catalogue(options.modality), indent=2))
    else:
        show(tables(options.modality))
    return 0


list_sources.__name__ = "list"  # verbs are called as their functions are, and this name is Python's own


def add_preview(verbs: argparse._SubParsersAction, make: Callable[..., argparse.ArgumentParser]) -> None:
    verb = make(
        verbs, preview, "a few rows of a source: its columns, and the records made of them",
        "smolforge data preview the_cauldron --name ai2d", "smolforge data preview finevideo --fixture --out finevideo.html",
        "smolforge data preview my_pictures --rows 5", "smolforge data preview vript --dir vript",
    )  # fmt: skip
    verb.add_argument("source", help="name of a source, file, folder or Hub name")
    verb.add_argument("--name", help="configuration of a dataset that has several (default: the first)")
    verb.add_argument("--split", help="split, with an optional slice of what lies here (default: its first, usually train)")
    verb.add_argument("--rows", type=int, default=3, help="how many (default: %(default)s)")
    verb.add_argument("--fixture", action="store_true", help="drawn rows in the real columns; needs no network")
    verb.add_argument("--dir", type=Path, help="folder that `smolforge data download` filled")
    verb.add_argument("--revision", help="branch, tag or commit on the Hub")
    verb.add_argument("--prompt", help="instruction for rows that bring none")
    verb.add_argument("--out", type=Path, metavar="FILE", help="also a page with the pictures")


def preview(options: argparse.Namespace) -> int:
    from smolforge.data.sources.tables import named
    from smolforge.recipe import DataSection
    from smolforge.report.page import claim_page
    from smolforge.sourcing.listing import show
    from smolforge.sourcing.preview import look, shown

    if options.rows < 1:
        raise DataError("no rows to show", where=f"--rows {options.rows}", mend="give 1 or more")
    known = named(options.source)
    first = "train" if known is None or "train" in known.splits else known.splits[0]
    section = DataSection(
        source=options.source, name=options.name, split=options.split or first, fixture=options.fixture, dir=options.dir,
        revision=options.revision, prompt=options.prompt,
    )  # fmt: skip
    if options.out:
        claim_page(options.out)
    found = look(section, options.rows)
    show(shown(found))
    if options.name is None and found.section.name is not None and known:
        print(f"\nconfiguration {found.section.name}; --name takes another of {_some(known.configs)}")
    if options.out:
        from smolforge.sourcing.preview_page import write_page

        print(f"page: {write_page(found, options.out)}")
    return 0


def add_download(verbs: argparse._SubParsersAction, make: Callable[..., argparse.ArgumentParser]) -> None:
    verb = make(
        verbs, download, "a dataset's files from the Hub into a folder: size first, checked, resumed, archives unpacked",
        "smolforge data download the_cauldron cauldron --name ai2d --name vqav2",
        "smolforge data download llava_video_178k videos --name 0_30_s_academic_v0_1 --dry-run",
        'smolforge data download owner/name folder --include "data/*.parquet" --yes',
        "smolforge data download vript vript --verify",
    )  # fmt: skip
    verb.add_argument("source", help="name of a source, or owner/name on the Hub")
    verb.add_argument("folder", metavar="DIR", type=Path, help="where to; an interrupted download goes on there")
    verb.add_argument("--name", action="append", default=[], help="only this configuration; give it again for more")
    verb.add_argument("--include", action="append", default=[], metavar="PATTERN", help="only files such as data/*.parquet")
    verb.add_argument("--revision", help="branch, tag or commit (default: the one that the folder was begun with, or the newest)")
    verb.add_argument("--update", action="store_true", help="take the newest commit into a folder that holds an older one")
    verb.add_argument("--dry-run", action="store_true", help="list the files and sizes, and write nothing")
    verb.add_argument("--verify", action="store_true", help="hash every file again, also those that were found right before")
    verb.add_argument("--no-unpack", action="store_true", help="leave archives packed")
    verb.add_argument("--yes", action="store_true", help="do not ask before fetching")
    verb.add_argument("--all", action="store_true", help="with --dry-run: name every file")


def download(options: argparse.Namespace) -> int:
    from smolforge.sourcing.download import download as fetch
    from smolforge.sourcing.download import plan_download

    with _Bar("checking" if options.verify else "") as bar:
        plan = plan_download(
            options.source, options.folder, names=options.name, include=options.include, revision=options.revision,
            update=options.update, unpacking=not options.no_unpack, verify=options.verify, tick=bar.tick,
        )  # fmt: skip
    _print_plan(plan, files=len(plan.files) if options.all else MOST_FILES if options.dry_run else 0)
    if options.dry_run:
        return 0
    if plan.missing or plan.unpack or plan.gone:
        _confirm(plan, yes=options.yes)
        with _Bar("fetching", plan.to_fetch + plan.to_unpack) as bar:
            done = fetch(plan, tick=bar.tick, told=bar.say)
        _print_done(plan, done)
    else:
        how = "their hashes are right" if options.verify else "sizes and times as when they were found right"
        again = "" if options.verify else "; --verify hashes them again"
        print(f"everything is here: {how_many(len(plan.files), 'file')}, {how}{again}")
    print(_usage(options.source, plan))
    return 0


def _print_plan(plan: Plan, *, files: int) -> None:
    from smolforge.sourcing.disk import size

    listing, known = plan.listing, plan.known
    licence = known.licence if known else f"{listing.licence or 'not stated'} (the card's word)"
    print(f"{listing.repo} at {listing.commit[:12]}, licence: {licence}" + (", gated" if listing.gated else ""))
    if known and known.note:
        print(f"note: {known.note}")
    kinds = Counter[str]()
    for file in plan.files:
        kinds["".join(PurePosixPath(file.path).suffixes[-2:]) or "(no suffix)"] += file.size
    told = ", ".join(f"{kind} {size(count)}" for kind, count in kinds.most_common(6))
    print(f"{len(plan.files):,} of {how_many(len(listing.files), 'file')}, {size(plan.size)} ({told})")
    for file in plan.files[:files]:
        print(f"  {size(file.size):>10}  {file.path}")
    if 0 < files < len(plan.files):
        print(f"  and {len(plan.files) - files:,} more; --all names them")
    here = len(plan.files) - len(plan.missing)
    unpacked = f", about {size(plan.to_unpack)} unpacked" if plan.to_unpack else ""
    print(f"here already: {here:,}; to fetch: {len(plan.missing):,}, {size(plan.to_fetch)}{unpacked}; free: {size(plan.free)}")
    for name in plan.damaged:
        print(f"damaged or changed here, fetched anew: {name}")
    for name in plan.gone:
        print(f"no longer in the dataset, removed here: {name}")
    if parts := plan.split_archives:
        count = how_many(len(parts), "file")
        print(f"parts of archives that are not unpacked here: {count}, such as {parts[0]}: join them with cat")


def _confirm(plan: Plan, *, yes: bool) -> None:
    from smolforge.sourcing.disk import size

    if yes or not (plan.to_fetch or plan.gone):
        return
    if not sys.stdin.isatty():
        raise DataError("nobody to ask", where=str(plan.folder), mend="say --yes to fetch it")
    less = f" and remove {how_many(len(plan.gone), 'file')}" if plan.gone else ""
    if input(f"Fetch {size(plan.to_fetch)} into {plan.folder}{less}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise DataError("not fetched", where=str(plan.folder), mend="answer y, or say --yes")


def _print_done(plan: Plan, done: Fetched) -> None:
    from smolforge.sourcing.disk import size

    print(f"fetched {how_many(done.files, 'file')}, {size(done.bytes)} in {done.seconds:.0f} s; every hash is the Hub's")
    if done.removed:
        print(f"removed {how_many(done.removed, 'file')}, no longer in the dataset")
    for name, unpacked in done.unpacked.items():
        kept = f"; {how_many(unpacked.kept, 'other file')} of the same name, here before, kept" if unpacked.kept else ""
        gone = f"; {how_many(unpacked.removed, 'file')} that it no longer holds removed" if unpacked.removed else ""
        print(f"unpacked {name}: {how_many(unpacked.files, 'file')}, {size(unpacked.bytes)}{kept}{gone}")


def _usage(source: str, plan: Plan) -> str:
    """By its name and not as a folder of the user's own, whose rows may name any file on this machine."""
    return f"in a recipe: {{source: {source}, dir: {plan.folder}}}; to look: smolforge data preview {source} --dir {plan.folder}"


class _Bar:
    """Bytes on the screen, where there is one."""

    def __init__(self, what: str, total: int | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

        console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
            console=console, transient=True, disable=not (what and console.is_terminal),
        )  # fmt: skip
        self.task = self.progress.add_task(what, total=total)

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def tick(self, count: int) -> None:
        self.progress.advance(self.task, count)

    def say(self, line: str) -> None:
        self.progress.update(self.task, description=line)


def add_prepare(verbs: argparse._SubParsersAction, make: Callable[..., argparse.ArgumentParser]) -> None:
    verb = make(
        verbs, prepare, "a recipe's rows, read once and made ready in a folder, and the recipe that reads them there",
        "smolforge data prepare recipes/captions.yaml prepared --set data.0.source=my_pictures eval.data.0.source=my_pictures",
        "smolforge data prepare recipes/dpo-smolvlm.yaml prepared --rows 1000", "smolforge train prepared/recipe.yaml",
    )  # fmt: skip
    verb.add_argument("recipe", help="YAML file")
    verb.add_argument("out", metavar="OUT", type=Path, help="folder; an interrupted preparation goes on there")
    add_settings(verb)
    verb.add_argument("--rows", type=int, metavar="N", help="the first N rows of each source; streams need it")


def prepare(options: argparse.Namespace) -> int:
    from smolforge.recipe import load_recipe
    from smolforge.sourcing.disk import free_bytes, size
    from smolforge.sourcing.prepare import prepare as write

    if options.rows is not None and options.rows < 1:
        raise DataError("no rows to prepare", where=f"--rows {options.rows}", mend="give 1 or more")
    done = write(load_recipe(options.recipe, options.overrides), options.out, rows=options.rows)
    for one in done.sources:
        there = "" if one.fresh else ", there already"
        counts = ", ".join((how_many(one.rows, "row"), how_many(one.tokens, "token"), how_many(one.tiles, "tile")))
        print(f"{one.source}: {counts}, {size(one.bytes)}{there}")
        for reason, count in one.left_out.most_common():
            print(f"  left out {count:,}: {reason}")
    if any(one.left_out for one in done.sources):
        print(f"rows that were left out: {done.left_out}")
    print(f"free: {size(free_bytes(options.out))}")
    print(f"train with: smolforge train {done.recipe}")
    return 0


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:NAMED]) + (f", ... ({len(names)})" if len(names) > NAMED else "")
