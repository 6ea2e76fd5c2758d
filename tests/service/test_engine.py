"""The engine with a runner that can be held, broken and watched; the encoder is the real one."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest

from reward_service.encoding import Encoder
from reward_service.engine import LEAD_SECONDS, MAX_IN_FLIGHT, Engine, Scored
from reward_service.errors import (
    DeadlineExceededError,
    DeviceFailedError,
    InferenceFailedError,
    InputTooLongError,
    NonFiniteScoreError,
    NotReadyError,
    OverloadedError,
    ServiceError,
)
from reward_service.inputs import Conversation
from reward_service.loading import LoadedModel
from reward_service.model_runner import BatchReadings, Reading
from reward_service.scheduler import Scheduler
from reward_service.sequences import SequenceGroup, TokenSequence

BAD, POISON, ILLEGAL = "☣", "☠", "⚡"
"""Completions: one has no finite score, one breaks its batch, one breaks the device."""


class HeldRunner:
    """Scores a sequence with its length; each run waits for a permit while it is `held`."""

    def __init__(self, encoder: Encoder) -> None:
        self.permits = threading.Semaphore(0)
        self.is_held = False
        self.prepared: list[Sequence[SequenceGroup]] = []
        self.batches: list[Sequence[SequenceGroup]] = []
        self.threads: set[int] = set()
        self._failures: dict[bytes, Exception] = {
            encoder.encode([_ask(text)], truncation="error")[0].sequences[0].key: failure
            for text, failure in {
                BAD: NonFiniteScoreError("not a number"),
                POISON: ValueError("poisoned"),
                ILLEGAL: DeviceFailedError("illegal memory access"),
            }.items()
        }

    def release(self) -> None:
        """Hold no run any more."""
        self.is_held = False
        self.permits.release()

    def prepare(self, groups: Sequence[SequenceGroup]) -> Sequence[SequenceGroup]:
        self.prepared.append(groups)
        return groups

    def run(self, groups: Sequence[SequenceGroup]) -> BatchReadings:
        self.threads.add(threading.get_ident())
        self.batches.append(groups)
        if self.is_held:
            assert self.permits.acquire(timeout=60)
        readings = [[self._reading(sequence) for sequence in one.sequences] for one in groups]
        return BatchReadings(readings, input_tokens=0, computed_tokens=0, padded_tokens=0)

    def _reading(self, sequence: TokenSequence) -> Reading | ServiceError:
        failure = self._failures.get(sequence.key)
        if failure is None:
            return Reading((float(len(sequence)),), len(sequence))
        if isinstance(failure, ServiceError):
            return failure
        raise failure


def _ask(*completions: str) -> Conversation:
    return Conversation([{"role": "user", "content": "Hi"}], completions)


def _scores(scored: Scored) -> list[list[float | None]]:
    return [
        [one.outputs[0] if isinstance(one, Reading) else None for one in group.readings]
        for group in scored.groups
    ]


Test = Callable[[Engine, HeldRunner], Awaitable[None]]


def _with_engine(loaded: LoadedModel, test: Test, **limits: int) -> HeldRunner:
    runner = HeldRunner(loaded.encoder)

    async def main() -> None:
        engine = Engine(
            loaded.encoder,
            runner,
            Scheduler(
                max_batch_tokens=limits.get("batch", 4096),
                max_queue_tokens=limits.get("queue", 100_000),
            ),
            max_concurrent_requests=limits.get("requests", 100),
        )
        engine.start()
        try:
            await asyncio.wait_for(test(engine, runner), 20)
        finally:
            runner.release()
            await engine.stop()

    asyncio.run(main())
    return runner


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the engine announces nothing to tests
            await asyncio.sleep(0.002)


def test_what_waits_while_the_device_is_busy_is_the_next_batch(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.is_held = True
        first = asyncio.create_task(engine.score([_ask("a")], timeout_seconds=60))
        await _until(lambda: len(runner.batches) == 1)
        others = [
            asyncio.create_task(engine.score([_ask("b" * n, "c")], timeout_seconds=60))
            for n in range(1, 9)
        ]
        await _until(lambda: engine._scheduler.queued_groups == 8)
        runner.release()
        answers = await asyncio.gather(first, *others)
        empty = _scores(answers[0])[0][0] - 1
        assert [_scores(a) for a in answers[1:]] == [[[empty + n, empty + 1]] for n in range(1, 9)]

    runner = _with_engine(loaded_debug, test)
    assert [len(batch) for batch in runner.batches] == [1, 8]
    assert len(runner.threads) == 1


def test_a_failing_batch_fails_only_its_own_callers(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.is_held = True
        before = asyncio.create_task(engine.score([_ask("a")], timeout_seconds=60))
        await _until(lambda: len(runner.batches) == 1)
        poisoned = asyncio.create_task(engine.score([_ask(POISON)], timeout_seconds=60))
        await _until(lambda: engine._scheduler.queued_groups == 1)
        runner.release()
        with pytest.raises(InferenceFailedError, match="poisoned"):
            await poisoned
        assert _scores(await before)
        assert _scores(await engine.score([_ask("after")], timeout_seconds=60))

    _with_engine(loaded_debug, test)


def test_what_fails_alone_is_reported_in_its_place(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        inputs = [_ask("a", BAD, "b"), _ask("c"), _ask(BAD)]
        scored, other = await asyncio.gather(
            engine.score(inputs, timeout_seconds=60), engine.score([_ask("d")], timeout_seconds=60)
        )
        empty = _scores(other)[0][0]
        assert _scores(scored) == [[empty, None, empty], [empty], [None]]
        errors = [
            one for group in scored.groups for one in group.readings if not isinstance(one, Reading)
        ]
        assert [(type(one), one.message) for one in errors] == [
            (NonFiniteScoreError, "not a number")
        ] * 2
        assert [(one.input_index, one.completion_index) for one in errors] == [(0, 1), (2, 0)]
        assert scored.computed_tokens == 3 * empty

    _with_engine(loaded_debug, test)


def test_a_broken_device_ends_the_engine_and_everybody_is_told(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.is_held = True
        running = asyncio.create_task(engine.score([_ask(ILLEGAL)], timeout_seconds=60))
        await _until(lambda: len(runner.batches) == 1)
        waiting = [
            asyncio.create_task(engine.score([_ask(str(n) * 200)], timeout_seconds=60))
            for n in range(5)
        ]
        await _until(lambda: len(runner.prepared) == 2 and engine._scheduler.queued_groups == 4)
        runner.release()
        for caller in (running, *waiting):
            with pytest.raises(NotReadyError, match="stopped"):
                await caller
        assert not engine.is_alive
        with pytest.raises(NotReadyError):
            await engine.score([_ask("late")], timeout_seconds=60)
        assert engine._loop_task is not None
        with pytest.raises(DeviceFailedError):
            await engine._loop_task

    _with_engine(loaded_debug, test, batch=100)


def test_a_full_queue_keeps_the_device_busy(loaded_debug: LoadedModel) -> None:
    """While one batch runs the next is made ready, and no more than one."""

    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.is_held = True
        callers = [
            asyncio.create_task(engine.score([_ask(str(n) * 200)], timeout_seconds=60))
            for n in range(6)
        ]
        for number in range(1, 6):
            # The device is given back only when the next batch is ready: it never has to wait.
            await _until(lambda n=number: (len(runner.batches), len(runner.prepared)) == (n, n + 1))
            await _until(lambda n=number: engine._scheduler.queued_groups == 5 - n)
            runner.permits.release()
        runner.permits.release()
        await asyncio.gather(*callers)

    runner = _with_engine(loaded_debug, test, batch=100)
    assert [len(batch) for batch in runner.batches] == [1] * 6
    assert len(runner.threads) == 1


def test_a_prepared_batch_that_nobody_waits_for_is_not_computed(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.is_held = True
        first = asyncio.create_task(engine.score([_ask("a")], timeout_seconds=60))
        await _until(lambda: len(runner.batches) == 1)
        leaving = asyncio.create_task(engine.score([_ask("b" * 200)], timeout_seconds=60))
        await _until(lambda: len(runner.prepared) == 2)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        runner.release()
        await first
        assert _scores(await engine.score([_ask("c")], timeout_seconds=60))

    runner = _with_engine(loaded_debug, test, batch=100)
    assert len(runner.batches) == 2


def test_clients_take_turns(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.is_held = True
        flood = [
            asyncio.create_task(
                engine.score([_ask(f"{n:02}" * 50)], timeout_seconds=60, client="flood")
            )
            for n in range(30)
        ]
        await _until(lambda: engine._scheduler.queued_groups == 28)
        single = asyncio.create_task(
            engine.score([_ask("single" * 10)], timeout_seconds=60, client="single")
        )
        await _until(lambda: engine._scheduler.queued_groups == 29)
        runner.release()
        await asyncio.gather(single, *flood)

    runner = _with_engine(loaded_debug, test, batch=150)
    lengths = [len(group.sequences[0]) for batch in runner.batches for group in batch]
    assert lengths.index(min(lengths)) < 10


def test_cancelled_and_expired_work_is_never_computed(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.is_held = True
        first = asyncio.create_task(engine.score([_ask("a")], timeout_seconds=60))
        await _until(lambda: len(runner.batches) == 1)
        cancelled = asyncio.create_task(engine.score([_ask("b")], timeout_seconds=60))
        expired = asyncio.create_task(engine.score([_ask("c")], timeout_seconds=0.2))
        await _until(lambda: engine._scheduler.queued_groups == 2)
        cancelled.cancel()
        with pytest.raises(DeadlineExceededError):
            await expired
        await asyncio.gather(cancelled, return_exceptions=True)
        assert engine._scheduler.queued_tokens == 0
        runner.release()
        await first
        assert _scores(await engine.score([_ask("d")], timeout_seconds=60))

    runner = _with_engine(loaded_debug, test)
    assert len(runner.batches) == 2


def test_overload_answers_at_once(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.is_held = True
        running = asyncio.create_task(engine.score([_ask("a")], timeout_seconds=60))
        await _until(lambda: len(runner.batches) == 1)
        waiting = asyncio.create_task(engine.score([_ask("b" * 200)], timeout_seconds=60))
        await _until(lambda: engine._scheduler.queued_groups == 1)
        with pytest.raises(OverloadedError, match="tokens are waiting") as caught:
            await engine.score([_ask("c")], timeout_seconds=60)
        assert caught.value.retry_after_seconds >= 1
        runner.release()
        await asyncio.gather(running, waiting)

    _with_engine(loaded_debug, test, queue=100)


def test_too_many_open_requests_are_refused(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.is_held = True
        open_requests = [
            asyncio.create_task(engine.score([_ask("a")], timeout_seconds=60)) for _ in range(3)
        ]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="requests are open"):
            await engine.score([_ask("b")], timeout_seconds=60)
        runner.release()
        await asyncio.gather(*open_requests)
        assert await engine.score([_ask("b")], timeout_seconds=60)

    _with_engine(loaded_debug, test, requests=3)


def test_stopping_computes_what_was_admitted_and_refuses_the_rest(
    loaded_debug: LoadedModel,
) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.is_held = True
        admitted = [
            asyncio.create_task(engine.score([_ask(str(n))], timeout_seconds=60)) for n in range(9)
        ]
        await _until(lambda: sum(map(len, runner.batches)) + engine._scheduler.queued_groups == 9)
        stopping = asyncio.create_task(engine.stop())
        await asyncio.sleep(0)
        with pytest.raises(NotReadyError):
            await engine.score([_ask("late")], timeout_seconds=60)
        runner.release()
        assert len(await asyncio.gather(*admitted)) == 9
        await stopping

    _with_engine(loaded_debug, test)


def test_stopping_waits_for_the_device(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.is_held = True
        leaving = asyncio.create_task(engine.score([_ask("a")], timeout_seconds=60))
        await _until(lambda: len(runner.batches) == 1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        engine.refuse_new_work()
        for _ in range(100):
            await asyncio.sleep(0)
        assert engine._loop_task is not None
        assert not engine._loop_task.done()
        runner.release()
        await engine._loop_task

    _with_engine(loaded_debug, test)


def test_a_request_over_several_batches_is_answered_whole_and_in_order(
    loaded_debug: LoadedModel,
) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        inputs = [_ask(chr(ord("A") + n) * n) for n in range(40)]
        scored = await engine.score(inputs, timeout_seconds=60)
        lengths = [scores[0] for scores in _scores(scored)]
        assert lengths == [lengths[0] + n for n in range(40)]

    runner = _with_engine(loaded_debug, test, batch=100)
    assert len(runner.batches) > 10


def test_an_input_that_cannot_be_encoded_is_named_and_nothing_is_computed(
    loaded_debug: LoadedModel,
) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        with pytest.raises(InputTooLongError) as caught:
            await engine.score([_ask("a"), _ask("b", "c" * 20_000)], timeout_seconds=60)
        assert (caught.value.input_index, caught.value.completion_index) == (1, 1)

    assert _with_engine(loaded_debug, test).batches == []


# ----------------------------------------------------------------- when the next batch is cut

RATE = 10.0
"""Tokens per second of an imagined device: a batch takes longer than its test."""


class SetClock:
    """A clock that goes where it is told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def _runs(engine: Engine, runner: HeldRunner, completion: str) -> "asyncio.Task[Scored]":
    """A caller whose batch is held at the device."""
    number = len(runner.batches) + 1
    caller = asyncio.create_task(engine.score([_ask(completion)], timeout_seconds=1_000))
    await _until(lambda: len(runner.batches) == number)
    return caller


