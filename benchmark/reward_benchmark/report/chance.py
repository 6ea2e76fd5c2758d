"""What guessing earns: the numbers of a set where every order of the scores is equally likely."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from statistics import fmean

from reward_benchmark.datasets import Benchmark
from reward_benchmark.metrics import section_estimates
from reward_benchmark.outcome import Outcome
from reward_benchmark.statistics import Estimate, weighted_mean

EXACT_COMPLETIONS = 6
"""Up to so many completions all orders are gone through; with more, some are drawn."""

DRAWS = 2_000
"""Orders that are drawn of a prompt with more completions."""

GROUPWISE_DRAWS = 20
"""Times that everything is guessed of a subset that is measured as a whole."""


@dataclass(frozen=True, slots=True)
class Chance:
    """The expected numbers of a model that guesses."""

    subsets: Mapping[str, float]
    sections: Mapping[str, float]
    overall: float


@dataclass(frozen=True, slots=True)
class _Shape:
    """What guessing depends on."""

    subset: str
    num_chosen: int
    completions: int

    def guesses(self, *, seed: int = 0) -> Iterator[tuple[float, ...]]:
        """Scores that are all different, in orders that are equally likely."""
        if self.completions <= EXACT_COMPLETIONS:
            yield from permutations(map(float, range(self.completions)))
            return
        generator = random.Random(seed)
        for _ in range(DRAWS):
            yield _guess(self.completions, generator)


def chance(outcomes: Iterable[Outcome], benchmark: Benchmark) -> Chance:
    """What guessing would earn on the groups of these outcomes, of which there is at least one."""
    shapes: Counter[_Shape] = Counter()
    whole: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        completions = len(outcome.scores or outcome.num_characters or (0.0, 0.0))
        shapes[_Shape(outcome.subset, outcome.num_chosen, completions)] += 1
        if outcome.subset in benchmark.groupwise:
            guessed = Outcome(
                outcome.subset, outcome.id, outcome.num_chosen, (0,) * completions, None
            )
            whole.setdefault(outcome.subset, []).append(guessed)
    totals: Counter[str] = Counter()
    credits: dict[str, float] = {}
    earned = 0.0
    for shape, times in shapes.items():
        guesses = [
            Outcome(shape.subset, 0, shape.num_chosen, scores=scores) for scores in shape.guesses()
        ]
        earned += times * fmean(map(benchmark.worth, guesses))
        for subset, credit in _mean_credits(guesses, benchmark).items():
            totals[subset] += times
            credits[subset] = credits.get(subset, 0.0) + times * credit
    subsets = {name: credits[name] / totals[name] for name in totals}
    subsets |= {name: _groupwise(benchmark, name, groups) for name, groups in whole.items()}
    estimates = {name: Estimate(value) for name, value in subsets.items()}
    sections = section_estimates(estimates, benchmark.sections)
    named = sections or estimates
    weights = benchmark.overall or {}
    if weights.keys() & named.keys():
        overall = weighted_mean(named, weights).value
    else:
        overall = earned / shapes.total()
    return Chance(subsets, {name: one.value for name, one in sections.items()}, overall)


def _mean_credits(guesses: list[Outcome], benchmark: Benchmark) -> dict[str, float]:
    sums: dict[str, float] = {}
    for guess in guesses:
        for subset, credit in benchmark.credits(guess):
            sums[subset] = sums.get(subset, 0.0) + credit
    return {subset: total / len(guesses) for subset, total in sums.items()}


def _groupwise(benchmark: Benchmark, subset: str, groups: list[Outcome]) -> float:
    generator = random.Random(0)
    measured = benchmark.groupwise[subset]

    def guessed() -> Iterator[Outcome]:
        for group in groups:
            completions = len(group.num_characters or ())
            scores = _guess(completions, generator)
            yield Outcome(group.subset, group.id, group.num_chosen, scores=scores)

    return fmean(measured(list(guessed())).value for _ in range(GROUPWISE_DRAWS))


def _guess(completions: int, generator: random.Random) -> tuple[float, ...]:
    return tuple(generator.random() for _ in range(completions))
