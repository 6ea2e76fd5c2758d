"""`reward-benchmark best-of-n`."""

from collections.abc import Iterator, Mapping
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
    Url,
    Wait,
)
from reward_benchmark.text_table import interval
from reward_client.client import DEFAULT_BASE_URL


def best_of_n(
    *,
    candidates: Annotated[
        str,
        typer.Option(
            metavar="FILE|HUB_ID",
            help="A file (.jsonl, .jsonl.gz, .json, .parquet) or a Hugging Face HUB_ID[:SPLIT] "
            "with the columns prompt or instruction (a text or messages) and candidates, "
            "completions, outputs or output (a list of texts), and maybe subset or dataset, id and "
            "known values; or with messages that end with the one candidate.",
        ),
    ],
    out: Out,
    best_of: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Only the first N candidates of each prompt take part."
        ),
    ] = None,
    gold: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Known values of the candidates, higher for better ones and null where there is "
            "none; without this option, the column gold where there is one.",
        ),
    ] = None,
    url: Url = DEFAULT_BASE_URL,
    api_key: ApiKey = None,
    scorer: Annotated[
        Literal["endpoint", "length"],
        typer.Option(help="Who scores: the service, or the length in characters as a baseline."),
    ] = "endpoint",
    generator: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What the picks are called in alpaca_eval.json [best-of-N MODEL]."
        ),
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Draw the curves as PNG.")
    ] = True,
    limit: Limit = None,
    subset: Subsets = None,
    concurrency: Concurrency = 8,
    truncation: TruncationOption = "error",
    timeout: Timeout = 600.0,
    wait: Wait = 60.0,
    print_json: PrintJson = False,
) -> None:
    """Rank the candidates of every prompt, and report what the best of n is worth.

    The curves are means over all ways to draw n of the candidates. With known values they show
    those of the pick beside the best there is, a random one and the longest one. Interrupted for
    whatever reason, the same command goes on where it stopped.
    """
    # NumPy and matplotlib take a second to import, which --help should not cost.
    from reward_benchmark.best_of_n import best_of_n as rank
    from reward_benchmark.candidates import open_candidates
    from reward_benchmark.datasets import Selection
    from reward_benchmark.evaluation import Endpoint, Work, open_length_scorer

    endpoint = Endpoint(
        url=url,
        api_key=api_key,
        wait_seconds=wait,
        timeout_seconds=timeout,
        truncation=truncation,
    )
    with ending_well():
        document = rank(
            Work(
                dataset=open_candidates(candidates, gold),
                selection=Selection(frozenset(subset or ()), limit),
                out=out,
                concurrency=concurrency,
                name="best-of-n",
                command=command_line(),
            ),
            endpoint.open if scorer == "endpoint" else open_length_scorer,
            best_of=best_of,
            gold=gold,
            generator=generator,
            pictures=pictures,
            console=Console(stderr=True),
        )
    show(
        *_tables(document),
        Group(*_remarks(document), Text(f"The rankings, picks and curves are in {out}")),
        document=document,
        print_json=print_json,
    )


def _tables(document: Mapping[str, Any]) -> Iterator[Table]:
    from reward_benchmark.best_of_n import GAIN, LONGEST, ORACLE, PICK, RANDOM, REGRET, shown

    title = f"{document['model']} on {document['dataset']}"
    scores = Table(title=Text(f"{title}: score of the pick"))
    for name in ("n", "prompts", "KL at most", "mean score", "95 % interval"):
        scores.add_column(name, justify="right")
    for point in shown(document["curve"]):
        mean, kl = _score(point[PICK]["mean"]), f"{point['kl_bound']:.2f}"
        scores.add_row(
            *map(str, (point["n"], point["prompts"], kl, mean)),
            interval(point[PICK]["ci95"], _score),
        )
    yield scores
    if not document["gold"]:
        return
    columns = {
        PICK: "pick",
        ORACLE: "best",
        RANDOM: "random",
        LONGEST: "longest",
        REGRET: "regret",
        GAIN: "gain",
    }
    gold = Table(title=Text(f"{title}: mean {document['gold']['column']}"))
    for name in ("n", *columns.values(), "95 % of it"):
        gold.add_column(name, justify="right")
    for point in shown(document["gold"]["curve"]):
        means = (_score(point[name]["mean"]) for name in columns)
        gold.add_row(str(point["n"]), *means, interval(point[GAIN]["ci95"], _score))
    yield gold


def _score(score: float) -> str:
    return f"{score:.3f}" if abs(score) < 1e6 else f"{score:.4g}"


def _remarks(document: Mapping[str, Any]) -> Iterator[Text]:
    counts = document["counts"]
    prompts = counts["prompts"]
    if cut := document["best_of"]:
        fewer = cut["prompts_with_fewer"]
        yield Text(
            f"Only the first {cut['n']} candidates of each prompt took part"
            + (f"; {fewer} of {prompts} prompts have fewer." if fewer else ".")
        )
    if document["gold"]:
        annotated = document["gold"]["annotated_candidates"].items()
        yield Text(
            "Regret is best minus pick, gain is pick minus random. Only candidates with a known "
            f"{document['gold']['column']} enter: "
            + ", ".join(f"{count} in each of {prompts} prompts" for count, prompts in annotated)
            + "."
        )
    if counts["top_ties"]:
        yield Text(
            f"{counts['top_ties']} of {prompts} prompts have several best candidates: the pick is "
            "the first of them, and in the curves all of them share it."
        )
    if counts["tied_pairs"]:
        yield Text(
            f"{counts['tied_pairs']} pairs of candidates have one score, "
            f"{counts['tied_pairs_of_equal_texts']} of them one text."
        )
    if counts["errors"]:
        codes = ", ".join(f"{code} {count}" for code, count in counts["errors_by_code"].items())
        yield Text(
            f"{counts['errors']} of {prompts} prompts failed and are in no curve ({codes}); the "
            "same command tries them again."
        )
    if counts["truncated"]:
        yield Text(f"{counts['truncated']} of {prompts} prompts lost their start.")
