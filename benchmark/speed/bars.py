"""What must be reached, as a table, and whether it was."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Bar:
    """A number of the results that must be at least this."""

    name: str
    path: tuple[str, ...]
    """Where it is in the document."""
    bar: float | None
    """`None`: reported, not demanded."""
    unit: str = "x"


def _against(part: str, rows: str, bars: Mapping[str, float | None]) -> list[Bar]:
    """Our service over HTTP, divided by baselines."""
    return [
        Bar(
            f"{rows}: service / {baseline}",
            ("scoring", part, "contenders", "service", "ratio_to", baseline, "median"),
            bar,
        )
        for baseline, bar in bars.items()
    ]


BARS = (
    *_against(
        "rewardbench",
        "RewardBench rows",
        {
            "loop-8": 3,
            "loop-64": 8,
            "length-sorted": 1.25,
            "length-sorted-no-mask": None,
            "one-by-one": None,
            "one-forward-server": None,
            "engine": 0.95,
        },
    ),
    *_against(
        "best-of-16-long",
        "best of 16, 500-token prompts",
        {"loop-8": 6, "length-sorted": 2.8, "length-sorted-no-mask": None},
    ),
    *_against(
        "best-of-16-alpaca",
        "best of 16, AlpacaEval rows",
        {"loop-64": 3, "length-sorted-no-mask": None},
    ),
    Bar(
        "RewardBench rows: the engine's useful work / the machine's matmul rate",
        ("scoring", "rewardbench", "contenders", "engine", "matmul_share", "median"),
        0.85,
    ),
    Bar(
        "tiny model, 32 connections: service / the same app answering a constant",
        ("tiny", "servers", "service", "ratio_to", "constant", "median"),
        0.7,
    ),
    Bar(
        "tiny model, 32 connections: service / one-forward-server",
        ("tiny", "servers", "service", "ratio_to", "one-forward-server", "median"),
        2,
    ),
    Bar(
        "engine's time against distinct tokens, n = 1 to 64: R²",
        ("growth", "r_squared"),
        None,
        unit="",
    ),
)


def judged(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The bars with what was measured; without those whose part was not run."""
    results = []
    for bar in BARS:
        value: Any = document
        for step in bar.path:
            value = value.get(step) if isinstance(value, dict) else None
        if value is not None:
            met = None if bar.bar is None else value >= bar.bar
            results.append({**asdict(bar), "path": ".".join(bar.path), "value": value, "met": met})
    return results
