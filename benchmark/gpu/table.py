"""The document as a table that a terminal shows, without any library."""

from collections.abc import Iterator
from typing import Any

GIB = 2**30


def as_table(document: dict[str, Any]) -> str:
    """What was measured so far."""
    return "\n".join(_lines(document))


def _lines(document: dict[str, Any]) -> Iterator[str]:
    environment = document["environment"]
    gpu = environment.get("gpu") or {}
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    yield f"{document['shape']['name']}, {document['dtype']}, {gpu.get('name', 'CPU')}, {versions}"
    equality = document["equality"]
    yield ""
    yield f"Equality: the proof chose {equality['path']!r}; errors against {equality['truth']}"
    yield f"  {'':24}{'largest':>12}{'relative':>12}{'rms':>12}"
    for name in ("plain", "tree", "padded"):
        error = equality[f"{name}_against_truth"]
        if isinstance(error, str):
            yield f"  {name:24}{error}"
            continue
        numbers = (error["largest"], error["largest_relative"], error["root_mean_square"])
        yield f"  {name:24}" + "".join(f"{number:12.2e}" for number in numbers)
    if "ceiling" in document:
        ceiling = document["ceiling"]
        yield ""
        yield (
            f"Matmul ceiling at {ceiling['before']['rows']:,} rows: "
            f"{ceiling['before']['flops'] / 1e12:.2f} TFLOP/s before, "
            f"{ceiling['after']['flops'] / 1e12:.2f} after"
        )
    yield ""
    yield (
        f"  {'load':34}{'units':>8}{'seconds':>9}{'units/s':>10}{'tokens/s':>11}"
        f"{'ceiling':>9}{'waiting':>9}{'GiB':>7}{'tree x':>8}"
    )
    for load in document.get("budgets", ()):
        yield _row(f"tree, budget {load['max_batch_tokens']:,}", load)
    for section in ("rewardbench", "best_of_16"):
        if section not in document:
            continue
        load = document[section]
        yield _row(f"{section}, budget {load['max_batch_tokens']:,}", load)
        for padded in load.get("padded_loop", ()):
            name = f"  padded loop, batch {padded['batch_size']}"
            yield _row(name, padded) if "seconds" in padded else f"  {name:34}{padded['failed']}"
    if "log_probs" in document:
        log_probs = document["log_probs"]
        yield _row("log-probs of rewardbench pairs", log_probs["rewardbench"])
        long, error = log_probs["long_completion"], log_probs["against_plain"]
        memory = long["memory_above_the_model_bytes"]
        yield (
            f"  log-probs of {long['tokens']:,} tokens: {long['seconds']:.3f} s"
            + ("" if memory is None else f", {memory / GIB:.2f} GiB above the model")
            + f"; from plain transformers {error['largest_of_a_token']:.1e} a token"
        )
    for event in document.get("profile", ()):
        yield f"  {event['seconds']:10.4f} s {event['calls']:6} x {event['operation'][:90]}"
    yield ""
    for goal in document.get("goals", ()):
        measured = goal["measured"]
        shown = f"{measured:.3f}" if isinstance(measured, float) else measured
        yield f"  {'met   ' if goal['met'] else 'MISSED'}  {goal['goal']}: {shown}"


def _row(name: str, load: dict[str, Any]) -> str:
    share = load.get("share_of_ceiling")
    waiting = load.get("wait_seconds")
    memory = load.get("peak_memory_bytes")
    faster = load.get("tree_times_faster")
    return (
        f"  {name:34}{load['units']:8}{load['seconds']:9.2f}{load['units_per_second']:10.1f}"
        f"{load['input_tokens_per_second']:11,.0f}"
        f"{'' if share is None else f'{share:.0%}':>9}"
        f"{'' if waiting is None else f'{waiting:.2f} s':>9}"
        f"{'' if memory is None else f'{memory / GIB:.1f}':>7}"
        f"{'' if faster is None else f'{faster:.1f}':>8}"
    )
