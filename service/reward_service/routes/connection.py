"""Ties work to the caller: when the connection closes, the work is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

T = TypeVar("T")


class CallerGoneError(Exception):
    """The caller closed the connection before the answer was ready."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the caller goes away first.

    Raises:
        CallerGoneError: the caller went away; nobody can be told anything any more.
    """
    try:
        async with asyncio.timeout(None) as connected:
            watching = asyncio.create_task(_watch(request, connected))
            try:
                return await work
            finally:
                watching.cancel()
    except TimeoutError:
        if connected.expired():
            raise CallerGoneError from None
        raise


async def _watch(request: Request, connected: asyncio.Timeout) -> None:
    """End `connected` when the caller goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    connected.reschedule(asyncio.get_running_loop().time())