async def _waits(engine: Engine, completion: str) -> "asyncio.Task[Scored]":
    """A caller who is in the queue."""
    number = engine._scheduler.queued_groups + 1
    caller = asyncio.create_task(engine.score([_ask(completion)], timeout_seconds=1_000))
    await _until(lambda: engine._scheduler.queued_groups == number)
    return caller


async def _think(engine: Engine) -> None:
    """Let the engine look at the clock."""
    engine._wake.set()
    for _ in range(20):
        await asyncio.sleep(0)


def test_the_next_batch_is_cut_just_before_the_running_one_is_expected_to_end(
    loaded_debug: LoadedModel,
) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        clock = engine._clock = SetClock()
        engine._tokens_per_second = RATE
        runner.is_held = True
        callers = [await _runs(engine, runner, "a" * 100)]
        expected_end = clock.now + engine._in_flight[0][0].tokens / RATE
        callers.append(await _waits(engine, "b"))
        clock.now = expected_end - LEAD_SECONDS - 0.001
        await _think(engine)
        assert len(engine._in_flight) == 1
        # It grew by who came late, and is ready while the device is still busy.
        callers.append(await _waits(engine, "c"))
        clock.now = expected_end - LEAD_SECONDS
        await _think(engine)
        await _until(lambda: [len(batch) for batch in runner.prepared] == [1, 2])
        assert len(runner.batches) == 1
        # However late the running one is, a third batch has to wait.
        callers.append(await _waits(engine, "d" * 200))
        clock.now += 1_000 / RATE
        await _think(engine)
        assert len(engine._in_flight) == len(runner.prepared) == MAX_IN_FLIGHT
        runner.release()
        runner.permits.release()
        await asyncio.gather(*callers)

    assert [len(batch) for batch in _with_engine(loaded_debug, test).batches] == [1, 2, 1]


