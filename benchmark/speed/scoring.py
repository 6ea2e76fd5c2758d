"""One workload through all contenders, interleaved: every repetition is a round over all of them.

What slows the machine for a while then slows everyone, and a ratio is formed within its round.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from speed.station import Measurement, spread
from speed.workloads import Workload

MATMUL_SECONDS = 1.0


def score_interleaved(
    workload: Workload,
    workers: Mapping[str, Any],
    matmul: Any,
    *,
    right: str,
    useful_flops: float,
    batch_tokens: int,
    repetitions: int,
    matmul_seconds: float = MATMUL_SECONDS,
    advance: Callable[[str], None],
) -> dict[str, Any]:
    """Measure, and say what came out as a JSON object.

    Args:
        workers: contenders by name, as `Worker`s of `Station`s.
        matmul: a `Worker` of the machine's own rate.
        right: the contender whose scores all others are compared with.
        useful_flops: floating point operations that the workload cannot be scored without.
        batch_tokens: tokens of one matrix product, what a batch of the engine has.
        advance: called before each measurement with what it is.
    """
    for worker in workers.values():
        worker.call("warm_up", workload)
    measured: dict[str, list[Measurement]] = {name: [] for name in workers}
    rates: list[float] = []
    tokens = min(batch_tokens, workload.distinct.tokens)
    beside_matmul = next(name for name in ("engine", "service", *workers) if name in workers)
    for repetition in range(repetitions):
        # There and back again: a machine that grows slower favours nobody.
        for name in [*workers] if repetition % 2 == 0 else [*workers][::-1]:
            advance(f"{workload.name}: {name}")
            if name != beside_matmul:
                measured[name].append(workers[name].call("measure", workload))
                continue
            # Before and after what it is compared with, so that both meet the same machine.
            before = matmul.call("flops_per_second", tokens=tokens, seconds=matmul_seconds)
            measured[name].append(workers[name].call("measure", workload))
            after = matmul.call("flops_per_second", tokens=tokens, seconds=matmul_seconds)
            rates.append((before + after) / 2)
    return {
        "workload": {
            "name": workload.name,
            "source": workload.source,
            "unit": workload.unit,
            "units": workload.units,
            "sequences": workload.sequences,
            "input_tokens": workload.input_tokens,
            "distinct_tokens": workload.distinct.tokens,
            "completion_tokens": workload.distinct.completion_tokens,
            "useful_flops": useful_flops,
        },
        "matmul": {"tokens": tokens, "repetitions": rates, "flops_per_second": spread(rates)},
        "contenders": {
            name: _contender(
                name, measured, workload, [useful_flops / rate for rate in rates], right=right
            )
            for name in workers
        },
    }


def _contender(
    name: str,
    measured: Mapping[str, Sequence[Measurement]],
    workload: Workload,
    ideal_seconds: Sequence[float],
    *,
    right: str,
) -> dict[str, Any]:
    own = measured[name]
    seconds = [one.seconds for one in own]
    computed = own[0].computed_tokens

    def rate(count: int) -> dict[str, float]:
        return spread([count / s for s in seconds])

    def ratio_to(other: str) -> dict[str, float]:
        return spread(
            [theirs.seconds / ours for theirs, ours in zip(measured[other], seconds, strict=True)]
        )

    return {
        "repetitions": [one.document() for one in own],
        "units_per_second": rate(workload.units),
        "input_tokens_per_second": rate(workload.input_tokens),
        "distinct_tokens_per_second": rate(workload.distinct.tokens),
        "computed_tokens": computed,
        # A tree computes less than the input, so that it has no padding to speak of.
        "padding_share": max(0.0, 1 - workload.input_tokens / computed),
        "latency_p50": _median([one.latency_p50 for one in own]),
        "latency_p99": _median([one.latency_p99 for one in own]),
        "idle_bytes": own[0].idle_bytes,
        "peak_bytes": max((one.peak_bytes for one in own if one.peak_bytes), default=None),
        "matmul_share": spread([i / s for i, s in zip(ideal_seconds, seconds, strict=True)]),
        "ratio_to": {other: ratio_to(other) for other in measured if other != name},
        "max_score_difference": _difference(own, measured.get(right)),
    }


def _median(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return median(present) if present else None


def _difference(own: Sequence[Measurement], right: Sequence[Measurement] | None) -> float | None:
    """The largest difference of any score in any repetition; NaN stays NaN."""
    if right is None:
        return None
    expected = right[0].scores
    differences = [abs(a - b) for one in own for a, b in zip(one.scores, expected, strict=True)]
    return max(differences, key=lambda d: float("inf") if d != d else d)
