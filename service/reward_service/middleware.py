"""What happens around every route: request id, log line, metrics, API key, body limit.

Plain ASGI, outermost first: `RequestLog`, `ApiKey`, `BodyLimit`.
"""

import logging
import secrets
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reward_service.errors import RequestTooLargeError, UnauthorizedError
from reward_service.metrics import Metrics
from reward_service.responses import bug_response, error_response

logger = logging.getLogger("reward_service.requests")

REQUEST_ID_HEADER = "X-Request-ID"
MAX_REQUEST_ID_LENGTH = 128

PUBLIC_PATHS = frozenset({"/health", "/ready", "/metrics", "/openapi.json"})
"""Answered without a key: probes and scrapers have none."""

STATUS_CALLER_GONE = 499


class RequestLog:
    """Gives every request an id, and writes one log line and the metrics when it is answered.

    Contents of requests never appear: a route adds what may be logged to `state.log_fields`.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, routes: frozenset[str]) -> None:
        self.app = app
        self.metrics = metrics
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(Headers(scope=scope).get(REQUEST_ID_HEADER))
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        # Unknown paths share one label: their number has no bound.
        route = scope["path"] if scope["path"] in self.routes else "unmatched"
        status = STATUS_CALLER_GONE

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        self.metrics.request_opened()
        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            if status != STATUS_CALLER_GONE:  # the answer has begun: only the connection can end
                raise
            # Not an exception handler of the application: Starlette runs those for bugs outside
            # of every middleware, where there is no request id, log line or metric.
            await bug_response(error, scope)(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            self.metrics.request_answered(route=route, status=status, seconds=seconds)
            if code := state.get("error_code"):
                self.metrics.error_reported(code)
            # Probes and scrapes come every few seconds and say nothing while they succeed.
            level = logging.DEBUG if route in PUBLIC_PATHS and status < 400 else logging.INFO
            fields = {"code": code, **state.get("log_fields", {})}
            logger.log(
                level,
                "request",
                extra={
                    "request_id": request_id,
                    "method": scope["method"],
                    "route": route,
                    "status": status,
                    "total_seconds": round(seconds, 6),
                    **{name: value for name, value in fields.items() if value is not None},
                },
            )


class ApiKey:
    """Refuses requests without the key, where one is set."""

    def __init__(self, app: ASGIApp, *, api_key: str | None) -> None:
        self.app = app
        self.expected = f"Bearer {api_key}".encode() if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and self.expected and scope["path"] not in PUBLIC_PATHS:
            given = Headers(scope=scope).get("Authorization", "").encode("latin-1")
            if not secrets.compare_digest(given, self.expected):
                error = UnauthorizedError(
                    "the API key is wrong: check it"
                    if given
                    else "this service wants an API key: send it as Authorization: Bearer KEY"
                )
                await error_response(error, scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class BodyLimit:
    """Refuses bodies over a number of bytes before they are read whole."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("Content-Length", "")
        if length.isdecimal() and int(length) > self.max_bytes:
            await error_response(self._error(int(length)), scope)(scope, receive, send)
            return
        read = 0

        async def counted_receive() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.max_bytes:
                raise self._error(read)
            return message

        await self.app(scope, counted_receive, send)

    def _error(self, length: int) -> RequestTooLargeError:
        return RequestTooLargeError(
            f"a body of {length:,} bytes exceeds max_request_bytes={self.max_bytes:,}: "
            "split the request",
            limit=self.max_bytes,
        )


def _request_id(given: str | None) -> str:
    """The caller's id where it can stand in a log and a header, else a new one."""
    if given and len(given) <= MAX_REQUEST_ID_LENGTH and given.isascii() and given.isprintable():
        return given
    return uuid.uuid4().hex
