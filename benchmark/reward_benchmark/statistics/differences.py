"""Differences of two models' accuracies on the same prompts, with 95 % intervals."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_benchmark.statistics.intervals import (
    Estimate,
    Interval,
    Z,
    bootstrap_mean,
    shares_of,
    too_alike,
)

_NEAR_0 = np.geomspace(1e-6, 0.01, 60)
_TRIED = np.concatenate([np.linspace(-1, 1, 401), _NEAR_0, -_NEAR_0])
"""Differences that are tried before the ends are searched for between two of them."""

_BISECTIONS = 50


def tango(
    gained: ArrayLike,
    lost: ArrayLike,
    count: ArrayLike,
    *,
    shares: ArrayLike = 1.0,
    steps: ArrayLike = 1.0,
) -> Interval:
    """Tango's score interval of the difference of paired proportions (Stat. Med. 17, 1998).

    Of several strata, it is that of their weighted difference: from the least to the largest that a
    score test would not reject as the difference of all. The variance of each stratum is as that
    difference makes it likeliest, or as it was observed, if that is more: strata may differ by far
    from what they have in common. Whether 0 is inside is McNemar's test, stratified and in its
    normal form, except where strata have no prompt that is gained or lost: they have no variance at
    0, but leave much open beside it.

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
    own = (gained - lost) / count
    observed = float((shares * steps * own).sum())
    least = (gained + lost) / count - own**2 if len(count) > 1 else np.zeros(1)

    def plausible(differences: ArrayLike) -> NDArray[np.bool_]:
        differences = np.atleast_1d(differences)[:, None]
        # The likeliest rate of losses if this is the true difference solves a x^2 + b x + c = 0.
        stepwise = np.clip(differences / steps, -1.0, 1.0)
        a = 2 * count
        b = (2 * count - gained + lost) * stepwise - gained - lost
        c = -lost * stepwise * (1 - stepwise)
        rate = (np.sqrt(np.maximum(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        variances = np.maximum(2 * rate + stepwise * (1 - stepwise), least) / count
        error = np.sqrt(((shares * steps) ** 2 * variances).sum(axis=1))
        return np.asarray(abs(observed - differences[:, 0]) <= Z * error)

    def boundary(inside: float, outside: float) -> float:
        for _ in range(_BISECTIONS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if plausible(middle)[0] else (inside, middle)
        return (inside + outside) / 2

    tried = np.sort([*_TRIED, observed])
    first, last = np.flatnonzero(plausible(tried) | (tried == observed))[[0, -1]]
    return Interval(
        boundary(float(tried[first]), float(tried[max(first - 1, 0)])),
        boundary(float(tried[last]), float(tried[min(last + 1, len(_TRIED))])),
    )


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
