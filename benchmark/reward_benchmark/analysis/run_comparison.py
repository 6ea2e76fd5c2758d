"""Scores and margins of saved runs, side by side."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations_with_replacement
from statistics import fmean
from typing import Any

import numpy

from reward_benchmark.datasets import Benchmark
from reward_benchmark.distributions import Spread, spread
from reward_benchmark.errors import BenchmarkError
from reward_benchmark.group import Key
from reward_benchmark.metrics import measure
from reward_benchmark.outcome import Outcome
from reward_benchmark.rewardbench_files import PublishedAccuracies
from reward_benchmark.statistics import Estimate, correlation
from reward_benchmark.text_table import Cell, TextTable

LARGEST = 1e100
"""Numbers beyond it are taken for it: squares of larger ones would not be numbers."""


@dataclass(slots=True)
class RunScores:
    """The numbers of one run."""

    name: str
    """What the run is called in tables and pictures."""
    chosen: list[float] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)
    """Scores of all completions of a side."""
    margins: dict[Key, float] = field(default_factory=dict)
    """Of each group that has scores."""
    credits: dict[Key, float] = field(default_factory=dict)
    """What each group earns, as `Benchmark.worth`; one without scores earns nothing."""
    by_order: frozenset[str] = frozenset()
    """Subsets whose groups are told apart by their order instead of their ids."""
    accuracies: Mapping[str, Estimate] = field(default_factory=dict)
    """The numbers of the set's subsets, which need not be those of its rows."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Groups that each of these numbers is made of, as far as that is known."""

    def size(self, subset: str) -> int:
        """Groups of one of the rows' subsets, with scores or without."""
        return sum(name == subset for name, _ in self.credits)

    def margins_of(self, subset: str) -> list[float]:
        """Of the groups of a subset that have scores."""
        return [margin for (name, _), margin in self.margins.items() if name == subset]


def run_scores(
    name: str,
    outcomes: Iterable[Outcome],
    benchmark: Benchmark,
    *,
    by_order: frozenset[str] = frozenset(),
) -> RunScores:
    """The numbers in a run's outcomes; those without a preference are passed over.

    Args:
        benchmark: what they mean.
        by_order: subsets whose groups have a number in the order of the run for an id.

    Raises:
        BenchmarkError: there is not one with scores.
    """
    run = RunScores(name, by_order=by_order)
    places: Counter[str] = Counter()

    def collected() -> Iterator[Outcome]:
        for outcome in outcomes:
            if not outcome.num_chosen:
                continue
            subset, key = outcome.subset, outcome.key
            if subset in by_order:
                places[subset] += 1
                key = subset, places[subset]
            run.credits[key] = benchmark.worth(outcome)
            if (margin := outcome.margin) is not None:
                run.margins[key] = _drawable(margin)
            run.chosen += map(_drawable, outcome.chosen_scores)
            run.rejected += map(_drawable, outcome.rejected_scores)
            yield outcome

    with_preference = collected()
    if (first := next(with_preference, None)) is not None:
        metrics = measure(chain([first], with_preference), benchmark)
        run.accuracies = {name: one.estimate for name, one in metrics.subsets.items()}
        run.counts = {name: one.tally.count for name, one in metrics.subsets.items()}
    if not run.margins:
        raise BenchmarkError(f"{name} has no group with scores: there is nothing to show")
    return run


def published_numbers(name: str, published: PublishedAccuracies) -> RunScores:
    """The numbers of a file that has no scores, but accuracies alone."""
    estimates = {subset: Estimate(value) for subset, value in published.accuracies.items()}
    return RunScores(name, accuracies=estimates, counts=published.benchmark.counts)


@dataclass(frozen=True, slots=True)
class RunSpread:
    """How a run's numbers are spread."""

    name: str
    chosen: Spread
    """Of the scores of chosen completions."""
    rejected: Spread
    margins: Spread
    positive: float
    """Share of the margins above 0."""
    zero: float
    """Share of those that are 0."""


def run_spread(run: RunScores) -> RunSpread:
    """How the numbers of a run are spread."""
    margins = numpy.array(list(run.margins.values()))
    return RunSpread(
        run.name,
        spread(numpy.array(run.chosen)),
        spread(numpy.array(run.rejected)),
        spread(margins),
        positive=float((margins > 0).mean()),
        zero=float((margins == 0).mean()),
    )


