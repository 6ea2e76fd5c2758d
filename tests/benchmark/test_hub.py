"""Hub datasets, from folders laid out like RewardBench's repository."""

import socket
import time
from pathlib import Path
from typing import Any

import datasets
import httpx
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from reward_benchmark.datasets import open_dataset
from reward_benchmark.datasets.hub import open_hub_split
from reward_benchmark.errors import DatasetError

ROWS: list[dict[str, Any]] = [
    {"prompt": "p", "chosen": "c", "rejected": "r", "subset": "mt-bench-easy", "id": i}
    for i in range(3)
]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    data = tmp_path / "reward-bench" / "data"
    data.mkdir(parents=True)
    for split, rows in {"filtered": ROWS, "raw": [*ROWS, {**ROWS[0], "id": 3}]}.items():
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, data / f"{split}-00000-of-00001.parquet")
    return data.parent


def test_a_split_is_read_in_order_as_often_as_asked(repository: Path):
    dataset = open_dataset(f"{repository}:filtered")
    assert [pair.id for pair in dataset] == [pair.id for pair in dataset] == [0, 1, 2]
    assert dataset.scan().subsets == {"mt-bench-easy": 3}
    assert dataset.location == f"{repository}:filtered"


def test_content_has_the_same_hash_as_in_a_file(repository: Path):
    file = repository / "data" / "filtered-00000-of-00001.parquet"
    hub = open_dataset(f"{repository}:filtered").scan()
    assert hub == open_dataset(str(file)).scan()


def test_a_split_must_be_chosen_among_several(repository: Path):
    with pytest.raises(DatasetError, match=r"has the splits filtered, raw: choose one"):
        open_hub_split(str(repository))


def test_an_only_split_needs_no_name(repository: Path):
    (repository / "data" / "raw-00000-of-00001.parquet").unlink()
    assert open_dataset(str(repository)).scan().subsets == {"mt-bench-easy": 3}


def test_an_unknown_split_is_told_what_is_known(repository: Path):
    with pytest.raises(DatasetError, match=r'Unknown split "test"\. Should be one of .*filtered'):
        open_hub_split(str(repository), "test")


def test_a_bad_row_is_named(repository: Path):
    table = pyarrow.Table.from_pylist([*ROWS, {**ROWS[0], "id": 1}])
    pyarrow.parquet.write_table(table, repository / "data" / "filtered-00000-of-00001.parquet")
    with pytest.raises(DatasetError, match=r"reward-bench:filtered, row 4: id 1 of subset"):
        open_dataset(f"{repository}:filtered").scan()


def test_rewardbench_is_fetched_from_the_hub_which_offline_cannot_be_done():
    with pytest.raises(DatasetError, match=r"allenai/reward-bench:filtered.*HF_HUB_OFFLINE is set"):
        open_dataset("rewardbench")


@pytest.fixture
def lost_hub(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a hub that nobody listens at, which is used as if there were a network."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    return url


def test_a_hub_that_cannot_be_reached_is_asked_once_and_quietly(
    lost_hub: str, capfd: pytest.CaptureFixture[str]
):
    reason = f"{lost_hub} cannot be reached: .*Connection refused.*the cache does not hold it"
    began = time.monotonic()
    for name in ("rewardbench", "rewardbench-2", "owner/name"):
        with pytest.raises(DatasetError, match=reason):
            open_dataset(name)
    assert time.monotonic() - began < 25, "the libraries' own attempts take half a minute"
    assert capfd.readouterr() == ("", "")
    assert not datasets.config.HF_HUB_OFFLINE
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


@pytest.mark.usefixtures("lost_hub")
def test_a_copy_here_needs_no_hub(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(httpx, "head")  # whoever asks, fails
    assert open_dataset(f"{repository}:filtered").scan().subsets == {"mt-bench-easy": 3}
