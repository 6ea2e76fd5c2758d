"""What a process sets for itself before it computes: spinning, freed memory, its log."""

import ctypes
import json
import os
import platform
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from reward_service import process
from reward_service.process import SPIN_COUNT, prepare_for_inference

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""As in malloc.h."""

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


def _in_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, whose user has set nothing but this."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GOMP_"))
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**inherited, **environment},
        check=True,
    )


@pytest.fixture(autouse=True)
def _users_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    # Set first, so that what a test sets is taken back whatever it was.
    monkeypatch.setenv("GOMP_SPINCOUNT", "")
    monkeypatch.delenv("GOMP_SPINCOUNT")


@pytest.fixture
def mallopt_calls(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """What was asked of `mallopt`, which does nothing."""
    calls: dict[int, int] = {}
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=calls.__setitem__))
    return calls


# -------------------------------------------------------------------------------- spinning


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings libgomp on Linux")
def test_torch_sees_the_spin_count_that_the_user_has_set() -> None:
    code = (
        "from reward_service.process import prepare_for_inference\n"
        "prepare_for_inference()\n"
        "import torch._C\n"
    )
    # libgomp prints what it has read when it is loaded; ours is read so in test_model_process.py.
    done = _in_python(code, OMP_DISPLAY_ENV="VERBOSE", GOMP_SPINCOUNT="77")
    assert "GOMP_SPINCOUNT = '77'" in done.stderr


# ---------------------------------------------------------------------------------- memory


def test_freed_memory_is_asked_to_be_kept(mallopt_calls: dict[int, int]) -> None:
    prepare_for_inference()
    assert mallopt_calls == {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_"])
def test_a_user_who_tunes_malloc_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, mallopt_calls: dict[int, int], name: str
) -> None:
    monkeypatch.setenv(name, "4")
    prepare_for_inference()
    assert mallopt_calls == {}
    assert os.environ["GOMP_SPINCOUNT"] == SPIN_COUNT


def _no_library(_: object) -> Any:
    raise OSError("no such library")


def _no_default_library(_: object) -> Any:
    raise TypeError("expected str, bytes or os.PathLike object, not NoneType")  # Windows says so


def _library_without_it(_: object) -> Any:
    return object()


@pytest.mark.parametrize("library", [_no_library, _no_default_library, _library_without_it])
def test_a_platform_without_mallopt_serves_all_the_same(
    monkeypatch: pytest.MonkeyPatch, library: Any
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", library)
    process.prepare_for_inference()
    assert os.environ["GOMP_SPINCOUNT"] == SPIN_COUNT


ALLOCATE_AND_FREE = """
from pathlib import Path
from reward_service.process import prepare_for_inference

def resident() -> int:
    [line] = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x]
    return int(line.split()[1]) // 1024

prepare_for_inference()
before = resident()
memory = bytearray(b"x") * (128 * 1024 * 1024)
assert resident() > before + 100
del memory
print(resident() - before)
"""


@needs_glibc
def test_freed_memory_stays_with_the_process_unless_the_user_tunes_malloc() -> None:
    assert int(_in_python(ALLOCATE_AND_FREE).stdout) > 100
    assert int(_in_python(ALLOCATE_AND_FREE, MALLOC_ARENA_MAX="2").stdout) < 30


# ------------------------------------------------------------------------------------- log

LOG = """
import logging
from reward_service.process import configure_logging

configure_logging("info")
configure_logging("LEVEL")
for name in ("reward_service.engine", "httpx"):
    for level in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger(name), level)("%s of\\n%s", level, name, extra={"groups": 3})
"""


@pytest.mark.parametrize(
    ("level", "ours", "theirs"),
    [
        ("debug", ["DEBUG", "INFO", "WARNING", "ERROR"], ["WARNING", "ERROR"]),
        ("info", ["INFO", "WARNING", "ERROR"], ["WARNING", "ERROR"]),
        ("error", ["ERROR"], ["ERROR"]),
    ],
)
def test_the_log_is_one_json_line_per_event_on_stderr(
    level: str, ours: list[str], theirs: list[str]
) -> None:
    done = _in_python(LOG.replace("LEVEL", level))
    assert done.stdout == ""
    events = [json.loads(line) for line in done.stderr.splitlines()]
    for logger, levels in {"reward_service.engine": ours, "httpx": theirs}.items():
        of_logger = [event for event in events if event["logger"] == logger]
        assert [event["level"] for event in of_logger] == levels
        assert all(
            event["event"] == f"{event['level'].lower()} of\n{logger}"
            and event["groups"] == 3
            and "T" in event["time"]
            for event in of_logger
        )
