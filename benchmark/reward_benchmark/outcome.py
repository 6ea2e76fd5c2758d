"""What became of one group, and how that is written as a line of `scores.jsonl`."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from reward_benchmark.group import Group, Key
from reward_benchmark.json_text import decoded


@dataclass(frozen=True, slots=True)
class Scores:
    """A scorer's numbers for the completions of one prompt, in order."""

    scores: tuple[float, ...]
    num_tokens: tuple[int, ...] | None = None
    """Tokens of prompt and completion, where the scorer counts any."""
    truncated_tokens: tuple[int, ...] | None = None
    """Tokens dropped from the start of the prompt, `None` where none was."""
    details: Mapping[str, Any] | None = None
    """What else the scorer puts on record, as JSON: a judge's verdicts, for instance."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the completions of one prompt have no scores."""

    code: str
    message: str
    details: Mapping[str, Any] | None = None
    """What the scorer puts on record all the same, as JSON: what the attempt cost, for instance."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The scores of one group, the chosen completions' first, or the reason why it has none."""

    subset: str
    id: int | str
    num_chosen: int = 1
    num_characters: tuple[int, ...] | None = None
    """Of each completion: what length analysis needs of the texts."""
    scores: tuple[float, ...] | None = None
    num_tokens: tuple[int, ...] | None = None
    truncated_tokens: tuple[int, ...] | None = None
    details: Mapping[str, Any] | None = None
    error: Failure | None = None

    @property
    def key(self) -> Key:
        """What identifies the group in its dataset."""
        return self.subset, self.id

    @property
    def chosen_scores(self) -> tuple[float, ...]:
        """Of the preferred completions; empty without scores."""
        return (self.scores or ())[: self.num_chosen]

    @property
    def rejected_scores(self) -> tuple[float, ...]:
        """Of the other completions; empty without scores."""
        return (self.scores or ())[self.num_chosen :]

    @property
    def margin(self) -> float | None:
        """The lowest chosen score minus the highest rejected one, or the largest float.

        `None` where there are no scores, or no preference.
        """
        if not self.chosen_scores or not self.rejected_scores:
            return None
        margin = min(self.chosen_scores) - max(self.rejected_scores)
        return max(-sys.float_info.max, min(sys.float_info.max, margin))

    @property
    def win(self) -> bool:
        """RewardBench's rule: every chosen completion scores strictly higher than the others."""
        if not self.chosen_scores or not self.rejected_scores:
            return False
        # Not by the margin: the difference of two huge floats may overflow, an order does not.
        return min(self.chosen_scores) > max(self.rejected_scores)

    @property
    def tie(self) -> bool:
        """Whether only an equal score keeps the chosen completions from winning: a loss."""
        if not self.chosen_scores or not self.rejected_scores:
            return False
        return min(self.chosen_scores) == max(self.rejected_scores)

    def line(self) -> bytes:
        """One line of JSON, in ASCII: the text of an error may be anything."""
        fields: dict[str, Any] = {"subset": self.subset, "id": self.id}
        if self.num_chosen != 1:
            fields["num_chosen"] = self.num_chosen
        if self.num_characters is not None:
            fields["num_characters"] = self.num_characters
        if self.error is not None:
            fields["error"] = {"code": self.error.code, "message": self.error.message}
        else:
            fields |= {"scores": self.scores, "num_tokens": self.num_tokens}
        if self.truncated_tokens is not None:
            fields["truncated_tokens"] = self.truncated_tokens
        if self.details is not None:
            fields["details"] = self.details
        if self.num_chosen:
            fields |= {"win": self.win, "tie": self.tie}
        return json.dumps(fields, allow_nan=False).encode() + b"\n"


_OUTCOME = TypeAdapter(Outcome)


def outcome_of(group: Group, answer: Scores | Failure) -> Outcome:
    """The outcome of a group whose completions got this answer."""
    num_characters = tuple(map(len, group.completions))
    if isinstance(answer, Failure):
        error = Failure(answer.code, answer.message)
        return Outcome(
            *group.key, group.num_chosen, num_characters, details=answer.details, error=error
        )
    return Outcome(
        *group.key,
        group.num_chosen,
        num_characters,
        scores=answer.scores,
        num_tokens=answer.num_tokens,
        truncated_tokens=answer.truncated_tokens,
        details=answer.details,
    )


def outcome_from_line(line: bytes) -> Outcome:
    """The outcome that a line holds.

    Raises:
        ValueError: it holds none.
    """
    # Not pydantic's own decoder: it refuses lone surrogates, which a judge's text may have.
    outcome = _OUTCOME.validate_python(decoded(line, finite=True))
    if (outcome.error is None) != (outcome.scores is not None):
        raise ValueError("it has neither scores nor an error")
    # A preference needs a completion on each side.
    if outcome.scores is not None and not 0 <= outcome.num_chosen < len(outcome.scores):
        raise ValueError(f"{len(outcome.scores)} scores cannot have {outcome.num_chosen} chosen")
    if outcome.scores is not None and not all(map(math.isfinite, outcome.scores)):
        raise ValueError(f"its scores {outcome.scores} are not all finite")
    per_completion = (
        outcome.scores,
        outcome.num_characters,
        outcome.num_tokens,
        outcome.truncated_tokens,
    )
    counts = {len(numbers) for numbers in per_completion if numbers is not None}
    if len(counts) > 1:
        raise ValueError(
            f"it has numbers of {' and of '.join(map(str, sorted(counts)))} completions"
        )
    return outcome
