"""The heart: inputs go in, scores come out; joins encoder, scheduler and runner.

Runs on one event loop with three threads: one tokenises, one owns the device, and one prepares the
batch after the running one. It knows nothing about HTTP, and needs neither FastAPI nor pydantic.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from reward_service.encoding_thread import EncodingThread
from reward_service.errors import (
    DeadlineExceededError,
    DeviceFailedError,
    InferenceFailedError,
    NotReadyError,
    OverloadedError,
    ServiceError,
)
from reward_service.input_form import Truncation
from reward_service.inputs import (
    Boundary,
    EncoderInput,
    InputEncoder,
    Rendering,
    Unit,
    count_characters,
)
from reward_service.model_runner import BatchReadings, Reading, Runner
from reward_service.scheduler import Batch, Scheduler, Work
from reward_service.sequences import SequenceGroup

logger = logging.getLogger(__name__)

RATE_MEMORY = 0.8
"""Weight of the past in the measured drain rate: the last handful of batches decides."""

MAX_IN_FLIGHT = 2
"""Batches at the device: one runs, one is ready to follow it."""

LEAD_SECONDS = 0.003
"""How long before the running batch's expected end the next one is cut: handing it over to the
device takes about as long, and a device that waits for that is idle."""


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
    readings: list[Reading | ServiceError]


@dataclass(frozen=True, slots=True)
class Scored:
    """One request's answer and where its time went."""

    groups: list[ScoredGroup]
    computed_tokens: int
    reference_computed_tokens: int
    reference_cached_tokens: int
    encoding_seconds: float
    queue_seconds: float
    inference_seconds: float


@dataclass(slots=True, eq=False)
class _Job:
    """A request whose groups may be computed in several batches."""

    works: list[Work]
    readings: dict[int, list[Reading | ServiceError]]
    """Filled as batches finish, by position in `works`."""
    done: asyncio.Future[None]
    admitted: float
    waiting: int
    """Groups that no batch has taken yet."""
    first_batch_started: float = 0.0
    last_batch_ended: float = 0.0


@dataclass(frozen=True, slots=True)
class _Computed:
    """What the device thread made of a batch."""

    readings: BatchReadings
    started: float
    ended: float


