"""Runs one contender where it lives, and takes its time and its memory."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils import logging

from speed.contenders import CONTENDERS, Scored
from speed.process import drop_settings_from_environment, memory_bytes, reset_peak_memory
from speed.workloads import Workload


@dataclass(frozen=True, slots=True)
class Measurement:
    """One contender, one workload, once."""

    seconds: float
    computed_tokens: int
    latency_p50: float | None
    latency_p99: float | None
    idle_bytes: int | None
    """Resident memory of the process that holds the model, before."""
    peak_bytes: int | None
    """The same at its highest since then; since the process started if it cannot be reset."""
    scores: tuple[float, ...] = field(repr=False)

    def document(self) -> dict[str, Any]:
        """What is kept of it."""
        return {name: value for name, value in asdict(self).items() if name != "scores"}


class Station:
    """A contender and its stop watch.

    Args:
        kind: of model.
        name: of a contender.
        folder: of the model.
    """

    def __init__(self, kind: Scored, name: str, folder: Path) -> None:
        drop_settings_from_environment()
        logging.disable_progress_bar()
        self._contender = CONTENDERS[kind][name]()
        self._contender.start(folder)

    def warm_up(self, workload: Workload) -> None:
        """Score a little of it, unmeasured."""
        self._contender.score(workload.taste())

    def measure(self, workload: Workload) -> Measurement:
        """Score all of it."""
        pid = self._contender.pid
        reset_peak_memory(pid)
        before = memory_bytes(pid)
        started = time.perf_counter()
        outcome = self._contender.score(workload)
        seconds = time.perf_counter() - started
        after = memory_bytes(pid)
        assert len(outcome.scores) == workload.sequences
        return Measurement(
            seconds=seconds,
            computed_tokens=outcome.computed_tokens,
            latency_p50=percentile(outcome.latencies, 50),
            latency_p99=percentile(outcome.latencies, 99),
            idle_bytes=before and before[0],
            peak_bytes=after and after[1],
            scores=tuple(outcome.scores),
        )

    def get(self, attribute: str) -> Any:
        """A fact about the contender, such as the engine's `path`."""
        return getattr(self._contender, attribute)

    def stop(self) -> None:
        """Let the contender go."""
        self._contender.stop()


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The smallest value that this share of all values does not exceed."""
    if not values:
        return None
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range of what repetitions gave."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
