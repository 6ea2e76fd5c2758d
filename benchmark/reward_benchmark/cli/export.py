"""`reward-benchmark export`."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.text import Text

from reward_benchmark.cli.ending import command_line, ending_well, show
from reward_benchmark.cli.options import PrintJson
from reward_benchmark.cli.saved_run_options import Overwrite, RunDataset
from reward_benchmark.errors import BenchmarkError

if TYPE_CHECKING:
    from reward_benchmark.datasets import Benchmark, Dataset
    from reward_benchmark.saved_run import SavedRun


def export(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", exists=True, file_okay=False, help="The directory of a finished run."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Where the files go.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME", help="What to call the model, if not as the run calls it."
        ),
    ] = None,
    dataset: RunDataset = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Upload the files to this dataset repository too; a new one is private.",
        ),
    ] = None,
    model_card: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Put the accuracies into the metadata of this model's card on the hub; its text "
            "stays as it is.",
        ),
    ] = None,
    wandb_run: Annotated[
        str | None,
        typer.Option(
            metavar="ENTITY/PROJECT/RUN_ID",
            help="Put the accuracies into the summary of this run of Weights & Biases, which must "
            "have ended; its other values stay as they are.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    print_json: PrintJson = False,
) -> None:
    """Write a run as RewardBench's files, for its leaderboard and analysis.

    DIR gets eval-set/MODEL.json with the accuracies and eval-set-scores/MODEL.json with texts and
    scores (pref-sets for the prior sets); both are MODEL_ref_free.json for a DPO model without its
    reference. Each set needs a DIR of its own. Nothing leaves this machine unless an option says
    so.
    """
    # SciPy and NumPy take a second to import, which --help should not cost.
    from reward_benchmark.rewardbench_files import require_no_other_data, require_subset_names
    from reward_benchmark.saved_run import open_run_dataset, open_saved_run

    console = Console(stderr=True)
    with ending_well():
        if wandb_run is not None:  # what is wrong with it already, before any upload
            _check_wandb(wandb_run)
        saved = open_saved_run(run)
        results = {**saved.document, "model": saved.model if model is None else model}
        require_subset_names(results)
        files = {name: out / name for name in _names(results, saved.benchmark)}
        require_no_other_data(
            ((str(file), file) for file in files.values()), results, option="--out"
        )
        if push_to_hub is not None:
            from reward_benchmark.hub_upload import check_uploadable

            with console.status(f"Looking into {push_to_hub}"):
                check_uploadable(push_to_hub, files, results)
        with console.status(f"Reading {saved.dataset}"):
            data = open_run_dataset(saved, dataset)
        _write(saved, data, results, files, out, overwrite=overwrite, console=console)
        uploads = {}
        if push_to_hub is not None:
            with console.status(f"Uploading to {push_to_hub}"):
                uploads[push_to_hub] = _pushed(push_to_hub, files, results, overwrite=overwrite)
        if model_card is not None:
            from reward_benchmark.hub_upload import update_model_card

            with console.status(f"Updating {model_card}"):
                uploads[model_card] = update_model_card(model_card, results, overwrite=overwrite)
        if wandb_run is not None:
            from reward_benchmark.wandb_upload import update_summary

            with console.status(f"Updating {wandb_run}"):
                uploads[wandb_run] = update_summary(wandb_run, results, overwrite=overwrite)
    lines = [f"Written to {file}" for file in files.values()]
    lines += [f"Uploaded: {address}" for address in uploads.values()]
    show(
        Group(*map(Text, lines)),
        document={"files": list(map(str, files.values())), "uploads": uploads},
        print_json=print_json,
    )


def _write(
    saved: "SavedRun",
    data: "Dataset",
    results: Mapping[str, Any],
    files: Mapping[str, Path],
    out: Path,
    *,
    overwrite: bool,
    console: Console,
) -> None:
    """Write both files, or neither.

    Args:
        files: the names of accuracies and scores → where they go.
    """
    from reward_benchmark.output_file import check_replaceable
    from reward_benchmark.rewardbench_files import accuracies_document, encoded

    accuracies, scores = files
    out.mkdir(parents=True, exist_ok=True)
    # Made whole before any is put in its place.
    with TemporaryDirectory(dir=out, prefix=".export-") as made_in:
        made = {accuracies: Path(made_in, "accuracies"), scores: Path(made_in, "scores")}
        made[accuracies].write_bytes(encoded(accuracies_document(results)))
        _write_scores(made[scores], saved, data, results, console=console)
        for name, file in files.items():
            check_replaceable(file, made[name], overwrite=overwrite)
        for file in files.values():
            file.parent.mkdir(parents=True, exist_ok=True)
        for name, file in files.items():
            made[name].replace(file)


def _write_scores(
    path: Path, saved: "SavedRun", data: "Dataset", results: Mapping[str, Any], *, console: Console
) -> None:
    from reward_benchmark.progress import WorkProgress
    from reward_benchmark.rewardbench_files import are_pairs, write_scores
    from reward_benchmark.saved_run import run_groups

    with console.status(f"Reading {saved.dataset}"):
        of_pairs = are_pairs(run_groups(saved, data))
    total, noun = results["counts"]["groups"], saved.benchmark.noun
    with WorkProgress(console, total=total, done=0, noun=noun) as progress:
        outcomes = progress.watch(saved.outcomes())
        scored = zip(run_groups(saved, data), outcomes, strict=True)
        write_scores(path, results, saved.benchmark, scored, of_pairs=of_pairs)


def _pushed(
    repository: str, files: Mapping[str, Path], results: Mapping[str, Any], *, overwrite: bool
) -> str:
    """Upload the files to a dataset repository: the address of the commit."""
    from reward_benchmark.hub_upload import push_files, results_card

    card = results_card(results, command_line())
    return push_files(repository, files, results, card=card, overwrite=overwrite)


def _check_wandb(path: str) -> None:
    """See that a path can be of a W&B run, and that wandb is installed."""
    if path.count("/") != 2 or not all(
        part.isprintable() and part.strip(" .") for part in path.split("/")
    ):
        raise BenchmarkError(f"{path!r} is no run of W&B: ENTITY/PROJECT/RUN_ID is")
    import reward_benchmark.wandb_upload  # noqa: F401 (it says what is missing)


def _names(results: Mapping[str, Any], benchmark: "Benchmark") -> tuple[str, str]:
    """Where RewardBench would keep the accuracies and the scores of a run."""
    from reward_benchmark.rewardbench_files import file_name, folder_of, scores_folder_of

    model = results["model"]
    parts = model.split("/")
    if len(parts) > 2 or any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise BenchmarkError(
            f"the model {model!r} cannot name a file, which needs one or two printable parts: say "
            "how to call it with --model OWNER/NAME"
        )
    name = file_name(results)
    return f"{folder_of(benchmark)}/{name}", f"{scores_folder_of(benchmark)}/{name}"
