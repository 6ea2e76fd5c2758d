"""Applies an asynchronous function to a stream of items, a bounded number at once.

It knows nothing about pairs, scores or files.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def stream(
    items: Iterable[T], work: Callable[[T], Coroutine[Any, Any, R]], *, concurrency: int
) -> AsyncGenerator[R, None]:
    """Yield the results as they are ready; no more than `concurrency` items are held at once.

    The first exception ends the stream, after the results that were ready beside it. Close the
    generator (`contextlib.aclosing`): that ends the work under way.
    """
    remaining = iter(items)
    running: set[asyncio.Task[R]] = set()
    try:
        while True:
            for item in islice(remaining, concurrency - len(running)):
                running.add(asyncio.create_task(work(item)))
            if not running:
                return
            ready, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(ready, key=lambda task: task.exception() is not None):
                running.remove(task)
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
