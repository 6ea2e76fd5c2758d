"""A load generator that costs little beside a fast server: HTTP/1.1 on bare keep-alive sockets.

It sends prepared bytes and reads status and length of the answers, nothing else. It runs in a
process of its own and imports neither torch nor an HTTP library.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

HEADER_END = b"\r\n\r\n"
LENGTH_HEADER = b"content-length:"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a server did under load."""

    requests: int
    """Answered with 200 within the measured time."""
    failures: int
    seconds: float
    latencies: list[float]


def prepared_request(path: str, body: object) -> bytes:
    """A POST of JSON as it goes over the wire."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


class LoadGenerator:
    """Keeps a number of connections busy, each with one request at a time."""

    def run(
        self,
        port: int,
        requests: Sequence[bytes],
        *,
        connections: int,
        warm_up_seconds: float,
        seconds: float,
    ) -> LoadResult:
        """Load the server on this loopback port; requests are sent round robin."""
        return asyncio.run(_load(port, requests, connections, warm_up_seconds, seconds))

    def stop(self) -> None:
        """There is nothing to let go."""


async def _load(
    port: int,
    requests: Sequence[bytes],
    connections: int,
    warm_up_seconds: float,
    seconds: float,
) -> LoadResult:
    loop = asyncio.get_running_loop()
    begin = time.perf_counter() + warm_up_seconds
    tally = _Tally(cycle(requests), begin, begin + seconds)
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(tally), "127.0.0.1", port)
    await asyncio.sleep(warm_up_seconds + seconds)
    # Answers that are still on their way came too late to count.
    for connection in tally.connections:
        connection.transport.abort()
    return LoadResult(len(tally.latencies), tally.failures, seconds, tally.latencies)


class _Tally:
    """What all connections share."""

    def __init__(self, requests: Iterator[bytes], begin: float, end: float) -> None:
        self.requests = requests
        self.begin = begin
        self.end = end
        self.latencies: list[float] = []
        self.failures = 0
        self.connections: list[_Connection] = []

    def note(self, latency: float, *, succeeded: bool) -> None:
        if self.begin <= time.perf_counter() <= self.end:
            if succeeded:
                self.latencies.append(latency)
            else:
                self.failures += 1


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._received = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._tally.connections.append(self)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(HEADER_END)
        if head_end < 0:
            return
        head = self._received[:head_end].lower()
        length = int(head.split(LENGTH_HEADER, 1)[1].split(b"\r\n", 1)[0])
        if len(self._received) < head_end + len(HEADER_END) + length:
            return
        self._tally.note(
            time.perf_counter() - self._sent, succeeded=head.startswith(b"http/1.1 200")
        )
        self._received = b""
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self.transport.write(next(self._tally.requests))
