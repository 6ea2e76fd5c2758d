"""RewardBench's evaluation loop over a sequence classifier.

Dataset order; chosen and rejected in forward passes of their own; each batch tokenised inside the
loop and padded to its longest text; the scores fetched batch by batch. Nothing is sorted, and a
prompt is computed once for every completion it has.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class RewardBenchLoop:
    """RewardBench with one model.

    Args:
        batch_size: 8 is the default of its command line, 64 that of its scripts.
        padding_side: its command line forces `left`; its scripts leave the tokenizer's own.
    """

    def __init__(
        self, folder: str, *, batch_size: int, padding_side: Literal["left", "right"] | None
    ) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        if padding_side is not None:
            self.tokenizer.padding_side = padding_side
        self.model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        self.batch_size = batch_size

    def score(self, rows: Sequence[Sequence[str]]) -> list[list[float]]:
        """Scores of rows of formatted texts: (chosen, rejected), or one candidate of best-of-n."""
        results: list[list[float]] = []
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            columns = [self._forward(column) for column in zip(*batch, strict=True)]
            results += map(list, zip(*columns, strict=True))
        return results

    @torch.no_grad()
    def _forward(self, texts: Sequence[str]) -> list[float]:
        # The benchmark's tokenizer adds no BOS of its own, so RewardBench's mask over the first of
        # two BOS has nothing to do here.
        inputs = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        logits = self.model(**inputs).logits
        scores: list[float] = logits.float().squeeze(-1).tolist()
        return scores
