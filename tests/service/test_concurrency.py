"""Many callers at once, and callers who leave, over HTTP."""

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from reward_client import RewardClient

BUSY = {"inputs": [{"prompt": "p", "completions": ["x" * 15_000] * 12}]}
"""Keeps the device busy for a while (one batch: a group is never split)."""


def _metric(url: str, name: str, **labels: str) -> float:
    text = httpx.get(url + "/metrics").text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _busy(url: str) -> threading.Thread:
    before = _metric(url, "reward_batch_tokens_total", kind="input")
    thread = threading.Thread(target=lambda: httpx.post(url + "/score", json=BUSY, timeout=120))
    thread.start()
    # Taken by the device: open, no longer waiting, not yet computed.
    _until(lambda: _metric(url, "reward_open_requests") >= 2)
    _until(
        lambda: (
            _metric(url, "reward_queue_tokens") == 0
            or _metric(url, "reward_batch_tokens_total", kind="input") > before
        )
    )
    return thread


def test_requests_that_wait_together_are_computed_together(
    start_service: Callable[..., str],
) -> None:
    url = start_service()
    busy = _busy(url)

    def ask(number: int) -> float:
        with RewardClient(url) as client:
            return client.score("Hi", ["a" * number])[0]

    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(ask, range(32)))
    busy.join()
    batches = _metric(url, "reward_batch_seconds_count")
    assert batches < 1 + 32 / 2
    alone = [ask(number) for number in range(32)]
    assert max(abs(a - b) for a, b in zip(together, alone, strict=True)) < 1e-5


def test_a_caller_who_leaves_costs_no_computation(start_service: Callable[..., str]) -> None:
    url = start_service()
    with RewardClient(url) as client:
        client.score("Hi", ["warm"])
    busy = _busy(url)
    body = json.dumps({"inputs": [{"prompt": "q", "completions": ["leaving"]}]}).encode()
    head = (
        f"POST /score HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as connection:
        connection.sendall(head + body)
        _until(lambda: _metric(url, "reward_queue_requests") == 1)
    _until(lambda: _metric(url, "reward_requests_total", route="/score", code="499") == 1)
    assert _metric(url, "reward_queue_tokens") == 0
    busy.join()
    with RewardClient(url) as client:
        client.score("Hi", ["after"])
    computed = _metric(url, "reward_batch_seconds_count")
    assert computed == 3  # warm, busy, after
