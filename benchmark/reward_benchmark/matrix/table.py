"""The table that a matrix prints."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reward_benchmark.matrix.rows import Result, Row
from reward_benchmark.text_table import percent


def rows_table(rows: Sequence[Row]) -> RenderableType:
    """One line a model and data set, and why what failed has failed."""
    sections = list(dict.fromkeys(s for row in rows for one in row.results for s in one.sections))
    several = len({one.dataset for row in rows for one in row.results}) > 1
    table = Table()
    table.add_column("model", overflow="fold")
    table.add_column("status")
    if several:
        table.add_column("data set", overflow="fold")
    for name in ("overall %", *sections, "errors", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        for number, result in enumerate(row.results or [None]):
            first = number == 0
            cells = [
                row.name if first else "",
                _status(row) if first else "",
                *([result.dataset if result else ""] if several else []),
                *_numbers(result, sections),
                f"{row.seconds:.0f}" if first else "",
            ]
            table.add_row(*map(Text, cells))
    remarks = [f"{row.name} failed: {row.reason}" for row in rows if row.reason]
    remarks += [f"{row.name} is incomplete: {gap}" for row in rows for gap in _gaps(row)]
    return Group(table, *map(Text, remarks))


def _status(row: Row) -> str:
    return f"{row.status}, incomplete" if _gaps(row) else row.status


def _gaps(row: Row) -> list[str]:
    """Why the numbers of a row are not those of whole sets."""
    return [f"{one.dataset}: {reason}" for one in row.results for reason in one.incomplete]


def _numbers(result: Result | None, sections: Sequence[str]) -> list[str]:
    if result is None:
        return ["-", *("-" for _ in sections), "-"]
    scores = [result.overall, *(result.sections.get(name) for name in sections)]
    return [*map(percent, scores), "-" if result.errors is None else str(result.errors)]
