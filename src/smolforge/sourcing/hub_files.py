"""What a dataset repository on the Hub holds: its files with their sizes and hashes, its configurations, who may read it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from smolforge.data.sources.catalog import NamedSource
from smolforge.data.sources.configs import of_config
from smolforge.errors import DataError
from smolforge.hub import attempts_held, last_attempt
from smolforge.wording import did_you_mean

OURS = ".smolforge"  # folder in a download that holds what we know about it; no file of a repository may lie there
CARDS = ("README.md", "LICENSE*", "dataset_infos.json")  # always fetched: small, and the README names the configurations
LOGIN = "accept the terms on the dataset's page, then `hf auth login`"
STATUS: dict[int, tuple[str, str]] = {
    401: ("the Hub does not give it: no such dataset, or one for members only", f"check the name; if it is gated, {LOGIN}"),
    403: ("the Hub gives it only to those who accepted its terms", LOGIN),
    404: ("no such dataset or revision on the Hub", "check the name and --revision"),
    429: ("too many requests", "wait a while and run it again; with `hf auth login` more are allowed"),
}


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a repository."""

    path: str
    size: int  # bytes
    sha256: str | None = None  # of a large file (LFS)
    blob: str = ""  # git's name of a small one: SHA-1 over its length and content

    @property
    def hash(self) -> str:
        return self.sha256 or self.blob


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A repository at one commit."""

    repo: str
    commit: str
    files: tuple[RemoteFile, ...]
    configs: Mapping[str, tuple[str, ...]]  # configuration -> patterns of its files, as the card says
    licence: str | None
    gated: bool


def list_files(repo: str, revision: str | None = None) -> Listing:
    """Files of a dataset repository.

    Raises:
        DataError: the Hub does not give it, or names a file that no folder may hold.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(library_name="smolforge")
    with one_line(repo):
        about = api.dataset_info(repo, revision=revision)
        tree = api.list_repo_tree(repo, recursive=True, revision=about.sha, repo_type="dataset")
        found = [one for one in tree if isinstance(one, RepoFile)]
    files = tuple(
        RemoteFile(path=_harmless(one.path, repo), size=one.size, sha256=one.lfs.sha256 if one.lfs else None, blob=one.blob_id)
        for one in found
    )
    card = about.card_data.to_dict() if about.card_data else {}
    licence = card.get("license")
    return Listing(
        repo=repo, commit=str(about.sha), files=files, configs=_configs(card), gated=bool(about.gated),
        licence=", ".join(licence) if isinstance(licence, list) else licence,
    )  # fmt: skip


