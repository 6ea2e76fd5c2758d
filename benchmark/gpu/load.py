"""Scores a workload with the runner, as the engine would, and with RewardBench's loop."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch

from gpu.device import (
    out_of_memory_events,
    peak_memory_bytes,
    start_peak_memory,
    synchronize,
)
from gpu.shapes import PAD_TOKEN_ID
from gpu.workloads import Workload
from reward_service.errors import ServiceError
from reward_service.model_runner import BatchReadings, ModelRunner, PreparedBatch
from reward_service.prefix_tree import DistinctTokens
from reward_service.sequences import SequenceGroup


@dataclass(frozen=True, slots=True)
class Load:
    """One pass over a workload, or over its beginning when time was up."""

    workload: Workload
    """What was scored of it."""
    seconds: float
    scores: list[list[float | None]]
    """Per group; `None` where a sequence failed."""
    details: dict[str, Any]

    @property
    def units_per_second(self) -> float:
        """Pairs or completions."""
        return self.workload.units / self.seconds

    def as_json(self) -> dict[str, Any]:
        """For the document; the scores stay out of it."""
        return {
            "units": self.workload.units,
            "unit": self.workload.unit,
            "seconds": self.seconds,
            "units_per_second": self.units_per_second,
            "input_tokens": self.workload.input_tokens,
            "input_tokens_per_second": self.workload.input_tokens / self.seconds,
            "failed": sum(score is None for group in self.scores for score in group),
            **self.details,
        }


@dataclass(slots=True)
class _Stages:
    """Where the time of a pass went."""

    prepare_seconds: float = 0.0
    """In its own thread, beside the forward pass of the batch before."""
    wait_seconds: float = 0.0
    """The device idle, because the next batch was not ready."""
    run_seconds: float = 0.0


def run_load(
    runner: ModelRunner, workload: Workload, *, device: torch.device, stop_at: float
) -> Load:
    """All groups in arrival order, in batches as the scheduler cuts them.

    The next batch is prepared in a thread while one runs.

    Args:
        stop_at: reading of `time.perf_counter` at which no further batch is begun.
    """
    batches = [*cut_batches(workload.groups, budget=runner.max_batch_tokens)]
    # Once, so that the allocator and the kernels' libraries are warm.
    runner.run(runner.prepare(batches[0]))
    start_peak_memory(device)
    stages = _Stages()
    readings: list[BatchReadings] = []
    events = out_of_memory_events(device)

    def prepare(groups: list[SequenceGroup]) -> PreparedBatch:
        began = time.perf_counter()
        prepared = runner.prepare(groups)
        stages.prepare_seconds += time.perf_counter() - began
        return prepared

    with ThreadPoolExecutor(1) as thread:
        synchronize(device)
        started = time.perf_counter()
        coming = thread.submit(prepare, batches[0])
        for following in [*batches[1:], None]:
            began = time.perf_counter()
            prepared = coming.result()
            stages.wait_seconds += time.perf_counter() - began
            if following is not None:
                coming = thread.submit(prepare, following)
            began = time.perf_counter()
            readings.append(runner.run(prepared))
            stages.run_seconds += time.perf_counter() - began
            if began > stop_at:
                break
        seconds = time.perf_counter() - started
    groups = [group for batch in readings for group in batch.groups]
    computed = sum(batch.computed_tokens for batch in readings)
    done = workload if len(groups) == len(workload.groups) else workload.first(len(groups))
    return Load(
        workload=done,
        seconds=seconds,
        scores=[
            [None if isinstance(one, ServiceError) else one.outputs[0] for one in group]
            for group in groups
        ],
        details={
            "path": runner.path,
            "max_batch_tokens": runner.max_batch_tokens,
            "batches": len(readings),
            "distinct_tokens": done.distinct_tokens,
            "computed_tokens": computed,
            "computed_tokens_per_second": computed / seconds,
            "out_of_memory_events": None
            if events is None
            else (out_of_memory_events(device) or 0) - events,
            "peak_memory_bytes": peak_memory_bytes(device),
            **asdict(stages),
        },
    )


def cut_batches(groups: Sequence[SequenceGroup], *, budget: int) -> Iterator[list[SequenceGroup]]:
    """As the scheduler does: whole groups in their order, up to the budget of distinct tokens."""
    batch: list[SequenceGroup] = []
    tokens = DistinctTokens()
    for group in groups:
        keys = [sequence.key for sequence in group.sequences]
        tokens.add(keys)
        if batch and tokens.count > budget:
            yield batch
            batch, tokens = [], DistinctTokens()
            tokens.add(keys)
        batch.append(group)
    if batch:
        yield batch


@torch.no_grad()
def run_padded_loop(
    model: Any, workload: Workload, *, batch_size: int, device: torch.device, stop_at: float
) -> Load:
    """RewardBench's loop: dataset order, each batch padded on the left to its longest.

    Chosen and rejected in forward passes of their own; of best-of-n, every candidate is a row. The
    model is transformers' own with its mask, and the scores are fetched batch by batch.
    """
    rows = [
        [sequence.token_ids for sequence in sequences]
        for group in workload.groups
        for sequences in (
            [group.sequences] if workload.unit == "pairs" else [[one] for one in group.sequences]
        )
    ]
    model.config.pad_token_id = PAD_TOKEN_ID
    try:
        _padded_scores(model, [row[0] for row in rows[:batch_size]])
        start_peak_memory(device)
        synchronize(device)
        started = time.perf_counter()
        scores: list[list[float | None]] = []
        padded = 0
        for start in range(0, len(rows), batch_size):
            columns = [*zip(*rows[start : start + batch_size], strict=True)]
            padded += sum(len(column) * max(map(len, column)) for column in columns)
            scored = [_padded_scores(model, column) for column in columns]
            scores += map(list, zip(*scored, strict=True))
            if time.perf_counter() > stop_at:
                break
        seconds = time.perf_counter() - started
    finally:
        model.config.pad_token_id = None
    if workload.unit == "completions":
        groups = len(scores) * len(workload.groups) // len(rows)
        size = len(rows) // len(workload.groups)
        scores = [[row[0] for row in scores[i * size : (i + 1) * size]] for i in range(groups)]
    return Load(
        workload=workload if len(scores) == len(workload.groups) else workload.first(len(scores)),
        seconds=seconds,
        scores=scores,
        details={
            "batch_size": batch_size,
            "computed_tokens": padded,
            "peak_memory_bytes": peak_memory_bytes(device),
        },
    )


def _padded_scores(model: Any, column: Sequence[list[int]]) -> list[float]:
    longest = max(map(len, column))
    token_ids = torch.tensor([[PAD_TOKEN_ID] * (longest - len(one)) + one for one in column])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in column])
    logits = model(
        input_ids=token_ids.to(model.device), attention_mask=mask.to(model.device)
    ).logits
    scores: list[float] = logits.float().squeeze(-1).tolist()
    return scores


def largest_difference(a: Load, b: Load) -> float:
    """Between the scores of two loads, as far as both went, over the largest score."""
    pairs = [
        (one, other)
        for group, others in zip(a.scores, b.scores, strict=False)
        for one, other in zip(group, others, strict=True)
        if one is not None and other is not None
    ]
    largest = max(abs(one) for one, _ in pairs)
    return max(abs(one - other) for one, other in pairs) / largest
