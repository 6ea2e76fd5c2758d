"""What the runner needs of a reward model, whatever its family."""

from typing import Literal, Protocol

import torch

from reward_service.attention import TreePlan

RunnerPath = Literal["tree", "padded", "alone"]
"""How sequences are packed into forward passes."""


class RewardModel(Protocol):
    """Maps padded token ids to outputs. One file beside this one per family implements it."""

    labels: tuple[str, ...]
    """Names of the outputs, in order."""
    vocabulary_size: int
    parameters: int
    """How many weights a token meets, about."""
    pad_token_id: int
    reads_last_token: bool
    """The outputs are read at the last token; otherwise the head pools in its own way."""
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

    def tree_outputs(self, plan: TreePlan) -> torch.Tensor:
        """Raw outputs of sequences packed in a tree, [sequences, labels], float32.

        Raises:
            UnsupportedAttentionError: attention over the tree is not all that the layers ask for.
        """
        ...

    def outputs(self, token_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Raw outputs, [batch, labels], float32.

        Args:
            token_ids: [batch, length] on the CPU, padded on the right.
            lengths: [batch], tokens of each row that are not padding.
        """
        ...

    def plain_outputs(self, token_ids: torch.Tensor) -> torch.Tensor:
        """The same from transformers' own forward of one unpadded sequence, as the oracle.

        Args:
            token_ids: [1, length] on the CPU.
        """
        ...
