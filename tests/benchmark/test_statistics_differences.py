"""Paired differences: against brute force, and how often their intervals hold the truth."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from reward_benchmark.datasets.rewardbench import REWARDBENCH
from reward_benchmark.statistics import (
    Estimate,
    bootstrap_mean,
    paired_difference,
    tango,
    weighted_difference,
)

from .published_numbers import OVERALL_SHARES

SIMULATIONS = 1000
COVERED = (0.93, 0.975)
"""Where the coverage of a 95 % interval may be: simulation error, and a little of its own."""

Table = tuple[int, int, int]
"""Pairs that only the first wins, that only the second wins, and all."""


def likeliest_variance(table: Table, difference: float) -> float:
    """Of the observed difference, if the true one is this, by trying all rates."""
    gained, lost, count = table
    rates = np.linspace(0, 1, 4001)  # of losses; gains then are as the difference says
    possible = (rates + difference >= 0) & (2 * rates + difference <= 1)
    rates = rates[possible]
    gains = rates + difference
    rest = np.maximum(0, 1 - rates - gains)
    with np.errstate(divide="ignore", invalid="ignore"):
        likelihood = (
            np.where(lost > 0, lost * np.log(rates), 0)
            + np.where(gained > 0, gained * np.log(gains), 0)
            + np.where(count > gained + lost, (count - gained - lost) * np.log(rest), 0)
        )
    best = np.nanargmax(likelihood)
    return max(0.0, (gains[best] + rates[best] - difference**2) / count)


def observed_variance(table: Table) -> float:
    gained, lost, count = table
    values = np.repeat([1.0, -1.0, 0.0], [gained, lost, count - gained - lost])
    return float(values.var() / count)


def slow_tango(tables: Sequence[Table], shares: Sequence[float]) -> list[float]:
    """All differences on a grid that the score test does not reject."""
    observed = sum(share * (b - c) / n for (b, c, n), share in zip(tables, shares, strict=True))
    kept = []
    for difference in np.linspace(-1, 1, 801):
        variance = sum(
            share**2
            * max(
                likeliest_variance(table, difference),
                observed_variance(table) if len(tables) > 1 else 0,
            )
            for table, share in zip(tables, shares, strict=True)
        )
        if (observed - difference) ** 2 <= 1.959964**2 * variance:
            kept.append(difference)
    return [min(kept), max(kept)]


@pytest.mark.parametrize("table", [(12, 2, 50), (0, 1, 44), (3, 3, 10), (5, 0, 9), (20, 15, 400)])
def test_tango_is_the_score_test_turned_round(table: Table):
    assert tango(*table) == pytest.approx(slow_tango([table], [1.0]), abs=0.004)


@pytest.mark.parametrize(
    ("tables", "shares"),
    [
        ([(12, 2, 50), (0, 1, 44)], [0.5, 0.5]),
        ([(0, 0, 20), (3, 0, 300), (5, 9, 31)], [0.2, 0.7, 0.1]),
        ([(7, 0, 7), (0, 4, 8)], [0.1, 0.9]),
    ],
)
def test_tango_of_strata_is_the_stratified_score_test_turned_round(
    tables: list[Table], shares: list[float]
):
    interval = tango(*zip(*tables, strict=True), shares=shares)
    assert interval == pytest.approx(slow_tango(tables, shares), abs=0.004)


def test_tango_of_alike_strata_is_about_that_of_all():
    low, high = tango([6, 12], [1, 2], [30, 60], shares=[1 / 3, 2 / 3])
    alike = tango(18, 3, 90)
    assert alike.low - 0.01 < low <= alike.low < alike.high <= high < alike.high + 0.01


def test_strata_in_which_nothing_differed_leave_open_what_they_have_room_for():
    # At 0 such a stratum has no variance, so that the test rejects 0 itself, but not what is below.
    low, high = tango([50, 0], [0, 0], [1000, 3], shares=[0.378, 0.622])
    assert [low, high] == pytest.approx(
        slow_tango([(50, 0, 1000), (0, 0, 3)], [0.378, 0.622]), abs=0.006
    )
    assert low < -0.2
    low, high = tango([407, 0], [26, 0], [450, 1], shares=[0.331, 0.669])
    assert low < -0.2 < 0.7 < high


def test_small_steps_do_not_hide_what_whole_ones_leave_open():
    # A stratum whose prompts move by a quarter cannot itself differ by more than that.
    generator = np.random.default_rng(13)
    truth = (0.6 + 0.0) / 2
    held = []
    for _ in range(400):
        whole = dict(
            zip(
                (1.0, -1.0, 0.0), generator.multinomial(1000, [0.7, 0.1, 0.2]).tolist(), strict=True
            )
        )
        small = dict(
            zip((0.25, -0.25, 0.0), generator.multinomial(30, [0.5, 0.5, 0]).tolist(), strict=True)
        )
        low, high = weighted_difference({"a": whole, "b": small}, {"a": 1, "b": 1}).interval
        held.append(low <= truth <= high)
    assert 0.92 <= np.mean(held) <= 0.99


@pytest.mark.parametrize(
    ("tables", "shares"),
    [
        ({"a": (0.9, 0.05, 984), "b": (0.3, 0.3, 40)}, (0.69, 0.31)),
        ({"a": (0.95, 0.0, 1000), "b": (0.1, 0.1, 5)}, (0.7, 0.3)),
        ({"a": (0.95, 0.0, 475), "b": (0.9, 0.01, 700), "c": (0.5, 0.4, 102)}, (0.4, 0.4, 0.2)),
    ],
)
def test_strata_that_differ_from_each_other_are_no_reason_for_a_narrow_interval(
    tables: dict[str, tuple[float, float, int]], shares: tuple[float, ...]
):
    generator = np.random.default_rng(12)
    weights = dict(zip(tables, shares, strict=True))
    truth = sum(weights[name] * (gain - loss) for name, (gain, loss, _) in tables.items())
    held = []
    for _ in range(400):
        drawn = {
            name: (*generator.multinomial(size, [gain, loss, 1 - gain - loss])[:2].tolist(), size)
            for name, (gain, loss, size) in tables.items()
        }
        low, high = weighted_difference(subsets_of(drawn), weights).interval
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.92


def test_tango_where_nothing_differs_and_where_everything_does():
    z2 = 1.959964**2
    assert tango(0, 0, 30) == pytest.approx((-z2 / (30 + z2), z2 / (30 + z2)), abs=1e-6)
    assert tango(30, 0, 30) == pytest.approx(((30 - z2) / (30 + z2), 1), abs=1e-6)
    assert tango(0, 30, 30) == pytest.approx((-1, (z2 - 30) / (30 + z2)), abs=1e-6)


def test_tango_mirrors_when_the_models_change_places():
    low, high = tango(17, 5, 90)
    assert tango(5, 17, 90) == pytest.approx((-high, -low), abs=1e-12)


def test_tango_holds_the_true_difference_as_often_as_it_says():
    generator = np.random.default_rng(3)
    for gained, lost in ((0.2, 0.1), (0.05, 0.05), (0.3, 0.02)):
        tables = generator.multinomial(80, [gained, lost, 1 - gained - lost], size=SIMULATIONS)
        held = 0
        for (b, c), times in Counter(map(tuple, tables[:, :2].tolist())).items():
            low, high = tango(b, c, 80)
            held += times * (low <= gained - lost <= high)
        assert COVERED[0] <= held / SIMULATIONS <= COVERED[1]


def test_differences_of_wins_have_tangos_interval_and_others_a_bootstrap():
    assert paired_difference({1: 12, -1: 2, 0: 36}) == Estimate(0.2, tango(12, 2, 50))
    fractions = {0.5: 20, -0.5: 11, 0.25: 9, 0.0: 60}
    assert paired_difference(fractions).interval == bootstrap_mean(fractions)
    assert paired_difference({0.0: 449, 0.5: 1}).interval == tango(0.5, 0, 450)
    value, interval = paired_difference({0.0: 30})
    assert value == 0
    assert interval.low < 0 < interval.high


def subsets_of(tables: Mapping[str, Table]) -> dict[str, dict[float, int]]:
    return {name: {1.0: b, -1.0: c, 0.0: n - b - c} for name, (b, c, n) in tables.items()}


def test_a_weighted_difference_is_that_of_the_names_that_are_present():
    tables = {"a": (9, 4, 50), "b": (30, 2, 40), "idle": (5, 5, 10)}
    value, interval = weighted_difference(
        subsets_of(tables), {"b": 3, "a": 1, "absent": 100, "idle": 0}
    )
    assert value == pytest.approx(0.75 * 28 / 40 + 0.25 * 5 / 50)
    assert interval == tango([30, 9], [2, 4], [40, 50], shares=[0.75, 0.25])
    for only in (subsets_of(tables)["a"], {0.5: 20, -0.5: 11, 0.25: 9, 0.0: 60}):
        assert weighted_difference({"a": only}, {"a": 1, "absent": 2}) == paired_difference(only)


def test_the_order_of_subsets_and_of_models_makes_no_difference():
    subsets = {"a": {0.5: 20, -0.5: 11, 0.25: 9, 0.0: 60}, "b": {1.0: 4, 0.0: 30, -1.0: 1}}
    weights = {"a": 2.0, "b": 1.0}
    value, (low, high) = weighted_difference(subsets, weights)
    reordered = weighted_difference(dict(reversed(subsets.items())), weights)
    assert reordered.interval == pytest.approx((low, high), abs=1e-12)
    mirrored = {name: {-one: times for one, times in of.items()} for name, of in subsets.items()}
    opposite = weighted_difference(mirrored, weights)
    assert opposite.value == -value
    assert opposite.interval == pytest.approx((-high, -low), abs=1e-12)


def test_fractional_differences_count_as_much_as_they_vary():
    halves = {"a": {0.5: 24, -0.5: 12, 0.0: 60}, "b": {0.5: 20, -0.5: 30, 0.0: 10}}
    wholes = {name: {2 * one: times for one, times in of.items()} for name, of in halves.items()}
    value, (low, high) = weighted_difference(wholes, {"a": 1, "b": 1})
    half = weighted_difference(halves, {"a": 1, "b": 1})
    assert half.value == pytest.approx(value / 2)
    assert half.interval == pytest.approx((low / 2, high / 2), abs=1e-9)
    # What nearly never differs could differ by more than it did.
    rare = weighted_difference({"a": {0.5: 2, 0.0: 60}, "b": {0.0: 50}}, {"a": 1, "b": 1})
    assert rare.interval == tango([1, 0], [0, 0], [62, 50], shares=[0.5, 0.5])


def test_the_interval_of_fractional_differences_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(8)
    values = np.array([-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0])
    rates = {"a": [0.02, 0.03, 0.1, 0.5, 0.2, 0.1, 0.05], "b": [0.0, 0.1, 0.1, 0.6, 0.1, 0.1, 0.0]}
    weights = {"a": 1.0, "b": 2.0}
    truth = sum(weights[name] * float(values @ rates[name]) for name in rates) / 3
    held = []
    for _ in range(SIMULATIONS):
        drawn = {name: generator.multinomial(60, rates[name]).tolist() for name in rates}
        subsets = {name: dict(zip(values.tolist(), of, strict=True)) for name, of in drawn.items()}
        interval = weighted_difference(subsets, weights).interval
        held.append(interval.low <= truth <= interval.high)
    assert COVERED[0] <= np.mean(held) <= COVERED[1]


def test_what_lies_close_beyond_0_is_found():
    gained = dict.fromkeys(OVERALL_SHARES, 0) | dict(
        zip([*OVERALL_SHARES][3::14], (1, 2), strict=True)
    )
    gained |= {[*OVERALL_SHARES][20]: 1}
    tables = {name: (won, 0, min(30, REWARDBENCH.counts[name])) for name, won in gained.items()}
    low, high = weighted_difference(subsets_of(tables), OVERALL_SHARES).interval
    assert -0.0025 < low < -0.0015
    assert high > 0.01


@pytest.mark.parametrize("limit", [5000, 30, 8])
@pytest.mark.parametrize(
    ("most_gained", "most_lost", "alike"),
    [(0.01, 0.002, True), (0.02, 0.01, True), (0.3, 0.1, True), (0.3, 0.3, False), (1, 1, False)],
)
def test_overall_differences_hold_the_truth_as_often_as_they_say_and_are_not_wide_without_need(
    most_gained: float, most_lost: float, alike: bool, limit: int
):
    generator = np.random.default_rng(9)
    gains, losses = (
        np.ones((2, len(OVERALL_SHARES)))
        if alike
        else generator.random((2, len(OVERALL_SHARES))) ** 3
    )
    gains = most_gained * gains
    losses = np.minimum(most_lost * losses, 1 - gains)
    sizes = np.array([min(limit, REWARDBENCH.counts[name]) for name in OVERALL_SHARES])
    shares = np.array(list(OVERALL_SHARES.values()))
    truth = float(shares @ (gains - losses))
    error = math.sqrt(shares**2 @ ((gains + losses - (gains - losses) ** 2) / sizes))
    held, widths = [], []
    for _ in range(200):
        tables = {
            name: (*generator.multinomial(size, [gain, loss, 1 - gain - loss])[:2].tolist(), size)
            for name, size, gain, loss in zip(
                OVERALL_SHARES, sizes.tolist(), gains, losses, strict=True
            )
        }
        low, high = weighted_difference(subsets_of(tables), OVERALL_SHARES).interval
        held.append(low <= truth <= high)
        widths.append(high - low)
    assert np.mean(held) >= 0.91  # 0.95 without three errors of the simulation
    # One prompt of 5 to 9 in each subset is a lot to exclude that none was decided on.
    assert np.mean(widths) <= 2 * 1.96 * error * (1.3 if limit > 100 else 2.2)


def test_differences_beyond_one_stay_inside_their_interval():
    low, high = paired_difference({1.02: 1}).interval or (1, 0)
    assert low < 1.02 <= high
