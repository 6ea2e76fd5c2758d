"""The memory that log-probs of one long completion take where the vocabulary is large.

Ours and the plain way, each in a process of its own: how far resident memory rises above what the
process holds with its model loaded.
"""

import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from transformers.utils import logging

from speed.models import Shape
from speed.process import drop_settings_from_environment, memory_bytes, reset_peak_memory

PROMPT_TOKENS = 64
DTYPES = ("float32", "bfloat16")


class LogProbs(Protocol):
    """A way to compute them; lives in a process of its own."""

    def log_probs(self, token_ids: Sequence[int], completion_start: int) -> list[float]:
        """Of each token of the completion, which ends the text."""
        ...


class OurLogProbs:
    """Our engine's encoder and runner, the completion in one batch."""

    def __init__(self, folder: str, *, dtype: str, tokens: int) -> None:
        from reward_service.loading import load_model
        from reward_service.settings import Settings

        self._loaded = load_model(
            Settings.model_validate(
                {
                    "model_id": folder,
                    "kind": "causal",
                    "device": "cpu",
                    "dtype": dtype,
                    "max_input_tokens": tokens,
                    "max_batch_tokens": tokens,
                }
            )
        )

    def log_probs(self, token_ids: Sequence[int], completion_start: int) -> list[float]:
        """See `LogProbs`."""
        from reward_service.inputs import GivenTokens

        groups = self._loaded.encoder.encode(
            [GivenTokens(token_ids, completion_start)], truncation="error"
        )
        readings = self._loaded.runner.run(self._loaded.runner.prepare(groups))
        [[reading]] = readings.groups
        if isinstance(reading, Exception):
            raise reading
        return [*reading.outputs]


def _full_logits(folder: str, *, dtype: str, tokens: int) -> LogProbs:
    from baselines.full_logits import FullLogits

    return FullLogits(folder, dtype=dtype)


WAYS: dict[str, Callable[..., LogProbs]] = {"full-logits": _full_logits, "engine": OurLogProbs}
"""Name → way; ours comes last."""


@dataclass(frozen=True, slots=True)
class MemoryMeasurement:
    """One completion, once."""

    seconds: float
    held_bytes: int | None
    """Resident memory with the model loaded and used."""
    peak_bytes: int | None
    """The same at its highest since then."""
    log_probs: list[float] = field(repr=False)

    @property
    def working_gib(self) -> float | None:
        """What the computation took."""
        if self.held_bytes is None or self.peak_bytes is None:
            return None
        return (self.peak_bytes - self.held_bytes) / 2**30

    def document(self) -> dict[str, Any]:
        """What is kept of it."""
        kept = {name: value for name, value in asdict(self).items() if name != "log_probs"}
        return {**kept, "working_gib": self.working_gib}


class MemoryStation:
    """A way of computing log-probs, and what the process takes for it.

    Args:
        way: one of `WAYS`.
        folder: of the model.
        tokens: of the text that will be measured.
    """

    def __init__(self, way: str, folder: Path, *, dtype: str, tokens: int) -> None:
        drop_settings_from_environment()
        logging.disable_progress_bar()
        self._way = WAYS[way](str(folder), dtype=dtype, tokens=tokens)
        # Weights that are mapped from their file are in memory once they were used.
        self._way.log_probs(range(8), 1)

    def measure(self, token_ids: Sequence[int], completion_start: int) -> MemoryMeasurement:
        """Compute the completion's log-probs."""
        pid = os.getpid()
        could_reset = reset_peak_memory(pid)
        before = memory_bytes(pid)
        started = time.perf_counter()
        log_probs = self._way.log_probs(token_ids, completion_start)
        seconds = time.perf_counter() - started
        after = memory_bytes(pid)
        return MemoryMeasurement(
            seconds=seconds,
            held_bytes=before and before[0],
            # A peak since the process started may be the loading's.
            peak_bytes=after[1] if after and could_reset else None,
            log_probs=log_probs,
        )

    def stop(self) -> None:
        """There is nothing to let go."""


def measure_memory(
    folder: Path,
    shape: Shape,
    *,
    completion_tokens: int,
    host: Callable[[Callable[[], Any]], Any],
    advance: Callable[[str], None],
) -> dict[str, Any]:
    """Memory of every way in every number format, as a JSON object.

    Args:
        folder: of a language model of this shape.
        host: `Worker`, or `Here` in a test.
        advance: called before each measurement with what it is.
    """
    rng = random.Random(0)
    tokens = PROMPT_TOKENS + completion_tokens
    token_ids = [rng.randrange(shape.vocabulary) for _ in range(tokens)]

    def measured(way: str, dtype: str) -> MemoryMeasurement:
        advance(f"logprob-memory: {way}, {dtype}")
        made = partial(MemoryStation, way, folder, dtype=dtype, tokens=tokens)
        with closing(host(made)) as worker:
            measurement: MemoryMeasurement = worker.call("measure", token_ids, PROMPT_TOKENS)
        return measurement

    formats: dict[str, Any] = {}
    for dtype in DTYPES:
        ways = {way: measured(way, dtype) for way in WAYS}
        one, other = (way.log_probs for way in ways.values())
        formats[dtype] = {
            "ways": {way: measurement.document() for way, measurement in ways.items()},
            "max_difference": max(abs(a - b) for a, b in zip(one, other, strict=True)),
        }
    return {
        "model": shape.name,
        "vocabulary": shape.vocabulary,
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": completion_tokens,
        "formats": formats,
    }
