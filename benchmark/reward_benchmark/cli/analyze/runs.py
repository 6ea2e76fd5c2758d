"""`reward-benchmark analyze scores`, `subsets` and `correlation`: of saved runs."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from reward_benchmark.cli.analyze.outputs import (
    Folder,
    OutFolder,
    Outputs,
    PictureForm,
    distinct,
)
from reward_benchmark.cli.ending import ending_well
from reward_benchmark.cli.options import PrintJson, TableForm
from reward_benchmark.cli.saved_run_options import Overwrite
from reward_benchmark.errors import BenchmarkError

if TYPE_CHECKING:
    from reward_benchmark.analysis.run_comparison import Agreement, RunScores
    from reward_benchmark.plots import Figure
    from reward_benchmark.rewardbench_files import PublishedAccuracies
    from reward_benchmark.saved_run import SavedRun

Measure = Literal["pearson", "spearman", "agreement"]

Runs = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN...",
        exists=True,
        help="Directories of finished runs, or files of RewardBench's eval-set-scores.",
    ),
]


def scores(
    runs: Runs,
    *,
    out: OutFolder = None,
    form: TableForm = "terminal",
    picture: PictureForm = "png",
    overwrite: Overwrite = False,
    print_json: PrintJson = False,
) -> None:
    """Show the spread of each run's scores.

    Histograms of chosen against rejected completions, and of margins, run by run.
    """
    from reward_benchmark.analysis.run_comparison import run_spread, scores_table

    with ending_well():
        opened, datasets = _open(runs)
        spreads = [run_spread(run) for run in opened]
        document: dict[str, Any] = {"dataset": datasets, "runs": [asdict(one) for one in spreads]}
        pictures = {
            "scores": partial(_score_histograms, opened, datasets),
            "margins": partial(_margin_histograms, opened, datasets),
        }
        Outputs(Folder(out, picture, overwrite), form, print_json).hand_out(
            document,
            scores_table(spreads),
            title=f"Scores on {datasets}",
            pictures=pictures,
            file="scores.csv",
        )


def subsets(
    runs: Runs,
    *,
    out: OutFolder = None,
    form: TableForm = "terminal",
    picture: PictureForm = "png",
    overwrite: Overwrite = False,
    print_json: PrintJson = False,
) -> None:
    """Show margins and accuracies subset by subset; files of RewardBench's eval-set do here too.

    Violins of the margins, bars of the accuracies with their 95 % intervals, and with three runs or
    more boxes of the accuracies over the runs.
    """
    from reward_benchmark.analysis.run_comparison import subsets_document, subsets_table

    with ending_well():
        opened, datasets = _open(runs, same_data=True, or_accuracies=True)
        document: dict[str, Any] = {"dataset": datasets, "subsets": subsets_document(opened)}
        pictures = {"accuracy-by-subset": partial(_accuracy_bars, opened, datasets)}
        if scored := [run for run in opened if run.margins]:
            pictures["margins-by-subset"] = partial(_margin_violins, scored, datasets)
        if len(opened) > 2:
            pictures["accuracy-over-runs"] = partial(_accuracy_boxes, opened, datasets)
        Outputs(Folder(out, picture, overwrite), form, print_json).hand_out(
            document,
            subsets_table(opened),
            title=f"Accuracy in % on {datasets}",
            pictures=pictures,
            file="subsets.csv",
        )


def correlation(
    runs: Runs,
    *,
    out: OutFolder = None,
    form: TableForm = "terminal",
    picture: PictureForm = "png",
    overwrite: Overwrite = False,
    print_json: PrintJson = False,
) -> None:
    """Show how far runs agree.

    Pearson's and Spearman's correlation of the margins, and the share of groups that earn the same
    in both, on the groups (subset and id) that both have scores of.
    """
    from reward_benchmark.analysis.run_comparison import agreement_table, agreements

    with ending_well():
        if len(runs) < 2:
            raise BenchmarkError("a correlation is between runs: name two or more")
        opened, datasets = _open(runs, same_data=True)
        found = agreements(opened)
        document: dict[str, Any] = {
            "dataset": datasets,
            "pairs": [asdict(one) for one in found if one.first != one.second],
        }
        Outputs(Folder(out, picture, overwrite), form, print_json).hand_out(
            document,
            agreement_table(found),
            title=f"Agreement of runs on {datasets}",
            pictures={what: partial(_matrix, what, found, datasets) for what in get_args(Measure)},
            file="correlation.csv",
        )


def _score_histograms(runs: "Sequence[RunScores]", datasets: str) -> "Figure":
    from reward_benchmark import plots

    return plots.score_histograms(
        {run.name: (run.chosen, run.rejected) for run in runs},
        title=f"Scores of chosen and rejected completions of {datasets}",
    )


def _margin_histograms(runs: "Sequence[RunScores]", datasets: str) -> "Figure":
    from reward_benchmark import plots

    return plots.margin_histograms(
        {run.name: list(run.margins.values()) for run in runs}, title=f"Margins on {datasets}"
    )


def _margin_violins(runs: "Sequence[RunScores]", datasets: str) -> "Figure":
    from reward_benchmark import plots
    from reward_benchmark.analysis.run_comparison import margin_unit, row_subsets

    # Raw scores of two models have no common unit.
    units = [margin_unit(run) if len(runs) > 1 else 1.0 for run in runs]
    names = row_subsets(runs)
    return plots.violins(
        names,
        {
            run.name: [[one / unit for one in run.margins_of(subset)] for subset in names]
            for run, unit in zip(runs, units, strict=True)
        },
        title=f"Margins on the subsets of {datasets}",
        note=_pairs(runs),
        value_label="margin (lowest chosen score - highest rejected score)"
        if len(runs) == 1
        else "margin, in standard deviations of the run's margins",
        zero_line=True,
    )


def _accuracy_bars(runs: "Sequence[RunScores]", datasets: str) -> "Figure":
    from reward_benchmark import plots
    from reward_benchmark.analysis.run_comparison import all_subsets
    from reward_benchmark.report.accuracies import LIMITS

    names = all_subsets(runs)
    return plots.interval_bars(
        names,
        {run.name: [run.accuracies.get(subset) for subset in names] for run in runs},
        title=f"Accuracy on the subsets of {datasets}",
        counts=[max(run.counts.get(subset, 0) for run in runs) for subset in names],
        value_label="accuracy, % (95 % interval)",
        limits=LIMITS,
        percent=True,
    )


def _accuracy_boxes(runs: "Sequence[RunScores]", datasets: str) -> "Figure":
    from reward_benchmark import plots
    from reward_benchmark.analysis.run_comparison import all_subsets
    from reward_benchmark.report.accuracies import LIMITS

    names = all_subsets(runs)
    return plots.boxes(
        names,
        [
            [100 * one.value for run in runs if (one := run.accuracies.get(subset)) is not None]
            for subset in names
        ],
        title=f"Accuracy of {len(runs)} runs on the subsets of {datasets}",
        value_label="accuracy, %",
        limits=(100 * LIMITS[0], 100 * LIMITS[1]),
    )


def _matrix(what: Measure, found: "Sequence[Agreement]", datasets: str) -> "Figure":
    from reward_benchmark import plots

    title, label, lowest = {
        "pearson": ("Correlation of margins", "Pearson's r", -1.0),
        "spearman": ("Rank correlation of margins", "Spearman's ρ", -1.0),
        "agreement": ("Agreement of credits", "share of groups that earn the same in both", 0.0),
    }[what]
    numbers = {(one.first, one.second): getattr(one, what) for one in found}
    numbers |= {(second, first): number for (first, second), number in numbers.items()}
    names = list(dict.fromkeys(one.first for one in found))
    sizes = [one.count for one in found if one.first != one.second]
    most = f" to {max(sizes):,}" if min(sizes) < max(sizes) else ""
    return plots.correlation_matrix(
        names,
        [[numbers[one, other] for other in names] for one in names],
        title=f"{title} on {datasets}",
        note=f"n = {min(sizes):,}{most} common groups",
        value_label=label,
        limits=(lowest, 1.0),
    )


def _pairs(runs: "Sequence[RunScores]") -> str:
    sizes = [len(run.margins) for run in runs]
    most = f" to {max(sizes):,}" if min(sizes) < max(sizes) else ""
    return f"n = {min(sizes):,}{most} groups with scores"


def _open(
    runs: Sequence[Path], *, same_data: bool = False, or_accuracies: bool = False
) -> tuple[list["RunScores"], str]:
    """The numbers of saved runs, and what they are runs of.

    Args:
        same_data: whether their groups are held against each other.
        or_accuracies: whether a file that has accuracies alone will do.
    """
    from reward_benchmark.analysis.run_comparison import published_numbers, run_scores
    from reward_benchmark.rewardbench_files import PublishedAccuracies
    from reward_benchmark.saved_run import SavedRun, open_saved_run, require_same_data

    if len({path.resolve() for path in runs}) < len(runs):
        raise BenchmarkError("one run is named twice: name different ones")
    opened = [(or_accuracies and _accuracies(path)) or open_saved_run(path) for path in runs]
    saved = [one for one in opened if isinstance(one, SavedRun)]
    if same_data:
        require_same_data(saved)
    _check_one_set(runs, opened)
    for run in saved:
        for remark in run.remarks:
            typer.echo(remark, err=True)
    names = distinct([one.model for one in opened], [str(path) for path in runs])
    by_order = frozenset[str]().union(*(run.numbered for run in saved))
    numbers = [
        published_numbers(name, one)
        if isinstance(one, PublishedAccuracies)
        else run_scores(name, one.outcomes(), one.benchmark, by_order=by_order)
        for name, one in zip(names, opened, strict=True)
    ]
    datasets = (
        one.benchmark.name if isinstance(one, PublishedAccuracies) else one.dataset
        for one in opened
    )
    return numbers, ", ".join(dict.fromkeys(datasets))


def _accuracies(path: Path) -> "PublishedAccuracies | None":
    """What a file of accuracies says; `None` where the path is something else."""
    from reward_benchmark.rewardbench_files import RewardBenchFileError, read_accuracies

    try:
        return read_accuracies(path) if path.is_file() else None
    except RewardBenchFileError:
        return None


def _check_one_set(
    paths: Sequence[Path], opened: "Sequence[SavedRun | PublishedAccuracies]"
) -> None:
    """See that accuracies, which do not say what their rows were, are of one set."""
    from reward_benchmark.rewardbench_files import PublishedAccuracies

    named = list(zip(paths, opened, strict=True))
    published = next((one for one in named if isinstance(one[1], PublishedAccuracies)), None)
    if published is None:
        return
    path, accuracies = published
    for other_path, other in named:
        if other.benchmark is not accuracies.benchmark:
            raise BenchmarkError(
                f"{path} has accuracies on {accuracies.benchmark.title}, but {other_path} is of "
                f"{other.benchmark.title}: name results on one set"
            )
