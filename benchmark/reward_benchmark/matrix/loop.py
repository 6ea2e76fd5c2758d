"""Measures models in turn; what goes wrong with one is its own row's reason."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from reward_benchmark.errors import InterruptedRunError
from reward_benchmark.leaderboard import gaps
from reward_benchmark.matrix.children import Children
from reward_benchmark.matrix.launcher import Launcher, ModelFailedError, ServedModel
from reward_benchmark.matrix.model import Model
from reward_benchmark.matrix.rows import Result, Row, Rows
from reward_benchmark.matrix.run_arguments import dataset_folder
from reward_benchmark.run_directory import held

LOG_FILE = "service.log"
SHORTEST_POLL_SECONDS = 0.05
LONGEST_POLL_SECONDS = 5.0
LINES_SHOWN = 15
"""Of the log of a service that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """What is to be measured, by whom, and where the results go."""

    models: Sequence[Model]
    out: Path
    launcher: Launcher
    start_seconds: float
    """How long a service may take to be ready; a large model is downloaded for hours."""
    children: Children
    only: frozenset[str] | None = None
    """Names of the models to measure now; the others' rows stay as they are."""
    retry_errors: bool = False
    """Whether runs in which some groups have no scores are gone on with."""

    def measure(self) -> Rows:
        """Measure the models that are not finished yet, and write down the rows of all.

        Raises:
            BenchmarkError: nothing was started.
            InterruptedRunError: the rows so far are kept, and no service runs any more.
        """
        with held(self.out):
            rows = Rows(self.out, self.models)
            chosen = [
                (model, row)
                for model, row in zip(self.models, rows.rows, strict=True)
                if self.only is None or model.name in self.only
            ]
            self.launcher.check([model for model, _ in chosen])
            self.children.end_left_behind()
            try:
                with self.children.interrupts.caught():
                    for number, (model, row) in enumerate(chosen, start=1):
                        self._say(f"[{number}/{len(chosen)}] {model.name}")
                        self._measure(model, row, rows)
            except KeyboardInterrupt:
                finished = sum(row.status == "finished" for _, row in chosen)
                raise InterruptedRunError(
                    f"interrupted ({finished} of {len(chosen)} models are finished in "
                    f"{self.out}, and the same command goes on from there)"
                ) from None
            finally:
                rows.keep_all()
        return rows

    def _measure(self, model: Model, row: Row, rows: Rows) -> None:
        done = {dataset: row.result(dataset, model.options) for dataset in model.datasets}
        missing = [dataset for dataset, result in done.items() if self._is_missing(result)]
        row.results = [result for result in done.values() if result is not None]
        if not missing:
            row.status = "finished"
            self._say("  finished before")
            return
        row.status, row.reason = "unfinished", None
        rows.keep(row)
        folder = rows.folder(row)
        log = folder / LOG_FILE
        started = time.monotonic()
        try:
            with self.launcher.serve(model, log) as served:
                self._wait_until_ready(served)
                for dataset in missing:
                    self._say(f"  {dataset}")
                    out = folder / dataset_folder(dataset)
                    done[dataset] = self._run(served, model, dataset, out)
                    row.results = [result for result in done.values() if result is not None]
                    rows.keep(row)
            row.status = "finished"
        except ModelFailedError as error:
            row.status, row.reason = "failed", str(error)
            self._say(f"  failed: {row.reason}")
            self._show_end_of(log)
        finally:
            row.seconds = round(time.monotonic() - started, 3)
            rows.keep(row)

    def _is_missing(self, result: Result | None) -> bool:
        return result is None or bool(self.retry_errors and result.errors)

    def _wait_until_ready(self, served: ServedModel) -> None:
        started = time.monotonic()
        with self.children.console.status("Waiting until it is ready"):
            while not served.is_ready():
                if reason := served.death():
                    raise ModelFailedError(reason)
                waited = time.monotonic() - started
                if waited > self.start_seconds:
                    raise ModelFailedError(
                        f"the service was not ready after {self.start_seconds:g} s: "
                        "--start-timeout gives it more"
                    )
                time.sleep(max(SHORTEST_POLL_SECONDS, min(waited / 10, LONGEST_POLL_SECONDS)))

    def _run(self, served: ServedModel, model: Model, dataset: str, out: Path) -> Result:
        started = time.monotonic()
        try:
            document = served.benchmark(model, dataset, out)
        except ModelFailedError as error:
            if death := served.death():
                raise ModelFailedError(f"{death} ({error})") from error
            raise
        return _result(document, dataset, model, out.name, time.monotonic() - started)

    def _show_end_of(self, log: Path) -> None:
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        told = [line for line in lines if '"route": "/ready"' not in line]  # we asked for those
        for line in told[-LINES_SHOWN:]:
            self._say(f"  | {line}")
        self._say(f"  the whole log: {log}")

    def _say(self, line: str) -> None:
        self.children.console.print(escape(line), highlight=False, soft_wrap=True)


def _result(
    document: Mapping[str, Any], dataset: str, model: Model, out: str, seconds: float
) -> Result:
    counts = document.get("counts") or {}
    groups, errors = counts.get("groups"), counts.get("errors")
    if groups and groups == errors:
        codes = ", ".join(f"{code} {n}" for code, n in counts.get("errors_by_code", {}).items())
        raise ModelFailedError(f"none of {groups} groups of {dataset} could be scored: {codes}")
    return Result(
        dataset=dataset,
        options=list(model.options),
        out=out,
        overall=document.get("overall"),
        sections={name: one["score"] for name, one in document.get("sections", {}).items()},
        groups=groups,
        errors=errors,
        seconds=round(seconds, 3),
        incomplete=gaps(document),
    )
