"""A set's arithmetic: credits to accuracies, accuracies to sections, sections to one number."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from reward_benchmark.datasets.benchmark import Benchmark
from reward_benchmark.outcome import Outcome
from reward_benchmark.statistics import Estimate, accuracy, weighted_mean


@dataclass(slots=True)
class Tally:
    """Counts over some groups; an error earns nothing."""

    count: int = 0
    wins: int = 0
    ties: int = 0
    truncated: int = 0
    """Groups of which the service dropped the start of the prompt."""
    credits: Counter[float] = field(default_factory=Counter)
    """How many groups have which credit; for most sets, 1 for a win and 0 for a loss."""
    error_codes: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome, credit: float) -> None:
        """Count one more group."""
        self.count += 1
        self.wins += outcome.win
        self.ties += outcome.tie
        self.truncated += outcome.truncated_tokens is not None
        self.credits[credit] += 1
        if outcome.error is not None:
            self.error_codes[outcome.error.code] += 1

    @property
    def credit(self) -> float:
        """What the groups earn together."""
        return math.fsum(credit * times for credit, times in self.credits.items())

    @property
    def errors(self) -> int:
        """Groups that have no scores."""
        return self.error_codes.total()


@dataclass(frozen=True, slots=True)
class SubsetMetrics:
    """The number of one subset, and what it is made of."""

    estimate: Estimate
    tally: Tally


@dataclass(frozen=True, slots=True)
class Metrics:
    """Everything that is computed from a run's outcomes."""

    benchmark: Benchmark
    total: Tally
    subsets: Mapping[str, SubsetMetrics]
    """In the order of their first group."""
    sections: Mapping[str, Estimate]
    """The set's sections, as far as the data has groups of them."""
    overall: Estimate
    absent: tuple[str, ...] = ()
    """What the overall number should be made of too, but the data has none of.

    If it has none of all, the number is that of what there is.
    """


def measure(outcomes: Iterable[Outcome], benchmark: Benchmark) -> Metrics:
    """Count outcomes (at least one) and take the set's averages of them."""
    total = Tally()
    tallies: dict[str, Tally] = {}
    kept: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.subset in benchmark.groupwise:
            kept.setdefault(outcome.subset, []).append(outcome)
        credits = [*benchmark.credits(outcome)]
        total.add(outcome, credits[0][1])
        for subset, credit in credits:
            tallies.setdefault(subset, Tally()).add(outcome, credit)
    subsets = {
        name: SubsetMetrics(
            benchmark.groupwise[name](kept[name]) if name in kept else accuracy(tally.credits),
            tally,
        )
        for name, tally in tallies.items()
    }
    estimates = {name: subset.estimate for name, subset in subsets.items()}
    sections = section_estimates(estimates, benchmark.sections)
    # A subset may have a section's name; where there are sections, it is not meant by it.
    named = sections if benchmark.sections else estimates
    weights = benchmark.overall or {}
    # Data of other subsets than the set's have a number of their own, which lacks nothing.
    absent = tuple(name for name in weights if name not in named) if named else ()
    if not weights.keys() & named.keys():
        return Metrics(benchmark, total, subsets, sections, accuracy(total.credits), absent)
    overall = weighted_mean(named, weights)
    return Metrics(benchmark, total, subsets, sections, overall, absent)


def section_estimates(
    subsets: Mapping[str, Estimate], sections: Mapping[str, Mapping[str, float]]
) -> dict[str, Estimate]:
    """Weighted mean accuracy of each section over its subsets that are present.

    Empty where any subset is of no section: a section that leaves out groups would mislead.
    """
    if not subsets.keys() <= {name for weights in sections.values() for name in weights}:
        return {}
    return {
        section: weighted_mean(subsets, weights)
        for section, weights in sections.items()
        if weights.keys() & subsets.keys()
    }
