"""Runs the application under uvicorn: logging, signals, drain."""

import logging
import signal
import socket
from urllib.parse import urlunsplit

import uvicorn

from reward_service.app import create_app
from reward_service.process import configure_logging
from reward_service.service import Service
from reward_service.settings import Settings

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection, so that none is closed under a new request."""


class DrainingServer(uvicorn.Server):
    """A server that stops being ready before it stops listening."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`; runs on the event loop, not in the signal handler."""
        logger.info("draining")
        self._service.drain()
        await super().shutdown(sockets)


def serve(settings: Settings, listening: socket.socket) -> Exception | None:
    """Serve until a signal or a failure; returns what went wrong, if anything did."""
    configure_logging(settings.log_level)

    def on_failure(_: Exception) -> None:
        server.should_exit = True

    app = create_app(settings, on_failure=on_failure)
    service: Service = app.state.service
    server = DrainingServer(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        ),
        service,
    )
    # uvicorn sends a signal it handled to itself once more at the end. A drain that answered
    # everyone is a success, so that second one must not kill the process.
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, lambda *_: None)
    host, port = listening.getsockname()[:2]
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    logger.info("listening", extra={"url": urlunsplit(("http", place, "", "", ""))})
    server.run(sockets=[listening])
    return service.failure
