"""Rows side by side: chosen, in order, in detail, and as a table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import permutations
from typing import Any

from reward_benchmark.datasets.rewardbench_2 import REWARDBENCH_2
from reward_benchmark.errors import BenchmarkError
from reward_benchmark.leaderboard.columns import (
    ABOUT,
    COLUMNS,
    DETAIL_COLUMNS,
    REWARDBENCH_2_COLUMN,
    SCORE,
    SCORE_WEIGHTS,
)
from reward_benchmark.leaderboard.row import Row, few, scored
from reward_benchmark.model_type import DPO, REFERENCE_FREE_DPO
from reward_benchmark.statistics import Estimate
from reward_benchmark.text_table import TextTable

DIFFERENCE = "difference"
"""In place of a type: what a model's numbers without its reference have over those with it."""


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Rows in order, and what was found beside them."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    order: Sequence[str] = COLUMNS
    """Of columns; others come after them, by name."""

    @property
    def columns(self) -> list[str]:
        """Those that any row has a number in."""
        present = {name for row in self.rows for name in row.cells}
        return [name for name in self.order if name in present] + sorted(present - {*self.order})

    def only(
        self,
        *,
        types: Sequence[str] = (),
        models: Sequence[str] = (),
        not_models: Sequence[str] = (),
    ) -> "Leaderboard":
        """The rows of some models.

        Args:
            types: model types; none named means all.
            models: patterns of which a model's name must match one, where there are any.
            not_models: patterns of which it must match none.

        Raises:
            BenchmarkError: no row has a type, or none is left.
        """
        there = sorted({row.model_type for row in self.rows})
        meant = {one for wanted in types for one in _meant(wanted, there, "model type")}
        rows = [
            row
            for row in self.rows
            if (row.model_type in meant or not meant)
            and (_is_called(row.model, models) or not models)
            and not _is_called(row.model, not_models)
        ]
        if not rows:
            names = sorted({row.model for row in self.rows})
            wanted = [f"--model-type {one}" for one in types]
            wanted += [f"--model {one}" for one in models]
            wanted += [f"--not-model {one}" for one in not_models]
            raise BenchmarkError(f"{' '.join(wanted)} leaves no model of {few(names)}")
        return replace(self, rows=tuple(rows))

    def detailed(self, name: str) -> "Leaderboard":
        """What one number is made of: a section of RewardBench, or a whole dataset.

        Raises:
            BenchmarkError: no row has it.
        """
        there = dict.fromkeys(column for row in self.rows for column in row.details)
        known = [column for column in DETAIL_COLUMNS if column in there]
        wanted = REWARDBENCH_2_COLUMN if _letters(name) == _letters(REWARDBENCH_2.name) else name
        column = _meant(
            wanted, [*known, *sorted(there.keys() - set(known))], "section or set", one=True
        )[0]
        rows = [
            replace(row, cells=detail.cells, incomplete=detail.incomplete)
            for row in self.rows
            if (detail := row.details.get(column))
        ]
        order = [*DETAIL_COLUMNS.get(column, ()), *(cell for row in rows for cell in row.cells)]
        return replace(self, rows=tuple(rows), order=tuple(dict.fromkeys(order)))

    def reference_free(self) -> "Leaderboard":
        """DPO models with and without their reference, and what the second has over the first.

        Only numbers that a model has both with and without are compared, the score of these.

        Raises:
            BenchmarkError: no model has both.
        """
        rows: list[Row] = []
        for row, other in permutations(self.rows, 2):
            # Somebody's published numbers may be of other data or settings than one's own.
            alike = (row.model, row.published) == (other.model, other.published)
            if alike and (row.model_type, other.model_type) == (DPO, REFERENCE_FREE_DPO):
                rows += _difference(row, other)
        if not rows:
            raise BenchmarkError(
                f"no model has results on one set both with its reference (type {DPO}) and without "
                f"(type {REFERENCE_FREE_DPO})"
            )
        return replace(self, rows=tuple(rows))

    def sorted(self, column: str | None = None) -> "Leaderboard":
        """By a column from the best, rows without a number in it last; `model` is by name.

        Without a column: by the score, or where no row has one by the first column there is.

        Raises:
            BenchmarkError: no row has the column.
        """
        by_name = sorted(self.rows, key=lambda row: (row.model.casefold(), row.title))
        names = ["model", *self.columns]
        chosen = names[:2][-1] if column is None else _meant(column, names, "column", one=True)[0]
        has = [row for row in by_name if chosen in row.cells]
        has.sort(key=lambda row: row.cells[chosen].value, reverse=True)
        return replace(self, rows=(*has, *(row for row in by_name if chosen not in row.cells)))

    def table(self, *, marks_apart: bool = False, hidden: Iterable[str] = ()) -> TextTable:
        """Numbers in percent.

        Args:
            marks_apart: with columns of their own for what is otherwise beside the names, which
                suits programs.
            hidden: columns, or patterns of them, to leave out.

        Raises:
            BenchmarkError: there is no such column.
        """
        columns = self.columns
        rows = []
        for row in self.rows:
            cells = [100 * row.cells[name].value if name in row.cells else None for name in columns]
            if marks_apart:
                marks = [str(row.baseline).lower(), str(row.published).lower()]
                about = [row.model, row.model_type, row.fingerprint, *marks]
                rows.append([*about, "; ".join(row.incomplete), *cells])
            else:
                rows.append([row.title, row.model_type, *cells])
        names = [*(ABOUT if marks_apart else ABOUT[:2]), *columns]
        left_out = {one for wanted in hidden for one in _meant(wanted, names, "column")}
        return TextTable(names, rows).without(left_out)

    def document(self) -> dict[str, Any]:
        """The leaderboard as JSON."""
        return {
            "columns": self.columns,
            "score_weights": SCORE_WEIGHTS,
            "rows": [
                {
                    "model": row.model,
                    "model_type": row.model_type,
                    "fingerprint": row.fingerprint,
                    "distinction": row.distinction,
                    "baseline": row.baseline,
                    "published": row.published,
                    "incomplete": row.incomplete,
                    "cells": {
                        name: {"score": cell.value, "ci95": cell.interval}
                        for name, cell in row.cells.items()
                    },
                    "sources": row.sources,
                }
                for row in self.rows
            ],
            "notes": self.notes,
        }


