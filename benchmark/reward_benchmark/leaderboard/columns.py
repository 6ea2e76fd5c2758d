"""The columns of a leaderboard."""

from reward_benchmark.datasets import BENCHMARKS
from reward_benchmark.datasets.prior import PRIOR
from reward_benchmark.datasets.rewardbench import REWARDBENCH
from reward_benchmark.datasets.rewardbench_2 import REWARDBENCH_2

ABOUT = ("model", "type", "fingerprint", "baseline", "published", "incomplete")
"""Columns that are no numbers; tables for people have only the first two."""

SCORE = "Score"
PRIOR_COLUMN = "Prior"
REWARDBENCH_2_COLUMN = "RB2"

SECTIONS = tuple(REWARDBENCH.sections)

SCORE_WEIGHTS = {**dict.fromkeys(SECTIONS, 2.0), PRIOR_COLUMN: 1.0}
"""Column → weight in the score; a row without all of RewardBench's sections has none."""

SET_COLUMNS = {
    **{name: benchmark.title for name, benchmark in BENCHMARKS.items()},
    PRIOR.name: PRIOR_COLUMN,
    REWARDBENCH_2.name: REWARDBENCH_2_COLUMN,
}
"""Known set → column of its overall number; that of RewardBench is among its details alone."""

COLUMNS = (
    SCORE,
    *SECTIONS,
    PRIOR_COLUMN,
    REWARDBENCH_2_COLUMN,
    *(f"{REWARDBENCH_2_COLUMN} {domain}" for domain in REWARDBENCH_2.overall or ()),
    *(
        column
        for name, column in SET_COLUMNS.items()
        if name not in (REWARDBENCH.name, PRIOR.name, REWARDBENCH_2.name)
    ),
)
"""The known columns in order; other datasets come after them, by name."""

DETAIL_COLUMNS = {
    **{section: (section, *weights) for section, weights in REWARDBENCH.sections.items()},
    **{
        SET_COLUMNS[name]: (
            SET_COLUMNS[name],
            *benchmark.sections,
            *(subset for weights in benchmark.sections.values() for subset in weights),
            *(benchmark.overall or {}),
        )
        for name, benchmark in BENCHMARKS.items()
    },
}
"""What has details → their columns in order, as far as they are known."""


def own_column(dataset: str) -> str:
    """The column of a dataset that is no known set, whatever its file or folder is called."""
    known = {*ABOUT, *COLUMNS, *SET_COLUMNS, *SET_COLUMNS.values()}
    return f"{dataset} (own data)" if dataset in known else dataset
