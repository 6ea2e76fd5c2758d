"""RewardBench's arithmetic: wins to accuracies, accuracies to sections, sections to one number."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from scipy.stats import binomtest

from reward_benchmark.datasets.rewardbench import SECTIONS
from reward_benchmark.outcome import Outcome


class Interval(NamedTuple):
    """A confidence interval of an accuracy."""

    low: float
    high: float


@dataclass(slots=True)
class Tally:
    """Counts over some pairs; ties and errors are among the losses."""

    count: int = 0
    wins: int = 0
    ties: int = 0
    truncated: int = 0
    """Pairs of which the service dropped the start of the prompt."""
    error_codes: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Count one more pair."""
        self.count += 1
        self.wins += outcome.win
        self.ties += outcome.tie
        self.truncated += outcome.truncated_tokens is not None
        if outcome.error is not None:
            self.error_codes[outcome.error.code] += 1

    @property
    def errors(self) -> int:
        """Pairs that have no scores."""
        return self.error_codes.total()

    @property
    def accuracy(self) -> float:
        """Fraction of pairs won."""
        return self.wins / self.count

    @property
    def ci95(self) -> Interval:
        """Wilson's 95 % interval of the accuracy, which stays sensible at 0, at 1 and for few."""
        interval = binomtest(self.wins, self.count).proportion_ci(method="wilson")
        return Interval(float(interval.low), float(interval.high))


@dataclass(frozen=True, slots=True)
class Metrics:
    """Everything that is computed from a run's outcomes."""

    total: Tally
    subsets: Mapping[str, Tally]
    """In the order of their first pair."""
    sections: Mapping[str, float]
    """RewardBench's sections, as far as the data has pairs of them."""

    @property
    def overall(self) -> float:
        """The plain mean of the sections; without sections the fraction of all pairs won."""
        return fmean(self.sections.values()) if self.sections else self.total.accuracy


def measure(outcomes: Iterable[Outcome]) -> Metrics:
    """Count outcomes (at least one) and take RewardBench's averages of them."""
    total = Tally()
    subsets: dict[str, Tally] = {}
    for outcome in outcomes:
        total.add(outcome)
        subsets.setdefault(outcome.subset, Tally()).add(outcome)
    sections = section_scores({name: tally.accuracy for name, tally in subsets.items()})
    return Metrics(total, subsets, sections)


def section_scores(accuracies: Mapping[str, float]) -> dict[str, float]:
    """Weighted mean accuracy of each section over its subsets that are present.

    Empty where any subset is not RewardBench's: a section that leaves out pairs would mislead.
    """
    if not accuracies.keys() <= {name for weights in SECTIONS.values() for name in weights}:
        return {}
    sections = {}
    for section, weights in SECTIONS.items():
        present = {name: weight for name, weight in weights.items() if name in accuracies}
        if present:
            weighted = sum(accuracies[name] * weight for name, weight in present.items())
            sections[section] = weighted / sum(present.values())
    return sections
