"""The `reward-service` program in a process of its own, as an operator starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

COMMAND = [sys.executable, "-m", "reward_service"]
START_SECONDS = 60


@dataclass
class Program:
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    @property
    def url(self) -> str:
        url: str = self.wait_for(
            lambda: next((one["url"] for one in self.events if one["event"] == "listening"), None)
        )
        return url

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def wait_for(self, get: Callable[[], Any]) -> Any:
        """The first true value of `get`."""
        give_up = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up:
            if value := get():
                return value
            assert self.process.poll() is None, self.lines
            time.sleep(0.01)
        raise AssertionError(self.lines)

    def wait_until_ready(self) -> None:
        url = self.url
        self.wait_for(lambda: (answer := fetch(url, "/ready")) and answer.status_code == 200)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def fetch(url: str, path: str) -> httpx.Response | None:
    with suppress(httpx.TransportError):
        return httpx.get(url + path)
    return None


@contextmanager
def running(
    log: Path, *flags: object, kind: type[Program] = Program, **environment: str
) -> Iterator[Any]:
    """The program with these flags, the leader of a group of which nothing is left behind."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*COMMAND, "--port", "0", *map(str, flags)],
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        yield kind(process, log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
