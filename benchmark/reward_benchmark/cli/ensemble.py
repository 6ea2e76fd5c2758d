"""`reward-benchmark ensemble`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from reward_benchmark.cli.ending import command_line, ending_well, show
from reward_benchmark.cli.options import (
    ApiKey,
    Concurrency,
    Limit,
    Out,
    PrintJson,
    Subsets,
    Timeout,
    TruncationOption,
    Wait,
    http_urls,
)
from reward_benchmark.errors import BenchmarkError
from reward_benchmark.text_table import interval, percent

SHOWN_ROWS = 20
"""Of a sweep; the file has them all."""


def ensemble(
    *,
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Directories of runs on the same data, or files of RewardBench's eval-set-scores.",
        ),
    ] = None,
    out: Out,
    url: Annotated[
        list[str] | None,
        typer.Option(
            callback=http_urls,
            help="A reward service that is a member too; may be repeated. Its run is kept in "
            "DIR/members.",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE|HUB_ID", help="What those services score, as `run --dataset`."
        ),
    ] = None,
    mode: Annotated[
        Literal["mean", "worst", "uncertainty"],
        typer.Option(
            help="Of a completion's z-scores (--raw: scores): the mean, the lowest, or the mean "
            "minus std."
        ),
    ] = "mean",
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="Combine the scores as they are, not as z-scores: a member whose scores spread "
            "wider weighs more.",
        ),
    ] = False,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep", help="Measure every combination of two or more members in every mode too."
        ),
    ] = False,
    api_key: ApiKey = None,
    limit: Limit = None,
    subset: Subsets = None,
    concurrency: Concurrency = 32,
    truncation: TruncationOption = "error",
    timeout: Timeout = 600.0,
    wait: Wait = 60.0,
    print_json: PrintJson = False,
) -> None:
    """Measure several models as one: the mean, the lowest or a cautious mean of their scores.

    Members are saved runs, services, or both. Each one's scores are standardised over its whole
    run first, since models score on different scales, unless --raw says that these share one. The
    result is a run like any other.
    """
    # NumPy takes a while to import, which --help should not cost.
    from reward_benchmark.datasets import Selection, open_dataset
    from reward_benchmark.ensemble import ensemble as combine
    from reward_benchmark.evaluation import Endpoint, Work, evaluate
    from reward_benchmark.saved_run import open_saved_run
    from reward_benchmark.table import results_table

    console = Console(stderr=True)
    with ending_well():
        if url and dataset is None:
            raise BenchmarkError("--url needs --dataset, which says what the services score")
        if dataset is not None and not url:
            raise BenchmarkError("--dataset is for services: name some with --url, or leave it out")
        members = [open_saved_run(run) for run in runs or ()]
        for i, address in enumerate(url or ()):
            assert dataset is not None
            endpoint = Endpoint(
                url=address,
                api_key=api_key,
                wait_seconds=wait,
                timeout_seconds=timeout,
                truncation=truncation,
            )
            work = Work(
                dataset=open_dataset(dataset),
                selection=Selection(frozenset(subset or ()), limit),
                out=out / "members" / str(i + 1),
                concurrency=concurrency,
                name="run",
                command=command_line(),
            )
            evaluate(work, endpoint.open, console=console)
            members.append(open_saved_run(work.out))
        evaluation = combine(
            members, mode, raw=raw, sweep=sweep, out=out, command=command_line(), console=console
        )
    document = evaluation.document
    show(
        results_table(evaluation.metrics, title=f"{document['model']} on {document['dataset']}"),
        *_tables(document),
        Group(*_remarks(document), Text(f"Results, and the combined scores, are in {out}")),
        document=document,
        print_json=print_json,
    )


def _tables(document: Mapping[str, Any]) -> Iterator[Table]:
    alone = Table(title="Members alone")
    alone.add_column("member")
    for name in ("score %", "95 % interval", "groups", "mean", "std"):
        alone.add_column(name, justify="right")
    for member in document["members"]:
        alone.add_row(
            Text(member["name"]),
            *_estimate(member),
            str(member["groups"]),
            f"{member['mean']:.4g}",
            f"{member['standard_deviation']:.4g}",
        )
    yield alone
    if "sweep" in document:
        ranks = Table(title="Sweep")
        ranks.add_column("members")
        ranks.add_column("mode")
        for name in ("score %", "95 % interval"):
            ranks.add_column(name, justify="right")
        for row in document["sweep"][:SHOWN_ROWS]:
            ranks.add_row(Text(" + ".join(row["members"])), row["mode"], *_estimate(row))
        yield ranks


def _estimate(estimate: Mapping[str, Any]) -> tuple[str, str]:
    return percent(estimate["score"]), interval(estimate["ci95"])


def _remarks(document: Mapping[str, Any]) -> Iterator[Text]:
    if document["provenance"]["run"].get("raw"):
        yield Text(
            "The members' scores were combined as they are: one with a larger std weighs more."
        )
    rows = len(document.get("sweep", ()))
    if rows > SHOWN_ROWS:
        from reward_benchmark.ensemble import SWEEP_FILE

        yield Text(f"The best {SHOWN_ROWS} of {rows} ensembles; {SWEEP_FILE} has all.")
