"""The unit of preference data: two completions of one prompt, one of them preferred."""

from dataclasses import dataclass

Prompt = str | list[dict[str, str]]
"""The user's text, or the messages before the completion, each with `role` and `content`."""

Key = tuple[str, int | str]
"""Subset and id: what identifies a pair, for RewardBench's ids repeat from subset to subset."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt with a preferred and a dispreferred completion."""

    row: int
    """Place in the dataset, from 1."""
    subset: str
    id: int | str
    prompt: Prompt
    chosen: str
    rejected: str

    @property
    def key(self) -> Key:
        """What identifies the pair in its dataset."""
        return self.subset, self.id

    @property
    def completions(self) -> tuple[str, str]:
        """Both completions, the chosen one first."""
        return self.chosen, self.rejected
