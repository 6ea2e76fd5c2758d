"""Several sets in one command: those that were named, or every known one that can be had."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from reward_benchmark.datasets import BENCHMARKS, Dataset, Selection, open_dataset
from reward_benchmark.errors import BenchmarkError, DatasetError, ServiceError
from reward_benchmark.evaluation import Evaluation, OpenScorer, Work, evaluate
from reward_benchmark.journal import write_atomically
from reward_benchmark.json_text import decoded
from reward_benchmark.leaderboard import ROW_FILE, Leaderboard, find_rows

ALL = "all"
"""In place of a set's name: every known set, as far as it can be had."""


@dataclass(frozen=True, slots=True)
class Suite:
    """What there is to run."""

    datasets: Sequence[Dataset]
    unavailable: Mapping[str, str]
    """Sets that only `all` asked for, and why they cannot be had."""


@dataclass(frozen=True, slots=True)
class SuiteResults:
    """What a finished suite has to say."""

    evaluations: Mapping[str, Evaluation]
    """Dataset → its run's numbers."""
    board: Leaderboard
    """The one row that is made of them."""
    unavailable: Mapping[str, str]
    """Sets that are not in the row, and why."""
    document: dict[str, Any]
    """The content of `row.json`."""


def open_suite(names: Sequence[str], *, console: Console) -> Suite:
    """Open every dataset that is named, and with `all` every known set that is not.

    Raises:
        DatasetError: a named one cannot be had, two have one name, or there is none.
    """
    datasets = {}
    for name in names:
        if name != ALL:
            dataset = _open(name, console)
            if dataset.name in datasets:
                raise DatasetError(
                    f"two datasets are called {dataset.name!r}, which names their directory: "
                    "rename a file, or run them one by one"
                )
            datasets[dataset.name] = dataset
    unavailable = {}
    if ALL in names:
        for name in BENCHMARKS:
            if name not in datasets:
                try:
                    datasets[name] = _open(name, console)
                except DatasetError as error:
                    unavailable[name] = str(error)
    if not datasets:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in unavailable.items())
        raise DatasetError(f"no known set can be had: {reasons}")
    return Suite(list(datasets.values()), unavailable)


def run_suite(
    suite: Suite,
    open_scorer: OpenScorer,
    *,
    out: Path,
    selection: Selection,
    concurrency: int,
    command: str,
    console: Console,
) -> SuiteResults:
    """Run each dataset into its own directory of `out`, and make a leaderboard's row of all.

    Raises:
        BenchmarkError: a run ended early, or not all were of one model.
    """
    if selection.subsets:
        raise BenchmarkError("--subset is of one dataset: run the datasets one by one with it")
    _check_row(out / ROW_FILE)
    evaluations: dict[str, Evaluation] = {}
    for dataset in suite.datasets:
        console.print(f"{dataset.name}:")
        work = Work(
            dataset=dataset,
            selection=selection,
            out=_run_path(out, dataset),
            concurrency=concurrency,
            name="run",
            command=command,
        )
        evaluations[dataset.name] = evaluate(work, open_scorer, console=console)
    models = {one.document["provenance"]["fingerprint"] for one in evaluations.values()}
    if len(models) > 1:
        raise ServiceError(
            f"the runs in {out} are of models with the fingerprints {', '.join(sorted(models))}, "
            "which make no row together: choose another --out"
        )
    board = find_rows([_run_path(out, dataset) for dataset in suite.datasets])
    document = {**board.document(), "unavailable": suite.unavailable}
    write_atomically(out / ROW_FILE, [json.dumps(document, indent=2).encode() + b"\n"])
    return SuiteResults(evaluations, board, suite.unavailable, document)


def _run_path(out: Path, dataset: Dataset) -> Path:
    return out / dataset.name.replace("/", "__")


def _check_row(path: Path) -> None:
    """See before the work that only a row of ours would be replaced."""
    if not path.exists():
        return
    try:
        ours = "score_weights" in decoded(path.read_bytes())
    except (ValueError, TypeError):
        ours = False
    if not ours:
        raise BenchmarkError(
            f"{path} is there already and no leaderboard's row: choose another --out"
        )


def _open(name: str, console: Console) -> Dataset:
    with console.status(f"Opening {name}"):
        return open_dataset(name)
