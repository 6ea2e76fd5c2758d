"""Log-probabilities of completions: how fast, in how much memory, how close to transformers."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from gpu.device import peak_memory_bytes, release_memory, start_peak_memory, synchronize
from gpu.load import run_load
from gpu.shapes import PAD_TOKEN_ID, Shape, make_model
from gpu.workloads import Workload
from reward_service.model_runner import ModelRunner, Reading
from reward_service.models.causal_lm import CausalLM
from reward_service.packing import NoPacking
from reward_service.sequences import SequenceGroup, TokenSequence

MAX_LOGITS_BYTES = 256 * 1024 * 1024
"""The service's default."""

LONG_TOKENS = 8192
"""As many as the model has positions."""
LONG_PROMPT = 64


def measure_log_probs(
    shape: Shape,
    pairs: Workload,
    probes: Sequence[SequenceGroup],
    *,
    dtype: torch.dtype,
    device: torch.device,
    budget: int,
    seed: int,
    stop_at: float,
) -> dict[str, Any]:
    """A language model of this shape: equality, the pairs' log-probabilities, one long completion.

    Args:
        stop_at: reading of `time.perf_counter` at which no further batch is begun.
    """
    release_memory(device)
    model = make_model(
        shape, dtype=dtype, device=str(device), seed=seed, auto_class=AutoModelForCausalLM
    )
    language_model = CausalLM(model, pad_token_id=PAD_TOKEN_ID, max_logits_bytes=MAX_LOGITS_BYTES)
    runner = ModelRunner(language_model, max_batch_tokens=budget)
    runner.prove(probes)
    return {
        "max_logits_bytes": MAX_LOGITS_BYTES,
        "rows_at_once": language_model.rows_at_once,
        "path": runner.path,
        "against_plain": _against_plain(runner, language_model, probes),
        "rewardbench": run_load(runner, pairs, device=device, stop_at=stop_at).as_json(),
        "long_completion": _long_completion(runner, shape, device),
    }


@torch.inference_mode()
def _against_plain(
    runner: ModelRunner, model: CausalLM, probes: Sequence[SequenceGroup]
) -> dict[str, float]:
    """Differences from transformers' forward of one sequence in the same number format."""
    sequences = [sequence for group in probes for sequence in group.sequences]
    model.attend_by("alone")
    plain = [one.forward(model) for one in NoPacking(model).passes(sequences, budget=0)]
    model.attend_by(runner.path)
    packed = [_log_probs(one) for one in _readings(runner, sequences)]
    expected = [one.double().cpu() for one in plain]
    differences = [a - b for a, b in zip(packed, expected, strict=True)]
    return {
        "sequences": len(sequences),
        "largest_of_a_token": max(one.abs().max().item() for one in differences),
        "largest_of_a_sum": max(one.sum().abs().item() for one in differences),
        "largest_log_prob": max(one.abs().max().item() for one in expected),
    }


def _long_completion(runner: ModelRunner, shape: Shape, device: torch.device) -> dict[str, Any]:
    ids = torch.randint(1, shape.vocabulary, (LONG_TOKENS,)).tolist()
    sequence = TokenSequence(ids, completion_start=LONG_PROMPT)
    start_peak_memory(device)
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else None
    synchronize(device)
    began = time.perf_counter()
    _readings(runner, [sequence])
    seconds = time.perf_counter() - began
    peak = peak_memory_bytes(device)
    return {
        "tokens": len(sequence),
        "seconds": seconds,
        "memory_above_the_model_bytes": None if peak is None or held is None else peak - held,
    }


def _readings(runner: ModelRunner, sequences: Sequence[TokenSequence]) -> list[Reading]:
    [group] = runner.run(runner.prepare([SequenceGroup(tuple(sequences), shared_tokens=0)])).groups
    readings = [one for one in group if isinstance(one, Reading)]
    assert len(readings) == len(sequences), group
    return readings


def _log_probs(reading: Reading) -> torch.Tensor:
    return torch.tensor(reading.outputs, dtype=torch.float64)
