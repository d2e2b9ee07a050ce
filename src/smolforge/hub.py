"""From a name to a folder: a local path as it is, anything else from the Hugging Face Hub.

The Hub is asked only when the name is not a path here, so nothing needs a network at start-up.
"""

from __future__ import annotations

import logging
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smolforge.errors import DataError, ModelError, UserError

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja")  # no pickles, no code

MEND = "give a model folder, a .gguf file or a Hub name like owner/model; describe and estimate know presets (smolvlm-256m, ...)"


ATTEMPTS = "huggingface_hub.utils._http"  # the logger that warns of each failed attempt at a request
FAILED, WAITING = re.compile("thrown while requesting"), re.compile(r"^(Retrying in|Rate limited\.)")


def local_folder(name: str, revision: str | None = None, *, files: tuple[str, ...] = MODEL_FILES) -> Path:
    """Folder (or .gguf file) of a model by path or Hub name.

    Args:
        files: patterns of the files to download, when it comes to that.

    Raises:
        ModelError: no such path, not a Hub name, or the Hub does not give it.
    """
    if here := folder_here(name):
        return here
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        with attempts_held():
            return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"not a folder here, and the Hub did not give it ({type(error).__name__}{last_attempt(error)})",
            where=name,
            mend="check the name, the network and, for gated models, `hf auth login`",
        ) from error


def folder_here(name: str) -> Path | None:
    """Folder (or .gguf file) of a model by path; None of a Hub name, which nothing is asked about.

    Raises:
        ModelError: no such path, and not a Hub name.
    """
    path = Path(name).expanduser()
    if _is_model(path / "model") and not _is_model(path):
        return path / "model"  # a run's folder stands for the model, or the adapters, that came of it
    if (path / "recipe.json").is_file() and not _is_model(path):
        raise ModelError("a run that has no model yet", where=name, mend="run its command again: it goes on and ends with one")
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if path.is_file():
        raise ModelError("a file that is no model", where=name, mend="give a model folder, a .gguf file or a Hub name")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith(".") or path.suffix == ".gguf":
        raise ModelError("no such folder", where=name, mend=MEND)
    return None


def dataset_folder(name: str, files: tuple[str, ...], *, revision: str | None = None) -> Path:
    """Folder of a Hub dataset's files, archives unpacked beside themselves: what rows only name, such as videos.

    Args:
        files: patterns of the files to download.

    Raises:
        DataError: the Hub does not give it, or an archive is damaged.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        with attempts_held():
            folder = Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=list(files)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        mend = "check the network and, for gated data, `hf auth login`; or give a folder with --data"
        what = f"the Hub did not give its files ({type(error).__name__}{last_attempt(error)})"
        raise DataError(what, where=name, mend=mend) from error
    unpack(folder)
    return folder


@contextmanager
def attempts_held() -> Iterator[None]:
    """What huggingface_hub warns of each failed attempt, held back while a call of ours runs.

    Where the call fails, our one line says it: `last_attempt` of the error has the last warning and how many there were. Where it
    ends otherwise, the warnings come behind it, for they are why it took long.
    """
    held: list[logging.LogRecord] = []

    def hold(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if not (FAILED.search(text) or WAITING.match(text)):
            return True
        held.append(record)
        return False

    logger = logging.getLogger(ATTEMPTS)
    logger.filters.insert(0, hold)  # before that of a call around this one, which has another error
    try:
        yield
    except UserError:  # a line that was made without them
        raise
    except Exception as error:
        if failed := [text for text in (record.getMessage() for record in held) if FAILED.search(text)]:
            error.add_note(f"tried {len(failed)} times, last: {failed[-1]}")
        held.clear()
        raise
    finally:
        logger.removeFilter(hold)
        for record in held:
            logger.handle(record)


def last_attempt(error: BaseException) -> str:
    """What `attempts_held` noted on an error, to stand behind other words; empty where it noted nothing."""
    return "".join(f"; {note}" for note in getattr(error, "__notes__", ()))


def unpack(folder: Path) -> None:
    """Unpack a folder's archives into it, each once: a marker stands beside what was unpacked whole.

    Raises:
        DataError: a damaged archive.
    """
    for archive in sorted(path for path in folder.rglob("*") if path.name.endswith((".zip", ".tar", ".tar.gz"))):
        marker = archive.with_name(f"{archive.name}.unpacked")
        if marker.exists():
            continue
        try:
            if archive.suffix == ".zip":  # zipfile keeps members inside by itself
                shutil.unpack_archive(archive, archive.parent)
            else:
                shutil.unpack_archive(archive, archive.parent, filter="data")
        except (shutil.ReadError, tarfile.TarError, zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
            raise DataError(f"a damaged archive ({error})", where=archive, mend="delete it and run again") from error
        marker.touch()


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