def _difference(row: Row, other: Row) -> list[Row]:
    """The two rows as far as they have the same columns, and the second minus the first."""
    shared = [name for name in row.cells if name in other.cells]
    if not shared:
        return []
    rows = []
    for one in (row, other):
        cells = {name: one.cells[name] for name in shared if name != SCORE}
        rows.append(replace(one, cells=scored(cells) if SCORE in shared else cells))
    with_it, without = (one.cells for one in rows)
    marks = [other.distinction if other.distinction != REFERENCE_FREE_DPO else None, DIFFERENCE]
    difference = replace(
        other,
        model_type=DIFFERENCE,
        cells={name: Estimate(without[name].value - with_it[name].value) for name in shared},
        distinction=", ".join(filter(None, marks)),
        incomplete=tuple(dict.fromkeys((*row.incomplete, *other.incomplete))),
        sources=(*row.sources, *other.sources),
    )
    return [*rows, difference]


def _meant(wanted: str, names: Sequence[str], what: str, *, one: bool = False) -> list[str]:
    """The names that a user means: this one, those of a pattern, or those with its letters.

    Raises:
        BenchmarkError: there is none, or more than the one that there must be.
    """
    if wanted in names:
        return [wanted]
    meant = [name for name in names if _is_called(name, [wanted])]
    meant = meant or [name for name in names if _letters(name) == _letters(wanted)]
    if not meant:
        raise BenchmarkError(f"no {what} is called {wanted!r}: there are {', '.join(names)}")
    if one and len(meant) > 1:
        raise BenchmarkError(f"{wanted!r} is more than one {what}: {', '.join(meant)}")
    return meant


def _is_called(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is, or matches, one of these, whatever the case."""
    folded = name.casefold()
    return any(folded == one or fnmatchcase(folded, one) for one in map(str.casefold, patterns))


def _letters(name: str) -> str:
    """A name without what separates its words."""
    return "".join(filter(str.isalnum, name.casefold()))
