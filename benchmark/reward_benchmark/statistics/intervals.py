"""Estimates with 95 % intervals: accuracies, and weighted means of them."""

import math
from collections.abc import Container, Mapping
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95

RESAMPLES = 10_000
"""Bootstrap samples: the ends of an interval then vary by about 2 % of its width by the seed."""

BOOTSTRAP_VARIETY = 10
"""Observations beside the most common one that a bootstrap needs to be believed."""

Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""How many standard deviations it reaches to either side."""


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A number, and how far from it the truth may be."""

    value: float
    interval: Interval | None = None


def wilson(wins: float, count: float) -> Interval:
    """Wilson's score interval of a proportion, which stays sensible at 0, at 1 and for few.

    With a sum of credits between 0 and 1 instead of a number of wins it is never too narrow: of
    all such variables with one mean, the one that is only ever 0 or 1 varies most.
    """
    share = wins / count
    scale = 1 / (1 + Z**2 / count)
    middle = scale * (share + Z**2 / (2 * count))
    half = scale * Z * math.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    # What rounding leaves beyond the estimate at 0 and at 1 is not meant.
    return Interval(max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def accuracy(credits: Mapping[float, int], *, seed: int = 0) -> Estimate:
    """The mean credit, each between 0 and 1.

    Wins and losses get Wilson's interval, fractional credits a bootstrap. Where nearly all credits
    are equal, a bootstrap would claim a certainty that nobody has, and Wilson's stands for it.

    Args:
        credits: credit → how many prompts earned it; at least one did.
        seed: of the bootstrap.
    """
    count = sum(credits.values())
    total = math.fsum(credit * times for credit, times in credits.items())
    if credits.keys() <= {0, 1} or too_alike(credits):
        return Estimate(total / count, wilson(total, count))
    return Estimate(total / count, bootstrap_mean(credits, seed=seed))


def bootstrap_mean(values: Mapping[float, int], *, seed: int = 0) -> Interval:
    """The percentile bootstrap of a mean.

    Resampling is drawn as multinomial counts of the distinct values: the ordinary bootstrap, at a
    cost that does not grow with the number of observations.

    Args:
        values: value → how often it was observed; few values, observed at least once in all.
    """
    distinct = np.array(sorted(value for value, times in values.items() if times))
    times = np.array([values[value] for value in distinct])
    count = times.sum()
    counts = np.random.default_rng(seed).multinomial(count, times / count, size=RESAMPLES)
    return percentiles(counts @ distinct / count)


def percentiles(resampled: np.ndarray) -> Interval:
    """The middle 95 % of bootstrapped numbers."""
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def weighted_mean(estimates: Mapping[str, Estimate], weights: Mapping[str, float]) -> Estimate:
    """The weighted mean of independent accuracies, over those that have a weight.

    Its interval is Wilson's for the effective size: the number of wins and losses whose plain share
    would vary as much as the mean does (Franco, Little, Louis and Slud, J. Surv. Stat. Methodol. 7,
    2019). Rates are taken at the middle of Wilson's interval for that, for a subset of which all
    was won is not certain. Combining the intervals themselves would pull the mean of many subsets
    near 1 too far down.

    Args:
        estimates: at least one with a positive weight; means of means are fine.
        weights: name → weight, none negative; names without an estimate are left out.
    """
    shares = shares_of(estimates, weights)
    if len(shares) == 1:
        return estimates[next(iter(shares))]
    value = math.fsum(share * estimates[name].value for name, share in shares.items())
    rates, variances = [], []
    for name, share in shares.items():
        one, interval = estimates[name]
        if interval is None:
            return Estimate(value)
        size = _effective_size(one, interval)
        rate = (size * _clipped(one) + Z**2 / 2) / (size + Z**2)
        rates.append(share * rate)
        variances.append(share**2 * rate * (1 - rate) / size)
    rate = math.fsum(rates)
    size = rate * (1 - rate) / math.fsum(variances)
    low, high = wilson(_clipped(value) * size, size)
    return Estimate(value, Interval(min(low, value), max(high, value)))


def shares_of(names: Container[str], weights: Mapping[str, float]) -> dict[str, float]:
    """The weights of what is there, made to sum to 1; those that are 0 are left out."""
    present = {name: weight for name, weight in weights.items() if name in names and weight}
    total = math.fsum(present.values())
    return {name: weight / total for name, weight in present.items()}


def too_alike(values: Mapping[float, int]) -> bool:
    """Whether a bootstrap of these values is not to be believed.

    Args:
        values: value → how often it was observed.
    """
    return sum(values.values()) - max(values.values()) < BOOTSTRAP_VARIETY


def _effective_size(accuracy: float, interval: Interval) -> float:
    """For how many wins and losses Wilson's interval would be this wide."""
    # No interval of a share is empty or reaches from 0 to 1; one that was read may be anything.
    squared = min(max(interval.high - interval.low, 1e-9), 1 - 1e-9) ** 2
    share = _clipped(accuracy)
    half = 2 * share * (1 - share) - squared
    return Z**2 * (half + math.sqrt(half**2 + squared * (1 - squared))) / squared


def _clipped(accuracy: float) -> float:
    """Without what rounding, or RewardBench 2's Ties, have beyond 0 and 1."""
    return min(1.0, max(0.0, accuracy))
