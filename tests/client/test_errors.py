"""Errors: two tables that cover every code, and a tree that is what its docstring draws."""

import re

import pytest

from reward_client import errors
from reward_client.errors import (
    EXCEPTIONS,
    AuthenticationError,
    BadRequestError,
    DeadlineExceededError,
    RewardServiceError,
    ServerFailureError,
    ServiceStatusError,
    ServiceUnavailableError,
    exception_type,
)
from reward_client.schema import ERROR_RULES, ErrorBody, ErrorCode


def drawn_tree() -> dict[str, str]:
    """Exception → its parent, as the module's docstring draws them."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"[│├└─ ]*(\w+Error)\b", line):
            depth = found.start(1) // 4
            if depth:
                parents[found[1]] = above[depth - 1]
            above[depth:] = [found[1]]
    return parents


def test_the_docstring_draws_the_real_tree():
    real = {
        name: one.__base__.__name__
        for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, RewardServiceError)
    }
    assert drawn_tree() | {"RewardServiceError": "Exception"} == real


def test_every_code_has_a_rule_and_an_exception():
    assert set(ERROR_RULES) == set(EXCEPTIONS) == set(ErrorCode)


def test_every_exception_of_the_table_is_an_answer_of_the_service():
    assert all(issubclass(one, ServiceStatusError) for one in EXCEPTIONS.values())


@pytest.mark.parametrize("code", ErrorCode)
def test_status_says_whose_fault_it_is(code: ErrorCode):
    status, exception = ERROR_RULES[code].status, EXCEPTIONS[code]
    assert (400 <= status < 500) == issubclass(exception, BadRequestError)
    assert (status == 500) == issubclass(exception, ServerFailureError)
    assert (status == 504) == issubclass(exception, DeadlineExceededError)
    assert (status == 401) == issubclass(exception, AuthenticationError)


@pytest.mark.parametrize("code", ErrorCode)
def test_retryable_is_503_and_nothing_else(code: ErrorCode):
    rule = ERROR_RULES[code]
    assert rule.retryable == (rule.status == 503)
    assert rule.retryable == (EXCEPTIONS[code] is ServiceUnavailableError)


@pytest.mark.parametrize("code", ErrorCode)
def test_a_known_code_decides_whatever_the_status(code: ErrorCode):
    assert {exception_type(code, status=status) for status in (200, 400, 502)} == {EXCEPTIONS[code]}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, BadRequestError),
        (401, AuthenticationError),
        (418, BadRequestError),
        (429, ServiceUnavailableError),
        (500, ServerFailureError),
        (502, ServiceUnavailableError),
        (503, ServiceUnavailableError),
        (599, ServerFailureError),
    ],
)
def test_status_decides_where_the_code_is_unknown(status: int, expected: type):
    assert exception_type("of_a_newer_server", status=status) is expected


def test_error_carries_what_the_service_said():
    body = ErrorBody(
        code="input_too_long", message="too long", input_index=3, completion_index=1, limit=512
    )
    error = BadRequestError(body, status=422, request_id="r1", retry_after_seconds=2.0)
    assert (error.code, error.status, error.request_id) == ("input_too_long", 422, "r1")
    assert (error.retry_after_seconds, error.error) == (2.0, body)
    assert str(error) == "too long (input 3, completion 1) [input_too_long, HTTP 422]"


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ({}, "m [overloaded, HTTP 503]"),
        ({"input_index": 0}, "m (input 0) [overloaded, HTTP 503]"),
        ({"completion_index": 0}, "m [overloaded, HTTP 503]"),
    ],
)
def test_message_names_the_place_where_there_is_one(places: dict[str, int], expected: str):
    body = ErrorBody(code=ErrorCode.OVERLOADED, message="m", **places)
    assert str(ServiceStatusError(body, status=503)) == expected
