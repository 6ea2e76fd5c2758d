"""What a run's lines say about its judges: each one's numbers, their agreement, and the bill."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from reward_benchmark.judges.agreement import cohens_kappa, raw_agreement
from reward_benchmark.judges.judge import Price
from reward_benchmark.outcome import Outcome
from reward_benchmark.statistics import accuracy

Worth = Callable[[Outcome], float]

_TIE = "tie"


@dataclass(slots=True)
class _Tally:
    """Counts over the groups that one judge has judged."""

    credits: Counter[float] = field(default_factory=Counter)
    """What each group would earn with this judge alone."""
    ties: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    ratings: Counter[float] = field(default_factory=Counter)
    decided: int = 0
    """Verdicts for one of the completions."""
    first: int = 0
    """Those for the completion that was shown first."""
    first_expected: float = 0.0
    """As many as there would be if the place did not matter."""
    in_two_orders: int = 0
    orders_agree: int = 0
    answers: int = 0
    uncounted: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, outcome: Outcome, said: Mapping[str, Any], worth: Worth) -> None:
        """Count what the judge said of one group."""
        alone = Outcome(
            outcome.subset, outcome.id, outcome.num_chosen, scores=_scores_alone(outcome, said)
        )
        if alone.margin is not None:
            self.credits[worth(alone)] += 1
            self.ties += alone.tie
        self.ratings.update(said.get("ratings", ()))
        self._add_verdicts(said.get("verdicts", ()), said.get("picks", ()), len(alone.scores or ()))
        self.add_usage(said)

    def add_usage(self, said: Mapping[str, Any]) -> None:
        """Count what the judge's answers took, whether or not they could be read."""
        for asked, answered in zip(said["input_tokens"], said["output_tokens"], strict=True):
            self.answers += 1
            self.uncounted += asked is None or answered is None
            self.input_tokens += asked or 0
            self.output_tokens += answered or 0

    def _add_verdicts(
        self, verdicts: Iterable[str], picks: Iterable[int | None], completions: int
    ) -> None:
        picks = list(picks)
        for verdict, pick in zip(verdicts, picks, strict=True):
            self.verdicts[_TIE if pick is None else verdict] += 1
            if pick is not None:
                self.decided += 1
                self.first += verdict == "A"
                self.first_expected += 1 / completions
        if len(picks) == 2:
            self.in_two_orders += 1
            self.orders_agree += picks[0] == picks[1]

    def document(self, judge: str, price: Price | None) -> dict[str, Any]:
        """The judge's part of `results.json`."""
        estimate = accuracy(self.credits) if self.credits else None
        return {
            "judge": judge,
            "groups": self.credits.total(),
            "accuracy": estimate and estimate.value,
            "ci95": estimate and estimate.interval,
            "ties": self.ties,
            "verdicts": dict(sorted(self.verdicts.items())),
            "ratings": {f"{rating:g}": times for rating, times in sorted(self.ratings.items())},
            "order_agreement": _share(self.orders_agree, self.in_two_orders),
            "first_position_rate": _share(self.first, self.decided),
            "first_position_expected": _share(self.first_expected, self.decided),
            "answers": self.answers,
            "answers_without_token_counts": self.uncounted,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost": price and price.of(self.input_tokens, self.output_tokens),
        }


def judges_summary(
    outcomes: Iterable[Outcome], prices: Mapping[str, Price | None], worth: Worth
) -> dict[str, Any]:
    """The block `judges` of `results.json`; shares are fractions, `None` where nothing was counted.

    Accuracies and agreement cover the groups with scores, which are those that all judges judged.
    Answers, tokens and cost are also of the others: of the last attempt at each.

    Args:
        prices: judge → what its tokens cost, in the order to be reported.
        worth: what an outcome earns in its set.
    """
    tallies = {judge: _Tally() for judge in prices}
    decisions = {pair: Counter[tuple[object, object]]() for pair in combinations(prices, 2)}
    for outcome in outcomes:
        said_of_group = (outcome.details or {}).get("judges", ())
        if outcome.scores is None:
            for said in said_of_group:
                tallies[said["judge"]].add_usage(said)
            continue
        choices = {}
        for said in said_of_group:
            tallies[said["judge"]].add(outcome, said, worth)
            choices[said["judge"]] = _choice(outcome, said)
        for (one, other), pairs in decisions.items():
            pairs[choices[one], choices[other]] += 1
    members = [tally.document(judge, prices[judge]) for judge, tally in tallies.items()]
    costs = [member["cost"] for member in members]
    return {
        "members": members,
        "agreement": [
            {
                "judges": list(pair),
                "groups": pairs.total(),
                "raw": raw_agreement(pairs),
                "kappa": cohens_kappa(pairs),
            }
            for pair, pairs in decisions.items()
        ],
        "answers": sum(member["answers"] for member in members),
        "input_tokens": sum(member["input_tokens"] for member in members),
        "output_tokens": sum(member["output_tokens"] for member in members),
        "cost": None if None in costs else sum(costs),
    }


def _scores_alone(outcome: Outcome, said: Mapping[str, Any]) -> tuple[float, ...]:
    """The scores that a group would have if there were only this judge."""
    if "ratings" in said:
        return tuple(said["ratings"])
    return tuple(float(said["picks"].count(i)) for i in range(len(outcome.scores or ())))


def _choice(outcome: Outcome, said: Mapping[str, Any]) -> object:
    """Which completion a judge prefers, by its place in the seeded order, or that it is a tie.

    Not by its place in the group: chosen ones come first there, and judges who are mostly right
    would seem to agree by chance.
    """
    assert outcome.details is not None
    scores = _scores_alone(outcome, said)
    best = [index for index, score in enumerate(scores) if score == max(scores)]
    return outcome.details["order"].index(best[0]) if len(best) == 1 else _TIE


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
