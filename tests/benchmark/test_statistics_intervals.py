"""Intervals against SciPy's, against brute force, and against how often they hold the truth."""

from collections import Counter
from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from reward_benchmark.datasets.rewardbench import REWARDBENCH
from reward_benchmark.metrics import section_estimates
from reward_benchmark.statistics import (
    Estimate,
    Interval,
    accuracy,
    bootstrap_mean,
    weighted_mean,
    wilson,
)

SIMULATIONS = 2000
COVERED = (0.93, 0.975)
"""Where the coverage of a 95 % interval may be: simulation error, and a little of its own."""


def credits_of(values: np.ndarray) -> Counter[float]:
    return Counter(values.tolist())


def share_won(wins: int, count: int) -> Estimate:
    return Estimate(wins / count, wilson(wins, count))


def covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(wins_of_count: tuple[int, int]):
    wins, count = wins_of_count
    expected = binomtest(wins, count).proportion_ci(method="wilson")
    assert wilson(wins, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("wins", "share"), [(0, 0.0), (7, 1.0)])
def test_wilson_reaches_the_end_at_which_the_estimate_is_and_not_beyond(wins: int, share: float):
    interval = wilson(wins, 7)
    assert share in interval
    assert 0.3 < interval.high - interval.low < 0.5


def test_wins_and_losses_have_wilsons_interval():
    assert accuracy({0.0: 3, 1.0: 7}) == Estimate(0.7, wilson(7, 10))
    assert accuracy({1.0: 7}) == Estimate(1.0, wilson(7, 7))
    assert accuracy({0.0: 4}) == Estimate(0.0, wilson(0, 4))


def test_fractional_credits_are_bootstrapped_as_rows_would_be():
    generator = np.random.default_rng(1)
    rows = generator.choice([0.0, 0.25, 0.5, 1.0], p=[0.2, 0.1, 0.3, 0.4], size=300)
    estimate = accuracy(credits_of(rows))
    resampled = generator.choice(rows, size=(10_000, len(rows))).mean(axis=1)
    assert estimate.value == pytest.approx(rows.mean(), abs=1e-12)
    assert estimate.interval == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.004)


def test_a_bootstrap_depends_on_its_seed_and_not_on_the_order_of_the_credits():
    credits = {0.0: 210, 0.37: 305, 0.51: 111, 1.0: 507}
    assert accuracy(credits) == accuracy(dict(reversed(credits.items())))
    assert accuracy(credits, seed=1) != accuracy(credits, seed=2)
    assert bootstrap_mean(credits, seed=1) == accuracy(credits, seed=1).interval


@pytest.mark.parametrize("credits", [{0.5: 40}, {0.25: 1}, {1.0: 440, 0.5: 9}])
def test_nearly_equal_credits_do_not_make_a_certainty(credits: dict[float, int]):
    count = sum(credits.values())
    value, interval = accuracy(credits)
    assert interval == wilson(value * count, count)
    assert interval.low < value < interval.high


def test_ten_other_credits_are_enough_for_a_bootstrap():
    few, enough = {1.0: 440, 0.5: 9}, {1.0: 440, 0.5: 10}
    assert accuracy(few).interval == wilson(444.5, 449)
    assert accuracy(enough).interval == bootstrap_mean(enough) != wilson(445, 450)


def test_wilson_is_cautious_with_fractional_credits():
    generator = np.random.default_rng(2)
    for probabilities in ([0.1, 0.2, 0.7], [0.0, 0.5, 0.5], [0.4, 0.6, 0.0]):
        rows = generator.choice([0.0, 0.5, 1.0], p=probabilities, size=(SIMULATIONS, 60))
        truth = float(np.dot([0.0, 0.5, 1.0], probabilities))
        held = [covers(wilson(total, 60), truth) for total in rows.sum(axis=1)]
        assert np.mean(held) >= COVERED[0]


def test_a_name_of_weight_zero_changes_nothing_and_one_without_interval_leaves_none():
    a, b = Estimate(0.5, Interval(0.3, 0.6)), Estimate(0.7)
    assert weighted_mean({"a": a, "b": b}, {"a": 2, "b": 0, "absent": 1}) == a
    assert weighted_mean({"a": a, "b": b}, {"a": 1, "b": 1}) == Estimate(0.6)


counts = st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
weighted_counts = st.lists(st.tuples(counts, st.integers(1, 10)), min_size=2, max_size=5)


def mean_of(subsets: list[tuple[tuple[int, int], int]]) -> Estimate:
    estimates = {str(i): share_won(*counts) for i, (counts, _) in enumerate(subsets)}
    return weighted_mean(estimates, {str(i): weight for i, (_, weight) in enumerate(subsets)})


