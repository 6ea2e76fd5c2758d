"""What the runner needs of a model, whatever its family."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch

from reward_service.attention import TreePlan
from reward_service.prefix_tree import Integers
from reward_service.sequences import TokenSequence

RunnerPath = Literal["tree", "padded", "alone"]
"""How sequences are packed into forward passes."""

RowsOf = Callable[[int, int, int], Integers]
"""(sequence, start, stop) → the rows of the packed tokens at which that sequence's tokens
`start:stop` are."""


class Reads(Protocol):
    """What a pass reads, made before the device is free; each family has its own."""

    @property
    def counts(self) -> list[int]:
        """How many numbers the pass gives for each of its sequences."""
        ...


class RewardModel(Protocol):
    """Maps packed token ids to numbers. One file beside this one per family implements it."""

    vocabulary_size: int
    parameters: int
    """How many weights a token meets, about."""
    pad_token_id: int
    is_causal: bool
    """A token sees what comes before it only, so sequences can share what they begin with."""
    device: torch.device
    dtype: torch.dtype
    position_boundary: int | None
    """Sequences longer than this get other position embeddings (longrope), all in their pass with
    them: they never share one with shorter sequences."""

    def attend_by(self, path: RunnerPath) -> None:
        """Switch the model's attention to what this path needs.

        Raises:
            UnsupportedAttentionError: the architecture cannot be packed in a tree.
        """
        ...

    def needed_tokens(self, sequence: TokenSequence) -> int:
        """How many of its tokens, from the first on, the numbers depend on."""
        ...

    def reads(self, sequences: Sequence[TokenSequence], rows_of: RowsOf) -> Reads:
        """Where the numbers of these sequences come from; called from any thread."""
        ...

    def tree_outputs(self, plan: TreePlan, reads: Any) -> torch.Tensor:
        """Numbers of sequences packed in a tree, those of one sequence after the other's.

        Returns:
            [sum of `reads.counts`], float32.

        Raises:
            UnsupportedAttentionError: attention over the tree is not all that the layers ask for.
        """
        ...

    def outputs(self, token_ids: torch.Tensor, lengths: torch.Tensor, reads: Any) -> torch.Tensor:
        """The same for padded sequences.

        Args:
            token_ids: [batch, length] on the CPU, padded on the right.
            lengths: [batch], tokens of each row that are not padding.
        """
        ...

    def plain_outputs(self, token_ids: torch.Tensor, reads: Any) -> torch.Tensor:
        """The same from transformers' own forward of one unpadded sequence, as the oracle.

        Args:
            token_ids: [1, length] on the CPU.
        """
        ...
