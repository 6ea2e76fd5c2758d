"""What the routes work with: the loaded model and its engine, or the reason there is none yet."""

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import TypeVar

from reward_client.schema import Limits, ModelIdentity
from reward_service.engine import Engine
from reward_service.errors import NotReadyError, StartupError
from reward_service.loading import LoadedModel, load_model
from reward_service.metrics import Metrics
from reward_service.model_process import ModelProcess, load_in_own_process
from reward_service.scheduler import Scheduler
from reward_service.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Service:
    """One model on one machine, from loading to draining."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.failure: Exception | None = None
        """Why the service must end, once it must."""
        self._loaded: LoadedModel | None = None
        self._engine: Engine | None = None
        self._is_draining = False

    async def run(self) -> None:
        """Load the model and compute until `stop`; returns early only with `failure` set."""
        started = time.monotonic()
        try:
            loaded = await _in_daemon_thread(lambda: _load(self.settings))
        except StartupError as error:
            self.failure = error
            return
        self._loaded = loaded
        self._engine = Engine(
            loaded.encoder,
            loaded.runner,
            Scheduler(
                max_batch_tokens=loaded.max_batch_tokens,
                max_queue_tokens=self.settings.max_queue_tokens,
            ),
            max_concurrent_requests=self.settings.max_concurrent_requests,
            observer=self.metrics,
        )
        description = {
            "model_id": loaded.model_id,
            "revision": loaded.revision or "",
            "kind": loaded.kind,
            "dtype": loaded.dtype,
            "device": loaded.device,
            "fingerprint": loaded.fingerprint,
            "runner": loaded.path,
            "reference": loaded.reference.model_id if loaded.reference else "",
        }
        self.metrics.set_model(description)
        computing = self._engine.start()
        if self._is_draining:
            self._engine.refuse_new_work()
        self.metrics.set_ready(ready=self.is_ready)
        logger.info(
            "ready",
            extra={**description, "loading_seconds": round(time.monotonic() - started, 3)},
        )
        reason = await self._broken(computing, loaded)
        if reason is not None:
            logger.error("the engine broke", exc_info=reason)
            self.failure = RuntimeError(f"the engine broke: {reason}")
            self.metrics.set_ready(ready=False)

    async def _broken(
        self, computing: asyncio.Task[None], loaded: LoadedModel
    ) -> BaseException | None:
        """Wait until the engine ends; returns why, unless it was asked to."""
        if not isinstance(loaded.runner, ModelProcess):
            await asyncio.wait([computing])
            return computing.exception()
        # Nobody may be asking when the model's process dies: it is watched.
        loop = asyncio.get_running_loop()
        died = asyncio.Event()
        loop.add_reader(loaded.runner.sentinel, died.set)
        watching = asyncio.create_task(died.wait())
        try:
            await asyncio.wait([computing, watching], return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(loaded.runner.sentinel)
            watching.cancel()
        if computing.done():
            return computing.exception()
        computing.cancel()
        await asyncio.wait([computing])
        return loaded.runner.ended()

    def drain(self) -> None:
        """Stop being ready; what was admitted is still computed."""
        self._is_draining = True
        self.metrics.set_ready(ready=False)
        if self._engine is not None:
            self._engine.refuse_new_work()

    async def stop(self) -> None:
        """Finish what was admitted and end the threads, and the model's process."""
        self.drain()
        if self._engine is not None:
            await self._engine.stop()
        if self._loaded is not None:
            await asyncio.to_thread(self._loaded.runner.stop)

    @property
    def is_ready(self) -> bool:
        """Whether a request sent now would be scored."""
        return not self._is_draining and self._engine is not None and self._engine.is_alive

    @property
    def loaded(self) -> LoadedModel:
        """The model.

        Raises:
            NotReadyError: it is still loading.
        """
        if self._loaded is None:
            raise NotReadyError("the model is still loading", retry_after_seconds=1.0)
        return self._loaded

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            NotReadyError: the model is still loading, or the service drains.
        """
        if self._engine is None:
            raise NotReadyError("the model is still loading", retry_after_seconds=1.0)
        if not self.is_ready:
            raise NotReadyError("the service is stopping", retry_after_seconds=1.0)
        return self._engine

    @cached_property
    def identity(self) -> ModelIdentity:
        """The model as every answer names it.

        Raises:
            NotReadyError: it is still loading.
        """
        loaded = self.loaded
        return ModelIdentity(
            id=loaded.model_id,
            revision=loaded.revision,
            kind=loaded.kind,
            dtype=loaded.dtype,
            fingerprint=loaded.fingerprint,
        )

    def limits(self) -> Limits:
        """The limits in force."""
        loaded, settings = self.loaded, self.settings
        return Limits(
            max_input_tokens=loaded.max_input_tokens,
            max_batch_tokens=loaded.max_batch_tokens,
            max_client_batch_size=settings.max_client_batch_size,
            max_queue_tokens=settings.max_queue_tokens,
            max_concurrent_requests=settings.max_concurrent_requests,
            max_request_bytes=settings.max_request_bytes,
            request_timeout_seconds=settings.request_timeout_seconds,
        )


def _load(settings: Settings) -> LoadedModel:
    loaded = load_in_own_process(settings) if settings.model_process else load_model(settings)
    # Modules and model live as long as the process. Looking through their million objects once
    # more stops every request for 200 ms, several times a minute.
    gc.collect()
    gc.freeze()
    return loaded


async def _in_daemon_thread(work: Callable[[], T]) -> T:
    """The result of blocking work that must not keep a stopping process alive.

    A large model loads for minutes; a SIGTERM meanwhile should end the process at once.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def deliver(value: T | None, error: Exception | None) -> None:
        if result.done():
            return
        if error is None:
            result.set_result(value)  # type: ignore[arg-type]
        else:
            result.set_exception(error)

    def run() -> None:
        value, error = None, None
        try:
            value = work()
        except Exception as caught:  # noqa: BLE001 - handed to whoever awaits
            error = caught
        except BaseException as caught:  # noqa: BLE001 - a panic of a Rust library, for one
            error = RuntimeError(f"{type(caught).__name__}: {caught}")
        with suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(deliver, value, error)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return await result
