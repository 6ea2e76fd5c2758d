"""Reads rows of preference data from the Hugging Face hub, or from a folder laid out alike."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import datasets
import httpx
import huggingface_hub

from reward_benchmark.datasets.dataset import Source
from reward_benchmark.errors import DatasetError

PROBE_SECONDS = 10.0
"""How long the hub may take to answer at all."""


def open_hub_splits(
    hub_id: str, splits: Sequence[str] = (), *, config: str | None = None
) -> tuple[Source, ...]:
    """Splits of a hub dataset, in the order that is asked for; none named means all.

    A whole split is fetched into the cache at once, and rows are then read from disk: every
    reading has the same order, and a resumed run needs no network.
    """
    if not splits:
        loaded = _load(hub_id, config, None)
        return tuple(_source(hub_id, split, rows) for split, rows in loaded.items())
    return tuple(_source(hub_id, split, _load(hub_id, config, split)) for split in splits)


def open_hub_split(hub_id: str, split: str | None = None) -> Source:
    """One split of a hub dataset; without a name it must be the only one."""
    if split is not None:
        return open_hub_splits(hub_id, [split])[0]
    loaded = _load(hub_id, None, None)
    if len(loaded) > 1:
        raise DatasetError(
            f"dataset {hub_id!r} has the splits {', '.join(loaded)}: choose one, "
            f"as in {hub_id}:{next(iter(loaded))}"
        )
    [rows] = loaded.values()
    return Source(_location(hub_id), "row", lambda: enumerate(rows, start=1))


def _source(hub_id: str, split: str, rows: datasets.Dataset) -> Source:
    location = f"{_location(hub_id)}:{split}"
    return Source(location, "row", lambda: enumerate(rows, start=1), split)


def _location(hub_id: str) -> str:
    """What is on record: for a folder, where it is from anywhere."""
    return str(Path(hub_id).resolve()) if Path(hub_id).is_dir() else hub_id


def _load(hub_id: str, config: str | None, split: str | None) -> datasets.Dataset:
    address = f"{hub_id}:{split}" if split else hub_id
    asks_hub = not datasets.config.HF_HUB_OFFLINE and not Path(hub_id).is_dir()
    lost = _lost_hub(huggingface_hub.constants.ENDPOINT) if asks_hub else None
    try:
        with _quiet(), _offline(lost is not None):
            return datasets.load_dataset(hub_id, config, split=split)
    # What `datasets` and its file systems raise shares no root below Exception.
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(_explained(address, error, lost)) from error


@cache
def _lost_hub(endpoint: str) -> str | None:
    """Why the hub cannot be reached, asked once for all sets; `None` where it answers.

    Left to itself, `datasets` tries again for half a minute for every split, even of a set that
    the cache holds.
    """
    try:
        httpx.head(endpoint, timeout=PROBE_SECONDS)
    except httpx.TransportError as error:
        return f"{endpoint} cannot be reached: {str(error) or type(error).__name__}"
    return None


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Have only the cache asked, as with HF_HUB_OFFLINE, which is read at import."""
    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    if wanted:
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' warnings from the terminal: what matters is raised."""
    logs = (datasets.logging, huggingface_hub.logging)
    before = [log.get_verbosity() for log in logs]
    for log in logs:
        log.set_verbosity_error()
    try:
        yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.set_verbosity(level)


def _explained(address: str, error: Exception, lost: str | None) -> str:
    if lost is not None:
        return (
            f"dataset {address!r} cannot be loaded: {lost}, and the cache does not hold it; "
            "pass a local file instead, or try again with a connection"
        )
    reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
    remedy = ""
    if datasets.config.HF_HUB_OFFLINE:
        remedy = "; HF_HUB_OFFLINE is set and the cache does not hold it: fetch it once without"
    elif isinstance(error, ConnectionError):
        remedy = "; without a connection, pass a local file instead"
    return f"dataset {address!r} cannot be loaded: {' '.join(reason.split())}{remedy}"
