"""The runs of a report: measured, told apart by name, and put together where data are the same."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reward_benchmark.datasets import PREFERENCES, Benchmark
from reward_benchmark.datasets.rewardbench import REWARDBENCH
from reward_benchmark.distributions import Distributions, Samples, distributions, not_log_odds
from reward_benchmark.leaderboard import BASELINES
from reward_benchmark.metrics import Metrics, measure
from reward_benchmark.report.chance import Chance, chance
from reward_benchmark.saved_run import SavedRun, open_saved_run

READABLE_RUNS = 6
"""As many fit into a picture, or beside each other under a pair."""


@dataclass(frozen=True, eq=False)
class ReportedRun:
    """A run and everything that is computed from its outcomes."""

    name: str
    """Its model, with its place where several runs are of one model."""
    saved: SavedRun

    @property
    def is_baseline(self) -> bool:
        """Whether it is no model."""
        settings = self._provenance.get("run") or {}
        return settings.get("scorer", self.saved.model) in BASELINES

    @cached_property
    def metrics(self) -> Metrics:
        """Accuracies."""
        return measure(self.saved.outcomes(), self.saved.benchmark)

    @cached_property
    def samples(self) -> Samples:
        """Scores and lengths."""
        return Samples(self.saved.benchmark.worth, self.saved.outcomes())

    @cached_property
    def distributions(self) -> Distributions:
        """What the samples say."""
        return distributions(self.samples)

    @property
    def states_probabilities(self) -> bool:
        """Whether the sigmoid of a margin is meant as a probability."""
        return not self.is_baseline and not_log_odds(self.saved.document) is None

    @property
    def _provenance(self) -> Mapping[str, Any]:
        return self.saved.document.get("provenance") or {}


@dataclass(frozen=True)
class ReportedSet:
    """Runs over the same groups."""

    number: int
    """Counted from 1; the anchors of its sections start with it."""
    runs: Sequence[ReportedRun]
    """The best first."""

    @property
    def benchmark(self) -> Benchmark:
        """What the outcomes mean."""
        benchmarks = (run.saved.benchmark for run in self.runs)
        return next((one for one in benchmarks if one is not PREFERENCES), PREFERENCES)

    @property
    def models(self) -> Sequence[ReportedRun]:
        """The runs that are no baselines; all, where there is nothing else."""
        return [run for run in self.runs if not run.is_baseline] or self.runs

    @property
    def shown(self) -> Sequence[ReportedRun]:
        """The models that pictures have room for, the best ones."""
        return self.models[:READABLE_RUNS]

    @property
    def baselines(self) -> Sequence[ReportedRun]:
        """What the models are held against."""
        return [run for run in self.runs if run not in self.models]

    @property
    def dataset(self) -> SavedRun:
        """The run that knows best which data it was over."""
        known = (run.saved for run in self.runs if run.saved.dataset_sha256)
        return next(known, self.runs[0].saved)

    @property
    def title(self) -> str:
        """What the data are called."""
        if self.benchmark is PREFERENCES:
            return self.dataset.dataset
        return self.benchmark.title

    @property
    def known_as(self) -> str | None:
        """The name of the known set that this is; a file may be a copy of RewardBench."""
        if self.benchmark is not PREFERENCES:
            return self.benchmark.name
        return REWARDBENCH.name if self.runs[0].metrics.sections else None

    @property
    def size(self) -> str:
        """How many groups there are, as `2,985 pairs`."""
        return counted(self.runs[0].metrics.total.count, self.benchmark.noun)

    @cached_property
    def chance(self) -> Chance:
        """What guessing would earn."""
        return chance(self.runs[0].saved.outcomes(), self.benchmark)


def open_runs(paths: Iterable[Path]) -> list[ReportedRun]:
    """The finished runs in these directories.

    Raises:
        RunDirectoryError: one holds none.
    """
    distinct = {path.resolve(): path for path in paths}
    saved = [open_saved_run(path) for path in distinct.values()]
    # A model may be here once for each set, which is no reason to tell its runs apart.
    times = Counter((run.model, run.benchmark.name, run.dataset) for run in saved)
    return [
        ReportedRun(
            run.model
            if times[run.model, run.benchmark.name, run.dataset] == 1
            else f"{run.model} ({run.path})",
            run,
        )
        for run in saved
    ]


def grouped(runs: Iterable[ReportedRun]) -> list[ReportedSet]:
    """The runs by set, in the order of each set's first run."""
    sets: list[list[ReportedRun]] = []
    # Runs that know their data first: one that does not can only be put beside another.
    for run in sorted(runs, key=lambda run: run.saved.dataset_sha256 is None):
        for others in sets:
            if _same_groups(run, others[0]):
                others.append(run)
                break
        else:
            sets.append([run])
    return [
        ReportedSet(number, sorted(members, key=lambda run: -run.metrics.overall.value))
        for number, members in enumerate(sets, start=1)
    ]


def counted(count: int, noun: str) -> str:
    """As `1 pair` or `2,985 pairs`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _same_groups(one: ReportedRun, other: ReportedRun) -> bool:
    hashes = {one.saved.dataset_sha256, other.saved.dataset_sha256} - {None}
    # A file of pairs may be a copy of RewardBench, whose rules it then has.
    names = {one.saved.benchmark.name, other.saved.benchmark.name} - {PREFERENCES.name}
    return len(names) <= 1 and len(hashes) <= 1 and _counts(one) == _counts(other)


def _counts(run: ReportedRun) -> dict[str, int]:
    # A selection takes the first ones of a subset: equal counts of one dataset are equal groups.
    return {name: subset.tally.count for name, subset in run.metrics.subsets.items()}
