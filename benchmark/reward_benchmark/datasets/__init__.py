"""Datasets by name: the known sets, the bundled sample, a local file, or any hub dataset."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from reward_benchmark.datasets.benchmark import Benchmark
from reward_benchmark.datasets.dataset import Contents, Dataset, Selection, Source
from reward_benchmark.datasets.files import SUFFIXES, open_file, open_folder, split_of
from reward_benchmark.datasets.judgebench import JUDGEBENCH
from reward_benchmark.datasets.prior import PRIOR
from reward_benchmark.datasets.rewardbench import REWARDBENCH
from reward_benchmark.datasets.rewardbench_2 import REWARDBENCH_2
from reward_benchmark.datasets.rm_bench import RM_BENCH
from reward_benchmark.datasets.rmb import RMB
from reward_benchmark.datasets.row import PreferenceRows
from reward_benchmark.errors import DatasetError
from reward_benchmark.group import Group

__all__ = [
    "BENCHMARKS",
    "CANDIDATES_COLUMNS",
    "PREFERENCES",
    "Benchmark",
    "Contents",
    "Dataset",
    "Selection",
    "open_dataset",
]

SAMPLE = Path(__file__).with_name("sample.jsonl")

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (REWARDBENCH, PRIOR, REWARDBENCH_2, RM_BENCH, JUDGEBENCH, RMB)
}
"""The known sets, in the order of a leaderboard's columns."""


PREFERENCES = replace(
    # With RewardBench's subsets, a file has RewardBench's sections, whatever it is called.
    REWARDBENCH,
    name="preferences",
    title="Preference data",
    source=None,
)
"""Any file or hub dataset of pairs."""

CANDIDATES_COLUMNS = ("candidates", "completions", "outputs", "output")
"""What a column of completions without a preference may be called; the first one counts."""


def open_dataset(name: str) -> Dataset:
    """The dataset that a user means.

    Args:
        name: a known set, read from the hub; `SET=PATH` for a local copy of one, a file or a
            folder; `sample`; a file; or a hub id, maybe with `:split`.

    Raises:
        DatasetError: it is none of them, or the hub does not give it.
    """
    known, separator, path = name.partition("=")
    if separator and known in BENCHMARKS:
        return Dataset(known, _local_copy(BENCHMARKS[known], Path(path)), BENCHMARKS[known])
    if name in BENCHMARKS:
        return Dataset(name, _hub_copy(BENCHMARKS[name]), BENCHMARKS[name])
    if name == "sample":
        return _preferences(name, open_file(SAMPLE))
    if name.endswith(SUFFIXES):
        return _preferences(Path(name).name, open_file(Path(name)))
    if "/" not in name and not Path(name).is_dir():
        raise DatasetError(
            f"dataset {name!r} is not {', '.join(BENCHMARKS)}, `sample`, "
            f"a file ({', '.join(SUFFIXES)}) or a hub id such as owner/name[:split]"
        )
    # `datasets` takes a second to import, which only hub datasets should cost.
    from reward_benchmark.datasets.hub import open_hub_split

    hub_id, _, split = name.partition(":")
    return _preferences(name, open_hub_split(hub_id, split or None))


def _preferences(name: str, source: Source) -> Dataset:
    """Preference data whose rows have one form, and are told what else they could be."""
    rows = PreferenceRows()

    def parse(row: object, number: int, split: str | None) -> Group:
        try:
            return rows(row, number, split)
        except ValueError as error:
            for known, benchmark in BENCHMARKS.items():
                try:
                    benchmark.parse(row, number, split)
                except ValueError:
                    continue
                hint = f"its columns are those of {benchmark.title}: pass --dataset {known}=FILE"
                raise ValueError(f"{error}; {hint}") from error
            if _only_to_score(row):
                hint = "completions without a preference are scored by best-of-n --candidates"
                raise ValueError(f"{error}; {hint}") from error
            raise

    return Dataset(name, (source,), replace(PREFERENCES, parse=parse))


def _only_to_score(row: object) -> bool:
    """Whether a row has completions, in columns that `best-of-n` reads, and no preference."""
    if not isinstance(row, Mapping) or row.keys() & {"chosen", "rejected"}:
        return False
    return bool(row.keys() & {"messages", *CANDIDATES_COLUMNS})


def _hub_copy(benchmark: Benchmark) -> tuple[Source, ...]:
    if benchmark.source is None:
        raise DatasetError(
            f"the hub has no copy of {benchmark.title}: name a local one, as in "
            f"{benchmark.name}=FOLDER"
        )
    from reward_benchmark.datasets.hub import open_hub_splits

    hub_id, splits, config = benchmark.source
    return open_hub_splits(hub_id, splits, config=config)


def _local_copy(benchmark: Benchmark, path: Path) -> tuple[Source, ...]:
    if not path.exists():
        raise DatasetError(f"{path.resolve()}, named as a copy of {benchmark.title}, is not there")
    if not path.is_dir():
        return (open_file(path, split=split_of(path.name)),)
    sources = open_folder(path)
    wanted = benchmark.source.splits if benchmark.source else ()
    # A copy of the whole repository has splits that the set does not use.
    used = tuple(source for source in sources if source.split in wanted)
    return used or sources