def _harmless(path: str, repo: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or parts[0] == OURS:
        raise DataError(f"names a file {path!a}, which would lie outside of the folder", where=repo, mend="do not use it")
    return path


def _configs(card: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Patterns by configuration, from the card's YAML.

    >>> _configs({"configs": [{"config_name": "a", "data_files": [{"split": "train", "path": "a/*"}]}]})
    {'a': ('a/*',)}
    """
    found = {}
    for config in card.get("configs") or ():
        if isinstance(config, dict) and "config_name" in config:
            found[str(config["config_name"])] = tuple(_patterns(config.get("data_files")))
    return found


def _patterns(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _patterns(one)
    elif isinstance(value, dict):
        yield from _patterns(value.get("path"))


# --- which of them -----------------------------------------------------------------------------------------------


def wanted(
    listing: Listing, known: NamedSource | None, *, names: Sequence[str] = (), include: Sequence[str] = ()
) -> tuple[RemoteFile, ...]:
    """Files to fetch: those that `include` names, or else those that the source needs, of the configurations `names`.

    The card comes always.

    Raises:
        DataError: a pattern or configuration that no file fits, or a configuration that several folders fit.
    """
    if include:
        chosen = [file for pattern in include for file in _fitting(listing.files, pattern, listing.repo)]
        if names:
            chosen = [file for name in names for file in _included(listing, known, chosen, name, include)]
    elif known and known.annotations:
        chosen = _with_media(listing, known, names)
    else:
        chosen = list(listing.files)
        if names:
            chosen = [file for name in names for file in _of_config(listing, known, chosen, name) or _no_config(listing, name)]
    cards = [file for file in listing.files if "/" not in file.path and any(fits(file.path, card) for card in CARDS)]
    paths = {file.path for file in (*chosen, *cards)}
    return tuple(file for file in listing.files if file.path in paths)


def _included(
    listing: Listing, known: NamedSource | None, chosen: Sequence[RemoteFile], name: str, include: Sequence[str]
) -> list[RemoteFile]:
    """Of the files that patterns chose those of a configuration."""
    # All files tell what has the name, lest its neighbour be the nearest of the chosen ones. Of a source that is known the chosen
    # ones do: its rows, and their pictures or videos, lie in folders of their own.
    own = {file.path for file in _of_config(listing, known, chosen if known else listing.files, name)}
    found = [file for file in chosen if file.path in own]
    if not found:
        if not (own or _of_config(listing, known, listing.files, name)):
            _no_config(listing, name)
        raise DataError(f"no file of {name} fits {' or '.join(include)}", where=listing.repo, mend="--dry-run lists the files")
    return found


def _with_media(listing: Listing, known: NamedSource, names: Sequence[str]) -> list[RemoteFile]:
    """Files with rows, and what they name: of a configuration its own where they are told apart, else all."""
    rows = [file for file in listing.files if any(fits(file.path, pattern) for pattern in known.annotations)]
    folders = tuple(f"{root}/" for root in known.roots if root)
    media = [
        file
        for file in listing.files
        if any(fits(file.path, pattern) for pattern in known.archives) or (folders and file.path.startswith(folders))
    ]
    if not names:
        return rows + media
    chosen = []
    for name in names:
        own_rows, own_media = (_of_config(listing, known, files, name) for files in (rows, media))
        if not (own_rows or own_media):
            _no_config(listing, name)
        chosen += (own_rows or rows) + (own_media or media)
    return chosen


def _fitting(files: Sequence[RemoteFile], pattern: str, repo: str) -> list[RemoteFile]:
    found = [file for file in files if fits(file.path, pattern)]
    if not found:
        mend = 'patterns are such as "data/*.parquet"; --dry-run lists the files'
        raise DataError(f"no file fits {pattern}", where=repo, mend=mend)
    return found


def _of_config(listing: Listing, known: NamedSource | None, files: Sequence[RemoteFile], name: str) -> list[RemoteFile]:
    """Files of a configuration: as the card says, or else as their paths do."""
    of_card = [file for file in files if any(fits(file.path, pattern) for pattern in listing.configs.get(name, ()))]
    own = set() if of_card else set(of_config([file.path for file in files], name, known, where=listing.repo))
    return of_card or [file for file in files if file.path in own]


def _no_config(listing: Listing, name: str) -> list[RemoteFile]:
    """Raises DataError with what there is."""
    folders = {PurePosixPath(file.path).parts[0] for file in listing.files if "/" in file.path}
    there = sorted(listing.configs or folders)
    below = {part for file in listing.files for part in PurePosixPath(file.path).parts[:-1]}
    listed = ", ".join(there[:12]) + (", ..." if len(there) > 12 else "")
    near = did_you_mean(name, sorted({*there, *below}), cutoff=0.6)
    mend = near or (f"it has {listed}" if there else "leave --name out")
    raise DataError(f"no configuration {name}", where=listing.repo, mend=mend)


def fits(path: str, pattern: str) -> bool:
    """
    >>> fits("data/a/0.parquet", "data/**/*.parquet"), fits("data/0.parquet", "data/**/*.parquet"), fits("b.zip", "*.zip")
    (True, True, True)
    """
    return fnmatch(path, pattern) or fnmatch(path, pattern.replace("**/", ""))


# --- whether they are whole --------------------------------------------------------------------------------------


def is_whole(file: Path, remote: RemoteFile) -> bool:
    """Whether a file here has the content of the repository's; reads all of it."""
    if not file.is_file() or file.stat().st_size != remote.size:
        return False
    with file.open("rb") as handle:
        if remote.sha256:
            return hashlib.file_digest(handle, "sha256").hexdigest() == remote.sha256
        digest = hashlib.sha1(f"blob {remote.size}\0".encode(), usedforsecurity=False)
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == remote.blob


@contextmanager
def one_line(repo: str) -> Iterator[None]:
    """What the Hub and the network answer instead, as a DataError."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    try:
        with attempts_held():
            yield
    except OfflineModeIsEnabled as error:
        raise DataError("HF_HUB_OFFLINE is set, so the Hub was not asked", where=repo, mend="unset it") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if isinstance(error, GatedRepoError):
            status = 403
        said = error.server_message or str(error).splitlines()[0]
        what, mend = STATUS.get(status, ("the Hub refused", "look at what it says, and run it again"))
        raise DataError(f"{what} ({status}: {said}{last_attempt(error)})", where=repo, mend=mend) from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        mend = "check the network and HF_ENDPOINT, and run it again"
        what = f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}: {error}{last_attempt(error)})"
        raise DataError(what, where=repo, mend=mend) from error
    except ValueError as error:  # a name that no repository has, a file that plain HTTP does not give
        raise DataError(f"cannot be had ({error})", where=repo, mend="check the name: owner/name") from error
