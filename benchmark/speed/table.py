"""The results for people: tables on a terminal."""

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

SIGNS = {"at least": "≥", "at most": "≤"}

WIDTH = 140
"""Where the output is no terminal, whose width would count."""


def print_results(document: dict[str, Any]) -> None:
    """Print all that was measured."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(results_tables(document))


def results_tables(document: dict[str, Any]) -> RenderableType:
    """All that was measured, bars last."""
    environment = document["environment"]
    versions = environment["versions"]
    head = Text(
        f"{environment['cpu']}, {environment['cores']} cores, "
        f"torch {versions['torch']}, transformers {versions['transformers']}, "
        f"commit {environment['commit']}"
        + (" with uncommitted changes" if environment["uncommitted_changes"] else "")
    )
    return Group(head, *_tables(document))


def _tables(document: dict[str, Any]) -> Iterator[RenderableType]:
    for scoring in document.get("scoring", {}).values():
        yield _scoring_table(scoring)
    if "growth" in document:
        yield _growth_table(document["growth"])
    if "logprob-memory" in document:
        yield _memory_table(document["logprob-memory"])
    if "tiny" in document:
        yield _tiny_table(document["tiny"])
    yield _bars_table(document["bars"])


def _scoring_table(scoring: dict[str, Any]) -> Table:
    workload = scoring["workload"]
    # RewardBench as its command line runs it, where everyone was measured.
    divisor = next(iter(scoring["contenders"]))
    table = _table(
        f"{workload['name']}, {workload['unit']} per second: {workload['sequences']} sequences, "
        f"{workload['input_tokens']:,} tokens, {workload['distinct_tokens']:,} distinct; "
        f"machine {scoring['matmul']['flops_per_second']['median'] / 1e9:.0f} GFLOP/s",
        "contender",
        "per s",
        "from – to",
        f"/{divisor}",
        "service/",
        "tokens/s",
        "padding",
        "p50",
        "p99",
        "MB",
        "matmul",
        "differs",
    )
    service = scoring["contenders"].get("service", {"ratio_to": {}})
    for name, one in scoring["contenders"].items():
        rate = one["units_per_second"]
        table.add_row(
            name,
            f"{rate['median']:.2f}",
            f"{rate['min']:.2f} – {rate['max']:.2f}",
            _ratio(one["ratio_to"].get(divisor)),
            _ratio(service["ratio_to"].get(name)),
            f"{one['input_tokens_per_second']['median']:,.0f}",
            f"{one['padding_share']:.0%}",
            _number(one["latency_p50"], ".2f"),
            _number(one["latency_p99"], ".2f"),
            _number(one["peak_bytes"] and one["peak_bytes"] / 1e6, ",.0f"),
            f"{one['matmul_share']['median']:.0%}",
            _number(one["max_score_difference"], ".0e"),
        )
    return table


def _growth_table(growth: dict[str, Any]) -> Table:
    table = _table(
        f"engine, growing completions of one prompt: R² {growth['r_squared']:.4f}",
        "completions",
        "distinct tokens",
        "computed tokens",
        "seconds",
    )
    for point in growth["points"]:
        table.add_row(
            str(point["completions"]),
            f"{point['distinct_tokens']:,}",
            f"{point['computed_tokens']:,}",
            f"{point['seconds']:.3f}",
        )
    return table


def _memory_table(memory: dict[str, Any]) -> Table:
    table = _table(
        f"log-probs of a completion of {memory['completion_tokens']:,} tokens over a vocabulary of "
        f"{memory['vocabulary']:,}",
        "way",
        "dtype",
        "GiB above the loaded model",
        "GiB held",
        "seconds",
        "differs",
    )
    for dtype, measured in memory["formats"].items():
        for way, one in measured["ways"].items():
            held = one["held_bytes"]
            table.add_row(
                way,
                dtype,
                _number(one["working_gib"], ".2f"),
                _number(held and held / 2**30, ".2f"),
                f"{one['seconds']:.1f}",
                f"{measured['max_difference']:.0e}",
            )
    return table


def _tiny_table(tiny: dict[str, Any]) -> Table:
    table = _table(
        f"tiny model, {tiny['connections']} keep-alive connections",
        "server",
        "requests/s",
        "from – to",
        "service / it",
        "failures",
    )
    for name, one in tiny["servers"].items():
        rate = one["requests_per_second"]
        table.add_row(
            name,
            f"{rate['median']:.0f}",
            f"{rate['min']:.0f} – {rate['max']:.0f}",
            _ratio(tiny["servers"]["service"]["ratio_to"].get(name)),
            str(one["failures"]),
        )
    return table


def _bars_table(bars: list[dict[str, Any]]) -> Table:
    table = _table("bars", "what", "measured", "bar", "")
    for bar in bars:
        verdict = {True: "[green]met", False: "[red]missed", None: ""}[bar["met"]]
        sign = SIGNS[bar["sense"]]
        demanded = "" if bar["bar"] is None else f"{sign} {bar['bar']:g}{bar['unit']}"
        table.add_row(bar["name"], f"{bar['value']:.3g}{bar['unit']}", demanded, verdict)
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _ratio(spread: dict[str, float] | None) -> str:
    return "" if spread is None else f"{spread['median']:.2f}x"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
