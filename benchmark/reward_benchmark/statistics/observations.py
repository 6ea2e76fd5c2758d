"""The numbers of a run's outcomes as arrays: what length and margin analysis work on."""

from array import array
from collections.abc import Callable, Iterable
from typing import Self

import numpy as np
from numpy.typing import NDArray

from reward_benchmark.outcome import Outcome

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

LARGEST = 1e300
"""Margins beyond it are taken for it: the difference of two huge scores need not be a number."""


class Observations:
    """Collects outcomes one by one, in about 70 bytes for a pair.

    Outcomes without a preference are passed over. A failed one has no margin.
    The arrays are not copies: more can be added only when nothing holds on to them.

    Args:
        worth: what an outcome earns, from 0 to 1.
    """

    def __init__(self, worth: Callable[[Outcome], float]) -> None:
        self.without_lengths = 0
        """Outcomes that do not say how long their completions are."""
        self._margins = array("d")
        self._worth = worth
        self._credits = array("d")
        self._chosen_characters = array("d")
        self._rejected_characters = array("d")
        self._paired_margins = array("d")
        self._scores = array("d")
        self._characters = array("d")

    @classmethod
    def of(cls, outcomes: Iterable[Outcome], worth: Callable[[Outcome], float]) -> Self:
        """Those of all these outcomes."""
        observations = cls(worth)
        for outcome in outcomes:
            observations.add(outcome)
        return observations

    def add(self, outcome: Outcome) -> None:
        """Take one more."""
        if not outcome.num_chosen:
            return
        margin = outcome.margin
        if margin is not None:
            margin = max(-LARGEST, min(LARGEST, margin))
            self._margins.append(margin)
        if outcome.num_characters is None:
            self.without_lengths += 1
            return
        chosen = outcome.num_characters[: outcome.num_chosen]
        rejected = outcome.num_characters[outcome.num_chosen :]
        self._credits.append(self._worth(outcome))
        self._chosen_characters.append(sum(chosen) / len(chosen))
        self._rejected_characters.append(sum(rejected) / len(rejected))
        self._paired_margins.append(np.nan if margin is None else margin)
        if outcome.scores is not None:
            self._scores.extend(outcome.scores)
            self._characters.extend(outcome.num_characters)

    @property
    def margins(self) -> Floats:
        """Of every outcome that has scores."""
        return np.frombuffer(self._margins)

    @property
    def credits(self) -> Floats:
        """What every outcome with lengths earns; the next three are of the same outcomes."""
        return np.frombuffer(self._credits)

    @property
    def chosen_characters(self) -> Floats:
        """Mean number of characters of the chosen completions."""
        return np.frombuffer(self._chosen_characters)

    @property
    def rejected_characters(self) -> Floats:
        """Mean number of characters of the rejected completions."""
        return np.frombuffer(self._rejected_characters)

    @property
    def paired_margins(self) -> Floats:
        """The margin, NaN where there are no scores."""
        return np.frombuffer(self._paired_margins)

    @property
    def scores(self) -> Floats:
        """Of every completion that has a score and a length."""
        return np.frombuffer(self._scores)

    @property
    def characters(self) -> Floats:
        """Of the same completions."""
        return np.frombuffer(self._characters)
