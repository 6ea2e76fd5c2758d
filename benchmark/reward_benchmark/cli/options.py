"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import httpx
import typer

from reward_client.schema import Truncation


def http_url(value: str) -> str:
    """A URL as it was given, if it is one of a server."""
    try:
        url = httpx.URL(value)
    except httpx.InvalidURL as error:
        raise typer.BadParameter(f"{value!r} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise typer.BadParameter(f"{value!r} does not begin with http://HOST or https://HOST")
    return f"{url.scheme}{value[len(url.scheme) :]}"  # in lower case


def http_urls(values: list[str] | None) -> list[str]:
    """The same of an option that may be repeated."""
    return [http_url(value) for value in values or ()]


def token_limit(value: str | int) -> int | None:
    """The most tokens that an answer may have; `None`, for "none", is no limit of ours.

    Args:
        value: what the user gave, or else the default, which is a number already.
    """
    if value == "none":
        return None
    try:
        limit = int(value)
    except ValueError:
        limit = 0
    if limit < 1:
        raise typer.BadParameter(f"{value!r} is neither a whole number from 1 nor 'none'")
    return limit


Out = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        file_okay=False,
        help="Where the results go. A run that was ended goes on in its own directory.",
    ),
]

DATASET_HELP = (
    "A known set by its NAME (rewardbench, prior, rewardbench-2, rm-bench, judgebench, rmb) from "
    "the hub, or NAME=PATH for a local copy; sample (bundled); a file (.jsonl, .jsonl.gz, .json, "
    ".parquet) with the columns prompt, chosen, rejected and maybe subset and id, or a Hugging "
    "Face HUB_ID[:SPLIT] of that form."
)

DatasetName = Annotated[str, typer.Option(metavar="NAME|FILE|HUB_ID", help=DATASET_HELP)]

Url = Annotated[
    str,
    typer.Option(
        envvar="REWARD_SERVICE_URL", callback=http_url, help="The reward service to measure."
    ),
]

ApiKey = Annotated[
    str | None,
    typer.Option(envvar="REWARD_API_KEY", help="Key of the service, if it asks for one."),
]

Form = Literal["terminal", "markdown", "csv", "latex"]
TableForm = Annotated[Form, typer.Option("--format", help="How the table is written.")]

Limit = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Judge only the first N groups.")
]

Subsets = Annotated[
    list[str] | None,
    typer.Option("--subset", metavar="NAME", help="Judge only this subset; may be repeated."),
]

Concurrency = Annotated[
    int, typer.Option(min=1, help="Prompts that the service is asked about at once.")
]

TruncationOption = Annotated[
    Truncation,
    typer.Option(
        help="A text over the model's limit fails (error), or loses the start of its prompt."
    ),
]

Timeout = Annotated[
    float,
    typer.Option(
        min=0.1, metavar="SECONDS", help="After this long, a prompt without scores has failed."
    ),
]

Wait = Annotated[
    float,
    typer.Option(min=0.1, metavar="SECONDS", help="How long the service may take to be ready."),
]

PrintJson = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the results as the last line, and the tables to standard error."
    ),
]