def test_the_engine_wakes_by_itself_to_cut_the_next_batch(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        warm = await engine.score([_ask("a")], timeout_seconds=60)
        [tokens] = [len(group.group.sequences[0]) for group in warm.groups]
        engine._tokens_per_second = tokens / 0.2
        runner.is_held = True
        started = time.monotonic()
        first = await _runs(engine, runner, "b")
        second = asyncio.create_task(engine.score([_ask("c")], timeout_seconds=60))
        await _until(lambda: len(runner.prepared) == 3)
        assert time.monotonic() - started >= 0.2 - LEAD_SECONDS
        assert not first.done()
        runner.release()
        runner.permits.release()
        await asyncio.gather(first, second)

    _with_engine(loaded_debug, test)


def test_a_batch_that_is_over_already_when_it_starts_is_followed_at_once(
    loaded_debug: LoadedModel,
) -> None:
    """Batches shorter than the lead: what waits is cut as soon as the device has something."""

    async def test(engine: Engine, runner: HeldRunner) -> None:
        engine._clock = SetClock()
        engine._tokens_per_second = 1e9
        runner.is_held = True
        callers = [await _runs(engine, runner, "a")]
        for number in range(3):
            callers.append(
                asyncio.create_task(engine.score([_ask(str(number))], timeout_seconds=60))
            )
            await _until(lambda n=number: len(engine._jobs) == 2 + n)
        await _until(lambda: len(runner.prepared) == MAX_IN_FLIGHT)
        assert engine._scheduler.queued_groups == 2
        runner.release()
        runner.permits.release(5)
        await asyncio.gather(*callers)

    _with_engine(loaded_debug, test)


@pytest.mark.parametrize("first", ["a", POISON])
def test_how_long_a_batch_takes_is_counted_from_the_end_of_the_one_before(
    loaded_debug: LoadedModel, first: str
) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        clock = engine._clock = SetClock()
        engine._tokens_per_second = RATE
        runner.is_held = True
        callers = [await _runs(engine, runner, first), await _waits(engine, "b" * 100)]
        clock.now += engine._in_flight[0][0].tokens / RATE
        await _think(engine)
        await _until(lambda: len(runner.prepared) == 2)
        # The running one takes twice as long as was expected, and then the second one starts.
        clock.now += engine._in_flight[0][0].tokens / RATE
        runner.permits.release()
        await asyncio.wait(callers[:1])
        await _until(lambda: len(runner.batches) == 2)
        rate = engine._tokens_per_second
        expected_end = clock.now + engine._in_flight[0][0].tokens / rate
        callers.append(asyncio.create_task(engine.score([_ask("c")], timeout_seconds=1_000)))
        try:
            await _until(lambda: len(engine._jobs) == 2)
            await _think(engine)
            assert len(engine._in_flight) == 1
            clock.now = expected_end - LEAD_SECONDS - 0.001
            await _think(engine)
            assert len(engine._in_flight) == 1
            clock.now = expected_end - LEAD_SECONDS
            await _think(engine)
            assert len(engine._in_flight) == 2
        finally:
            runner.release()
            runner.permits.release()
            await asyncio.gather(*callers, return_exceptions=True)

    _with_engine(loaded_debug, test)


def test_there_are_never_more_batches_on_their_way_than_may_be(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        seen = []
        prepare = runner.prepare

        def watch(groups: Sequence[SequenceGroup]) -> Sequence[SequenceGroup]:
            seen.append(len(engine._in_flight))
            return prepare(groups)

        runner.prepare = watch  # type: ignore[method-assign]
        engine._tokens_per_second = 1e9
        for _ in range(10):
            await asyncio.gather(
                *(engine.score([_ask(str(n) * 30)], timeout_seconds=60) for n in range(30))
            )
        assert max(seen) <= MAX_IN_FLIGHT

    _with_engine(loaded_debug, test, batch=100)
