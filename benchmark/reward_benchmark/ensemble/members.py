"""The members of an ensemble: their scores for every completion, and what becomes of them."""

import hashlib
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from reward_benchmark.errors import BenchmarkError
from reward_benchmark.group import Key
from reward_benchmark.outcome import Failure, Outcome
from reward_benchmark.saved_run import SavedRun, require_same_data
from reward_benchmark.statistics.observations import Flags, Floats

Mode = Literal["mean", "worst", "uncertainty"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True)
class Member:
    """One run's part in an ensemble."""

    name: str
    """Its model, and where the run is if several are of that model."""
    run: SavedRun
    sha256: str
    """Hash over its outcomes."""
    mean: float
    """Of all its scores."""
    standard_deviation: float
    scores: Floats
    """What it adds for every completion of every group, NaN where it has no score: z-scores, or in
    a raw ensemble its own."""
    present: Flags
    """Whether there are scores, by group."""
    failures: Mapping[Key, Failure]
    """Why there are none; groups that the run does not have are missing here."""


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Members, and the groups that any of them knows in the order of the first one's run."""

    members: Sequence[Member]
    groups: Sequence[Outcome]
    """All about each group but its scores."""
    starts: NDArray[np.int64]
    """Where each group's completions start among all, and where the last one's end."""
    raw: bool
    """Whether the scores are combined as they are."""

    def name(self, mode: Mode) -> str:
        """What a mode is called in it."""
        return f"raw {mode}" if self.raw else mode

    def outcomes(self, mode: Mode, places: Sequence[int] | None = None) -> Iterator[Outcome]:
        """What becomes of every group.

        Args:
            places: of the members that take part; `None` means all.
        """
        members = self.members if places is None else [self.members[i] for i in places]
        scores = combined(np.array([member.scores for member in members]), mode)
        complete = np.all([member.present for member in members], axis=0)
        for i, group in enumerate(self.groups):
            if complete[i]:
                values = scores[self.starts[i] : self.starts[i + 1]]
                yield replace(group, scores=tuple(values.tolist()))
            else:
                lacking = [member for member in members if not member.present[i]]
                yield replace(group, error=_failure(group.key, lacking))


def combined(scores: Floats, mode: Mode) -> Floats:
    """One score for each completion, at most the largest float.

    Args:
        scores: a row for each member, a column for each completion; NaN makes the score NaN.
    """
    # In order of size: the order of the members must not decide, by rounding, what is a tie.
    ordered = np.sort(scores, axis=0)
    if mode == "worst":
        worst: Floats = np.min(ordered, axis=0)
        return worst
    # A power of two for each completion, which is exact: one for all would lose the tiny ones.
    exponents = np.frexp(np.abs(ordered).max(axis=0))[1]
    ordered = np.ldexp(ordered, -exponents)
    total: Floats = np.mean(ordered, axis=0)
    if mode == "uncertainty":
        total = total - np.std(ordered, axis=0)
    with np.errstate(over="ignore"):
        return np.clip(np.ldexp(total, exponents), -sys.float_info.max, sys.float_info.max)


def assemble(runs: Sequence[SavedRun], *, raw: bool = False) -> Ensemble:
    """The ensemble of some runs.

    Args:
        raw: whether their scores are combined as they are, not as z-scores.

    Raises:
        BenchmarkError: they cannot make one: too few, of different data, without scores, or without
            variation to standardise.
    """
    _check(runs)
    numbered = frozenset[str]().union(*(run.numbered for run in runs))
    groups, sizes = _union(runs, numbered)
    index = {group.key: i for i, group in enumerate(groups)}
    starts = np.concatenate([[0], np.cumsum(sizes)])
    names = _names(runs)
    members = [
        _member(name, run, numbered, index, starts, raw=raw)
        for name, run in zip(names, runs, strict=True)
    ]
    return Ensemble(members, groups, starts, raw)


def _check(runs: Sequence[SavedRun]) -> None:
    if len(runs) < 2:
        raise BenchmarkError(f"an ensemble needs at least 2 members, not {len(runs)}")
    paths = Counter(run.path.resolve() for run in runs)
    if repeated := [path for path, times in paths.items() if times > 1]:
        raise BenchmarkError(f"{repeated[0]} is named {paths[repeated[0]]} times: name it once")
    first = runs[0]
    for run in runs[1:]:
        if run.benchmark is not first.benchmark:
            raise BenchmarkError(
                f"{run.path} is a run on {run.benchmark.title}, but {first.path} is one on "
                f"{first.benchmark.title}: members must be of the same data"
            )
        if part_of(run) != part_of(first):
            raise BenchmarkError(
                f"{run.path} and {first.path} are of other parts of {first.dataset}, by --limit or "
                "--subset: members must be of the same part"
            )
    require_same_data(runs)


