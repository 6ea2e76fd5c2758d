"""Of which data the numbers in a file are: those of all sets have one name for one model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_benchmark.datasets import Benchmark
from reward_benchmark.datasets.row import shown
from reward_benchmark.rewardbench_files.layout import RewardBenchFileError
from reward_benchmark.rewardbench_files.reading import RETIRED, benchmark_of, subsets_in


def require_no_other_data(
    files: Iterable[tuple[str, Path]], results: Mapping[str, Any], *, option: str
) -> None:
    """See that a run's numbers would replace none of other data, which are nobody's to throw away.

    Args:
        files: what to call each, and where it is, the one of accuracies first; the first that is
            there and holds numbers stands for all.
        results: the content of the run's `results.json`.
        option: what says where the files go, for the message.

    Raises:
        RewardBenchFileError: they would.
    """
    for name, path in files:
        subsets, of_rows = subsets_in(path) if path.is_file() else (frozenset(), False)
        if not subsets:
            continue
        there = _Data(subsets, of_rows=of_rows)
        ours = _Data(frozenset(results["subsets"]))
        if there.is_other_than(ours):
            raise RewardBenchFileError(
                f"{name} holds the numbers of {there.title}, which those of {results['dataset']} "
                f"never replace, --overwrite or not: give each set an {option} of its own, as "
                "RewardBench gives each a repository of its own"
            )
        return


@dataclass(frozen=True, slots=True)
class _Data:
    subsets: frozenset[str]
    of_rows: bool = False
    """As for `benchmark_of`."""

    @property
    def benchmark(self) -> Benchmark | None:
        # Own data may have nothing but what RewardBench has retired.
        return benchmark_of(self.subsets - RETIRED or self.subsets, of_rows=self.of_rows)

    @property
    def title(self) -> str:
        if self.benchmark is not None:
            return self.benchmark.title
        return f"other data, with the subsets {shown(sorted(self.subsets))}"

    def is_other_than(self, data: "_Data") -> bool:
        """Two parts of a known set are one data, whatever each leaves out."""
        if self.benchmark is None and data.benchmark is None:
            return self.subsets.isdisjoint(data.subsets)
        return self.benchmark is not data.benchmark
