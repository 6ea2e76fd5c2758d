"""The weighted difference of two runs over some subsets, and its test."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reward_benchmark.results import estimate_document
from reward_benchmark.statistics import (
    Discordant,
    Estimate,
    holm,
    stratified_mcnemar,
    weighted_difference,
    weighted_mean,
)

Credits = Counter[tuple[float, float]]
"""The credits that two runs have for one group → for how many groups."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What separates the first run from the second on some groups."""

    count: int
    first: float
    """The first run's number, a fraction."""
    second: float
    estimate: Estimate
    """First minus second, with its paired 95 % interval."""
    discordant: Discordant
    """Groups for which one run has more credit than the other."""
    exact: bool
    """Whether the test is McNemar's, and not a randomisation test."""
    p_value: float
    p_holm: float | None = None
    """Corrected for the number of subsets or of sections; `None` where there is one test."""

    @property
    def test(self) -> str:
        """The test's name."""
        return "exact McNemar test" if self.exact else "paired randomisation test"


def difference(credits: Mapping[str, Credits], shares: Mapping[str, float]) -> Difference:
    """The weighted difference over some subsets."""
    differences: dict[str, Counter[float]] = {}
    values: dict[str, tuple[Estimate, Estimate]] = {}
    discordant: dict[str, Discordant] = {}
    worth: dict[str, float] = {}
    count = 0
    for subset, share in shares.items():
        counts = credits[subset]
        size = counts.total()
        count += size
        gaps = differences[subset] = Counter()
        for (one, other), times in counts.items():
            gaps[one - other] += times
        values[subset] = (
            Estimate(math.fsum(one * times for (one, _), times in counts.items()) / size),
            Estimate(math.fsum(other * times for (_, other), times in counts.items()) / size),
        )
        for amount in sorted({abs(value) for value in gaps} - {0.0}):
            stratum = f"{subset} by {amount}"
            discordant[stratum] = Discordant(gaps[amount], gaps[-amount])
            # What differs by rounding alone is worth the same, which keeps the test exact.
            worth[stratum] = float(f"{share / size * amount:.12g}")
    first, second = (
        weighted_mean({name: both[side] for name, both in values.items()}, shares).value
        for side in (0, 1)
    )
    return Difference(
        count=count,
        first=first,
        second=second,
        estimate=weighted_difference(differences, shares),
        discordant=Discordant(
            sum(one.first for one in discordant.values()),
            sum(one.second for one in discordant.values()),
        ),
        exact=len(set(worth.values())) <= 1,
        p_value=stratified_mcnemar(discordant, worth),
    )


def corrected(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    if len(differences) < 2:
        return dict(differences)
    adjusted = holm([difference.p_value for difference in differences.values()])
    return {
        name: replace(difference, p_holm=p_value)
        for (name, difference), p_value in zip(differences.items(), adjusted, strict=True)
    }


def difference_document(difference: Difference) -> dict[str, Any]:
    document = estimate_document(difference.estimate)
    return {
        "count": difference.count,
        "a": difference.first,
        "b": difference.second,
        "difference": document["score"],
        "ci95": document["ci95"],
        "a_better": difference.discordant.first,
        "b_better": difference.discordant.second,
        "cohens_g": difference.discordant.cohens_g,
        "odds_ratio": difference.discordant.odds_ratio,
        "test": difference.test,
        "p": difference.p_value,
        "p_holm": difference.p_holm,
    }
