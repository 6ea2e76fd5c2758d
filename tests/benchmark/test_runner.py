"""Streams: bounded, lazy, complete, and quickly over when something fails."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_benchmark.runner import stream


class Workplace:
    """Does work that takes a few turns of the event loop, and keeps count."""

    def __init__(self) -> None:
        self.taken = 0
        self.active = 0
        self.most_active = 0
        self.cancelled = 0

    def items(self, count: int) -> Iterator[int]:
        for item in range(count):
            self.taken += 1
            yield item

    async def work(self, item: int) -> int:
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            for _ in range(1 + item % 3):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.active -= 1
        return item


@given(st.integers(0, 30), st.integers(1, 40))
def test_every_item_once_and_never_too_many(count: int, concurrency: int):
    place = Workplace()

    async def run() -> list[int]:
        results = stream(place.items(count), place.work, concurrency=concurrency)
        return [result async for result in results]

    assert sorted(asyncio.run(run())) == list(range(count))
    assert place.most_active == min(count, concurrency)


def test_items_are_taken_as_they_are_needed():
    place = Workplace()

    async def run() -> None:
        async with aclosing(stream(place.items(1000), place.work, concurrency=4)) as results:
            async for _ in results:
                break

    asyncio.run(run())
    assert place.taken == 4
    assert place.active == 0
    assert place.cancelled > 0


def test_a_failure_ends_the_stream_after_the_results_that_were_ready():
    place = Workplace()

    async def work(item: int) -> int:
        if item == 1:
            raise ZeroDivisionError
        return item if item in (0, 2) else await place.work(5)

    results: list[int] = []

    async def run() -> None:
        async with aclosing(stream(range(9), work, concurrency=4)) as ready:
            async for result in ready:
                results.append(result)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())
    assert sorted(results) == [0, 2]
    assert place.cancelled == 1
