"""Length analysis, margins and calibration against slow oracles, on ordinary and poisoned runs."""

import json
import math
import random
from dataclasses import asdict, astuple

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize_scalar

from reward_benchmark.datasets import PREFERENCES
from reward_benchmark.datasets.rm_bench import RM_BENCH
from reward_benchmark.outcome import Failure, Outcome
from reward_benchmark.statistics import (
    Observations,
    calibration,
    correlation,
    histogram,
    length_report,
    margin_report,
    wilson,
)


def random_outcomes(count: int, *, seed: int = 0) -> list[Outcome]:
    """Groups of 1 to 3 chosen and 1 to 3 rejected; some tie, some failed, some lack lengths."""
    generator = random.Random(seed)
    outcomes = []
    for i in range(count):
        num_chosen, size = generator.randint(1, 3), generator.randint(4, 6)
        characters = tuple(generator.choice([0, 50, 95, 100, 106, 400]) for _ in range(size))
        scores = tuple(generator.choice([-1.5, 0.0, 0.5, 2.0]) + 0.01 * c for c in characters)
        kind = generator.random()
        outcomes.append(
            Outcome(
                "all",
                i,
                num_chosen,
                None if kind < 0.1 else characters,
                scores=None if kind > 0.9 else scores,
                error=Failure("x", "y") if kind > 0.9 else None,
            )
        )
    return outcomes


def test_accuracy_by_length_is_counted_as_a_reader_would():
    outcomes = random_outcomes(600)
    counts = {"longer": [0, 0], "shorter": [0, 0], "similar": [0, 0]}
    for outcome in outcomes:
        if outcome.num_characters is None:
            continue
        chosen = np.mean(outcome.num_characters[: outcome.num_chosen])
        rejected = np.mean(outcome.num_characters[outcome.num_chosen :])
        name = "longer" if chosen > rejected else "shorter"
        if abs(chosen - rejected) <= 0.1 * max(chosen, rejected):
            name = "similar"
        counts[name][0] += outcome.win
        counts[name][1] += 1
    report = length_report(Observations.of(outcomes, PREFERENCES.worth))
    for name, (wins, count) in counts.items():
        found = getattr(report, name)
        assert wins
        assert (found.count, found.accuracy) == (count, wins / count)
        assert found.ci95 == wilson(wins, count)
    assert report.without_lengths == sum(o.num_characters is None for o in outcomes) > 0
    mean = (report.longer.accuracy + report.shorter.accuracy) / 2
    assert report.controlled.accuracy == pytest.approx(mean)
    assert report.controlled.ci95.low < mean < report.controlled.ci95.high


def test_accuracy_by_length_is_the_mean_of_what_prompts_earn():
    generator = random.Random(4)
    outcomes = []
    for i in range(300):
        scores = tuple(float(generator.randrange(4)) for _ in range(6))
        lengths = tuple(generator.randint(1, 90) for _ in range(6))
        outcomes.append(Outcome("chat", i, 3, lengths, scores=scores))
    report = length_report(Observations.of(outcomes, RM_BENCH.worth))
    longer = [o for o in outcomes if 0.9 * sum(o.num_characters[:3]) > sum(o.num_characters[3:])]
    earned = [a > b for o in longer for a in o.scores[:3] for b in o.scores[3:]]
    assert report.longer.count == len(longer)
    assert report.longer.accuracy == pytest.approx(sum(earned) / len(earned))
    low, high = report.longer.ci95
    assert low < report.longer.accuracy < high


def test_correlations_are_scipys():
    outcomes = random_outcomes(400, seed=1)
    report = length_report(Observations.of(outcomes, PREFERENCES.worth))
    known = [o for o in outcomes if o.num_characters is not None and o.scores is not None]
    scores = [s for o in known for s in o.scores]
    characters = [c for o in known for c in o.num_characters]
    differences = [
        np.mean(o.num_characters[: o.num_chosen]) - np.mean(o.num_characters[o.num_chosen :])
        for o in known
    ]
    for found, x, y in (
        (report.completions, scores, characters),
        (report.pairs, [o.margin for o in known], differences),
    ):
        assert found.count == len(x)
        assert found.pearson == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
        assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
        assert found.spearman > 0.3


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([1], [2]), ([0.1] * 7, range(7)), (range(7), [0.1] * 7)]
)
def test_a_correlation_that_is_not_defined_is_none(x: list[float], y: list[float]):
    found = correlation(np.array(x, dtype=float), np.array(y, dtype=float))
    assert (found.count, found.pearson, found.spearman) == (len(x), None, None)


