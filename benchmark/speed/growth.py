"""How the engine's time grows with the completions of one prompt: with the tokens that are new."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from scipy.stats import linregress

from speed.station import Measurement
from speed.workloads import Workload


def grow(
    workloads: Sequence[Workload],
    engine: Any,
    *,
    repetitions: int,
    advance: Callable[[str], None],
) -> dict[str, Any]:
    """Seconds against distinct tokens, and the straight line through them, as a JSON object.

    Args:
        workloads: of one group each, ever larger.
        engine: a `Worker` of the engine's `Station`.
    """
    engine.call("measure", workloads[-1])
    seconds: list[list[float]] = [[] for _ in workloads]
    computed = [0] * len(workloads)
    for _ in range(repetitions):
        for index, workload in enumerate(workloads):
            advance(f"growth: {workload.sequences} completions")
            measurement: Measurement = engine.call("measure", workload)
            seconds[index].append(measurement.seconds)
            computed[index] = measurement.computed_tokens
    tokens = [workload.distinct.tokens for workload in workloads]
    line = linregress(tokens, [median(s) for s in seconds])
    return {
        "points": [
            {
                "completions": workload.sequences,
                "input_tokens": workload.input_tokens,
                "distinct_tokens": workload.distinct.tokens,
                "computed_tokens": computed[index],
                "seconds": median(seconds[index]),
                "repetitions": seconds[index],
            }
            for index, workload in enumerate(workloads)
        ],
        "seconds_per_token": float(line.slope),
        "seconds_at_zero": float(line.intercept),
        "r_squared": float(line.rvalue**2),
    }
