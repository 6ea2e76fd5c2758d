"""`reward-benchmark generate`."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reward_benchmark.cli.ending import command_line, ending_well, show
from reward_benchmark.cli.options import Out, PrintJson, http_url, token_limit


def generate(
    *,
    prompts: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE|HUB_ID",
            help="A file (.jsonl, .jsonl.gz, .json, .parquet) or hub dataset with a column prompt, "
            "instruction, question or input (a text or messages) and maybe subset and id; or any "
            "set that `run --dataset` knows, of which each distinct prompt is answered once.",
        ),
    ],
    out: Out,
    url: Annotated[
        str,
        typer.Option(
            callback=http_url,
            help="A text-generation-inference or OpenAI-compatible endpoint: its root, with or "
            "without /v1, or the whole address up to /chat/completions.",
        ),
    ],
    model: Annotated[str, typer.Option(help="The model's name at the endpoint.")],
    api_key: Annotated[
        str | None,
        typer.Option(envvar="CHAT_API_KEY", help="Key of the endpoint, if it asks for one."),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Candidates of each prompt.")] = 16,
    temperature: Annotated[
        float,
        typer.Option(min=0.0, max=100.0, help="Of the sampling; 0 makes all candidates the same."),
    ] = 1.0,
    top_p: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Sample among the likeliest tokens of this mass."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            parser=token_limit,
            metavar="NUMBER|none",
            help="After these, a candidate is cut; none leaves the limit to the endpoint.",
        ),
    ] = 2048,
    seed: Annotated[
        int, typer.Option(help="Every candidate's own seed is computed from it, its id and place.")
    ] = 0,
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Ends a candidate; may be repeated."),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="System message of the prompts that have none of their own."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Answer only the first N prompts.")
    ] = None,
    subset: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Answer only this subset; may be repeated."),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Candidates that the endpoint is asked for at once.")
    ] = 16,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", help="After this long without an answer, try again once."
        ),
    ] = 300.0,
    print_json: PrintJson = False,
) -> None:
    """Let a chat model answer every prompt n times, for `best-of-n` to choose among.

    DIR/candidates.jsonl gets a line for each prompt. Interrupted for whatever reason, the same
    command goes on where it stopped; candidates that failed are tried again by it, too.
    """
    # Reading rows takes pyarrow, which takes a while to import, which --help should not cost.
    from reward_benchmark.chat import ChatClient, Sampling
    from reward_benchmark.datasets import Selection
    from reward_benchmark.generation import CANDIDATES_FILE, Generation
    from reward_benchmark.generation import generate as make
    from reward_benchmark.prompts import open_prompts

    if temperature == 0 and n > 1:
        raise typer.BadParameter(
            f"with --temperature 0 all {n} candidates of a prompt are the same: ask for --n 1, or "
            "for a temperature above 0"
        )
    with ending_well():
        document = make(
            Generation(
                prompts=open_prompts(prompts, Selection(frozenset(subset or ()), limit)),
                out=out,
                chat=lambda: ChatClient(url, model=model, api_key=api_key, timeout_seconds=timeout),
                model=model,
                n=n,
                seed=seed,
                sampling=Sampling(
                    temperature=temperature,
                    top_p=top_p,
                    max_tokens=max_tokens,
                    stop=tuple(stop or ()),
                ),
                system=system,
                concurrency=concurrency,
                command=command_line(),
            ),
            console=Console(stderr=True),
        )
    remarks = [f"The candidates are in {out / CANDIDATES_FILE}"]
    if 2 * document["candidates"]["repeated"] > document["candidates"]["count"]:
        remarks.append(
            "Most candidates are the same as another of their prompt: does the endpoint sample?"
        )
    show(
        _table(document),
        *remarks,
        document=document,
        print_json=print_json,
    )


def _table(document: dict[str, Any]) -> Table:
    candidates, usage = document["candidates"], document["usage"]
    table = Table(title=Text(f"{document['model']} on {document['dataset']}"), show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    lines = {
        "prompts": document["prompts"]["count"],
        "candidates": candidates["count"],
        "  empty": candidates["empty"],
        "  same as another of their prompt": candidates["repeated"],
        **{f"  ended by {reason}": n for reason, n in candidates["finish_reasons"].items()},
        "failed (the same command tries again)": document["failures"]["count"],
        **{f"  {code}": n for code, n in document["failures"]["by_code"].items()},
        "input tokens": usage["input_tokens"],
        "output tokens": usage["output_tokens"],
    }
    for name, value in lines.items():
        table.add_row(Text(name), "not counted" if value is None else f"{value:,}")
    return table
