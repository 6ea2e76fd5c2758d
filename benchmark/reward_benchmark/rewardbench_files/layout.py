"""Where RewardBench keeps its files, and what their fields mean."""

from collections.abc import Mapping
from typing import Any

from reward_benchmark.datasets import Benchmark
from reward_benchmark.datasets.prior import PRIOR
from reward_benchmark.errors import BenchmarkError
from reward_benchmark.model_type import REFERENCE_FREE_DPO

METADATA = frozenset(
    {"model", "model_type", "chat_template", "ref_model", "model_beaker", "score_w_ratings"}
)
"""What is no subset in a file of accuracies, and no column in one of scores."""


class RewardBenchFileError(BenchmarkError):
    """A file is not one of RewardBench's."""


def folder_of(benchmark: Benchmark) -> str:
    """Where RewardBench keeps accuracies on a set."""
    return "pref-sets" if benchmark.name == PRIOR.name else "eval-set"


def scores_folder_of(benchmark: Benchmark) -> str:
    """Where RewardBench keeps scores of a set's rows."""
    return f"{folder_of(benchmark)}-scores"


def file_name(results: Mapping[str, Any]) -> str:
    """What RewardBench calls both files of a run, within their folders.

    Args:
        results: the content of its `results.json`.
    """
    # One model has numbers with and without its reference (scripts/run_dpo.py).
    suffix = "_ref_free" if results["model_type"] == REFERENCE_FREE_DPO else ""
    return f"{results['model']}{suffix}.json"