class Engine:
    """Scores inputs with dynamic batching.

    Every call is answered: with scores, with its own error, or with a refusal. Start it inside a
    running event loop; `stop` finishes what was admitted.

    Args:
        max_concurrent_requests: calls being encoded, waiting or computed at once.
    """

    def __init__(
        self,
        encoder: InputEncoder,
        runner: Runner[Any],
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
        self._encoding = EncodingThread()
        # Not the encoding thread: the device must not wait for somebody's long conversation.
        self._preparing_thread = ThreadPoolExecutor(1, thread_name_prefix="preparing")
        self._device_thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._in_flight: deque[tuple[Batch, Future[_Computed | None]]] = deque()
        self._jobs: dict[Work, tuple[_Job, int]] = {}
        self._open_requests = 0
        self._waiting_requests = 0
        self._wake = asyncio.Event()
        self._tokens_per_second: float | None = None
        self._time_to_cut = math.inf
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
        self._wake.set()

    async def stop(self) -> None:
        """Compute what was admitted, then end the threads."""
        self.refuse_new_work()
        if self._loop_task is not None:
            await asyncio.wait([self._loop_task])
        self._encoding.stop()
        self._preparing_thread.shutdown(wait=False)
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
        boundary: Boundary = "any",
        unit: Unit = "completions",
        with_reference: bool = False,
        priority: int = 0,
        client: str = "",
    ) -> Scored:
        """Raw outputs for every completion of every input, in order.

        Args:
            boundary: what must be known of where completions start.
            unit: what gets a reading of its own.
            with_reference: also what the reference model says.
            client: who asks; clients take turns, so one cannot crowd out another.

        Raises:
            ServiceError: the request as a whole fails. What goes wrong with one completion alone
                is reported in its place instead.
        """
        started = self._clock()
        self._take_permit()
        try:
            async with asyncio.timeout(timeout_seconds):
                groups = await self._encoding.run(
                    lambda: self._encoder.encode(
                        inputs, truncation=truncation, boundary=boundary, unit=unit
                    ),
                    characters=sum(count_characters(one, unit) for one in inputs),
                )
                if with_reference:
                    groups = [replace(group, with_reference=True) for group in groups]
                encoded = self._clock()
                deadline = started + timeout_seconds
                job = self._admit(
                    [Work(group, deadline, priority=priority, client=client) for group in groups]
                )
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
        self,
        inputs: Sequence[EncoderInput],
        *,
        truncation: Truncation = "error",
        unit: Unit = "completions",
    ) -> list[list[Rendering]]:
        """What would be scored.

        Raises:
            ServiceError: as `score`.
        """
        self._take_permit()
        try:
            return await self._encoding.run(
                lambda: self._encoder.render(inputs, truncation=truncation, unit=unit),
                characters=sum(count_characters(one, unit) for one in inputs),
            )
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
            self._wake.set()

    def _admit(self, works: list[Work]) -> _Job:
        if self._loop_task is None or self._loop_task.done():
            raise NotReadyError("the service stopped", retry_after_seconds=1.0)
        self._scheduler.admit(works, tokens_per_second=self._tokens_per_second)
        done = asyncio.get_running_loop().create_future()
        job = _Job(works, {}, done, admitted=self._clock(), waiting=len(works))
        self._jobs.update({work: (job, index) for index, work in enumerate(works)})
        self._waiting_requests += 1
        self._queue_changed()
        if self._may_cut_batch():
            self._wake.set()
        return job

    def _withdraw(self, job: _Job) -> None:
        """Forget a job that is finished, failed or no longer wanted."""
        for work in job.works:
            del self._jobs[work]
        if job.waiting:
            self._scheduler.cancel(job.works)
            self._waiting_requests -= 1
            self._queue_changed()

    # ---------------------------------------------------------------------------- batches

    async def _run(self) -> None:
        try:
            while True:
                while self._in_flight and self._in_flight[0][1].done():
                    self._deliver(*self._in_flight.popleft())
                    if self._in_flight:
                        self._expect_end(self._in_flight[0][0], started=self._clock())
                if self._may_cut_batch() and self._cut_batch():
                    continue
                if self._is_stopping and not self._in_flight and not self._open_requests:
                    return
                self._wake.clear()
                await self._wake.wait()
        finally:
            # Whatever ended the loop, nobody is left waiting.
            for job, _ in [*self._jobs.values()]:
                _fail(job, NotReadyError("the service stopped", retry_after_seconds=1.0))

    def _may_cut_batch(self) -> bool:
        """Whether the next batch is cut now rather than later.

        An idle device takes what there is. While it is busy, a batch that is full already is cut
        and prepared ahead. A smaller one still grows by what arrives, so it is cut as late as can
        be without letting the device wait.
        """
        if not self._in_flight:
            return True
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            return False
        return self._scheduler.has_full_batch or self._clock() >= self._time_to_cut

    def _expect_end(self, batch: Batch, *, started: float) -> None:
        """Set the time to cut the batch after this one, from what the rate says about this one."""
        if self._tokens_per_second is None:
            self._time_to_cut = math.inf
            return
        self._time_to_cut = started + batch.tokens / self._tokens_per_second - LEAD_SECONDS
        if (wait := self._time_to_cut - self._clock()) > 0:
            asyncio.get_running_loop().call_later(wait, self._wake.set)

    def _cut_batch(self) -> bool:
        """Send the next batch to the device; returns whether there was one."""
        batch = self._scheduler.next_batch(self._clock())
        for work in batch.works:
            job, _ = self._jobs[work]
            job.waiting -= 1
            if not job.waiting:
                self._waiting_requests -= 1
        self._queue_changed()
        if not batch.works:
            return False
        prepare: Callable[[], Any] = partial(
            self._runner.prepare, [work.group for work in batch.works]
        )
        if self._in_flight:
            prepare = self._preparing_thread.submit(prepare).result
        # It stands behind the running batch and follows it without asking the event loop.
        computed = self._device_thread.submit(self._compute, batch, prepare)
        self._in_flight.append((batch, computed))
        if len(self._in_flight) == 1:
            self._expect_end(batch, started=self._clock())
        computed.add_done_callback(self._wake_from_thread)
        return True

    def _compute(self, batch: Batch, prepare: Callable[[], Any]) -> _Computed | None:
        """In the device thread: run one batch, unless all its callers have left."""
        if not any(work in self._jobs for work in batch.works):
            return None
        started = self._clock()
        readings = self._runner.run(prepare())
        return _Computed(readings, started, self._clock())

    def _wake_from_thread(self, _: Future[_Computed | None]) -> None:
        assert self._loop_task is not None
        with suppress(RuntimeError):  # the event loop has ended: nobody waits any more
            self._loop_task.get_loop().call_soon_threadsafe(self._wake.set)

    def _deliver(self, batch: Batch, future: Future[_Computed | None]) -> None:
        """Hand out a batch's readings; a failure reaches only this batch's callers."""
        wanted = [work for work in batch.works if work in self._jobs]
        try:
            computed = future.result()
        except DeviceFailedError:
            raise
        except Exception as error:
            logger.exception("a batch failed", extra={"groups": len(batch.works)})
            for work in wanted:
                failure = InferenceFailedError(
                    f"the model failed on the batch with this request: {error}"
                )
                failure.__cause__ = error
                _fail(self._jobs[work][0], failure)
            return
        if computed is None:
            return
        seconds = computed.ended - computed.started
        self._measure_rate(batch.tokens, seconds)
        self._observer.batch_ran(computed.readings, seconds=seconds)
        for work, readings in zip(batch.works, computed.readings.groups, strict=True):
            if work in self._jobs:
                job, index = self._jobs[work]
                job.first_batch_started = job.first_batch_started or computed.started
                job.last_batch_ended = computed.ended
                job.readings[index] = readings
                if len(job.readings) == len(job.works) and not job.done.done():
                    job.done.set_result(None)

    def _measure_rate(self, tokens: int, seconds: float) -> None:
        """Learn how fast the queue drains, in the scheduler's tokens."""
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
    groups = [
        ScoredGroup(
            work.group,
            [
                # A copy, because the runner may give one error to all that failed together.
                copy(reading).at(input_index=index, completion_index=position)
                if isinstance(reading, ServiceError)
                else reading
                for position, reading in enumerate(job.readings[index])
            ],
        )
        for index, work in enumerate(job.works)
    ]
    readings = [one for group in groups for one in group.readings if isinstance(one, Reading)]
    said = [one.reference for one in readings if one.reference]
    return Scored(
        groups,
        computed_tokens=sum(one.computed_tokens for one in readings),
        reference_computed_tokens=sum(one.computed_tokens for one in said),
        reference_cached_tokens=sum(one.cached_tokens for one in said),
        encoding_seconds=encoding_seconds,
        queue_seconds=job.first_batch_started - job.admitted,
        inference_seconds=job.last_batch_ended - job.first_batch_started,
    )
