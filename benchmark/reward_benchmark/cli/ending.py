"""How a command ends: with its document as the last line, or with a sentence and an exit code."""

import json
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from typer.core import TyperGroup

from reward_benchmark.compact_table import least_width
from reward_benchmark.errors import BenchmarkError, InterruptedRunError
from reward_benchmark.visible import plain

_KEY_OPTION = re.compile(r"--[\w-]*api-key")
_KEY_VALUE = re.compile(r"^(--[\w-]*api-key=).*", re.DOTALL)
_URL_USER = re.compile(r"(?i)(https?://)[^/?#]*@")
_URL_QUERY = re.compile(r"(?i)(https?://[^?]*)\?.*", re.DOTALL)


@contextmanager
def ending_well() -> Iterator[None]:
    """Turn what may go wrong in a command into one sentence on standard error and an exit code."""
    try:
        yield
    except BenchmarkError as error:
        message, exit_code = str(error), error.exit_code
    except KeyboardInterrupt:
        message, exit_code = "interrupted", InterruptedRunError.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        message, exit_code = f"{where}{error.strerror or error}", BenchmarkError.exit_code
    else:
        return
    typer.echo(plain(f"reward-benchmark: {message}"), err=True)
    raise typer.Exit(exit_code)


class Interruptible(TyperGroup):
    """Commands that Ctrl-C ends with a sentence wherever it comes, as while they still import."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            with ending_well():
                raise
        except ImportError as error:
            # What some extension modules make of Ctrl-C while they are imported.
            if not _is_of_interrupt(error):
                raise
            with ending_well():
                raise KeyboardInterrupt from error


def _is_of_interrupt(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def show(*tables: RenderableType, document: Any, print_json: bool) -> None:
    """Print what a command found: for people, and with `--json` for programs as the last line."""
    draw(*tables, on_stderr=print_json)
    if print_json:
        typer.echo(json.dumps(document, allow_nan=False))


def draw(*tables: RenderableType, on_stderr: bool) -> None:
    """Print for people: no number is cut off, and no text from the data acts on the terminal."""
    console = _wide_enough(Console(stderr=on_stderr), tables)
    for table in tables:
        if isinstance(table, str):  # may name a path: printed as it is, and in one line
            console.print(plain(table), markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(_Visible(table))


@dataclass(frozen=True, slots=True)
class _Visible:
    """Anything that can be printed, with marks for characters that a terminal would obey."""

    content: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.content, options):
            yield Segment(plain(segment.text), segment.style, segment.control)


def _wide_enough(console: Console, printed: Iterable[RenderableType]) -> Console:
    """The console, or one on which no column of a table is cut off; terminals wrap long lines."""
    needed = max((least_width(table, console) for table in _tables(printed)), default=0)
    return console if needed <= console.width else Console(stderr=console.stderr, width=needed)


def _tables(printed: Iterable[RenderableType]) -> Iterator[Table]:
    for one in printed:
        if isinstance(one, Table):
            yield one
        elif isinstance(one, Group):
            yield from _tables(one.renderables)


def command_line() -> str:
    """The command as the results may show it: no API key, no password in a URL."""
    return shlex.join(["reward-benchmark", *without_secrets(sys.argv[1:])])


def without_secrets(arguments: Iterable[str]) -> Iterator[str]:
    """A command's arguments with asterisks for API keys, and in URLs for user and query."""
    for before, argument in pairwise(["", *arguments]):
        yield "***" if _KEY_OPTION.fullmatch(before) else _masked(argument)


def _masked(argument: str) -> str:
    without_key = _KEY_VALUE.sub(r"\1***", argument)
    return _URL_QUERY.sub(r"\1?***", _URL_USER.sub(r"\1***@", without_key))
