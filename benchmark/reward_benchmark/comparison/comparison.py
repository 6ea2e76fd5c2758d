"""Everything that the outcomes of two runs say about their difference, and the verdict."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from reward_benchmark.comparison.difference import (
    Difference,
    corrected,
    difference,
    difference_document,
)
from reward_benchmark.comparison.flips import Flip
from reward_benchmark.comparison.matching import ComparisonError, Matching
from reward_benchmark.comparison.tally import Tally
from reward_benchmark.datasets import PREFERENCES, Benchmark
from reward_benchmark.saved_run import SavedRun, require_same_data
from reward_benchmark.statistics import Estimate, Interval, shares_of
from reward_benchmark.text_table import interval

SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that two runs' outcomes say about their difference."""

    first: SavedRun
    second: SavedRun
    benchmark: Benchmark
    overall: Difference
    sections: Mapping[str, Difference]
    subsets: Mapping[str, Difference]
    alike: Difference | None
    """Over all groups alike, where the overall number weighs them."""
    flips: tuple[Flip, ...]
    """In the order of the first run."""
    compared: int
    """Groups that both runs have."""
    only_first: int
    """Groups that are left out because only the first run has them."""
    only_second: int
    first_failed: int
    """Groups without scores of the first run among those compared: losses."""
    second_failed: int
    remarks: tuple[str, ...]


def compare(first: SavedRun, second: SavedRun) -> Comparison:
    """Hold two runs against each other, on the groups that both have.

    Raises:
        RunDirectoryError: they are runs of different data.
        ComparisonError: they are runs of different sets, or have no group in common.
    """
    benchmark = _common_benchmark(first, second)
    require_same_data((first, second))
    remarks = [*first.remarks, *(r for r in second.remarks if r not in first.remarks)]
    if first.dataset_sha256 is None or second.dataset_sha256 is None:
        remarks.append(
            "A file of RewardBench does not say which data its scores are of: groups are taken for "
            "the same by subset and id."
        )
    matching, tally = Matching(first, second), Tally(benchmark, first.numbered)
    for one, other in matching:
        tally.add(one, other)
    if not tally.compared:
        raise ComparisonError(
            f"{first.path} and {second.path} have no group in common: {matching.only_first} and "
            f"{matching.only_second} groups, no two with the same subset and id"
        )
    credits, lonely = tally.credits()
    if lonely:
        remarks.append(
            f"{lonely} groups of {', '.join(benchmark.groupwise)} lack their counterpart and are "
            "left out of its number."
        )
    subsets = {name: difference({name: counts}, {name: 1.0}) for name, counts in credits.items()}
    shares = {
        section: shares_of(credits, weights)
        for section, weights in _sections(benchmark, credits).items()
    }
    sections = {section: difference(credits, share) for section, share in shares.items()}
    # As in `measure`: where there are sections, a subset of the same name is none.
    named = shares if benchmark.sections else {name: {name: 1.0} for name in credits}
    overall = _overall_shares(benchmark.overall or {}, named)
    alike = partial(difference, {"": tally.together}, {"": 1.0})
    return Comparison(
        first=first,
        second=second,
        benchmark=benchmark,
        overall=difference(credits, overall) if overall else alike(),
        sections=corrected(sections),
        subsets=corrected(subsets),
        alike=alike() if overall and not benchmark.has_partial_credit else None,
        flips=tuple(tally.flips),
        compared=tally.compared,
        only_first=matching.only_first,
        only_second=matching.only_second,
        first_failed=tally.first_failed,
        second_failed=tally.second_failed,
        remarks=tuple(remarks),
    )


def verdict(comparison: Comparison) -> str:
    """The answer in one or two sentences."""
    overall, benchmark = comparison.overall, comparison.benchmark
    first, second = f"A ({comparison.first.model})", f"B ({comparison.second.model})"
    on = f"on {overall.count} {benchmark.noun}s of {benchmark.title}"
    if not any(overall.discordant):
        return f"No difference can be shown: {first} and {second} earn the same credit {on}."
    estimate = overall.estimate
    shown = overall.p_value <= SIGNIFICANT and estimate.value != 0
    if shown and estimate.value < 0:
        first, second = second, first
        estimate = _reversed(estimate)
    points = f"{estimate.value * 100:+.1f} points"
    ends = estimate.interval
    if ends is not None:
        points += f", 95 % interval {interval(ends)}"
    points += f", {p_text(overall.p_value)} ({overall.test})."
    if shown:
        sentence = f"{first} is better than {second} {on}: {points}"
    else:
        sentence = f"No difference can be shown between {first} and {second} {on}: {points}"
    if ends is not None and shown == (ends.low <= 0 <= ends.high):
        sentence += " The interval and the test do not agree."
    return sentence


def p_text(p_value: float) -> str:
    """A p-value as people write it."""
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.2g}"


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON; the pairs that flipped are a document each."""
    first, second = comparison.first, comparison.second
    return {
        "verdict": verdict(comparison),
        "benchmark": comparison.benchmark.name,
        "a": _run_document(first, comparison.first_failed, comparison.only_first),
        "b": _run_document(second, comparison.second_failed, comparison.only_second),
        "compared": comparison.compared,
        "overall": difference_document(comparison.overall),
        "alike": comparison.alike and difference_document(comparison.alike),
        "sections": {k: difference_document(d) for k, d in comparison.sections.items()},
        "subsets": {k: difference_document(d) for k, d in comparison.subsets.items()},
        "holm_over": {"sections": len(comparison.sections), "subsets": len(comparison.subsets)},
        "flips": {
            "a": sum(flip.first_credit > flip.second_credit for flip in comparison.flips),
            "b": sum(flip.first_credit < flip.second_credit for flip in comparison.flips),
        },
        "remarks": comparison.remarks,
    }


def _reversed(estimate: Estimate) -> Estimate:
    ends = estimate.interval
    return Estimate(-estimate.value, ends and Interval(-ends.high, -ends.low))


def _common_benchmark(first: SavedRun, second: SavedRun) -> Benchmark:
    names = {first.benchmark.name, second.benchmark.name}
    if len(names) == 1:
        return first.benchmark
    # A file of pairs may be a copy of RewardBench, whose rules it then has.
    for run, other in ((first, second), (second, first)):
        if other.benchmark is PREFERENCES and not run.benchmark.has_partial_credit:
            return run.benchmark
    raise ComparisonError(
        f"{first.path} is a run of {first.benchmark.title}, but {second.path} one of "
        f"{second.benchmark.title}: only runs of one set can be compared"
    )


def _sections(benchmark: Benchmark, present: Collection[str]) -> Mapping[str, Mapping[str, float]]:
    """The sections that the data has; none where a subset is of none, as in `measure`."""
    known = {name for weights in benchmark.sections.values() for name in weights}
    if not set(present) <= known:
        return {}
    return {
        section: weights
        for section, weights in benchmark.sections.items()
        if weights.keys() & set(present)
    }


def _overall_shares(
    weights: Mapping[str, float], named: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """What each subset counts in the overall number; nothing where no weight applies."""
    shares: dict[str, float] = defaultdict(float)
    for name, weight in shares_of(named, weights).items():
        for subset, share in named[name].items():
            shares[subset] += weight * share
    return dict(shares)


def _run_document(run: SavedRun, failed: int, alone: int) -> dict[str, Any]:
    return {
        "path": str(run.path),
        "model": run.model,
        "fingerprint": (run.document.get("provenance") or {}).get("fingerprint"),
        "failed": failed,
        "only_here": alone,
    }