def test_huge_scores_correlate_without_overflow():
    x = np.array([1e300, -1e300, 5e299])
    assert correlation(x, x).pearson == pytest.approx(1)
    assert correlation(x, -x).pearson == pytest.approx(-1)
    far = np.array([1e15, 1e15 + 2, 1e15 + 4])
    assert correlation(far, np.array([1.0, 2.0, 3.0])).pearson == pytest.approx(1)


def test_the_order_of_outcomes_changes_nothing():
    outcomes = random_outcomes(200, seed=2)
    shuffled = random.Random(3).sample(outcomes, len(outcomes))
    one, other = (
        length_report(Observations.of(each, PREFERENCES.worth)) for each in (outcomes, shuffled)
    )
    for name in ("longer", "shorter", "similar", "controlled"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("completions", "pairs"):
        expected = pytest.approx(astuple(getattr(other, name)), abs=1e-12)
        assert astuple(getattr(one, name)) == expected


@pytest.mark.parametrize(
    "outcomes",
    [
        [],
        [Outcome("a", 1, error=Failure("x", "y"))],
        [Outcome("a", 1, 1, (3, 4), scores=(1.0, 1.0))],
        [Outcome("a", 1, 1, (0, 0), scores=(1e308, -1e308))] * 3,
        [Outcome("a", 1, 1, (5, 5), scores=(-1e308, 1e308))] * 3,
        [Outcome("a", 1, 0, (5, 5), scores=(1.0, 2.0))],
        [
            Outcome("a", 1, 1, (5, 5), scores=(5e-324, 0.0)),
            Outcome("a", 2, 1, (5, 9), scores=(0.0, 5e-324)),
        ],
    ],
)
def test_every_report_is_json_without_nan(outcomes: list[Outcome]):
    observations = Observations.of(outcomes, PREFERENCES.worth)
    for report in (length_report(observations), margin_report(observations.margins)):
        json.dumps(asdict(report), allow_nan=False)


def test_candidates_without_a_preference_are_passed_over():
    observations = Observations.of(
        [Outcome("a", 1, 0, (5, 6), scores=(1.0, 2.0))], PREFERENCES.worth
    )
    assert len(observations.margins) == len(observations.credits) == len(observations.scores) == 0
    assert observations.without_lengths == 0


def test_accuracy_is_not_controlled_for_length_where_only_one_side_is_ever_longer():
    report = length_report(
        Observations.of([Outcome("a", 1, 1, (50, 10), scores=(1.0, 0.0))], PREFERENCES.worth)
    )
    assert report.longer.accuracy == 1
    assert (report.controlled.count, report.controlled.accuracy) == (1, None)


def test_a_failed_outcome_is_a_loss_without_a_margin():
    failed = Outcome("a", 1, 1, (50, 10), error=Failure("x", "y"))
    won = Outcome("a", 2, 1, (50, 10), scores=(1.0, 0.0))
    report = length_report(Observations.of([failed, won], PREFERENCES.worth))
    assert (report.longer.count, report.longer.accuracy) == (2, 0.5)
    assert report.pairs.count == 1


def test_ties_and_moments_of_margins():
    margins = np.array([0.0, 1.0, -3.0, 0.0, 4.5])
    report = margin_report(margins)
    assert (report.count, report.ties, report.tie_rate) == (5, 2, 0.4)
    assert report.mean == pytest.approx(margins.mean())
    assert report.standard_deviation == pytest.approx(margins.std())


def test_a_histogram_counts_every_margin_once_and_parts_wins_from_losses():
    margins = np.random.default_rng(1).standard_t(2, size=3000)
    margins[:20] = 0
    found = histogram(margins)
    assert len(found.counts) == len(found.edges) - 1 == 40
    assert found.edges[20] == 0
    assert found.edges[0] == -found.edges[-1]
    assert sum(found.counts) + found.below + found.above == len(margins)
    assert found.below + sum(found.counts[:20]) == (margins < 0).sum()
    assert 0.97 * len(margins) < sum(found.counts) < len(margins)
    for low, high, count in zip(found.edges, found.edges[1:], found.counts, strict=False):
        assert count == ((low <= margins) & (margins < high)).sum()


def test_a_histogram_of_ties_has_bins_all_the_same():
    found = histogram(np.zeros(3))
    assert (found.edges[0], found.edges[-1]) == (-1, 1)
    assert found.counts[20] == sum(found.counts) == 3


def test_histograms_can_share_their_edges():
    assert (
        histogram(np.array([1.0, -9.0]), limit=4.0).edges == histogram(np.ones(3), limit=4.0).edges
    )
    found = histogram(np.array([4.0, -4.0, -9.0]), limit=4.0)
    assert (found.below, found.counts[0], found.above) == (1, 1, 1)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_calibration_is_counted_as_a_reader_would():
    margins = np.random.default_rng(2).normal(0.5, 1.5, size=800)
    margins[:40] = 0
    found = calibration(margins)
    error = 0.0
    for i, each in enumerate(found.bins):
        low, high = 0.5 + i / 20, 0.55 + i / 20
        inside = [m for m in margins if low <= sigmoid(abs(m)) < high or (i == 9 and abs(m) > 30)]
        right = sum(1.0 if m > 0 else 0.5 if m == 0 else 0.0 for m in inside)
        sure = sum(sigmoid(abs(m)) for m in inside)
        assert (each.low, each.high) == pytest.approx((low, high))
        assert each.count == len(inside) > 0
        assert (each.accuracy, each.confidence) == pytest.approx(
            (right / len(inside), sure / len(inside))
        )
        assert each.ci95 == wilson(right, len(inside))
        error += abs(right - sure) / len(margins)
    assert sum(each.count for each in found.bins) == len(margins)
    assert found.expected_error == pytest.approx(error)
    assert found.brier == pytest.approx(np.mean([(1 - sigmoid(m)) ** 2 for m in margins]))
    assert found.log_loss == pytest.approx(np.mean([-math.log(sigmoid(m)) for m in margins]))


def test_margins_that_say_what_they_mean_are_calibrated():
    generator = np.random.default_rng(3)
    confidence = generator.normal(0, 2, size=200_000)
    right = generator.random(len(confidence)) < 1 / (1 + np.exp(-confidence))
    margins = np.where(right, confidence, -confidence)
    found = calibration(margins)
    assert found.expected_error < 0.006
    assert found.temperature == pytest.approx(1, abs=0.02)
    assert calibration(3 * margins).temperature == pytest.approx(3, abs=0.06)
    assert calibration(3 * margins).expected_error > 0.05


def test_the_temperature_minimises_the_log_loss():
    margins = np.random.default_rng(4).normal(0.3, 5, size=500)
    best = minimize_scalar(
        lambda log: np.logaddexp(0, -margins / math.exp(log)).mean(),
        bounds=(-5, 8),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert calibration(margins).temperature == pytest.approx(math.exp(best.x), rel=1e-4)


@pytest.mark.parametrize("margins", [[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0], [1.0, -2.0], [0.0, 3.0]])
def test_there_is_no_best_temperature_without_wins_and_losses_or_without_skill(
    margins: list[float],
):
    assert calibration(np.array(margins)).temperature is None


def test_an_unsure_model_is_calibrated_at_one_half():
    found = calibration(np.zeros(10))
    assert (found.expected_error, found.brier) == (0, 0.25)
    assert found.log_loss == pytest.approx(math.log(2))
    assert found.bins[0].accuracy == 0.5
