"""Encoding beside the event loop: everyone gets their own result, one piece of work at a time."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_service.encoding_thread import INLINE_CHARACTERS, EncodingThread

SHORT, LONG = INLINE_CHARACTERS, INLINE_CHARACTERS + 1


class Watched:
    """An encoding thread, and what it does."""

    def __init__(self) -> None:
        self.encoding = EncodingThread()
        self.started: list[object] = []
        """Names of the work that was started, in order."""
        self.threads: dict[object, int] = {}
        self.hops = 0
        self._running = threading.Lock()
        submit = self.encoding._thread.submit

        def count(*given: Any) -> Any:
            self.hops += 1
            return submit(*given)

        self.encoding._thread.submit = count  # type: ignore[method-assign, assignment]

    def ask(
        self,
        name: object,
        characters: int,
        *,
        seconds: float = 0.0,
        held: threading.Event | None = None,
        error: BaseException | None = None,
    ) -> "asyncio.Task[object]":
        """Start a caller whose work gives its name back, or fails."""

        def work() -> object:
            # Tokenizers are not thread-safe.
            assert self._running.acquire(blocking=False), "two pieces of work at the same time"
            try:
                self.started.append(name)
                self.threads[name] = threading.get_ident()
                if held is not None:
                    assert held.wait(60)
                time.sleep(seconds)
                if error is not None:
                    raise error
                return name
            finally:
                self._running.release()

        return asyncio.create_task(self.encoding.run(work, characters=characters))


def _run(test: Callable[[Watched], Awaitable[None]]) -> Watched:
    watched = Watched()

    async def main() -> None:
        try:
            await asyncio.wait_for(test(watched), 10)
        finally:
            watched.encoding.stop()

    asyncio.run(main())
    return watched


async def _rounds(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the thread announces nothing to tests
            await asyncio.sleep(0.001)


@contextmanager
def _held() -> Iterator[threading.Event]:
    """Work waits until this is set; set at the latest when a test ends, so that its thread ends."""
    event = threading.Event()
    try:
        yield event
    finally:
        event.set()


def test_what_is_short_is_encoded_on_the_spot_and_what_is_long_in_the_thread() -> None:
    async def test(watched: Watched) -> None:
        here = threading.get_ident()
        for name, characters in enumerate([SHORT, LONG, 0, SHORT]):
            assert await watched.ask(name, characters) == name
        on_the_spot = [watched.threads[name] == here for name in range(4)]
        assert on_the_spot == [True, False, True, True]

    assert _run(test).hops == 1


def test_encoding_a_long_text_leaves_the_event_loop_free() -> None:
    async def test(watched: Watched) -> None:
        with _held() as held:
            long = watched.ask("long", LONG, held=held)
            await _until(lambda: watched.started == ["long"])
            await _rounds(100)
            assert not long.done()
            held.set()
            assert await long == "long"

    _run(test)


def test_what_waits_behind_a_long_text_goes_over_together_and_in_order() -> None:
    async def test(watched: Watched) -> None:
        with _held() as held:
            long = watched.ask("long", LONG, held=held)
            await _until(lambda: watched.started == ["long"])
            waiting = [watched.ask(n, LONG if n % 3 == 0 else SHORT) for n in range(20)]
            await _rounds()
            assert watched.started == ["long"]
            held.set()
            assert await asyncio.gather(long, *waiting) == ["long", *range(20)]
        # Idle again: the next short one needs no thread.
        assert await watched.ask("after", SHORT) == "after"
        assert watched.threads["after"] == threading.get_ident()
        assert len({watched.threads[name] for name in ("long", *range(20))}) == 1

    watched = _run(test)
    assert watched.started == ["long", *range(20), "after"]
    assert watched.hops == 2


@pytest.mark.parametrize("characters", [SHORT, LONG])
def test_an_exception_reaches_its_own_caller_alone(characters: int) -> None:
    async def test(watched: Watched) -> None:
        errors = {n: ValueError(str(n)) for n in (1, 3)}
        with _held() as held:
            first = watched.ask("long", LONG, held=held, error=KeyError("long"))
            asked = [watched.ask(n, characters, error=errors.get(n)) for n in range(5)]
            held.set()
            answers = await asyncio.gather(first, *asked, return_exceptions=True)
        assert isinstance(answers[0], KeyError)
        assert answers[1:] == [0, errors[1], 2, errors[3], 4]
        with pytest.raises(ValueError, match="inline"):
            await watched.ask("inline", SHORT, error=ValueError("inline"))
        assert await watched.ask("after", characters) == "after"

    _run(test)


class Panic(BaseException):
    """As a panic of a Rust library arrives in Python."""


@pytest.mark.parametrize("error", [Panic("index out of bounds"), StopIteration()])
def test_whatever_a_tokenizer_raises_the_next_callers_are_answered(error: BaseException) -> None:
    async def test(watched: Watched) -> None:
        async with asyncio.timeout(0.3):
            with _held() as held:
                long = watched.ask("long", LONG, held=held)
                failing = watched.ask("failing", LONG, error=error)
                beside = watched.ask("beside", SHORT)
                await _rounds()
                held.set()
                assert await long == "long"
                assert await beside == "beside"
            [failure] = await asyncio.gather(failing, return_exceptions=True)
            assert isinstance(failure, BaseException)
            assert await watched.ask("after", LONG) == "after"

    _run(test)


# -------------------------------------------------------------------------- callers who leave


def test_work_of_a_caller_who_left_is_not_started() -> None:
    async def test(watched: Watched) -> None:
        with _held() as first, _held() as second:
            running = watched.ask("running", LONG, held=first)
            await _until(lambda: watched.started == ["running"])
            behind = watched.ask("behind", SHORT, held=second)
            left_waiting, left_handed_over = (watched.ask(name, LONG) for name in "ab")
            stays = watched.ask("stays", SHORT)
            await _rounds()
            left_waiting.cancel()
            await _rounds()
            first.set()
            # Those three are in the thread now, and one of them has not been started.
            await _until(lambda: watched.started == ["running", "behind"])
            left_handed_over.cancel()
            await _rounds()
            second.set()
            assert [await one for one in (running, behind, stays)] == ["running", "behind", "stays"]
            assert left_waiting.cancelled()
            assert left_handed_over.cancelled()

    assert _run(test).started == ["running", "behind", "stays"]


def test_a_caller_who_leaves_while_encoded_takes_nobody_along() -> None:
    async def test(watched: Watched) -> None:
        with _held() as held:
            leaving = watched.ask("leaving", LONG, held=held, error=ValueError("nobody asks"))
            await _until(lambda: watched.started == ["leaving"])
            stays = watched.ask("stays", SHORT)
            await _rounds()
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            # The thread is still busy with it: nothing may be encoded on the spot.
            late = watched.ask("late", SHORT)
            await _rounds()
            assert watched.started == ["leaving"]
            held.set()
            assert [await one for one in (stays, late)] == ["stays", "late"]

    _run(test)


# ------------------------------------------------------------------------------------- end


def test_the_thread_finishes_what_it_was_given_before_it_ends() -> None:
    async def test(watched: Watched) -> None:
        with _held() as held:
            running = watched.ask("running", LONG, held=held)
            await _until(lambda: watched.started == ["running"])
            watched.encoding.stop()
            held.set()
            assert await running == "running"

    _run(test)


def test_what_waits_when_the_thread_is_stopped_is_answered_too() -> None:
    async def test(watched: Watched) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with asyncio.timeout(0.3):
            with _held() as held:
                running = watched.ask("running", LONG, held=held)
                await _until(lambda: watched.started == ["running"])
                waiting = watched.ask("waiting", LONG)
                await _rounds()
                watched.encoding.stop()
                held.set()
                # With their result or a refusal, as long as nobody waits for ever.
                await asyncio.wait([running, waiting])

    _run(test)


# ----------------------------------------------------------------------------------- any mix


@dataclass(frozen=True)
class Caller:
    characters: int
    rounds_before: int
    """Of the event loop, since the caller before."""
    milliseconds: int
    fails: bool
    leaves_after: int | None
    """Rounds of the event loop."""


CALLERS = st.lists(
    st.builds(
        Caller,
        characters=st.sampled_from([0, SHORT, LONG, 10 * LONG]),
        rounds_before=st.integers(0, 4),
        milliseconds=st.sampled_from([0, 0, 1]),
        fails=st.booleans(),
        leaves_after=st.sampled_from([None, None, 0, 1, 3]),
    ),
    max_size=25,
)


@settings(max_examples=100, deadline=None)
@given(CALLERS)
def test_whoever_stays_gets_their_own_answer_in_turn(callers: list[Caller]) -> None:
    async def leave(asked: "asyncio.Task[object]", rounds: int) -> None:
        await _rounds(rounds)
        asked.cancel()

    async def test(watched: Watched) -> None:
        asked, leaving = [], []
        for number, caller in enumerate(callers):
            await _rounds(caller.rounds_before)
            error = ValueError(number) if caller.fails else None
            asked.append(
                watched.ask(
                    number, caller.characters, seconds=caller.milliseconds / 1000, error=error
                )
            )
            if caller.leaves_after is not None:
                leaving.append(asyncio.create_task(leave(asked[-1], caller.leaves_after)))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        await asyncio.gather(*leaving)
        for number, (caller, answer) in enumerate(zip(callers, answers, strict=True)):
            if isinstance(answer, asyncio.CancelledError):
                assert caller.leaves_after is not None
            elif caller.fails:
                assert isinstance(answer, ValueError)
                assert answer.args == (number,)
            else:
                assert answer == number
        # What the last one left behind may still be in the thread.
        await _until(lambda: not watched.encoding._is_busy)
        assert not watched.encoding._waiting

    watched = _run(test)
    # In the order in which they came, none twice.
    assert watched.started == sorted(set(watched.started))  # type: ignore[type-var]
    stayed = {number for number, one in enumerate(callers) if one.leaves_after is None}
    assert stayed <= set(watched.started)
