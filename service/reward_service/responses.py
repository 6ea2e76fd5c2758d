"""The one place where errors become HTTP answers."""

import logging
import math

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from reward_client.schema import (
    ERROR_RULES,
    ErrorBody,
    ErrorCode,
    ErrorResponse,
    first_validation_error,
)
from reward_service.errors import InvalidJsonError, ServiceError

logger = logging.getLogger(__name__)

_NOT_AN_OBJECT = frozenset({"missing", "dict_type", "model_type", "model_attributes_type"})
"""pydantic's names for a body that is empty, or anything but an object."""


def error_body(error: ServiceError) -> ErrorBody:
    """One of our own errors as callers see it."""
    return ErrorBody(
        code=ErrorCode(error.code),
        message=error.message,
        input_index=error.input_index,
        completion_index=error.completion_index,
        limit=error.limit,
    )


def error_response(error: ServiceError, scope: Scope) -> JSONResponse:
    """The answer for one of our own errors; its code is noted for log and metrics."""
    return _answer(error_body(error), scope, retry_after_seconds=error.retry_after_seconds)


async def on_service_error(request: Request, error: Exception) -> Response:
    """Handler for `ServiceError`."""
    assert isinstance(error, ServiceError)
    return error_response(error, request.scope)


async def on_invalid_request(request: Request, error: Exception) -> Response:
    """Handler for bodies that are not JSON, or not a request."""
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    if errors[0]["type"] == "json_invalid":
        reason = errors[0].get("ctx", {}).get("error", "")
        position = errors[0]["loc"][-1]
        message = f"the body is not JSON: {reason} at character {position}"
        return error_response(InvalidJsonError(message), request.scope)
    if tuple(errors[0]["loc"]) == ("body",) and errors[0]["type"] in _NOT_AN_OBJECT:
        content_type = request.headers.get("Content-Type", "missing")
        message = (
            'the body must be a JSON object like {"inputs": […]}'
            if "json" in content_type
            else f"Content-Type is {content_type}: send the body as application/json"
        )
        body = ErrorBody(code=ErrorCode.INVALID_REQUEST, message=message)
        return _answer(body, request.scope)
    # FastAPI puts where it looked ("body") in front of the place in the document.
    body = first_validation_error([{**e, "loc": tuple(e["loc"][1:])} for e in errors])
    return _answer(body, request.scope)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Handler for what the router refuses: unknown routes, wrong methods, broken bodies."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ServiceError):
        # FastAPI wraps whatever is raised while it reads a body, our body limit's error too.
        return error_response(error.__cause__, request.scope)
    place = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        body = ErrorBody(
            code=ErrorCode.NOT_FOUND, message=f"there is no route {place}: see /openapi.json"
        )
    elif error.status_code == 405:
        body = ErrorBody(
            code=ErrorCode.METHOD_NOT_ALLOWED,
            message=f"{place} is not possible: see /openapi.json for the route's methods",
        )
    else:
        reason = error.__cause__ or error.detail
        body = ErrorBody(
            code=ErrorCode.INVALID_JSON, message=f"the body cannot be read as JSON: {reason}"
        )
    return _answer(body, request.scope)


def bug_response(error: Exception, scope: Scope) -> JSONResponse:
    """The answer for a bug: the caller learns that it was ours, the log learns the rest."""
    logger.error(
        "unexpected error",
        exc_info=error,
        extra={"request_id": scope.get("state", {}).get("request_id")},
    )
    body = ErrorBody(
        code=ErrorCode.INTERNAL_ERROR,
        message=f"the service failed ({type(error).__name__}): its log has the details",
    )
    return _answer(body, scope)


def _answer(
    body: ErrorBody, scope: Scope, *, retry_after_seconds: float | None = None
) -> JSONResponse:
    scope.setdefault("state", {})["error_code"] = str(body.code)
    rule = ERROR_RULES[ErrorCode(body.code)]
    headers = {}
    if rule.retryable:
        headers["Retry-After"] = str(math.ceil(retry_after_seconds or 1.0))
    if rule.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(
        ErrorResponse(error=body).model_dump(mode="json"), rule.status, headers=headers
    )
