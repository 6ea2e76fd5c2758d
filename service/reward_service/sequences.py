"""The unit of work: token sequences, in groups that share a prompt."""

from dataclasses import dataclass, field

from reward_service.prefix_tree import shared_prefix, sort_key


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One completion with its prompt, as the model sees it."""

    token_ids: list[int]
    completion_start: int | None
    """Index of the completion's first token, `None` where it is not known."""
    completion_end: int | None = None
    """Index after the completion's last token, its end of turn; `None` at the sequence's end."""
    truncated_tokens: int = 0
    """Tokens dropped from the start of the prompt."""
    is_read_throughout: bool = False
    """A score is wanted at every token of the completion, not at the end alone."""
    key: bytes = field(init=False, repr=False, compare=False)
    """The token ids as `prefix_tree.sort_key`, made once, where the sequence is."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", sort_key(self.token_ids))

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def completion(self) -> tuple[int, int]:
        """Start and end of the tokens that count as the completion.

        Where none is known, all count but the first: nothing stands before it that predicts it.
        """
        start = 1 if self.completion_start is None else self.completion_start
        return start, len(self) if self.completion_end is None else self.completion_end

    @property
    def read_positions(self) -> list[int]:
        """Where a score is read; the last one is the score of the whole sequence."""
        throughout = range(*self.completion) if self.is_read_throughout else ()
        return [*throughout, len(self) - 1]


@dataclass(frozen=True, slots=True)
class SequenceGroup:
    """Sequences of one input: the completions of one prompt."""

    sequences: tuple[TokenSequence, ...]
    shared_tokens: int
    """All sequences begin with the same this many tokens: their prompt, known without looking."""
    with_reference: bool = False
    """Whether the reference model's numbers are wanted too."""
    parts: tuple[int, ...] | None = None
    """How many of the sequences each completion has, where that is not one: its prefixes, the whole
    completion last."""

    @property
    def input_tokens(self) -> int:
        """Tokens of all sequences, the shared ones counted once per sequence."""
        return sum(map(len, self.sequences))


def group_of(sequences: list[TokenSequence]) -> SequenceGroup:
    """The group of these sequences."""
    # All keys lie between the smallest and the largest one, so what these two share, all share.
    keys = [sequence.key for sequence in sequences]
    return SequenceGroup(tuple(sequences), shared_tokens=shared_prefix(min(keys), max(keys)))
