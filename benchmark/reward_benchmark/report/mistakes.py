"""The pairs that say most about a model to a reader: those that it got wrong and was sure of."""

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reward_benchmark.datasets import Benchmark
from reward_benchmark.errors import DatasetError
from reward_benchmark.group import Group, Key, Prompt
from reward_benchmark.outcome import Outcome
from reward_benchmark.report.blocks import (
    NONE,
    Answer,
    Block,
    Cell,
    Column,
    Pair,
    Pairs,
    Prose,
    Section,
    Table,
    Turn,
)
from reward_benchmark.report.sets import ReportedRun, ReportedSet
from reward_benchmark.saved_run import SavedRun, is_local, open_run_dataset
from reward_benchmark.visible import label

MAX_SUBSETS = 50
"""As many of a model's subsets have their worst mistake shown, the worst ones."""

TITLE_CHARACTERS = 40
"""Of a subset and of an id."""


@dataclass(slots=True)
class _Mistake:
    """Why a pair is worth reading."""

    rank: tuple[int, int]
    """Its best place in a run's list, and the run's place: what pairs are ordered by."""
    runs: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def mistakes_section(reported: ReportedSet, count: int, datasets: Sequence[str]) -> Section:
    """The worst mistakes of each model, and the worst of each subset.

    Args:
        count: how many of each model, whatever their subset.
        datasets: where else the texts may be.
    """
    readers = reported.shown
    mistakes: dict[Key, _Mistake] = {}
    for place, run in enumerate(readers):
        _collect(run, place, count, mistakes)
    keys = sorted(mistakes, key=lambda key: mistakes[key].rank)
    outcomes = {run.name: _outcomes(run, mistakes) for run in reported.runs}
    blocks: list[Block] = [_introduction(reported, readers, count)]
    groups: Mapping[Key, Group] = {}
    try:
        groups = _groups(reported.dataset, mistakes, datasets)
    except DatasetError as error:
        blocks.append(
            Prose(
                f"The texts are not here, because the data are not at hand: {error}",
                warning=True,
            )
        )
    pairs = [
        _pair(
            key,
            mistakes[key],
            {name: found[key] for name, found in outcomes.items() if key in found},
            groups.get(key),
            f"set-{reported.number}-pair-{number}",
            reported.benchmark,
        )
        for number, key in enumerate(keys, start=1)
    ]
    noun = reported.benchmark.noun
    if pairs:
        subsets = list(dict.fromkeys(pair.subset for pair in pairs))
        blocks.append(Pairs(pairs, [run.name for run in readers], sorted(subsets), noun))
    else:
        blocks.append(Prose("There are none."))
    return Section("Mistakes to read", f"set-{reported.number}-mistakes", blocks)


def _introduction(reported: ReportedSet, readers: Sequence[ReportedRun], count: int) -> Prose:
    noun = reported.benchmark.noun
    left_out = len(reported.models) - len(readers)
    many = len(reported.runs[0].metrics.subsets) > MAX_SUBSETS
    return Prose(
        f"The {noun}s where a model puts a rejected completion furthest above a chosen one: the "
        f"{count} worst of each model, and its worst of each subset"
        + (f", of at most {MAX_SUBSETS}. " if many else ". ")
        + (f"Those of the {left_out} models that score lowest are left out. " if left_out else "")
        + "Scores of two models have no common unit: compare the order, not the numbers."
    )


def _collect(run: ReportedRun, place: int, count: int, mistakes: dict[Key, _Mistake]) -> None:
    worst: list[tuple[float, int, Key]] = []
    worst_of: dict[str, tuple[float, int, Key]] = {}
    for index, outcome in enumerate(run.saved.outcomes()):
        margin = outcome.margin
        if margin is None or margin >= 0 or outcome.subset in run.saved.numbered:
            continue
        # A heap has its smallest on top: here the least of the mistakes, and of equals the last.
        entry = (-margin, -index, outcome.key)
        if len(worst) < count:
            heapq.heappush(worst, entry)
        else:
            heapq.heappushpop(worst, entry)
        worst_of[outcome.subset] = max(worst_of.get(outcome.subset, entry), entry)
    worst.sort(reverse=True)
    for rank, (*_, key) in enumerate(worst, start=1):
        mistake = mistakes.setdefault(key, _Mistake((rank, place)))
        mistake.rank = min(mistake.rank, (rank, place))
        mistake.runs.append(run.name)
        mistake.reasons.append(f"{_ordinal(rank)} of {run.name}")
    for *_, key in heapq.nlargest(MAX_SUBSETS, worst_of.values()):
        mistake = mistakes.setdefault(key, _Mistake((count + 1, place)))
        if run.name not in mistake.runs:
            mistake.runs.append(run.name)
            mistake.reasons.append(f"worst in {key[0]} of {run.name}")


def _outcomes(run: ReportedRun, keys: Mapping[Key, object]) -> dict[Key, Outcome]:
    # An id that is only a row's number is another group's with the others.
    return {
        outcome.key: outcome
        for outcome in run.saved.outcomes()
        if outcome.key in keys and outcome.subset not in run.saved.numbered
    }


