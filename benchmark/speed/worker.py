"""An object in a process of its own, so that memory and threads of contenders stay apart."""

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

STOP_SECONDS = 60


class Worker:
    """Makes an object in a new process and calls its methods there.

    Args:
        make: a picklable function without arguments.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        # Not forked: a copy of a process with threads of torch's in it may hang.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_obey, args=(theirs, make))
        self._process.start()
        theirs.close()

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """The method's result.

        Raises:
            RuntimeError: the method raised, or the process ended; with the other side's traceback.
        """
        self._pipe.send((method, args, kwargs))
        try:
            succeeded, result = self._pipe.recv()
        except EOFError:
            self._process.join(STOP_SECONDS)
            raise RuntimeError(
                f"the process of {method} ended with status {self._process.exitcode}"
            ) from None
        if not succeeded:
            raise RuntimeError(f"{method} failed in its process:\n{result}")
        return result

    def close(self) -> None:
        """End the process; the object's `stop` is called in it."""
        self._pipe.close()
        self._process.join(STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _obey(pipe: Connection, make: Callable[[], Any]) -> None:
    made = make()
    try:
        # The end of the pipe, orderly or not, is the end of this process.
        while True:
            method, args, kwargs = pipe.recv()
            try:
                answer = True, getattr(made, method)(*args, **kwargs)
            except Exception:  # noqa: BLE001 (it is raised again on the other side)
                answer = False, traceback.format_exc()
            pipe.send(answer)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass
    finally:
        made.stop()


class Here:
    """A `Worker` without a process: for a test that should not take a minute."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._made = make()

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `Worker`."""
        return getattr(self._made, method)(*args, **kwargs)

    def close(self) -> None:
        """See `Worker`."""
        self._made.stop()
