"""The definition of a set: where its rows are, what they mean, and how wins become its numbers."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from reward_benchmark.group import Group
from reward_benchmark.outcome import Outcome
from reward_benchmark.statistics import Estimate

RowParser = Callable[[object, int, str | None], Group]
"""Makes a group of a decoded row, its number from 1, and the split that it is of, if any.

Raises `ValueError`, which says what is wrong with which column.
"""

Credits = Callable[[Outcome], Iterable[tuple[str, float]]]
"""What an outcome is worth: pairs of a subset and a credit from 0 to 1 in it.

Of several, the first is that of the whole group.
"""


class HubSource(NamedTuple):
    """Where the Hugging Face hub has a set, or a part of one."""

    hub_id: str
    splits: tuple[str, ...]
    """Read one after the other; none named means all."""
    config: str | None = None


def strict_win(outcome: Outcome) -> Iterable[tuple[str, float]]:
    """RewardBench's rule: 1 for every chosen completion above all others, 0 for a tie or less."""
    yield outcome.subset, float(outcome.win)


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A set that is known by name."""

    name: str
    title: str
    """As its authors call it."""
    parse: RowParser
    source: HubSource | None = None
    """`None` where the hub has no copy and a local one must be named."""
    credits: Credits = strict_win
    groupwise: Mapping[str, Callable[[Sequence[Outcome]], Estimate]] = field(default_factory=dict)
    """Subsets whose number is computed from all outcomes at once, not as a mean of credits."""
    sections: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Section → subset → weight of the subset in its section.

    None is computed where the data has a subset that no section has: it would leave out groups.
    """
    overall: Mapping[str, float] | None = None
    """Section or subset → weight in the overall number; `None`: all groups weigh alike."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Subset → number of its groups in the set as published; empty where that is not known."""
    row_subsets: Collection[str] = ()
    """Subsets of its rows, where its numbers are of others."""
    noun: str = "pair"
    """What a user calls one group of it."""
    tie_rule: str = "A tie counts as a loss."
    """What a group earns whose lowest chosen score is its highest rejected one, for people."""
    remark: str | None = None
    """What a reader of its numbers must know."""

    def worth(self, outcome: Outcome) -> float:
        """The credit of a whole group, from 0 to 1: for most sets 1 for a win, 0 for the rest."""
        return next(credit for _, credit in self.credits(outcome))

    @property
    def has_partial_credit(self) -> bool:
        """Whether a group may earn a part of its credit."""
        return self.credits is not strict_win
