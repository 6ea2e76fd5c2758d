"""Datasets by name: RewardBench, the bundled sample, a local file, or any hub dataset."""

from pathlib import Path

from reward_benchmark.datasets import rewardbench
from reward_benchmark.datasets.dataset import Contents, Dataset, Selection
from reward_benchmark.datasets.preference_file import SUFFIXES, open_preference_file
from reward_benchmark.errors import DatasetError

__all__ = ["Contents", "Dataset", "Selection", "open_dataset"]

SAMPLE = Path(__file__).with_name("sample.jsonl")


def open_dataset(name: str) -> Dataset:
    """The dataset that a user means by `rewardbench`, `sample`, a file or a hub id.

    Raises:
        DatasetError: it is none of them, or the hub does not give it.
    """
    if name == "sample":
        return open_preference_file(SAMPLE, name=name)
    if name.endswith(SUFFIXES):
        return open_preference_file(Path(name))
    if name != "rewardbench" and "/" not in name and not Path(name).is_dir():
        raise DatasetError(
            f"dataset {name!r} is not `rewardbench`, `sample`, "
            f"a file ({', '.join(SUFFIXES)}) or a hub id such as {rewardbench.HUB_ID}[:split]"
        )
    # `datasets` takes a second to import, which only hub datasets should cost.
    from reward_benchmark.datasets.hub import open_hub_dataset

    if name == "rewardbench":
        return open_hub_dataset(rewardbench.HUB_ID, split=rewardbench.SPLIT, name=name)
    hub_id, _, split = name.partition(":")
    return open_hub_dataset(hub_id, split=split or None, name=name)
