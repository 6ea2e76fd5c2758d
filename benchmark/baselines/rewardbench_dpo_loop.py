"""RewardBench's evaluation loop over a DPO policy and its reference.

Dataset order; chosen and rejected stacked, and padded on the right to the longest of the batch; for
the policy, then for the reference, the logits of every position, their log-softmax over the whole
vocabulary, and out of that the labels. Nothing is sorted, a prompt is computed for each of its
completions, and so are its logits, which nobody reads.

One thing is done differently: which tokens are the answer is given. RewardBench takes the prompt's
text out of the conversation's and puts BOS and EOS around what is left, so that the assistant's
header and whatever the template writes after the turn count as answer. That changes which of the
computed log-probs are summed, not how many are computed, and favours nobody (the loop is spared two
tokens a text); with it, everyone who is measured has the same rewards to give.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

IGNORED = -100
"""The label of what is not the answer's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A formatted conversation, and which of its tokens are the answer."""

    text: str
    start: int
    stop: int


class RewardBenchDpoLoop:
    """RewardBench with a policy and its reference.

    Args:
        batch_size: rows, of two sequences each; 6 is the default of its script.
    """

    def __init__(self, policy: str, reference: str, *, batch_size: int = 6) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(policy, padding_side="right")
        self.policy, self.reference = (
            AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="sdpa"
            ).eval()
            for folder in (policy, reference)
        )
        self.batch_size = batch_size

    @torch.no_grad()
    def rewards(self, rows: Sequence[tuple[Answer, Answer]]) -> list[list[float]]:
        """Rewards, log-prob under the policy minus that under the reference, of each row's two."""
        results: list[list[float]] = []
        for start in range(0, len(rows), self.batch_size):
            chosen, rejected = zip(*rows[start : start + self.batch_size], strict=True)
            answers = [*chosen, *rejected]
            inputs = self.tokenizer(
                [answer.text for answer in answers],
                add_special_tokens=False,
                padding=True,
                return_tensors="pt",
            )
            labels = torch.full_like(inputs.input_ids, IGNORED)
            for row, answer in enumerate(answers):
                span = slice(answer.start, answer.stop)
                labels[row, span] = inputs.input_ids[row, span]
            log_ratios = _log_probs(self.policy, inputs, labels) - _log_probs(
                self.reference, inputs, labels
            )
            results += log_ratios.view(2, -1).T.tolist()
        return results


def _log_probs(model: Any, inputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """[sequences] The labels' log-probs, summed."""
    logits = model(**inputs).logits[:, :-1]
    labels = labels[:, 1:].clone()
    mask = labels != IGNORED
    labels[~mask] = 0
    log_probs = logits.log_softmax(-1).gather(2, labels.unsqueeze(2)).squeeze(2)
    sums: torch.Tensor = (log_probs * mask).sum(-1)
    return sums
