"""The device under measurement: clock, memory and who it is. Works on a CPU too, to be tested."""

import gc
import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

MIN_SECONDS = {"cuda": 0.3, "cpu": 0.01}
"""A timed loop repeats until it takes this long."""

WARM_UPS = 3


def synchronize(device: torch.device) -> None:
    """Wait for everything that was asked of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_each(work: Callable[[], object], device: torch.device) -> float:
    """Time of one call, back to back with others, by the device's own clock."""
    for _ in range(WARM_UPS):
        work()
    synchronize(device)
    repeats = 1
    while True:
        seconds = _seconds(work, device, repeats=repeats)
        if seconds >= MIN_SECONDS.get(device.type, 0.1):
            return seconds / repeats
        repeats *= 4


def _seconds(work: Callable[[], object], device: torch.device, *, repeats: int) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        synchronize(device)
        return time.perf_counter() - started
    start, stop = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    start.record()
    for _ in range(repeats):
        work()
    stop.record()
    stop.synchronize()
    milliseconds: float = start.elapsed_time(stop)
    return milliseconds / 1000


def release_memory(device: torch.device) -> None:
    """Give back what nothing refers to any more; a model's parts refer to each other."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def start_peak_memory(device: torch.device) -> None:
    """Forget what was the most so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int | None:
    """Most that tensors took since `start_peak_memory`; not known of a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def free_memory_bytes(device: torch.device) -> int:
    """What is left, on the device itself."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def out_of_memory_events(device: torch.device) -> int | None:
    """How often memory ran out since the process began; the runner recovers and tells nobody."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.memory_stats(device).get("num_ooms", 0))


def environment(device: torch.device) -> dict[str, Any]:
    """Facts that a reader needs to judge a number; no path and no name of a machine."""
    facts: dict[str, Any] = {
        "device": device.type,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "numpy")},
        "commit": _output("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["gpu"] = {
            "name": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "driver": _output(
                "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"
            ),
        }
    return facts


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
