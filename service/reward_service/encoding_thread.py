"""Encoding beside the event loop: long texts in a thread of their own, short ones on the spot.

A hop to a thread and back costs more than encoding a short text, and while the loop is busy each
hop waits for its next round (docs/experiments.md). So what takes a fraction of a millisecond is
encoded where it is, and what has to go over to the thread goes together.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

INLINE_CHARACTERS = 2_000
"""Most characters to encode on the event loop: well under a millisecond."""


@dataclass(slots=True, eq=False)
class _Task:
    work: Callable[[], Any]
    done: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class EncodingThread:
    """Runs encoding work in the order it comes, one at a time: tokenizers are not thread-safe."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoding")
        self._waiting: list[_Task] = []
        self._is_busy = False

    async def run(self, work: Callable[[], T], *, characters: int) -> T:
        """The result of `work`, or its exception; not started if the caller has left by then.

        Args:
            characters: how much text is to be encoded.
        """
        if characters <= INLINE_CHARACTERS and not self._is_busy:
            return work()
        loop = asyncio.get_running_loop()
        task = _Task(work, loop.create_future())
        self._waiting.append(task)
        if not self._is_busy:
            self._hand_over(loop)
        result: T = await task.done
        return result

    def stop(self) -> None:
        """End the thread once it has done what it was given."""
        self._thread.shutdown(wait=False)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        tasks, self._waiting = self._waiting, []
        self._is_busy = True
        try:
            self._thread.submit(self._work_off, tasks, loop)
        except RuntimeError as error:  # stopped meanwhile
            for task in tasks:
                task.error = error
            self._deliver(tasks, loop)

    def _work_off(self, tasks: list[_Task], loop: asyncio.AbstractEventLoop) -> None:
        for task in tasks:
            if not task.done.done():
                try:
                    task.result = task.work()
                except BaseException as error:  # noqa: BLE001 - handed to whoever awaits
                    task.error = _for_a_future(error)
        loop.call_soon_threadsafe(self._deliver, tasks, loop)

    def _deliver(self, tasks: list[_Task], loop: asyncio.AbstractEventLoop) -> None:
        for task in tasks:
            if task.done.done():
                continue
            if task.error is None:
                task.done.set_result(task.result)
            else:
                task.done.set_exception(task.error)
        if self._waiting:
            self._hand_over(loop)
        else:
            self._is_busy = False


def _for_a_future(error: BaseException) -> Exception:
    """The error, or one that says the same: a panic of a Rust library is no `Exception`."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
