"""The best that a careful user writes: all texts sorted by length, so that batches pad little."""

from collections.abc import Sequence

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class LengthSorted:
    """Batches of similar length, longest first, chosen and rejected together.

    Args:
        attention_mask: off is faster on a CPU, where it lets attention take its causal kernel.
            A causal model that pads on the right may do so; hardly anyone does.
    """

    def __init__(self, folder: str, *, batch_size: int = 16, attention_mask: bool = True) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
        self.model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        self.batch_size = batch_size
        self.attention_mask = attention_mask

    @torch.inference_mode()
    def score(self, texts: Sequence[str]) -> list[float]:
        """Scores of formatted texts, in their order."""
        token_ids = self.tokenizer(list(texts)).input_ids
        order = sorted(range(len(texts)), key=lambda i: len(token_ids[i]), reverse=True)
        scores = [0.0] * len(texts)
        for start in range(0, len(order), self.batch_size):
            indices = order[start : start + self.batch_size]
            inputs = self.tokenizer.pad(
                {"input_ids": [token_ids[i] for i in indices]}, return_tensors="pt"
            )
            if not self.attention_mask:
                del inputs["attention_mask"]
            logits = self.model(**inputs).logits
            for i, score in zip(indices, logits[:, 0].tolist(), strict=True):
                scores[i] = score
        return scores
