"""Runs of `best-of-n`: what the best of n candidates is worth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, FiniteFloat, NonNegativeInt, PositiveInt

from reward_benchmark.best_of_n import (
    GAIN,
    GOLD_CURVES,
    REGRET,
    SCORE_CURVES,
    gold_figure,
    scores_figure,
    shown,
)
from reward_benchmark.plots import Figure
from reward_benchmark.report.blocks import Block, Cell, Column, Prose, Section, Table, count_cell
from reward_benchmark.report.documents import KNOWN, document_blocks
from reward_benchmark.report.figures import figure
from reward_benchmark.report.mistakes import score
from reward_benchmark.results_file import Ends, Results, read_results
from reward_benchmark.run_directory import RESULTS_FILE, read_identity
from reward_benchmark.saved_run import require_finished

COMMAND = "best-of-n"

Curve = Sequence[Mapping[str, Any]]
"""A point for each n, as `results.json` has them."""


@dataclass(frozen=True, slots=True)
class BestOfN:
    """A finished run of `best-of-n`."""

    path: Path
    document: Mapping[str, Any]
    """The content of its `results.json`."""

    @property
    def model(self) -> str:
        """Who ranked."""
        return str(self.document["model"])


class _Mean(BaseModel):
    mean: FiniteFloat
    ci95: Ends | None


class _Point(BaseModel):
    n: PositiveInt
    prompts: NonNegativeInt
    pick: _Mean


class _GoldPoint(_Point):
    oracle: _Mean
    random: _Mean
    longest: _Mean
    regret: _Mean
    gain: _Mean


class _Gold(BaseModel):
    column: str
    curve: list[_GoldPoint]


class _Counts(BaseModel):
    prompts: NonNegativeInt
    ranked: NonNegativeInt
    errors_by_code: dict[str, NonNegativeInt]
    truncated: NonNegativeInt


class _Results(Results):
    """What this section reads of `results.json`."""

    counts: _Counts
    curve: list[_Point]
    gold: _Gold | None


def open_best_of_n(path: Path) -> BestOfN | None:
    """The run of `best-of-n` in a directory; `None` where another command's is.

    Raises:
        RunDirectoryError: there is no run, it is not finished, or it is damaged.
    """
    if not path.is_dir() or read_identity(path).get("command") != COMMAND:
        return None
    require_finished(path, RESULTS_FILE)
    document, _ = read_results(path, _Results, of=f"a {COMMAND} run")
    return BestOfN(path, document)


def best_of_n_section(run: BestOfN, number: int) -> Section:
    """The curves of one run."""
    document = run.document
    counts, gold = document["counts"], document["gold"]
    blocks: list[Block] = [
        Prose(
            f"{counts['ranked']:,} of {counts['prompts']:,} prompts were ranked. Each point is the "
            "mean over all ways to draw n of a prompt's candidates, so that their order plays no "
            "part."
        )
    ]
    if gold and gold["curve"]:
        label = f"mean {gold['column']} of the pick"
        drawing = partial(gold_figure, document)
        blocks += _curve_blocks(drawing, label, gold["curve"], GOLD_CURVES)
        distances = {"regret (best minus pick)": REGRET, "gain (pick minus random)": GAIN}
        blocks.append(_table(f"Distances in {gold['column']}", gold["curve"], distances))
    if document["curve"]:
        drawing = partial(scores_figure, document)
        blocks += _curve_blocks(drawing, "mean score of the pick", document["curve"], SCORE_CURVES)
    failed = {**counts["errors_by_code"], "truncated": counts["truncated"]}
    rows = [[Cell(name), count_cell(count, counts["prompts"])] for name, count in failed.items()]
    columns = [Column("", numeric=False), Column("prompts")]
    blocks.append(Table("Prompts that failed or lost their start", columns, rows))
    for name, value in document.items():
        if name not in KNOWN and name not in ("curve", "gold"):
            blocks += document_blocks(name, value)
    title = f"Best of n: {document['model']} on {document['dataset']}"
    return Section(title, f"best-of-n-{number}", blocks)


def _curve_blocks(
    drawing: Callable[[], Figure], label: str, curve: Curve, names: Mapping[str, str]
) -> list[Block]:
    description = f"The {label} against n, as curves with bands; the numbers are below."
    return [figure(drawing, description), _table(label.capitalize(), curve, names)]


def _table(caption: str, curve: Curve, names: Mapping[str, str]) -> Table:
    return Table(
        f"{caption}, with 95 % intervals",
        [Column("n"), Column("prompts"), *map(Column, names)],
        [
            [
                count_cell(point["n"]),
                count_cell(point["prompts"]),
                *(_estimate(point[key]) for key in names.values()),
            ]
            for point in shown(curve)
        ],
    )


def _estimate(estimate: Mapping[str, Any]) -> Cell:
    detail = " to ".join(map(score, estimate["ci95"])) if estimate["ci95"] else ""
    return Cell(score(estimate["mean"]), estimate["mean"], detail)
