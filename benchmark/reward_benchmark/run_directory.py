"""The files of one run, written so that a kill at any moment loses nothing that was finished."""

import fcntl
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from reward_benchmark.errors import RunDirectoryError
from reward_benchmark.outcome import Outcome, outcome_from_line
from reward_benchmark.pair import Key, Pair

FORMAT = 1
"""Version of these files; a run is continued only in its own."""

IDENTITY_FILE = "run.json"
SCORES_FILE = "scores.jsonl"
RESULTS_FILE = "results.json"
REWARDBENCH_FILE = "rewardbench.json"

_NO_LINE = -1
"""In place of the offset of a pair that has no line yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """What must be equal for one command to continue what another began."""

    format: int = FORMAT
    dataset: str
    dataset_sha256: str
    subsets: list[str] | None
    limit: int | None
    scorer: str
    truncation: str
    fingerprint: str | None
    """Of the model; `None` where no service scores."""


class RunDirectory:
    """The lines of one run, found by pair, and the documents beside them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scored = 0
        """Pairs that have scores: the same command would not ask for them again."""
        self._scores = path / SCORES_FILE
        self._offsets: dict[Key, int] = {}
        self._lines = 0
        self._end = 0

    def load(self) -> None:
        """Learn which pairs have scores, and drop a last line that a kill cut short.

        A line with an error counts as absent, so that its pair is tried again.
        """
        if not self._scores.exists():
            return
        with self._scores.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self._lines += 1
                outcome = self._parsed(line)
                if outcome.error is None:
                    self._offsets[sys.intern(outcome.subset), outcome.id] = self._end
                self._end += len(line)
        if self._end < self._scores.stat().st_size:
            os.truncate(self._scores, self._end)
        self.scored = len(self._offsets)

    def missing(self, pairs: Iterable[Pair]) -> Iterator[Pair]:
        """The pairs without scores; all pairs of the run must pass here, once and in order.

        That puts the index into the dataset's order, which saves reading the dataset again.
        """
        for pair in pairs:
            offset = self._offsets.pop(pair.key, _NO_LINE)
            self._offsets[pair.key] = offset
            if offset == _NO_LINE:
                yield pair

    def append(self, outcome: Outcome) -> None:
        """Hand a line to the operating system: from then on not even SIGKILL loses it."""
        line = outcome.line()
        with self._scores.open("ab") as file:
            file.write(line)
        self._offsets[outcome.key] = self._end
        self._end += len(line)
        self._lines += 1
        self.scored += outcome.error is None

    def sort(self) -> None:
        """Bring the lines of a complete run into the dataset's order, one a pair."""
        offsets = list(self._offsets.values())
        if len(offsets) == self._lines and offsets == sorted(offsets):
            return
        with self._scores.open("rb") as unsorted:
            _write_atomically(self._scores, (_line_at(unsorted, offset) for offset in offsets))

    def outcomes(self) -> Iterator[Outcome]:
        """What every line says, in the order of the file."""
        with self._scores.open("rb") as lines:
            yield from map(outcome_from_line, lines)

    def write(self, name: str, document: Mapping[str, Any]) -> None:
        """Write a JSON document, whole or not at all."""
        text = json.dumps(document, indent=2, allow_nan=False)
        _write_atomically(self.path / name, [text.encode() + b"\n"])

    def settle(self, identity: RunIdentity) -> None:
        """Write the identity of a new run, or compare that of an old one.

        Raises:
            RunDirectoryError: the directory holds another run.
        """
        file = self.path / IDENTITY_FILE
        wanted = asdict(identity)
        if not file.exists():
            if self._scores.exists():
                raise RunDirectoryError(
                    f"{self.path} holds {SCORES_FILE} but no {IDENTITY_FILE} that says of what: "
                    "choose another --out"
                )
            self.write(IDENTITY_FILE, wanted)
            return
        recorded = self._recorded(file)
        for field in wanted | recorded:
            if recorded.get(field) != wanted.get(field):
                raise RunDirectoryError(
                    f"{self.path} holds a run with {field} {json.dumps(recorded.get(field))}, but "
                    f"this one has {json.dumps(wanted.get(field))}: choose another --out"
                )

    def _recorded(self, file: Path) -> dict[str, Any]:
        try:
            recorded = json.loads(file.read_bytes())
        except ValueError:
            recorded = None
        if not isinstance(recorded, dict):
            raise RunDirectoryError(f"{file} is not the identity of a run: choose another --out")
        return recorded

    def _parsed(self, line: bytes) -> Outcome:
        try:
            return outcome_from_line(line)
        except ValueError as error:
            raise RunDirectoryError(
                f"{self._scores}, line {self._lines}, is not the outcome of a pair: "
                "delete that line to have its pair scored again, or choose another --out"
            ) from error


@contextmanager
def open_run(path: Path, identity: RunIdentity) -> Iterator[RunDirectory]:
    """Begin or continue a run in a directory that no other process uses meanwhile.

    Raises:
        RunDirectoryError: the directory is in use, or holds another run.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunDirectoryError(f"{path} is in use by another process") from error
        run = RunDirectory(path)
        run.settle(identity)
        run.load()
        yield run
    finally:
        os.close(lock)


def _line_at(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return file.readline()


def _write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Replace a file in one step, so that a reader or a kill never meets half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.writelines(chunks)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
