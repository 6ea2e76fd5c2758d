"""The first sections of a set: its leaderboard, its sections and its subsets."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from reward_benchmark import plots
from reward_benchmark.leaderboard import (
    REWARDBENCH_2_COLUMN,
    Leaderboard,
    leaderboard_row,
    own_column,
)
from reward_benchmark.metrics import Metrics
from reward_benchmark.report.blocks import (
    Block,
    Cell,
    Column,
    Figure,
    Prose,
    Section,
    Table,
    count_cell,
    percent,
    percent_cell,
)
from reward_benchmark.report.figures import figure
from reward_benchmark.report.sets import ReportedRun, ReportedSet
from reward_benchmark.results import estimate_document
from reward_benchmark.statistics import Estimate

BASELINE = "baseline"
RANDOM = "random"
OVERALL = "overall"

LIMITS = (0.0, 1.02)
"""Of every axis of scores, so that pictures can be compared; the set Ties reaches 1.01."""

MAX_BARS = 60
"""With more subsets there is no picture of them."""


def all_sets_section(sets: Sequence[ReportedSet]) -> Section:
    """A row for each model with its numbers on all sets."""
    results: dict[tuple[str, str | None], dict[str, dict[str, Any]]] = {}
    titles: dict[str, int] = {}
    for reported in sets:
        name = reported.known_as or own_column(reported.title)
        if titles.setdefault(name, reported.number) != reported.number:
            name = f"{reported.title} (no. {reported.number})"
        for run in reported.runs:
            fingerprint = (run.saved.document.get("provenance") or {}).get("fingerprint")
            row = results.setdefault((run.saved.model, fingerprint), {})
            row.setdefault(name, _document(run, reported))
        guesses = results.setdefault((RANDOM, None), {})
        guesses.setdefault(name, _guessed(reported))
    board = Leaderboard(tuple(map(leaderboard_row, results.values()))).sorted()
    # The domains of RewardBench 2 stand in its own section.
    columns = [name for name in board.columns if not name.startswith(f"{REWARDBENCH_2_COLUMN} ")]
    table = Table(
        "Scores in per cent, with 95 % intervals, over all sets",
        [Column("model", numeric=False), *map(Column, columns)],
        [
            [
                Cell(row.model, tag=BASELINE if row.baseline else ""),
                *(percent_cell(row.cells.get(name)) for name in columns),
            ]
            for row in board.rows
        ],
        sorted_by=1,
        sortable=True,
    )
    return Section("All sets", "all-sets", [table])


def _document(run: ReportedRun, reported: ReportedSet) -> dict[str, Any]:
    """The numbers of a run as `results.json` has them: files of RewardBench have none."""
    metrics = run.metrics
    return {
        "benchmark": reported.benchmark.name,
        "dataset": run.saved.dataset,
        "model": run.saved.model,
        "model_type": run.saved.model_type,
        "overall": metrics.overall.value,
        "overall_ci95": metrics.overall.interval,
        "absent": metrics.absent,
        "sections": {name: estimate_document(one) for name, one in metrics.sections.items()},
        "subsets": {
            name: {"accuracy": one.estimate.value, "ci95": one.estimate.interval}
            for name, one in metrics.subsets.items()
        },
        "provenance": run.saved.document.get("provenance"),
    }


def _guessed(reported: ReportedSet) -> dict[str, Any]:
    """The same of guessing."""
    guesses = reported.chance
    return {
        "benchmark": reported.benchmark.name,
        "dataset": reported.dataset.dataset,
        "model": RANDOM,
        "model_type": RANDOM,
        "overall": guesses.overall,
        "overall_ci95": None,
        "absent": reported.runs[0].metrics.absent,
        "sections": {name: {"score": one, "ci95": None} for name, one in guesses.sections.items()},
        "subsets": {name: {"accuracy": one, "ci95": None} for name, one in guesses.subsets.items()},
    }


def leaderboard_section(reported: ReportedSet) -> Section:
    """A row for each run, with the numbers that the set is known for."""
    names = list(_named(reported.runs[0].metrics))
    rows = [_row(run, names) for run in reported.runs]
    guesses = [reported.chance.overall, *(_expected(reported, name) for name in names)]
    cells = [Cell(percent(guess), guess) for guess in guesses]
    rows.append([Cell(RANDOM, tag=BASELINE), *cells, count_cell(0), count_cell(0)])
    rows.sort(key=lambda row: row[1].order or 0.0, reverse=True)
    table = Table(
        f"Scores in per cent, with 95 % intervals, over {reported.size}",
        [
            Column("model", numeric=False),
            Column(OVERALL),
            *map(Column, names),
            Column("ties"),
            Column("errors"),
        ],
        rows,
        sorted_by=1,
        sortable=True,
    )
    blocks: list[Block] = [table]
    if absent := reported.runs[0].metrics.absent:
        blocks.append(
            Prose(
                f"The overall number lacks {', '.join(absent)}: these data have none of them.",
                warning=True,
            )
        )
    if reported.runs[0].metrics.sections:
        blocks += [_sections_figure(reported, names), *only_some(reported)]
    return Section("Leaderboard", f"set-{reported.number}-leaderboard", blocks)


def _row(run: ReportedRun, names: Iterable[str]) -> list[Cell]:
    total = run.metrics.total
    return [
        Cell(run.name, tag=BASELINE if run.is_baseline else ""),
        *map(percent_cell, _numbers(run, names)),
        count_cell(total.ties),
        count_cell(total.errors),
    ]


def _sections_figure(reported: ReportedSet, names: Sequence[str]) -> Figure:
    drawing = partial(
        plots.interval_bars,
        [OVERALL, *names],
        {run.name: _numbers(run, names) for run in reported.shown},
        title=f"Sections of {reported.title}",
        value_label="score, %",
        note=f"{reported.size}; lines: 95 % intervals",
        baselines={
            RANDOM: [reported.chance.overall, *(_expected(reported, name) for name in names)],
            **{run.name: _values(_numbers(run, names)) for run in reported.baselines},
        },
        limits=LIMITS,
        percent=True,
    )
    return figure(drawing, "Each section's score with its interval; the numbers are above.")


def subsets_section(reported: ReportedSet) -> Section:
    """Scores of subsets, against guessing and the baselines."""
    subsets = reported.runs[0].metrics.subsets
    expected = [reported.chance.subsets[name] for name in subsets]
    counts = [subset.tally.count for subset in subsets.values()]
    drawing = partial(
        plots.interval_bars,
        list(subsets),
        {run.name: _estimates(run, subsets) for run in reported.shown},
        title=f"Subsets of {reported.title}",
        value_label="score, %",
        note=f"n: {reported.benchmark.noun}s; lines: 95 % intervals",
        counts=counts,
        baselines={
            RANDOM: expected,
            **{run.name: _values(_estimates(run, subsets)) for run in reported.baselines},
        },
        limits=LIMITS,
        percent=True,
    )
    columns = [_estimates(run, subsets) for run in reported.runs]
    rows = [
        [
            Cell(name),
            count_cell(count),
            *map(percent_cell, estimates),
            Cell(percent(guess), guess),
        ]
        for name, count, guess, *estimates in zip(subsets, counts, expected, *columns, strict=True)
    ]
    table = Table(
        "Scores of subsets in per cent, with 95 % intervals",
        [
            Column("subset", numeric=False),
            Column("n"),
            *(Column(run.name) for run in reported.runs),
            Column(RANDOM),
        ],
        rows,
        sortable=True,
    )
    blocks: list[Block] = [table]
    if len(subsets) <= MAX_BARS:
        description = "Each subset's score with its interval; the numbers are below."
        blocks = [figure(drawing, description), *only_some(reported), table]
    return Section("Subsets", f"set-{reported.number}-subsets", blocks)


def only_some(reported: ReportedSet) -> list[Prose]:
    """Says that pictures leave out models, where they do."""
    left_out = len(reported.models) - len(reported.shown)
    if not left_out:
        return []
    text = f"Pictures show the {len(reported.shown)} best of {len(reported.models)} models."
    return [Prose(text)]


def _estimates(run: ReportedRun, subsets: Iterable[str]) -> list[Estimate]:
    return [run.metrics.subsets[name].estimate for name in subsets]


def _numbers(run: ReportedRun, names: Iterable[str]) -> list[Estimate]:
    """The overall number, and those that stand beside it."""
    named = _named(run.metrics)
    return [run.metrics.overall, *(named[name] for name in names)]


def _values(estimates: Iterable[Estimate]) -> list[float]:
    return [estimate.value for estimate in estimates]


def _expected(reported: ReportedSet, name: str) -> float:
    return {**reported.chance.subsets, **reported.chance.sections}[name]


def _named(metrics: Metrics) -> Mapping[str, Estimate]:
    """What stands beside the overall number: sections, or subsets that are as much."""
    if metrics.sections:
        return metrics.sections
    weights = metrics.benchmark.overall or {}
    return {name: subset.estimate for name, subset in metrics.subsets.items() if name in weights}
