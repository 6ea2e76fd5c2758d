"""Settings of a whole process: its log, the memory it has freed, the threads that wait.

Set once, by whoever starts a process, before other threads start and before torch is imported.
"""

import ctypes
import logging
import os
import sys

from pythonjsonlogger.json import JsonFormatter

SPIN_COUNT = "2000"
"""How often an idle thread of a parallel loop looks for work before it sleeps. By libgomp's own
default it looks for milliseconds: with more busy threads than cores, those that have work then wait
for those that have none."""

# From malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_LARGEST_INT = 2**31 - 1


def prepare_for_inference() -> None:
    """What a process that runs models on a CPU needs; does nothing that the user set otherwise."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    if not any(name.startswith("MALLOC_") for name in os.environ):
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Keep what a forward pass frees for the next one, instead of handing it to the kernel.

    glibc maps every tensor of more than 32 MiB anew and trims its heaps: page faults took up to a
    third of the time of large batches (docs/experiments.md). The process stays as large as its
    largest batch. Elsewhere than on Linux with glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)


def configure_logging(level: str) -> None:
    """One JSON line per event on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger", "message": "event"},
            timestamp="time",
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "uvicorn.error", "stamina"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, getattr(logging, level.upper())))
