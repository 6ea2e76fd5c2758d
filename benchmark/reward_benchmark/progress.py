"""The progress bar of a run."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- pairs/s" if speed is None else f"{speed:.1f} pairs/s")


class ScoringProgress:
    """Shows pairs done, pairs per second, the time that remains, and pairs that failed.

    Args:
        done: pairs that an earlier run scored.
    """

    def __init__(self, console: Console, *, total: int, done: int) -> None:
        self.total = total
        self._failed = 0
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]} failed"),
            console=console,
        )
        self._task = self._progress.add_task("scoring", total=total, completed=done, failed=0)

    def advance(self, *, failed: bool) -> None:
        """Count one more pair as done."""
        self._failed += failed
        self._progress.update(self._task, advance=1, failed=self._failed)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
