"""`reward-benchmark analyze models`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from reward_benchmark.cli.analyze.outputs import (
    Folder,
    OutFolder,
    Outputs,
    PictureForm,
)
from reward_benchmark.cli.ending import ending_well
from reward_benchmark.cli.options import DatasetName, PrintJson, TableForm
from reward_benchmark.cli.saved_run_options import Overwrite
from reward_benchmark.errors import BenchmarkError

if TYPE_CHECKING:
    from reward_benchmark.analysis.model_usage import ModelUsage
    from reward_benchmark.plots import Figure


def models(
    *,
    dataset: DatasetName = "rewardbench",
    keys: Annotated[
        str, typer.Option(metavar="NAME,…", help="Columns that name a model, or a list of models.")
    ] = "chosen_model,rejected_model",
    top_n: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Show only the N most used models.")
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Draw shares of each column instead of counts.")
    ] = False,
    log_scale: Annotated[
        bool, typer.Option("--log-scale", help="Draw on a logarithmic axis.")
    ] = False,
    out: OutFolder = None,
    form: TableForm = "terminal",
    picture: PictureForm = "png",
    overwrite: Overwrite = False,
    print_json: PrintJson = False,
) -> None:
    """Count who wrote the completions of a set."""
    from reward_benchmark.analysis.model_usage import model_usage
    from reward_benchmark.datasets import open_dataset

    with ending_well():
        columns = [name for name in keys.split(",") if name]
        if not columns or len(set(columns)) < len(columns):
            raise BenchmarkError(
                f"--keys {keys!r} must name different columns, with commas between"
            )
        data = open_dataset(dataset)
        usage = model_usage(data, columns)
        if not usage.counts:
            raise BenchmarkError(f"{data.location}: no row names a model in {' or '.join(columns)}")
        document: dict[str, Any] = {
            "dataset": data.name,
            "rows": usage.rows,
            "distinct_models": len(usage.counts),
            "keys": columns,
            "unnamed": dict(zip(columns, usage.unnamed, strict=True)),
            "models": {
                model: {"total": sum(counts), **dict(zip(columns, counts, strict=True))}
                for model, counts in usage.counts.items()
            },
        }

        def draw() -> "Figure":
            return _figure(usage, data.name, top_n, normalize=normalize, log_scale=log_scale)

        Outputs(Folder(out, picture, overwrite), form, print_json).hand_out(
            document,
            usage.table(top_n),
            title=f"{_size(usage)} of {data.name}",
            pictures={"models": draw},
            file="models.csv",
            whole=usage.table(),
        )


def _size(usage: "ModelUsage") -> str:
    return (
        f"{len(usage.counts)} models wrote {sum(usage.totals):,} completions in {usage.rows:,} rows"
    )


def _figure(
    usage: "ModelUsage", dataset: str, top: int | None, *, normalize: bool, log_scale: bool
) -> "Figure":
    from reward_benchmark import plots

    shown = usage.shares(top) if normalize else usage.numbers(top)
    models = list(usage.counts)[:top]
    cut = f"; the {len(models)} most used" if len(models) < len(usage.counts) else ""
    return plots.usage_bars(
        models,
        shown,
        title=f"Models that wrote the completions of {dataset}",
        note=f"{_size(usage)}{cut}",
        value_label="share of the column's completions, %" if normalize else "completions",
        log_scale=log_scale,
    )
