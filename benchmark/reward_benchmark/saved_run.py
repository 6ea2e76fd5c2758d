"""Finished runs, read back: ours, and the scores that RewardBench publishes."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from reward_benchmark.datasets import (
    BENCHMARKS,
    Benchmark,
    Dataset,
    Selection,
    open_dataset,
)
from reward_benchmark.errors import DatasetError, RunDirectoryError
from reward_benchmark.group import Group
from reward_benchmark.journal import Journal
from reward_benchmark.json_text import first_reason
from reward_benchmark.outcome import Outcome, outcome_from_line
from reward_benchmark.results_file import PREFERENCE_SETS, PreferenceResults, read_results
from reward_benchmark.rewardbench_files import read_scores
from reward_benchmark.run_directory import IDENTITY_FILE, RESULTS_FILE, SCORES_FILE, read_identity


@dataclass(frozen=True, slots=True)
class SavedRun:
    """The outcomes of a run that is over, and what is known about it."""

    path: Path
    model: str
    model_type: str
    """RewardBench's word for its kind."""
    dataset: str
    dataset_sha256: str | None
    """Hash over the groups; `None` where the source of the run records none."""
    benchmark: Benchmark
    """What its outcomes mean."""
    document: Mapping[str, Any]
    """The content of `results.json`; of a file of RewardBench only `benchmark`, `dataset`, `model`,
    `model_type`, and `of_results` of `PublishedScores`, for the numbers are `measure`'s to make."""
    outcomes: Callable[[], Iterator[Outcome]]
    """Reads the outcomes, one by one and in the dataset's order, as often as asked."""
    numbered: frozenset[str] = frozenset()
    """Subsets whose ids are not the dataset's, but numbers of rows within the subset, from 1."""
    remarks: tuple[str, ...] = ()
    """What to know before its outcomes are held against others."""


def open_saved_run(path: Path) -> SavedRun:
    """A finished run: the directory that it left, or a file of scores as RewardBench publishes it.

    Raises:
        RunDirectoryError: there is none, it is not finished, or of another version or kind.
        RewardBenchFileError: the file holds something else.
    """
    if path.is_file():
        return _published(path)
    recorded = read_identity(path)
    if recorded.get("command") in _OTHER_COMMANDS:
        raise RunDirectoryError(
            f"{path} holds {recorded['command']} results, not those of a preference set"
        )
    require_finished(path, RESULTS_FILE, SCORES_FILE)
    try:
        identity = _Identity.model_validate(recorded, strict=True)
    except ValidationError as error:
        raise RunDirectoryError(
            f"{path / IDENTITY_FILE} is not the identity of a run ({first_reason(error)}): run "
            "again into another --out"
        ) from error
    document, results = read_results(path, PreferenceResults, of="a preference set")
    benchmark = PREFERENCE_SETS[results.benchmark]
    journal = Journal(path / SCORES_FILE, outcome_from_line, noun=benchmark.noun)
    with journal.path.open("rb") as file:
        lines = sum(1 for _ in file)
    if lines != results.counts.groups:
        raise RunDirectoryError(
            f"{path} holds a run that is not finished: {SCORES_FILE} has {lines} lines, but "
            f"{RESULTS_FILE} is about {results.counts.groups} {benchmark.noun}s; the command that "
            "began it goes on with it"
        )
    return SavedRun(
        path=path,
        model=results.model,
        model_type=results.model_type,
        dataset=results.dataset,
        dataset_sha256=identity.dataset_sha256,
        benchmark=benchmark,
        document=document,
        outcomes=journal.records,
    )


def require_same_data(runs: Sequence[SavedRun]) -> None:
    """Refuse runs whose groups cannot be told to be the same ones by subset and id.

    Those of RewardBench's files, which do not say what their data were, are let pass.

    Raises:
        RunDirectoryError: two are of different data.
    """
    known = [run for run in runs if run.dataset_sha256 is not None]
    for run in known[1:]:
        if run.dataset_sha256 != known[0].dataset_sha256:
            raise RunDirectoryError(
                f"{run.path} is a run on {run.dataset} (SHA-256 {run.dataset_sha256:.12}…), but "
                f"{known[0].path} is one on {known[0].dataset} (SHA-256 "
                f"{known[0].dataset_sha256:.12}…): all must be of the same data, so run them on "
                "one copy of it"
            )


