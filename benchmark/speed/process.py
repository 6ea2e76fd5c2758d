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
    """Let the process's peak start again at what it holds now; false where Linux does not say."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def memory_bytes(pid: int) -> tuple[int, int] | None:
    """Resident memory now, and its peak; `None` where there is no /proc."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    now, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


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
