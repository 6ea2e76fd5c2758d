"""`reward-benchmark compare`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.console import Group as Renderables
from rich.text import Text

from reward_benchmark.cli.ending import ending_well, show
from reward_benchmark.cli.options import PrintJson
from reward_benchmark.cli.saved_run_options import Overwrite, RunA, RunB, RunDataset

if TYPE_CHECKING:
    from reward_benchmark.comparison import Comparison
    from reward_benchmark.group import Group, Key
    from reward_benchmark.progress import WorkProgress
    from reward_benchmark.saved_run import SavedRun


def compare(
    run_a: RunA,
    run_b: RunB,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Write the comparison there too: .json, or .md for its tables.",
        ),
    ] = None,
    flips: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            dir_okay=False,
            help="Write every pair that one run wins and the other loses, with both margins.",
        ),
    ] = None,
    dataset: RunDataset = None,
    overwrite: Overwrite = False,
    print_json: PrintJson = False,
) -> None:
    """Say whether the difference between two runs is real, and where it lies.

    A and B are directories of `run`, or files of RewardBench's eval-set-scores. They are compared
    on the groups that both have: McNemar's exact test, Holm's correction, and 95 % intervals.
    """
    # SciPy and NumPy take a second to import, which --help should not cost.
    from reward_benchmark.comparison import compare as compare_runs
    from reward_benchmark.comparison import comparison_document, flip_document
    from reward_benchmark.comparison_tables import markdown, terminal
    from reward_benchmark.output_file import check_spared, check_writable, write_text
    from reward_benchmark.progress import WorkProgress
    from reward_benchmark.saved_run import open_saved_run

    if out is not None and out.suffix not in (".json", ".md"):
        raise typer.BadParameter(f"--out {out} must end with .json or .md")
    if out is not None and flips is not None and out.resolve() == flips.resolve():
        raise typer.BadParameter(f"--out and --flips are both {out}: name two files")
    console = Console(stderr=True)
    with ending_well():
        for path in (out, flips):
            if path is not None:
                check_writable(path, overwrite=overwrite)
        with console.status("Opening the runs"):
            runs = [open_saved_run(run) for run in (run_a, run_b)]
            read = [*_files(runs), *map(Path, dataset.split("=", 1) if dataset else ())]
            for path in (out, flips):
                if path is not None:
                    check_spared(path, read, what="that are compared")
            total = sum(map(_count, runs))
        with WorkProgress(console, total=total, done=0, noun=runs[0].benchmark.noun) as progress:
            comparison = compare_runs(*(_watched(run, progress) for run in runs))
        with console.status("Reading the prompts"):
            groups, missing = _texts(comparison, dataset)
        document = comparison_document(comparison)
        if out is not None and out.suffix == ".md":
            write_text(out, markdown(comparison, groups))
        elif out is not None:
            write_text(out, json.dumps(document, indent=2, allow_nan=False) + "\n")
        if flips is not None:
            lines = (flip_document(flip, groups.get(flip.key)) for flip in comparison.flips)
            write_text(flips, "".join(json.dumps(line) + "\n" for line in lines))
    lines_below = [f"The prompts are not shown: {missing}"] if missing else []
    lines_below += [f"Written to {path}" for path in (out, flips) if path is not None]
    width = Console(stderr=print_json).width
    show(
        Renderables(terminal(comparison, groups, width=width), *map(Text, lines_below)),
        document=document,
        print_json=print_json,
    )


def _files(runs: Sequence["SavedRun"]) -> list[Path]:
    """The runs that are files themselves, and the data of all."""
    from reward_benchmark.saved_run import data_files

    files = [run.path for run in runs if run.path.is_file()]
    return files + [place for run in runs for place in data_files(run)]


def _count(run: "SavedRun") -> int:
    """How many outcomes there are to read; a file of RewardBench is read already."""
    counts = run.document.get("counts")
    return counts["groups"] if counts else sum(1 for _ in run.outcomes())


def _watched(run: "SavedRun", progress: "WorkProgress") -> "SavedRun":
    """The run, whose reading is shown."""
    return replace(run, outcomes=lambda: progress.watch(run.outcomes()))


def _texts(
    comparison: "Comparison", dataset: str | None
) -> tuple[Mapping["Key", "Group"], str | None]:
    """The groups that flipped, or why their texts are not at hand."""
    from reward_benchmark.errors import DatasetError
    from reward_benchmark.saved_run import is_local, open_run_dataset

    wanted = {flip.key for flip in comparison.flips}
    runs = [run for run in (comparison.first, comparison.second) if run.dataset_sha256 is not None]
    if not runs:
        return {}, "neither run says which data it is of"
    if dataset is None and not is_local(runs[0]):
        return {}, f"the data is on the hub: pass --dataset {runs[0].dataset} to read it"

    def flipped() -> Iterator["Group"]:
        for group in open_run_dataset(runs[0], dataset):
            if group.key in wanted:
                yield group

    try:
        return {group.key: group for group in flipped()}, None
    except DatasetError as error:
        if dataset is not None:
            raise
        return {}, str(error)
