"""`reward-benchmark analyze tokens`."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from reward_benchmark.cli.analyze.outputs import (
    Folder,
    OutFolder,
    Outputs,
    PictureForm,
)
from reward_benchmark.cli.ending import ending_well
from reward_benchmark.cli.options import DatasetName, PrintJson, TableForm
from reward_benchmark.cli.saved_run_options import Overwrite

if TYPE_CHECKING:
    from reward_benchmark.analysis.token_statistics import TokenStatistics
    from reward_benchmark.plots import Figure


def tokens(
    *,
    tokenizer: Annotated[
        str,
        typer.Option(
            metavar="FILE|FOLDER|HUB_ID", help="A tokenizer.json, a model's folder, or a hub id."
        ),
    ],
    dataset: DatasetName = "rewardbench",
    out: OutFolder = None,
    form: TableForm = "terminal",
    picture: PictureForm = "png",
    overwrite: Overwrite = False,
    print_json: PrintJson = False,
) -> None:
    """Count tokens per completion by subset.

    Mean, largest and smallest number of tokens, and of different tokens, of chosen and of rejected
    completions, without special tokens around them.
    """
    from reward_benchmark.analysis.token_statistics import (
        TokenStatistics,
        open_tokenizer,
        token_ids,
    )
    from reward_benchmark.datasets import open_dataset
    from reward_benchmark.progress import WorkProgress

    with ending_well():
        counter = open_tokenizer(tokenizer)
        data = open_dataset(dataset)
        total = sum(data.scan().subsets.values())
        noun = data.benchmark.noun
        statistics = TokenStatistics()
        with WorkProgress(Console(stderr=True), total=total, done=0, noun=noun) as progress:
            for group in token_ids(data, counter):
                statistics.add(group)
                progress.advance(failed=False)
        document: dict[str, Any] = {
            "dataset": data.name,
            "tokenizer": tokenizer,
            "groups": total,
            "subsets": statistics.document(),
        }
        size = f"{total:,} {noun}s of {data.name}"
        pictures = {
            "tokens": partial(_figure, statistics, "tokens", size),
            "distinct-tokens": partial(_figure, statistics, "distinct", size),
        }
        Outputs(Folder(out, picture, overwrite), form, print_json).hand_out(
            document,
            statistics.table(),
            title=f"Tokens of the completions in {size}, by {tokenizer}",
            pictures=pictures,
            file="tokens.csv",
        )


def _figure(
    statistics: "TokenStatistics", what: Literal["tokens", "distinct"], size: str
) -> "Figure":
    from reward_benchmark import plots
    from reward_benchmark.analysis.token_statistics import SIDES
    from reward_benchmark.statistics import Estimate, Interval

    series: dict[str, list[Estimate | None]] = {side: [] for side in SIDES}
    for sides in statistics.subsets.values():
        for side in SIDES:
            extents = sides.get(side)
            estimate = None
            if extents is not None:
                one = extents.tokens if what == "tokens" else extents.distinct
                estimate = Estimate(one.mean, Interval(one.smallest, one.largest))
            series[side].append(estimate)
    unit = "tokens" if what == "tokens" else "different tokens"
    return plots.interval_bars(
        list(statistics.subsets),
        series,
        title=f"{unit.capitalize()} per completion",
        note=f"{size}; bars: mean; lines: smallest to largest",
        value_label=f"{unit} per completion",
    )
