"""One run from dataset to results: what happens in which order, and what ends it early."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from reward_benchmark.datasets import Contents, Dataset, Selection, open_dataset
from reward_benchmark.errors import InterruptedRunError, ServiceError
from reward_benchmark.metrics import Metrics, measure
from reward_benchmark.outcome import Outcome, outcome_of
from reward_benchmark.pair import Pair
from reward_benchmark.progress import ScoringProgress
from reward_benchmark.results import Provenance, results_document, rewardbench_document
from reward_benchmark.run_directory import (
    RESULTS_FILE,
    REWARDBENCH_FILE,
    RunDirectory,
    RunIdentity,
    open_run,
)
from reward_benchmark.runner import stream
from reward_benchmark.scorers import EndpointScorer, LengthScorer, Scorer
from reward_client import AsyncRewardClient, InfoResponse, RewardServiceError
from reward_client.schema import Truncation

ANSWER_GRACE_SECONDS = 30.0
"""How much longer than a request's own deadline the client waits for the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Which service scores, and how patient to be with it."""

    url: str
    api_key: str | None
    wait_seconds: float
    """For the service to become ready."""
    timeout_seconds: float
    """For the scores of one pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user asked for."""

    dataset: str
    selection: Selection
    out: Path
    scorer: Literal["endpoint", "length"]
    endpoint: Endpoint
    truncation: Truncation
    concurrency: int
    command: str
    """How the user asked for it, for the record."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a finished run has to say."""

    metrics: Metrics
    document: dict[str, Any]
    """The content of `results.json`."""


def evaluate(options: Options, *, console: Console) -> Evaluation:
    """Score what has no scores yet, and write the results of all.

    Args:
        console: shows meanwhile what is going on.

    Raises:
        BenchmarkError: there are no results; it says why in one sentence.
    """
    dataset = open_dataset(options.dataset)
    with console.status(f"Reading {dataset.name}"):
        contents = dataset.scan()
    total = options.selection.count(contents)
    return asyncio.run(_evaluate(options, dataset, contents, total, console))


async def _evaluate(
    options: Options, dataset: Dataset, contents: Contents, total: int, console: Console
) -> Evaluation:
    async with _open_scorer(options, console) as scorer:
        identity = RunIdentity(
            dataset=dataset.name,
            dataset_sha256=contents.sha256,
            subsets=sorted(options.selection.subsets) or None,
            limit=options.selection.limit,
            scorer=options.scorer,
            truncation=options.truncation,
            fingerprint=scorer.info.model.fingerprint if scorer.info else None,
        )
        with open_run(options.out, identity) as run:
            with ScoringProgress(console, total=total, done=run.scored) as progress:
                await _score_missing(run, scorer, options, dataset, progress)
            run.sort()
            metrics = measure(run.outcomes())
            provenance = Provenance(
                dataset=dataset,
                identity=identity,
                info=scorer.info,
                command=options.command,
                finished_at=datetime.now(UTC),
            )
            document = results_document(metrics, provenance)
            run.write(REWARDBENCH_FILE, rewardbench_document(metrics, provenance))
            run.write(RESULTS_FILE, document)
    return Evaluation(metrics, document)


async def _score_missing(
    run: RunDirectory,
    scorer: Scorer,
    options: Options,
    dataset: Dataset,
    progress: ScoringProgress,
) -> None:
    async def judge(pair: Pair) -> Outcome:
        return outcome_of(pair, await scorer.score(pair.prompt, pair.completions))

    missing = run.missing(options.selection.pairs(dataset))
    try:
        async with aclosing(stream(missing, judge, concurrency=options.concurrency)) as outcomes:
            async for outcome in outcomes:
                run.append(outcome)
                progress.advance(failed=outcome.error is not None)
    except RewardServiceError as error:
        raise ServiceError(f"{error} ({_what_is_kept(run, progress.total)})") from error
    except asyncio.CancelledError:  # Ctrl-C: asyncio.run cancels the task that it runs
        raise InterruptedRunError(f"interrupted ({_what_is_kept(run, progress.total)})") from None


def _what_is_kept(run: RunDirectory, total: int) -> str:
    return (
        f"{run.scored} of {total} pairs are kept in {run.path}, "
        "and the same command goes on from there"
    )


@asynccontextmanager
async def _open_scorer(options: Options, console: Console) -> AsyncIterator[Scorer]:
    if options.scorer == "length":
        yield LengthScorer()
        return
    endpoint = options.endpoint
    async with AsyncRewardClient(
        endpoint.url,
        api_key=endpoint.api_key,
        timeout=endpoint.timeout_seconds + ANSWER_GRACE_SECONDS,
    ) as client:
        with console.status(f"Waiting for {endpoint.url}"):
            info = await _ready_info(client, endpoint)
        yield EndpointScorer(
            client,
            info=info,
            truncation=options.truncation,
            timeout_seconds=endpoint.timeout_seconds,
        )


async def _ready_info(client: AsyncRewardClient, endpoint: Endpoint) -> InfoResponse:
    try:
        await client.wait_until_ready(endpoint.wait_seconds)
        return await client.info()
    except RewardServiceError as error:
        raise ServiceError(f"no reward service can be used at {endpoint.url}: {error}") from error
