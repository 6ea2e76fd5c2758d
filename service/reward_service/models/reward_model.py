"""What the runner needs of a reward model, whatever its family."""

from typing import Protocol

import torch


class RewardModel(Protocol):
    """Maps padded token ids to outputs. One file beside this one per family implements it."""

    labels: tuple[str, ...]
    """Names of the outputs, in order."""
    vocabulary_size: int
    pad_token_id: int
    reads_last_token: bool
    """The outputs are read at the last token; otherwise the head pools in its own way."""
    device: torch.device
    dtype: torch.dtype

    def outputs(self, token_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Raw outputs, [batch, labels], float32.

        Args:
            token_ids: [batch, length], padded on the right.
            lengths: [batch], tokens of each row that are not padding.
        """
        ...

    def plain_outputs(self, token_ids: torch.Tensor) -> torch.Tensor:
        """The same from transformers' own forward of one unpadded sequence, as the oracle.

        Args:
            token_ids: [1, length].
        """
        ...
