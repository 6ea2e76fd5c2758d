"""What the operating system says about a process, and programs that listen on a port."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

START_SECONDS = 180
STOP_SECONDS = 30


def reset_peak_memory(pid: int) -> bool:
    """Let the peak of a process and its children start again; false where Linux does not say."""
    try:
        for one in _family(pid):
            Path(f"/proc/{one}/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def memory_bytes(pid: int) -> tuple[int, int] | None:
    """Resident memory now and its peak, of a process and its children; `None` without /proc."""
    now = peak = 0
    try:
        for one in _family(pid):
            status = Path(f"/proc/{one}/status").read_text()
            fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            now += int(fields["VmRSS"].split()[0]) * 1024
            peak += int(fields["VmHWM"].split()[0]) * 1024
    except OSError:
        return None
    return now, peak


def _family(pid: int) -> list[int]:
    """The process and all that it started, directly or not."""
    family = [pid]
    for one in family:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            family += map(int, children.read_text().split())
    return family


class Server:
    """A Python program that serves HTTP, from its start to its end.

    Args:
        module: started as `python -m module ARGUMENTS --port PORT`.
        ready_path: answered with any status below 500 once the program can work.
    """

    def __init__(self, module: str, arguments: Sequence[str], *, ready_path: str) -> None:
        self._module = module
        port = _free_port()
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._ready_url = self.url + ready_path
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by stop)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, "--port", str(port)],
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def pid(self) -> int:
        """The program's process."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Return once it works.

        Raises:
            RuntimeError: it ended, or took too long; with its log.
        """
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return
            time.sleep(0.1)
        self._log.seek(0)
        raise RuntimeError(f"{self._module} did not become ready:\n{self._log.read()}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self._ready_url, timeout=1):
                return True
        except urllib.error.HTTPError as error:
            with error:
                return error.code < 500
        except OSError:
            return False

    def stop(self) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def drop_settings_from_environment() -> None:
    """Only what the benchmark passes counts: `REWARD_*` variables would change the service."""
    for name in [name for name in os.environ if name.startswith("REWARD_")]:
        del os.environ[name]
