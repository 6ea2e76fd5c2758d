"""`reward-benchmark analyze tokens`."""

from collections.abc import Mapping, Sequence
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


WIDE_COLUMNS = ("S.d. distinct",)
"""Left out of the table on a terminal."""


def tokens(
    *,
    tokenizer: Annotated[
        str,
        typer.Option(
            metavar="FILE|FOLDER|HUB_ID", help="A tokenizer.json, a model's folder, or a hub id."
        ),
    ],
    dataset: DatasetName = "rewardbench",
    completions_only: Annotated[
        bool, typer.Option("--completions-only", help="Leave the prompts out.")
    ] = False,
    out: OutFolder = None,
    form: TableForm = "terminal",
    picture: PictureForm = "png",
    overwrite: Overwrite = False,
    print_json: PrintJson = False,
) -> None:
    """Count tokens of prompts with completions by subset.

    Mean, standard deviation, largest and smallest number of tokens, and of different tokens, that
    chosen and rejected completions have together with their prompts, without special tokens.
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
            for group in token_ids(data, counter, completions_only=completions_only):
                statistics.add(group)
                progress.advance(failed=False)
        document: dict[str, Any] = {
            "dataset": data.name,
            "tokenizer": tokenizer,
            "groups": total,
            "completions_only": completions_only,
            "subsets": statistics.document(),
        }
        counted = "completion" if completions_only else "prompt and completion"
        size = f"{total:,} {noun}s of {data.name}"
        sections = _sections(list(statistics.subsets), data.benchmark.sections)
        figure = partial(_figure, statistics, sections, counted, size)
        pictures = {
            "tokens": partial(figure, "tokens"),
            "distinct-tokens": partial(figure, "distinct"),
        }
        table = statistics.table()
        Outputs(Folder(out, picture, overwrite), form, print_json).hand_out(
            document,
            table.without(WIDE_COLUMNS) if form == "terminal" else table,
            title=f"Tokens in {counted} of {size}, by {tokenizer}",
            pictures=pictures,
            file="tokens.csv",
            whole=table,
        )


def _sections(
    subsets: Sequence[str], sections: Mapping[str, Mapping[str, float]]
) -> dict[str, list[str]]:
    """The subsets by section, in one without a name where the set does not place them all."""
    placed = {
        section: [name for name in subsets if name in weights]
        for section, weights in sections.items()
    }
    if not set(subsets) <= {name for names in placed.values() for name in names}:
        return {"": list(subsets)}
    return {section: names for section, names in placed.items() if names}


def _figure(
    statistics: "TokenStatistics",
    sections: Mapping[str, Sequence[str]],
    counted: str,
    size: str,
    what: Literal["tokens", "distinct"],
) -> "Figure":
    from reward_benchmark import plots
    from reward_benchmark.analysis.token_statistics import SIDES
    from reward_benchmark.statistics import Estimate, Interval

    series: dict[str, dict[str, Estimate]] = {side: {} for side in SIDES}
    for subset, sides in statistics.subsets.items():
        for side, extents in sides.items():
            one = extents.tokens if what == "tokens" else extents.distinct
            mean, deviation = one.mean, one.standard_deviation
            series[side][subset] = Estimate(mean, Interval(mean - deviation, mean + deviation))
    unit = "tokens" if what == "tokens" else "different tokens"
    return plots.sectioned_bars(
        sections,
        series,
        title=f"{unit.capitalize()} in {counted}, by subset",
        note=f"{size}; bars: mean; lines: one standard deviation to either side",
        value_label=f"{unit} in {counted}",
        limits=(0, None),  # a deviation may reach below, a number of tokens does not
    )
