"""`reward-benchmark judge`."""

import math
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from reward_benchmark.cli.ending import command_line, ending_well, show
from reward_benchmark.cli.options import (
    DatasetName,
    Limit,
    Out,
    PrintJson,
    Subsets,
    http_url,
    token_limit,
)


def _url(value: str | None) -> str | None:
    return value and http_url(value)


def _prices(values: list[float] | None) -> list[float] | None:
    for value in values or ():
        if not math.isfinite(value):  # "nan" passes every limit
            raise typer.BadParameter(f"{value} is not a finite number")
    return values


def _temperature(value: str | float) -> float | None:
    if value == "none":
        return None
    try:
        temperature = float(value)
    except ValueError:
        temperature = math.nan
    if not 0 <= temperature < math.inf:
        raise typer.BadParameter(f"{value!r} is neither a number from 0 nor 'none'")
    return temperature


def judge(
    *,
    judge: Annotated[
        list[str],
        typer.Option(
            metavar="MODEL[@URL]",
            help="A model's name at its endpoint; several make a jury, whose votes are added up.",
        ),
    ],
    out: Out,
    dataset: DatasetName = "rewardbench",
    url: Annotated[
        str | None,
        typer.Option(
            callback=_url,
            help="The OpenAI-compatible endpoint of judges that name none: its root, with or "
            "without /v1, or the whole address up to /chat/completions.",
        ),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="CHAT_API_KEY",
            help="Key of the endpoint, if it asks for one; one a judge where their URLs differ.",
        ),
    ] = None,
    mode: Annotated[
        Literal["pairwise", "rating"],
        typer.Option(
            help="Compare the completions of a prompt, or have each rated alone from 1 to 10. "
            "Prompts with several chosen completions are always rated."
        ),
    ] = "pairwise",
    orders: Annotated[
        Literal["both", "seeded-single"],
        typer.Option(
            help="Ask for each comparison in two orders, one the other's reverse, or in one."
        ),
    ] = "both",
    seed: Annotated[int, typer.Option(help="Of the orders, and of sampling above 0.")] = 0,
    temperature: Annotated[
        float | None,
        typer.Option(
            parser=_temperature, metavar="NUMBER|none", help="none leaves it to the endpoint."
        ),
    ] = 0,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            parser=token_limit,
            metavar="NUMBER|none",
            help="An answer that is cut there is not counted; none leaves the limit to the "
            "endpoint.",
        ),
    ] = 2048,
    system_role: Annotated[
        bool,
        typer.Option(help="Without, the instructions stand in front of the user's text."),
    ] = True,
    prompts: Annotated[
        str,
        typer.Option(
            metavar="NAME|DIR",
            help="What judges are told: reasoned (they explain first), brief (the verdict alone), "
            "or a folder with any of pairwise.jinja, best-of-n.jinja, rating.jinja and "
            "rating-ties.jinja, which may also say how the answers end.",
        ),
    ] = "reasoned",
    price_input: Annotated[
        list[float] | None,
        typer.Option(
            min=0.0,
            callback=_prices,
            help="Of a million input tokens, in any currency; for all judges, or one each.",
        ),
    ] = None,
    price_output: Annotated[
        list[float] | None,
        typer.Option(
            min=0.0,
            callback=_prices,
            help="Of a million output tokens; for all judges, or one each.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            help="Keep every answer there, and take what is there instead of asking.",
        ),
    ] = None,
    limit: Limit = None,
    subset: Subsets = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Prompts that judges are asked about at once.")
    ] = 16,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", help="After this long without an answer, try again once."
        ),
    ] = 300.0,
    print_json: PrintJson = False,
) -> None:
    """Let chat models judge every prompt's completions, and report how often the chosen one wins.

    A completion scores the number of times that it was preferred, over two orders and all judges,
    or the mean of its ratings. Ties are losses, and so is a prompt of which one answer cannot be
    read: it is counted, and tried again by the same command.
    """
    # SciPy and NumPy take a second to import, which --help should not cost.
    from reward_benchmark.chat import Sampling
    from reward_benchmark.datasets import Selection, open_dataset
    from reward_benchmark.evaluation import Work, evaluate
    from reward_benchmark.judges.jury import UNREADABLE
    from reward_benchmark.judges.panel import Panel, panel_members
    from reward_benchmark.judges.prompts import load_prompts
    from reward_benchmark.judges.table import judges_table
    from reward_benchmark.table import results_table

    with ending_well():
        chosen = open_dataset(dataset)
        panel = Panel(
            members=panel_members(
                judge,
                url=url,
                api_keys=api_key or (),
                input_prices=price_input or (),
                output_prices=price_output or (),
            ),
            sampling=Sampling(temperature=temperature, max_tokens=max_tokens),
            prompts=load_prompts(prompts, system_role=system_role),
            mode=mode,
            orders=orders,
            seed=seed,
            benchmark=chosen.benchmark,
            cache=cache,
            timeout_seconds=timeout,
        )
        evaluation = evaluate(
            Work(
                dataset=chosen,
                selection=Selection(frozenset(subset or ()), limit),
                out=out,
                concurrency=concurrency,
                name="judge",
                command=command_line(),
            ),
            panel.open,
            console=Console(stderr=True),
        )
    document = evaluation.document
    remarks = [f"Results, and what the judges said, are in {out}"]
    if cache and UNREADABLE & document["counts"]["errors_by_code"].keys():
        remarks.append(
            f"An answer that could not be read stays in the cache: delete the file in {cache} "
            "that begins with the request's name in scores.jsonl to have it asked again"
        )
    show(
        results_table(evaluation.metrics, title=f"{document['model']} on {document['dataset']}"),
        judges_table(document["judges"]),
        *remarks,
        document=document,
        print_json=print_json,
    )
