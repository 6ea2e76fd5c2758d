"""Measures an ensemble, and with a sweep every smaller one of its members."""

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.console import Console

from reward_benchmark.datasets.dataset import Dataset, Source
from reward_benchmark.ensemble.members import MODES, Ensemble, Member, Mode, assemble, part_of
from reward_benchmark.errors import BenchmarkError
from reward_benchmark.evaluation import Evaluation
from reward_benchmark.journal import Journal, write_atomically
from reward_benchmark.metrics import measure
from reward_benchmark.model_type import ENSEMBLE
from reward_benchmark.outcome import outcome_from_line
from reward_benchmark.progress import WorkProgress
from reward_benchmark.results import Provenance, estimate_document, results_document
from reward_benchmark.rewardbench_files import accuracies_document
from reward_benchmark.run_directory import RESULTS_FILE, REWARDBENCH_FILE, SCORES_FILE, open_run
from reward_benchmark.saved_run import SavedRun

SWEEP_FILE = "sweep.csv"

MAX_SWEEP_MEMBERS = 10
"""Then a sweep measures three thousand ensembles; each further member would double that."""


def ensemble(
    runs: Sequence[SavedRun],
    mode: Mode,
    *,
    raw: bool,
    sweep: bool,
    out: Path,
    command: str,
    console: Console,
) -> Evaluation:
    """Combine runs, and write the result as a run that every other command can read.

    Args:
        raw: whether the scores are combined as they are, not as z-scores.
        sweep: whether to measure every combination of at least two members in every mode too.
        command: how the user asked for it, for the record.
        console: shows meanwhile what is going on.

    Raises:
        BenchmarkError: the runs make no ensemble, or the directory holds another run.
    """
    if sweep and len(runs) > MAX_SWEEP_MEMBERS:
        raise BenchmarkError(
            f"a sweep over {len(runs)} members would measure {3 * (2 ** len(runs))} ensembles: "
            f"name at most {MAX_SWEEP_MEMBERS}"
        )
    with console.status(f"Reading {len(runs)} runs"):
        whole = assemble(runs, raw=raw)
    benchmark = runs[0].benchmark
    identity = {
        "command": "ensemble",
        "dataset": runs[0].dataset,
        "dataset_sha256": runs[0].dataset_sha256,
        **part_of(runs[0]),
        "mode": mode,
        # Only where it is: ensembles of z-scores stay what earlier versions wrote.
        **({"raw": True} if raw else {}),
        "members": [{"model": each.run.model, "sha256": each.sha256} for each in whole.members],
    }
    journal = Journal(out / SCORES_FILE, outcome_from_line, noun=benchmark.noun)
    with open_run(out, identity, journal) as run:
        for outcome in journal.missing(whole.outcomes(mode)):
            journal.append(outcome)
        journal.sort()
        metrics = measure(journal.records(), benchmark)
        provenance = Provenance(
            dataset=_dataset(runs[0]),
            identity=identity,
            model=f"{whole.name(mode)} of {', '.join(member.name for member in whole.members)}",
            model_type=ENSEMBLE,
            info=None,
            command=command,
            finished_at=datetime.now(UTC),
        )
        document = results_document(metrics, provenance)
        document["members"] = [_member_document(member) for member in whole.members]
        if sweep:
            document["sweep"] = _sweep(whole, console)
            write_atomically(out / SWEEP_FILE, [_csv(document["sweep"])])
        run.write(REWARDBENCH_FILE, accuracies_document(document))
        run.write(RESULTS_FILE, document)
    return Evaluation(metrics, document)


def _dataset(run: SavedRun) -> Dataset:
    """What the runs were of, for the record: its rows are not needed again."""
    location = run.document.get("provenance", {}).get("dataset", {}).get("path", run.dataset)
    return Dataset(run.dataset, (Source(location, "row", lambda: ()),), run.benchmark)


def _member_document(member: Member) -> dict[str, Any]:
    alone = measure(member.run.outcomes(), member.run.benchmark)
    return {
        "name": member.name,
        "path": str(member.run.path),
        "groups": int(member.present.sum()),
        "mean": member.mean,
        "standard_deviation": member.standard_deviation,
        **estimate_document(alone.overall),
    }


def _sweep(whole: Ensemble, console: Console) -> list[dict[str, Any]]:
    """Every combination of members in every mode, the best first."""
    everyone = range(len(whole.members))
    chosen = [places for size in everyone[1:] for places in combinations(everyone, size + 1)]
    work = [(places, mode) for places in chosen for mode in MODES]
    rows = []
    with WorkProgress(console, total=len(work), done=0, noun="ensemble") as progress:
        for places, mode in work:
            metrics = measure(whole.outcomes(mode, places), whole.members[0].run.benchmark)
            rows.append(
                {
                    "members": [whole.members[i].name for i in places],
                    "mode": whole.name(mode),
                    **estimate_document(metrics.overall),
                    "sections": {name: each.value for name, each in metrics.sections.items()},
                    "errors": metrics.total.errors,
                }
            )
            progress.advance(failed=False)
    return sorted(rows, key=lambda row: -row["score"])


def _csv(sweep: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    sections = list(sweep[0]["sections"])
    writer.writerow(["members", "mode", "score", "low", "high", *sections, "errors"])
    for row in sweep:
        writer.writerow(
            [
                " + ".join(row["members"]),
                row["mode"],
                row["score"],
                *(row["ci95"] or ("", "")),
                *(row["sections"][name] for name in sections),
                row["errors"],
            ]
        )
    return text.getvalue().encode()
