"""Fixtures shared by all tests: real services with tiny models, and the models themselves."""

import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

# Before anything imports a hub client: no test may reach the network or the user's cache.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="rewardserve-tests-")
for _name in [name for name in os.environ if name.startswith("REWARD_")]:
    del os.environ[_name]

# A shell's background jobs are born deaf to Ctrl-C, and so would be every process that a test
# starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

import httpx
import pytest
import uvicorn

from reward_service.app import create_app
from reward_service.debug_model import write_debug_model
from reward_service.settings import Settings

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@contextmanager
def running_service(**settings: object) -> Iterator[str]:
    """A real uvicorn in a thread on a free loopback port, ready to score; yields its URL."""
    failures: list[Exception] = []
    app = create_app(
        Settings(**{"model_id": "debug", "port": 0, "model_process": False, **settings}),
        on_failure=failures.append,
    )
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        with httpx.Client() as client:
            while not failures:  # a tiny model loads faster than clients ask again
                with suppress(httpx.TransportError):
                    if client.get(f"{url}/ready").is_success:
                        break
                time.sleep(0.01)
        assert not failures
        yield url
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def service_url() -> Iterator[str]:
    """One service with the debug model, shared by all tests that only need answers."""
    with running_service() as url:
        yield url


@pytest.fixture
def start_service() -> Iterator[Callable[..., str]]:
    """Starts services with settings of the test's own; they stop with the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running_service(**settings))


@pytest.fixture(scope="session")
def debug_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The debug model in a folder of its own."""
    folder = tmp_path_factory.mktemp("models") / "debug"
    write_debug_model(folder)
    return folder


@pytest.fixture(scope="session")
def debug_dpo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The debug policy and its reference, in folders inside; who changes them makes copies."""
    folder = tmp_path_factory.mktemp("models") / "dpo"
    write_debug_model(folder, kind="dpo")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout, where it is there."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs ../shared/data beside the checkout")
    return SHARED_DATA
