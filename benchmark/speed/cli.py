"""The command line of the speed benchmark."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from speed.contenders import NAMES
from speed.environment import CHECKOUT
from speed.experiment import PARTS, Options, run
from speed.process import drop_settings_from_environment
from speed.table import print_results

RESULTS = CHECKOUT / "benchmark" / "results"
SCRATCH = CHECKOUT / "runs" / "speed"
"""Ignored by git: models, and results that are not kept."""

DEFAULTS = Options()
QUIET_LOAD = 0.5

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def measure(
    *,
    name: Annotated[str, typer.Option(help="Last part of the result's file name.")] = "cpu",
    only: Annotated[
        list[str] | None, typer.Option(metavar="PART", help=f"One of {', '.join(PARTS)}; repeat.")
    ] = None,
    contender: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"One of {', '.join(NAMES)}; repeat."),
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="RewardBench pairs.")] = DEFAULTS.pairs,
    dpo_pairs: Annotated[
        int, typer.Option(min=1, help="RewardBench pairs for policy and reference.")
    ] = DEFAULTS.dpo_pairs,
    repetitions: Annotated[
        int, typer.Option(min=1, help="Rounds over all contenders.")
    ] = DEFAULTS.repetitions,
    quick: Annotated[bool, typer.Option("--quick", help="Little of everything, once.")] = False,
    seed: Annotated[int, typer.Option(help="Of the sample of rows.")] = DEFAULTS.seed,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Default: benchmark/results/ if all was measured."),
    ] = None,
) -> None:
    """Score the same rows with the same model in every way there is, and say how fast each was.

    Contenders take turns within each repetition, so that ratios of one run can be trusted where
    its absolute numbers cannot.
    """
    drop_settings_from_environment()
    parts = tuple(part for part in PARTS if part in only) if only else PARTS
    names = tuple(name for name in NAMES if name in contender) if contender else NAMES
    if unknown := {*(only or ())} - {*PARTS} | {*(contender or ())} - {*NAMES}:
        raise typer.BadParameter(f"unknown: {', '.join(sorted(unknown))}")
    options = Options(
        pairs=pairs,
        dpo_pairs=dpo_pairs,
        repetitions=repetitions,
        seed=seed,
        parts=parts,
        contenders=names,
    )
    if quick:
        options = Options(
            pairs=min(pairs, 8),
            long_prompts=1,
            alpaca_prompts=1,
            growth=(1, 4, 16),
            repetitions=1,
            growth_repetitions=2,
            dpo_pairs=min(dpo_pairs, 6),
            dpo_repetitions=1,
            memory_tokens=1024,
            tiny_repetitions=1,
            tiny_seconds=1.0,
            matmul_seconds=0.5,
            seed=seed,
            parts=parts,
            contenders=names,
        )
    errors = Console(stderr=True)
    if (load := os.getloadavg()[0]) > QUIET_LOAD:
        errors.print(
            f"[yellow]The load average is {load:.1f}: others compute here, and even ratios"
        )
        errors.print("[yellow]suffer, for threads that wait for each other suffer most.")
    document = _measured(options, errors)
    document = {"name": name, **document}
    keep = options.is_complete and not quick
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    path = out or (RESULTS if keep else SCRATCH) / f"{today}-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print_results(document)
    errors.print(f"Kept in {path.name}, in {path.parent.name}/")


def _measured(options: Options, console: Console) -> dict[str, object]:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=options.steps, completed=-1)

        def advance(what: str) -> None:
            # What it names begins now; what came before is done.
            progress.update(task, advance=1, description=what)
            if not console.is_terminal:
                console.print(what)

        document = run(options, cache=SCRATCH / "models", advance=advance)
        progress.update(task, completed=options.steps, description="done")
    return document
