"""The command line: reads options, and turns what went wrong into a sentence and an exit code."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import httpx
import typer
from rich.console import Console

from reward_benchmark.errors import BenchmarkError, InterruptedRunError
from reward_client.client import DEFAULT_BASE_URL
from reward_client.schema import Truncation

app = typer.Typer(
    name="reward-benchmark",
    help="Measure reward services on preference data.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text: an error stays one line that can be searched for
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _group() -> None:
    """Keeps `run` a command of its own while it is the only one."""


def _http_url(value: str) -> str:
    try:
        url = httpx.URL(value)
    except httpx.InvalidURL as error:
        raise typer.BadParameter(f"{value!r} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise typer.BadParameter(f"{value!r} does not begin with http://HOST or https://HOST")
    return value


@app.command()
def run(
    *,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            help="Where the results go. A run that was ended goes on in its own directory.",
        ),
    ],
    dataset: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE|HUB_ID",
            help="rewardbench, sample (bundled), a file "
            "(.jsonl, .jsonl.gz, .json, .parquet) with the columns prompt, chosen, rejected and "
            "maybe subset and id, or a Hugging Face HUB_ID[:SPLIT] of that form.",
        ),
    ] = "rewardbench",
    url: Annotated[
        str,
        typer.Option(
            envvar="REWARD_SERVICE_URL", callback=_http_url, help="The reward service to measure."
        ),
    ] = DEFAULT_BASE_URL,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="REWARD_API_KEY", help="Key of the service, if it asks for one."),
    ] = None,
    scorer: Annotated[
        Literal["endpoint", "length"],
        typer.Option(help="Who scores: the service, or the length in characters as a baseline."),
    ] = "endpoint",
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Judge only the first N pairs.")
    ] = None,
    subset: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Judge only this subset; may be repeated."),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Pairs that the service is asked about at once.")
    ] = 32,
    truncation: Annotated[
        Truncation,
        typer.Option(
            help="A pair over the model's limit fails (error), or loses the start of its prompt."
        ),
    ] = "error",
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", help="After this long, a pair without scores has failed."
        ),
    ] = 600.0,
    wait: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="How long the service may take to be ready."),
    ] = 60.0,
    print_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print results.json as the last line, and the table to standard error."
        ),
    ] = False,
) -> None:
    """Score every pair of a dataset and report how often the chosen completion wins.

    A pair is won if the chosen completion scores strictly higher; ties and errors are losses.
    Interrupted for whatever reason, the same command goes on where it stopped.
    """
    # SciPy takes a second to import, which --help should not cost.
    from reward_benchmark.datasets import Selection
    from reward_benchmark.evaluation import Endpoint, Options, evaluate
    from reward_benchmark.table import results_table

    errors = Console(stderr=True)
    options = Options(
        dataset=dataset,
        selection=Selection(frozenset(subset or ()), limit),
        out=out,
        scorer=scorer,
        endpoint=Endpoint(url=url, api_key=api_key, wait_seconds=wait, timeout_seconds=timeout),
        truncation=truncation,
        concurrency=concurrency,
        command=_without_secrets(sys.argv[1:]),
    )
    try:
        evaluation = evaluate(options, console=errors)
    except BenchmarkError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", InterruptedRunError.exit_code)
    except OSError as error:
        _fail(f"{error.filename or out}: {error.strerror or error}", BenchmarkError.exit_code)

    document = evaluation.document
    (errors if print_json else Console()).print(
        results_table(evaluation.metrics, title=f"{document['model']} on {document['dataset']}"),
        f"Results, and the scores of every pair, are in {out}",
    )
    if print_json:
        typer.echo(json.dumps(document, allow_nan=False))


def _fail(message: str, exit_code: int) -> NoReturn:
    typer.echo(f"reward-benchmark: {message}", err=True)
    raise typer.Exit(exit_code)


def _without_secrets(arguments: list[str]) -> str:
    """The command as the results may show it: no API key, no password in a URL."""
    command = shlex.join(["reward-benchmark", *arguments])
    command = re.sub(r"(--api-key[= ])('[^']*'|\S+)", r"\1***", command)
    return re.sub(r"(https?://)[^/@\s]+@", r"\1***@", command)