def scores_table(runs: Sequence[RunSpread]) -> TextTable:
    """A row per run."""
    columns = ["Model", "n"]
    for what in ("chosen", "rejected", "margin"):
        columns += [f"{what} mean", f"{what} median", f"{what} s.d."]
    rows: list[list[Cell]] = []
    for run in runs:
        row: list[Cell] = [run.name, run.margins.count]
        for one in (run.chosen, run.rejected, run.margins):
            row += [one.mean, one.median, one.standard_deviation]
        rows.append([*row, 100 * run.positive, 100 * run.zero])
    return TextTable([*columns, "margin > 0 %", "margin = 0 %"], rows, digits=3)


def _drawable(number: float) -> float:
    return max(-LARGEST, min(LARGEST, number))


def subsets_table(runs: Sequence[RunScores]) -> TextTable:
    """Per subset every run's accuracy, in per cent."""
    rows = []
    for subset in all_subsets(runs):
        found = [run.accuracies.get(subset) for run in runs]
        rows.append((subset, *(None if one is None else 100 * one.value for one in found)))
    return TextTable(("Subset", *(run.name for run in runs)), rows)


def subsets_document(runs: Sequence[RunScores]) -> dict[str, Any]:
    """Subset → run → its accuracy with its interval, as JSON."""
    return {
        subset: {
            run.name: {"accuracy": one.value, "ci95": one.interval}
            for run in runs
            if (one := run.accuracies.get(subset)) is not None
        }
        for subset in all_subsets(runs)
    }


def all_subsets(runs: Sequence[RunScores]) -> list[str]:
    """The sets' subsets, in the order in which the runs first have them."""
    return list(dict.fromkeys(subset for run in runs for subset in run.accuracies))


def row_subsets(runs: Sequence[RunScores]) -> list[str]:
    """The subsets of the rows with margins, likewise."""
    return list(dict.fromkeys(subset for run in runs for subset, _ in run.margins))


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two runs agree on the groups that both have scores of."""

    first: str
    second: str
    count: int
    """Common groups."""
    pearson: float | None
    spearman: float | None
    """Correlation of the margins; `None` where one run's are all equal."""
    agreement: float | None
    """Share of the groups that earn the same in both."""


def agreements(runs: Sequence[RunScores]) -> list[Agreement]:
    """Of every two runs, each with itself too.

    Raises:
        BenchmarkError: no two runs have a group in common, or nothing says which they are.
    """
    found = []
    for first, second in combinations_with_replacement(runs, 2):
        _check_order(first, second)
        common = [key for key in first.margins if key in second.margins]
        pair = correlation(
            numpy.array([first.margins[key] for key in common], float),
            numpy.array([second.margins[key] for key in common], float),
        )
        same = [first.credits[key] == second.credits[key] for key in common]
        found.append(
            Agreement(
                first.name,
                second.name,
                len(common),
                pair.pearson,
                pair.spearman,
                fmean(same) if same else None,
            )
        )
    if len(runs) > 1 and not any(one.count for one in found if one.first != one.second):
        raise BenchmarkError(
            f"{', '.join(run.name for run in runs)} have no group (subset and id) in common: "
            "compare runs of one set"
        )
    return found


def _check_order(first: RunScores, second: RunScores) -> None:
    for subset in sorted(first.by_order):
        sizes = first.size(subset), second.size(subset)
        if all(sizes) and sizes[0] != sizes[1]:
            raise BenchmarkError(
                f"rows of {subset} are told apart by their order alone, but {first.name} has "
                f"{sizes[0]} of them and {second.name} {sizes[1]}: nothing says which are the same"
            )


def agreement_table(found: Sequence[Agreement]) -> TextTable:
    """A row for every two different runs."""
    return TextTable(
        ("First", "Second", "n", "Pearson", "Spearman", "agreement %"),
        [
            (
                one.first,
                one.second,
                one.count,
                one.pearson,
                one.spearman,
                None if one.agreement is None else 100 * one.agreement,
            )
            for one in found
            if one.first != one.second
        ],
        digits=3,
    )


def margin_unit(run: RunScores) -> float:
    """The standard deviation of a run's margins; 1 where they are all equal."""
    spread = float(numpy.std(list(run.margins.values())))
    return spread or 1.0
