"""Reads rows of preference data from the Hugging Face hub, or from a folder laid out alike."""

import datasets

from reward_benchmark.datasets.dataset import Dataset
from reward_benchmark.errors import DatasetError


def open_hub_dataset(hub_id: str, *, split: str | None = None, name: str | None = None) -> Dataset:
    """A hub dataset; without a split it must have only one.

    The whole split is fetched into the cache at once, and rows are then read from disk: every
    reading has the same order, and a resumed run needs no network.
    """
    address = f"{hub_id}:{split}" if split else hub_id
    try:
        loaded = datasets.load_dataset(hub_id, split=split)
    # What `datasets` and its file systems raise shares no root below Exception.
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(_explained(address, error)) from error
    if split is None:
        if len(loaded) > 1:
            raise DatasetError(
                f"dataset {hub_id!r} has the splits {', '.join(loaded)}: choose one, "
                f"as in {hub_id}:{next(iter(loaded))}"
            )
        [loaded] = loaded.values()
    return Dataset(name or address, address, "row", lambda: enumerate(loaded, start=1))


def _explained(address: str, error: Exception) -> str:
    reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
    remedy = ""
    if datasets.config.HF_HUB_OFFLINE:
        remedy = "; HF_HUB_OFFLINE is set and the cache does not hold it: fetch it once without"
    elif isinstance(error, ConnectionError):
        remedy = "; without a connection, pass a local file instead"
    return f"dataset {address!r} cannot be loaded: {' '.join(reason.split())}{remedy}"