def part_of(run: SavedRun) -> dict[str, Any]:
    """Which part of its dataset a run is of; published runs are taken for whole ones."""
    recorded = (run.document.get("provenance") or {}).get("dataset") or {}
    return {name: recorded.get(name) for name in ("subsets", "limit")}


def _outcomes(run: SavedRun, numbered: Collection[str]) -> Iterator[Outcome]:
    """The outcomes, told by their place in subsets of which a member does not know the ids."""
    places: Counter[str] = Counter()
    for outcome in run.outcomes():
        places[outcome.subset] += 1
        by_place = outcome.subset in numbered
        yield replace(outcome, id=places[outcome.subset]) if by_place else outcome


def _union(runs: Sequence[SavedRun], numbered: Collection[str]) -> tuple[list[Outcome], list[int]]:
    """The groups of all runs without their scores, and how many completions each has."""
    groups: dict[Key, Outcome] = {}
    sizes: dict[Key, int] = {}
    counts: dict[str, dict[str, int]] = {}
    for run in runs:
        count = Counter[str]()
        for outcome in _outcomes(run, numbered):
            count[outcome.subset] += 1
            bare = Outcome(*outcome.key, outcome.num_chosen, outcome.num_characters)
            known = groups.setdefault(outcome.key, bare)
            # A failed group may not say how many completions it has.
            size = len(outcome.scores or outcome.num_characters or ())
            before = sizes.setdefault(outcome.key, size) or size
            if bare.num_chosen != known.num_chosen or (size and size != before):
                raise BenchmarkError(
                    f"{run.path} has {size} completions of {outcome.key}, {bare.num_chosen} of "
                    f"them chosen, but another member has {before} and {known.num_chosen}: members "
                    "must be of the same data"
                )
            sizes[outcome.key] = before
            if known.num_characters is None:
                groups[outcome.key] = bare
        counts[str(run.path)] = {subset: count[subset] for subset in numbered}
    if any(one != counts[str(runs[0].path)] for one in counts.values()):
        raise BenchmarkError(
            f"the groups of {', '.join(sorted(numbered))} have no ids in a published file, and the "
            "members have different numbers of them: they cannot be told apart"
        )
    return [*groups.values()], [sizes[key] for key in groups]


def _names(runs: Sequence[SavedRun]) -> list[str]:
    times = Counter(run.model for run in runs)
    return [run.model if times[run.model] == 1 else f"{run.model} ({run.path})" for run in runs]


def _member(
    name: str,
    run: SavedRun,
    numbered: Collection[str],
    index: Mapping[Key, int],
    starts: NDArray[np.int64],
    *,
    raw: bool,
) -> Member:
    digest = hashlib.sha256()
    scores = np.full(starts[-1], np.nan)
    present = np.zeros(len(index), dtype=bool)
    failures = {}
    for outcome in _outcomes(run, numbered):
        digest.update(outcome.line())
        i = index[outcome.key]
        if outcome.scores is not None:
            scores[starts[i] : starts[i + 1]] = outcome.scores
            present[i] = True
        elif outcome.error is not None:
            failures[outcome.key] = outcome.error
    known = scores[~np.isnan(scores)]
    if not len(known):
        raise BenchmarkError(f"{name} has no scores in {run.path}: leave it out")
    # Told by the values: rounding gives equal ones a standard deviation of their own.
    is_constant = known.min() == known.max()
    if is_constant and not raw:
        raise BenchmarkError(
            f"{name} gives every completion the score {known[0]} in {run.path}, which leaves "
            "nothing to standardise: leave it out, or combine the scores as they are with --raw"
        )
    # By a power of two, which is exact: sums of huge scores would overflow, of tiny ones vanish.
    exponent = int(np.frexp(np.abs(known).max())[1])
    scaled = np.ldexp(known, -exponent)
    mean = np.clip(scaled.mean(), scaled.min(), scaled.max())  # from which rounding may lead out
    deviation = 0.0 if is_constant else scaled.std()
    return Member(
        name=name,
        run=run,
        sha256=digest.hexdigest(),
        mean=float(np.ldexp(mean, exponent)),
        standard_deviation=float(np.ldexp(deviation, exponent)),
        scores=scores if raw else (np.ldexp(scores, -exponent) - mean) / deviation,
        present=present,
        failures=failures,
    )


def _failure(key: Key, lacking: Sequence[Member]) -> Failure:
    reasons = []
    for member in lacking:
        failure = member.failures.get(key)
        reason = f"{failure.code}: {failure.message}" if failure else "not in its run"
        reasons.append(f"{member.name}: {reason}")
    return Failure("member_without_scores", "; ".join(reasons))
