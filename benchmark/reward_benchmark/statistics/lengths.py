"""How far scores follow length: accuracy by which side is longer, and correlations."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from reward_benchmark.statistics.intervals import Estimate, Interval, accuracy, weighted_mean
from reward_benchmark.statistics.observations import Floats, Observations

LENGTH_TOLERANCE = 0.1
"""Two texts are equally long if the shorter one lacks at most this share of the longer one."""


@dataclass(frozen=True, slots=True)
class LengthAccuracy:
    """Mean credit of the prompts of one class; `None` where there are none."""

    count: int
    accuracy: float | None
    ci95: Interval | None


@dataclass(frozen=True, slots=True)
class Correlation:
    """Between -1 and 1; `None` where it is not defined: one observation, or all of them equal."""

    count: int
    pearson: float | None
    spearman: float | None


@dataclass(frozen=True, slots=True)
class LengthReport:
    """What a run says about length; lengths are characters.

    Of several chosen or rejected completions, the mean length counts.
    """

    tolerance: float
    longer: LengthAccuracy
    """Where the chosen completion is the longer one."""
    shorter: LengthAccuracy
    similar: LengthAccuracy
    controlled: LengthAccuracy
    """The mean of longer and shorter: as if the chosen one were either equally often."""
    completions: Correlation
    """Score and length over all completions; prompts differ in both, which shows here too."""
    pairs: Correlation
    """Margin and difference in length: what is left within the prompts."""
    without_lengths: int
    """Prompts that are missing above, for their lengths are not known."""


def length_report(observations: Observations) -> LengthReport:
    """Everything about length that these outcomes say."""
    credits = observations.credits
    chosen, rejected = observations.chosen_characters, observations.rejected_characters
    difference = chosen - rejected
    similar = np.abs(difference) <= LENGTH_TOLERANCE * np.maximum(chosen, rejected)
    longer = _accuracy(credits[~similar & (difference > 0)])
    shorter = _accuracy(credits[~similar & (difference < 0)])
    margins = observations.paired_margins
    scored = ~np.isnan(margins)
    return LengthReport(
        tolerance=LENGTH_TOLERANCE,
        longer=longer,
        shorter=shorter,
        similar=_accuracy(credits[similar]),
        controlled=_controlled(longer, shorter),
        completions=correlation(observations.scores, observations.characters),
        pairs=correlation(margins[scored], difference[scored]),
        without_lengths=observations.without_lengths,
    )


def correlation(x: Floats, y: Floats) -> Correlation:
    """Pearson's of the numbers, and Spearman's, which is Pearson's of their ranks."""
    return Correlation(len(x), _pearson(x, y), _pearson(rankdata(x), rankdata(y)))


def _pearson(x: Floats, y: Floats) -> float | None:
    # Constant input is told by its values: rounding gives its deviations a length of their own.
    if len(x) < 2 or x.min() == x.max() or y.min() == y.max():
        return None
    return float(np.clip(_direction(x) @ _direction(y), -1, 1))


def _direction(values: Floats) -> Floats:
    """Deviations from the mean scaled to length 1, by a power of two first: nothing overflows."""
    _, exponent = np.frexp(np.abs(values).max())
    deviations: Floats = np.ldexp(values, -exponent)
    deviations -= deviations.mean()
    deviations /= np.abs(deviations).max()
    deviations /= np.linalg.norm(deviations)
    return deviations


def _accuracy(credits: Floats) -> LengthAccuracy:
    if not len(credits):
        return LengthAccuracy(0, None, None)
    return LengthAccuracy(len(credits), *accuracy(Counter(credits.tolist())))


def _controlled(*classes: LengthAccuracy) -> LengthAccuracy:
    estimates = {
        str(i): Estimate(each.accuracy, each.ci95)
        for i, each in enumerate(classes)
        if each.accuracy is not None
    }
    count = sum(each.count for each in classes)
    if len(estimates) < len(classes):
        return LengthAccuracy(count, None, None)
    return LengthAccuracy(count, *weighted_mean(estimates, dict.fromkeys(estimates, 1)))
