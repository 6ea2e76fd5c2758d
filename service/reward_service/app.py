"""The composition root: settings in, ASGI application out."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import metadata

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from reward_service import responses
from reward_service.errors import ServiceError
from reward_service.middleware import STATUS_CALLER_GONE, ApiKey, BodyLimit, RequestLog
from reward_service.routes import native
from reward_service.routes.connection import CallerGoneError
from reward_service.service import Service
from reward_service.settings import Settings

logger = logging.getLogger(__name__)


def create_app(
    settings: Settings, *, on_failure: Callable[[Exception], None] | None = None
) -> FastAPI:
    """The application; the model loads in its lifespan, while `/health` already answers.

    Args:
        on_failure: called when the service cannot start or its engine broke; it should end the
            process, so that whoever watches it starts another.
    """
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async def run() -> None:
            try:
                await service.run()
            except Exception as error:
                logger.exception("the service broke")
                service.failure = error
            if service.failure is not None and on_failure is not None:
                on_failure(service.failure)

        running = asyncio.create_task(run(), name="service")
        yield
        await service.stop()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    app = FastAPI(
        title="RewardServe",
        summary="Reward models over HTTP: one true number per completion.",
        version=metadata.version("rewardserve"),
        lifespan=lifespan,
        # FastAPI's /docs page loads its scripts from a CDN; /openapi.json has the same facts.
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    app.include_router(native.router)
    app.add_exception_handler(ServiceError, responses.on_service_error)
    app.add_exception_handler(RequestValidationError, responses.on_invalid_request)
    app.add_exception_handler(HTTPException, responses.on_http_exception)
    app.add_exception_handler(CallerGoneError, _on_caller_gone)
    # The last one added is the outermost.
    key = settings.api_key.get_secret_value() if settings.api_key else None
    app.add_middleware(BodyLimit, max_bytes=settings.max_request_bytes)
    app.add_middleware(ApiKey, api_key=key)
    app.add_middleware(RequestLog, metrics=service.metrics, routes=frozenset(_paths(app)))
    return app


async def _on_caller_gone(_: Request, __: Exception) -> Response:
    """Nobody reads this answer; the status is for the log and the metrics."""
    return Response(status_code=STATUS_CALLER_GONE)


def _paths(app: FastAPI) -> list[str]:
    return [*app.openapi()["paths"], app.openapi_url or ""]