def require_finished(path: Path, *names: str) -> None:
    """See that a run's directory holds these files.

    Raises:
        RunDirectoryError: one is missing.
    """
    for name in names:
        if not (path / name).exists():
            raise RunDirectoryError(
                f"{path} holds a run that is not finished: {name} is missing; the command that "
                "began it goes on with it"
            )


_OTHER_COMMANDS = ("best-of-n", "generate")
"""Their directories have an identity and results too, but of another kind."""


class _Identity(BaseModel):
    """What is read of `run.json`."""

    dataset_sha256: str | None


def open_run_dataset(run: SavedRun, name: str | None = None) -> Dataset:
    """The dataset that a run was made on, where its texts can be read again.

    Args:
        name: where it is now, as for `open_dataset`; without one, where it was.

    Raises:
        DatasetError: it is not there, or is not what it was.
    """
    if run.dataset_sha256 is None:
        raise DatasetError(f"{run.path} does not say which data its scores are of")
    remedy = "say where the data is with --dataset"
    try:
        dataset = open_dataset(name if name is not None else _dataset_name(run))
        contents = dataset.scan()
    except DatasetError as error:
        if name is not None:
            raise
        raise DatasetError(
            f"the data of {run.path} cannot be read again: {error}; {remedy}"
        ) from error
    if contents.sha256 != run.dataset_sha256:
        raise DatasetError(
            f"{dataset.location} is not the data of {run.path}: its groups have the SHA-256 "
            f"{contents.sha256[:12]}…, but the run's had {run.dataset_sha256[:12]}…; {remedy}"
        )
    return dataset


def run_groups(run: SavedRun, dataset: Dataset) -> Iterator[Group]:
    """The groups of a run in the order of its outcomes, lazily.

    Args:
        dataset: what `open_run_dataset` found.
    """
    recorded = run.document["provenance"]["dataset"]
    selection = Selection(frozenset(recorded["subsets"] or ()), recorded["limit"])
    return selection.groups(dataset)


def is_local(run: SavedRun) -> bool:
    """Whether the run's data can be looked for without asking the hub."""
    return run.dataset == "sample" or bool(data_files(run))


def data_files(run: SavedRun) -> list[Path]:
    """The files that the run was made on; none where it was the hub, or is not known."""
    if "provenance" not in run.document:
        return []
    recorded = run.document["provenance"]["dataset"]["path"]
    files = [Path(part) for part in recorded.split(", ")]
    if all(file.is_absolute() for file in files):
        return files
    return [Path(recorded)] if Path(recorded).is_absolute() else []  # with a comma in its name


def _dataset_name(run: SavedRun) -> str:
    """What `open_dataset` would find the run's data by."""
    files = data_files(run)
    if run.dataset == "sample" or not files:
        return run.dataset
    place = str(files[0]) if len(files) == 1 else os.path.commonpath(files)
    return f"{run.dataset}={place}" if run.dataset in BENCHMARKS else place


def _published(path: Path) -> SavedRun:
    if (path.parent / IDENTITY_FILE).exists():
        raise RunDirectoryError(f"{path} is a part of the run in {path.parent}: name that")
    scores = read_scores(path)
    remarks = []
    if scores.numbered:
        remarks.append(
            f"{path.name} has no id, or one id twice, in {', '.join(sorted(scores.numbered))}: "
            "rows are told apart there by their order"
        )
    if scores.half_points:
        remarks.append(
            f"{scores.half_points} pairs of {path.name} have half a point at RewardBench: no "
            "winner, which counts as a loss here"
        )
    document = {
        "benchmark": scores.benchmark.name,
        "dataset": scores.benchmark.name,
        "model": scores.model,
        "model_type": scores.model_type,
        "of_results": scores.of_results,
    }
    return SavedRun(
        path=path,
        model=scores.model,
        model_type=scores.model_type,
        dataset=scores.benchmark.name,
        dataset_sha256=None,
        benchmark=scores.benchmark,
        document=document,
        outcomes=lambda: iter(scores.outcomes),
        numbered=scores.numbered,
        remarks=tuple(remarks),
    )
