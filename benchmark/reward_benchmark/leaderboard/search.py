"""Results in directories and files, and the rows that they make."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from reward_benchmark.datasets import BENCHMARKS
from reward_benchmark.errors import BenchmarkError, RunDirectoryError
from reward_benchmark.leaderboard.board import Leaderboard
from reward_benchmark.leaderboard.row import Row, dataset_of, leaderboard_row
from reward_benchmark.metrics import section_estimates
from reward_benchmark.model_type import REFERENCE_FREE_DPO
from reward_benchmark.rewardbench_files import (
    PublishedAccuracies,
    RewardBenchFileError,
    read_accuracies,
    scores_folder_of,
)
from reward_benchmark.run_directory import IDENTITY_FILE
from reward_benchmark.saved_run import open_saved_run
from reward_benchmark.statistics import Estimate, weighted_mean

ROW_FILE = "row.json"
"""Where `run` writes the row of several sets."""

_ROW_FILES = frozenset({ROW_FILE, "rows.json"})
"""Rows of `run` and of `matrix`: made of results that lie beside them, and read there."""

_SCORES_FOLDERS = frozenset(map(scores_folder_of, BENCHMARKS.values()))

_NOT_THE_SCORER = frozenset({"command", "dataset", "fingerprint"})
"""What runs of one row may differ in."""


def find_rows(places: Iterable[Path]) -> Leaderboard:
    """A row for every model with results in these files, or in these directories and below.

    Raises:
        BenchmarkError: a place is none, or there is nothing.
    """
    found = _Found()
    for place in places:
        if place.is_file():
            found.add_published(place)
            continue
        if not place.is_dir():
            raise BenchmarkError(f"{place} is neither a directory nor a file")
        for file in sorted(place.rglob("*.json")):
            if file.name in _ROW_FILES:
                continue
            if not (file.parent / IDENTITY_FILE).exists():
                # Scores of every row, which say nothing that the accuracies beside them do not.
                if not _SCORES_FOLDERS & set(file.relative_to(place).parts[:-1]):
                    found.add_published(file, required=False)
            elif file.name == IDENTITY_FILE:
                found.add_run(file.parent)
    if found.other_files:
        count, first = len(found.other_files), min(found.other_files)
        found.notes.append(
            f"left out: {count} JSON file{'s' * (count > 1)} of another kind, such as {first}"
        )
    rows = found.rows()
    if not rows:
        wanted = ", ".join(str(place) for place in places)
        raise BenchmarkError(
            f"no finished run and no published results in {wanted}"
            + "".join(f"; {note}" for note in found.notes)
        )
    return Leaderboard(tuple(_distinguished(rows)), tuple(found.notes))


class _Data(NamedTuple):
    """A dataset; two files of one name may hold different ones."""

    name: str
    sha256: str | None = None
    """Hash over its groups, except of a known set."""

    @property
    def title(self) -> str:
        """Its name among others of that name."""
        return f"{self.name} ({self.sha256:.8})" if self.sha256 else self.name


_Results = dict[_Data, tuple[str, dict[str, Any]]]
"""Dataset → where the results on it are, and what they are."""


@dataclass(slots=True)
class _Found:
    """Results on the way to rows."""

    notes: list[str] = field(default_factory=list)
    other_files: set[Path] = field(default_factory=set)
    """JSON that is neither."""
    runs: dict[tuple[str, ...], _Results] = field(default_factory=lambda: defaultdict(dict))
    """Of each scorer."""
    published: dict[tuple[str, bool], _Results] = field(default_factory=lambda: defaultdict(dict))
    """Of each model, and whether it is without its reference."""

    def add_run(self, path: Path) -> None:
        try:
            run = open_saved_run(path)
        except RunDirectoryError as error:
            self.notes.append(f"left out: {error}")
            return
        document = dict(run.document)
        provenance = document["provenance"]
        scorer = {k: v for k, v in provenance["run"].items() if k not in _NOT_THE_SCORER}
        if "members" in scorer:  # whose outcomes, by hash, are others on each dataset
            scorer["members"] = [member["model"] for member in scorer["members"]]
        key = (run.model, provenance["fingerprint"] or "", json.dumps(scorer, sort_keys=True))
        self._keep(self.runs[key], path, document)

    def add_published(self, file: Path, *, required: bool = True) -> None:
        try:
            published = read_accuracies(file)
        except RewardBenchFileError:
            if required:
                raise
            self.other_files.add(file.resolve())
            return
        document = _document(published)
        key = (published.model, published.model_type == REFERENCE_FREE_DPO)
        self._keep(self.published[key], file, document)

    def _keep(self, kept: _Results, path: Path, document: dict[str, Any]) -> None:
        """Of several results of one model on one dataset, those of most groups, then the latest."""
        dataset = _data(document)
        if dataset in kept:
            other_path, other = kept[dataset]
            if Path(other_path).resolve() == path.resolve():
                return
            newer = _precedence(document) > _precedence(other)
            used, unused = (str(path), other_path) if newer else (other_path, str(path))
            self.notes.append(
                f"{document['model']} has several results on {dataset.name}: those of {used} are "
                f"shown, not those of {unused}"
            )
            if not newer:
                return
        kept[dataset] = (str(path), document)

    def rows(self) -> list[Row]:
        found = [(results, False) for results in self.runs.values()]
        found += [(results, True) for results in self.published.values()]
        names = Counter(data.name for data in {data for results, _ in found for data in results})
        rows = []
        for results, published in found:
            documents = {
                data.title if names[data.name] > 1 else data.name: document
                for data, (_, document) in results.items()
            }
            sources = [path for path, _ in results.values()]
            rows.append(leaderboard_row(documents, sources=sources, published=published))
        return rows


def _distinguished(rows: Sequence[Row]) -> list[Row]:
    """Rows of which no two read the same."""
    of_model: dict[tuple[str, bool], list[Row]] = defaultdict(list)
    for row in rows:
        # What is incomplete as a whole may be complete in detail, and no longer told apart by it.
        of_model[row.model, row.published].append(row)
    result = []
    for alike in of_model.values():
        fingerprints = {row.fingerprint for row in alike}
        types = {row.model_type for row in alike}
        for number, row in enumerate(alike, start=1):
            if len(alike) == 1:
                result.append(row)
            elif len(types) == len(alike):
                result.append(replace(row, distinction=row.model_type or "no type"))
            elif len(fingerprints) == len(alike):
                result.append(replace(row, distinction=(row.fingerprint or "no fingerprint")[:8]))
            else:
                result.append(replace(row, distinction=f"no. {number}"))
    return result


def _data(document: Mapping[str, Any]) -> _Data:
    name = dataset_of(document)
    if name in BENCHMARKS:  # of which there are copies, whole or not
        return _Data(name)
    return _Data(name, document["provenance"]["dataset"].get("sha256"))


def _precedence(document: Mapping[str, Any]) -> tuple[int, str]:
    return (
        (document.get("counts") or {}).get("groups", 0),
        (document.get("provenance") or {}).get("time", ""),
    )


def _document(published: PublishedAccuracies) -> dict[str, Any]:
    """Published accuracies in the form of `results.json`."""
    benchmark = published.benchmark
    estimates = {name: Estimate(value) for name, value in published.accuracies.items()}
    sections = section_estimates(estimates, benchmark.sections)
    named, weights = sections if benchmark.sections else estimates, benchmark.overall or {}
    overall = weighted_mean(named, weights).value if weights.keys() & named.keys() else None
    return {
        "benchmark": benchmark.name,
        "dataset": benchmark.name,
        "model": published.model,
        "model_type": published.model_type,
        "overall": overall,
        "overall_ci95": None,
        "absent": [name for name in weights if name not in named],
        "sections": {name: {"score": e.value, "ci95": None} for name, e in sections.items()},
        "subsets": {name: {"accuracy": e.value, "ci95": None} for name, e in estimates.items()},
    }
