"""The Hub: a repository, and all files in one commit. What goes wrong there ends in one line that says what to change."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch

from smolforge.errors import UserError
from smolforge.hub import attempts_held, last_attempt
from smolforge.publishing.contents import File

LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"
# a loader would take these from a repository whether they are of this push or not
LOADED = ("config.json", "adapter_config.json", "*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.gguf")


def check_name(repo: str) -> None:
    """
    Raises:
        UserError: not a name that the Hub takes.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    mend = "give owner/name of letters, digits, ., - and _, such as jo/pets-256m"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII):
        raise UserError("not a name on the Hub", where=repo, mend=mend)
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"not a name on the Hub ({error})", where=repo, mend=mend) from error


def upload(repo: str, files: Sequence[File], *, private: bool = False) -> str:
    """Make the repository if it is not there, commit the files, and look whether they arrived.

    huggingface_hub's `upload_folder` does it in several commits where hf_xet is installed, and a push that was cut off would
    stand there as a model. `create_commit` makes one commit, or none.

    Returns:
        Address of the repository.

    Raises:
        UserError: offline, no token, no right to write, a public repository that should be private, or one that holds other
            weights.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        raise UserError("HF_HUB_OFFLINE is set, so nothing was pushed", where=repo, mend="unset it, or try --dry-run")
    if get_token() is None:
        raise UserError("no token for the Hub, so nothing was pushed", where=repo, mend=LOGIN)
    api = HfApi(library_name="smolforge")
    with _in_one_line(repo, api.endpoint):
        address = api.create_repo(repo, private=private or None, exist_ok=True)
        there = api.model_info(repo)
        _fits(repo, [one.rfilename for one in there.siblings or ()], files, private=private, is_private=bool(there.private))
        operations = [CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file.source) for file in files]
        api.create_commit(repo, operations, commit_message="Push with smolforge")
        arrived = {one.rfilename for one in api.model_info(repo).siblings or ()}
    if missing := [file.name for file in files if file.name not in arrived]:
        raise UserError(f"the Hub does not list {missing[0]} after the commit", where=str(address), mend="push again")
    return str(address)


def _fits(repo: str, there: Sequence[str], files: Sequence[File], *, private: bool, is_private: bool) -> None:
    """What an existing repository must be like. Raises UserError."""
    if private and not is_private:
        mend = "make it private in its settings on the Hub, or leave --private out"
        raise UserError("exists and is public, so nothing was pushed", where=repo, mend=mend)
    ours = {file.name for file in files}
    others = [name for name in there if name not in ours and any(fnmatch(name, pattern) for pattern in LOADED)]
    if others:
        mend = "choose another name, or delete it there"
        raise UserError(f"holds {others[0]}, which this push would leave beside its own weights", where=repo, mend=mend)


@contextmanager
def _in_one_line(repo: str, endpoint: str) -> Iterator[None]:
    """Errors of the Hub as UserError."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        with attempts_held():
            yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        said = error.server_message or str(error).splitlines()[0]
        what, mend = STATUS.get(status, ("the Hub refused the push", "look at what it says, and push again"))
        raise UserError(f"{what} ({status}: {said}{last_attempt(error)})", where=repo, mend=mend) from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        mend = "check the network and HF_ENDPOINT; --dry-run needs none"
        what = f"{endpoint} cannot be reached ({type(error).__name__}: {error}{last_attempt(error)})"
        raise UserError(what, where=repo, mend=mend) from error
    except (ValueError, RuntimeError, OSError) as error:  # metadata that the Hub does not take, hf_xet, or a file here
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise UserError(
            f"the push failed ({error}{cause}{last_attempt(error)})", where=repo, mend="mend what it names, and push again"
        ) from error


STATUS: dict[int, tuple[str, str]] = {
    400: ("the Hub does not take this", "mend what it names, such as --license"),
    401: ("the Hub does not know the token", LOGIN),
    403: ("the token may not write there", "use your own name or organisation, or " + LOGIN),
    404: ("no such place on the Hub for this token", "check the owner's name, or " + LOGIN),
    409: ("the Hub says it conflicts", "push again, or choose another name"),
    413: ("too large for the Hub", "push fewer or smaller files"),
    429: ("too many requests", "wait a while and push again"),
}
