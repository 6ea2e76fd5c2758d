"""What completions of conversations should have for log-probabilities, checkpoint by checkpoint."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoModelForCausalLM, AutoTokenizer

import oracle


class Completion(NamedTuple):
    """Token ids of a prompt with its completion, and which of them count."""

    ids: list[int]
    start: int
    stop: int


@cache
def _model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@cache
def tokenizer_of(folder: Path) -> Any:
    """The checkpoint's own."""
    return AutoTokenizer.from_pretrained(folder)


def of(folder: Path, completion: Completion) -> list[float]:
    """The log-probability of every token that counts, given all before it."""
    return oracle.log_probs_alone(_model(folder), *completion)


def total(folder: Path, completion: Completion) -> float:
    """The log-probability of the completion."""
    return math.fsum(of(folder, completion))


def completion_of(
    folder: Path, prompt: str | Sequence[dict[str, str]], completion: str
) -> Completion:
    """What the checkpoint's own template and tokenizer make of a conversation.

    For a template that ends a turn with EOS: what counts is what the model would have generated,
    from the prompt for it to that EOS.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*prompt]
    tokenizer = tokenizer_of(folder)

    def encoded(messages: list[dict[str, str]], **options: Any) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(messages, return_dict=True, **options)[
            "input_ids"
        ]
        return ids

    before = encoded(messages, add_generation_prompt=True)
    ids = encoded([*messages, {"role": "assistant", "content": completion}])
    assert ids[: len(before)] == before
    stop = len(ids) - ids[::-1].index(tokenizer.eos_token_id)
    return Completion(ids, len(before), stop)
