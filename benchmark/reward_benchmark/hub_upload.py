"""Uploads result files to a repository of the Hugging Face hub, and never over what is there."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, metadata_update
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.repocard_data import eval_results_to_model_index

from reward_benchmark.datasets import BENCHMARKS
from reward_benchmark.errors import BenchmarkError, ServiceError
from reward_benchmark.rewardbench_files import require_no_other_data
from reward_benchmark.text_table import percent

CARD = "README.md"

_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
"""The root of the HTTP library's errors: which library that is depends on the hub client's version.
"""


def check_uploadable(repository: str, files: Iterable[str], results: Mapping[str, Any]) -> None:
    """Say before the work that a dataset repository has numbers of other data under these names.

    Args:
        repository: `owner/name`; there may be none yet.
        files: paths in the repository, the one of accuracies first.
        results: the content of the run's `results.json`.

    Raises:
        BenchmarkError: it has, or the name is none.
        ServiceError: the hub refuses.
    """
    with _explained(repository), suppress(RepositoryNotFoundError):
        _require_no_other_data(repository, files, results)


def push_files(
    repository: str,
    files: Mapping[str, Path],
    results: Mapping[str, Any],
    *,
    card: str,
    overwrite: bool = False,
) -> str:
    """Commit files to a dataset repository, which is made, private, if there is none.

    Args:
        repository: `owner/name`.
        files: path in the repository → the file here, the one of accuracies first.
        results: the content of the run's `results.json`.
        card: the README of a repository that has none; one that is there stays as it is.
        overwrite: whether a file with other content may be replaced; one of other data never is.

    Returns:
        The address of the commit, or of the latest one where nothing was left to upload.

    Raises:
        BenchmarkError: a file is there with other content or data, or the name is none.
        ServiceError: the hub refuses.
    """
    api = HfApi()
    with _explained(repository):
        api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        head = api.repo_info(repository, repo_type="dataset").sha
        # Somebody else's commit may have come since `check_uploadable`.
        _require_no_other_data(repository, files, results, revision=head)
        there = {
            entry.path: entry
            for entry in api.list_repo_tree(
                repository, recursive=True, revision=head, repo_type="dataset"
            )
            if isinstance(entry, RepoFile)
        }
        changed: dict[str, Path | bytes] = {
            path: file
            for path, file in files.items()
            if path not in there or not _is_same(there[path], file)
        }
        if (taken := sorted(changed.keys() & there.keys())) and not overwrite:
            raise BenchmarkError(
                f"{repository} has another {taken[0]} already: pass --overwrite to replace it"
            )
        if CARD not in there:
            changed[CARD] = card.encode()
        if not changed:
            return f"{api.endpoint}/datasets/{repository}/commit/{head}"
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(path, content) for path, content in changed.items()],
            commit_message=f"Add {', '.join(sorted(changed))}",
            repo_type="dataset",
            # Somebody else's commit in the meantime may have brought a README.
            parent_commit=head,
        )
    return str(commit.commit_url)


def update_model_card(
    repository: str, results: Mapping[str, Any], *, overwrite: bool = False
) -> str:
    """Put a run's numbers into the metadata of a model's card, whose text stays as it is.

    Args:
        repository: the model's `owner/name`; it must have a card.
        results: the content of the run's `results.json`.
        overwrite: whether a metric that is there with another value may change.

    Returns:
        The address of the commit.

    Raises:
        BenchmarkError: there is no card, or it has another value of a metric.
        ServiceError: the hub refuses.
    """
    with _explained(repository):
        if not HfApi().file_exists(repository, CARD):
            # Writing a card about somebody's model is not ours to do.
            raise BenchmarkError(f"the model {repository} has no {CARD} to put results into")
        index = eval_results_to_model_index(repository.split("/")[-1], eval_results(results))
        try:
            return metadata_update(
                repository,
                {"model-index": index},
                overwrite=overwrite,
                commit_message=f"Add results on {results['dataset']}",
            )
        except (ValueError, KeyError) as error:
            raise BenchmarkError(
                f"the card of {repository} cannot take the results: {error}"
                if "existing metric" not in str(error)
                else f"the card of {repository} has other values of these metrics already: pass "
                "--overwrite to replace them"
            ) from error


def eval_results(results: Mapping[str, Any]) -> list[EvalResult]:
    """The overall number, the sections and the subsets as the hub's metadata has them."""
    benchmark = BENCHMARKS.get(results["benchmark"])
    title = benchmark.title if benchmark else results["dataset"]
    source = benchmark.source if benchmark else None
    hub_id = source.hub_id if source else results["dataset"]
    numbers = {"overall": results["overall"]}
    numbers |= {name: section["score"] for name, section in results["sections"].items()}
    numbers |= {name: subset["accuracy"] for name, subset in results["subsets"].items()}
    return [
        EvalResult(
            task_type="preference_evaluation",
            dataset_type=hub_id,
            dataset_name=title if name == "overall" else f"{title}, {name}",
            # Results on one dataset and configuration would be taken for one.
            dataset_config=None if name == "overall" else name,
            metric_type="accuracy",
            metric_value=value,
        )
        for name, value in numbers.items()
    ]


def results_card(results: Mapping[str, Any], command: str) -> str:
    """The README of a new repository of results."""
    return "\n".join(
        [
            "---",
            "tags:",
            "- reward-model-evaluation",
            "---",
            "",
            "# Results of reward models",
            "",
            "Accuracies by subset are in `eval-set/` and `pref-sets/`, and the scores of every "
            "prompt in `eval-set-scores/` and `pref-sets-scores/`, in the format of RewardBench.",
            "",
            f"The first one here is {results['model']} on {results['dataset']}: "
            f"{percent(results['overall'])} %. Uploaded with:",
            "",
            "```",
            command,
            "```",
            "",
        ]
    )


def _require_no_other_data(
    repository: str,
    files: Iterable[str],
    results: Mapping[str, Any],
    *,
    revision: str | None = None,
) -> None:
    api = HfApi()
    known = api.get_paths_info(repository, list(files), revision=revision, repo_type="dataset")
    there = {entry.path for entry in known if isinstance(entry, RepoFile)}
    # Lazily, for scores may be gigabytes and are seldom asked.
    downloaded = (
        (
            f"{file} in {repository}",
            Path(api.hf_hub_download(repository, file, revision=revision, repo_type="dataset")),
        )
        for file in files
        if file in there
    )
    require_no_other_data(downloaded, results, option="--push-to-hub")


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    try:
        yield
    except HFValidationError as error:
        raise BenchmarkError(
            f"{repository!r} is no repository of the hub: owner/name is"
        ) from error
    except OfflineModeIsEnabled as error:
        raise BenchmarkError(
            "nothing can be uploaded while HF_HUB_OFFLINE is set: unset it"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        remedy = "; log in with `hf auth login` or set HF_TOKEN" if status in (401, 403) else ""
        reason = str(error).strip().splitlines()[0]
        raise ServiceError(f"the hub refused {repository}: {reason}{remedy}") from error
    except (_HTTP_ERROR, LocalEntryNotFoundError) as error:
        raise ServiceError(f"the hub cannot be reached: {error}") from error


def _is_same(there: RepoFile, path: Path) -> bool:
    with path.open("rb") as file:
        if there.lfs is not None:
            return bool(there.lfs.sha256 == hashlib.file_digest(file, "sha256").hexdigest())
        header = f"blob {path.stat().st_size}\0".encode()
        blob = hashlib.file_digest(file, lambda: hashlib.sha1(header))
        return bool(there.blob_id == blob.hexdigest())
