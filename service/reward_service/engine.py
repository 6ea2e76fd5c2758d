"""The heart: inputs go in, scores come out; joins encoder, scheduler and runner.

Runs on one event loop with two threads, one that tokenises and one that owns the device. It knows
nothing about HTTP, and needs neither FastAPI nor pydantic.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from reward_service.encoding import Encoder, EncoderInput, Rendering, Truncation
from reward_service.errors import (
    DeadlineExceededError,
    InferenceFailedError,
    NonFiniteScoreError,
    NotReadyError,
    OverloadedError,
    ServiceError,
)
from reward_service.model_runner import BatchReadings, Reading
from reward_service.scheduler import Scheduler, Work
from reward_service.sequences import SequenceGroup

logger = logging.getLogger(__name__)

RATE_MEMORY = 0.8
"""Weight of the past in the measured drain rate: the last handful of batches decides."""

T = TypeVar("T")


class Runner(Protocol):
    """What the engine needs of a `ModelRunner`."""

    def run(self, groups: Sequence[SequenceGroup]) -> BatchReadings:
        """Raw outputs for every sequence of every group."""
        ...


class Observer(Protocol):
    """Who is told what happens inside; `metrics.Metrics` is one."""

    def queue_changed(self, *, requests: int, tokens: int) -> None:
        """The queue grew or shrank to this size."""
        ...

    def batch_ran(self, batch: BatchReadings, *, seconds: float) -> None:
        """A batch was computed."""
        ...


class Blind:
    """An observer that looks away, for running the engine by itself."""

    def queue_changed(self, *, requests: int, tokens: int) -> None:
        """See `Observer`."""

    def batch_ran(self, batch: BatchReadings, *, seconds: float) -> None:
        """See `Observer`."""


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """The readings of one input, aligned with its completions."""

    group: SequenceGroup
    readings: list[Reading | NonFiniteScoreError]


@dataclass(frozen=True, slots=True)
class Scored:
    """One request's answer and where its time went."""

    groups: list[ScoredGroup]
    computed_tokens: int
    encoding_seconds: float
    queue_seconds: float
    inference_seconds: float


@dataclass(slots=True, eq=False)
class _Job:
    """A request whose groups may be computed in several batches."""

    works: list[Work]
    readings: dict[int, list[Reading]]
    """Filled as batches finish, by position in `works`."""
    done: asyncio.Future[None]
    admitted: float
    waiting: int
    """Groups that no batch has taken yet."""
    first_batch_started: float = 0.0
    last_batch_ended: float = 0.0


