"""The directory of one run: what it is a run of, its lines, and the documents beside them."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic

from reward_benchmark.errors import RunDirectoryError
from reward_benchmark.journal import Journal, R, write_atomically
from reward_benchmark.json_text import decoded

FORMAT = 2
"""Version of these files; a run is continued only in its own."""

IDENTITY_FILE = "run.json"
SCORES_FILE = "scores.jsonl"
RESULTS_FILE = "results.json"
REWARDBENCH_FILE = "rewardbench.json"


Identity = Mapping[str, Any]
"""What must be equal for one command to continue what another began, as JSON: which command, on
what, by whom and how, as far as that changes the lines."""


class RunDirectory(Generic[R]):
    """A directory with an identity, one journal, and documents."""

    def __init__(self, path: Path, journal: Journal[R]) -> None:
        self.path = path
        self.journal = journal

    def write(self, name: str, document: Mapping[str, Any] | list[Any]) -> None:
        """Write a JSON document, whole or not at all."""
        text = json.dumps(document, indent=2, allow_nan=False)
        write_atomically(self.path / name, [text.encode() + b"\n"])

    def settle(self, identity: Identity) -> None:
        """Write the identity of a new run, or compare that of an old one.

        Raises:
            RunDirectoryError: the directory holds another run.
        """
        file = self.path / IDENTITY_FILE
        wanted = {"format": FORMAT, **identity}
        if not file.exists():
            # A kill leaves hidden files of ours; folders are of other runs.
            foreign = sorted(
                entry.name
                for entry in self.path.iterdir()
                if not entry.name.startswith(".") and not entry.is_dir()
            )
            if foreign:
                raise RunDirectoryError(
                    f"{self.path} holds {foreign[0]} but no {IDENTITY_FILE} that says of what: "
                    "choose another --out"
                )
            self.write(IDENTITY_FILE, wanted)
            return
        recorded = read_identity(self.path)
        for field in wanted | recorded:
            if recorded.get(field) != wanted.get(field):
                name, before, now = _difference(field, recorded.get(field), wanted.get(field))
                raise RunDirectoryError(
                    f"{self.path} holds a run with {name} {json.dumps(before)}, but this one has "
                    f"{json.dumps(now)}: choose another --out"
                )


def _difference(name: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """The first part in which two unlike values of a name differ, and what it is in each."""
    if isinstance(before, dict) and isinstance(now, dict):
        for part in now | before:
            if before.get(part) != now.get(part):
                return _difference(f"{name} {part}", before.get(part), now.get(part))
    return name, before, now


def read_identity(path: Path) -> dict[str, Any]:
    """The identity of the run in a directory, which must be of this version.

    Raises:
        RunDirectoryError: there is none, or one of another version.
    """
    file = path / IDENTITY_FILE
    try:
        recorded = decoded(file.read_bytes())
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{path} holds no run: {IDENTITY_FILE} is missing") from error
    except ValueError:
        recorded = None
    if not isinstance(recorded, dict) or "format" not in recorded:
        raise RunDirectoryError(f"{file} is not the identity of a run: choose another --out")
    if recorded["format"] != FORMAT:
        raise RunDirectoryError(
            f"{path} holds a run of format {recorded['format']}, but this version of "
            f"reward-benchmark reads and writes format {FORMAT}: run again into another --out, or "
            "use the version that wrote it"
        )
    return recorded


@contextmanager
def held(path: Path) -> Iterator[None]:
    """A directory, made where there is none, while no other process uses it.

    Raises:
        RunDirectoryError: the directory is in use.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunDirectoryError(f"{path} is in use by another process") from error
        yield
    finally:
        os.close(lock)


@contextmanager
def open_run(path: Path, identity: Identity, journal: Journal[R]) -> Iterator[RunDirectory[R]]:
    """Begin or continue a run in a directory that no other process uses meanwhile.

    Args:
        journal: of the lines, a file in the directory.

    Raises:
        RunDirectoryError: the directory is in use, or holds another run.
    """
    with held(path):
        run = RunDirectory(path, journal)
        run.settle(identity)
        journal.load()
        journal.summary = path / RESULTS_FILE
        yield run
