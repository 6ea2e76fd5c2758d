"""The documents that a finished run leaves: ours, and RewardBench's own."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

from reward_benchmark.datasets import Dataset
from reward_benchmark.metrics import Metrics, SubsetMetrics
from reward_benchmark.statistics import Estimate
from reward_client import InfoResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a run's numbers come from."""

    dataset: Dataset
    identity: Mapping[str, Any]
    """The content of `run.json`."""
    model: str
    """What was judged: a model, or the name of a baseline."""
    model_type: str
    """RewardBench's word for its kind."""
    info: InfoResponse | None
    """The service, where one scored."""
    command: str
    finished_at: datetime

    def document(self) -> dict[str, Any]:
        """The part of `results.json` that tells how to get the same numbers again."""
        identity = dict(self.identity)
        return {
            "fingerprint": identity.get("fingerprint"),
            "info": self.info and self.info.model_dump(mode="json"),
            "dataset": {
                "path": self.dataset.location,
                "sha256": identity.pop("dataset_sha256"),
                "subsets": identity.pop("subsets"),
                "limit": identity.pop("limit"),
            },
            "run": identity,
            "versions": {
                "rewardserve": version("rewardserve"),
                "python": platform.python_version(),
            },
            "time": self.finished_at.isoformat(timespec="seconds"),
            "command": self.command,
        }


def results_document(metrics: Metrics, provenance: Provenance) -> dict[str, Any]:
    """The content of `results.json`; accuracies are fractions."""
    total = metrics.total
    return {
        "benchmark": metrics.benchmark.name,
        "dataset": provenance.dataset.name,
        "model": provenance.model,
        "model_type": provenance.model_type,
        "overall": metrics.overall.value,
        "overall_ci95": metrics.overall.interval,
        "sections": {name: estimate_document(e) for name, e in metrics.sections.items()},
        "subsets": {name: _subset(subset) for name, subset in metrics.subsets.items()},
        "absent": metrics.absent,
        "counts": {
            "groups": total.count,
            "wins": total.wins,
            "credit": total.credit,
            "ties": total.ties,
            "errors": total.errors,
            "errors_by_code": total.error_codes,
            "truncated": total.truncated,
        },
        "provenance": provenance.document(),
    }


def estimate_document(estimate: Estimate) -> dict[str, Any]:
    """A number with its interval, as JSON."""
    return {"score": estimate.value, "ci95": estimate.interval}


def _subset(subset: SubsetMetrics) -> dict[str, Any]:
    return {
        "accuracy": subset.estimate.value,
        "ci95": subset.estimate.interval,
        "count": subset.tally.count,
        "ties": subset.tally.ties,
        "errors": subset.tally.errors,
    }
