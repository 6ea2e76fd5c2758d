"""What became of one pair, and how that is written as a line of `scores.jsonl`."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from reward_benchmark.pair import Key, Pair


@dataclass(frozen=True, slots=True)
class Scores:
    """A scorer's numbers for the completions of one prompt, in order."""

    scores: tuple[float, ...]
    num_tokens: tuple[int, ...] | None = None
    """Tokens of prompt and completion, where the scorer counts any."""
    truncated_tokens: tuple[int, ...] | None = None
    """Tokens dropped from the start of the prompt, `None` where none was."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the completions of one prompt have no scores."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The scores of one pair, the chosen completion's first, or the reason why it has none."""

    subset: str
    id: int | str
    scores: tuple[float, ...] | None = None
    num_tokens: tuple[int, ...] | None = None
    truncated_tokens: tuple[int, ...] | None = None
    error: Failure | None = None

    @property
    def key(self) -> Key:
        """What identifies the pair in its dataset."""
        return self.subset, self.id

    @property
    def win(self) -> bool:
        """RewardBench's rule: the chosen completion scores strictly higher."""
        return self.scores is not None and self.scores[0] > max(self.scores[1:])

    @property
    def tie(self) -> bool:
        """Whether no completion scores higher than the chosen one, but another as high: a loss."""
        return self.scores is not None and self.scores[0] == max(self.scores[1:])

    def line(self) -> bytes:
        """One line of JSON, in ASCII: the text of an error may be anything."""
        fields: dict[str, Any] = {"subset": self.subset, "id": self.id}
        if self.error is not None:
            fields["error"] = asdict(self.error)
        else:
            fields |= {"scores": self.scores, "num_tokens": self.num_tokens}
        if self.truncated_tokens is not None:
            fields["truncated_tokens"] = self.truncated_tokens
        fields |= {"win": self.win, "tie": self.tie}
        return json.dumps(fields, allow_nan=False).encode() + b"\n"


_OUTCOME = TypeAdapter(Outcome)


def outcome_of(pair: Pair, answer: Scores | Failure) -> Outcome:
    """The outcome of a pair whose completions got this answer."""
    if isinstance(answer, Failure):
        return Outcome(*pair.key, error=answer)
    return Outcome(
        *pair.key,
        scores=answer.scores,
        num_tokens=answer.num_tokens,
        truncated_tokens=answer.truncated_tokens,
    )


def outcome_from_line(line: bytes) -> Outcome:
    """The outcome that a line holds.

    Raises:
        ValueError: it holds none.
    """
    outcome = _OUTCOME.validate_json(line)
    if (outcome.error is None) != (outcome.scores is not None and len(outcome.scores) > 1):
        raise ValueError("it has neither scores nor an error")
    return outcome
