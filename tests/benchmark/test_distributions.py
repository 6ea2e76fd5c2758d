"""What the report says about scores, against the standard library's arithmetic."""

import json
import random
import statistics
from collections.abc import Sequence

import numpy as np
import pytest

from reward_benchmark.datasets import PREFERENCES
from reward_benchmark.distributions import (
    Distributions,
    Samples,
    distributions,
    not_log_odds,
    spread,
)
from reward_benchmark.outcome import Failure, Outcome
from reward_benchmark.statistics import Observations, length_report, margin_report


def random_outcomes(seed: int, count: int = 200) -> list[Outcome]:
    """Groups of two to five completions, some failed, some without a preference."""
    generator = random.Random(seed)
    outcomes = []
    for number in range(count):
        completions = generator.randint(2, 5)
        outcomes.append(
            Outcome(
                "subset",
                number,
                generator.randint(0, completions - 1),
                tuple(generator.randint(1, 90) for _ in range(completions)),
                scores=tuple(generator.gauss(3, 50) for _ in range(completions)),
            )
        )
    outcomes[7] = Outcome("subset", 7, error=Failure("too_long", "it is too long"))
    return outcomes


def described(outcomes: Sequence[Outcome]) -> Distributions:
    return distributions(Samples(PREFERENCES.worth, outcomes))


@pytest.mark.parametrize("seed", range(3))
def test_spreads_are_those_of_each_side(seed: int):
    outcomes = random_outcomes(seed)
    found = described(outcomes)
    chosen, rejected = [], []
    for outcome in outcomes:
        if outcome.num_chosen and outcome.scores:
            chosen += outcome.scores[: outcome.num_chosen]
            rejected += outcome.scores[outcome.num_chosen :]
    for side, numbers in ((found.chosen, chosen), (found.rejected, rejected)):
        low, middle, high = statistics.quantiles(numbers, method="inclusive")
        assert side.count == len(numbers)
        assert (side.minimum, side.maximum) == (min(numbers), max(numbers))
        assert side.mean == pytest.approx(statistics.fmean(numbers))
        assert side.standard_deviation == pytest.approx(statistics.pstdev(numbers))
        quartiles = (side.lower_quartile, side.median, side.upper_quartile)
        assert quartiles == pytest.approx((low, middle, high))


def test_what_margins_of_ensembles_are_depends_on_whether_scores_were_standardised():
    assert "z-scores" in str(not_log_odds({"members": []}))
    raw = {"members": [], "provenance": {"run": {"raw": True}}}
    assert "raw scores" in str(not_log_odds(raw))
    assert not_log_odds({}) is None


def test_margins_and_lengths_are_those_of_the_statistics():
    outcomes = random_outcomes(5)
    found = described(outcomes)
    observations = Observations.of(outcomes, PREFERENCES.worth)
    assert found.margins == margin_report(observations.margins)
    assert found.lengths == length_report(observations)


def test_the_document_is_json_whatever_the_scores():
    huge = Outcome("subset", 1, 1, (1, 2), (1.7e308, -1.7e308))
    nothing = Outcome("subset", 2, error=Failure("too_long", "it is too long"))
    for outcomes in ([], [nothing], [huge], [huge, huge, nothing]):
        document = described(outcomes).document()
        assert list(document) == ["scores", "margins", "lengths"]
        json.dumps(document, allow_nan=False)


def test_huge_scores_do_not_overflow_and_tiny_ones_keep_their_digits():
    found = spread(np.array([1.7e308, 1.7e308, -1.7e308]))
    assert found.mean == pytest.approx(1.7e308 / 3)
    assert found.standard_deviation == pytest.approx(1.7e308 * (8 / 9) ** 0.5)
    tiny = spread(np.array([1e-9, 3e-9]))
    assert (tiny.mean, tiny.standard_deviation) == pytest.approx((2e-9, 1e-9), rel=1e-9)
