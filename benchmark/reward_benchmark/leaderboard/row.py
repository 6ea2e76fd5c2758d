"""A row of a leaderboard: what the results of one model put into its columns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reward_benchmark.datasets import BENCHMARKS, PREFERENCES
from reward_benchmark.datasets.rewardbench import REWARDBENCH
from reward_benchmark.datasets.rewardbench_2 import REWARDBENCH_2
from reward_benchmark.leaderboard.columns import (
    COLUMNS,
    REWARDBENCH_2_COLUMN,
    SCORE,
    SCORE_WEIGHTS,
    SECTIONS,
    SET_COLUMNS,
    own_column,
)
from reward_benchmark.statistics import Estimate, Interval, weighted_mean

BASELINES = frozenset({"length", "random"})
"""Scorers that no model is behind; a leaderboard shows them to be beaten."""


@dataclass(frozen=True, slots=True)
class Detail:
    """A number and what it is made of."""

    cells: Mapping[str, Estimate]
    """The number's column, and subsets → number."""
    incomplete: tuple[str, ...]
    """Why they are not those of the whole set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A model's numbers, as fractions."""

    model: str
    model_type: str
    cells: Mapping[str, Estimate]
    """Column → number; columns without results are missing."""
    details: Mapping[str, Detail] = field(default_factory=dict)
    """Section of RewardBench, or column of a whole dataset → what it is made of."""
    fingerprint: str | None = None
    distinction: str | None = None
    """What tells it from another row of a model with this name."""
    baseline: bool = False
    published: bool = False
    """Read from a file that somebody published, and not from runs."""
    incomplete: tuple[str, ...] = ()
    """Why its numbers are not those of whole sets."""
    sources: tuple[str, ...] = ()
    """The runs and files that it is made of."""

    @property
    def title(self) -> str:
        """The model with what a reader must know beside its name."""
        marks = [
            self.distinction,
            "baseline" if self.baseline else None,
            "published" if self.published else None,
            "incomplete" if self.incomplete else None,
        ]
        shown = ", ".join(mark for mark in marks if mark)
        return f"{self.model} ({shown})" if shown else self.model


def leaderboard_row(
    results: Mapping[str, Mapping[str, Any]],
    *,
    sources: Iterable[str] = (),
    published: bool = False,
) -> Row:
    """The row of one model.

    Args:
        results: name of a set, or what to call another dataset → content of its `results.json`; at
            least one.
        sources: where they are from.
        published: whether they are somebody else's.
    """
    cells: dict[str, Estimate] = {}
    details: dict[str, Detail] = {}
    incomplete: list[str] = []
    for name, document in results.items():
        cells |= _cells(name, document)
        reasons = tuple(f"{name}: {reason}" for reason in gaps(document))
        details |= {
            column: Detail(made, reasons) for column, made in _parts(name, document).items()
        }
        incomplete += reasons
    if cells.keys() >= set(SECTIONS):
        cells = scored(cells)
    first = next(iter(results.values()))
    provenance = first.get("provenance") or {}
    scorer = (provenance.get("run") or {}).get("scorer", first["model"])
    return Row(
        model=first["model"],
        model_type=first["model_type"],
        cells={
            **{name: cells[name] for name in COLUMNS if name in cells},
            **{name: cell for name, cell in cells.items() if name not in COLUMNS},
        },
        details=details,
        fingerprint=provenance.get("fingerprint"),
        baseline=scorer in BASELINES,
        published=published,
        incomplete=tuple(incomplete),
        sources=tuple(sources),
    )


def dataset_of(document: Mapping[str, Any]) -> str:
    """The set that a run's numbers are of; a file may be a copy of RewardBench."""
    if document["benchmark"] != PREFERENCES.name:
        return str(document["benchmark"])
    counts = {name: subset.get("count") for name, subset in document["subsets"].items()}
    return REWARDBENCH.name if counts == REWARDBENCH.counts else own_column(document["dataset"])


