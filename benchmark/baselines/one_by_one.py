"""One forward pass per text: no padding, no batching, and the scores all others are held to."""

from collections.abc import Sequence

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class OneByOne:
    """The plainest loop there is."""

    def __init__(self, folder: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()

    @torch.inference_mode()
    def score(self, texts: Sequence[str]) -> list[float]:
        """Scores of formatted texts, in their order."""
        return [
            self.model(
                input_ids=self.tokenizer(
                    text, add_special_tokens=False, return_tensors="pt"
                ).input_ids
            ).logits.item()
            for text in texts
        ]