class Engine:
    """Scores inputs with dynamic batching.

    Every call is answered: with scores, with its own error, or with a refusal. Start it inside a
    running event loop; `stop` finishes what was admitted.

    Args:
        max_concurrent_requests: calls being encoded, waiting or computed at once.
    """

    def __init__(
        self,
        encoder: Encoder,
        runner: Runner,
        scheduler: Scheduler,
        *,
        max_concurrent_requests: int,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._encoder = encoder
        self._runner = runner
        self._scheduler = scheduler
        self._max_concurrent_requests = max_concurrent_requests
        self._observer = observer or Blind()
        self._clock = clock
        self._encoding_thread = ThreadPoolExecutor(1, thread_name_prefix="encoding")
        self._device_thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._jobs: dict[Work, tuple[_Job, int]] = {}
        self._open_requests = 0
        self._waiting_requests = 0
        self._work_arrived = asyncio.Event()
        self._tokens_per_second: float | None = None
        self._is_stopping = False
        self._loop_task: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------------- life cycle

    def start(self) -> asyncio.Task[None]:
        """Start computing; the task ends only with `stop`, or because the engine broke."""
        assert self._loop_task is None
        self._loop_task = asyncio.create_task(self._run(), name="engine")
        return self._loop_task

    def refuse_new_work(self) -> None:
        """From now on only what was admitted is computed."""
        self._is_stopping = True
        self._work_arrived.set()

    async def stop(self) -> None:
        """Compute what was admitted, then end both threads."""
        self.refuse_new_work()
        if self._loop_task is not None:
            await asyncio.wait([self._loop_task])
        self._encoding_thread.shutdown(wait=False)
        self._device_thread.shutdown(wait=False)

    @property
    def is_alive(self) -> bool:
        """Whether new work would be computed."""
        running = self._loop_task is not None and not self._loop_task.done()
        return running and not self._is_stopping

    # ------------------------------------------------------------------------------ calls

    async def score(
        self,
        inputs: Sequence[EncoderInput],
        *,
        timeout_seconds: float,
        truncation: Truncation = "error",
        priority: int = 0,
    ) -> Scored:
        """Raw outputs for every completion of every input, in order.

        Raises:
            ServiceError: the request as a whole fails. A completion without a finite output is
                reported in its place instead.
        """
        started = self._clock()
        self._take_permit()
        try:
            async with asyncio.timeout(timeout_seconds):
                groups = await self._encode(
                    lambda: self._encoder.encode(inputs, truncation=truncation)
                )
                encoded = self._clock()
                job = self._admit(groups, deadline=started + timeout_seconds, priority=priority)
                try:
                    await job.done
                finally:
                    self._withdraw(job)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"not computed within {timeout_seconds:g} seconds: raise timeout_seconds, "
                "or send less at once",
                limit=timeout_seconds,
            ) from error
        finally:
            self._give_permit_back()
        return _scored(job, encoding_seconds=encoded - started)

    async def render(
        self, inputs: Sequence[EncoderInput], *, truncation: Truncation = "error"
    ) -> list[list[Rendering]]:
        """What would be scored.

        Raises:
            ServiceError: as `score`.
        """
        self._take_permit()
        try:
            return await self._encode(lambda: self._encoder.render(inputs, truncation=truncation))
        finally:
            self._give_permit_back()

    def _take_permit(self) -> None:
        if not self.is_alive:
            raise NotReadyError("the service is stopping", retry_after_seconds=1.0)
        if self._open_requests >= self._max_concurrent_requests:
            raise OverloadedError(
                f"{self._open_requests} requests are open, the limit is "
                f"{self._max_concurrent_requests}: send this request again later",
                limit=self._max_concurrent_requests,
                retry_after_seconds=self._scheduler.seconds_until_room(self._tokens_per_second),
            )
        self._open_requests += 1

    def _give_permit_back(self) -> None:
        self._open_requests -= 1
        if self._is_stopping:
            # The engine waits for the last request, which may still have been encoding.
            self._work_arrived.set()

    async def _encode(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._encoding_thread, work)

    def _admit(self, groups: list[SequenceGroup], *, deadline: float, priority: int) -> _Job:
        works = [Work(group, deadline=deadline, priority=priority) for group in groups]
        if self._loop_task is None or self._loop_task.done():
            raise NotReadyError("the service stopped", retry_after_seconds=1.0)
        self._scheduler.admit(works, tokens_per_second=self._tokens_per_second)
        done = asyncio.get_running_loop().create_future()
        job = _Job(works, {}, done, admitted=self._clock(), waiting=len(works))
        self._jobs.update({work: (job, index) for index, work in enumerate(works)})
        self._waiting_requests += 1
        self._queue_changed()
        self._work_arrived.set()
        return job

    def _withdraw(self, job: _Job) -> None:
        """Forget a job that is finished, failed or no longer wanted."""
        self._scheduler.cancel(job.works)
        if job.waiting:
            self._waiting_requests -= 1
        for work in job.works:
            self._jobs.pop(work, None)
        self._queue_changed()

    # ---------------------------------------------------------------------------- batches

    async def _run(self) -> None:
        try:
            while True:
                batch = self._scheduler.next_batch(self._clock())
                self._note_taken(batch)
                if batch:
                    await self._compute(batch)
                elif self._is_stopping and not self._open_requests:
                    return
                else:
                    self._work_arrived.clear()
                    await self._work_arrived.wait()
        finally:
            # Whatever ended the loop, nobody is left waiting.
            for job, _ in [*self._jobs.values()]:
                _fail(job, NotReadyError("the service stopped", retry_after_seconds=1.0))

    def _note_taken(self, batch: list[Work]) -> None:
        for work in batch:
            job, _ = self._jobs[work]
            job.waiting -= 1
            if not job.waiting:
                self._waiting_requests -= 1
        self._queue_changed()

    async def _compute(self, batch: list[Work]) -> None:
        """Run one batch and deliver its readings; a failure reaches only this batch's callers."""
        started = self._clock()
        groups = [work.group for work in batch]
        loop = asyncio.get_running_loop()
        try:
            readings = await loop.run_in_executor(self._device_thread, self._runner.run, groups)
        except Exception as error:
            logger.exception("a batch failed", extra={"groups": len(groups)})
            for work in batch:
                if work in self._jobs:
                    failure = InferenceFailedError(
                        f"the model failed on the batch with this request: {error}"
                    )
                    failure.__cause__ = error
                    _fail(self._jobs[work][0], failure)
            return
        ended = self._clock()
        self._measure_rate(readings.input_tokens, ended - started)
        self._observer.batch_ran(readings, seconds=ended - started)
        for work, group_readings in zip(batch, readings.groups, strict=True):
            if work in self._jobs:
                job, index = self._jobs[work]
                job.first_batch_started = job.first_batch_started or started
                job.last_batch_ended = ended
                job.readings[index] = group_readings
                if len(job.readings) == len(job.works) and not job.done.done():
                    job.done.set_result(None)

    def _measure_rate(self, tokens: int, seconds: float) -> None:
        rate = tokens / max(seconds, 1e-6)
        if self._tokens_per_second is None:
            self._tokens_per_second = rate
        else:
            past = RATE_MEMORY * self._tokens_per_second
            self._tokens_per_second = past + (1 - RATE_MEMORY) * rate

    def _queue_changed(self) -> None:
        self._observer.queue_changed(
            requests=self._waiting_requests, tokens=self._scheduler.queued_tokens
        )


def _fail(job: _Job, error: ServiceError) -> None:
    if not job.done.done():
        job.done.set_exception(error)


def _scored(job: _Job, *, encoding_seconds: float) -> Scored:
    groups = []
    for index, work in enumerate(job.works):
        checked: list[Reading | NonFiniteScoreError] = []
        for position, reading in enumerate(job.readings[index]):
            checked.append(
                reading
                if reading.is_finite
                else NonFiniteScoreError(
                    "the model's output for this completion is not a finite number",
                    input_index=index,
                    completion_index=position,
                )
            )
        groups.append(ScoredGroup(work.group, checked))
    return Scored(
        groups,
        computed_tokens=sum(r.computed_tokens for rs in job.readings.values() for r in rs),
        encoding_seconds=encoding_seconds,
        queue_seconds=job.first_batch_started - job.admitted,
        inference_seconds=job.last_batch_ended - job.first_batch_started,
    )
