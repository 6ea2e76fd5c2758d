"""The slow, obvious computation: one conversation at a time through plain transformers."""

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


@torch.inference_mode()
def outputs_alone(model: Any, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
    """All raw outputs of a model in memory, one unpadded sequence after the other."""
    # With a pad id, transformers searches for the last token that is not padding; a single
    # unpadded sequence has none, so its last token is the one to read.
    model.config.pad_token_id = None
    return [
        model(input_ids=torch.tensor([list(ids)])).logits[0].float().tolist() for ids in sequences
    ]


@torch.inference_mode()
def log_probs_alone(model: Any, ids: Sequence[int], start: int, stop: int) -> list[float]:
    """Log-probabilities of the tokens `start:stop`, each after all before it, in float64."""
    assert start > 0  # nothing predicts the first token
    logits = _in_float64(model)(input_ids=torch.tensor([list(ids)])).logits[0]
    log_probs = torch.log_softmax(logits.double(), dim=1)  # [length, vocabulary]
    return [log_probs[place - 1, ids[place]].item() for place in range(start, stop)]


@cache
def _in_float64(model: Any) -> Any:
    model = copy.deepcopy(model).double()
    # The kernels for all experts at once do not know float64.
    model.set_experts_implementation("eager")
    return model


@cache
def _load(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto").eval()
    return model, AutoTokenizer.from_pretrained(folder)


def token_ids(folder: Path, prompt: str | list[dict[str, str]], completion: str) -> list[int]:
    """Ids from the tokenizer's own chat template, tokenised by transformers."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*prompt]
    messages.append({"role": "assistant", "content": completion})
    _, tokenizer = _load(folder)
    ids: list[int] = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)[
        "input_ids"
    ]
    return ids


def outputs_of_ids(folder: Path, ids: Sequence[int]) -> list[float]:
    """All raw outputs for one sequence."""
    model, _ = _load(folder)
    [outputs] = outputs_alone(model, [ids])
    return outputs


def score(folder: Path, prompt: str | list[dict[str, str]], completion: str) -> float:
    """The first raw output for one completion."""
    return outputs_of_ids(folder, token_ids(folder, prompt, completion))[0]
