"""Puts a run's numbers into the summary of a run of Weights & Biases, where its training is logged.

The only module that imports wandb, which is installed only where it is wanted.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from reward_benchmark.errors import BenchmarkError, ServiceError
from reward_benchmark.rewardbench_files import accuracies_document

try:
    import wandb
    from wandb.apis.normalize import normalize_exceptions
    from wandb.errors import UsageError
except ImportError as error:
    raise BenchmarkError(
        f"Weights & Biases needs its package ({error}): pip install 'rewardserve[wandb]'"
    ) from error


_ENDED = ("finished", "failed", "crashed", "killed")
"""States of W&B runs that log no more, unless somebody resumes them."""


def update_summary(path: str, results: Mapping[str, Any], *, overwrite: bool = False) -> str:
    """Put a run's numbers into the summary of a W&B run that has ended, whose other values stay.

    Args:
        path: `entity/project/run_id`.
        results: the content of the run's `results.json`.
        overwrite: whether a value that is there may change.

    Returns:
        The address of the W&B run.

    Raises:
        BenchmarkError: a value is there already and another, or the W&B run has not ended.
        ServiceError: W&B refuses, or cannot be reached.
    """
    entries = summary_entries(results)
    with _explained(path):
        # A silent client does not ask for a login either.
        settings = wandb.setup(wandb.Settings(silent=True)).settings
        if settings.mode in ("offline", "dryrun", "disabled"):
            raise BenchmarkError(
                f"nothing can be uploaded while wandb is {settings.mode}: unset WANDB_MODE, or run "
                "`wandb online`"
            )
        run = wandb.Api().run(path)
        if run.state not in _ENDED:
            # A summary is written whole, by the trainer too, who does not know of these numbers.
            raise BenchmarkError(
                f"{path} is {run.state} and may write over the numbers: wait until it has ended"
            )
        there = run.summary_metrics
        changed = {
            key: value for key, value in entries.items() if key not in there or there[key] != value
        }
        if (taken := sorted(changed.keys() & there.keys())) and not overwrite:
            raise BenchmarkError(
                f"{path} has another {taken[0]} already: pass --overwrite to replace it"
            )
        if changed:
            normalize_exceptions(run.summary.update)(changed)
    return str(run.url)


def summary_entries(results: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `rewardbench --wandb_run` behind the set's name, the overall number, sections.

    Upstream's `accuracy` is the share of all prompts won, here the mean of what they earn, and
    `extra_results` has the subsets. Source: rewardbench/rewardbench.py in allenai/reward-bench,
    where every set is called `rewardbench`.
    """
    counts, metadata = results["counts"], accuracies_document(results)
    entries = {
        "accuracy": counts["credit"] / counts["groups"],
        "num_prompts": counts["groups"],
        "model": metadata["model"],
        "ref_model": metadata.get("ref_model"),
        "chat_template": metadata["chat_template"],
        "extra_results": {name: one["accuracy"] for name, one in results["subsets"].items()},
        "overall": results["overall"],
        **{name: section["score"] for name, section in results["sections"].items()},
    }
    return {f"{results['dataset']}/{name}": value for name, value in entries.items()}


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        # Without the values, of which one may be a secret.
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()
        )
        raise BenchmarkError(f"wandb's settings are wrong: {wrong}") from error
    except wandb.Error as error:
        reason, cause = " ".join(str(error).split()).rstrip("."), error.__cause__
        if isinstance(error, UsageError):
            raise ServiceError(
                f"nobody is logged in to W&B ({reason}): run `wandb login` or set WANDB_API_KEY"
            ) from error
        if cause is not None and getattr(cause, "response", None) is None:
            raise ServiceError(f"W&B cannot be reached: {reason}") from error
        # What an account may not see is not found either.
        raise ServiceError(
            f"W&B refused {path}: {reason}; log in with `wandb login`, or set WANDB_API_KEY, as "
            "somebody who may write there"
        ) from error
