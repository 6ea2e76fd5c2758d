"""What must be reached, as a table, and whether it was."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from speed.logprob_memory import DTYPES


@dataclass(frozen=True, slots=True)
class Bar:
    """A number of the results, and what it must be."""

    name: str
    path: tuple[str, ...]
    """Where it is in the document."""
    bar: float | None
    """`None`: reported, not demanded."""
    unit: str = "x"
    sense: Literal["at least", "at most"] = "at least"

    def met_by(self, value: float) -> bool | None:
        """Whether this number reaches it; NaN reaches nothing."""
        if self.bar is None:
            return None
        return value >= self.bar if self.sense == "at least" else value <= self.bar


def _scoring(part: str, contender: str) -> tuple[str, ...]:
    return ("scoring", part, "contenders", contender)


def _against(part: str, rows: str, bars: Mapping[str, float | None]) -> list[Bar]:
    """Our service over HTTP, divided by baselines."""
    return [
        Bar(
            f"{rows}: service / {baseline}",
            (*_scoring(part, "service"), "ratio_to", baseline, "median"),
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
        (*_scoring("rewardbench", "engine"), "matmul_share", "median"),
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
    *_against(
        "dpo",
        "DPO, RewardBench rows",
        {"dpo-loop-6": 3, "dpo-loop-6-sorted": None},
    ),
    *(
        Bar(
            f"log-probs of a long completion, {dtype}: memory, {way}",
            ("logprob-memory", "formats", dtype, "ways", way, "working_gib"),
            bar,
            unit=" GiB",
            sense="at most",
        )
        for dtype in DTYPES
        for way, bar in (("full-logits", None), ("engine", 1))
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
            judgement = {"path": ".".join(bar.path), "value": value, "met": bar.met_by(value)}
            results.append({**asdict(bar), **judgement})
    return results
