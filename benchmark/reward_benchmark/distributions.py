"""What a run's scores are like beside who won: their spread, their margins, and length in them."""

from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reward_benchmark.outcome import Outcome
from reward_benchmark.statistics import (
    LengthReport,
    MarginReport,
    Observations,
    length_report,
    margin_report,
)
from reward_benchmark.statistics.observations import Floats

LARGEST_EXPONENT = 490
"""Of two: the squares of numbers below 2^490 can be added up."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Where some numbers lie; `None` where there are none."""

    count: int
    mean: float | None = None
    standard_deviation: float | None = None
    minimum: float | None = None
    lower_quartile: float | None = None
    median: float | None = None
    upper_quartile: float | None = None
    maximum: float | None = None


class Samples:
    """The scores and lengths of a run's outcomes as arrays, in about 90 bytes for a pair.

    Outcomes without a preference are passed over.

    Args:
        worth: what an outcome earns, as `Benchmark.worth`.
    """

    def __init__(self, worth: Callable[[Outcome], float], outcomes: Iterable[Outcome] = ()) -> None:
        self.observations = Observations(worth)
        self._chosen = array("d")
        self._rejected = array("d")
        for outcome in outcomes:
            self.add(outcome)

    def add(self, outcome: Outcome) -> None:
        """Take one more."""
        self.observations.add(outcome)
        if outcome.num_chosen:
            self._chosen.extend(outcome.chosen_scores)
            self._rejected.extend(outcome.rejected_scores)

    @property
    def chosen(self) -> Floats:
        """The scores of the chosen completions; no copy, so add no more while it is held."""
        return np.frombuffer(self._chosen)

    @property
    def rejected(self) -> Floats:
        """The scores of the other completions, likewise."""
        return np.frombuffer(self._rejected)


@dataclass(frozen=True, slots=True)
class Distributions:
    """What the scores of a run say together."""

    chosen: Spread
    """Of the scores of chosen completions."""
    rejected: Spread
    margins: MarginReport
    lengths: LengthReport

    def document(self) -> dict[str, Any]:
        """The blocks `scores`, `margins` and `lengths` of `results.json`."""
        return {
            "scores": {"chosen": asdict(self.chosen), "rejected": asdict(self.rejected)},
            "margins": asdict(self.margins),
            "lengths": asdict(self.lengths),
        }


def not_log_odds(document: Mapping[str, Any]) -> str | None:
    """Why the margins of a run are no log-odds, so that their sigmoid is no probability.

    Args:
        document: as of a `SavedRun`.
    """
    provenance = document.get("provenance") or {}
    service = provenance.get("info") or {}
    if "judges" in document:
        return "margins of judges are differences of verdicts or ratings"
    if "members" in document and (provenance.get("run") or {}).get("raw"):
        return "margins of ensembles of raw scores are differences of several models' scores"
    if "members" in document:
        return "margins of ensembles are differences of z-scores"
    if document.get("of_results"):
        return "margins of files without scores are results"
    if (service.get("model") or {}).get("kind") == "pairwise":
        return "margins of a pairwise model are differences of probabilities"
    if (provenance.get("run") or {}).get("scorer") == "length":
        return "margins of the length baseline are characters"
    return None


def distributions(samples: Samples) -> Distributions:
    """Everything about the scores that were sampled."""
    return Distributions(
        chosen=spread(samples.chosen),
        rejected=spread(samples.rejected),
        margins=margin_report(samples.observations.margins),
        lengths=length_report(samples.observations),
    )


def spread(numbers: Floats) -> Spread:
    """Where finite numbers lie; quartiles between two numbers are interpolated."""
    if not len(numbers):
        return Spread(0)
    # Divided by a power of two where the squares of huge scores would overflow: that is exact.
    exponent = max(0, int(np.frexp(np.abs(numbers).max())[1]) - LARGEST_EXPONENT)
    scaled = np.ldexp(numbers, -exponent)
    parts = np.array([scaled.mean(), scaled.std(), *np.quantile(scaled, [0, 0.25, 0.5, 0.75, 1])])
    return Spread(len(numbers), *np.ldexp(parts, exponent).tolist())
