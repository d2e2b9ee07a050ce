"""Tables of the Hub: one configuration, or several one behind the other."""

from __future__ import annotations

from smolforge.data.sources.files import undecoded
from smolforge.data.sources.rows import Table
from smolforge.errors import DataError
from smolforge.hub import attempts_held, last_attempt

MEND = "check the name, its configuration and split, the network and, for gated data, `hf auth login`"


def hub_table(hub: str, name: str | None, split: str, *, revision: str | None = None) -> Table:
    """A dataset of the Hub as a table, pictures and videos as bytes.

    Raises:
        DataError: the Hub does not give it.
    """
    import datasets
    from huggingface_hub.errors import HTTPError  # without a network the transfer's own, which is no OSError

    try:
        with attempts_held():
            return undecoded(datasets.load_dataset(hub, name, split=split, revision=revision))
    except (HTTPError, OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise refusal(hub, name, error) from error


def hub_configs(hub: str, revision: str | None = None) -> tuple[str, ...]:
    """Names of a Hub dataset's configurations.

    Raises:
        DataError: the Hub does not tell them.
    """
    import datasets
    from huggingface_hub.errors import HTTPError

    try:
        with attempts_held():
            return tuple(datasets.get_dataset_config_names(hub, revision=revision))
    except (HTTPError, OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise refusal(hub, None, error) from error


def refusal(hub: str, name: str | None, error: BaseException) -> DataError:
    """What a person is told when the Hub does not give a dataset, or one of its configurations."""
    asked = f"{hub} ({name})" if name else hub
    what = f"the Hub did not give {asked} ({type(error).__name__}: {error}{last_attempt(error)})"
    return DataError(what, where=hub, mend=MEND)