def gaps(document: Mapping[str, Any]) -> list[str]:
    """Why results are not those of a whole set.

    Args:
        document: the content of their `results.json`.
    """
    reasons = []
    recorded = (document.get("provenance") or {}).get("dataset") or {}
    benchmark = BENCHMARKS.get(dataset_of(document))
    if benchmark is not None and benchmark.overall:
        wanted: set[str] = set()
        for name in benchmark.overall:
            wanted |= set(benchmark.sections.get(name, {name: 1.0}))
        if missing := sorted(wanted - document["subsets"].keys()):
            reasons.append(f"{len(missing)} of {len(wanted)} subsets are missing ({few(missing)})")
        chosen = recorded.get("limit") or recorded.get("subsets")
        partial = [
            f"{name} {one['count']} of {benchmark.counts[name]}"
            for name, one in document["subsets"].items()
            if "count" in one and one["count"] != benchmark.counts.get(name, one["count"])
        ]
        if partial and not chosen:
            reasons.append(f"{len(partial)} subsets are not whole ({few(partial)})")
    if recorded.get("limit"):
        reasons.append(f"only the first {recorded['limit']}")
    if recorded.get("subsets"):
        reasons.append(f"only the subsets {', '.join(recorded['subsets'])}")
    if errors := (document.get("counts") or {}).get("errors"):
        reasons.append(f"{errors} failed, which counts as lost")
    return reasons


def scored(cells: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """With the score, of cells with all of RewardBench's sections."""
    return {SCORE: weighted_mean(cells, SCORE_WEIGHTS), **cells}


def few(names: Sequence[str]) -> str:
    """The first of them, for people."""
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _cells(name: str, document: Mapping[str, Any]) -> dict[str, Estimate]:
    """What the results on one dataset put into a row."""
    if name == REWARDBENCH.name:
        return _sections(document)
    overall = _overall(name, document)
    if name != REWARDBENCH_2.name or not overall:
        return overall
    domains = _subsets(document).items()
    return overall | {f"{REWARDBENCH_2_COLUMN} {name}": estimate for name, estimate in domains}


def _parts(name: str, document: Mapping[str, Any]) -> dict[str, dict[str, Estimate]]:
    """What the numbers on one dataset are made of."""
    subsets, sections = _subsets(document), _sections(document)
    benchmark = BENCHMARKS.get(name)
    # A section that alone is the overall number is not said twice.
    overall = [*((benchmark and benchmark.overall) or ())]
    apart = {k: one for k, one in sections.items() if [k] != overall}
    parts = {SET_COLUMNS.get(name, name): _overall(name, document) | apart | subsets}
    if name == REWARDBENCH.name:
        for section, one in sections.items():
            weights = REWARDBENCH.sections.get(section, {})
            parts[section] = {section: one} | {k: subsets[k] for k in weights if k in subsets}
    return parts


def _overall(name: str, document: Mapping[str, Any]) -> dict[str, Estimate]:
    """The overall number in its column, if there is one."""
    benchmark = BENCHMARKS.get(name)
    nothing = benchmark and benchmark.overall and set(document["absent"]) >= set(benchmark.overall)
    if document["overall"] is None or nothing:
        return {}
    estimate = _estimate(document["overall"], document["overall_ci95"])
    return {SET_COLUMNS.get(name, name): estimate}


def _sections(document: Mapping[str, Any]) -> dict[str, Estimate]:
    return {k: _estimate(one["score"], one["ci95"]) for k, one in document["sections"].items()}


def _subsets(document: Mapping[str, Any]) -> dict[str, Estimate]:
    return {k: _estimate(one["accuracy"], one["ci95"]) for k, one in document["subsets"].items()}


def _estimate(value: float, interval: Sequence[float] | None) -> Estimate:
    return Estimate(value, None if interval is None else Interval(*interval))
