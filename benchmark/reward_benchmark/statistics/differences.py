"""Differences of two models' accuracies on the same prompts, with 95 % intervals."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from reward_benchmark.statistics.intervals import (
    Estimate,
    Interval,
    Z,
    bootstrap_mean,
    shares_of,
    too_alike,
)

_BISECTIONS = 60


def tango(
    gained: ArrayLike,
    lost: ArrayLike,
    count: ArrayLike,
    *,
    shares: ArrayLike = 1.0,
    steps: ArrayLike = 1.0,
) -> Interval:
    """Tango's score interval of the difference of paired proportions (Stat. Med. 17, 1998).

    Of several strata, it is that of their weighted difference: what a score test would not reject
    as the difference of all, with the variance of each stratum as that difference makes it
    likeliest. Whether 0 is inside is then McNemar's test, stratified, without its exactness.

    Args:
        gained: prompts that only the first wins, a number for each stratum.
        lost: the same of the second.
        count: all prompts, those included that both win or both lose.
        shares: what the strata count, summing to 1.
        steps: by what a prompt that is gained or lost moves its stratum's sum.
    """
    gained, lost, count, shares, steps = map(
        np.atleast_1d, np.broadcast_arrays(gained, lost, count, shares, steps)
    )
    observed = float((shares * steps * (gained - lost) / count).sum())

    def plausible(difference: float) -> bool:
        # The likeliest rate of losses if this is the true difference solves a x^2 + b x + c = 0.
        stepwise = np.clip(difference / steps, -1.0, 1.0)
        a = 2 * count
        b = (2 * count - gained + lost) * stepwise - gained - lost
        c = -lost * stepwise * (1 - stepwise)
        rate = (np.sqrt(np.maximum(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        variance = np.maximum(0.0, 2 * rate + stepwise * (1 - stepwise)) / count
        error = math.sqrt(float(((shares * steps) ** 2 * variance).sum()))
        return abs(observed - difference) <= Z * error

    def boundary(inside: float, outside: float) -> float:
        for _ in range(_BISECTIONS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if plausible(middle) else (inside, middle)
        return (inside + outside) / 2

    return Interval(boundary(observed, -1.0), boundary(observed, 1.0))


def paired_difference(differences: Mapping[float, int], *, seed: int = 0) -> Estimate:
    """The mean difference of two models' credits for the same prompts.

    Differences of wins and losses get Tango's interval, fractional ones a bootstrap, or, where
    nearly all are equal, Tango's again, which then is never too narrow.

    Args:
        differences: the first model's credit minus the second's → for how many prompts, at least
            one.
        seed: of the bootstrap.
    """
    count = sum(differences.values())
    gained, lost = _gained_and_lost(differences)
    value = (gained - lost) / count
    if _is_whole(differences):
        return _around(value, tango(gained, lost, count))
    return Estimate(value, bootstrap_mean(differences, seed=seed))


def weighted_difference(
    differences: Mapping[str, Mapping[float, int]], weights: Mapping[str, float]
) -> Estimate:
    """The weighted mean of the differences of independent subsets, over those that have a weight.

    Its interval is Tango's over strata. Combining the intervals of the subsets would count what no
    single one can exclude many times over: the overall interval of two close runs would be twice as
    wide as their outcomes vary. Fractional differences count as whole steps of one size that vary
    as much.

    Args:
        differences: subset → as for `paired_difference`; at least one has a positive weight.
        weights: subset → weight, none negative; names without differences are left out.
    """
    shares = shares_of(differences, weights)
    if len(shares) == 1:
        return paired_difference(differences[next(iter(shares))])
    counts = [sum(differences[name].values()) for name in shares]
    sums = np.array([_gained_and_lost(differences[name]) for name in shares])
    steps = np.array([_step(differences[name]) for name in shares])
    gained, lost = (sums / steps[:, None]).T
    worth = list(shares.values())
    value = math.fsum(worth * (sums[:, 0] - sums[:, 1]) / counts)
    return _around(value, tango(gained, lost, counts, shares=worth, steps=steps))


def _gained_and_lost(differences: Mapping[float, int]) -> tuple[float, float]:
    """The sums of the differences in favour of the first and of the second model."""
    gained = math.fsum(max(0, value) * times for value, times in differences.items())
    lost = math.fsum(max(0, -value) * times for value, times in differences.items())
    return gained, lost


def _is_whole(differences: Mapping[float, int]) -> bool:
    return differences.keys() <= {-1, 0, 1} or too_alike(differences)


def _step(differences: Mapping[float, int]) -> float:
    """The size of whole steps that add up to as much, and vary as much, as the differences."""
    if _is_whole(differences):
        return 1.0
    squares = math.fsum(value * value * times for value, times in differences.items())
    return squares / sum(_gained_and_lost(differences))


def _around(value: float, interval: Interval) -> Estimate:
    # RewardBench 2's Ties differ by up to 1.02, which Tango's interval does not reach.
    return Estimate(value, Interval(min(interval.low, value), max(interval.high, value)))
