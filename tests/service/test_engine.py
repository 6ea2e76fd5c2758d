"""The engine with a runner that can be held, broken and watched; the encoder is the real one."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest

from reward_service.encoding import Conversation, Encoder
from reward_service.engine import Engine, Scored
from reward_service.errors import (
    DeadlineExceededError,
    InferenceFailedError,
    InputTooLongError,
    NotReadyError,
    OverloadedError,
)
from reward_service.loading import LoadedModel
from reward_service.model_runner import BatchReadings, Reading
from reward_service.scheduler import Scheduler
from reward_service.sequences import SequenceGroup

POISON = "☠"


class HeldRunner:
    """Scores a sequence with its length; waits for `release` first, and fails on poison."""

    def __init__(self, encoder: Encoder) -> None:
        self.release = threading.Event()
        self.release.set()
        self.batches: list[list[SequenceGroup]] = []
        self.threads: set[int] = set()
        self._poison = encoder.encode([_ask(POISON)], truncation="error")[0].sequences[0].token_ids

    def run(self, groups: Sequence[SequenceGroup]) -> BatchReadings:
        self.threads.add(threading.get_ident())
        self.batches.append(list(groups))
        assert self.release.wait(10)
        sequences = [sequence for group in groups for sequence in group.sequences]
        if any(sequence.token_ids == self._poison for sequence in sequences):
            raise ValueError("poisoned")
        return BatchReadings(
            [[Reading((float(len(s)),), len(s)) for s in group.sequences] for group in groups],
            input_tokens=sum(map(len, sequences)),
            padded_tokens=0,
        )


def _ask(*completions: str) -> Conversation:
    return Conversation([{"role": "user", "content": "Hi"}], completions)


def _scores(scored: Scored) -> list[list[float]]:
    return [[reading.outputs[0] for reading in group.readings] for group in scored.groups]


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
            runner.release.set()
            await engine.stop()

    asyncio.run(main())
    return runner


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the engine announces nothing to tests
            await asyncio.sleep(0.002)


def test_what_waits_while_the_device_is_busy_is_the_next_batch(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.release.clear()
        first = asyncio.create_task(engine.score([_ask("a")], timeout_seconds=10))
        await _until(lambda: len(runner.batches) == 1)
        others = [
            asyncio.create_task(engine.score([_ask("b" * n, "c")], timeout_seconds=10))
            for n in range(1, 9)
        ]
        await _until(lambda: engine._scheduler.queued_groups == 8)
        runner.release.set()
        answers = await asyncio.gather(first, *others)
        empty = _scores(answers[0])[0][0] - 1
        assert [_scores(a) for a in answers[1:]] == [[[empty + n, empty + 1]] for n in range(1, 9)]

    runner = _with_engine(loaded_debug, test)
    assert [len(batch) for batch in runner.batches] == [1, 8]
    assert len(runner.threads) == 1


def test_a_failing_batch_fails_only_its_own_callers(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.release.clear()
        before = asyncio.create_task(engine.score([_ask("a")], timeout_seconds=10))
        await _until(lambda: len(runner.batches) == 1)
        poisoned = asyncio.create_task(engine.score([_ask(POISON)], timeout_seconds=10))
        await _until(lambda: engine._scheduler.queued_groups == 1)
        runner.release.set()
        with pytest.raises(InferenceFailedError, match="poisoned"):
            await poisoned
        assert _scores(await before)
        assert _scores(await engine.score([_ask("after")], timeout_seconds=10))

    _with_engine(loaded_debug, test)


def test_cancelled_and_expired_work_is_never_computed(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.release.clear()
        first = asyncio.create_task(engine.score([_ask("a")], timeout_seconds=10))
        await _until(lambda: len(runner.batches) == 1)
        cancelled = asyncio.create_task(engine.score([_ask("b")], timeout_seconds=10))
        expired = asyncio.create_task(engine.score([_ask("c")], timeout_seconds=0.2))
        await _until(lambda: engine._scheduler.queued_groups == 2)
        cancelled.cancel()
        with pytest.raises(DeadlineExceededError):
            await expired
        await asyncio.gather(cancelled, return_exceptions=True)
        assert engine._scheduler.queued_tokens == 0
        runner.release.set()
        await first
        assert _scores(await engine.score([_ask("d")], timeout_seconds=10))

    runner = _with_engine(loaded_debug, test)
    assert len(runner.batches) == 2


def test_overload_answers_at_once(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.release.clear()
        running = asyncio.create_task(engine.score([_ask("a")], timeout_seconds=10))
        await _until(lambda: len(runner.batches) == 1)
        waiting = asyncio.create_task(engine.score([_ask("b" * 200)], timeout_seconds=10))
        await _until(lambda: engine._scheduler.queued_groups == 1)
        with pytest.raises(OverloadedError, match="tokens are waiting") as caught:
            await engine.score([_ask("c")], timeout_seconds=10)
        assert caught.value.retry_after_seconds >= 1
        runner.release.set()
        await asyncio.gather(running, waiting)

    _with_engine(loaded_debug, test, queue=100)


def test_too_many_open_requests_are_refused(loaded_debug: LoadedModel) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.release.clear()
        open_requests = [
            asyncio.create_task(engine.score([_ask("a")], timeout_seconds=10)) for _ in range(3)
        ]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="requests are open"):
            await engine.score([_ask("b")], timeout_seconds=10)
        runner.release.set()
        await asyncio.gather(*open_requests)
        assert await engine.score([_ask("b")], timeout_seconds=10)

    _with_engine(loaded_debug, test, requests=3)


def test_stopping_computes_what_was_admitted_and_refuses_the_rest(
    loaded_debug: LoadedModel,
) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        runner.release.clear()
        admitted = [
            asyncio.create_task(engine.score([_ask(str(n))], timeout_seconds=10)) for n in range(9)
        ]
        await _until(lambda: sum(map(len, runner.batches)) + engine._scheduler.queued_groups == 9)
        stopping = asyncio.create_task(engine.stop())
        await asyncio.sleep(0)
        with pytest.raises(NotReadyError):
            await engine.score([_ask("late")], timeout_seconds=10)
        runner.release.set()
        assert len(await asyncio.gather(*admitted)) == 9
        await stopping

    _with_engine(loaded_debug, test)


def test_a_request_over_several_batches_is_answered_whole_and_in_order(
    loaded_debug: LoadedModel,
) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        inputs = [_ask("x" * n) for n in range(40)]
        scored = await engine.score(inputs, timeout_seconds=10)
        lengths = [scores[0] for scores in _scores(scored)]
        assert lengths == [lengths[0] + n for n in range(40)]

    runner = _with_engine(loaded_debug, test, batch=100)
    assert len(runner.batches) > 10


def test_an_input_that_cannot_be_encoded_is_named_and_nothing_is_computed(
    loaded_debug: LoadedModel,
) -> None:
    async def test(engine: Engine, runner: HeldRunner) -> None:
        with pytest.raises(InputTooLongError) as caught:
            await engine.score([_ask("a"), _ask("b", "c" * 20_000)], timeout_seconds=10)
        assert (caught.value.input_index, caught.value.completion_index) == (1, 1)

    assert _with_engine(loaded_debug, test).batches == []
