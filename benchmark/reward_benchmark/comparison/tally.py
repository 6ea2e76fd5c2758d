"""What two runs earn for the groups that both have."""

from collections import Counter, defaultdict
from collections.abc import Collection

from reward_benchmark.comparison.difference import Credits
from reward_benchmark.comparison.flips import Flip
from reward_benchmark.datasets import Benchmark
from reward_benchmark.datasets.ties import ties_id
from reward_benchmark.outcome import Outcome


class Tally:
    """What is kept of the outcomes of the same groups: of a million, only those that flipped.

    Args:
        numbered: subsets for which the first run does not know the dataset's ids.
    """

    def __init__(self, benchmark: Benchmark, numbered: Collection[str]) -> None:
        self.compared = 0
        self.first_failed = 0
        self.second_failed = 0
        self.together: Credits = Counter()
        """Both runs' credits of whole groups, whatever their subset."""
        self.flips: list[Flip] = []
        self._benchmark = benchmark
        self._numbered = numbered
        self._credits: dict[str, Credits] = {}
        self._groupwise: dict[str, dict[int, list[tuple[Outcome, Outcome]]]] = {}

    def add(self, one: Outcome, other: Outcome) -> None:
        """Count one more group."""
        self.compared += 1
        self.first_failed += one.error is not None
        self.second_failed += other.error is not None
        first, second = (list(self._benchmark.credits(outcome)) for outcome in (one, other))
        (_, credit), (_, other_credit) = first[0], second[0]
        self.together[credit, other_credit] += 1
        if credit != other_credit:
            known = other if one.subset in self._numbered else one
            self.flips.append(Flip(known.key, one, other, credit, other_credit))
        if one.subset in self._benchmark.groupwise:
            prompts = self._groupwise.setdefault(one.subset, defaultdict(list))
            prompts[ties_id(one.id).prompt].append((one, other))
            return
        for (subset, credit), (_, other_credit) in zip(first, second, strict=True):
            self._credits.setdefault(subset, Counter())[credit, other_credit] += 1

    def credits(self) -> tuple[dict[str, Credits], int]:
        """Both runs' credits in each subset, and how many groups could have none of their own.

        The number of a groupwise subset is a mean of the numbers of its prompts, each of which is
        there in two groups: the prompt then takes the place of a group.
        """
        credits = dict(self._credits)
        lonely = 0
        for subset, prompts in self._groupwise.items():
            number = self._benchmark.groupwise[subset]
            counts: Credits = Counter()
            for group in prompts.values():
                if len(group) < 2:
                    lonely += 1
                    continue
                ones, others = zip(*group, strict=True)
                counts[number(ones).value, number(others).value] += 1
            if counts:
                credits[subset] = counts
        return credits, lonely
