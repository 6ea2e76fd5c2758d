"""What became of the models: one row each, kept in the matrix's directory."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from reward_benchmark.errors import RunDirectoryError
from reward_benchmark.journal import write_atomically
from reward_benchmark.json_text import decoded
from reward_benchmark.matrix.model import Model

FORMAT = 1
"""Version of these files."""

ROWS_FILE = "rows.json"
ROW_FILE = "row.json"

Status = Literal["finished", "failed", "unfinished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The numbers of one finished run."""

    dataset: str
    options: list[str]
    out: str
    """The run's folder in that of the model."""
    overall: float | None
    sections: dict[str, float]
    groups: int | None
    errors: int | None
    """Groups that have no scores."""
    seconds: float
    incomplete: list[str] = field(default_factory=list)
    """Why the numbers are not those of a whole set."""


@dataclass(slots=True, kw_only=True)
class Row:
    """One model."""

    name: str
    settings: dict[str, str]
    status: Status = "unfinished"
    reason: str | None = None
    """Why it failed."""
    results: list[Result] = field(default_factory=list)
    """Of the runs that have finished, with these settings."""
    seconds: float = 0.0
    """How long the last attempt took, with the service's start."""

    def result(self, dataset: str, options: Sequence[str]) -> Result | None:
        """The result of a run that has finished, if one has."""
        for result in self.results:
            if (result.dataset, result.options) == (dataset, list(options)):
                return result
        return None


class Rows:
    """The rows of a matrix, in the order of its models.

    A result counts only for the very settings and options that it was made with. With others its
    run is begun again, and `reward-benchmark run` decides whether it may go on in the same folder.

    Raises:
        RunDirectoryError: the directory holds something else.
    """

    def __init__(self, out: Path, models: Sequence[Model]) -> None:
        self._out = out
        if (out / ROWS_FILE).exists():
            _recorded(out / ROWS_FILE)
        self.rows = [self._row(model) for model in models]

    def folder(self, row: Row) -> Path:
        """Where everything of a model is kept."""
        return self._out / row.name

    def keep(self, row: Row) -> None:
        """Write down what is known of one model."""
        self.folder(row).mkdir(parents=True, exist_ok=True)
        _write(self.folder(row) / ROW_FILE, {"format": FORMAT, **asdict(row)})

    def document(self) -> dict[str, Any]:
        """All rows; whatever in them is a time is called `seconds`."""
        return {"format": FORMAT, "rows": [asdict(row) for row in self.rows]}

    def keep_all(self) -> None:
        """Write `rows.json`."""
        _write(self._out / ROWS_FILE, self.document())

    def _row(self, model: Model) -> Row:
        row = Row(name=model.name, settings=dict(model.settings))
        folder = self._out / model.name
        if not folder.exists() or not any(folder.iterdir()):
            return row
        file = folder / ROW_FILE
        if not file.exists():
            raise RunDirectoryError(
                f"{folder} holds something else than a matrix's results: give the model another "
                "`name`, or choose another --out"
            )
        recorded = _recorded(file)
        try:
            if recorded["settings"] == row.settings:
                row.results = [Result(**result) for result in recorded["results"]]
                row.status, row.reason = recorded["status"], recorded["reason"]
                row.seconds = recorded["seconds"]
        except (KeyError, TypeError) as error:
            raise RunDirectoryError(
                f"{file} is not the row of a model: choose another --out"
            ) from error
        row.results = [result for result in row.results if (folder / result.out).is_dir()]
        return row


def _recorded(file: Path) -> dict[str, Any]:
    try:
        document = decoded(file.read_bytes())
    except ValueError:
        document = None
    if not isinstance(document, dict) or "format" not in document:
        raise RunDirectoryError(f"{file} is not a matrix's: choose another --out")
    if document["format"] != FORMAT:
        raise RunDirectoryError(
            f"{file} is of format {document['format']}, but this version of reward-benchmark reads "
            f"and writes format {FORMAT}: choose another --out"
        )
    return document


def _write(file: Path, document: Mapping[str, Any]) -> None:
    write_atomically(file, [json.dumps(document, indent=2, allow_nan=False).encode() + b"\n"])
