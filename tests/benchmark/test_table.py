"""The table that a run prints."""

import io

import pytest
from rich.console import Console

from reward_benchmark.datasets import PREFERENCES, Benchmark
from reward_benchmark.datasets.rewardbench_2 import REWARDBENCH_2
from reward_benchmark.datasets.rm_bench import RM_BENCH
from reward_benchmark.metrics import measure
from reward_benchmark.outcome import Outcome
from reward_benchmark.table import results_table


def printed(outcome: Outcome, benchmark: Benchmark) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(results_table(measure([outcome], benchmark), title="a run"))
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


@pytest.mark.parametrize(
    ("outcome", "benchmark", "accuracy", "rule"),
    [
        (Outcome("s", 1, scores=(1.0, 1.0)), PREFERENCES, "0.0", "A tie counts as a loss."),
        (
            Outcome("Math", "1", scores=(1.0, 1.0, 0.0, 0.0)),
            REWARDBENCH_2,
            "50.0",
            "A correct completion that shares the highest score with k - 1 others earns 1/k;",
        ),
        (
            Outcome("chat", 1, 3, scores=(1.0, 2.0, 3.0, 1.0, 0.0, 0.0)),
            RM_BENCH,
            "88.9",
            "In a tie, the lowest right answer scores like the highest wrong one: of the nine",
        ),
    ],
)
def test_a_tie_is_explained_as_its_set_counts_it(
    outcome: Outcome, benchmark: Benchmark, accuracy: str, rule: str
):
    text = printed(outcome, benchmark)
    assert f"{outcome.subset} │ {accuracy} │" in text
    assert f"1 of 1 {benchmark.noun}s are ties. {rule}" in text