@given(counts, st.integers(2, 6), st.integers(2, 3))
def test_a_mean_of_means_of_equal_subsets_has_wilsons_interval_of_all(counts, first, second):
    wins, count = counts
    section = mean_of([(counts, 7)] * first)
    assert section.interval == pytest.approx(wilson(first * wins, first * count), abs=1e-9)
    sections = {str(i): section for i in range(second)}
    interval = weighted_mean(sections, dict.fromkeys(sections, 0.5)).interval
    times = first * second
    assert interval == pytest.approx(wilson(times * wins, times * count), abs=1e-9)


@given(weighted_counts)
def test_the_interval_of_a_weighted_mean_holds_it_and_is_inside_of_0_to_1(subsets):
    value, interval = mean_of(subsets)
    assert 0 <= interval.low <= value <= interval.high <= 1
    assert interval.low < interval.high
    assert mean_of(subsets[::-1]) == (value, interval)


@given(weighted_counts)
def test_winning_one_more_lowers_neither_end_and_more_pairs_make_no_wider_interval(subsets):
    low, high = mean_of(subsets).interval
    ((wins, count), weight), *others = subsets
    better = mean_of([((min(wins + 1, count), count), weight), *others]).interval
    assert better.low >= low - 1e-9
    assert better.high >= high - 1e-9
    doubled = mean_of([((2 * wins, 2 * count), weight) for (wins, count), weight in subsets])
    assert doubled.interval.high - doubled.interval.low <= high - low + 1e-9


@pytest.mark.parametrize("interval", [(1.0, 1.0), (0.3, 0.2), (-4.0, 7.0), (0.98, 1.0099)])
def test_estimates_that_no_share_can_have_still_have_a_mean(interval: tuple[float, float]):
    odd = Estimate(1.0099, Interval(*interval))
    value, (low, high) = weighted_mean({"a": odd, "b": share_won(500, 500)}, {"a": 1, "b": 1})
    assert value == pytest.approx(1.00495)
    assert 0 <= low < 1 < high == value


RATES = {"a": (0.9, 95), "b": (0.5, 40), "c": (0.99, 100), "d": (0.75, 28)}
WEIGHTS = {"a": 95.0, "b": 164.0, "c": 984.0, "d": 28.0}


def test_the_interval_of_a_weighted_section_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(4)
    truth = sum(WEIGHTS[name] * rate for name, (rate, _) in RATES.items()) / sum(WEIGHTS.values())
    held = []
    for _ in range(SIMULATIONS):
        estimates = {
            name: share_won(int(generator.binomial(count, rate)), count)
            for name, (rate, count) in RATES.items()
        }
        held.append(covers(weighted_mean(estimates, WEIGHTS).interval, truth))
    assert COVERED[0] <= np.mean(held) <= 0.99


@pytest.mark.parametrize(
    ("rates", "limit"), [((0.9, 0.99), 20), ((0.97, 1.0), 1000), ((0.93, 1.07), 50), ((0.3, 1), 9)]
)
def test_the_interval_of_rewardbenchs_overall_number_holds_the_truth_as_often_as_it_says(
    rates: tuple[float, float], limit: int
):
    generator = np.random.default_rng(7)
    truths = {name: min(1.0, generator.uniform(*rates)) for name in REWARDBENCH.counts}

    def overall(estimates: Mapping[str, Estimate]) -> Estimate:
        sections = section_estimates(estimates, REWARDBENCH.sections)
        return weighted_mean(sections, dict.fromkeys(sections, 1.0))

    truth = overall({name: Estimate(rate) for name, rate in truths.items()}).value
    held = []
    for _ in range(800):
        estimates = {
            name: share_won(
                int(generator.binomial(min(count, limit), truths[name])), min(count, limit)
            )
            for name, count in REWARDBENCH.counts.items()
        }
        held.append(covers(overall(estimates).interval, truth))
    assert COVERED[0] <= np.mean(held) <= 0.99


def test_a_weighted_section_agrees_with_a_stratified_bootstrap():
    generator = np.random.default_rng(5)
    estimates, resampled = {}, 0
    for name, count in {"a": 400, "b": 700, "c": 300}.items():
        wins = round(count * {"a": 0.97, "b": 0.9, "c": 0.5}[name])
        estimates[name] = accuracy({1.0: wins, 0.0: count - wins})
        rows = np.repeat([1.0, 0.0], [wins, count - wins])
        means = generator.choice(rows, size=(4000, count)).mean(axis=1)
        resampled = resampled + {"a": 2, "b": 1, "c": 5}[name] / 8 * means
    mean = weighted_mean(estimates, {"a": 2, "b": 1, "c": 5})
    assert mean.interval == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.004)


def test_extreme_estimates_stay_between_zero_and_one():
    ends = (accuracy({1.0: 5}), accuracy({0.0: 5}), accuracy({1.0: 3, 0.0: 2}))
    for chosen in product(ends, repeat=3):
        value, interval = weighted_mean(
            dict(zip("abc", chosen, strict=True)), dict.fromkeys("abc", 1.0)
        )
        assert -1e-12 <= interval.low <= value <= interval.high <= 1 + 1e-12
