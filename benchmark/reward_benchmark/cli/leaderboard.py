"""`reward-benchmark leaderboard`."""

import io
from bisect import bisect_left
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, RenderableType
from rich.table import Table

from reward_benchmark.cli.ending import ending_well, show
from reward_benchmark.cli.options import PrintJson, TableForm
from reward_benchmark.cli.saved_run_options import Overwrite

if TYPE_CHECKING:
    from reward_benchmark.text_table import TextTable


def leaderboard(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR",
            help="Directories with runs or with RewardBench's eval-set and pref-sets files, at any "
            "depth; or such files.",
        ),
    ],
    *,
    form: TableForm = "terminal",
    detail: Annotated[
        str | None,
        typer.Option(
            metavar="SECTION|SET",
            help="Show what this number is made of: a section of RewardBench, or a whole set by "
            "its name or column.",
        ),
    ] = None,
    reference_free: Annotated[
        bool,
        typer.Option(
            "--reference-free",
            help="Show DPO models with and without their reference, and the difference.",
        ),
    ] = False,
    model_type: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="Only models of this type; may be repeated."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Only models of this name, such as 'org/*'; may be repeated."
        ),
    ] = None,
    not_model: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="No models of this name; may be repeated."),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="The column to sort by, from the best; `model` is by name."
        ),
    ] = None,
    hide: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Leave this column, or those of a pattern, out of the table; may be repeated.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, help="Write the table there instead of printing it."
        ),
    ] = None,
    overwrite: Overwrite = False,
    print_json: PrintJson = False,
) -> None:
    """Merge runs and published results into one table, a row for each model.

    Score is (2 Chat + 2 Chat Hard + 2 Safety + 2 Reasoning + Prior) / 9, and without the prior sets
    the mean of the four, as on RewardBench's leaderboard; RB2 is the mean of RewardBench 2's six.
    """
    # SciPy and NumPy take a second to import, which --help should not cost.
    from reward_benchmark.leaderboard import find_rows
    from reward_benchmark.output_file import check_spared, check_writable, write_text

    with ending_well():
        if out is not None:
            check_writable(out, overwrite=overwrite)
            check_spared(out, filter(Path.is_file, places), what="to be read")
        with Console(stderr=True).status("Reading the results"):
            board = find_rows(places)
        board = board.only(types=model_type or (), models=model or (), not_models=not_model or ())
        if detail is not None:
            board = board.detailed(detail)
        board = board.sorted(sort)
        if reference_free:
            board = board.reference_free()
        table = board.table(marks_apart=form == "csv", hidden=hide or ())
        if out is not None:
            write_text(out, _drawn(table) if form == "terminal" else f"{table.text(form)}\n")
    reasons = {(row.model, reason): None for row in board.rows for reason in row.incomplete}
    for name, reason in reasons:
        typer.echo(f"{name} is incomplete: {reason}", err=True)
    for note in board.notes:
        typer.echo(note, err=True)
    if out is not None:
        show(f"Written to {out}", document=board.document(), print_json=print_json)
    elif form == "terminal":
        fitting = _fitting(table, print_json=print_json)
        show(*fitting, document=board.document(), print_json=print_json)
    else:
        typer.echo(table.text(form), err=print_json)
        show(document=board.document(), print_json=print_json)


def _drawn(table: "TextTable") -> str:
    """As on a terminal that is wide enough for everything."""
    from reward_benchmark.compact_table import compact

    console = Console(width=10_000, file=io.StringIO())
    with console.capture() as capture:
        console.print(compact(table.terminal()))
    return capture.get()


def _fitting(table: "TextTable", *, print_json: bool) -> list[RenderableType]:
    """For this terminal, without the columns that it has no room for."""
    from reward_benchmark.compact_table import compact, least_width
    from reward_benchmark.leaderboard import REWARDBENCH_2_COLUMN
    from reward_benchmark.leaderboard.row import few

    console = Console(stderr=print_json)
    columns = list(table.columns)
    domains = [name for name in columns if name.startswith(f"{REWARDBENCH_2_COLUMN} ")]
    # The domains have a number that stands for them; titles tell apart what a type would.
    numbers = [name for name in columns if name not in ("model", "type", *domains)]
    steps = [[], domains, *([name] for name in ["type", *numbers[:0:-1]] if name in columns)]

    def drawn(step: int) -> Table:
        left_out = {name for names in steps[: step + 1] for name in names}
        return compact(table.without(left_out).terminal(), at_hyphens=True)

    def fits(step: int) -> bool:
        return least_width(drawn(step), console) <= console.width

    step = bisect_left(range(len(steps) - 1), True, key=fits)
    hidden = [name for name in columns if any(name in names for names in steps[: step + 1])]
    if not hidden:
        return [drawn(step)]
    return [
        drawn(step),
        f"No room for {len(hidden)}: {few(hidden)}; --format and --json show them.",
    ]