def _groups(run: SavedRun, keys: Collection[Key], datasets: Sequence[str]) -> Mapping[Key, Group]:
    """The groups with these keys, as they were when the run scored them.

    Raises:
        DatasetError: they are not at hand, or not as they were.
    """
    if not keys:
        return {}
    reasons = []
    # Several sets of a report may each have their place named.
    for name in (*datasets, None):
        try:
            if name is None and run.dataset_sha256 is not None and not is_local(run):
                raise DatasetError(
                    f"they are on the hub: pass --dataset {run.dataset} to read them"
                )
            return _chosen(open_run_dataset(run, name), keys)
        except DatasetError as error:
            reasons.append(str(error))
    raise DatasetError("; ".join(reasons))


def _chosen(dataset: Iterable[Group], keys: Collection[Key]) -> Mapping[Key, Group]:
    return {group.key: group for group in dataset if group.key in keys}


def _pair(
    key: Key,
    mistake: _Mistake,
    outcomes: Mapping[str, Outcome],
    group: Group | None,
    anchor: str,
    benchmark: Benchmark,
) -> Pair:
    subset, identifier = key
    worst = outcomes[mistake.runs[0]]
    assert worst.scores is not None
    pair = Pair(
        title=f"{label(subset, TITLE_CHARACTERS)} · {label(identifier, TITLE_CHARACTERS)}",
        anchor=anchor,
        subset=subset,
        runs=mistake.runs,
        reasons=mistake.reasons,
        scores=_scores(outcomes, benchmark, several=len(worst.scores) > 2),
    )
    return pair if group is None else _with_texts(pair, group, worst, outcomes)


def _scores(outcomes: Mapping[str, Outcome], benchmark: Benchmark, *, several: bool) -> Table:
    sides = ("lowest chosen", "highest rejected") if several else ("chosen", "rejected")
    titles = [*sides, "margin"]
    return Table(
        "Scores",
        [Column("model", numeric=False), *map(Column, titles), Column("", numeric=False)],
        [_scores_row(name, outcome, benchmark) for name, outcome in outcomes.items()],
    )


def _scores_row(name: str, outcome: Outcome, benchmark: Benchmark) -> list[Cell]:
    if outcome.error is not None:
        return [Cell(name), *[Cell(NONE)] * 3, Cell(outcome.error.code)]
    numbers = (min(outcome.chosen_scores), max(outcome.rejected_scores), outcome.margin or 0.0)
    verdict = "won" if outcome.win else "tie" if outcome.tie else "lost"
    if 0 < (credit := benchmark.worth(outcome)) < 1:
        verdict = f"{credit:.2f} won"
    return [Cell(name), *(Cell(score(number), number) for number in numbers), Cell(verdict)]


def _with_texts(pair: Pair, group: Group, worst: Outcome, outcomes: Mapping[str, Outcome]) -> Pair:
    assert worst.scores is not None
    lowest = min(range(group.num_chosen), key=worst.scores.__getitem__)
    highest = max(range(group.num_chosen, len(group.completions)), key=worst.scores.__getitem__)
    answers = [
        Answer(
            title=_answer_title(group, index),
            chosen=index < group.num_chosen,
            text=text,
            scores=[
                (name, score(outcome.scores[index]))
                for name, outcome in outcomes.items()
                if outcome.scores is not None and len(outcome.scores) > 2
            ],
        )
        for index, text in enumerate(group.completions)
    ]
    return Pair(
        title=f"{pair.title} · row {group.row}",
        anchor=pair.anchor,
        subset=pair.subset,
        runs=pair.runs,
        reasons=pair.reasons,
        scores=pair.scores,
        turns=_turns(group.prompt),
        rejected_turns=_turns(group.rejected_prompt) if group.rejected_prompt is not None else (),
        answers=(answers[lowest], answers[highest]),
        others=[a for index, a in enumerate(answers) if index not in (lowest, highest)],
    )


def _answer_title(group: Group, index: int) -> str:
    side, place, count = (
        ("chosen", index, group.num_chosen)
        if index < group.num_chosen
        else ("rejected", index - group.num_chosen, len(group.rejected))
    )
    number = f" {place + 1} of {count}" if count > 1 else ""
    return f"{side}{number}, {len(group.completions[index]):,} characters"


def _turns(prompt: Prompt) -> Sequence[Turn]:
    if isinstance(prompt, str):
        return [Turn("prompt", prompt)]
    return [Turn(message["role"], message["content"]) for message in prompt]


def score(number: float) -> str:
    """A score as it is read: short, and never rounded to nothing."""
    if number == int(number) and abs(number) < 1e6:
        return f"{number:,.0f}"
    return f"{number:,.3f}" if 1e-3 <= abs(number) < 1e6 else f"{number:.3g}"


def _ordinal(number: int) -> str:
    if number == 1:
        return "worst"
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else suffix} worst"
