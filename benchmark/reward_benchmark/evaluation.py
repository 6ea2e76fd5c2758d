"""One run from dataset to results: what happens in which order, and what ends it early."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from reward_benchmark.datasets import Contents, Dataset, Selection
from reward_benchmark.distributions import Samples, distributions, not_log_odds
from reward_benchmark.errors import ServiceError
from reward_benchmark.group import Group
from reward_benchmark.journal import Journal
from reward_benchmark.metrics import Metrics, measure
from reward_benchmark.outcome import Outcome, outcome_from_line, outcome_of
from reward_benchmark.progress import WorkProgress
from reward_benchmark.results import Provenance, results_document
from reward_benchmark.resumable_work import do_missing
from reward_benchmark.rewardbench_files import accuracies_document
from reward_benchmark.run_directory import (
    RESULTS_FILE,
    REWARDBENCH_FILE,
    SCORES_FILE,
    RunDirectory,
    open_run,
)
from reward_benchmark.scorers import EndpointScorer, LengthScorer, Scorer
from reward_client import AsyncRewardClient, InfoResponse, RewardServiceError
from reward_client.address import shown_address
from reward_client.schema import Truncation

ANSWER_GRACE_SECONDS = 30.0
"""How much longer than a request's own deadline the client waits for the answer."""

T = TypeVar("T")

OpenScorer = Callable[[Console], AbstractAsyncContextManager[Scorer]]
"""Makes a scorer ready for use, and shows meanwhile what it waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Which service scores, and how patient to be with it."""

    url: str
    api_key: str | None
    wait_seconds: float
    """For the service to become ready."""
    timeout_seconds: float
    """For the scores of one group."""
    truncation: Truncation

    @asynccontextmanager
    async def open(self, console: Console) -> AsyncIterator[Scorer]:
        """The scorer that asks this service, once it is ready."""
        async with AsyncRewardClient(
            self.url, api_key=self.api_key, timeout=self.timeout_seconds + ANSWER_GRACE_SECONDS
        ) as client:
            with console.status(f"Waiting for {shown_address(self.url)}"):
                info = await self._ready_info(client)
            yield EndpointScorer(
                client,
                info=info,
                truncation=self.truncation,
                timeout_seconds=self.timeout_seconds,
            )

    async def _ready_info(self, client: AsyncRewardClient) -> InfoResponse:
        try:
            await client.wait_until_ready(self.wait_seconds)
            return await client.info()
        except RewardServiceError as error:
            place = shown_address(self.url)
            raise ServiceError(f"no reward service can be used at {place}: {error}") from error


@asynccontextmanager
async def open_length_scorer(_: Console) -> AsyncIterator[Scorer]:
    """The baseline, which is always ready."""
    yield LengthScorer()


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be scored, and where the scores go."""

    dataset: Dataset
    selection: Selection
    out: Path
    concurrency: int
    name: str
    """Which command this is, as `run`; another's directory is not continued."""
    command: str
    """How the user asked for it, for the record."""


Finish = Callable[[RunDirectory[Outcome], Scorer, Provenance], T]
"""Makes results of a complete run: its lines are in the dataset's order, one a group."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a finished run has to say."""

    metrics: Metrics
    document: dict[str, Any]
    """The content of `results.json`."""


def evaluate(work: Work, open_scorer: OpenScorer, *, console: Console) -> Evaluation:
    """Score what has no scores yet, and write the numbers that the dataset's set is known for.

    Args:
        console: shows meanwhile what is going on.

    Raises:
        BenchmarkError: there are no results; it says why in one sentence.
    """

    def finish(run: RunDirectory[Outcome], scorer: Scorer, provenance: Provenance) -> Evaluation:
        benchmark = work.dataset.benchmark
        metrics = measure(run.journal.records(), benchmark)
        document = results_document(metrics, provenance)
        document |= distributions(Samples(benchmark.worth, run.journal.records())).document()
        document |= scorer.summary(run.journal.records())
        if (reason := not_log_odds(document)) is not None:
            document["margins"] |= {"calibration": None, "no_calibration": reason}
        run.write(REWARDBENCH_FILE, accuracies_document(document))
        run.write(RESULTS_FILE, document)
        return Evaluation(metrics, document)

    return score_dataset(work, open_scorer, finish, console=console)


def score_dataset(work: Work, open_scorer: OpenScorer, finish: Finish[T], *, console: Console) -> T:
    """Score what has no scores yet, and make results of it while the directory is still ours.

    Raises:
        BenchmarkError: there are no results; it says why in one sentence.
    """
    with console.status(f"Reading {work.dataset.name}"):
        contents = work.dataset.scan()
    total = work.selection.count(contents)
    return asyncio.run(_score_dataset(work, contents, total, open_scorer, finish, console))


async def _score_dataset(
    work: Work,
    contents: Contents,
    total: int,
    open_scorer: OpenScorer,
    finish: Finish[T],
    console: Console,
) -> T:
    noun = work.dataset.benchmark.noun
    async with open_scorer(console) as scorer:
        identity = {
            "command": work.name,
            "dataset": work.dataset.name,
            "dataset_sha256": contents.sha256,
            "subsets": sorted(work.selection.subsets) or None,
            "limit": work.selection.limit,
            **scorer.identity,
        }

        async def judge(group: Group) -> Outcome:
            return outcome_of(group, await scorer.score(group))

        journal = Journal(work.out / SCORES_FILE, outcome_from_line, noun=noun)
        with open_run(work.out, identity, journal) as run:
            with WorkProgress(console, total=total, done=journal.done, noun=noun) as progress:
                await do_missing(
                    work.selection.groups(work.dataset),
                    judge,
                    journal,
                    progress,
                    concurrency=work.concurrency,
                    total=total,
                    noun=noun,
                )
            journal.sort()
            provenance = Provenance(
                dataset=work.dataset,
                identity=identity,
                model=scorer.model,
                model_type=scorer.model_type,
                info=scorer.info,
                command=work.command,
                finished_at=datetime.now(UTC),
            )
            return finish(run, scorer, provenance)
