"""Log-probs of a completion the way everyone begins: all logits, and the softmax of all of them."""

from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM


class FullLogits:
    """One forward pass per text, and the log-softmax of every position in float32."""

    def __init__(self, folder: str, *, dtype: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        ).eval()

    @torch.no_grad()
    def log_probs(self, token_ids: Sequence[int], completion_start: int) -> list[float]:
        """Of each token of the completion, which ends the text."""
        input_ids = torch.tensor([token_ids])
        log_probs = self.model(input_ids).logits.float().log_softmax(-1)
        log_probs = log_probs[:, :-1].gather(2, input_ids[:, 1:, None])
        values: list[float] = log_probs[0, completion_start - 1 :, 0].tolist()
        return values
