"""What is tried again, after how long, and what never is."""

import asyncio
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_client import (
    NotFoundError,
    ServiceConnectionError,
    ServiceStatusError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from reward_client.calls import MAX_RETRY_AFTER_SECONDS, RETRY_STATUSES, backoff, not_ready
from reward_client.client import DEFAULT_MAX_RETRIES, MAX_WAIT_SECONDS
from reward_client.errors import exception_type
from reward_client.schema import ERROR_RULES, ErrorBody, ErrorCode

from .conftest import Connect, FakeService, copy_of, refusal

TIMEOUTS = [httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout]
BROKEN = [
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.RemoteProtocolError,
]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client wanted to sleep, each time; it does not."""
    asked: list[float] = []
    here = threading.get_ident()
    sleep, async_sleep = time.sleep, asyncio.sleep

    def note(seconds: float) -> None:
        # The shared service sleeps in its own thread, and means it.
        if threading.get_ident() != here:
            sleep(seconds)
        else:
            asked.append(seconds)

    async def async_note(seconds: float, result: Any = None) -> Any:
        if threading.get_ident() != here:
            return await async_sleep(seconds, result)
        asked.append(seconds)
        return result

    monkeypatch.setattr(time, "sleep", note)
    monkeypatch.setattr(asyncio, "sleep", async_note)
    return asked


class Flaky:
    """Fails with each failure in turn, then answers, or repeats the last failure for ever."""

    def __init__(self, fake: FakeService, *failures: Any, for_ever: bool = False) -> None:
        self.fake = fake
        self.failures = failures
        self.for_ever = for_ever
        self.asked = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.asked > len(self.failures) and not self.for_ever:
            return self.fake(request)
        failure = self.failures[min(self.asked, len(self.failures)) - 1]
        if isinstance(failure, httpx.Response):
            return copy_of(failure)
        raise failure("broken", request=request)


def overloaded(retry_after: str | None = None) -> httpx.Response:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return refusal(503, "overloaded", headers=headers)


# ------------------------------------------------------------------------------ what is retried


@pytest.mark.parametrize(
    "failure",
    [
        refusal(503, "overloaded"),
        refusal(503, "not_ready"),
        refusal(429, "of_a_gateway"),
        httpx.Response(429, text="slow down"),
        httpx.Response(502, html="<h1>Bad Gateway</h1>"),
        httpx.Response(503),
        *BROKEN,
    ],
)
def test_what_may_pass_is_tried_again(
    connect: Connect, fake: FakeService, waits: list[float], failure: Any
):
    flaky = Flaky(fake, failure, failure)
    assert len(connect(flaky).score("p", ["a"])) == 1
    assert flaky.asked == 3
    assert len(waits) == 2


@pytest.mark.parametrize(
    "failure",
    [
        *(refusal(rule.status, code) for code, rule in ERROR_RULES.items() if not rule.retryable),
        httpx.Response(400),
        httpx.Response(404, html="<h1>Not Found</h1>"),
        httpx.Response(500, text="oops"),
        httpx.Response(504, text="gateway timeout"),
        *TIMEOUTS,
    ],
)
def test_what_will_fail_again_is_tried_once(
    connect: Connect, fake: FakeService, waits: list[float], failure: Any
):
    flaky = Flaky(fake, failure)
    expected = ServiceStatusError if isinstance(failure, httpx.Response) else ServiceTimeoutError
    with pytest.raises(expected):
        connect(flaky).score("p", ["a"])
    assert flaky.asked == 1
    assert waits == []


@pytest.mark.parametrize("max_retries", [0, 1, 3])
@pytest.mark.parametrize("failure", [overloaded(), overloaded("1"), httpx.ConnectError])
def test_after_max_retries_the_last_error_is_raised(
    connect: Connect, fake: FakeService, waits: list[float], max_retries: int, failure: Any
):
    flaky = Flaky(fake, failure, for_ever=True)
    answered = isinstance(failure, httpx.Response)
    with pytest.raises(ServiceUnavailableError if answered else ServiceConnectionError):
        connect(flaky, max_retries=max_retries).score("p", ["a"])
    assert flaky.asked == max_retries + 1
    assert len(waits) == max_retries


def test_a_few_retries_are_the_default(connect: Connect, fake: FakeService, waits: list[float]):
    flaky = Flaky(fake, httpx.ConnectError, for_ever=True)
    with pytest.raises(ServiceConnectionError):
        connect(flaky).info()
    assert len(waits) == DEFAULT_MAX_RETRIES


def test_retries_end_with_the_first_error_that_will_not_pass(
    connect: Connect, fake: FakeService, waits: list[float]
):
    flaky = Flaky(fake, overloaded(), refusal(404, "not_found"))
    with pytest.raises(NotFoundError):
        connect(flaky).score("p", ["a"])
    assert flaky.asked == 2


def test_every_try_sends_the_same_request(connect: Connect, fake: FakeService, waits: list[float]):
    bodies: list[bytes] = []
    flaky = Flaky(fake, overloaded(), httpx.ReadError)

    def handler(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return flaky(request)

    connect(handler).score("p", ["a"])
    assert len(bodies) == 3
    assert len(set(bodies)) == 1


# ------------------------------------------------------------------------------------ how long


def test_waits_grow_up_to_a_limit(connect: Connect, fake: FakeService, waits: list[float]):
    flaky = Flaky(fake, httpx.ConnectError, for_ever=True)
    with pytest.raises(ServiceConnectionError):
        connect(flaky, max_retries=9).info()
    for number, wait in enumerate(waits):
        least = 0.5 * 2**number
        assert min(least, MAX_WAIT_SECONDS) <= wait <= min(least + 1, MAX_WAIT_SECONDS)


def test_retry_after_in_seconds_is_obeyed(connect: Connect, fake: FakeService, waits: list[float]):
    connect(Flaky(fake, overloaded("7"), overloaded("20.5"))).score("p", ["a"])
    first, second = waits
    assert 7.0 <= first <= 7.0 * 1.25
    assert 20.5 <= second <= 20.5 * 1.25


@pytest.mark.parametrize("status", [429, 502])
def test_retry_after_of_a_proxy_is_obeyed(
    connect: Connect, fake: FakeService, waits: list[float], status: int
):
    answer = httpx.Response(status, headers={"Retry-After": "8"})
    connect(Flaky(fake, answer)).info()
    assert 8.0 <= waits[0] <= 8.0 * 1.25


def test_retry_after_as_a_date_is_obeyed(connect: Connect, fake: FakeService, waits: list[float]):
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    connect(Flaky(fake, overloaded(date))).score("p", ["a"])
    assert 15.0 <= waits[0] <= 20.0 * 1.25


def test_a_long_retry_after_is_capped(connect: Connect, fake: FakeService, waits: list[float]):
    connect(Flaky(fake, overloaded("86400"), overloaded("inf"))).score("p", ["a"])
    assert len(waits) == 2
    assert all(MAX_RETRY_AFTER_SECONDS <= w <= MAX_RETRY_AFTER_SECONDS * 1.25 for w in waits)


@pytest.mark.parametrize("value", ["soon", "", "Wed, 99 Foo 2015", "2015-10-21", "nan s"])
def test_a_retry_after_that_says_nothing_is_ignored(
    connect: Connect, fake: FakeService, waits: list[float], value: str
):
    connect(Flaky(fake, overloaded(value))).score("p", ["a"])
    assert 0.5 <= waits[0] <= 1.5


@pytest.mark.parametrize("value", ["0", "-5", "nan", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_retry_after_of_now_still_waits_and_backs_off(
    connect: Connect, fake: FakeService, waits: list[float], value: str
):
    connect(Flaky(fake, overloaded(value), overloaded(value))).score("p", ["a"])
    assert 0.5 <= waits[0] <= 1.5
    assert 1.0 <= waits[1] <= 2.0


@pytest.mark.parametrize("retry_after", [None, "1"])
def test_clients_refused_together_do_not_come_back_together(
    connect: Connect, fake: FakeService, waits: list[float], retry_after: str | None
):
    for _ in range(10):
        connect(Flaky(fake, overloaded(retry_after))).score("p", ["a"])
    assert len(set(waits)) == 10
    assert max(waits) - min(waits) > 0.01


def test_the_error_says_what_retry_after_said(connect: Connect, fake: FakeService):
    flaky = Flaky(fake, overloaded("3"), for_ever=True)
    with pytest.raises(ServiceUnavailableError) as caught:
        connect(flaky, max_retries=0).score("p", ["a"])
    assert caught.value.retry_after_seconds == 3.0


# -------------------------------------------------------------------------------- the decision

SECONDS = st.none() | st.floats(min_value=0, allow_nan=False)


@given(
    code=st.sampled_from(ErrorCode) | st.just("of_a_newer_server"),
    status=st.integers(300, 599),
    retry_after_seconds=SECONDS,
)
def test_backoff_retries_what_is_unavailable_and_nothing_else(
    code: str, status: int, retry_after_seconds: float | None
):
    kind = exception_type(code, status=status)
    error = kind(
        ErrorBody(code=code, message="m"), status=status, retry_after_seconds=retry_after_seconds
    )
    wait = backoff(error)
    retried = kind is ServiceUnavailableError or status in RETRY_STATUSES
    assert (wait is not False) == retried
    if retried and retry_after_seconds:
        asked = min(retry_after_seconds, MAX_RETRY_AFTER_SECONDS)
        assert asked <= wait <= asked * 1.25
    elif retried:
        assert wait is True


@pytest.mark.parametrize("code", ErrorCode)
def test_backoff_agrees_with_the_rule_of_every_code(code: ErrorCode):
    rule = ERROR_RULES[code]
    error = exception_type(code, status=rule.status)(
        ErrorBody(code=code, message="m"), status=rule.status
    )
    assert backoff(error) is rule.retryable


def test_backoff_retries_broken_connections_but_no_timeouts_and_no_bugs():
    assert backoff(ServiceConnectionError("m")) is True
    assert backoff(ServiceTimeoutError("m")) is False
    assert backoff(ValueError("m")) is False


# ------------------------------------------------------------------------------------ readiness


def test_waiting_goes_on_while_the_service_starts(
    connect: Connect, fake: FakeService, waits: list[float]
):
    flaky = Flaky(fake, httpx.ConnectError, refusal(503, "not_ready"), httpx.Response(502))
    assert connect(flaky, max_retries=0).wait_until_ready(60) is None
    assert flaky.asked == 4
    assert all(0 < wait < 1 for wait in waits)


@pytest.mark.parametrize(
    "failure", [refusal(401, "unauthorized"), refusal(404, "not_found"), httpx.Response(500)]
)
def test_waiting_ends_with_an_error_that_will_not_pass(
    connect: Connect, fake: FakeService, waits: list[float], failure: Any
):
    flaky = Flaky(fake, failure)
    with pytest.raises(ServiceStatusError):
        connect(flaky).wait_until_ready(60)
    assert flaky.asked == 1


def test_waiting_ends_with_its_timeout(connect: Connect, fake: FakeService):
    flaky = Flaky(fake, refusal(503, "not_ready"), for_ever=True)
    started = time.monotonic()
    with pytest.raises(ServiceUnavailableError):
        connect(flaky).wait_until_ready(0.2)
    assert time.monotonic() - started >= 0.2


def test_waiting_ends_with_its_timeout_when_nothing_is_answered(connect: Connect):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(ServiceTimeoutError):
            connect(url=url, timeout=200.0).wait_until_ready(0.2)
        assert time.monotonic() - started < 100


@pytest.mark.parametrize("code", ErrorCode)
def test_only_what_starts_up_is_waited_for(code: ErrorCode):
    rule = ERROR_RULES[code]
    error = exception_type(code, status=rule.status)(
        ErrorBody(code=code, message="m"), status=rule.status
    )
    assert not_ready(error) == (rule.status == 503)
